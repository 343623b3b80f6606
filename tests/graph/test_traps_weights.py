"""Weights in every place and shape a graph may keep them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.skeletons.net import FLOAT, INT64, Net
from onnxprune import model as models
from onnxprune.graph.analysis import analyse
from onnxprune.graph.surgery import cut
from verified_cuts import choose, verified_cut


def rows() -> tuple[Net, str]:
    net = Net(11)
    return net, net.input("x", ("batch", 8), width=8)


def logits(net: Net, y: str) -> onnx.ModelProto:
    return net.build(net.gemm(net.node("Relu", y), 5), ("batch", 5))


def picture(opset: int = 17) -> tuple[Net, str]:
    net = Net(12, opset=opset)
    return net, net.input("image", ("batch", 3, "height", "width"), width=3)


def finish(net: Net, x: str) -> onnx.ModelProto:
    return net.build(net.head(x, 5), ("batch", 5))


# -- matrix products -------------------------------------------------------------------------------


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [(12,), (1, 12), (), (1,), (1, 1), None])
def test_gemm_in_all_its_spellings(trans_b: int, bias: tuple[int, ...] | None) -> None:
    net, x = rows()
    weight = net.weight(*((12, 8) if trans_b else (8, 12)), fan=8)
    extra = [] if bias is None else [net.constant(np.full(bias, 0.3, np.float32))]
    y = net.node("Gemm", x, weight, *extra, width=12, transB=trans_b, alpha=0.5, beta=1.5)
    result = verified_cut(logits(net, y))
    assert result.kinds == {"ffn": 4}
    if bias is not None:
        kept = tuple(8 if n == 12 else n for n in bias)
        assert result.stored(result.nodes("Gemm")[0], 2).shape == kept


def test_gemm_of_a_transposed_activation_with_a_bias_per_row_and_column() -> None:
    net = Net(13)
    x = net.input("x", (8, 6), width=8)
    y = net.node(
        "Gemm", x, net.weight(12, 8, fan=8), net.weight(6, 12, fan=1), transA=1, transB=1, width=12
    )
    y = net.gemm(net.node("Relu", y), 5)
    result = verified_cut(net.build(y, (6, 5)))
    assert result.kinds == {"ffn": 4}
    assert result.stored(result.nodes("Gemm")[0], 2).shape == (6, 8)


def test_a_weight_on_the_left_loses_its_rows() -> None:
    net = Net(14)
    x = net.input("x", ("batch", 8, 6))
    y = net.node("Relu", net.node("MatMul", net.weight(12, 8, fan=8), x))
    y = net.node("MatMul", net.weight(5, 12, fan=12), y)
    result = verified_cut(net.build(y, ("batch", 5, 6)))
    assert result.units == 4
    assert [result.stored(n, 0).shape for n in result.nodes("MatMul")] == [(8, 8), (5, 8)]


def test_batched_weights_lose_units_and_whole_batches() -> None:
    """Experts written as one matrix product over [experts, in, out]; they are summed in the end."""
    net = Net(15)
    x = net.input("x", ("batch", 1, "length", 8), width=8)
    y = net.node("Relu", net.node("MatMul", x, net.weight(4, 8, 12, fan=8)))
    y = net.node("MatMul", y, net.weight(4, 12, 5, fan=12))
    y = net.node("ReduceSum", y, net.constant([1]), keepdims=0)
    result = verified_cut(net.build(y, ("batch", "length", 5)))
    assert result.units == 4 + 1
    assert [result.stored(n, 1).shape for n in result.nodes("MatMul")] == [(3, 8, 8), (3, 8, 5)]


# -- one value per channel -------------------------------------------------------------------------

PER_CHANNEL: dict[str, Callable[[Net, str, tuple[int, ...]], str]] = {
    "PRelu": lambda net, x, shape: net.node("PRelu", x, uniform(net, shape)),
    "layer scale": lambda net, x, shape: net.node("Mul", x, uniform(net, shape)),
    "bias": lambda net, x, shape: net.node("Add", uniform(net, shape), x, width=net.width[x]),
    "Max": lambda net, x, shape: net.node("Max", x, uniform(net, shape), net.scalar(0.1)),
    "Where": lambda net, x, shape: net.node(
        "Where",
        net.node("Greater", x, net.scalar(0.0)),
        x,
        uniform(net, shape),
        width=net.width[x],
    ),
    "Clip": lambda net, x, _: net.node("Clip", x, net.scalar(-0.4), net.scalar(0.4)),
}


def uniform(net: Net, shape: tuple[int, ...]) -> str:
    return net.constant(net.rng.uniform(0.1, 0.9, shape).astype(np.float32))


@pytest.mark.parametrize("shape", [(10, 1, 1), (1, 10, 1, 1), (10, 8, 8), (1, 1, 1), (), (8,)])
@pytest.mark.parametrize("kind", PER_CHANNEL)
def test_constants_of_any_broadcast_rank(kind: str, shape: tuple[int, ...]) -> None:
    net = Net(16)
    x = net.conv(net.input("image", ("batch", 3, 8, 8), width=3), 10, 3)
    if kind == "PRelu" and shape == ():
        shape = (1,)  # onnxruntime wants a rank
    y = PER_CHANNEL[kind](net, x, shape)
    model = finish(net, net.conv(y, 6, 3))
    result = verified_cut(model)
    assert result.kinds == {"channel": 4 + 2}
    sizes = {tuple(t.dims) for t in model.graph.initializer}
    after = {tuple(t.dims) for t in models.to_proto(result.small).graph.initializer}
    if kind != "Clip":
        assert shape in sizes
        assert tuple(6 if n == 10 else n for n in shape) in after


# -- convolutions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [1, 2])
def test_transposed_convolutions_have_their_axes_swapped(group: int) -> None:
    net, x = picture()
    x = net.conv(x, 12, 3)
    weight, bias = net.weight(12, 8 // group, 3, 3, fan=60), net.vector(8, -0.2, 0.2)
    y = net.node(
        "ConvTranspose",
        x,
        weight,
        bias,
        width=8,
        strides=[2, 2],
        output_padding=[1, 1],
        pads=[1, 1, 1, 1],
        group=group,
    )
    result = verified_cut(finish(net, net.conv(net.node("Relu", y), 6, 3)))
    (node,) = result.nodes("ConvTranspose")
    if group == 1:
        assert result.units == 4 + 3 + 2
        assert result.stored(node, 1).shape == (8, 5, 3, 3)
    else:
        assert result.units > 2
        assert result.stored(node, 1).shape[0] < 12 or result.stored(node, 1).shape[1] < 4


@pytest.mark.parametrize("multiplier", [1, 2, 3])
def test_depthwise_convolutions_with_a_multiplier(multiplier: int) -> None:
    net, x = picture()
    x = net.conv(x, 8, 3)
    y = net.conv(x, 8 * multiplier, 3, groups=8)
    result = verified_cut(finish(net, net.conv(net.node("Relu", y), 6, 3)))
    depthwise = result.nodes("Conv")[1]
    assert depthwise.attributes["group"].as_int() == 5
    # One of several outputs per channel can leave too, in all channels at once.
    assert result.stored(depthwise, 1).shape == (5 * max(multiplier - 1, 1), 1, 3, 3)


def test_one_output_channel_is_not_depthwise_and_stays() -> None:
    net, x = picture()
    gate = net.node("Sigmoid", net.conv(net.node("Relu", net.conv(x, 10, 3)), 1, 1))
    y = net.node("Mul", net.conv(x, 8, 3), gate)
    result = verified_cut(finish(net, net.conv(y, 6, 3)))
    assert result.kinds == {"channel": 4 + 3 + 2}
    assert result.stored(result.nodes("Conv")[1], 1).shape == (1, 6, 1, 1)


def test_group_equal_to_the_outputs_alone_is_no_depthwise_convolution() -> None:
    """Eight inputs, four groups, four outputs: every output reads two inputs of its own."""
    net, x = picture()
    x = net.conv(x, 8, 3)
    y = net.conv(x, 4, 3, groups=4)
    result = verified_cut(finish(net, net.conv(net.node("Relu", y), 6, 3)))
    grouped = result.nodes("Conv")[1]
    inputs = result.stored(result.nodes("Conv")[0], 1).shape[0]
    assert result.stored(grouped, 1).shape[1] * grouped.attributes["group"].as_int() == inputs < 8


# -- where weights are kept ------------------------------------------------------------------------


def test_a_weight_shared_by_equal_cuts_is_stored_once() -> None:
    """The same layer applied twice to a residual stream: one kept set, one tensor."""
    net = Net(17)
    x = net.dense(net.input("x", ("batch", 8), width=8), 12)
    weight = net.weight(12, 12, fan=12)
    for _ in range(2):
        x = net.node("Add", x, net.node("Tanh", net.node("MatMul", x, weight)))
    result = verified_cut(logits(net, x))
    assert result.kinds == {"ffn": 4}
    first, second = result.nodes("MatMul")[1:3]
    assert first.inputs[1] is second.inputs[1]
    assert result.stored(first, 1).shape == (8, 8)


def test_a_vector_shared_by_unequal_cuts_is_copied() -> None:
    """One zero bias, as constant folding leaves it, in two layers that are cut apart."""
    net, x = rows()
    bias = net.vector(12, -0.5, 0.5)
    y = net.node("Gemm", x, net.weight(8, 12, fan=8), bias, width=12)
    y = net.node("Gemm", net.node("Relu", y), net.weight(12, 12, fan=12), bias, width=12)
    model = logits(net, y)
    first, second = (g.name for g in analyse(models.load(model)).groups)
    result = verified_cut(model, {first: [0, 1, 5]}, {first: [0], second: [1]})
    a, b, _ = result.nodes("Gemm")
    assert (result.stored(a, 2).shape, result.stored(b, 2).shape) == ((9,), (12,))
    assert b.inputs[2].name == bias


@pytest.mark.parametrize("transposed", [False, True])
def test_tied_embeddings_lose_the_stream_and_keep_the_vocabulary(transposed: bool) -> None:
    net = Net(18)
    ids = net.input("ids", ("batch", "length"), INT64)
    table = net.weight(20, 12, fan=1)
    x = net.node("Gather", table, ids, width=12)
    x = net.node("Add", x, net.dense(net.node("Relu", net.dense(x, 16)), 12))
    y = net.node("MatMul", x, net.node("Transpose", table, perm=[1, 0]))
    model = net.build(y, ("batch", "length", 20))
    if transposed:  # an exporter that folded the Transpose stores the table twice
        value = next(t for t in model.graph.initializer if t.name == table)
        array = np.ascontiguousarray(numpy_helper.to_array(value).T)
        model.graph.initializer.append(numpy_helper.from_array(array, "head"))
        node = next(n for n in model.graph.node if n.op_type == "Transpose")
        model.graph.node.remove(node)
        for other in model.graph.node:
            other.input[:] = ["head" if i == node.output[0] else i for i in other.input]
    result = verified_cut(model, high=20)
    assert result.units == 6 + 4
    assert result.stored(result.nodes("Gather")[0], 0).shape == (20, 8)
    assert "Gather" in result.why("Gather", 0, 0, position=0)


def test_initializers_that_are_also_inputs_are_cut_in_both_places() -> None:
    """IR version 3 lists every initializer among the graph's inputs."""
    net, x = rows()
    model = logits(net, net.gemm(x, 12))
    model.ir_version = 3
    model.opset_import[0].version = 9
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, FLOAT, list(tensor.dims))
        )
    result = verified_cut(model)
    assert result.kinds == {"ffn": 4}
    small = models.to_proto(result.small)
    assert small.ir_version == 3
    stored = {t.name: list(t.dims) for t in small.graph.initializer}
    listed = {
        i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in small.graph.input
    }
    assert {name: listed[name] for name in stored} == stored
    assert [8, 8] in stored.values()


