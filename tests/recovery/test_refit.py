"""Weights that several layers read are refitted for all of them, and what depends on them follows.

Hidden units come in pairs that compute the same, so that half of them can go without a loss, if
only the weights behind are refitted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx import helper as oh
from onnx import numpy_helper as nh

import onnxprune
from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import analyse
from onnxprune.graph.layers.applications import find_applications
from onnxprune.graph.layers.linear import find_layers
from onnxprune.graph.plan import Plan
from onnxprune.graph.surgery import cut
from onnxprune.runtime import open_session

Array = np.ndarray[Any, Any]
Node = oh.make_node
UNITS = 16


def weight(name: str, *shape: int, paired: int | None = None, scale: float = 1.0) -> Any:
    """A random tensor; its indices along one axis are equal pairwise, or differ in size alone."""
    rng = np.random.default_rng(len(name) + sum(map(ord, name)))
    array = scale * rng.standard_normal(shape) / np.sqrt(shape[0] if len(shape) < 3 else 9)
    if paired is not None:
        array = np.repeat(np.take(array, range(shape[paired] // 2), paired), 2, paired)
    return nh.from_array(array.astype(np.float32), name)


def model(nodes: Sequence[Any], x: Sequence[Any], y: Sequence[Any], stored: Sequence[Any]) -> Any:
    graph = oh.make_graph(
        nodes, "g",
        [oh.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [oh.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        stored,
    )  # fmt: skip
    proto = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def towers(biases: Sequence[Sequence[str]]) -> onnx.ModelProto:
    """Two towers with the same weights, each with the biases that it is given."""
    nodes = [Node("Split", ["x"], ["x0", "x1"], axis=1)]
    for k, names in enumerate(biases):
        nodes += [
            Node("Gemm", [f"x{k}", "A", "a"], [f"h{k}"]),
            Node("Relu", [f"h{k}"], [f"r{k}"]),
            Node("Gemm" if names else "MatMul", [f"r{k}", "B", *names], [f"t{k}"]),
            Node("Tanh", [f"t{k}"], [f"y{k}"]),
        ]
    stored = [weight("A", 6, UNITS, paired=1), weight("a", UNITS, paired=0), weight("B", UNITS, 5)]
    stored += [weight(name, 5) for name in sorted({n for names in biases for n in names})]
    return model([*nodes, Node("Sub", ["y0", "y1"], ["y"])], ["n", 12], ["n", 5], stored)


def repeated() -> onnx.ModelProto:
    """One block, three times in a row."""
    nodes = []
    for k in range(3):
        nodes += [
            Node("MatMul", [f"s{k}" if k else "x", "A"], [f"a{k}"]),
            Node("Relu", [f"a{k}"], [f"r{k}"]),
            Node("MatMul", [f"r{k}", "B"], [f"b{k}"]),
            Node("Add", [f"s{k}" if k else "x", f"b{k}"], [f"s{k + 1}" if k < 2 else "y"]),
        ]
    stored = [weight("A", 8, UNITS, paired=1), weight("B", UNITS, 8, scale=0.5)]
    return model(nodes, ["n", 8], ["n", 8], stored)


def heads() -> onnx.ModelProto:
    """Convolutions with the same weights on two maps, with scales of their own behind them."""
    nodes = [Node("MaxPool", ["x"], ["x1"], kernel_shape=[2, 2], strides=[2, 2])]
    for k in range(2):
        nodes += [
            Node("Conv", [f"x{k}" if k else "x", "A"], [f"a{k}"], pads=[1] * 4),
            Node("Relu", [f"a{k}"], [f"r{k}"]),
            Node("Conv", [f"r{k}", "B"], [f"b{k}"], pads=[1] * 4),
            Node("Mul", [f"b{k}", f"g{k}"], [f"c{k}"]),
            Node("GlobalAveragePool", [f"c{k}"], [f"d{k}"]),
        ]
    stored = [weight("A", UNITS, 3, 3, 3, paired=0), weight("B", 4, UNITS, 3, 3)]
    stored += [weight("g0", 4, 1, 1), weight("g1", 4, 1, 1)]
    return model([*nodes, Node("Concat", ["d0", "d1"], ["y"], axis=1)],
                 ["n", 3, 6, 6], ["n", 8, 1, 1], stored)  # fmt: skip


def experts(*, equations: bool, shared: bool = True) -> onnx.ModelProto:
    """Three experts, on the same rows or each on its own."""
    one = nh.from_array(np.array([1]), "one")
    first, second = Node("MatMul", ["e", "A"], ["h"]), Node("MatMul", ["r", "B"], ["o"])
    if equations:
        rows = "nk" if shared else "nek"
        first = Node("Einsum", ["e", "A"], ["h"], equation=f"{rows},ekh->neh")
        second = Node("Einsum", ["r", "B"], ["o"], equation="neh,eho->neo")
    nodes = [
        Node("Identity", ["x"], ["e"]) if equations else Node("Unsqueeze", ["x", "one"], ["e"]),
        first,
        Node("Relu", ["h"], ["r"]),
        second,
        Node("ReduceSum", ["o", "one"], ["y"], keepdims=0),
    ]
    stored = [weight("A", 3, 6, UNITS, paired=2), weight("B", 3, UNITS, 5), one]
    x = ["n", *([] if equations else [4]), *([3] if equations and not shared else []), 6]
    return model(nodes, x, ["n", 5] if equations else ["n", 4, 5], stored)


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "own biases": lambda: towers([["b0"], ["b1"]]),
    "one bias": lambda: towers([["b"], ["b"]]),
    "no bias": lambda: towers([[], []]),
    "repeated": repeated,
    "heads": heads,
    "experts": lambda: experts(equations=False),
    "equations": lambda: experts(equations=True, shared=False),
    "equations on one input": lambda: experts(equations=True),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[models.Model, dict[str, Array]]:
    proto = NETWORKS[request.param]()
    sizes = [d.dim_value or 120 for d in proto.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(1)
    return models.load(proto), {"x": rng.standard_normal(sizes).astype(np.float32)}


def error(one: models.Model, other: models.Model) -> float:
    sizes = [d if isinstance(d, int) else 50 for d in one.ir.graph.inputs[0].shape or ()]
    x = {"x": np.random.default_rng(9).standard_normal(sizes).astype(np.float32)}
    a, b = (open_session(each).run(x)["y"] for each in (one, other))
    return float(np.square(a - b).sum() / np.square(a - a.mean()).sum())


def test_units_that_others_stand_for_leave_without_a_loss(network: Any) -> None:
    model, data = network
    skip = tuple(g.name for g in analyse(model).groups if len(g) < UNITS)  # experts as a whole
    masked, fitted = (
        onnxprune.prune(
            model, ratio=0.5, skip=skip, calib=data, recover=recover, round_to=1, cache=False
        )
        for recover in ("none", "lstsq")
    )
    assert any(len(units) == UNITS // 2 for units in fitted.plan.removed.values())
    assert error(model, fitted.model) < 1e-4 < error(model, masked.model)
    stored = models.constants(fitted.model)
    assert "b" not in models.constants(model) or len(stored["b"].uses()) == 2


def test_a_model_that_was_cut_elsewhere_gets_them_back(network: Any) -> None:
    model, data = network
    analysis = analyse(model)
    (group,) = (group for group in analysis.groups if len(group) == UNITS)
    small = cut(analysis, {group.name: range(0, UNITS, 2)})
    for node in small.ir.graph:
        node.name = None
    result = onnxprune.recover(model, small, calib=data)
    assert error(model, result.model) < 1e-4 < error(model, small)


@pytest.mark.parametrize("equations", [False, True])
def test_experts_that_stay_are_fitted_to_their_own_outputs(equations: bool) -> None:
    model = models.load(experts(equations=equations))
    analysis = analyse(model)
    removed = {
        g.name: tuple(range(0, UNITS, 2)) if len(g) == UNITS else (1,) for g in analysis.groups
    }
    assert len(removed) == 2
    small = cut(analysis, removed)
    shape = (80, 6) if equations else (80, 4, 6)
    data = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    result = onnxprune.apply(model, Plan(removed=removed), calib=data)
    expected = cut(analysis, {name: [1] for name, units in removed.items() if len(units) == 1})
    assert error(expected, result.model) < 1e-4 < error(expected, small)


@pytest.mark.parametrize("sparsity", ["50%", "2:4"])
def test_zeros_are_made_up_for_and_kept(network: Any, sparsity: str) -> None:
    model, data = network
    if sparsity == "2:4" and any(node.op_type == "Einsum" for node in model.ir.graph):
        with pytest.raises(OnnxpruneError, match="an Einsum has no sparse kernels"):
            onnxprune.prune(model, sparsity=sparsity, calib=data)
        return
    masked, fitted = (
        onnxprune.prune(model, sparsity=sparsity, calib=data, recover=recover, cache=False)
        for recover in ("none", "lstsq")
    )
    assert error(model, fitted.model) < error(model, masked.model)
    assert "B" in fitted.plan.zeroed
    (outcome,) = (o for o in fitted.outcomes["zeros"] if o.weight == "B")
    assert outcome.refit in ("bias", "lstsq", "pcg", "none")
    for name, mask in fitted.plan.zeroed.items():
        assert not models.array_of(models.constants(fitted.model)[name])[~mask.unpack()].any()
    applied = onnxprune.recover(model, masked.model, calib=data)
    assert error(model, applied.model) < error(model, masked.model)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("other axis", "different axes"),
        ("table", "is read by Gather"),
        ("output", "is read by whoever runs the model"),
    ],
)
def test_weights_that_something_else_reads_stay_with_a_reason(change: str, reason: str) -> None:
    nodes = [
        Node("MatMul", ["x", "A"], ["h"]),
        Node("Relu", ["h"], ["r"]),
        {
            "other axis": Node("Gemm", ["r", "A"], ["y"], transB=1),
            "table": Node("Gather", ["A", "i"], ["t"]),
            "output": Node("Identity", ["A"], ["t"]),
        }[change],
    ]
    if change != "other axis":
        nodes += [Node("ReduceSum", ["t"], ["u"], keepdims=0), Node("Add", ["r", "u"], ["y"])]
    stored = [weight("A", 8, 8), nh.from_array(np.array([0, 1]), "i")]
    proto = model(nodes, ["n", 8], ["n", 8], stored)
    if change == "output":
        proto.graph.output.append(oh.make_tensor_value_info("A", TensorProto.FLOAT, [8, 8]))
    joint, declined = find_applications(find_layers(models.load(proto)))
    assert not joint
    assert any(reason in why for why in declined.values())
