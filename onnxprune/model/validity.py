"""Checks that a parsed message is a usable model."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from onnxprune.errors import OnnxpruneError
from onnxprune.model.constants import constant
from onnxprune.model.origin import bodies

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
    damaged = next((text for text in _texts(proto) if isinstance(text, bytes)), None)
    if damaged is not None:
        raise OnnxpruneError(
            f"{where} is damaged: {damaged!r} is not UTF-8 text", hint="copy or download it again"
        )


def _texts(message: onnx.ModelProto) -> Iterator[str | bytes]:
    """Every text of a protobuf message; protobuf hands out damaged ones as bytes."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for one in (value,) if hasattr(value, "ListFields") else value:
                yield from _texts(one)
        elif field.type == field.TYPE_STRING:
            yield from (value,) if isinstance(value, str | bytes) else value


def check_graph(model: ir.Model) -> None:
    """Refuse values that come from nowhere, and attributes that say nothing.

    Raises:
        OnnxpruneError: a node input or a graph output is produced by nothing, or an attribute has
            no type.
        TypeError: the attribute of a Constant node is not of the type its name says.
    """
    for graph in model.graphs():
        for node in graph:
            for attr in node.attributes.values():
                if attr.type == ir.AttributeType.UNDEFINED:
                    where = node.name or node.op_type
                    raise OnnxpruneError(
                        f"attribute '{attr.name}' of node '{where}' has no type", hint=_HINT
                    )
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