def through(net: Net, how: str, array: np.ndarray) -> str:
    """A float weight of this content behind a node."""
    if how == "Identity":
        return net.node("Identity", net.constant(array))
    if how == "Cast":
        return net.node("Cast", net.constant(array.astype(np.float16)), to=FLOAT)
    if how == "Transpose":
        return net.node("Transpose", net.constant(np.ascontiguousarray(array.T)), perm=[1, 0])
    if how == "Reshape":
        return net.node("Reshape", net.constant(array.ravel()), net.constant(list(array.shape)))
    if how == "DequantizeLinear":
        codes = np.rint(array * 64).clip(-127, 127).astype(np.int8)
        return net.node("DequantizeLinear", net.constant(codes), net.scalar(1 / 64))
    if how == "Mul":
        return net.node("Mul", net.constant(array * 2), net.scalar(0.5))
    if how == "Concat":
        parts = net.constant(array[:4]), net.constant(array[4:])
        return net.node("Concat", *parts, axis=0)
    name = net.name("held")
    net.nodes.append(
        helper.make_node("Constant", [], [name], name, value=numpy_helper.from_array(array, name))
    )
    return name


@pytest.mark.parametrize(
    "how",
    ["Identity", "Cast", "Transpose", "Reshape", "DequantizeLinear", "Mul", "Concat", "Constant"],
)
def test_nodes_between_a_weight_and_its_reader(how: str) -> None:
    net, x = rows()
    first, second = (
        (net.rng.standard_normal(shape) / 4).astype(np.float32) for shape in ((8, 12), (12, 5))
    )
    y = net.node("MatMul", x, through(net, how, first))
    y = net.node("MatMul", net.node("Relu", y), through(net, how, second))
    result = verified_cut(net.build(y, ("batch", 5)))
    assert result.units == 4
    stored = [models.constant(v).size for v in models.constants(result.small).values()]
    assert sum(n for n in stored if n > 2) <= 8 * 8 + 8 * 5


