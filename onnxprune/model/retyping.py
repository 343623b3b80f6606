"""The same network in another floating type, to compare twins that differ in nothing else."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from onnxprune.model.constants import constant, constants, set_constant
from onnxprune.model.core import Model, clone, graphs
from onnxprune.model.origin import values

_TYPED = ("to", "dtype")
"""Attributes that name a type."""


def weight_type(model: Model) -> ir.DataType | None:
    """The floating type that most elements of the weights have; None without any."""
    sizes: Counter[ir.DataType] = Counter()
    for value in constants(model).values():
        tensor = constant(value)
        if tensor is not None and tensor.dtype.is_floating_point():
            sizes[tensor.dtype] += tensor.size
    return sizes.most_common(1)[0][0] if sizes else None


def retyped(model: Model, before: ir.DataType, after: ir.DataType) -> Model:
    """A copy of a model in which everything of one type has another, bodies included.

    Casts that no longer change anything go, as between float32 inputs and float16 weights.

    Args:
        model: it is left as it is.
        before: the type that goes.
        after: the type that takes its place.
    """
    copy = clone(model)
    for graph in graphs(copy):
        for value in list(values(graph)):
            tensor = constant(value)
            if tensor is not None and tensor.dtype is before:
                set_constant(value, _as(tensor, after))
            elif value.dtype is before:
                value.type = ir.TensorType(after)
        for node in list(graph):
            _retype(node, before, after)
            if node.op_type == "Cast":
                _drop_idle(graph, node)
    return copy


def _as(tensor: ir.TensorProtocol, dtype: ir.DataType) -> ir.TensorProtocol:
    return ir.Tensor(tensor.numpy().astype(dtype.numpy()), dtype=dtype)


def _retype(node: ir.Node, before: ir.DataType, after: ir.DataType) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.INT and name in _TYPED:
            if attribute.as_int() == before.value:
                node.attributes.add(ir.AttrInt64(name, after.value))
        elif attribute.type == ir.AttributeType.TENSOR and node.op_type != "Constant":
            tensor = attribute.as_tensor()
            if tensor.dtype is before:
                node.attributes.add(ir.AttrTensor(name, _as(tensor, after)))


def _drop_idle(graph: ir.Graph, node: ir.Node) -> None:
    """Remove a Cast to the type that its input has already."""
    source, output = node.inputs[0], node.outputs[0]
    if source is None or source.dtype is None or source.dtype.value != node.attributes["to"].value:
        return
    if output.is_graph_output():
        producer = source.producer()
        if source.is_graph_output() or producer is None or producer.graph is not graph:
            return
        for index, value in enumerate(graph.outputs):
            if value is output:
                graph.outputs[index] = source
    ir.convenience.replace_all_uses_with(output, source)
    name, output.name = output.name, None
    graph.remove(node, safe=True)
    if source.is_graph_output():
        source.name = name
