"""The first run of a graph: crashes, hangs and exhausted memory end as one error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

from onnxprune import load
from onnxprune.errors import OnnxpruneError
from onnxprune.model import Model
from onnxprune.runtime.first_run import RuntimeDiedError, first_run, first_true, may_crash


def build(nodes: list, inputs: list, outputs: list, stored: dict | None = None) -> Model:
    tensors = [nh.from_array(np.asarray(a), name) for name, a in (stored or {}).items()]
    graph = h.make_graph(nodes, "g", inputs, outputs, tensors)
    proto = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    return load(proto)


def quantized_product() -> Model:
    """A tensor of the size that is fed, in int8, times a constant.

    onnxruntime 1.32 reads past the end of an empty one.
    """
    return build(
        [
            h.make_node("ConstantOfShape", ["sizes"], ["x"], "zeros"),
            h.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "into"),
            h.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "out_of"),
            h.make_node("DequantizeLinear", ["k", "s", "z"], ["e"], "constant"),
            h.make_node("Mul", ["d", "e"], ["m"], "product"),
            h.make_node("QuantizeLinear", ["m", "s", "z"], ["p"], "again"),
            h.make_node("DequantizeLinear", ["p", "s", "z"], ["y"], "last"),
        ],
        [h.make_tensor_value_info("sizes", T.INT64, [3])],
        [h.make_tensor_value_info("y", T.FLOAT, ["a", "b", "c"])],
        {"s": np.float32(0.1), "z": np.uint8(0), "k": np.full((1,), 3, np.uint8)},
    )


def sizes(*each: int) -> dict[str, np.ndarray]:
    return {"sizes": np.array(each, np.int64)}


def endless() -> Model:
    body = h.make_graph(
        [h.make_node("Identity", ["go"], ["on"]), h.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [
            h.make_tensor_value_info("i", T.INT64, []),
            h.make_tensor_value_info("go", T.BOOL, []),
            h.make_tensor_value_info("v", T.FLOAT, ["n"]),
        ],
        [
            h.make_tensor_value_info("on", T.BOOL, []),
            h.make_tensor_value_info("w", T.FLOAT, ["n"]),
        ],
    )
    return build(
        [h.make_node("Loop", ["", "true", "x"], ["y"], "forever", body=body)],
        [h.make_tensor_value_info("x", T.FLOAT, ["n"])],
        [h.make_tensor_value_info("y", T.FLOAT, ["n"])],
        {"true": np.array(True)},
    )


def huge() -> Model:
    return build(
        [h.make_node("Tile", ["x", "times"], ["y"], "bomb")],
        [h.make_tensor_value_info("x", T.FLOAT, ["n"])],
        [h.make_tensor_value_info("y", T.FLOAT, ["m"])],
        {"times": np.array([1 << 40], np.int64)},
    )


def test_a_crash_is_an_error_that_names_the_node() -> None:
    model = quantized_product()
    first_run(model, [sizes(2, 32, 4)])
    with pytest.raises(RuntimeDiedError, match=r"crashed while it ran the int8 model") as error:
        first_run(model, [sizes(2, 32, 0)], what="the int8 model", hint="skip")
    assert "product" in error.value.node
    assert error.value.hint == "skip"


def test_a_hang_is_an_error_that_names_the_loop() -> None:
    with pytest.raises(RuntimeDiedError, match=r"did not finish .* within 8 s, .*'forever'"):
        first_run(endless(), [{"x": np.ones(3, np.float32)}], limit_s=8)


def test_exhausted_memory_is_an_error_that_names_the_node() -> None:
    with pytest.raises(OnnxpruneError, match="bomb"):
        first_run(huge(), [{"x": np.ones(3, np.float32)}])


def test_a_refusal_reads_as_in_this_process() -> None:
    model = quantized_product()
    feeds = [sizes(2, 32)]
    messages = []
    for apart in (True, False):
        with pytest.raises(OnnxpruneError) as error:
            first_run(model, feeds, apart=apart)
        messages.append((error.value.message, error.value.hint))
    assert messages[0] == messages[1]


def test_an_operator_that_is_missing_reads_as_in_this_process() -> None:
    model = build(
        [h.make_node("Unheard", ["x"], ["y"], domain="com.example")],
        [h.make_tensor_value_info("x", T.FLOAT, ["n"])],
        [h.make_tensor_value_info("y", T.FLOAT, ["n"])],
    )
    with pytest.raises(OnnxpruneError, match=r"^onnxruntime cannot \w+ the model"):
        first_run(model, [{"x": np.ones(3, np.float32)}])


def test_plain_networks_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(
        [h.make_node("Relu", ["x"], ["y"])],
        [h.make_tensor_value_info("x", T.FLOAT, ["n"])],
        [h.make_tensor_value_info("y", T.FLOAT, ["n"])],
    )
    assert not may_crash(model)
    monkeypatch.setattr("sys.executable", "/nowhere")
    first_run(model, [{"x": np.ones(3, np.float32)}])
    assert all(map(may_crash, (quantized_product(), endless(), huge())))


@given(st.integers(0, 40), st.integers(1, 45))
def test_first_true_finds_the_first(count: int, first: int) -> None:
    assert first_true(lambda k: k >= first, count) == (first if first <= count else None)
