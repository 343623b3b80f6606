"""Which layers of a pruned model are refitted, in what order, and to what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.data.activations.between import Maker, clip_of, find_maker
from onnxprune.graph.analysis import identity
from onnxprune.graph.layers.applications import biases_of, common_epilogues, find_applications
from onnxprune.graph.layers.epilogue import Epilogue
from onnxprune.graph.layers.linear import LinearLayer, refittable
from onnxprune.graph.layers.pad_nodes import unpadded_layers
from onnxprune.graph.layers.sources import read_by
from onnxprune.graph.shapes import Fact
from onnxprune.solve.joint import Biases

Array = npt.NDArray[Any]
_SHOWN = ("plain", "recurrent", "sum")
"""Kinds of layers that are named with the reason where they are not refitted."""
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
        others: steps of the other layers that apply the same weight, which are refitted with it.
        biases: which biases they have.
        matrices: which of the dense model's matrices it still has, of a stack.
        loops: whether one application depends on another.
    """

    layer: LinearLayer
    epilogue: Epilogue
    kept: npt.NDArray[np.bool_]
    reads: npt.NDArray[np.bool_] | None
    clip: tuple[float, float] = (-np.inf, np.inf)
    maker: Maker | None = None
    others: tuple[Step, ...] = ()
    biases: Biases = "own"
    matrices: npt.NDArray[np.bool_] | None = None
    loops: bool = False

    @property
    def applications(self) -> tuple[Step, ...]:
        """The step and those of the other applications of its weight."""
        return (self, *self.others)

    @property
    def node(self) -> str:
        """The identity of the layer."""
        return self.layer.node

    @property
    def is_narrower(self) -> bool:
        """Whether it has lost inputs itself."""
        return self.reads is not None and not self.reads.all()

    @property
    def inputs(self) -> int:
        """Rows of each of its matrices."""
        return self.layer.shape[1]


def plan_steps(
    problem: Problem, *, producers: bool, pairs: bool, weights: bool = True
) -> tuple[list[Step], dict[str, str]]:
    """The layers to refit, in order, and why others that changed are not refitted.

    Args:
        problem: the pruned model and the dense one.
        producers: also layers that lost no input but get other inputs than they did.
        pairs: also look for the layers before them that they can be refitted together with.
        weights: whether weights change; biases alone are those of every layer.
    """
    pruned, facts = problem.pruned, problem.facts
    every = unpadded_layers(pruned, facts)
    layers = refittable(every)
    values = {v.name or "": v for v in models.values(pruned.ir.graph)}
    before = {layer.node: layer for layer in refittable(unpadded_layers(problem.dense, facts))}
    changed = changed_values(problem.dense, pruned)
    declined = {e.node: e.declined for e in every if e.declined and e.kind in _SHOWN}
    joint, others = find_applications(every)
    if not weights:
        joint, others = {layer.node: (layer,) for layer in layers}, {}
    declined = {node: why for node, why in (declined | others).items() if node in changed}
    steps: list[Step] = []
    for applications in joint.values():
        if not any(layer.node in changed for layer in applications):
            continue
        if not all(layer.node in before for layer in applications):
            continue
        reason = _why_not(problem, applications)
        if reason:
            declined |= {e.node: reason for e in applications if e.node in changed}
            continue
        if not producers and all(before[e.node].shape[:2] == e.shape[:2] for e in applications):
            continue
        ends = common_epilogues(values, facts, applications)
        parts = [
            _step(problem, before[layer.node], layer, end)
            for layer, end in zip(applications, ends, strict=True)
        ]
        biases = biases_of(pruned, applications)
        steps.append(replace(parts[0], others=tuple(parts[1:]), biases=biases))
    ordered = _schedule(steps, pruned)
    known = {step.node for step in steps if not step.others}
    finished = []
    for step in ordered:
        alone = pairs and not step.others
        maker = find_maker(values, facts, layers, step.layer) if alone else None
        # A depthwise convolution has too few weights to be of help: on a MobileNetV1 such pairs
        # took three times as long as the layers alone and gained nothing.
        if maker is not None and (maker.layer.node not in known or maker.layer.is_depthwise):
            maker = None
        finished.append(replace(step, clip=_clip(values[step.epilogue.value]), maker=maker))
    return finished, declined


