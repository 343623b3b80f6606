"""Models in onnxruntime's QOperator format stand for float ones, and are compared as these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from onnxprune import model as models
from onnxprune import prune, verify
from onnxprune.jobs.quantize.comparison import compare_quantized
from onnxprune.jobs.quantize.dequantize import dequantize, is_quantized
from onnxprune.jobs.quantize.qoperators import OPERATORS

Array = npt.NDArray[Any]

CONVOLUTIONS = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4, 8, 8] x) => (float[N, 6] y, int64[N, 1] best)
    <float[8, 4, 3, 3] W0, float[8] B0, float[8, 1, 3, 3] W1, float[8, 8, 1, 1] W2, float[16, 6] W3,
     float[6] B3, int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}, int64[2] halves = {4, 4},
     float four = {4}, float zero = {0}, float one = {1}> {
        a = Conv <pads = [1, 1, 1, 1]> (x, W0, B0)
        b = Relu (a)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
        q = Pad (p, pads)
        c = Conv <group = 8> (q, W1)
        d = LeakyRelu <alpha = 0.2> (c)
        e = Conv (d, W2)
        f = Sigmoid (e)
        g1 = Mul (e, f)
        h = Add (g1, d)
        s, t = Split <axis = 1> (h, halves)
        u = Concat <axis = 1> (t, s)
        v = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 0, 0]> (u)
        w = Concat <axis = 1> (v, h)
        m = GlobalAveragePool (w)
        n = Flatten (m)
        o = Gemm (n, W3, B3)
        z = Clip (o, zero, four)
        k = Softmax <axis = 1> (z)
        best = ArgMax <axis = 1> (k)
        y = Mul (k, one)
    }
"""
PRODUCTS = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 5, 16] x, bool[N, 5, 1] mask) => (float[N, 5, 16] y)
    <float[16, 48] W0, float[48] B0, float[16, 16] W1, int64[5] inner = {0, 5, 3, 2, 8},
     int64[3] outer = {0, 5, 16}, int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2},
     float low = {-0.5}> {
        a = MatMul (x, W0)
        b = Add (a, B0)
        c = Reshape (b, inner)
        d = Transpose <perm = [2, 0, 3, 1, 4]> (c)
        q = Gather <axis = 0> (d, i0)
        k = Gather <axis = 0> (d, i1)
        v = Gather <axis = 0> (d, i2)
        l = Transpose <perm = [0, 1, 3, 2]> (k)
        e = MatMul (q, l)
        f = Softmax <axis = -1> (e)
        h = MatMul (f, v)
        m = Transpose <perm = [0, 2, 1, 3]> (h)
        n = Reshape (m, outer)
        o = Where (mask, n, low)
        r = MatMul (o, W1)
        y = Add (r, x)
    }
