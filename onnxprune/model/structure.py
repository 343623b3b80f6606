"""A fingerprint of the graph without its weights: sibling checkpoints share it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import onnx_ir as ir

from onnxprune.model.constants import constant
from onnxprune.model.core import Model
from onnxprune.model.origin import bodies

ADDED_SHAPE = "onnxprune.rank"
"""Key in the metadata of an input whose shape its file does not declare: it is no structure."""
_LARGEST_STRUCTURAL = 4096
"""Integer tensors up to this many elements are shapes, axes and indices: they are structure."""


def structure_hash(model: Model) -> str:
    """SHA-256 over everything that decides what can be removed, weight values excepted.

    In: operators and their domains and versions, attributes, edges by name, graph inputs and
    outputs with their types, shapes and types of stored tensors, and the values of int64 and bool
    tensors (shapes, axes, indices). Out: float and quantised weight values, doc strings,
    metadata, producer, file layout (inline, external, sparse), and shapes that were added to
    inputs after reading (`ADDED_SHAPE`).
    """
    digest = hashlib.sha256()
    used = {node.domain for node in model.ir.graph.all_nodes()}
    imports = {d: v for d, v in model.ir.opset_imports.items() if d in used}
    for item in (*sorted(imports.items()), *_graph(model.ir.graph)):
        digest.update(repr(item).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _graph(graph: ir.Graph) -> Iterator[object]:
    yield "inputs", [_signature(value) for value in graph.inputs if not value.is_initializer()]
    for value in sorted(graph.initializers.values(), key=lambda value: value.name or ""):
        if value.const_value is not None:
            yield "stored", value.name, _stored(value.const_value)
    for node in graph:
        yield "node", node.domain, node.op_type, node.overload
        yield "edges", [v and v.name for v in node.inputs], [v.name for v in node.outputs]
        literal = constant(node.outputs[0]) if len(node.outputs) == 1 else None
        if literal is not None:
            yield "literal", _stored(literal)
            continue
        for name in sorted(node.attributes):
            yield name, _attribute(node.attributes[name])
        for name, body in sorted(bodies(node), key=lambda pair: pair[0]):
            yield "body", name
            yield from _graph(body)
            yield "end", name
    yield "outputs", [_signature(value) for value in graph.outputs]


def _signature(value: ir.Value) -> tuple[str | None, str, str]:
    shape = None if ADDED_SHAPE in value.meta else value.shape
    return value.name, str(value.type), str(shape)


def _stored(tensor: ir.TensorProtocol) -> tuple[object, ...]:
    shape = tuple(tensor.shape.numpy())
    structural = tensor.dtype in (ir.DataType.INT64, ir.DataType.BOOL)
    if structural and tensor.size <= _LARGEST_STRUCTURAL:
        return tensor.dtype.name, shape, tensor.numpy().tolist()
    return tensor.dtype.name, shape


def _attribute(attr: ir.Attr) -> object:
    if attr.type == ir.AttributeType.TENSOR:
        return _stored(attr.as_tensor())
    if attr.type == ir.AttributeType.TENSORS:
        return [_stored(tensor) for tensor in attr.as_tensors()]
    if attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return None  # walked as bodies
    if attr.type in (ir.AttributeType.TYPE_PROTO, ir.AttributeType.TYPE_PROTOS):
        return str(attr.value)
    return attr.value
