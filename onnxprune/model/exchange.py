"""Models as the objects of other libraries: messages of onnx, graphs of onnx-graphsurgeon."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from onnxprune.errors import OnnxpruneError
from onnxprune.model import coo
from onnxprune.model.constants import size_bytes
from onnxprune.model.core import Model, origin_of
from onnxprune.model.types import put_back

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

LARGEST_MESSAGE = (1 << 31) - 1
"""Bytes a protobuf message, and so a model with its weights inside, can have."""

_HEADER = "onnxprune_header"
"""Attribute of a graphsurgeon graph that carries what graphsurgeon itself drops."""


def to_proto(model: Model) -> onnx.ModelProto:
    """The model as one ``ModelProto`` with all weights inside; the model is not changed.

    Raises:
        OnnxpruneError: it is larger than a ``ModelProto`` can be.
    """
    if size_bytes(model) > LARGEST_MESSAGE:
        raise OnnxpruneError(
            f"the model holds {size_bytes(model)} bytes of weights, more than one message can",
            hint="save it to a file instead",
        )
    return message(model.ir)


def to_graphsurgeon(model: Model) -> gs.Graph:
    """The model as an onnx-graphsurgeon graph.

    What graphsurgeon has no place for (metadata, doc string, model version) travels along on the
    graph object, and `onnxprune.model.load` puts it back.

    Raises:
        OnnxpruneError: the model is larger than 2 GiB, which graphsurgeon cannot hold.
    """
    import onnx_graphsurgeon as gs

    proto = to_proto(model)
    graph = gs.import_onnx(proto)
    header = onnx.ModelProto(
        doc_string=proto.doc_string,
        domain=proto.domain,
        model_version=proto.model_version,
        metadata_props=proto.metadata_props,
        training_info=proto.training_info,
    )
    setattr(graph, _HEADER, header.SerializeToString())
    return graph


def from_graphsurgeon(graph: object) -> onnx.ModelProto:
    """The message of a graphsurgeon graph, with what `to_graphsurgeon` sent along.

    Raises:
        OnnxpruneError: ``graph`` is something else, or graphsurgeon cannot export it.
    """
    import onnx_graphsurgeon as gs

    if not isinstance(graph, gs.Graph):
        raise OnnxpruneError(
            f"a {type(graph).__name__} is not a model",
            hint="pass a path, a ModelProto, an onnx-graphsurgeon graph or an onnx-ir model",
        )
    try:
        proto = gs.export_onnx(graph)
    except gs.OnnxGraphSurgeonException as error:
        raise OnnxpruneError(
            f"onnx-graphsurgeon cannot export the graph: {error}",
            hint="give every graph input and output a dtype",
        ) from error
    assert isinstance(proto, onnx.ModelProto)
    proto.MergeFrom(onnx.ModelProto.FromString(getattr(graph, _HEADER, b"")))
    return proto


def message(model: ir.Model) -> onnx.ModelProto:
    """The message of an onnx-ir model, with the fields onnx-ir has no place for."""
    proto = coo.message(model)
    _say_once(proto.graph)
    origin = origin_of(model)
    put_back(proto, origin.types)
    for info in origin.training_info:
        proto.training_info.add().ParseFromString(info)
    return proto


def _say_once(graph: onnx.GraphProto) -> None:
    """Drop what onnx-ir says a second time: types and shapes of stored tensors."""
    stored = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.value_info if value.name not in stored]
    if len(kept) < len(graph.value_info):
        graph.ClearField("value_info")
        graph.value_info.extend(kept)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _say_once(attribute.g)
            for inner in attribute.graphs:
                _say_once(inner)
