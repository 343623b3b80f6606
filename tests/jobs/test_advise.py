"""Advice: what it must say whatever the evidence, and that the evidence is real."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxprune.cli.parser import Parser
from onnxprune.data import zoo
from onnxprune.evaluate.protocol import Settings
from onnxprune.jobs.advise import trials as tried
from onnxprune.jobs.advise.evidence import CONTRACTIONS, Evidence, Sizes, Spent, Trial
from onnxprune.jobs.advise.job import advise
from onnxprune.jobs.advise.judgement import derive_advice
from onnxprune.jobs.advise.methods import WORTH, Advice
from onnxprune.jobs.prune import prune
from onnxprune.runtime.profiling import OperatorTime, profile
from onnxprune.runtime.registry import backend

Cli = Callable[..., Any]
QUICK = Settings(processes=1, rounds=2, slice_s=0.002, warm_s=0.05)
FEATURES = ("avx2", "avx512_vnni", "amx_int8")
BACKENDS = ("cpu", "openvino", "ort-openvino:bf16", "tensorrt", "cuda", "trtexec")
shares = st.floats(0, 1)


@st.composite
def sizes(draw: st.DrawFn) -> Sizes:
    total = draw(st.integers(1, 1 << 34))
    return Sizes(
        bytes=total,
        floats=int(total * draw(shares)),
        packed=max(1, int(total * draw(st.floats(0.25, 1)))),
        macs=draw(st.integers(1, 1 << 40)),
        params=max(1, total // 4),
        reachable=draw(st.sampled_from((0.0, 0.3, 1.0))),
        quantized=draw(st.booleans()),
        two_four=draw(shares),
        large_linear=draw(shares),
    )


@st.composite
def spent(draw: st.DrawFn, name: str | None = None) -> Spent:
    inside, outside, gaps = (draw(st.floats(1e-6, 1)) for _ in range(3))
    operators = [OperatorTime("Conv", 3, inside), OperatorTime("Relu", 2, outside)]
    found = sorted(operators, key=lambda each: -each.seconds)
    chosen = draw(st.sampled_from(BACKENDS)) if name is None else name
    return Spent(chosen, "f32", inside + outside + gaps, tuple(found), gaps)


@st.composite
def trials(draw: st.DrawFn, name: str) -> tuple[Trial, ...]:
    """Of some methods: timed, refused, or without a target that could be met."""
    tried: list[Trial] = []
    for method in draw(st.sets(st.sampled_from(("structured", "int8")))):
        if draw(st.booleans()):
            tried.append(Trial(method, name, reason="it does not run"))
            continue
        middle, wide = draw(st.floats(0.1, 1.5)), draw(st.floats(1, 2))
        amount = "macs=60%" if method == "structured" else ""
        latency = {"latency": middle, "low": middle / wide, "high": middle * wide}
        tried.append(Trial(method, name, amount, 0.6, 0.5, 0.5, **latency))
    return tuple(tried)


@st.composite
def evidence(draw: st.DrawFn) -> Evidence:
    names = draw(st.lists(st.sampled_from(BACKENDS), unique=True, max_size=3))
    rest = [each for each in BACKENDS if each not in names]
    gone = draw(st.lists(st.sampled_from(rest), unique=True, max_size=2))
    return Evidence(
        model="m.onnx",
        calib=draw(st.sampled_from(("", "data.npz"))),
        sizes=draw(sizes()),
        spent=tuple(draw(spent(name)) for name in names),
        unmeasured=tuple((name, "it is not here") for name in gone),
        features=tuple(draw(st.lists(st.sampled_from(FEATURES), unique=True))),
        busy=draw(st.booleans()),
        trials=tuple(trial for name in names for trial in draw(trials(name))),
        flags=draw(st.sampled_from(((), ("--shapes", "x=1x3")))),
    )


def of(found: tuple[Advice, ...], method: str) -> list[Advice]:
    return [each for each in found if each.method == method]


@given(evidence())
def test_all_advice_has_a_reason_a_source_and_numbers_and_is_in_order(known: Evidence) -> None:
    found = derive_advice(known)
    ranks = [("pays", "may pay", "does not pay").index(each.word) for each in found]
    assert ranks == sorted(ranks)
    for each in found:
        assert each.why
        assert each.fact.source
        assert each.evidence
        assert each.estimate is None or 0 < each.estimate <= 1.5
        if each.estimate is not None and each.low is not None and each.high is not None:
            assert each.low <= each.estimate <= each.high
        assert bool(each.command) == (each.word != "does not pay" and each.method != "nothing")
    json.dumps([each.evidence for each in found], allow_nan=False)


@given(evidence())
def test_each_backend_gets_one_thing_that_pays_or_is_told_to_leave_it(known: Evidence) -> None:
    found = derive_advice(known)
    for each in known.spent:
        mine = [one for one in found if one.backend == each.backend]
        paying = [one.method for one in mine if one.word == "pays"]
        unsure = any(one.method == "structured" and one.word == "may pay" for one in mine)
        assert len(paying) == (0 if unsure else 1)
        assert all(method in ("structured", "nothing") for method in paying)


@given(evidence())
def test_what_was_tried_is_what_is_said(known: Evidence) -> None:
    for each in derive_advice(known):
        trial = known.trial(each.method, each.backend)
        if trial is None or trial.latency is None or each.word == "does not pay":
            continue
        assert (each.estimate, each.low, each.high) == (trial.latency, trial.low, trial.high)
        assert each.bytes_left == trial.bytes
        if each.method == "structured":
            assert each.macs_left == trial.macs
            assert f"--target {trial.amount}" in each.command


@given(evidence())
def test_what_was_not_timed_lies_between_the_best_case_and_no_gain(known: Evidence) -> None:
    for each in derive_advice(replace(known, trials=())):
        if each.estimate is not None and each.method not in ("nothing", "zeros"):
            assert each.low == each.estimate
            assert each.high == 1.0


@given(evidence())
def test_two_four_is_for_tensorrt_only(known: Evidence) -> None:
    for each in of(derive_advice(known), "2:4"):
        tensorrt = each.backend in ("tensorrt", "trtexec")
        assert tensorrt or each.word == "does not pay"
        if tensorrt and known.sizes.two_four < 0.1:
            assert each.word == "does not pay"


@given(evidence())
def test_zeros_are_about_bytes_and_never_about_latency(known: Evidence) -> None:
    (found,) = of(derive_advice(known), "zeros")
    assert found.estimate is None
    assert found.bytes_left is None or 0 < found.bytes_left <= 1
    assert "no run faster" in found.fact.says


@given(evidence())
def test_what_cannot_be_removed_is_not_advised(known: Evidence) -> None:
    known = replace(known, sizes=replace(known.sizes, reachable=0.0))
    assert all(each.word == "does not pay" for each in of(derive_advice(known), "structured"))


@given(evidence())
def test_int8_needs_an_instruction_and_a_float_model(known: Evidence) -> None:
    for each in of(derive_advice(known), "int8"):
        gpu = each.backend in ("tensorrt", "trtexec", "cuda")
        able = gpu or {"avx512_vnni", "amx_int8"} & set(known.features)
        if known.sizes.quantized or not able:
            assert each.word == "does not pay"
    for each in of(derive_advice(known), "sparse-int8"):
        assert each.backend.endswith(("openvino", "bf16"))
        if "amx_int8" not in known.features:
            assert each.word == "does not pay"


@given(evidence(), spent("cpu"))
def test_more_time_in_other_operators_never_makes_pruning_better(
    known: Evidence, one: Spent
) -> None:
    known = replace(known, trials=())
    slower = replace(one, operators=(*one.operators, OperatorTime("Softmax", 1, 2.0)))
    before, after = (
        of(derive_advice(replace(known, spent=(each,))), "structured")[0] for each in (one, slower)
    )
    assert (before.estimate or 0) <= (after.estimate or 0)
    assert not (before.word == "does not pay" and after.word == "pays")


@given(evidence(), spent("cpu"))
def test_a_model_of_overhead_is_left_alone(known: Evidence, one: Spent) -> None:
    rest = sum(each.seconds for each in one.operators)
    idle = replace(one, gaps_s=20 * rest)
    found = derive_advice(replace(known, spent=(idle,), trials=()))
    (left,) = of(found, "nothing")
    assert "between operators" in left.why
    assert all(e.estimate > WORTH for e in of(found, "structured") if e.estimate is not None)


@given(evidence())
def test_no_command_cuts_without_inputs(known: Evidence) -> None:
    for each in derive_advice(known):
        for line in filter(None, each.command.split(" && ")):
            words = shlex.split(line)
            assert ("--calib" in words) or known.calib  # among the flags of the evidence
            assert ("DATA.npz" in words) == (not known.calib)


@given(evidence())
def test_every_command_is_one_that_exists(known: Evidence) -> None:
    parser = Parser(prog="onnxprune")
    commands = parser.add_subparsers(dest="command")
    from onnxprune.cli import prune, quantize

    prune.add(commands)
    quantize.add(commands)
    for each in derive_advice(known):
        for line in filter(None, each.command.split(" && ")):
            words = shlex.split(line)
            assert words[0] == "onnxprune"
            parser.parse_all(words[1:])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few runs are timed: what they say is not asserted."""
    monkeypatch.setattr(tried, "PROTOCOL", QUICK)