def test_sparse_initializers_are_cut_like_dense_ones() -> None:
    net, x = rows()
    model = logits(net, net.gemm(x, 12))
    dense = model.graph.initializer[0]
    array = numpy_helper.to_array(dense)
    name = dense.name
    flat = np.flatnonzero(np.abs(array.ravel()) > 0.1)
    values = numpy_helper.from_array(array.ravel()[flat], name)
    places = numpy_helper.from_array(flat.astype(np.int64), f"{name}_indices")
    model.graph.initializer.remove(dense)
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, places, list(array.shape))
    )
    assert verified_cut(model).kinds == {"ffn": 4}


def test_local_functions_are_written_out_first() -> None:
    body = [
        helper.make_node("Gemm", ["a", "w", "b"], ["c"], transB=1),
        helper.make_node("Relu", ["c"], ["d"]),
    ]
    opsets = [helper.make_opsetid("", 17)]
    layer = helper.make_function("mine", "Layer", ["a", "w", "b"], ["d"], body, opsets)
    net, x = rows()
    for size in (12, 10):
        weight, bias = net.weight(size, net.width[x], fan=8), net.vector(size, -0.2, 0.2)
        x = net.node("Gemm", x, weight, bias, width=size, transB=1)
    model = logits(net, x)
    for node in model.graph.node[:2]:
        node.op_type, node.domain = "Layer", "mine"
        del node.attribute[:]
    model.functions.append(layer)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    assert verified_cut(model).kinds == {"ffn": 4 + 4}


