"""The vectors that recovery may add to a cut model, for which a budget keeps room.

Recovery gives a bias to a layer that has none, and a vector of its own to a layer or normalisation
that reads one together with others. Which of them it adds is decided by data after the cut, so a
plan that is to keep a budget counts all of them, as long as the cut leaves their axes.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.graph.analysis import Analysis, identity
from onnxprune.graph.groups import Stored
from onnxprune.graph.layers.linear import Slot, refittable
from onnxprune.graph.layers.pad_nodes import unpadded_layers
from onnxprune.recovery.norms import Norm, find_norms

STORED_COSTS = ("params", "bytes")
"""The kinds of cost that a vector raises."""

_MEAN, _VARIANCE = 3, 4
"""Inputs of a BatchNormalization that hold statistics."""

_FLOAT = 4
"""Bytes of a number whose type is unknown."""


def recovers(config: Options, *, data: bool) -> bool:
    """Whether a cut or sparse model is refitted, given whether there are data to fit to."""
    return data and config.recover != "none"


def vectors_of_recovery(analysis: Analysis) -> tuple[Stored, ...]:
    """Every vector that recovery may store besides those of the model, as a cut would leave it.

    Args:
        analysis: of the dense model.

    Example:
        >>> from onnxprune.data import zoo
        >>> from onnxprune.graph.analysis import analyse
        >>> vectors_of_recovery(analyse(zoo.get("digits_mlp").model))  # every layer has a bias
        ()
    """
    graph = analysis.model.ir.graph
    nodes = {identity(node): node for node in graph}
    vectors: dict[Slot, Stored] = {}

    def add(slot: Slot, value: str, axis: int) -> None:
        node, position = nodes[slot[0]], slot[1]
        axes = analysis.walk.axes.get(value, ())
        if not _is_own(node, position) and -len(axes) <= axis < len(axes):
            name = f"{slot[0]}/{position}"
            itemsize = _itemsize(analysis, node, position)
            vectors[slot] = Stored(name, (axes[axis],), (slot[0],), itemsize)

    for layer in refittable(unpadded_layers(analysis.model, analysis.facts)):
        if layer.bias_slot is not None:
            add(layer.bias_slot, layer.y, layer.out_axis)
    for norm in find_norms(graph, analysis.facts)[0]:
        for slot in _slots(norm):
            add(slot, norm.y, norm.axis)
    return tuple(vectors.values())


def _slots(norm: Norm) -> Iterator[Slot]:
    """Where a normalisation reads vectors that recovery may write."""
    yield norm.gain
    if norm.bias is not None:
        yield norm.bias
    if norm.kind == "batch":
        yield from ((norm.node, _MEAN), (norm.node, _VARIANCE))


def _is_own(node: ir.Node, position: int) -> bool:
    """Whether an input is a stored tensor that nothing else reads, so that it is written over."""
    value = node.inputs[position] if position < len(node.inputs) else None
    if value is None or models.constant(value) is None:
        return False
    return len(value.uses()) == 1 and not value.is_graph_output()


def _itemsize(analysis: Analysis, node: ir.Node, position: int) -> float:
    """Bytes of a number at an input; where there is none yet, of the node's second input."""
    inputs = [node.inputs[k] for k in (position, 1) if k < len(node.inputs)]
    facts = (analysis.facts.get(value.name or "") for value in inputs if value is not None)
    return next((f.dtype.itemsize for f in facts if f is not None and f.dtype is not None), _FLOAT)
