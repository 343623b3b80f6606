"""Sparse constants on the way in: ``sparse_initializer`` and ``Constant.sparse_value`` made dense.

onnx-ir drops the first and fails on the second, so both are replaced in the message before it is
read. The dense array only exists while it is read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnxprune.errors import OnnxpruneError
from onnxprune.model.protos import bodies_in, graphs_in
from onnxprune.model.stored import Store, map_file
from onnxprune.model.wire import detach

_INDEX_TYPES = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.INT16, ir.DataType.INT8)
"""ONNX wants int64; onnxruntime also reads, and writes, the narrower ones."""

_CHUNK = 1 << 20  # non-zeros handled at a time, so that index arithmetic stays small
_LARGEST = 1 << 40  # bytes: a dense form beyond this is a damaged or hostile header
_HINT = "write the model again with the tool that made it, or store this weight dense"


def densify(proto: onnx.ModelProto, store: Store) -> None:
    """Replace every sparse constant of ``proto`` by a dense one that ``store`` produces on demand.

    Linear ``[NNZ]`` and coordinate ``[NNZ, rank]`` indices are read, in any order (ONNX IR
    specification, SparseTensorProto), from raw or typed fields or external data.

    Raises:
        OnnxpruneError: a sparse tensor contradicts itself; the message names it.
    """
    for function in proto.functions:
        _densify_attributes(function.node, store)
    inside = (graph for function in proto.functions for graph in bodies_in(function.node))
    for graph in itertools.chain(graphs_in(proto.graph), inside):
        dense = {tensor.name for tensor in graph.initializer}
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            if not name or name in dense:
                problem = "is stored twice" if name else "has no name"
                raise OnnxpruneError(f"sparse initializer '{name}' {problem}", hint=_HINT)
            dense.add(name)
            graph.initializer.append(_placeholder(sparse, name, store))
        graph.ClearField("sparse_initializer")
        _densify_attributes(graph.node, store)


def names(path: Path) -> tuple[str, ...]:
    """The weights that a model file stores sparse, in any of its graphs.

    Raises:
        OnnxpruneError: the file cannot be read.
        WireError: it is not a model (`onnxprune.model.load` has a readable error).
    """
    data = detach(memoryview(map_file(path)), "onnxprune:sparse", _CHUNK)
    proto = onnx.ModelProto.FromString(data)
    inside = (graph for function in proto.functions for graph in bodies_in(function.node))
    result = []
    for graph in itertools.chain(graphs_in(proto.graph), inside):
        result += [sparse.values.name for sparse in graph.sparse_initializer]
        result += [
            node.output[0]
            for node in graph.node
            for attribute in node.attribute
            if attribute.type == onnx.AttributeProto.SPARSE_TENSOR and node.output
        ]
    return tuple(result)


def _densify_attributes(nodes: Iterable[onnx.NodeProto], store: Store) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.SPARSE_TENSOR and node.op_type == "Constant":
                name = node.output[0] if node.output else node.name
                dense = _placeholder(attribute.sparse_tensor, name, store)
                attribute.Clear()
                attribute.name = "value"
                attribute.type = onnx.AttributeProto.TENSOR
                attribute.t.CopyFrom(dense)
            elif attribute.type in (
                onnx.AttributeProto.SPARSE_TENSOR,
                onnx.AttributeProto.SPARSE_TENSORS,
            ):
                raise OnnxpruneError(
                    f"node '{node.name}' ({node.op_type}) has the sparse attribute "
                    f"'{attribute.name}', which only Constant nodes may have",
                    hint=_HINT,
                )


def _placeholder(sparse: onnx.SparseTensorProto, name: str, store: Store) -> onnx.TensorProto:
    # Errors then name the weight: indices have no name, as a rule.
    sparse.values.name = sparse.values.name or name
    sparse.indices.name = f"{name} (indices)"
    values = store.resolve(ir.serde.deserialize_tensor(sparse.values))
    indices = store.resolve(ir.serde.deserialize_tensor(sparse.indices))
    store.dense.append(_dense(name, values, indices, tuple(sparse.dims)))
    tensor = onnx.TensorProto(
        name=name,
        dims=sparse.dims,
        data_type=sparse.values.data_type,
        doc_string=sparse.values.doc_string,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    tensor.external_data.add(key="location", value=store.sparse_token)
    tensor.external_data.add(key="offset", value=str(len(store.dense) - 1))
    return tensor


def _dense(
    name: str, values: ir.TensorProtocol, indices: ir.TensorProtocol, dims: tuple[int, ...]
) -> ir.LazyTensor:
    _check_header(name, values, indices, dims)
    _check_indices(name, indices, dims)

    def build() -> ir.TensorProtocol:
        array = np.zeros(math.prod(dims), values.dtype.numpy())
        content = values.numpy()
        for start, rows in _linear(indices, dims):
            array[rows] = content[start : start + len(rows)]
        return ir.Tensor(array.reshape(dims), values.dtype)

    return ir.LazyTensor(
        build, values.dtype, ir.Shape(dims), name=name, doc_string=values.doc_string
    )


def _check_header(
    name: str, values: ir.TensorProtocol, indices: ir.TensorProtocol, dims: tuple[int, ...]
) -> None:
    count, places = tuple(values.shape.numpy()), tuple(indices.shape.numpy())
    problem = ""
    if any(size < 0 for size in dims):
        problem = f"has the impossible shape {list(dims)}"
    elif values.dtype == ir.DataType.STRING:
        problem = "holds strings, which have no zero"
    elif math.prod(dims) * values.dtype.itemsize > _LARGEST:
        problem = f"would take {math.prod(dims)} elements when dense"
    elif indices.dtype not in _INDEX_TYPES:
        problem = f"has indices of type {indices.dtype.name}, not INT64"
    elif len(count) != 1:
        problem = f"has values of rank {len(count)}, not 1"
    elif len(places) not in (1, 2) or (len(places) == 2 and places[1] != len(dims)):
        problem = f"has indices of shape {list(places)}, not [NNZ] or [NNZ, {len(dims)}]"
    elif places[0] != count[0]:
        problem = f"has {count[0]} values but {places[0]} indices"
    if problem:
        raise OnnxpruneError(f"sparse tensor '{name}' {problem}", hint=_HINT)


def _check_indices(name: str, indices: ir.TensorProtocol, dims: tuple[int, ...]) -> None:
    problem = ""
    last, ascending = -1, True
    for start, rows in _linear(indices, dims):
        coordinates = indices.numpy()[start : start + len(rows)]
        limit = np.array(dims if coordinates.ndim == 2 else math.prod(dims), np.int64)
        if (coordinates < 0).any():
            problem = f"has the negative index {int(coordinates.min())}"
        elif (coordinates >= limit).any():
            problem = f"has an index beyond its shape {list(dims)}"
        if problem:
            break
        ascending = ascending and int(rows[0]) > last and bool((np.diff(rows) > 0).all())
        last = int(rows[-1])
    if not problem and not ascending:
        everything = np.concatenate([rows for _, rows in _linear(indices, dims)])
        everything.sort()
        repeated = everything[:-1][everything[1:] == everything[:-1]]
        if len(repeated):
            problem = f"has two values for element {int(repeated[0])}"
    if problem:
        raise OnnxpruneError(f"sparse tensor '{name}' {problem}", hint=_HINT)


def _linear(
    indices: ir.TensorProtocol, dims: tuple[int, ...]
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Indices into the flattened dense tensor, some at a time: (position of the first, indices)."""
    table = indices.numpy()
    strides = np.array([math.prod(dims[axis + 1 :]) for axis in range(len(dims))], np.int64)
    for start in range(0, len(table), _CHUNK):
        rows = table[start : start + _CHUNK].astype(np.int64)
        yield start, rows if rows.ndim == 1 else rows @ strides
