"""A latency that is asked for: predicted from layers, corrected by measuring, honestly refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stairs_backend
from onnxprune import model as models
from onnxprune import prune
from onnxprune.config import Options, from_flags
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate import latency as measure
from onnxprune.evaluate.protocol import Settings
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.plan import load_plan
from onnxprune.graph.shapes import propagate
from onnxprune.graph.surgery import cut
from onnxprune.jobs.choose_plan import limits_of
from onnxprune.jobs.results.gather import point_rows
from onnxprune.runtime.registry import Backend, backend
from onnxprune.select.allocate import CandidateWidths
from onnxprune.select.importance.units import Problem, score_groups
from onnxprune.select.latency import budget
from onnxprune.select.latency.predict import Predictor
from onnxprune.select.latency.root_finding import Try, find_root
from onnxprune.select.latency.segments import costly_nodes, segments
from onnxprune.select.latency.subgraph import copies_of, extract_subgraph
from onnxprune.select.latency.table import Table, keep_table, open_table
from onnxprune.select.selection import allowed_widths, narrowest

QUICK = Settings(processes=1, rounds=2, slice_s=0.001, warm_s=0.01)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package of the plug-in, as pip would leave it."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(stairs_backend.__file__, folder)
    about = folder / "stairs-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: stairs\nVersion: 1.0\n")
    points = "[onnxprune.backends]\nstairs = stairs_backend:BACKEND\n"
    (about / "entry_points.txt").write_text(points)
    return folder


@pytest.fixture
def stairs(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """The plug-in, found by this process and by those it starts."""
    monkeypatch.syspath_prepend(plugin)
    monkeypatch.setenv("PYTHONPATH", str(plugin))
    monkeypatch.setattr(budget, "AIMING", QUICK)
    monkeypatch.setattr(budget, "FINAL", QUICK)
    return backend("stairs")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def rescnn() -> Analysis:
    return analyse(models.load(zoo.get("digits_rescnn").model))


def asked(**flags: object) -> Options:
    return from_flags({"target": "latency=0.5x", **flags})


def problem(analysis: Analysis, options: Options) -> Problem:
    return Problem(analysis, options, limits_of(analysis, options))


def timed(analysis: Analysis, options: Options) -> tuple[CandidateWidths, Predictor]:
    """Candidate widths, and what the plug-in says they take."""
    asked = problem(analysis, options)
    widths = allowed_widths(asked, score_groups(asked))
    shapes = {name: (1, *shape[1:]) for name, shape in analysis.inputs[0].items()}
    return widths, Predictor(analysis, Table(stairs_backend.BACKEND, 1), shapes, widths)


@pytest.fixture(scope="module")
def predicted(rescnn: Analysis) -> tuple[CandidateWidths, Predictor]:
    return timed(rescnn, asked(round_to=4))  # the plug-in's steps are of 8


# -- segments ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits_rescnn", "digits_encoder", "digits_lstm"])
def test_every_node_that_runs_is_in_one_segment_and_segments_run_alone(name: str) -> None:
    analysis = analyse(models.load(zoo.get(name).model))
    facts = propagate(analysis.model, analysis.inputs[0])
    found = segments(analysis.model, facts, costly_nodes(analysis))
    nodes = [node for segment in found for node in segment.nodes]
    assert len(nodes) == len(set(nodes))
    assert {n for n in analysis.model.ir.graph if n.op_type in ("Conv", "Gemm", "MatMul")} <= {
        *nodes
    }
    tried = 0
    for segment in found:
        one = extract_subgraph(analysis.model, facts, segment)
        assert one is not None
        proto, shapes = copies_of(one, 2)
        runner = backend("cpu").open(models.load(proto), threads=1)
        made = runner.run(
            {
                s.name: np.ones(shapes[s.name], s.dtype) * (s.dtype.kind == "f")
                for s in runner.inputs
            }
        )
        assert len(made) == 2 * len(segment.outputs)
        tried += 1
    assert tried > 2


def test_a_key_tells_widths_apart_and_equal_layers_not() -> None:
    analysis = analyse(models.load(zoo.get("digits_rescnn").model))
    facts = propagate(analysis.model, analysis.inputs[0])
    found = segments(analysis.model, facts, costly_nodes(analysis))
    keys = [
        one.key for s in found if (one := extract_subgraph(analysis.model, facts, s)) is not None
    ]
    other = {name: (1, *shape[1:]) for name, shape in analysis.inputs[0].items()}
    smaller = propagate(analysis.model, other)
    again = [
        one.key for s in found if (one := extract_subgraph(analysis.model, smaller, s)) is not None
    ]
    assert len(keys) == len(again)
    assert not set(keys) & set(again)  # another batch is another time


# -- prediction --------------------------------------------------------------------------------


def test_a_prediction_is_a_sum_of_positive_times_and_knows_the_lines(
    rescnn: Analysis, predicted: tuple[CandidateWidths, Predictor]
) -> None:
    _, found = predicted
    whole = found.measure()
    assert not found.untimed
    assert whole > 0
    facts = propagate(rescnn.model, {k: (1, *v[1:]) for k, v in rescnn.inputs[0].items()})
    parts = segments(rescnn.model, facts, costly_nodes(rescnn))
    table = Table(stairs_backend.BACKEND, 1)
    alone = [
        one for part in parts if (one := extract_subgraph(rescnn.model, facts, part)) is not None
    ]
    times = [table.seconds(one) for one in alone]
    assert min(times) > 0
    assert whole == pytest.approx(sum(times) * 1e9, rel=1e-6)
    for group in rescnn.groups:
        gone = {group.name: range(len(group) // 2)}
        assert 0 < found.measure(gone) <= whole


def test_what_is_bypassed_takes_no_time(
    rescnn: Analysis, predicted: tuple[CandidateWidths, Predictor]
) -> None:
    _, found = predicted
    block = rescnn.blocks[0].name
    assert 0 < found.measure({}, [block]) < found.measure()


def test_widths_that_are_no_faster_than_larger_ones_are_not_offered(
    predicted: tuple[CandidateWidths, Predictor],
) -> None:
    widths, found = predicted
    left = budget.faster(widths, found)
    checked = in_steps = 0
    for group in left.free:
        offered = left.widths[group].tolist()
        size = left.units[group]
        times = [found.measure({group: range(size - w)}) for w in offered]
        assert times == sorted(set(times))
        for dropped in set(widths.widths[group].tolist()) - set(offered):
            larger = [t for w, t in zip(offered, times, strict=True) if w > dropped]
            assert found.measure({group: range(size - dropped)}) >= min(larger)
            checked += 1
        in_steps += all(w % stairs_backend.BLOCK == 0 for w in offered)
    assert checked
    assert in_steps > len(left.free) / 2  # others are concatenated to what has another size


# -- the table on disk -------------------------------------------------------------------------


def test_times_are_taken_from_disk_the_second_time(rescnn: Analysis, place: Path) -> None:
    facts = propagate(rescnn.model, {k: (1, *v[1:]) for k, v in rescnn.inputs[0].items()})
    parts = segments(rescnn.model, facts, costly_nodes(rescnn))[:3]
    excerpts = [
        one for part in parts if (one := extract_subgraph(rescnn.model, facts, part)) is not None
    ]
    first = open_table(backend("cpu"), 1, keep=True, progress=pytest.fail)
    times = [first.seconds(one) for one in excerpts]
    assert first.timed
    keep_table(first, pytest.fail)
    second = open_table(backend("cpu"), 1, keep=True, progress=pytest.fail)
    assert second.times == first.times
    assert times == [second.seconds(one) for one in excerpts]
    assert not second.timed
    assert not open_table(backend("cpu"), 2, keep=True, progress=pytest.fail).times  # other threads
    (file,) = place.glob("*.latency.jsonl")
    file.write_text(file.read_text()[:-20])
    said: list[str] = []
    assert not open_table(backend("cpu"), 1, keep=True, progress=said.append).times
    assert "ignoring" in said[0]


# -- aiming ------------------------------------------------------------------------------------


@given(
    wanted=st.floats(0.3, 0.95),
    scale=st.floats(0.5, 2.0),
    overhead=st.floats(0, 0.2),
    bend=st.floats(0.7, 1.4),
    step=st.integers(1, 8),
)
def test_aiming_ends_within_the_tolerance_where_a_plan_is(
    wanted: float, scale: float, overhead: float, bend: float, step: int
) -> None:
    whole = 1000

    def takes(predicted: int) -> float:  # monotone, but neither proportional nor linear
        part = predicted / whole
        return scale * (overhead + (1 - overhead) * part**bend)

    def reached(predicted: int) -> float:
        return takes(predicted) / takes(whole) / wanted

    plans = range(200, whole + 1, step)
    tries = find_root(
        Try(whole, whole, 1 / wanted),
        lambda most: max((p for p in plans if p <= most), default=plans[0]),
        lambda plan: plan,
        reached,
    )
    best = min(plans, key=lambda p: abs(reached(p) - 0.98))
    assert len(tries) <= 8
    if 0.97 <= reached(best) <= 1:
        assert 0.95 <= tries[-1].latency <= 1.05
    elif reached(plans[0]) > 1.05:
        assert tries[-1].chosen == plans[0]


def test_what_is_fast_enough_is_left_alone() -> None:
    dense = Try("dense", 100, 0.7)
    assert find_root(dense, pytest.fail, pytest.fail, pytest.fail) == (dense,)  # type: ignore[arg-type]


# -- the whole job -----------------------------------------------------------------------------


def in_parts(small: models.Model, dense: models.Model) -> float:
    return stairs_backend.stated(small) / stairs_backend.stated(dense)


@pytest.mark.parametrize("wanted", [pytest.param(0.75, marks=pytest.mark.heavy), 0.5])
def test_a_relative_latency_is_reached_and_recorded(
    wanted: float, stairs: Backend, tmp_path: Path
) -> None:
    path = zoo.get("digits_rescnn").model
    made = prune(path, target=f"latency={wanted}x@stairs", recover="none", round_to=8)
    assert made.ok
    part = in_parts(made.model, models.load(path))
    assert 0.95 * wanted <= part <= 1.05 * wanted
    (check,) = [c for c in made.checks if c.name == "latency on stairs"]
    assert check.value == pytest.approx(part, rel=1e-6)
    assert check.limit == wanted
    assert made.latency is not None
    assert made.latency.low <= made.latency.ratio <= made.latency.high
    assert any("latency on stairs" in note for note in made.notes)
    assert made.plan.origin.budget == f"latency={wanted:.0%}@stairs"
    made.plan.save(tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json").origin == made.plan.origin


@pytest.mark.heavy
def test_where_the_table_leads_nowhere_multiplications_do(
    stairs: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had found every width but the extremes to be slow."""

    def extremes(widths: CandidateWidths, _predictor: Predictor) -> CandidateWidths:
        return replace(widths, widths={g: w[[0, -1]] for g, w in widths.widths.items()})

    path = zoo.get("digits_rescnn").model
    monkeypatch.setattr(budget, "faster", extremes)
    made = prune(path, target="latency=0.62x@stairs", recover="none", round_to=4)
    assert 0.95 * 0.62 <= in_parts(made.model, models.load(path)) <= 1.05 * 0.62
    assert any("multiply-accumulates did" in note for note in made.notes)


