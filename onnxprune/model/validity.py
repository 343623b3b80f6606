"""Checks that a parsed message is a usable model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import onnx
import onnx_ir as ir
from google.protobuf.message import Message

from onnxprune.errors import OnnxpruneError
from onnxprune.model.constants import constant
from onnxprune.model.exchange import message
from onnxprune.model.origin import bodies

_MOST_AXES = 64
"""What numpy can handle; version 1 of it, 32."""
_MOST_ENTRIES = 1 << 48
_HINT = "the exporter wrote an invalid graph: export it again, or repair it with onnx-graphsurgeon"


def check_header(proto: onnx.ModelProto, where: str) -> None:
    """Refuse a message that is not a model, or too old to say what its operators mean.

    Raises:
        OnnxpruneError: there is no graph or no opset, two inputs share a name, or text is damaged.
    """
    if not proto.graph.node and not proto.graph.output:
        raise OnnxpruneError(
            f"{where} holds no graph", hint="give the .onnx file of an exported model"
        )
    if not proto.opset_import:
        raise OnnxpruneError(
            f"{where} names no operator set (IR version {proto.ir_version}), so what its operators "
            "mean is unknown",
            hint="models from before ONNX 1.0 have to be exported again",
        )
    names: set[str] = set()
    for value in proto.graph.input:
        if value.name in names:
            raise OnnxpruneError(f"{where} has two inputs named '{value.name}'", hint=_HINT)
        names.add(value.name)
    for part in _messages(proto):
        if isinstance(part, onnx.TensorProto):
            _check_shape(part.name, part.dims)
        elif isinstance(part, onnx.SparseTensorProto):
            _check_shape(part.values.name, part.dims)
        elif isinstance(part, onnx.TensorShapeProto) and len(part.dim) > _MOST_AXES:
            raise _rank("a value", len(part.dim))
        damaged = next((text for text in _texts(part) if isinstance(text, bytes)), None)
        if damaged is not None:
            raise OnnxpruneError(
                f"{where} is damaged: {damaged!r} is not UTF-8 text",
                hint="copy or download it again",
            )


def _check_shape(name: str, dims: Sequence[int]) -> None:
    """Refuse shapes that no array can have, before anything is allocated for one.

    Raises:
        OnnxpruneError: there are too many axes, or too many entries even without those of size 0.
    """
    if len(dims) > _MOST_AXES:
        raise _rank(f"weight '{name}'", len(dims))
    if any(size < 0 for size in dims) or math.prod(size or 1 for size in dims) > _MOST_ENTRIES:
        raise OnnxpruneError(f"weight '{name}' has the impossible shape {list(dims)}", hint=_HINT)


def _rank(what: str, axes: int) -> OnnxpruneError:
    return OnnxpruneError(
        f"{what} has {axes} axes, and arrays have at most {_MOST_AXES}", hint=_HINT
    )


def _messages(message: Message) -> Iterator[Message]:
    """A protobuf message and all messages in it."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for one in (value,) if hasattr(value, "ListFields") else value:
                yield from _messages(one)


def _texts(message: Message) -> Iterator[str | bytes]:
    """Every text of a message itself; protobuf hands out damaged ones as bytes."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            yield from (value,) if isinstance(value, str | bytes) else value


def why_invalid(model: ir.Model) -> str:
    """What onnx's checker and shape inference say against a model; empty if they say nothing.

    For a model on which work failed, to know whose fault it is.
    """
    try:
        proto = message(model)
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:  # noqa: BLE001 whatever they raise speaks against the model
        lines = str(error).strip().splitlines()
        return lines[0] if lines else type(error).__name__
    return ""


@cache
def _types(op: str, domain: str, version: int) -> Mapping[str, str]:
    """The types of an operator's attributes; empty where onnx does not know it."""
    try:
        schema = onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return {}
    return {name: str(each.type).rpartition(".")[2] for name, each in schema.attributes.items()}


def check_graph(model: ir.Model) -> None:
    """Refuse values that come from nowhere, missing inputs, and attributes that say nothing.

    Raises:
        OnnxpruneError: a node input or a graph output is produced by nothing, a node has too few
            inputs, or an attribute has no type.
        TypeError: the attribute of a Constant node is not of the type its name says.
    """
    for graph in model.graphs():
        for node in graph:
            for attr in node.attributes.values():
                where = f"attribute '{attr.name}' of node '{node.name or node.op_type}'"
                if attr.type == ir.AttributeType.UNDEFINED:
                    raise OnnxpruneError(f"{where} has no type", hint=_HINT)
                if attr.is_ref():
                    raise OnnxpruneError(
                        f"{where} is a parameter, and the node is in no function", hint=_HINT
                    )
                version = model.opset_imports.get(node.domain, 1)
                wanted = _types(node.op_type, node.domain, version).get(attr.name)
                if wanted is not None and wanted != attr.type.name:
                    raise OnnxpruneError(
                        f"{where} is of type {attr.type.name}, not {wanted}", hint=_HINT
                    )
            _check_arity(node, model.opset_imports.get(node.domain, 1))
            if node.outputs:
                constant(node.outputs[0])
            for value in node.inputs:
                if value is not None and value.name and not _exists(value):
                    raise OnnxpruneError(
                        f"node '{node.name or node.op_type}' reads '{value.name}', which nothing "
                        "produces",
                        hint=_HINT,
                    )
        for value in graph.outputs:
            if not _exists(value):
                raise OnnxpruneError(
                    f"output '{value.name}' of graph '{graph.name}' is produced by nothing in it",
                    hint=_HINT,
                )


@cache
def _least_inputs(op: str, domain: str, version: int) -> int:
    """How many inputs an operator has at least; 0 where onnx does not know it."""
    try:
        return int(onnx.defs.get_schema(op, version, domain).min_input)
    except onnx.defs.SchemaError:
        return 0


def _check_arity(node: ir.Node, version: int) -> None:
    """Refuse a node without the inputs that its operator cannot do without."""
    least = _least_inputs(node.op_type, node.domain, version)
    if len(node.inputs) < least:
        raise OnnxpruneError(
            f"node '{node.name or node.op_type}' has {len(node.inputs)} inputs, and "
            f"{node.op_type} takes at least {least}",
            hint=_HINT,
        )


def sort_nodes(model: ir.Model) -> None:
    """Put nodes in topological order where they are not; an ordered graph is left as it is.

    Raises:
        OnnxpruneError: the graph has a cycle.
    """
    if _in_order(model.graph, set()):
        return
    try:
        model.graph.sort()
    except ValueError as error:
        raise OnnxpruneError("the graph has a cycle", hint=_HINT) from error


def _in_order(graph: ir.Graph, seen: set[ir.Node]) -> bool:
    for node in graph:
        producers = (value.producer() for value in node.inputs if value is not None)
        if any(producer is not None and producer not in seen for producer in producers):
            return False
        if not all(_in_order(body, seen) for _, body in bodies(node)):
            return False
        seen.add(node)
    return True


def _exists(value: ir.Value) -> bool:
    return value.producer() is not None or value.is_graph_input() or value.is_initializer()
