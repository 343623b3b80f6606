"""Gates of recurrent layers follow their dense states after a cut, or stay and say why."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx import helper as oh
from onnx import numpy_helper as nh

from onnxprune import model as models
from onnxprune.graph.analysis import analyse
from onnxprune.graph.ops.recurrent import LINEAR_GATES
from onnxprune.graph.surgery import cut
from onnxprune.recovery.gates import plan_gate_steps
from onnxprune.recovery.order import Problem
from onnxprune.recovery.reconstruct import reconstruct
from onnxprune.runtime import open_session

UNITS, INPUTS = 12, 5


def network(op: str, direction: str, *, bias: bool = True, **attributes: Any) -> models.Model:
    """A recurrent layer whose units come in pairs that compute the same."""
    rng = np.random.default_rng(0)
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    count = 2 if direction == "bidirectional" else 1

    def weight(columns: int) -> Any:
        half = rng.standard_normal((count, gates, UNITS // 2, columns)) * 0.7
        return np.repeat(half, 2, axis=2).reshape(count, gates * UNITS, columns)

    recurrent = weight(UNITS) * 0.5
    stored = {
        "W": weight(INPUTS),
        "R": recurrent,
        "B": np.concatenate([weight(1), weight(1)], axis=1)[..., 0] * 0.3,
        "O": rng.standard_normal((count * UNITS, 3)),
    }
    inputs = ["time", "W", "R", *(["B"] * bias)]
    nodes = [
        oh.make_node("Transpose", ["x"], ["time"], perm=[1, 0, 2]),
        oh.make_node(op, inputs, ["h"], hidden_size=UNITS, direction=direction, **attributes),
        oh.make_node("Transpose", ["h"], ["t"], perm=[2, 0, 1, 3]),
        oh.make_node("Reshape", ["t", "s"], ["flat"]),
        oh.make_node("MatMul", ["flat", "O"], ["y"]),
    ]
    kept = {name: array for name, array in stored.items() if bias or name != "B"}
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 7, INPUTS])],
        [oh.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 7, 3])],
        [
            *(nh.from_array(array.astype(np.float32), name) for name, array in kept.items()),
            nh.from_array(np.array([0, 0, -1]), "s"),
        ],
    )
    proto = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    return models.load(proto)


def problem_of(model: models.Model) -> Problem:
    """Every second unit is cut."""
    analysis = analyse(model)
    (group,) = analysis.groups
    removed = {group.name: range(0, UNITS, 2)}
    keep, axes = analysis.keep(removed), analysis.walk.axes
    return Problem(
        model, cut(analysis, removed), lambda value, axis: keep(axes[value][axis]), analysis.facts
    )


def feeds(count: int, seed: int = 1) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((16, 7, INPUTS)).astype(np.float32)} for _ in range(count)]


def states(model: models.Model, batch: dict[str, Any]) -> Any:
    return open_session(model, outputs=["h"]).run(batch, ["h"])["h"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", LINEAR_GATES)
def test_states_of_units_that_stay_follow_the_dense_ones(
    op: str, direction: str, bias: bool
) -> None:
    model = network(op, direction, bias=bias)
    problem = problem_of(model)
    result = reconstruct(problem, feeds(10))
    (outcome,) = (each for each in result.outcomes if each.layer == "h")
    assert outcome.method == "lstsq"
    assert outcome.before is not None
    assert outcome.after is not None
    assert outcome.after < 0.5 * outcome.before
    (batch,) = feeds(1, seed=5)
    wanted = states(model, batch)[..., 1::2]
    before, after = (
        float(np.square(states(each, batch) - wanted).sum())
        for each in (problem.pruned, result.model)
    )
    assert after < 0.6 * before


def test_layers_that_cannot_be_refitted_say_why() -> None:
    for model, reason in (
        (network("GRU", "forward"), "the gates of a GRU are not refitted"),
        (network("LSTM", "forward", clip=3.0), "clips"),
    ):
        steps, declined = plan_gate_steps(problem_of(model))
        assert not steps
        assert reason in declined["h"]


def test_few_samples_leave_the_weights_as_they_are() -> None:
    problem = problem_of(network("LSTM", "forward"))
    few = [{"x": batch["x"][:2]} for batch in feeds(1)]
    result = reconstruct(problem, few)
    (outcome,) = (each for each in result.outcomes if each.layer == "h")
    assert outcome.method == "none"
    assert "too few samples" in outcome.reason
