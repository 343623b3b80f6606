"""An onnx-ir model: its graphs and their bodies, where it came from, and copies of it."""

from __future__ import annotations

import copy
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

QUANTIZATION = "quant_parameter_tensor_names"
"""Where onnx-ir keeps a value's quantization annotation: ``value.meta[QUANTIZATION]``."""

_SOURCE = "onnxprune.source"
_OWNER = "onnxprune.owner"


@dataclass(frozen=True, eq=False)
class Source:
    """What onnx-ir cannot carry: the places of the weights, and the fields it drops.

    Attributes:
        files: every file that holds part of the model, by real path, with its mapping if it was
            mapped here; saving must not replace them.
        external: whether some weights came from beside the model file.
        training_info: serialised ``TrainingInfoProto`` messages.
        types: serialised ``TypeProto`` of graph inputs and outputs whose type (map, opaque)
            onnx-ir has no class for, by value name.
    """

    files: Mapping[Path, mmap.mmap | None] = field(default_factory=dict)
    external: bool = False
    training_info: tuple[bytes, ...] = ()
    types: Mapping[str, bytes] = field(default_factory=dict)


def origin_of(model: ir.Model) -> Source:
    """Where ``model`` came from; empty for a model that was built in memory."""
    source = model.meta.get(_SOURCE)
    return source if isinstance(source, Source) else Source()


def adopt(model: ir.Model, origin: Source) -> None:
    """Record ``origin`` on ``model``, and the model on each of its graphs."""
    model.meta[_SOURCE] = origin
    for graph in walk(model.graph):
        graph.meta[_OWNER] = model


def owner(graph: ir.Graph) -> ir.Model | None:
    """The model that ``graph`` belongs to, when it was loaded or cloned here."""
    model = graph.meta.get(_OWNER)
    return model if isinstance(model, ir.Model) else None


def bodies(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    """The subgraph bodies of a node as (attribute name, graph): If, Loop, Scan, SequenceMap."""
    for attr in node.attributes.data.values():  # the view of a UserDict is slow, and this is often
        if attr.type == ir.AttributeType.GRAPH:
            yield attr.name, attr.as_graph()
        elif attr.type == ir.AttributeType.GRAPHS:
            for index, graph in enumerate(attr.as_graphs()):
                yield f"{attr.name}.{index}", graph


def walk(graph: ir.Graph) -> Iterator[ir.Graph]:
    """A graph, then every body in it, depth first in node order."""
    yield graph
    for node in graph:
        for _, body in bodies(node):
            yield from walk(body)


def values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every named value a graph defines itself: inputs, initializers, node outputs; once each."""
    yield from graph.inputs
    for value in graph.initializers.values():
        if not value.is_graph_input():
            yield value
    for node in graph:
        for value in node.outputs:
            if value.name:
                yield value


def _copy_type(kind: ir.TypeProtocol | None) -> ir.TypeProtocol | None:
    if type(kind) is ir.TensorType:  # nearly all; `deepcopy` takes as long as the rest of a clone
        return ir.TensorType(kind.dtype, denotation=kind.denotation)
    return copy.deepcopy(kind)


def clone(model: ir.Model) -> ir.Model:
    """A copy that shares nothing but the tensors, which are immutable."""
    result = model.clone()
    # onnx-ir shares type objects, whose element type is writable, and annotation tables.
    for graph in walk(result.graph):
        for value in values(graph):
            value.type = _copy_type(value.type)
            if QUANTIZATION in value.meta:
                value.meta[QUANTIZATION] = dict(value.meta[QUANTIZATION])
    adopt(result, origin_of(model))
    return result
