"""Messages of onnx as they are: their graphs, and types that onnx-ir has no class for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx


def graphs_in(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph, then every body in it, depth first."""
    yield graph
    yield from bodies_in(graph.node)


def bodies_in(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """Every body of some nodes, and the bodies in these."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs_in(attribute.g)
            for graph in attribute.graphs:
                yield from graphs_in(graph)


def set_aside(proto: onnx.ModelProto) -> dict[str, bytes]:
    """Remove map and opaque types from the values of the main graph, to be put back on saving.

    They only occur where classical models end (ZipMap) or around custom operators; onnx-ir fails on
    the first and forgets the second.

    Returns:
        serialised ``TypeProto`` of the graph inputs and outputs concerned, by value name.
    """
    kept: dict[str, bytes] = {}
    graph = proto.graph
    for value in (*graph.input, *graph.output):
        if _is_foreign(value.type):
            kept[value.name] = value.type.SerializeToString()
            value.ClearField("type")
    for value in graph.value_info:
        if _is_foreign(value.type):
            value.ClearField("type")
    return kept


def put_back(proto: onnx.ModelProto, kept: Mapping[str, bytes]) -> None:
    """Give the graph inputs and outputs of ``proto`` the types that `set_aside` took from them."""
    for value in (*proto.graph.input, *proto.graph.output):
        if value.name in kept:
            value.type.ParseFromString(kept[value.name])


def _is_foreign(type_: onnx.TypeProto) -> bool:
    kind = type_.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        return _is_foreign(getattr(type_, kind).elem_type)
    return kind in ("map_type", "opaque_type")
