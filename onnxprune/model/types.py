"""Types of values that onnx-ir has no class for: kept aside while it reads, put back on saving."""

from __future__ import annotations

from collections.abc import Mapping

import onnx


def set_aside(proto: onnx.ModelProto) -> dict[str, bytes]:
    """Remove map and opaque types from the values of the main graph.

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
