"""A budget is a promise about the file that is written, whatever recovery adds to a plan."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxprune import model as models
from onnxprune import prune
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.evaluation import Evaluation
from onnxprune.graph.analysis import analyse
from onnxprune.graph.cost import CostModel, cost
from onnxprune.graph.plan import Plan
from onnxprune.graph.surgery import cut
from onnxprune.jobs.prune import apply
from onnxprune.jobs.result import Result
from onnxprune.jobs.verdicts import unsure
from onnxprune.quantities import Budget
from onnxprune.select.reserve import vectors_of_recovery
from random_graphs import random_graph
from verified_cuts import choose

RESCNN = zoo.get("digits_rescnn")
MODES = ["auto", "lstsq", "bias"]
OTHER_TARGETS = ["bytes=0.4x", "params=60000"]


def sparing(seed: int, steps: int = 5) -> onnx.ModelProto:
    """A random graph whose layers have no bias or share one, and whose norms share statistics.

    What nothing reads is not in it: a cut drops that, and a plan still counts it.
    """
    model, rng = random_graph(seed, steps), np.random.default_rng(seed)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shared: dict[tuple[int, ...], str] = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm") and rng.random() < 0.5:
            del node.input[2:]
        for k in range(2, len(node.input)):
            shape = shapes.get(node.input[k], ())
            if node.op_type in ("Conv", "BatchNormalization") and len(shape) == 1:
                kind = shared.setdefault((*shape, k), node.input[k])
                node.input[k] = kind if rng.random() < 0.7 else node.input[k]
    return models.to_proto(cut(analyse(models.load(model)), {}))


def pictures(seed: int, samples: int = 24) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [
        {"x": rng.standard_normal((8, 3, 6, 6)).astype(np.float32)} for _ in range(samples // 8)
    ]


def stored(path: Path) -> tuple[int, int]:
    """Elements and bytes of all floats in a file, however it names them."""
    tensors: Iterator[onnx.TensorProto] = iter(onnx.load(path).graph.initializer)
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in tensors]
    arrays = [array for array in arrays if array.dtype.kind == "f"]
    return sum(a.size for a in arrays), sum(a.nbytes for a in arrays)


def assert_kept(result: Result, folder: Path) -> None:
    """The budget holds for the model, for its file, and by the words of the report."""
    target = result.config.target
    assert target is not None
    limit = target.limit(result.dense.of(target.kind))
    (check,) = (each for each in result.checks if each.name == target.kind)
    path = result.save(folder / "result.onnx", force=True)
    written = cost(analyse(models.load(path), inputs=result.analysis.inputs[0]))
    assert written == result.remaining
    assert check.value == result.remaining.of(target.kind)
    assert check.ok
    assert check.value <= check.limit == limit
    params, size = stored(path)
    assert {"params": params, "bytes": size, "macs": 0}[target.kind] <= limit


@given(
    st.integers(0, 1000),
    st.sampled_from(["params", "bytes", "macs"]),
    st.floats(0.5, 0.95),
    st.sampled_from(MODES),
    st.sampled_from([None, "30%"]),
)
@settings(max_examples=12)
def test_what_is_written_keeps_the_budget(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    kind: str,
    share: float,
    recover: str,
    sparsity: str | None,
) -> None:
    try:
        result = prune(
            sparing(seed), target=Budget(kind, share, relative=True), calib=pictures(seed),
            recover=recover, sparsity=sparsity, cache=False,
        )  # fmt: skip
    except OnnxpruneError:
        assume(False)  # widths end somewhere
        raise
    assert_kept(result, tmp_path_factory.mktemp("budget"))


@given(st.integers(0, 1000), st.floats(0.1, 0.6), st.sampled_from(MODES))
@settings(max_examples=15)
def test_recovery_adds_no_more_than_is_kept_for_it(seed: int, part: float, recover: str) -> None:
    model = sparing(seed)
    analysis = analyse(models.load(model))
    removed = {name: tuple(units) for name, units in choose(analysis, part, seed).items()}
    assume(removed)
    plan = Plan(removed=removed, units={g.name: len(g) for g in analysis.groups})
    result = apply(model, plan, calib=pictures(seed), recover=recover)
    least, most = (
        CostModel(analysis, more)(removed) for more in ((), vectors_of_recovery(analysis))
    )
    assert least.macs == result.remaining.macs == most.macs
    assert least.params <= result.remaining.params <= most.params
    assert least.bytes <= result.remaining.bytes <= most.bytes


@cache
def pruned_to(target: str, recover: str) -> Result:
    data = {"calib": RESCNN.calibration, "calib_samples": 64, "recover": recover}
    return prune(RESCNN.model, target=target, **data)


@pytest.mark.parametrize(
    "target", ["params=50%", *(pytest.param(t, marks=pytest.mark.heavy) for t in OTHER_TARGETS)]
)
def test_a_network_without_biases_keeps_its_budget(target: str, tmp_path: Path) -> None:
    """The report that a newcomer saw said 'verified' about a file that was over its limit."""
    result = pruned_to(target, "auto")
    assert_kept(result, tmp_path)
    assert result.remaining.params > CostModel(result.analysis)(result.plan.removed).params


@pytest.mark.heavy
def test_a_budget_in_steps_and_the_smallest_within_a_drop_count_what_recovery_adds(
    tmp_path: Path,
) -> None:
    stepwise = prune(
        RESCNN.model, target="params=60%", steps=2, calib=RESCNN.calibration, calib_samples=64
    )
    assert_kept(stepwise, tmp_path)
    data = {"calib": RESCNN.calibration, "calib_samples": 64}
    best = prune(RESCNN.model, max_drop=0.2, smallest="params", **data)
    for each in best.history:
        assert each.remaining == cost(analyse(each.model, inputs=each.analysis.inputs[0]))
        assert each.ok


@pytest.mark.parametrize("recover", ["none", "auto"])
def test_a_plan_uses_nearly_the_whole_budget(recover: str) -> None:
    """The room that is kept for recovery is small, and without recovery there is none."""
    result = pruned_to("params=50%", recover)
    limit = result.dense.params // 2
    assert 0.97 * limit < result.remaining.params <= limit


def test_a_budget_that_the_dense_model_keeps_cuts_nothing() -> None:
    data = {"calib": RESCNN.calibration, "calib_samples": 64}
    result = prune(RESCNN.model, target="params=100%", **data)
    assert result.ok
    assert not result.plan.removed
    assert result.remaining == result.dense


def test_a_budget_that_only_the_room_breaks_says_so() -> None:
    with pytest.raises(OnnxpruneError, match="cannot") as caught:
        prune(RESCNN.model, target="params=1%", calib=RESCNN.calibration, calib_samples=64)
    assert "--recover none" in caught.value.hint


def test_a_block_that_goes_anyway_does_not_tighten_a_relative_budget() -> None:
    """The target is a part of the dense model, not of what is left without the block."""
    uniform = prune(RESCNN.model, target="macs=70%", blocks=1, allocation="uniform")
    assert 0.6 * uniform.dense.macs < uniform.remaining.macs <= 0.7 * uniform.dense.macs


@given(st.floats(-0.1, 0.1), st.floats(0, 0.1), st.floats(0.001, 0.1))
def test_a_drop_that_few_inputs_show_is_said_to_be_uncertain(
    drop: float, error: float, limit: float
) -> None:
    evaluation = Evaluation(
        metric="accuracy", before=0.9, after=0.9 - drop, samples=8, metric_error=error
    )
    notes = unsure(evaluation, limit)
    assert bool(notes) == (evaluation.drop <= limit < 1.96 * error)
    assert all("8 unseen inputs" in note and "max_drop=" in note for note in notes)