@pytest.mark.parametrize("described", [False, True])
def test_an_operator_nobody_knows_pins_its_surroundings_and_says_so(described: bool) -> None:
    net, x = rows()
    x = net.node("Relu", net.gemm(x, 12))
    model = logits(net, net.gemm(net.node("Relu", net.gemm(x, 10)), 6))
    model.graph.node[3].domain = "strange"
    model.opset_import.append(helper.make_opsetid("strange", 1))
    if described:
        name = model.graph.node[3].output[0]
        model.graph.value_info.append(helper.make_tensor_value_info(name, FLOAT, ("batch", 10)))
    analysis = analyse(models.load(model))
    assert [len(g) for g in analysis.groups] == ([12, 6] if described else [12])
    reasons = [p.reason for p in analysis.pinned if p.size == 10]
    assert "no rule for operator strange::Relu" in reasons
    small = cut(analysis, choose(analysis, 0.4, 0))
    assert [n.domain for n in small.ir.graph if n.op_type == "Relu"] == ["", "strange", ""]


def test_external_data_is_read_lazily_and_written_anew(tmp_path: Path) -> None:
    net, x = rows()
    model = logits(net, net.gemm(x, 400))
    path = tmp_path / "dense.onnx"
    onnx.save(model, path, save_as_external_data=True, location="dense.bin", size_threshold=64)
    before = (tmp_path / "dense.bin").read_bytes()
    result = verified_cut(models.load(path))
    assert result.kinds == {"ffn": 160}
    out = models.save(result.small, tmp_path / "small.onnx", external=True)
    assert (tmp_path / "dense.bin").read_bytes() == before
    again = onnx.load(out)
    assert {tuple(t.dims) for t in again.graph.initializer} >= {(240, 8), (240,), (5, 240)}