def _why_not(problem: Problem, applications: Sequence[LinearLayer]) -> str:
    """Why layers cannot be fitted to what the dense model computes; empty if they can be."""
    for layer in applications:
        if int(problem.kept(layer.y, layer.out_axis).sum()) != layer.outputs:
            return "its outputs cannot be matched with those of the dense model"
        if layer.stack is not None:
            matrices = problem.kept(layer.y, layer.stack.y)
            if int(matrices.sum()) != layer.stack.size:
                return "its matrices cannot be matched with those of the dense model"
    return ""


def _step(problem: Problem, old: LinearLayer, layer: LinearLayer, end: Epilogue) -> Step:
    """The step of one application by itself."""
    reads = problem.kept(old.x, old.axis) if old.x == layer.x else None
    matrices = None if layer.stack is None else problem.kept(layer.y, layer.stack.y)
    return Step(layer, end, problem.kept(layer.y, layer.out_axis), reads, matrices=matrices)


def _clip(value: ir.Value) -> tuple[float, float]:
    """The bounds of the ReLU or Clip that is the only reader of a value."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0][1] != 0:
        return -np.inf, np.inf
    return clip_of(uses[0][0]) or (-np.inf, np.inf)


def _schedule(steps: Sequence[Step], pruned: models.Model) -> list[Step]:
    """Steps in an order in which everything that a step reads is final, skips included.

    Of two layers whose outputs are summed only one can make up for the other: the one with more
    inputs does, and comes last. The other is fitted to its own dense output, and so is a weight
    that the other summand depends on. Where weights depend on each other, as in a block that is
    repeated, those that lost inputs come first.
    """
    place = {identity(node): at for at, node in enumerate(pruned.ir.graph)}
    strongest: dict[str, Step] = {}
    for each in (each for step in steps for each in step.applications):
        if each.epilogue.skip is not None:
            rival = strongest.setdefault(each.epilogue.value, each)
            if each.inputs > rival.inputs:
                strongest[each.epilogue.value] = each
    before = _steps_before(steps, pruned)

    def settled(each: Step, own: int) -> Step:
        skip = each.epilogue.skip
        keeps = skip is None or (strongest[each.epilogue.value] is each and not before[skip] & own)
        return each if keeps else replace(each, epilogue=each.epilogue.alone)

    waiting: list[tuple[int, int, Step]] = []
    for number, step in enumerate(steps):
        own, needs = 1 << number, 0
        first, *others = (settled(each, own) for each in step.applications)
        for each in (first, *others):
            needs |= before[each.layer.x]
            needs |= before[each.epilogue.skip] if each.epilogue.skip is not None else 0
        loops = bool(needs & own)
        final = replace(first, others=tuple(others), biases=step.biases, loops=loops)
        waiting.append((place[step.node], needs & ~own, final))
    return _in_order(waiting)


def _steps_before(steps: Sequence[Step], pruned: models.Model) -> dict[str | None, int]:
    """By value, the steps that it depends on: a bit for each."""
    own = {each.node: 1 << k for k, step in enumerate(steps) for each in step.applications}
    before: dict[str | None, int] = defaultdict(int)
    for node in pruned.ir.graph:
        needs = own.get(identity(node), 0)
        for value in read_by(node):
            needs |= before[value.name]
        for value in node.outputs:
            before[value.name] = needs
    return before


def _in_order(waiting: Sequence[tuple[int, int, Step]]) -> list[Step]:
    """Steps after those that they need, each with its place and the bits of these."""
    bits = {id(step): 1 << number for number, (*_, step) in enumerate(waiting)}
    queue, done, ordered = sorted(waiting, key=lambda each: each[0]), 0, list[Step]()
    while queue:
        ready = next((k for k, (_, needs, _) in enumerate(queue) if not needs & ~done), None)
        if ready is None:
            ready = next((k for k, (*_, step) in enumerate(queue) if step.is_narrower), 0)
        *_, step = queue.pop(ready)
        ordered.append(step)
        done |= bits[id(step)]
    return ordered


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
