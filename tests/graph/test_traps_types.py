"""Quantised and half-precision graphs: scales and zero points go with weights, packed ones stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.skeletons.net import FLOAT, Net
from onnxprune import model as models
from onnxprune.evaluate.equivalence import TOLERANCE
from onnxprune.graph.analysis import analyse
from onnxprune.graph.surgery import cut
from onnxprune.runtime import open_session
from verified_cuts import verified_cut

MS = "com.microsoft"
PICTURE = ("batch", 3, "height", "width")


def codes(net: Net, *shape: int, kind: type = np.int8, low: int = -100, high: int = 100) -> str:
    return net.constant(net.rng.integers(low, high, shape).astype(kind))


def scales(net: Net, *shape: int) -> str:
    return net.constant(net.rng.uniform(0.002, 0.006, shape).astype(np.float32))


def activation(net: Net, x: str, zero: int = 128) -> str:
    step, point = net.scalar(0.03), net.constant(np.array(zero, np.uint8))
    return net.node("DequantizeLinear", net.node("QuantizeLinear", x, step, point), step, point)


@pytest.mark.parametrize("group", [1, 10])
@pytest.mark.parametrize("per", ["axis", "tensor"])
def test_scales_and_zero_points_leave_with_their_weights(per: str, group: int) -> None:
    net = Net(51)
    x = activation(net, net.node("Relu", net.conv(net.input("image", PICTURE, width=3), 10, 3)))
    n = [12 if group == 1 else 10] if per == "axis" else []
    weight = net.node(
        "DequantizeLinear",
        codes(net, 12 if group == 1 else 10, 10 // group, 3, 3),
        scales(net, *n),
        codes(net, *n, low=-3, high=3),
        axis=0,
    )
    wide = 12 if group == 1 else 10
    offset = codes(net, wide, kind=np.int32, low=-500, high=500)
    bias = net.node("DequantizeLinear", offset, scales(net, *n), axis=0)
    y = net.node("Conv", x, weight, bias, width=wide, group=group, pads=[1, 1, 1, 1])
    y = activation(net, net.node("Relu", y))
    result = verified_cut(net.build(net.head(net.conv(y, 6, 3), 5), ("batch", 5)), limit=2e-2)
    assert result.units == 4 + 2 + (4 if group == 1 else 0)
    node = next(
        n
        for n in result.nodes("DequantizeLinear")
        if len(n.inputs) == 3 and n.inputs[0].is_initializer()
    )
    kept = result.stored(node, 0).shape[0]
    assert kept == (8 if group == 1 else 6)
    assert result.stored(node, 1).shape == result.stored(node, 2).shape == ((kept,) if n else ())


def test_scales_along_the_contracted_axis_of_a_matrix() -> None:
    """Weights [in, out] quantised per input row: the scale goes with the producer's unit."""
    net = Net(52)
    x = net.node("Relu", net.dense(net.input("x", ("batch", 8), width=8), 12))
    weight = net.node("DequantizeLinear", codes(net, 12, 5), scales(net, 12), axis=0)
    result = verified_cut(net.build(net.node("MatMul", x, weight), ("batch", 5)))
    assert result.kinds == {"ffn": 4}
    node = next(n for n in result.nodes("DequantizeLinear"))
    assert [result.stored(node, k).shape for k in (0, 1)] == [(8, 5), (8,)]


def test_blocks_of_codes_stay_along_their_axis_and_the_other_is_free() -> None:
    net = Net(53, opset=21)
    x = net.node("Relu", net.dense(net.input("x", ("batch", 8), width=8), 32))
    weight = net.node(
        "DequantizeLinear", codes(net, 32, 12), scales(net, 2, 12), axis=0, block_size=16
    )
    y = net.node("Relu", net.node("MatMul", x, weight, width=12))
    model = net.build(net.dense(y, 5), ("batch", 5))
    model.ir_version = 10
    result = verified_cut(model)
    assert result.kinds == {"ffn": 4}
    node = result.nodes("DequantizeLinear")[0]
    assert [result.stored(node, k).shape for k in (0, 1)] == [(32, 8), (2, 8)]
    assert "blocks" in result.why("MatMul", 0, 1)


def quantised_operators() -> tuple[Net, str]:
    net = Net(54, microsoft=True)
    x = net.input("image", ("batch", 3, 8, 8), width=3)
    return net, net.node("QuantizeLinear", x, net.scalar(0.03), zero(net))


def zero(net: Net, value: int = 128) -> str:
    return net.constant(np.array(value, np.uint8))


