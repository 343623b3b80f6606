"""What the quantizer cannot handle is left out with a reason; the rest becomes int8."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

from onnxprune import load
from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.jobs.quantize import Quantized, quantize
from onnxprune.jobs.quantize.exclusions import culprits

RNG = np.random.default_rng(0)
PICTURE = ["n", 3, 8, 8]


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return (RNG.standard_normal(shape) * 0.2).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto],
    stored: dict[str, np.ndarray[Any, Any]],
    shape: list[Any] = PICTURE,
    *,
    opset: int = 17,
    version: int = 8,
    offered: bool = False,
) -> onnx.ModelProto:
    kind = h.np_dtype_to_tensor_dtype(next(iter(stored.values())).dtype)
    inputs = [h.make_tensor_value_info("x", kind, shape)]
    if offered:
        inputs += [
            h.make_tensor_value_info(name, h.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in stored.items()
        ]
    outputs = [h.make_tensor_value_info("y", kind, None)]
    tensors = [nh.from_array(a, name) for name, a in stored.items()]
    graph = h.make_graph(nodes, "g", inputs, outputs, tensors)
    domains = [h.make_opsetid("", opset), h.make_opsetid("com.microsoft", 1)]
    return h.make_model(graph, opset_imports=domains, ir_version=version)


def quantized(proto: onnx.ModelProto, shape: tuple[int, ...] = (32, 3, 8, 8)) -> Quantized:
    kind = h.tensor_dtype_to_np_dtype(proto.graph.input[0].type.tensor_type.elem_type)
    inputs = np.random.default_rng(1).uniform(-1, 1, shape).astype(kind)
    result = quantize(proto, None, Options(calib={"x": inputs}))
    assert result.ok
    main = result.evaluation.main
    assert main.relative_error is not None
    assert main.relative_error < 0.2
    return result


def reasons(result: Quantized) -> dict[str, str]:
    return {each.name: each.reason for each in result.weights if not each.quantized}


def conv(x: str, weight: str, y: str, *rest: str, **attributes: Any) -> onnx.NodeProto:
    return h.make_node("Conv", [x, weight, *rest], [y], name=f"conv-{y}", **attributes)


def test_a_grouped_transposed_convolution_with_a_bias_stays() -> None:
    nodes = [
        conv("x", "W", "a", pads=[1] * 4),
        h.make_node("Relu", ["a"], ["b"]),
        h.make_node("ConvTranspose", ["b", "U", "c"], ["y"], group=2, strides=[2, 2]),
    ]
    stored = {"W": floats(16, 3, 3, 3), "U": floats(16, 8, 2, 2), "c": floats(16)}
    result = quantized(model(nodes, stored))
    assert list(reasons(result)) == ["U"]
    assert "grouped ConvTranspose" in reasons(result)["U"]


def test_empty_tensors_stay_and_the_runtime_survives() -> None:
    nodes = [
        conv("x", "W", "a", pads=[1] * 4),
        h.make_node("Relu", ["a"], ["r"]),
        h.make_node("Slice", ["r", "zero", "zero", "three"], ["none"]),
        h.make_node("Mul", ["none", "half"], ["nothing"], name="empty"),
        h.make_node("Concat", ["r", "nothing"], ["c"], axis=3),
        conv("c", "V", "y"),
    ]
    stored = {
        "W": floats(16, 3, 3, 3),
        "V": floats(4, 16, 1, 1),
        "zero": np.array([0]),
        "three": np.array([3]),
        "half": np.array([0.5], np.float32),
    }
    assert reasons(quantized(model(nodes, stored))) == {}


def test_a_table_with_infinite_values_stays_float() -> None:
    """As attention biases by distance have where nothing may be attended to."""
    nodes = [
        conv("x", "W", "a", pads=[1] * 4),
        h.make_node("Flatten", ["a"], ["f"]),
        h.make_node("MatMul", ["f", "V"], ["g"]),
        h.make_node("Gather", ["table", "row"], ["bias"]),
        h.make_node("Add", ["g", "bias"], ["b"]),
        h.make_node("Softmax", ["b"], ["y"]),
    ]
    table = floats(3, 8)
    table[:, 2] = -np.inf
    stored = {
        "W": floats(16, 3, 3, 3), "V": floats(1024, 8), "table": table, "row": np.array(1),
    }  # fmt: skip
    result = quantized(model(nodes, stored))
    assert all(each.quantized for each in result.weights if each.name in {"W", "V"})
    after = {name: models.array_of(v) for name, v in models.constants(result.model).items()}
    assert all(np.isfinite(a).all() for name, a in after.items() if name.endswith("scale"))
    np.testing.assert_array_equal(after["table"], table)


def test_float16_is_converted_to_the_operator_set_that_has_it_in_int8() -> None:
    nodes = [conv("x", "W", "a", "b", pads=[1] * 4), conv("a", "V", "y", "c")]
    stored = {"W": floats(16, 3, 3, 3), "b": floats(16), "V": floats(4, 16, 1, 1), "c": floats(4)}
    result = quantized(model(nodes, {k: v.astype(np.float16) for k, v in stored.items()}))
    assert reasons(result) == {}
    assert "operator set 17 was converted to 19" in result.notes


def test_weights_that_are_inputs_too_are_quantized() -> None:
    nodes = [
        conv("x", "W", "a", pads=[1] * 4),
        h.make_node("BatchNormalization", ["a", "s", "b", "m", "v"], ["n"]),
        h.make_node("Relu", ["n"], ["y"]),
    ]
    stored = {"W": floats(16, 3, 3, 3), "s": floats(16), "b": floats(16), "m": floats(16)}
    stored["v"] = np.ones(16, np.float32)
    proto = model(nodes, stored, opset=8, version=3, offered=True)
    result = quantized(proto)
    assert reasons(result) == {}
    assert not any(n.op_type == "BatchNormalization" for n in result.model.ir.graph)
    assert len(proto.graph.input) == 6  # the caller's model


@pytest.mark.parametrize("shape", [(1, 10), (1, 1), (1,), (10,)])
def test_a_bias_of_any_form(shape: tuple[int, ...]) -> None:
    nodes = [h.make_node("Gemm", ["x", "W", "b"], ["y"])]
    proto = model(nodes, {"W": floats(32, 10), "b": floats(*shape)}, ["n", 32])
    quantized(proto, (96, 32))


def test_a_shared_bias_whose_copies_would_take_a_name_that_is_taken() -> None:
    nodes = [
        conv("x", "W", "b2", "b", pads=[1] * 4),
        conv("x", "V", "z", "b", pads=[1] * 4),
        h.make_node("Add", ["b2", "z"], ["y"]),
    ]
    stored = {"W": floats(8, 3, 3, 3), "V": 9 * floats(8, 3, 3, 3), "b": floats(8)}
    assert reasons(quantized(model(nodes, stored))) == {}


def test_values_of_operators_that_onnx_does_not_know() -> None:
    nodes = [
        h.make_node("FusedConv", ["x", "W", "b"], ["a"], domain="com.microsoft", activation="Relu"),
        conv("a", "V", "y", "c"),
    ]
    stored = {"W": floats(8, 3, 3, 3), "b": floats(8), "V": floats(4, 8, 1, 1), "c": floats(4)}
    result = quantized(model(nodes, stored))
    assert [each.name for each in result.weights if each.quantized] == ["V"]


def test_a_weight_in_a_body_is_named() -> None:
    def branch(weight: str, y: str) -> onnx.GraphProto:
        return h.make_graph(
            [h.make_node("MatMul", ["a", weight], [y])],
            y,
            [],
            [h.make_tensor_value_info(y, T.FLOAT, None)],
            [nh.from_array(floats(16, 4), weight)],
        )

    nodes = [
        h.make_node("MatMul", ["x", "W"], ["a"]),
        h.make_node("ReduceSum", ["a"], ["s"], keepdims=0),
        h.make_node("Greater", ["s", "big"], ["yes"]),
        h.make_node(
            "If", ["yes"], ["y"], then_branch=branch("T", "t"), else_branch=branch("E", "e")
        ),
    ]
    stored = {"W": floats(8, 16), "big": np.float32(1e9)}
    result = quantized(model(nodes, stored, ["n", 8]), (96, 8))
    assert set(reasons(result)) == {"T", "E"}
    assert all("body" in reason for reason in reasons(result).values())


def test_complaints_name_nodes_and_tensors() -> None:
    nodes = [
        conv("x", "W", "a"),
        h.make_node("Relu", ["a"], ["r"], name="relu"),
        conv("r", "V", "y"),
    ]
    each = load(model(nodes, {"W": floats(8, 3, 3, 3), "V": floats(4, 8, 1, 1)}))
    assert culprits(each, "cannot quantize 'V' of something") == ["y"]
    assert culprits(each, "Name:'relu' Status Message: no") == ["r"]
    assert culprits(each, "at the QLinearConv node 'a_quant'") == ["a"]
    assert culprits(each, "out of luck") == []
