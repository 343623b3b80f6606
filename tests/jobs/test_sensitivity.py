"""Sensitivity sweeps: what a cell is, what is made of many, and how they are shown."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import onnxprune
from conftest import Ran
from onnxprune import model as models
from onnxprune.config import from_flags
from onnxprune.data import zoo
from onnxprune.data.cache import Cache
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.evaluation import Evaluation
from onnxprune.graph.analysis import analyse
from onnxprune.graph.surgery import cut
from onnxprune.jobs.sensitivity.recommend import recommend
from onnxprune.jobs.sensitivity.run import keep_cell, known_cells
from onnxprune.runtime import open_session
from onnxprune.select.importance.measured import interpolate, measured_points, sensitivity_curves
from onnxprune.select.sensitivity import Cell, Sensitivity, Target, load_sensitivity, to_json

Cli = Callable[..., Ran]
ENTRY = zoo.get("digits_mlp")
RATIOS = (0.0, 0.25, 0.75)
DATA: dict[str, Any] = {"calib": str(ENTRY.evaluation), "calib_samples": 160}


@pytest.fixture(scope="module")
def labelled() -> Sensitivity:
    return onnxprune.sensitivity(ENTRY.model, **DATA, labels=str(ENTRY.evaluation), ratios=RATIOS)


def answers(model: models.Model, found: Sensitivity) -> tuple[np.ndarray, np.ndarray]:
    """Classes a model gives to the samples of a sweep, and the right ones."""
    with np.load(ENTRY.evaluation) as held:
        image, label = held["image"], held["label"]
    chosen = np.sort(np.random.default_rng(0).permutation(len(label))[: found.samples])
    scores = open_session(model).run({"image": image[chosen]})["logits"]
    return scores.argmax(1), label[chosen]


def test_every_group_and_weight_has_a_cell_at_every_ratio(labelled: Sensitivity) -> None:
    analysis = analyse(models.load(ENTRY.model))
    names = {row.name for row in labelled.targets}
    assert {g.name for g in analysis.groups} <= names
    assert {f"body.{n}.weight" for n in (1, 4, 7, 10)} <= names
    assert [(c.target, c.ratio) for c in labelled.cells] == [
        (row.name, ratio) for row in labelled.targets for ratio in RATIOS
    ]
    assert not any(cell.reason for cell in labelled.cells)


def test_nothing_removed_is_the_dense_score(labelled: Sensitivity) -> None:
    classes, label = answers(models.load(ENTRY.model), labelled)
    assert labelled.dense == pytest.approx(float((classes == label).mean()))
    for cell in labelled.cells:
        if cell.ratio == 0:
            assert (cell.removed, cell.drop, cell.value) == (0, 0.0, labelled.dense)
            assert cell.kl == pytest.approx(0, abs=1e-9)


def test_a_cell_is_the_score_of_a_model_that_is_cut_apart(labelled: Sensitivity) -> None:
    analysis = analyse(models.load(ENTRY.model))
    for row in (row for row in labelled.targets if row.order):
        cell = next(c for c in labelled.of(row.name) if c.ratio == 0.75)
        assert cell.removed == round(0.75 * row.units)
        small = cut(analysis, {row.name: row.order[: cell.removed]})
        classes, label = answers(small, labelled)
        assert cell.value == pytest.approx(float((classes == label).mean()))


def test_blocks_go_whole_and_are_swept_once() -> None:
    found = onnxprune.sensitivity(
        zoo.get("digits_rescnn").model,
        calib=str(zoo.get("digits_rescnn").calibration),
        calib_samples=32,
        kinds="blocks",
    )
    assert {row.kind for row in found.targets} == {"block"}
    assert [cell.ratio for cell in found.cells] == [1.0] * len(found.targets)
    assert all(0 <= (cell.value or 0) < 1 for cell in found.cells)
    assert found.metric == "agreement"


def test_more_ratios_later_measure_only_those() -> None:
    asked = DATA | {"kinds": "groups", "skip": ["body.1*"]}
    first = onnxprune.sensitivity(ENTRY.model, **asked, ratios=(0.3,))
    told: list[str] = []
    second = onnxprune.sensitivity(ENTRY.model, **asked, ratios=(0.3, 0.6), progress=told.append)
    measured = [each for each in told if " cells: " in each]
    assert measured
    assert all(each.endswith("at 0.6") for each in measured)
    assert [c for c in second.cells if c.ratio == 0.3] == list(first.cells)
    assert "earlier run" in second.notes[0]


def test_an_interrupted_sweep_goes_on_where_it_was() -> None:
    asked = DATA | {"kinds": "weights", "ratios": (0.35,)}
    cells: list[str] = []

    def interrupt(told: str) -> None:
        if " cells: " in told:
            cells.append(told)
            if len(cells) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        onnxprune.sensitivity(ENTRY.model, **asked, progress=interrupt)
    found = onnxprune.sensitivity(ENTRY.model, **asked, progress=cells.append)
    assert sum(" cells: " in told for told in cells) == len(found.cells) == 4
    assert found.notes[0].startswith("2 cells come from an earlier run")


def test_cells_are_known_although_the_last_one_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path))
    cache = Cache("cells", pytest.fail)
    cells = [Cell(name, 0.1, 1, 0.5, 0.5, kl=float("inf")) for name in "abc"]
    for cell in cells[:2]:
        keep_cell(cache, "k", cell)
    keep_cell(cache, "k", Cell("d", 0.1, reason="it failed"))
    assert list(known_cells(cache, "k").values()) == cells[:2]
    file = tmp_path / "k.cells.jsonl"
    file.write_text(file.read_text()[:-20])
    assert known_cells(cache, "k") == {("a", 0.1): cells[0]}
    keep_cell(cache, "k", cells[2])
    assert list(known_cells(cache, "k").values()) == [cells[0], cells[2]]


def test_what_is_written_reads_back_the_same(labelled: Sensitivity, tmp_path: Path) -> None:
    broken = replace(labelled.cells[0], drop=float("inf"), kl=float("nan"))
    odd = replace(labelled, cells=(broken, *labelled.cells[1:]))
    back = load_sensitivity(odd.save(tmp_path / "sweep.json"))
    assert back.cells[1:] == labelled.cells[1:]
    assert back.cells[0].drop == float("inf")
    assert replace(back, cells=()) == replace(labelled, cells=())


def test_the_document_is_what_the_contract_says(labelled: Sensitivity) -> None:
    plain = json.loads(json.dumps(to_json(labelled)))
    assert (plain["schema"], plain["version"]) == ("onnxprune.sensitivity", 1)
    assert plain["metric"] == {
        "name": "accuracy",
        "higher_is_better": True,
        "dense": labelled.dense,
    }
    assert {"structure", "model", "samples", "ratios", "recommended", "declined"} <= plain.keys()
    assert {"name", "kind", "units", "params", "macs"} <= plain["targets"][0].keys()
    cell = {"target", "ratio", "value", "drop", "kl", "cosine", "relative_error"}
    assert cell <= plain["cells"][0].keys()


def test_curves_pass_through_what_was_measured_and_never_rise(labelled: Sensitivity) -> None:
    row = labelled.targets[0]
    gone, damage = measured_points(labelled.of(row.name), row.units)
    assert gone.tolist() == [0, round(0.25 * row.units), round(0.75 * row.units)]
    np.testing.assert_allclose(interpolate(gone, gone, damage), damage)
    everywhere = interpolate(np.arange(row.units + 1), gone, damage)
    assert (np.diff(everywhere) >= 0).all()
    assert everywhere[-1] > damage[-1]


def test_a_budget_is_met_by_what_was_swept(cli: Cli, labelled: Sensitivity, tmp_path: Path) -> None:
    file = labelled.save(tmp_path / "sweep.json")
    out = tmp_path / "small.onnx"
    ran = cli(
        "prune", ENTRY.model, "--sensitivity", file, "--target", "macs=60%", "--max-ratio", "0.9",
        "--calib", ENTRY.calibration, "--calib-samples", "96", "--recover", "none",
        "--round-to", "1", "-o", out, "--json",
    )  # fmt: skip
    report = json.loads(ran.out)
    assert ran.code == 0, ran.err
    kept = {row["name"]: row["kept"] for row in report["groups"]}
    orders = {row.name: row.order for row in labelled.targets if row.order}
    expected = cut(
        analyse(models.load(ENTRY.model)),
        {name: order[: len(order) - kept[name]] for name, order in orders.items()},
    )
    feeds = {"image": np.load(ENTRY.calibration)["image"][:8]}
    made = open_session(out).run(feeds)["logits"]
    np.testing.assert_allclose(
        made, open_session(expected).run(feeds)["logits"], rtol=1e-4, atol=1e-4
    )


def test_a_sweep_of_another_graph_is_refused(
    cli: Cli, labelled: Sensitivity, tmp_path: Path
) -> None:
    file = labelled.save(tmp_path / "sweep.json")
    other = zoo.get("digits_rescnn").model
    ran = cli("prune", other, "--sensitivity", file, "--target", "macs=60%")
    assert ran.code == 2
    assert "another graph" in ran.err
    twisted = replace(labelled.targets[0], order=(0, 0, *labelled.targets[0].order[2:]))
    analysis = analyse(models.load(ENTRY.model))
    file = replace(labelled, targets=(twisted,)).save(tmp_path / "twisted.json")
    asked = from_flags({"sensitivity": str(file), "target": "macs=60%"})
    with pytest.raises(OnnxpruneError, match="another graph"):
        sensitivity_curves(analysis, asked)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not JSON"),
        ("{}", "no result of a sensitivity sweep"),
        ('{"schema": "onnxprune.sensitivity", "version": 7}', "version 7"),
        ('{"schema": "onnxprune.sensitivity", "version": 1}', "damaged"),
    ],
)
def test_what_is_no_sweep_is_refused(
    cli: Cli, tmp_path: Path, content: str, complaint: str
) -> None:
    file = tmp_path / "sweep.json"
    file.write_text(content)
    ran = cli("prune", ENTRY.model, "--sensitivity", file, "--target", "macs=60%")
    assert ran.code == 2
    assert complaint in ran.err


def test_recommended_ratios_stay_within_the_drop_and_prune_to_what_was_measured(
    cli: Cli, tmp_path: Path
) -> None:
    recipe, picture = tmp_path / "recipe.yaml", tmp_path / "heat.svg"
    data = ("--calib", ENTRY.evaluation, "--calib-samples", "160", "--labels", ENTRY.evaluation)
    ran = cli(
        "sensitivity", ENTRY.model, *data, "--kinds", "groups", "--ratios", "25%,75%",
        "--drop", "2%", "--save-recipe", recipe, "-o", picture, "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert picture.read_text().startswith("<?xml")
    advice = json.loads(ran.out)["recommended"]
    assert advice["ratios"]
    assert advice["measured"] <= advice["drop"] == 0.02
    assert yaml.safe_load(recipe.read_text())["ratios"] == advice["ratios"]
    assert advice["refitted_samples"] == 16
    words = shlex.split(advice["command"])
    assert words[:3] == ["onnxprune", "prune", str(ENTRY.model)]
    ran = cli(*words[1:-2], "--json")
    assert ran.code == 0, ran.err
    rows = {row["name"]: row for row in json.loads(ran.out)["measures"]}
    assert rows["MACs"]["pruned"] / rows["MACs"]["dense"] == pytest.approx(advice["macs"])
    lost = rows["accuracy"]["dense"] - rows["accuracy"]["pruned"]
    assert lost == pytest.approx(advice["refitted"])
    ran = cli("prune", ENTRY.model, "--recipe", recipe, "--recover", "none", "--json")
    assert ran.code == 0, ran.err
    costs = {row["name"]: row for row in json.loads(ran.out)["measures"]}
    assert costs["MACs"]["pruned"] / costs["MACs"]["dense"] == pytest.approx(advice["macs"])


def test_a_narrow_network_gets_ratios_at_any_width(tmp_path: Path) -> None:
    """Half of the units, the only fast width, cost too much; one that hardly counts does not."""
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((16, 3, 3, 3)), "v": rng.standard_normal((5, 16, 4, 4))}
    arrays["v"][:, 3] *= 1e-6
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "v"], ["c"]),
            helper.make_node("Flatten", ["c"], ["d"]),
            helper.make_node("Softmax", ["d"], ["y"]),
        ],
        "narrow",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 6, 6])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(each.astype(np.float32), n) for n, each in arrays.items()],
    )
    imports = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path / "narrow.onnx"
    )
    np.save(tmp_path / "x.npy", rng.standard_normal((128, 3, 6, 6)).astype(np.float32))
    sweep = onnxprune.sensitivity(
        tmp_path / "narrow.onnx", calib=str(tmp_path / "x.npy"), kinds="groups",
        ratios=(0.0625, 0.5), drop=0.01, cache=False,
    )  # fmt: skip
    assert sweep.recommended is not None
    assert sweep.recommended.round_to == 1
    assert list(sweep.recommended.ratios.values()) == [0.0625]
    assert "--round-to 1" in sweep.recommended.command
    assert any("no widths that are fast" in note for note in sweep.notes)


def test_the_terminal_shows_every_row_and_its_losses(cli: Cli, tmp_path: Path) -> None:
    data = ("--calib", ENTRY.calibration, "--calib-samples", "64", "--no-cache")
    ran = cli("sensitivity", ENTRY.model, *data, "--ratios", "0.9", "--kinds", "groups")
    assert ran.code == 0, ran.err
    assert ran.err.splitlines()[-1] == "RESULT sensitivity exit=0"  # no verdict
    for name in ("body.1:ffn", "body.4:ffn", "body.7:ffn", "90 %", "agreement"):
        assert name in ran.out


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ((), "measured on inputs"),
        (("--calib", ENTRY.calibration, "--kinds", "grups"), "did you mean 'groups'"),
        (("--calib", ENTRY.calibration, "--ratios", "1.0"), "leave nothing"),
        (("--calib", ENTRY.calibration, "--ratios", "a"), "not a number"),
        (("--calib", ENTRY.calibration, "-o", "heat.pdf"), ".png or .svg"),
        (("--calib", ENTRY.calibration, "--save-recipe", "r.yaml"), "--drop 1%"),
        (("--calib", ENTRY.calibration, "--workers", "0"), "--workers 0"),
        (("--calib", ENTRY.calibration, "--workers", "2", "--dask", "tcp://x:1"), "give one"),
        (("--calib", ENTRY.calibration, "--sparse-method", "admm"), "admm"),
        (("--calib", ENTRY.calibration, "--skip", "nothing*"), "matches no group"),
    ],
)
def test_wrong_words_are_refused_with_a_hint(
    cli: Cli,
    flags: tuple[str, ...],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli("sensitivity", ENTRY.model, *flags)
    assert ran.code == 2
    assert complaint in ran.err
    assert ran.out == ""


ANALYSIS = analyse(models.load(ENTRY.model))
RISES = st.lists(st.floats(0, 0.05), min_size=8, max_size=8)


@settings(max_examples=15)
@given(rises=st.tuples(RISES, RISES, RISES), drop=st.floats(0.0, 0.2))
def test_recommended_ratios_use_the_drop_that_is_allowed(
    rises: tuple[list[float], ...], drop: float
) -> None:
    """Losses that add up: no group can lose its next width too without going over the drop."""
    groups, samples = ANALYSIS.groups, 100_000
    counts = {g.name: np.linspace(0, len(g) - 1, 9).astype(int) for g in groups}
    losses = {
        g.name: np.concatenate([[0.0], np.cumsum(each)])
        for g, each in zip(groups, rises, strict=True)
    }
    targets = tuple(
        Target(g.name, g.kind, len(g), g.params, 1, tuple(range(len(g)))) for g in groups
    )
    sweep = Sensitivity(
        "", "m", "accuracy", True, 1.0, samples, "", "l2", (0.5,), targets,
        tuple(
            Cell(g.name, n / len(g), int(n), 1 - loss, loss, kl=loss)
            for g in groups
            for n, loss in zip(counts[g.name], losses[g.name], strict=True)
        ),
    )  # fmt: skip
    units = {g.name: len(g) for g in groups}

    def plan(ratios: Mapping[str, float]) -> dict[str, tuple[int, ...]]:
        return {g: tuple(range(round(ratio * units[g]))) for g, ratio in ratios.items()}

    def lost(removed: Mapping[str, tuple[int, ...]]) -> float:
        return sum(
            float(losses[g][counts[g].tolist().index(len(gone))]) for g, gone in removed.items()
        )

    def measure(removed: Mapping[str, tuple[int, ...]]) -> Evaluation:
        return Evaluation({}, "accuracy", 1.0, 1.0 - lost(removed), samples=samples)

    widths = {g: units[g] - each[::-1] for g, each in counts.items()}
    advice = recommend(ANALYSIS, sweep, drop, widths, plan, measure)
    assert [each.macs for each in advice] == sorted(each.macs for each in advice)
    assert all(each.measured is not None and each.measured <= drop for each in advice)
    best = plan(advice[0].ratios) if advice else {}
    for name in units:
        at = counts[name].tolist().index(len(best.get(name, ())))
        if at < 8:
            more = losses[name][at + 1] - losses[name][at]
            assert lost(best) + more > drop - 1 / samples
