"""What dropping a residual branch costs, and when a budget takes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from onnxprune import model as models
from onnxprune import prune
from onnxprune.config import Options
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.cost import cost
from onnxprune.graph.surgery import cut
from onnxprune.graph.units import Block
from onnxprune.quantities import budget
from onnxprune.runtime import open_session
from onnxprune.select.importance.bypass import block_errors, innermost, inside

Feeds = dict[str, npt.NDArray[Any]]


def branches(name: str) -> Analysis:
    return analyse(models.load(zoo.get(name).model))


def pictures(name: str, count: int = 64) -> list[Feeds]:
    calib = zoo.calibration(zoo.get(name))
    return [{k: v[at : at + 32] for k, v in calib.items()} for at in range(0, count, 32)]


def silenced(name: str, says: float = 0.0) -> tuple[models.Model, Block]:
    """The network with one residual branch that gives the same vector whatever comes in."""
    analysis = branches(name)
    block = innermost(analysis.blocks)[0]
    model = models.clone(analysis.model)
    nodes = {n.outputs[0].name: n for n in model.ir.graph}
    at = next(v for v in nodes[block.output].inputs if v is not None and v.name != block.skip)
    rng = np.random.default_rng(0)
    while (node := at.producer()) is not None:
        stored = [v for v in node.inputs if v is not None and models.constant(v) is not None]
        for value in stored:
            old = models.constant(value).numpy()  # type: ignore[union-attr]
            bias = node.op_type == "Add" or (old.ndim == 1 and node.op_type == "Conv")
            if node.op_type in ("Conv", "MatMul", "Gemm") or bias:
                new = says * rng.standard_normal(old.shape) if bias else np.zeros(old.shape)
                models.set_constant(value, new.astype(old.dtype))
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            break
        at = next(v for v in node.inputs if v is not None and v not in stored)
    return model, block


@pytest.mark.parametrize("name", ["digits_rescnn", "digits_encoder"])
@pytest.mark.parametrize("says", [0.0, 0.5])
def test_a_branch_that_says_the_same_to_everything_costs_nothing(name: str, says: float) -> None:
    model, silent = silenced(name, says)
    analysis, feeds = analyse(model), pictures(name)
    found = block_errors(analysis, innermost(analysis.blocks), feeds, feeds)
    assert found[silent.name] < 1e-6
    assert all(error > 1e-3 for block, error in found.items() if block != silent.name)
    session = open_session(model)
    bare = open_session(cut(analysis, {}, [silent.name]))
    differs = any(
        not np.allclose(session.run(f)[zoo.OUTPUT], bare.run(f)[zoo.OUTPUT], atol=1e-3)
        for f in feeds
    )
    assert differs or not says


@pytest.mark.parametrize(("most", "goes"), [(None, True), (0, False)])
def test_a_budget_takes_a_branch_that_is_for_free(most: int | None, goes: bool) -> None:
    """Narrower layers would do little damage too, but not none."""
    model, silent = silenced("digits_rescnn")
    calib = {k: v[:96] for k, v in zoo.calibration(zoo.get("digits_rescnn")).items()}
    left = cost(branches("digits_rescnn")).macs - int(0.95 * silent.macs)
    asked: dict[str, Any] = {"calib": calib, "recover": "none", "cache": False}
    made = prune(model, target=f"macs={left}", max_blocks=most, **asked)
    assert all(check.ok for check in made.checks)
    assert set(made.plan.bypassed) == ({silent.name} if goes else set())
    assert made.remaining.macs <= left
    dying = set(inside(made.analysis.groups, made.analysis.block(silent.name)))
    assert dying
    assert bool(dying & made.plan.removed.keys()) != goes


def test_blocks_that_lie_in_each_other_do_not_compete() -> None:
    def block(name: str, *nodes: str) -> Block:
        return Block(name, f"{name}/sum", "x", nodes, 1, 1)

    outer = block("outer", "a", "b", "inner/sum", "c")
    inner, other = block("inner", "b"), block("other", "d")
    assert innermost([outer, inner, other]) == [inner, other]


@pytest.mark.parametrize("asked", [{"blocks": 1}, {"target": budget("macs=50%")}])
def test_how_many_may_go_is_asked_of_a_target_with_data(asked: dict[str, Any]) -> None:
    with pytest.raises(OnnxpruneError, match="max_blocks=2"):
        Options(max_blocks=2, **asked)