def test_an_absolute_latency_with_data_is_reached(stairs: Backend) -> None:
    entry = zoo.get("digits_rescnn")
    whole = stairs_backend.stated(models.load(entry.model))
    wanted = round(whole * 0.6 * 1e9)
    made = prune(
        entry.model,
        target=f"latency={wanted}ns@stairs",
        calib=str(entry.calibration),
        calib_samples=64,
        recover="none",
        round_to=8,
    )
    assert made.plan.origin.criterion == "elimination"
    assert 0.95 * wanted <= stairs_backend.stated(made.model) * 1e9 <= 1.05 * wanted
    assert made.ok


def test_what_cannot_be_reached_is_refused_with_what_was(
    stairs: Backend, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    model, out = zoo.get("digits_rescnn").model, tmp_path / "out.onnx"
    widths = ("--recover", "none", "--round-to", "8")
    ran = cli("prune", model, "--target", "latency=0.05x@stairs", *widths, "-o", out)
    assert ran.code == 1
    assert not out.exists()
    assert "latency=5%@stairs is not reached" in " ".join(ran.out.split())


@pytest.mark.parametrize(
    ("flags", "said", "hint"),
    [
        ({"target": "latency=1.5x"}, "more than the whole model", "0.5x"),
        ({"target": "latency=5"}, "no unit that fits latency", "5ms"),
        ({"target": "latency=0.5x@"}, "nothing behind the @", "@cpu"),
        ({"target": "macs=50%@cpu"}, "the same everywhere", "leave @cpu out"),
        ({"target": "macs=50%", "threads": 2}, "threads=", "latency"),
    ],
)
def test_latencies_that_mean_nothing_are_refused(
    flags: dict[str, object], said: str, hint: str
) -> None:
    with pytest.raises(OnnxpruneError, match=said) as refusal:
        from_flags(flags)
    assert hint in refusal.value.hint


def test_a_backend_that_is_not_here_names_its_install_line() -> None:
    if backend("dml").available().ok:
        pytest.skip("DirectML is here")
    with pytest.raises(OnnxpruneError, match="dml") as refusal:
        prune(zoo.get("digits_mlp").model, target="latency=0.5x@dml")
    assert backend("dml").install in refusal.value.hint


def test_the_target_names_the_backend_before_the_option_does() -> None:
    assert budget.backend_of(asked(backend="ort-openvino")).name == "ort-openvino"
    plain = asked(backend="cpu")
    assert budget.backend_of(plain).name == "cpu"
    assert budget.backend_of(asked(backend="openvino")).name == "openvino"
    named = replace(plain, target=asked(target="latency=0.5x@openvino").target)
    assert budget.backend_of(named).name == "openvino"


def test_on_onnxruntime_a_narrow_model_is_measured_to_take_less(
    rescnn: Analysis, place: Path
) -> None:
    options = asked()
    importance = score_groups(problem(rescnn, options))
    least = narrowest(allowed_widths(problem(rescnn, options), importance), importance)
    feeds = {k: np.zeros((1, *v[1:]), np.float32) for k, v in rescnn.inputs[0].items()}
    with measure.Stopwatch(backend("cpu"), rescnn.model, feeds, 1) as stopwatch:
        found = stopwatch(cut(rescnn, least.removed), replace(QUICK, rounds=3, slice_s=0.005))
    assert 0 < found.low <= found.ratio <= found.high
    assert found.pruned > 0
    assert found.runs >= 3


@pytest.mark.heavy
def test_the_fastest_model_within_a_drop_is_found(stairs: Backend, place: Path) -> None:
    entry = zoo.get("digits_mlp")
    made = prune(
        entry.model,
        max_drop="20%",
        smallest=f"latency@{stairs.name}",
        calib=zoo.calibration(entry),
        calib_samples=128,
        recover="none",
    )
    assert made.ok
    assert made.latency is not None
    assert made.latency.ratio < 1
    rows = {row.label: row for row in point_rows(made)}
    assert len(rows) == len(made.history)
    assert all(row.latency.keys() == {stairs.name} for row in rows.values())
    (taken,) = [row for row in rows.values() if row.chosen]
    assert taken.latency[stairs.name]["p50_s"] == made.latency.pruned
    better = [
        each.latency.ratio
        for each, row in zip(made.history, rows.values(), strict=True)
        if row.ok and each.latency is not None
    ]
    assert made.latency.ratio == min(better)