@pytest.mark.parametrize("name", ["cpu", "openvino"])
def test_a_profile_finds_where_the_time_goes(name: str, tmp_path: Path) -> None:
    """A wide product beside a small activation; the product is most of a run anywhere."""
    chosen = backend(name)
    if not chosen.available().ok:
        pytest.skip(chosen.available().reason)
    rng = np.random.default_rng(0)
    value = helper.make_tensor_value_info
    weight = rng.standard_normal((1024, 1024)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Sin", ["p"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [64, 1024])],
        [value("y", TensorProto.FLOAT, [64, 1024])],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(proto, tmp_path / "m.onnx")
    feeds = {"x": rng.standard_normal((64, 1024)).astype(np.float32)}
    found = profile(chosen, tmp_path / "m.onnx", feeds, threads=1)
    products = [each for each in found.operators if each.op in CONTRACTIONS]
    assert sum(each.calls for each in products) == 1
    assert products[0] == found.operators[0]
    assert found.run_s > 0


@pytest.mark.heavy
def test_a_real_network_is_measured_and_judged() -> None:
    entry = zoo.get("digits_rescnn")
    known, found = advise(
        entry.model, backend=["cpu", "tensorrt"], calib=str(entry.calibration), threads=1
    )
    assert known.sizes.reachable > 0.9
    (trial,) = (each for each in known.trials if each.method == "structured")
    assert trial.amount == "macs=50%"
    assert trial.latency is not None
    assert 0.3 < (trial.macs or 0) <= 0.5
    assert [each.backend for each in known.spent][:1] == ["cpu"]
    assert known.spent[0].contractions > 0.3
    assert {each.method for each in found} >= {"structured", "int8", "2:4", "zeros"}


def test_a_runtime_that_hides_its_inside_is_not_judged() -> None:
    if not backend("ort-openvino").available().ok:
        pytest.skip(backend("ort-openvino").available().reason)
    entry = zoo.get("digits_mlp")
    known, found = advise(
        entry.model, backend=["ort-openvino"], calib=str(entry.calibration), threads=1
    )
    assert not known.spent
    assert known.unmeasured[0][0] == "ort-openvino"
    assert "inside" in known.unmeasured[0][1]
    assert all(each.backend == "" for each in found)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("calib", [pytest.param(True, marks=pytest.mark.heavy), False])
def test_the_sizes_of_advice_are_those_of_its_command(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calib: bool
) -> None:
    entry = zoo.get("digits_rescnn")
    data = ["--calib", str(entry.calibration)] if calib else []
    done = cli("advise", entry.model, *data, "--threads", "1", "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)["advice"]
    (row,) = (each for each in rows if each["method"] == "structured")
    words = shlex.split(row["command"] or f"onnxprune prune {entry.model} --target macs=50%")
    words = [str(entry.calibration) if word == "DATA.npz" else word for word in words]
    monkeypatch.chdir(tmp_path)
    done = cli(*words[1:], "--recover", "bias", "--json")  # which leaves the sizes as they are
    assert done.code == 0, done.err
    costs = {each["name"]: each for each in json.loads(done.out)["measures"]}
    for name, share in (("MACs", row["macs_left"]), ("weights", row["bytes_left"])):
        near = 0.02 if calib else 0.15  # without inputs, others are given to the command
        assert costs[name]["pruned"] / costs[name]["dense"] == pytest.approx(share, rel=near)


@pytest.mark.usefixtures("quick")
def test_a_report_is_short_in_a_shell_and_a_table_in_a_notebook() -> None:
    report = advise(zoo.get("digits_mlp").model, threads=1)
    assert len(repr(report)) < 300
    assert all(len(repr(each)) < 100 for each in report.advice)
    assert len(repr(report.evidence)) < 200
    html = report._repr_html_()
    assert "<table" in html
    assert "structured" in html


@pytest.mark.usefixtures("quick")
def test_the_command_says_what_to_run_next(cli: Cli) -> None:
    entry = zoo.get("digits_mlp")
    done = cli("advise", entry.model, "--threads", "1", "--batch", "64", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["schema"], told["version"]) == ("onnxprune.advise", 2)
    assert told["evidence"]["spent"][0]["backend"] == "cpu"
    text = cli("advise", entry.model, "--threads", "1").out
    assert "between operators" in text
    assert "Because" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.onnx",), "there is no file none.onnx"),
        (("MODEL", "--backend", "tensort"), "did you mean 'tensorrt'"),
        (("MODEL", "--batch", "many"), "--batch many"),
        (("MODEL", "--calib", "none.npz"), "none.npz"),
    ],
)
def test_wrong_input_is_refused(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    model = str(zoo.get("digits_mlp").model)
    done = cli("advise", *(model if each == "MODEL" else each for each in arguments))
    assert done.code == 2
    assert said in done.err


def test_a_runtime_that_is_no_provider_can_be_pruned_for_by_data() -> None:
    """Errors are measured on the provider that stands in for it; widths suit the runtime."""
    entry = zoo.get("digits_rescnn")
    result = prune(
        entry.model, target="macs=60%", backend="openvino", recover="none",
        calib=str(entry.calibration), calib_samples=32,
    )  # fmt: skip
    assert result.ok
    assert result.plan.removed
