"""Groups that no linear layer alone reads: priced by what removal does to the outputs."""

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
from onnxprune.evaluate.output_error import OutputError
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.cost import CostModel
from onnxprune.graph.reference import UnitMasks, mask_model
from onnxprune.select.importance.curves import calibrate
from onnxprune.select.importance.downstream import DownstreamError
from onnxprune.select.importance.error_curves import (
    Measurement,
    measure_curves,
    refitted,
    split_batches,
)
from onnxprune.select.importance.masked_errors import Removals
from onnxprune.select.importance.output_errors import affordable

Node = oh.make_node
Array = np.ndarray[Any, Any]


class Builder:
    """Stored tensors of one graph, drawn at random."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self.stored: list[onnx.TensorProto] = []

    def weight(self, name: str, *shape: int) -> str:
        array = self._rng.standard_normal(shape) * (
            1.5 / np.sqrt(shape[-2 if len(shape) > 1 else 0])
        )
        # Units of clearly different weight, so that their order matters.
        scale = np.geomspace(0.1, 2, shape[-1])
        self.stored.append(nh.from_array((array * scale).astype(np.float32), name))
        return name

    def numbers(self, name: str, array: Array) -> str:
        self.stored.append(nh.from_array(array, name))
        return name

    def model(
        self, nodes: Sequence[onnx.NodeProto], x: Sequence[int | str], y: Sequence[int | str]
    ) -> onnx.ModelProto:
        graph = oh.make_graph(
            nodes,
            "g",
            [oh.make_tensor_value_info("x", TensorProto.FLOAT, x)],
            [oh.make_tensor_value_info("y", TensorProto.FLOAT, y)],
            self.stored,
        )
        model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def recurrent(op: str, directions: int) -> onnx.ModelProto:
    b, gates, hidden = Builder(), {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 16
    extra: dict[str, Any] = {"direction": "bidirectional"} if directions == 2 else {}
    nodes = [
        Node("Transpose", ["x"], ["time"], perm=[1, 0, 2]),
        Node(op, ["time", b.weight("W", directions, gates * hidden, 8),
                  b.weight("R", directions, gates * hidden, hidden)],
             ["h"], name="cells", hidden_size=hidden, **extra),
        Node("Transpose", ["h"], ["t"], perm=[2, 0, 1, 3]),
        Node("Reshape", ["t", b.numbers("s", np.array([0, 0, -1], np.int64))], ["flat"]),
        Node("MatMul", ["flat", b.weight("O", directions * hidden, 4)], ["y"]),
    ]  # fmt: skip
    return b.model(nodes, ["n", 6, 8], ["n", 6, 4])


def einsum() -> onnx.ModelProto:
    b = Builder()
    nodes = [
        Node("Einsum", ["x", b.weight("A", 8, 32)], ["a"], equation="nk,kh->nh"),
        Node("Relu", ["a"], ["r"]),
        Node("Einsum", ["r", b.weight("B", 32, 4)], ["y"], equation="nh,ho->no"),
    ]
    return b.model(nodes, ["n", 8], ["n", 4])


def experts() -> onnx.ModelProto:
    b = Builder()
    nodes = [
        Node("Unsqueeze", ["x", b.numbers("zero", np.array([0], np.int64))], ["one"]),
        Node("MatMul", ["one", b.weight("A", 3, 8, 32)], ["a"]),
        Node("Relu", ["a"], ["r"]),
        Node("MatMul", ["r", b.weight("B", 3, 32, 4)], ["b"]),
        Node("ReduceSum", ["b", "zero"], ["y"], keepdims=0),
    ]
    return b.model(nodes, ["n", 8], ["n", 4])


def body(kind: str) -> onnx.ModelProto:
    b = Builder()
    first = Node("MatMul", ["x", b.weight("A", 8, 32)], ["a"])
    relu, weight = Node("Relu", ["a"], ["r"]), b.weight("B", 32, 4)
    out = oh.make_tensor_value_info
    if kind == "If":
        whole = oh.make_graph(
            [Node("MatMul", ["r", weight], ["b"])], "then", [], [out("b", 1, ["n", 4])]
        )
        other = oh.make_graph(
            [Node("MatMul", ["r", weight], ["m"]), Node("Neg", ["m"], ["c"])],
            "else", [], [out("c", 1, ["n", 4])],
        )  # fmt: skip
        condition = Node(
            "Greater", ["sum", b.numbers("never", np.float32(1e9).reshape(()))], ["if"]
        )
        nodes = [
            first, relu, Node("ReduceSum", ["x"], ["sum"], keepdims=0), condition,
            Node("If", ["if"], ["y"], then_branch=whole, else_branch=other),
        ]  # fmt: skip
        return b.model(nodes, ["n", 8], ["n", 4])
    if kind == "Loop":
        inner = oh.make_graph(
            [
                Node("MatMul", ["r", weight], ["b"]),
                Node("Add", ["state", "b"], ["next"]),
                Node("Identity", ["go"], ["on"]),
            ],
            "loop",
            [out("i", 7, []), out("go", 9, []), out("state", 1, ["n", 4])],
            [out("on", 9, []), out("next", 1, ["n", 4])],
        )
        nodes = [
            first, relu, Node("MatMul", ["x", b.weight("C", 8, 4)], ["start"]),
            Node("Loop", [b.numbers("trips", np.array(2)), b.numbers("yes", np.array(True)),
                          "start"], ["y"], body=inner),
        ]  # fmt: skip
        return b.model(nodes, ["n", 8], ["n", 4])
    inner = oh.make_graph(
        [
            Node("MatMul", ["row", weight], ["b"]),
            Node("Add", ["state", "b"], ["next"]),
            Node("Identity", ["next"], ["each"]),
        ],
        "scan",
        [out("state", 1, [4]), out("row", 1, [32])],
        [out("next", 1, [4]), out("each", 1, [4])],
    )
    start = b.numbers("start", np.zeros(4, np.float32))
    nodes = [first, relu, Node("Scan", [start, "r"], ["last", "y"], body=inner, num_scan_inputs=1)]
    return b.model(nodes, [8, 8], [8, 4])


def siamese() -> onnx.ModelProto:
    """Two towers with the same weights."""
    b = Builder()
    first, second = b.weight("A", 4, 32), b.weight("B", 32, 4)
    nodes = [Node("Split", ["x"], ["x0", "x1"], axis=1)]
    for k in "01":
        nodes += [
            Node("MatMul", [f"x{k}", first], [f"a{k}"]),
            Node("Relu", [f"a{k}"], [f"r{k}"]),
            Node("MatMul", [f"r{k}", second], [f"b{k}"]),
        ]
    return b.model([*nodes, Node("Sub", ["b0", "b1"], ["y"])], ["n", 8], ["n", 4])


def unrolled() -> onnx.ModelProto:
    """A recurrent layer step by step: every step multiplies with the same weights."""
    b = Builder()
    w, r = b.weight("W", 2, 24), b.weight("R", 24, 24)
    nodes = [Node("Split", ["x"], [f"x{k}" for k in range(4)], axis=1)]
    for k in range(4):
        nodes.append(Node("MatMul", [f"x{k}", w], [f"a{k}"]))
        if k:
            nodes += [
                Node("Gemm", [f"h{k - 1}", r], [f"g{k}"]),
                Node("Add", [f"a{k}", f"g{k}"], [f"s{k}"]),
            ]
        nodes.append(Node("Tanh", [f"s{k}" if k else "a0"], [f"h{k}"]))
    nodes.append(Node("MatMul", ["h3", b.weight("O", 24, 4)], ["y"]))
    return b.model(nodes, ["n", 8], ["n", 4])


def quantized() -> onnx.ModelProto:
    b = Builder()
    nodes, rng = [], np.random.default_rng(1)
    for name, shape in (("A", (8, 32)), ("B", (32, 4))):
        q = b.numbers(f"{name}q", rng.integers(-90, 90, shape).astype(np.int8))
        scale = b.numbers(f"{name}s", np.geomspace(0.001, 0.02, shape[1]).astype(np.float32))
        nodes.append(Node("DequantizeLinear", [q, scale], [name], axis=1))
    nodes += [
        Node("MatMul", ["x", "A"], ["a"]),
        Node("Relu", ["a"], ["r"]),
        Node("MatMul", ["r", "B"], ["y"]),
    ]
    return b.model(nodes, ["n", 8], ["n", 4])


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    **{
        f"{op}-{d}": lambda op=op, d=d: recurrent(op, d)  # type: ignore[misc]
        for op in ("LSTM", "GRU", "RNN")
        for d in (1, 2)
    },
    "einsum": einsum,
    "experts": experts,
    **{kind: lambda kind=kind: body(kind) for kind in ("If", "Loop", "Scan")},  # type: ignore[misc]
    "shared": siamese,
    "unrolled": unrolled,
    "quantized": quantized,
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[models.Model, list[dict[str, Array]]]:
    model = NETWORKS[request.param]()
    sizes = [d.dim_value or 8 for d in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(2)
    batches = [{"x": rng.standard_normal(sizes).astype(np.float32)} for _ in range(10)]
    return models.load(model), batches


def curves_of(analysis: Analysis, batches: list[dict[str, Array]]) -> Any:
    return measure_curves(Measurement(analysis, analysis.groups, batches))


def test_every_group_is_priced_by_what_its_removal_does(network: Any) -> None:
    model, batches = network
    analysis = analyse(model)
    assert analysis.groups
    curves = curves_of(analysis, batches)
    assert not curves.declined
    fit, holdout = split_batches(analysis, batches)
    readers = refitted(analysis, calibrate(analysis, fit))
    removals = Removals(analysis, readers, fit, holdout)
    some = affordable(holdout, analysis, 3 * len(analysis.groups))
    error = OutputError(model, some, worst=1e3)
    for group in analysis.groups:
        one, units = curves.groups[group.name], len(group)
        assert sorted(one.order) == list(range(units))
        assert one.error[units] == 0
        assert (np.diff(one.error) <= 0).all()
        widths = sorted({max(round(units * share), 1) for share in (0.75, 0.5, 0.25)})
        measured = [error.of(removals.model(group, one.order[: units - w])) for w in widths]
        envelope = np.maximum.accumulate(measured[::-1])[::-1]
        np.testing.assert_allclose(one.error[widths], envelope, rtol=1e-3, atol=1e-9)
        if all(node not in readers for cut in group.slices for node in cut.nodes):
            removed = {group.name: one.order[: units - widths[0]].tolist()}
            plain = error.of(mask_model(analysis, removed))
            assert one.error[widths[0]] == pytest.approx(plain, rel=1e-3)


def test_a_budget_with_data_takes_units_of_every_kind(network: Any) -> None:
    model, batches = network
    analysis = analyse(model)
    dense = CostModel(analysis)().macs
    result = onnxprune.prune(model, target="macs=60%", calib=batches, round_to=1, cache=False)
    assert CostModel(analyse(result.model))().macs <= 0.6 * dense
    assert result.plan.removed


def test_parts_are_weighed_in_order_of_what_they_cost() -> None:
    """A unit that is read by nothing but zeros goes first, whatever its weights."""
    model = recurrent("LSTM", 1)
    stored = {t.name: t for t in model.graph.initializer}
    for name, axis in (("R", 2), ("O", 0)):
        array = nh.to_array(stored[name]).copy()
        np.moveaxis(array, axis, 0)[5] = 0
        stored[name].CopyFrom(nh.from_array(array, name))
    rng = np.random.default_rng(2)
    batches = [{"x": rng.standard_normal((8, 6, 8)).astype(np.float32)} for _ in range(4)]
    analysis = analyse(models.load(model))
    (one,) = curves_of(analysis, batches).groups.values()
    assert one.order[0] == 5


def test_masks_that_are_set_are_those_of_a_masked_model(network: Any) -> None:
    model, batches = network
    analysis = analyse(model)
    whole, error = OutputError(model, batches), DownstreamError(model, batches)
    for group in analysis.groups:
        masks = UnitMasks(analysis, group.name)
        opened = error.opened(masks.model, masks.values)
        for removed in ([0], [*range(0, len(group), 2)], [*range(1, len(group))]):
            reference = whole.of(mask_model(analysis, {group.name: removed}))
            assert opened(masks.tensors(removed)) == pytest.approx(reference, rel=1e-4, abs=1e-9)