def qconv(net: Net, x: str, inputs: int, outputs: int, *, per_axis: bool, group: int = 1) -> str:
    n = [outputs] if per_axis else []
    weight = codes(net, outputs, inputs // group, 3, 3), scales(net, *n), codes(net, *n, high=-99)
    weight = (weight[0], weight[1], net.constant(np.zeros(n, np.int8)))
    bias = codes(net, outputs, kind=np.int32, low=-500, high=500)
    step = net.scalar(0.03)
    return net.node(
        "QLinearConv",
        x,
        step,
        zero(net),
        *weight,
        step,
        zero(net),
        bias,
        width=outputs,
        group=group,
        pads=[1, 1, 1, 1],
    )


@pytest.mark.parametrize("per_axis", [False, True])
def test_quantised_convolutions(per_axis: bool) -> None:
    net, x = quantised_operators()
    x = qconv(net, x, 3, 10, per_axis=per_axis)
    y = qconv(net, x, 10, 10, per_axis=per_axis, group=10)
    step = net.scalar(0.03)
    vectors = [step, zero(net)] * 2
    y = net.node("QLinearAdd", x, vectors[0], vectors[1], y, *vectors, domain=MS)
    y = qconv(net, y, 10, 12, per_axis=per_axis)
    y = net.node("QLinearGlobalAveragePool", y, *vectors, domain=MS, channels_last=0)
    y = net.node("Flatten", net.node("DequantizeLinear", y, step, zero(net)), width=12)
    result = verified_cut(net.build(net.gemm(y, 5), ("batch", 5)), limit=2e-2)
    assert result.kinds == {"channel": 4 + 4}
    depthwise = result.nodes("QLinearConv")[1]
    assert depthwise.attributes["group"].as_int() == 6
    assert result.stored(depthwise, 3).shape == (6, 1, 3, 3)
    assert result.stored(depthwise, 4).shape == ((6,) if per_axis else ())


@pytest.mark.parametrize("op", ["QLinearMatMul", "QGemm"])
@pytest.mark.parametrize("per_axis", [False, True])
def test_quantised_matrices(per_axis: bool, op: str) -> None:
    net = Net(55, microsoft=True)
    x = net.input("x", ("batch", 8), width=8)
    step = net.scalar(0.03)
    x = net.node("QuantizeLinear", x, step, zero(net))
    for inputs, outputs in ((8, 12), (12, 5)):
        n = [outputs] if per_axis else []
        shape = (outputs, inputs) if op == "QGemm" else (inputs, outputs)
        weight = codes(net, *shape), scales(net, *n), net.constant(np.full(n, 3, np.int8))
        if op == "QGemm":
            bias = codes(net, outputs, kind=np.int32)
            sides = (step, zero(net), *weight, bias, step, zero(net))
            x = net.node(op, x, *sides, domain=MS, transB=1, alpha=1.0)
        else:
            x = net.node(op, x, step, zero(net), *weight, step, zero(net))
    y = net.node("DequantizeLinear", x, step, zero(net))
    result = verified_cut(net.build(y, ("batch", 5)), limit=2e-2)
    assert result.units == 4
    first, second = result.nodes(op)
    assert result.stored(first, 4).shape == ((8,) if per_axis else ())
    assert sorted(result.stored(second, 3).shape) == [5, 8]


def test_quantised_branches_joined() -> None:
    net, x = quantised_operators()
    step = net.scalar(0.03)
    a, b = (qconv(net, x, 3, n, per_axis=True) for n in (8, 6))
    sides = [step, zero(net)]
    y = net.node("QLinearConcat", *sides, a, *sides, b, *sides, domain=MS, axis=1, width=14)
    y = net.node("DequantizeLinear", qconv(net, y, 14, 5, per_axis=True), *sides)
    result = verified_cut(net.build(net.head(y, 5), ("batch", 5)), limit=2e-2)
    assert result.kinds == {"channel": 3 + 2 + 2}


@pytest.mark.parametrize("per_axis", [False, True])
def test_matrices_of_integers_with_dynamic_scales(per_axis: bool) -> None:
    """What quantize_dynamic writes: DynamicQuantizeLinear, MatMulInteger, Cast, Mul. One scale for
    all units makes those that are quantised inexact; those that come out are exact."""
    net = Net(56)
    x = net.node("Relu", net.dense(net.input("x", ("batch", 8), width=8), 16))
    y, step, point = net.nodes_with("DynamicQuantizeLinear", [x], 3)
    n = [12] if per_axis else []
    both = net.node("Mul", step, scales(net, *n))
    weight = codes(net, 16, 12), codes(net, *n, low=-5, high=5)
    y = net.node("Cast", net.node("MatMulInteger", y, weight[0], point, weight[1]), to=FLOAT)
    y = net.node("Relu", net.node("Mul", y, both), width=12)
    result = verified_cut(net.build(net.dense(y, 5), ("batch", 5)), limit=2e-2)
    assert result.kinds == {"ffn": 4}
    (why,) = [g.reason for g in result.analysis.groups if not g.exact]
    assert "DynamicQuantizeLinear" in why


@pytest.mark.parametrize("per_column", [False, True])
def test_a_dynamically_quantized_lstm_loses_hidden_units(per_column: bool) -> None:
    """What quantize_dynamic makes of an LSTM: one scale for what it reads, so it is inexact."""
    net = Net(58, microsoft=True)
    x = net.node("Relu", net.dense(net.input("x", (5, "batch", 8), width=8), 12))
    columns = [2, 40] if per_column else [2]
    weights = codes(net, 2, 12, 40), codes(net, 2, 10, 40)
    bias = net.constant(np.zeros((2, 80), np.float32))
    points = [net.constant(np.full(columns, k, np.int8)) for k in (2, -1)]
    inputs = [x, *weights, bias, "", "", "", "", scales(net, *columns), points[0]]
    inputs += [scales(net, *columns), points[1]]
    settings = {"hidden_size": 10, "direction": "bidirectional", "domain": MS}
    y = net.nodes_with("DynamicQuantizeLSTM", inputs, 1, **settings)[0]
    y = net.node("Transpose", y, perm=[0, 2, 1, 3])
    y = net.node("Reshape", y, net.constant([0, 0, 20]), width=20)
    model = net.build(net.dense(y, 3), (5, "batch", 3))
    analysis = analyse(models.load(model))
    (hidden,) = [g for g in analysis.groups if g.kind == "hidden-unit" or len(g) == 10]
    assert analysis.reachable > 0.99  # all but the bias of the outputs
    assert "DynamicQuantizeLSTM" in hidden.reason
    inputs_of = {len(g): g for g in analysis.groups}
    removed = {hidden.name: [1, 4, 7], inputs_of[12].name: [0, 3]}
    small = cut(analysis, removed)
    (out,) = open_session(small).run({"x": np.ones((5, 2, 8), np.float32)}).values()
    assert out.shape == (5, 2, 3)
    (node,) = [n for n in small.ir.graph if n.op_type == "DynamicQuantizeLSTM"]
    assert node.attributes["hidden_size"].as_int() == 7
    assert models.constant(node.inputs[2]).shape.numpy() == (2, 7, 28)


def test_codes_packed_in_blocks_stay_and_say_so() -> None:
    net = Net(57, microsoft=True)
    x = net.node("Relu", net.dense(net.input("x", ("batch", 8), width=8), 32))
    packed = net.constant(net.rng.integers(0, 255, (12, 2, 8)).astype(np.uint8))
    y = net.node(
        "MatMulNBits",
        x,
        packed,
        scales(net, 24),
        domain=MS,
        K=32,
        N=12,
        bits=4,
        block_size=16,
        width=12,
    )
    y = net.dense(net.node("Relu", net.dense(net.node("Relu", y), 10)), 5)
    result = verified_cut(net.build(y, ("batch", 5)))
    assert result.kinds == {"ffn": 4}
    assert "4-bit codes" in result.why("MatMulNBits", 0, 0)
    assert "4-bit codes" in result.why("MatMul", 0, 1)


def as_type(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """The same float model in another floating-point type."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for tensor in model.graph.initializer:
        if tensor.data_type == FLOAT:
            array = numpy_helper.to_array(tensor).astype(dtype)
            tensor.CopyFrom(
                helper.make_tensor(tensor.name, kind, array.shape, array.tobytes(), raw=True)
            )
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == FLOAT:
            value.type.tensor_type.elem_type = kind
    return model


@pytest.mark.parametrize("kind", ["FLOAT16", "DOUBLE"])
def test_other_float_types_are_cut_and_proved_at_their_own_tolerance(kind: str) -> None:
    net = Net(58)
    x = net.node("Relu", net.dense(net.input("x", ("batch", 8), width=8), 24))
    x = net.node("Add", x, net.dense(net.node("Tanh", net.dense(x, 20)), 24))
    number = getattr(onnx.TensorProto, kind)
    dtype = helper.tensor_dtype_to_np_dtype(number)
    model = as_type(net.build(net.dense(x, 5), ("batch", 5)), number)
    result = verified_cut(model, limit=TOLERANCE[dtype.name] * 2)
    assert result.kinds == {"ffn": 9 + 8}
    assert {t.dtype for t in (result.stored(n, 1) for n in result.nodes("MatMul"))} == {dtype}


def test_bfloat16_weights_behind_casts() -> None:
    """onnxruntime's processors compute little in bfloat16, so it is a storage type here."""
    net = Net(59)
    x = net.input("x", ("batch", 8), width=8)
    kind = onnx.TensorProto.BFLOAT16
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for inputs, outputs in ((8, 12), (12, 5)):
        name = net.name("half")
        array = (net.rng.standard_normal((inputs, outputs)) / 3).astype(dtype)
        net.initializers.append(
            helper.make_tensor(name, kind, array.shape, array.tobytes(), raw=True)
        )
        x = net.node("Relu", net.node("MatMul", x, net.node("Cast", name, to=FLOAT)))
    result = verified_cut(net.build(x, ("batch", 5)))
    assert result.kinds == {"ffn": 4}
    assert result.stored(result.nodes("Cast")[0], 0).shape == (8, 8)
    assert result.stored(result.nodes("Cast")[0], 0).dtype == dtype
