"""A quantized model without its integers is the float model that it was made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.jobs.quantize.dequantize import dequantize, is_quantized
from onnxprune.model import array_of, constants, load, to_proto
from onnxprune.runtime import open_session

Array = np.ndarray[Any, Any]


def _value(name: str, *shape: int | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _model(
    nodes: list[onnx.NodeProto], stored: dict[str, Array], opset: int = 21
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(
        nodes, "g", [_value("x", None, 8)], [_value("y", None, None)], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    return model


def _codes(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-127, 128, shape).astype(np.int8)


def _per_tensor() -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["w"]),
        helper.make_node("DequantizeLinear", ["bq", "bs", "bz"], ["b"]),
        helper.make_node("Gemm", ["xd", "w", "b"], ["y"]),
    ]
    stored = {
        "s": np.float32(0.02), "z": np.uint8(128), "wq": _codes((8, 5)), "ws": np.float32(0.01),
        "wz": np.int8(0), "bq": np.arange(5, dtype=np.int32), "bs": np.float32(0.0002),
        "bz": np.int32(0),
    }  # fmt: skip
    return _model(nodes, {name: np.asarray(array) for name, array in stored.items()})


def _per_channel() -> onnx.ModelProto:
    nodes = [
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["w"], axis=0),
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "wt"], ["y"]),
    ]
    stored = {
        "wq": _codes((5, 8)),
        "ws": np.linspace(0.01, 0.05, 5, dtype=np.float32),
        "wz": np.arange(5).astype(np.int8),
    }
    return _model(nodes, stored)


def _blocks() -> onnx.ModelProto:
    nodes = [
        helper.make_node("DequantizeLinear", ["wq", "ws"], ["w"], axis=0, block_size=4),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    scales = np.linspace(0.01, 0.05, 10, dtype=np.float32).reshape(2, 5)
    return _model(nodes, {"wq": _codes((8, 5)), "ws": scales})


def _dynamic() -> onnx.ModelProto:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        helper.make_node("MatMulInteger", ["xq", "wq", "xz", "wz"], ["p"]),
        helper.make_node("Cast", ["p"], ["pc"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["xs", "ws"], ["s"]),
        helper.make_node("Mul", ["pc", "s"], ["y"]),
    ]
    stored = {
        "wq": _codes((8, 5)),
        "ws": np.linspace(0.01, 0.05, 5, dtype=np.float32),
        "wz": np.zeros(5, np.int8),
    }
    return _model(nodes, stored)


def _moved() -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("Transpose", ["xq"], ["xt_quantized"], perm=[1, 0]),
        helper.make_node("DequantizeLinear", ["xt_quantized", "s", "z"], ["xt"]),
        helper.make_node("Relu", ["xt"], ["y"]),
    ]
    return _model(nodes, {"s": np.asarray(np.float32(0.02)), "z": np.asarray(np.uint8(128))})


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "per tensor": _per_tensor,
    "per channel": _per_channel,
    "in blocks": _blocks,
    "dynamic": _dynamic,
    "moved integers": _moved,
}


@pytest.mark.parametrize("name", MODELS)
def test_the_float_model_computes_the_same_up_to_steps(name: str) -> None:
    model = load(MODELS[name]())
    result = dequantize(model)
    assert is_quantized(model)
    assert not is_quantized(result.model)
    assert not result.faults
    onnx.checker.check_model(to_proto(result.model))
    x = np.random.default_rng(1).uniform(-2, 2, (8, 8)).astype(np.float32)
    one, two = (open_session(each).run({"x": x})["y"] for each in (model, result.model))
    assert np.allclose(one, two, atol=0.02 * np.abs(two).max() + 0.02)
    assert is_quantized(model), "the caller's model changed"


@pytest.mark.parametrize("name", ["per tensor", "per channel", "in blocks", "dynamic"])
def test_weights_lie_on_their_grid(name: str) -> None:
    result = dequantize(load(MODELS[name]()))
    stored = constants(result.model)
    assert result.steps
    for each, step in result.steps.items():
        places = array_of(stored[each]).astype(np.float64) / step
        assert np.allclose(places, np.rint(places), atol=1e-3)
        assert result.bits[each] == (32 if each.startswith("b") else 8)


def test_contradicting_scales_are_faults() -> None:
    def other(name: str, factor: float) -> onnx.ModelProto:
        proto = _per_tensor()
        for tensor in proto.graph.initializer:
            if tensor.name == name:
                array = numpy_helper.to_array(tensor) * np.float32(factor)
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(array), name))
        return proto

    for name in ("s", "ws", "bs"):
        assert any("bias" in each for each in dequantize(load(other(name, 10))).faults)
    for factor in (0.0, -1.0, np.nan, np.inf):
        assert any("positive" in each for each in dequantize(load(other("s", factor))).faults)
    proto = _per_tensor()
    proto.graph.node[1].input[1] = "ws"
    assert any("dequantized by another" in each for each in dequantize(load(proto)).faults)


def test_what_nobody_reads_stays() -> None:
    proto = _per_tensor()
    proto.graph.node.add(op_type="Relu", input=["x"], output=["idle"])
    names = {
        value.name for node in dequantize(load(proto)).model.ir.graph for value in node.outputs
    }
    assert names == {"y", "idle"}
