"""Tensors that are written sparse: ``sparse_initializer``, or ``sparse_value`` of a Constant node.

onnx-ir has no place for them, so inside a model they are dense tensors like any other that know
how to be written. Sources: ONNX IR specification, SparseTensorProto; ``onnx/checker.cc``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx_ir as ir

from onnxprune.model.origin import clone, walk
from onnxprune.model.protos import graphs_in

FIRST_IR = 6
"""The IR version that brought sparse constants (``onnx.in.proto``, IR_VERSION_2019_9_19)."""


class SparseTensor(ir.LazyTensor):
    """A dense tensor that is written as the values that are not zero, and where they are.

    Attributes:
        values: ``[NNZ]``, of the tensor's element type.
        indices: int64 ``[NNZ]``, ascending, into the flattened tensor.
    """

    __slots__ = ("indices", "values")

    def __init__(
        self,
        dense: ir.TensorProtocol,
        values: ir.TensorProtocol,
        indices: ir.TensorProtocol,
    ) -> None:
        super().__init__(
            lambda: dense,
            dense.dtype,
            ir.Shape(dense.shape.numpy()),
            name=dense.name,
            doc_string=dense.doc_string,
            metadata_props=dict(dense.metadata_props),
        )
        self.values = values
        self.indices = indices


def message(model: ir.Model) -> onnx.ModelProto:
    """The message of an onnx-ir model, with its sparse tensors where the standard has them."""
    tensors = dict(_sparse(model))
    if not tensors:
        return ir.to_proto(model)
    copy = clone(model)
    for graph in walk(copy.graph):
        for value in graph.initializers.values():
            if value.name in tensors:
                value.const_value = _stand_in(tensors[value.name])
        for node in graph:
            if node.op_type == "Constant" and node.outputs[0].name in tensors:
                stand_in = _stand_in(tensors[node.outputs[0].name])
                node.attributes.add(ir.AttrTensor("value", stand_in))
    proto = ir.to_proto(copy)
    for each in graphs_in(proto.graph):
        _put_in(each, tensors)
    return proto


def _sparse(model: ir.Model) -> Iterator[tuple[str | None, SparseTensor]]:
    for graph in walk(model.graph):
        for value in graph.initializers.values():
            if isinstance(value.const_value, SparseTensor):
                yield value.name, value.const_value
        for node in graph:
            attribute = node.attributes.get("value") if node.op_type == "Constant" else None
            if attribute is not None and isinstance(attribute.value, SparseTensor):
                yield node.outputs[0].name, attribute.value


def _stand_in(tensor: SparseTensor) -> ir.TensorProtocol:
    return ir.Tensor(np.zeros(0, np.uint8), name=tensor.name)


def _put_in(graph: onnx.GraphProto, tensors: Mapping[str | None, SparseTensor]) -> None:
    dense = [tensor for tensor in graph.initializer if tensor.name not in tensors]
    for tensor in graph.initializer:
        if tensor.name in tensors:
            graph.sparse_initializer.append(_proto(tensors[tensor.name], tensor.name))
    if graph.sparse_initializer:
        graph.ClearField("initializer")
        graph.initializer.extend(dense)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "value" and node.output and node.output[0] in tensors:
                attribute.Clear()
                attribute.name = "sparse_value"
                attribute.type = onnx.AttributeProto.SPARSE_TENSOR
                attribute.sparse_tensor.CopyFrom(_proto(tensors[node.output[0]], node.output[0]))


def _proto(tensor: SparseTensor, name: str) -> onnx.SparseTensorProto:
    values = ir.serde.serialize_tensor(tensor.values)
    values.name = name  # the sparse tensor has no name but that of its values
    if tensor.doc_string:
        values.doc_string = tensor.doc_string
    indices = ir.serde.serialize_tensor(tensor.indices)
    indices.ClearField("name")
    return onnx.SparseTensorProto(
        values=values, indices=indices, dims=[int(size) for size in tensor.shape.numpy()]
    )