"""


class Samples(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: list[dict[str, Array]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def build(text: str, folder: Path) -> Path:
    """A model with random weights."""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for value in list(proto.graph.value_info):
        size = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        array = rng.standard_normal(size) / np.sqrt(max(np.prod(size[1:]), 4))
        proto.graph.initializer.append(
            numpy_helper.from_array(array.astype(np.float32), value.name)
        )
    del proto.graph.value_info[:]
    for k, node in enumerate(proto.graph.node):
        node.name = f"n{k}"
    onnx.checker.check_model(proto, full_check=True)
    path = folder / "dense.onnx"
    onnx.save(proto, path)
    return path


def samples(path: Path, count: int = 8) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    feeds = []
    for _ in range(count):
        feed: dict[str, Array] = {}
        for value in onnx.load(path).graph.input:
            kind = value.type.tensor_type
            shape = [dim.dim_value or 2 for dim in kind.shape.dim]
            array = rng.standard_normal(shape)
            feed[value.name] = (
                array > 0 if kind.elem_type == onnx.TensorProto.BOOL else array.astype(np.float32)
            )
        feeds.append(feed)
    return feeds


def quantized(path: Path, **options: Any) -> Path:
    """The model in the QOperator format, as onnxruntime writes it."""
    result = path.with_name("int8.onnx")
    proto = onnx.load(path)
    options = {"weight_type": QuantType.QInt8, "extra_options": {}, **options}
    options["extra_options"] = {"ForceQuantizeNoInputCheck": True, **options["extra_options"]}
    quantize_static(
        proto, result, Samples(samples(path)), quant_format=QuantFormat.QOperator, **options
    )
    return result


def run(model: Any, feed: dict[str, Array]) -> list[Array]:
    if isinstance(model, models.Model):
        model = models.to_proto(model).SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return [np.asarray(array) for array in session.run(None, feed)]


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("text", [CONVOLUTIONS, PRODUCTS], ids=["convolutions", "products"])
def test_the_float_model_is_the_dense_one(text: str, per_channel: bool, tmp_path: Path) -> None:
    path = build(text, tmp_path)
    small = quantized(path, per_channel=per_channel)
    expected = {
        *("QLinearConv QGemm QLinearAdd QLinearMul QLinearConcat QLinearSigmoid".split()),
        *("QLinearLeakyRelu QLinearAveragePool QLinearGlobalAveragePool QLinearSoftmax".split()),
    }
    if text == PRODUCTS:
        expected = {"QLinearMatMul", "QLinearAdd", "QLinearSoftmax", "QLinearWhere"}
    assert expected <= operators(small)
    assert is_quantized(models.load(small))
    floats = dequantize(models.load(small))
    left = {node.op_type for graph in models.graphs(floats.model) for node in graph}
    assert not left & {*OPERATORS, "QuantizeLinear", "DequantizeLinear"}
    assert not floats.faults
    onnx.checker.check_model(models.to_proto(floats.model), full_check=True)
    feed = samples(path, 1)[0]
    for ours, theirs in zip(run(floats.model, feed), run(str(small), feed), strict=True):
        if ours.dtype == np.float32:
            assert np.abs(ours - theirs).mean() < 0.05 * np.abs(theirs).max()
    comparison = compare_quantized(models.load(path), models.load(small))
    assert (comparison.problem, comparison.changed, comparison.coarse) == ("", set(), set())
    result = verify(small, path)
    assert (result.ok, result.structure, result.changed) == (True, "verified", ())


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
def test_symmetric_activations_keep_their_nodes(kind: QuantType, tmp_path: Path) -> None:
    path = build(CONVOLUTIONS, tmp_path)
    small = quantized(
        path, activation_type=kind, extra_options={"ActivationSymmetric": kind == QuantType.QInt8}
    )
    assert verify(small, path).ok


@pytest.mark.parametrize("name", ["W0_quantized", "B0_quantized", "W1_scale", "W3_quantized"])
def test_another_value_is_noticed(name: str, tmp_path: Path) -> None:
    path = build(CONVOLUTIONS, tmp_path)
    small = quantized(path)
    proto = onnx.load(small)
    (tensor,) = (each for each in proto.graph.initializer if each.name == name)
    array = numpy_helper.to_array(tensor).copy()
    if array.dtype == np.float32:
        array = array * np.float32(1.5)
    else:
        array.flat[3] ^= 0x40
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(proto, small)
    assert len(compare_quantized(models.load(path), models.load(small)).changed) == 1
    assert verify(small, path).changed


def test_another_operator_is_noticed(tmp_path: Path) -> None:
    path = build(CONVOLUTIONS, tmp_path)
    small = quantized(path)
    proto = onnx.load(small)
    (node,) = (each for each in proto.graph.node if each.op_type == "QLinearLeakyRelu")
    node.attribute[0].f = 0.3
    onnx.save(proto, small)
    assert compare_quantized(models.load(path), models.load(small)).problem
    assert not verify(small, path).ok


def test_what_was_removed_before_is_derived(tmp_path: Path) -> None:
    path = build(CONVOLUTIONS, tmp_path)
    cut = prune(path, ratio=0.3, round_to=1).save(tmp_path / "cut.onnx")
    (tmp_path / "cut").mkdir()
    plain = tmp_path / "cut" / "dense.onnx"
    plain.write_bytes(models.to_proto(models.load(cut)).SerializeToString())
    result = verify(quantized(plain), path)
    assert result.ok
    assert sum(map(len, result.plan.removed.values())) > 0
