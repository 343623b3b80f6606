"""Which layers of a pruned model are refitted, in what order, and to what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.data.activations.between import Maker, clip_of, find_maker
from onnxprune.graph.analysis import identity
from onnxprune.graph.layers.epilogue import Epilogue, find_epilogue
from onnxprune.graph.layers.linear import LinearLayer, refittable, shared
from onnxprune.graph.layers.pad_nodes import unpadded_layers
from onnxprune.graph.layers.sources import ancestors
from onnxprune.graph.shapes import Fact

Array = npt.NDArray[Any]
Kept = Callable[[str, int], npt.NDArray[np.bool_]]
"""Which indices of an axis of a value of the dense model the pruned one still has."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A pruned model to recover, and the dense one that it is to compute the same as.

    Attributes:
        dense: the model before pruning.
        pruned: the model after; node and value names are those of the dense one.
        kept: which indices of the dense model's axes the pruned one still has.
        facts: shapes in the dense model.
    """

    dense: models.Model
    pruned: models.Model
    kept: Kept
    facts: Mapping[str, Fact]

    def copied(self) -> Problem:
        """The same with a copy of the pruned model, which may be changed."""
        return replace(self, pruned=models.clone(self.pruned))


@dataclass(frozen=True, eq=False)
class Step:
    """One layer to refit.

    Attributes:
        layer: as it is in the pruned model.
        epilogue: where its output counts.
        kept: which of the dense outputs it still has.
        reads: which of the dense inputs it still has; None where it reads another value by now.
        clip: bounds beyond which its output is not read, infinite where it is.
        maker: the layer before it, if the two can be refitted together.
    """

    layer: LinearLayer
    epilogue: Epilogue
    kept: npt.NDArray[np.bool_]
    reads: npt.NDArray[np.bool_] | None
    clip: tuple[float, float] = (-np.inf, np.inf)
    maker: Maker | None = None

    @property
    def node(self) -> str:
        """The identity of the layer."""
        return self.layer.node

    @property
    def inputs(self) -> int:
        """Rows of each of its matrices."""
        return self.layer.shape[1]


def plan_steps(
    problem: Problem, *, producers: bool, pairs: bool
) -> tuple[list[Step], dict[str, str]]:
    """The layers to refit, in order, and why others that changed are not refitted.

    Args:
        problem: the pruned model and the dense one.
        producers: also layers that lost no input but get other inputs than they did.
        pairs: also look for the layers before them that they can be refitted together with.
    """
    pruned, kept, facts = problem.pruned, problem.kept, problem.facts
    every = unpadded_layers(pruned, facts)
    layers = refittable(every)
    values = {v.name or "": v for v in models.values(pruned.ir.graph)}
    before = {layer.node: layer for layer in refittable(unpadded_layers(problem.dense, facts))}
    changed = changed_values(problem.dense, pruned)
    declined = {e.node: e.declined for e in every if e.declined and e.kind == "plain"}
    declined = {node: why for node, why in declined.items() if node in changed}
    steps: list[Step] = []
    for layer in layers:
        old = before.get(layer.node)
        if old is None or layer.node not in changed:
            continue
        if shared(layer):
            declined[layer.node] = "its weight is shared with another layer"
            continue
        columns = kept(layer.y, layer.out_axis)
        if int(columns.sum()) != layer.outputs:
            declined[layer.node] = "its outputs cannot be matched with those of the dense model"
            continue
        if not producers and old.shape[:2] == layer.shape[:2]:
            continue
        epilogue = find_epilogue(values, facts, layer)
        reads = kept(old.x, old.axis) if old.x == layer.x else None
        steps.append(Step(layer, epilogue, columns, reads))
    ordered = _schedule(steps, {identity(n): at for at, n in enumerate(pruned.ir.graph)}, values)
    known = {step.layer.node for step in steps}
    finished = []
    for step in ordered:
        maker = find_maker(values, facts, layers, step.layer) if pairs else None
        # A depthwise convolution has too few weights to be of help: on a MobileNetV1 such pairs
        # took three times as long as the layers alone and gained nothing.
        if maker is not None and (maker.layer.node not in known or maker.layer.is_depthwise):
            maker = None
        finished.append(replace(step, clip=_clip(values[step.epilogue.value]), maker=maker))
    return finished, declined


def _clip(value: ir.Value) -> tuple[float, float]:
    """The bounds of the ReLU or Clip that is the only reader of a value."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0][1] != 0:
        return -np.inf, np.inf
    return clip_of(uses[0][0]) or (-np.inf, np.inf)


def _schedule(
    steps: Sequence[Step], position: Mapping[str, int], values: Mapping[str, ir.Value]
) -> list[Step]:
    """Steps in an order in which every skip is final before it is subtracted.

    Of two layers whose outputs are summed only one can make up for the other: the one with more
    inputs does, and comes last. The other is fitted to its own dense output.
    """
    planned = {step.layer.node for step in steps}
    strongest: dict[str, Step] = {}
    for step in steps:
        if step.epilogue.skip is not None:
            rival = strongest.setdefault(step.epilogue.value, step)
            if step.inputs > rival.inputs:
                strongest[step.epilogue.value] = step
    timed: list[tuple[int, int, Step]] = []
    for step in steps:
        at = position[step.layer.node]
        if step.epilogue.skip is None:
            timed.append((at, 0, step))
        elif strongest[step.epilogue.value] is not step:
            timed.append((at, 0, replace(step, epilogue=step.epilogue.alone)))
        else:
            before = ancestors(values[step.epilogue.skip])
            last = max((position[node] for node in planned & before), default=at)
            timed.append((max(at, last), 1, step))
    return [step for *_, step in sorted(timed, key=lambda each: each[:2])]


def changed_values(dense: models.Model, pruned: models.Model) -> set[str]:
    """Values of the main graph that are not what they were: cut, or computed from such."""
    before = {identity(node): node for node in dense.ir.graph}
    changed: set[str] = set()
    for node in pruned.ir.graph:
        old = before.get(identity(node))
        fed = any(v is not None and v.name in changed for v in node.inputs)
        if fed or old is None or _signature(old) != _signature(node):
            changed.update(v.name for v in node.outputs if v.name)
    return changed


def _signature(node: ir.Node) -> list[object]:
    """What a cut changes about a node: the shapes of what it stores, the names of what it reads."""
    parts: list[object] = []
    for value in node.inputs:
        tensor = None if value is None else models.constant(value)
        if tensor is not None:
            parts.append(tuple(tensor.shape.numpy()))
        else:
            parts.append(None if value is None else value.name)
    return parts
