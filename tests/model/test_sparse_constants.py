"""Sparse constants become dense ones, or are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from onnxprune.errors import OnnxpruneError
from onnxprune.model import (
    clone,
    constant,
    graphs,
    load,
    save,
    size_bytes,
    structure_hash,
    to_proto,
)

Array = npt.NDArray[Any]


def sparse(dense: Array, *, coordinates: bool = False, name: str = "W") -> onnx.SparseTensorProto:
    places = np.argwhere(dense).astype(np.int64)
    linear = np.flatnonzero(dense).astype(np.int64)
    return helper.make_sparse_tensor(
        numpy_helper.from_array(dense[dense != 0], name),
        numpy_helper.from_array(places if coordinates else linear, "indices"),
        list(dense.shape),
    )


def identity(held: onnx.SparseTensorProto, *, in_node: bool = False) -> onnx.ModelProto:
    """y = W, with W sparse: an initializer, or inside a Constant node."""
    nodes = [helper.make_node("Identity", ["W"], ["y"])]
    if in_node:
        nodes.insert(0, helper.make_node("Constant", [], ["W"], sparse_value=held))
    graph = helper.make_graph(
        nodes,
        "g",
        [],
        [helper.make_tensor_value_info("y", held.values.data_type, list(held.dims))],
        sparse_initializer=[] if in_node else [held],
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])


def run(source: bytes | str) -> Array:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    runner = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    result: Array = runner.run(None, {})[0]
    return result


def held_by(proto: onnx.ModelProto) -> Array:
    model = load(proto)
    (value,) = [v for v in model.ir.graph.initializers.values() if v.name == "W"] or [
        node.outputs[0] for node in model.ir.graph if node.op_type == "Constant"
    ]
    tensor = constant(value)
    assert tensor is not None
    return tensor.numpy()


@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    density=st.floats(0, 1),
    dtype=st.sampled_from(["float32", "float16", "float64", "int8", "uint8", "int64"]),
    coordinates=st.booleans(),
    in_node=st.booleans(),
    seed=st.integers(0, 99),
)
def test_dense_is_what_sparse_says(
    shape: list[int], density: float, dtype: str, coordinates: bool, in_node: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    dense = (rng.integers(1, 100, shape) * (rng.random(shape) < density)).astype(dtype)
    proto = identity(sparse(dense, coordinates=coordinates), in_node=in_node)
    before = proto.SerializeToString(deterministic=True)
    result = held_by(proto)
    assert result.dtype == dense.dtype
    assert np.array_equal(result, dense)
    assert proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("coordinates", [False, True])
@pytest.mark.parametrize("in_node", [False, True])
def test_onnxruntime_agrees(coordinates: bool, in_node: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dense = (rng.standard_normal((60, 50)) * (rng.random((60, 50)) < 0.2)).astype(np.float32)
    proto = identity(sparse(dense, coordinates=coordinates), in_node=in_node)
    model = load(proto)
    saved = save(model, tmp_path / "dense.onnx")
    written = onnx.load(saved)
    onnx.checker.check_model(written, full_check=True)
    assert not written.graph.sparse_initializer
    assert np.array_equal(run(str(saved)), run(proto.SerializeToString()))
    assert size_bytes(model) == dense.nbytes
    assert to_proto(clone(model)) == to_proto(model)


def test_a_sparse_checkpoint_has_the_structure_of_its_dense_sibling() -> None:
    dense = np.eye(8, dtype=np.float32)
    proto = identity(sparse(dense))
    sibling = onnx.ModelProto()
    sibling.CopyFrom(proto)
    sibling.graph.ClearField("sparse_initializer")
    sibling.graph.initializer.append(numpy_helper.from_array(dense * 2, "W"))
    assert structure_hash(load(proto)) == structure_hash(load(sibling))


def test_unordered_and_narrow_indices_are_read() -> None:
    """onnxruntime writes narrow indices itself; the order of entries carries no meaning."""
    held = sparse(np.eye(5, dtype=np.float32) * [1, 2, 3, 4, 5])
    order = [3, 0, 4, 1, 2]
    values, indices = (numpy_helper.to_array(one) for one in (held.values, held.indices))
    held.values.CopyFrom(numpy_helper.from_array(values[order].astype(np.float32), "W"))
    held.indices.CopyFrom(numpy_helper.from_array(indices[order].astype(np.int16), "i"))
    assert np.array_equal(held_by(identity(held)), np.diag([1, 2, 3, 4, 5]))


def test_typed_fields_and_external_data_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dense = (rng.standard_normal((90, 80)) * (rng.random((90, 80)) < 0.5)).astype(np.float32)
    held = sparse(dense)
    values, indices = (numpy_helper.to_array(one) for one in (held.values, held.indices))
    held.values.CopyFrom(helper.make_tensor("W", T.FLOAT, values.shape, values))
    held.indices.CopyFrom(helper.make_tensor("i", T.INT64, indices.shape, indices))
    assert np.array_equal(held_by(identity(held)), dense)
    for tensor, content in ((held.values, values), (held.indices, indices)):
        (tmp_path / f"{tensor.name}.bin").write_bytes(content.tobytes())
        for field in ("float_data", "int64_data"):
            tensor.ClearField(field)
        tensor.data_location = T.EXTERNAL
        tensor.external_data.add(key="location", value=f"{tensor.name}.bin")
    path = tmp_path / "m.onnx"
    path.write_bytes(identity(held).SerializeToString())
    model = load(path)
    read = model.ir.graph.initializers["W"].const_value
    assert read is not None
    assert np.array_equal(read.numpy(), dense)
    with pytest.raises(OnnxpruneError, match="being read"):
        save(model, tmp_path / "i.bin")


def test_bodies_are_searched_too() -> None:
    held = sparse(np.eye(2, dtype=np.float32))
    proto = onnx.parser.parse_model(
        """
        <ir_version: 9, opset_import: ["" : 17]>
        g (bool c) => (float[2, 2] y) {
          y = If (c) <then_branch = a () => (float[2, 2] r) { r = Identity(W) },
                      else_branch = b () => (float[2, 2] r) { k = Constant<value_float = 1.0> ()
                                                             r = Identity(k) }>
        }
    """.replace("Identity(W)", "Constant<value_float = 1.0> ()")
    )
    then, other = (attribute.g for attribute in proto.graph.node[0].attribute)
    then.node[0].CopyFrom(helper.make_node("Identity", ["W"], ["r"]))
    then.sparse_initializer.append(held)
    other.node[0].CopyFrom(helper.make_node("Constant", [], ["k"], sparse_value=held))
    model = load(proto)
    stored = [constant(v) for g in graphs(model) for n in g for v in n.inputs if v is not None]
    dense = [tensor.numpy() for tensor in stored if tensor is not None]
    assert len(dense) == 2
    assert all(np.array_equal(one, np.eye(2)) for one in dense)


def _set(part: str, content: Array) -> Callable[[onnx.SparseTensorProto], None]:
    def change(held: onnx.SparseTensorProto) -> None:
        tensor = getattr(held, part)
        tensor.CopyFrom(numpy_helper.from_array(content, tensor.name))

    return change


def _dims(*dims: int) -> Callable[[onnx.SparseTensorProto], None]:
    def change(held: onnx.SparseTensorProto) -> None:
        del held.dims[:]
        held.dims.extend(dims)

    return change


def _short(held: onnx.SparseTensorProto) -> None:
    held.indices.raw_data = numpy_helper.to_array(held.indices).tobytes()[:24]
    held.indices.ClearField("int64_data")


INDICES = np.array([0, 5, 10, 15])
WRONG: dict[str, tuple[Callable[[onnx.SparseTensorProto], None], str]] = {
    "duplicate": (_set("indices", np.array([0, 5, 5, 15])), "two values for element 5"),
    "far duplicate": (_set("indices", np.array([5, 0, 10, 5])), "two values for element 5"),
    "out of range": (_set("indices", np.array([0, 5, 10, 16])), "beyond its shape"),
    "negative": (_set("indices", np.array([-1, 5, 10, 15])), "negative index -1"),
    "column out of range": (_set("indices", np.array([[0, 4]] * 4)), "beyond its shape"),
    "column negative": (_set("indices", np.array([[1, -1]] * 4)), "negative index"),
    "duplicate pair": (_set("indices", np.array([[0, 1], [1, 0], [0, 1], [2, 2]])), "element 1"),
    "index rank": (_set("indices", INDICES.reshape(4, 1)), r"shape \[4, 1\]"),
    "index cube": (_set("indices", INDICES.reshape(4, 1, 1)), r"shape \[4, 1, 1\]"),
    "index type": (_set("indices", INDICES.astype(np.float32)), "indices of type FLOAT"),
    "value rank": (_set("values", np.ones((4, 1), np.float32)), "rank 2"),
    "value type": (_set("values", np.array(["a"] * 4, object)), "holds strings"),
    "too few indices": (_set("indices", INDICES[:3]), "4 values but 3 indices"),
    "too few values": (_set("values", np.ones(3, np.float32)), "3 values but 4 indices"),
    "shape": (_dims(-4, -4), "impossible shape"),
    "absurd": (_dims(1 << 31, 1 << 31), "impossible shape"),
    "no data": (lambda held: held.values.ClearField("raw_data"), "but 0 are stored"),
    "short indices": (_short, "but 24 are stored"),
}


@pytest.mark.parametrize(("spoil", "message"), WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("in_node", [False, True])
def test_contradictions_are_refused_by_name(
    spoil: Callable[[onnx.SparseTensorProto], None], message: str, in_node: bool
) -> None:
    held = sparse(np.eye(4, dtype=np.float32))
    spoil(held)
    with pytest.raises(OnnxpruneError, match=message) as caught:
        load(identity(held, in_node=in_node))
    assert "'W'" in caught.value.message or "'W (indices)'" in caught.value.message


def test_ambiguous_names_and_places_are_refused() -> None:
    held = sparse(np.eye(4, dtype=np.float32))
    twice, nameless, elsewhere = (identity(held) for _ in range(3))
    twice.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4), np.float32), "W"))
    nameless.graph.sparse_initializer[0].values.name = ""
    elsewhere.graph.node[0].attribute.append(helper.make_attribute("odd", held))
    for proto, message in (
        (twice, "'W' is stored twice"),
        (nameless, "has no name"),
        (elsewhere, "sparse attribute 'odd'"),
    ):
        with pytest.raises(OnnxpruneError, match=message):
            load(proto)
