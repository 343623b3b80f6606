"""A pruned model in the words of the dense one, and the way back.

Recovery knows nodes by the names they have in the dense model. A *twin* is the dense model, cut as
somebody else cut it, with the weights that were left there; what recovery changes in it is carried
back to the graph that it stands for, whose names and nodes stay.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.layers.sources import Place, by_identity, read_at
from onnxprune.graph.surgery import cut
from onnxprune.graph.walk import KEPT_WHOLE
from onnxprune.recovery.correspond.kept_units import Correspondence
from onnxprune.recovery.correspond.matching import SAME_WAY, Matching

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Twin:
    """A pruned model in the words of the dense one.

    Attributes:
        model: the dense model, cut, with the weights of the pruned one.
        masks: which entries are kept of each stored tensor that has zeros where the dense model
            has none, by its name in ``model``.
    """

    model: models.Model
    masks: Mapping[str, Bool]


def make_twin(analysis: Analysis, found: Correspondence, pruned: models.Model) -> Twin:
    """The analysed model, cut as found, with the weights of ``pruned``.

    Raises:
        OnnxpruneError: the cut has other shapes than the pruned model.
    """
    made = cut(analysis, found.removed, found.bypassed)
    nodes, theirs = by_identity(made, analysis.model), by_identity(pruned)
    wanted: dict[Place, ir.TensorProtocol] = {}
    zeros: dict[Place, Bool] = {}
    for place, there in found.matching.stored.items():
        other = read_at(theirs, there)
        tensor = None if other is None else models.constant(other)
        if tensor is None or place[0] not in nodes:
            continue  # inside a dropped branch
        wanted[place] = tensor
        here = read_at(nodes, place)
        dense = None if here is None else models.constant(here)
        if dense is None:
            continue
        shapes = [[int(n) for n in t.shape.numpy()] for t in (dense, tensor)]
        if shapes[0] != shapes[1]:
            raise OnnxpruneError(
                f"'{there[0]}' of the pruned model reads a tensor of shape {shapes[1]} where "
                f"the cut that was found leaves {shapes[0]}",
                hint=SAME_WAY,
            )
        if dense.dtype.is_floating_point():
            zeros[place] = (tensor.numpy() == 0) & (dense.numpy() != 0)
    _store(nodes, wanted)
    masks = {_name_at(nodes, place): ~each for place, each in zeros.items() if each.any()}
    return Twin(made, masks)


def carry_back(
    dense: models.Model,
    twin: models.Model,
    refitted: models.Model,
    matching: Matching,
    pruned: models.Model,
) -> models.Model:
    """A copy of ``pruned`` with what has changed between ``twin`` and ``refitted``.

    Args:
        dense: what both were cut from.
        twin: what ``make_twin`` made of ``pruned``.
        refitted: the same with other weights, and perhaps with biases it did not have.
        matching: which node is which.
        pruned: it is left as it is.
    """
    made = models.clone(pruned)
    nodes, before = by_identity(made), by_identity(twin, dense)
    wanted: dict[Place, ir.TensorProtocol] = {}
    for name, node in by_identity(refitted, dense).items():
        for k, value in enumerate(node.inputs):
            new = None if value is None else models.constant(value)
            if new is None or new.dtype in KEPT_WHOLE:
                continue
            if not _holds(read_at(before, (name, k)), new):
                there = matching.stored.get((name, k))
                if there is None and name in matching.nodes:
                    there = matching.nodes[name], k
                if there is None:
                    raise OnnxpruneError(
                        f"'{name}' was refitted and is no node of the pruned model", hint=SAME_WAY
                    )
                wanted[there] = new
    _store(nodes, wanted)
    return made


def filled_zeros(model: models.Model, twin: Twin) -> int:
    """How many weights that were zero when the model was given are not any more."""
    values = models.constants(model)
    tensors = {name: models.constant(values[name]) for name in twin.masks}
    return sum(
        int(np.count_nonzero(tensor.numpy()[~twin.masks[name]]))
        for name, tensor in tensors.items()
        if tensor is not None
    )


def in_dense_words(matching: Matching, pruned: models.Model) -> models.Model:
    """A copy of ``pruned`` whose inputs and outputs are called as those of the dense model."""
    made = models.clone(pruned)
    graph = made.ir.graph
    wanted = {b: a for a, b in (matching.inputs | matching.outputs).items()}
    border = {v: wanted[v.name or ""] for v in (*graph.inputs, *graph.outputs) if v.name in wanted}
    if all(v.name == name for v, name in border.items()):
        return made
    taken = {v.name or "": v for inner in models.graphs(made) for v in models.values(inner)}
    for value in border:  # first out of each other's way
        value.name = models.fresh_name(graph, f"{value.name}/border")
    for name in border.values():
        if name in taken and taken[name] not in border:
            taken[name].name = models.fresh_name(graph, f"{name}/inner")
    for value, name in border.items():
        value.name = name
    return made


def _store(nodes: dict[str, ir.Node], wanted: Mapping[Place, ir.TensorProtocol]) -> None:
    """Make inputs of nodes hold tensors.

    A stored tensor is replaced where all who read it want the same; else each gets its own.
    """
    shared: dict[ir.Value, list[Place]] = defaultdict(list)
    for place in wanted:
        value = read_at(nodes, place)
        if value is None or models.constant(value) is None:
            _add(nodes[place[0]], place, wanted[place])
        else:
            shared[value].append(place)
    for value, places in shared.items():
        first = wanted[places[0]]
        alone = len(places) == len(value.uses()) and not value.is_graph_output()
        if alone and all(_equal(wanted[each], first) for each in places):
            models.set_constant(value, first)
            continue
        for place in places:
            if not _holds(value, wanted[place]):
                _add(nodes[place[0]], place, wanted[place])


def _add(node: ir.Node, place: Place, tensor: ir.TensorProtocol) -> None:
    """Give a node a stored tensor of its own."""
    assert isinstance(node.graph, ir.Graph)
    position = place[1]
    added = models.add_constant(node.graph, f"{place[0]}/stored_{position}", tensor)
    if len(node.inputs) <= position:
        node.resize_inputs(position + 1)
    node.replace_input_with(position, added)


def _name_at(nodes: dict[str, ir.Node], place: Place) -> str:
    value = read_at(nodes, place)
    return (value.name or "") if value is not None else ""


def _holds(value: ir.Value | None, tensor: ir.TensorProtocol) -> bool:
    """Whether a value is stored and holds exactly this."""
    held = None if value is None else models.constant(value)
    return held is not None and _equal(held, tensor)


def _equal(one: ir.TensorProtocol, two: ir.TensorProtocol) -> bool:
    if one is two:
        return True
    if one.dtype != two.dtype or one.shape != two.shape:
        return False
    return np.array_equal(one.numpy(), two.numpy())
