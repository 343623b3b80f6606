"""Models as the objects of other libraries: messages of onnx, graphs of onnx-graphsurgeon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from onnxprune.errors import OnnxpruneError, kind_of
from onnxprune.model import coo
from onnxprune.model.origin import origin_of, walk
from onnxprune.model.protos import graphs_in, put_back

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

LARGEST_MESSAGE = (1 << 31) - 1
"""Bytes a protobuf message, and so a model with its weights inside, can have."""

_HEADER = "onnxprune_header"
"""Attribute of a graphsurgeon graph that carries what graphsurgeon itself drops."""


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The message of a model that fits into one; see `onnxprune.model.Model.to_proto`."""
    size = sum(tensor.nbytes for tensor in _stored(model))
    if size > LARGEST_MESSAGE:
        raise OnnxpruneError(
            f"the model holds {size} bytes of weights, more than one message can",
            hint="save it to a file instead",
        )
    return message(model)


def _stored(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in walk(model.graph):
        tensors = (value.const_value for value in graph.initializers.values())
        yield from (tensor for tensor in tensors if tensor is not None)
        for node in graph:
            attributes = node.attributes.values()
            yield from (a.value for a in attributes if a.type == ir.AttributeType.TENSOR)


def to_graphsurgeon(model: ir.Model) -> gs.Graph:
    """The graphsurgeon graph of a model; see `onnxprune.model.Model.to_graphsurgeon`."""
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
            f"{kind_of(graph)} is not a model",
            hint="pass a path, a ModelProto, an onnx-graphsurgeon graph or an onnx-ir model; of a "
            "result, its .model",
        )
    try:
        proto = gs.export_onnx(graph)
    except gs.OnnxGraphSurgeonException as error:
        raise OnnxpruneError(
            f"onnx-graphsurgeon cannot export the graph: {error}",
            hint="give every graph input and output a dtype",
        ) from error
    assert isinstance(proto, onnx.ModelProto)
    # Not getattr: graphsurgeon logs an error for each attribute that a graph does not have.
    proto.MergeFrom(onnx.ModelProto.FromString(vars(graph).get(_HEADER, b"")))
    return proto


def message(model: ir.Model) -> onnx.ModelProto:
    """The message of an onnx-ir model, with the fields onnx-ir has no place for."""
    proto = coo.message(model)
    for graph in graphs_in(proto.graph):  # onnx-ir repeats types and shapes of stored tensors
        stored = {tensor.name for tensor in graph.initializer}
        values = [value for value in graph.value_info if value.name not in stored]
        if len(values) < len(graph.value_info):
            graph.ClearField("value_info")
            graph.value_info.extend(values)
    origin = origin_of(model)
    put_back(proto, origin.types)
    for info in origin.training_info:
        proto.training_info.add().ParseFromString(info)
    return proto
