"""Taking weights out of serialised models and putting them back changes no byte that matters."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from onnxprune.model.wire import Hole, WireError, attach, detach

TOKEN = "elsewhere"
Array = npt.NDArray[Any]


@st.composite
def tensors(draw: st.DrawFn) -> onnx.TensorProto:
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    dtype = draw(st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.complex64]))
    array = rng.integers(0, 100, draw(st.integers(0, 60))).astype(dtype)
    if draw(st.booleans()):
        return numpy_helper.from_array(array, "raw")
    return helper.make_tensor(
        "typed", helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array
    )


@st.composite
def nested(draw: st.DrawFn, depth: int = 2) -> onnx.GraphProto:
    graph = onnx.GraphProto(name="g", initializer=draw(st.lists(tensors(), max_size=3)))
    for tensor in draw(st.lists(tensors(), max_size=2)):
        graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
        graph.sparse_initializer.add(values=tensor, indices=tensor)
    if depth and draw(st.booleans()):
        graph.node.append(helper.make_node("If", ["c"], ["y"], body=draw(nested(depth - 1))))
    return graph


@given(graph=nested(), smallest=st.integers(0, 300))
def test_detaching_and_attaching_restores_every_tensor(
    graph: onnx.GraphProto, smallest: int
) -> None:
    proto = onnx.ModelProto(ir_version=9, graph=graph)
    proto.functions.add(name="f", node=graph.node)
    data = proto.SerializeToString()
    skeleton = detach(memoryview(data), TOKEN, smallest)
    found = [one for one in _all_tensors(onnx.ModelProto.FromString(skeleton)) if _away(one)]
    holes = [_place(tensor) for tensor in found]
    assert all(length >= smallest for _, length in holes)
    if smallest == 0:
        raw = [one for one in _all_tensors(proto) if one.HasField("raw_data")]
        assert len(found) >= len(raw)
    # Number the places, as save does, and fill them in again.
    numbered = onnx.ModelProto.FromString(skeleton)
    for index, tensor in enumerate(one for one in _all_tensors(numbered) if _away(one)):
        for entry in tensor.external_data:
            entry.value = str(index) if entry.key == "offset" else entry.value
    chunks = attach(numbered.SerializeToString(), TOKEN, [length for _, length in holes])
    written = b"".join(
        data[holes[c.index][0] : sum(holes[c.index])] if isinstance(c, Hole) else bytes(c)
        for c in chunks
    )
    assert sum(len(chunk) for chunk in chunks) == len(written)
    again = onnx.ModelProto.FromString(written)
    for one, other in zip(_all_tensors(again), _all_tensors(proto), strict=True):
        assert np.array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))
        assert (one.name, one.data_type, one.dims) == (other.name, other.data_type, other.dims)
    _blank(again)
    _blank(proto)
    assert again == proto


def _all_tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    def inside(graph: onnx.GraphProto | onnx.FunctionProto) -> list[onnx.TensorProto]:
        found = []
        if isinstance(graph, onnx.GraphProto):
            found += graph.initializer
            found += [t for one in graph.sparse_initializer for t in (one.values, one.indices)]
        for node in graph.node:
            for attribute in node.attribute:
                found += [attribute.t] if attribute.HasField("t") else inside(attribute.g)
        return found

    return [t for one in (proto.graph, *proto.functions) for t in inside(one)]


def _away(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == T.EXTERNAL


def _place(tensor: onnx.TensorProto) -> tuple[int, int]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return int(entries["offset"]), int(entries["length"])


def _blank(proto: onnx.ModelProto) -> None:
    for tensor in _all_tensors(proto):
        for field in ("raw_data", "float_data", "double_data"):
            tensor.ClearField(field)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(WireError):
        assert len(detach(memoryview(data), TOKEN, 0)) >= len(data)


@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_cut_message_is_refused_as_cut(cut: float) -> None:
    weight = numpy_helper.from_array(np.zeros(500, np.float32), "W")
    graph = helper.make_graph([], "g", [], [], [weight])
    data = onnx.ModelProto(graph=graph).SerializeToString()
    kept = int(len(data) * cut)
    if kept == 0:
        return
    with pytest.raises(WireError) as caught:
        detach(memoryview(data[:kept]), TOKEN, 0)
    assert caught.value.truncated


def test_foreign_external_data_is_left_alone() -> None:
    tensor = T(name="W", data_type=T.FLOAT, data_location=T.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    data = onnx.ModelProto(graph=helper.make_graph([], "g", [], [], [tensor])).SerializeToString()
    assert detach(memoryview(data), TOKEN, 0) == data
    assert b"".join(map(bytes, attach(data, TOKEN, []))) == data  # type: ignore[arg-type]


def _message(number: int, payload: bytes) -> bytes:
    """A nested message of 128 to 16383 bytes."""
    return bytes([number << 3 | 2, len(payload) & 0x7F | 0x80, len(payload) >> 7]) + payload


def test_data_of_one_field_per_element_is_left_to_protobuf() -> None:
    """Unpacked numbers are valid protobuf, and strings have no other form."""
    header = T(name="W", data_type=T.FLOAT, dims=[100]).SerializeToString()
    unpacked = header + b"".join(b"\x25" + np.float32(i).tobytes() for i in range(100))
    assert T.FromString(unpacked).float_data == list(range(100))
    words = T(
        name="S", data_type=T.STRING, dims=[2], string_data=[b"a" * 90, b"b" * 90]
    ).SerializeToString()
    for tensor in (unpacked, words):
        data = _message(7, _message(5, tensor))
        assert onnx.ModelProto.FromString(data).graph.initializer[0] == T.FromString(tensor)
        assert detach(memoryview(data), TOKEN, 0) == data
