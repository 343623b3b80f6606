"""Reconstruction after structured pruning: every layer refitted to what the dense model computed.

Front to back. Each layer sees the inputs it really gets from the pruned layers before it, is fitted
to the outputs of the dense model, and is written back before the next one is looked at, so errors
are not carried on but made up for. Where a layer's output is added to a residual stream the target
is the dense sum minus the pruned other summand, which also makes up for errors that the stream
already carries. Sources: He et al., "Channel pruning for accelerating very deep neural networks"
(ICCV 2017) for asymmetric reconstruction; the residual compensation is theirs too (section 3.3).

Every refit is judged on held-out inputs and declined where it does not help.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.analysis import identity
from onnxprune.recover.gram import Accumulator, Moments
from onnxprune.recover.layers import Layer, Merge, find_layers, find_merge
from onnxprune.recover.least_squares import RIDGES, refit
from onnxprune.recover.patches import Index, sample_positions, token_rows
from onnxprune.recover.segments import Feeds, Segments, ancestors
from onnxprune.shapes import Fact

Array = npt.NDArray[Any]
Kept = Callable[[str, int], npt.NDArray[np.bool_]]
"""Which indices of an axis of a value of the dense model the pruned one still has."""


@dataclass(frozen=True)
class Settings:
    """How layers are refitted.

    Attributes:
        rows: rows sampled per layer, at least.
        rows_per_input: rows sampled per input of the layer, if that is more.
        held: every ``held``-th sample decides instead of being fitted to.
        producers: also refit layers that lost no input but whose inputs have changed.
        ridges: candidates, see ``least_squares``.
        seed: of the sample of rows.
        provider, threads: what runs the models.
    """

    rows: int = 20_000
    rows_per_input: int = 16
    held: int = 6
    producers: bool = True
    ridges: tuple[float, ...] = RIDGES
    seed: int = 0
    provider: str = "cpu"
    threads: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one layer.

    Attributes:
        node: the layer.
        method: what won: ``none`` (declined), ``bias``, ``scale`` or ``lstsq``.
        before, after: relative squared error on held-out samples.
        reason: why it was not refitted at all; empty if it was tried.
    """

    node: str
    method: str = "none"
    before: float = 0.0
    after: float = 0.0
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A pruned model with its layers refitted, and what became of each."""

    model: models.Model
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, eq=False)
class _Step:
    """One layer to refit: as it is now, and what it should have computed."""

    layer: Layer
    merge: Merge
    kept: npt.NDArray[np.bool_]
    inputs: int


def reconstruct(
    dense: models.Model,
    pruned: models.Model,
    kept: Kept,
    facts: Mapping[str, Fact],
    batches: Sequence[Feeds],
    settings: Settings | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Reconstruction:
    """Refit the layers of a pruned model.

    Args:
        dense: the model before pruning.
        pruned: the model after; node and value names are those of the dense one.
        kept: which indices of the dense model's axes are left.
        facts: shapes in the dense model.
        batches: feeds; at least one.
        settings: see there.
        tell: told which layer is being worked on.

    Returns:
        A new model; ``pruned`` is left as it is.
    """
    how = settings or Settings()
    work = models.clone(pruned)
    teacher = Segments(dense, batches, provider=how.provider, threads=how.threads)
    student = Segments(work, batches, provider=how.provider, threads=how.threads)
    values = {v.name or "": v for v in models.values(work.ir.graph)}
    outcomes: list[Outcome] = []
    steps = _schedule(list(_steps(dense, work, kept, facts, how, outcomes)), values)
    for number, step in enumerate(steps, start=1):
        tell(f"recovering layer {number} of {len(steps)}: {step.layer.node}")
        merge = step.merge
        teacher.advance([merge.value])
        student.advance([step.layer.x] + ([merge.skip] if merge.skip else []))
        train, held = _measure(step, teacher, student, how)
        outcomes.append(_refit(step, train, held, values, how))
    return Reconstruction(work, tuple(outcomes))


def _steps(
    dense: models.Model,
    work: models.Model,
    kept: Kept,
    facts: Mapping[str, Fact],
    how: Settings,
    outcomes: list[Outcome],
) -> Iterator[_Step]:
    """The layers to refit, in graph order."""
    layers, declined = find_layers(work)
    outcomes += [Outcome(node, reason=reason) for node, reason in declined.items()]
    values = {v.name or "": v for v in models.values(work.ir.graph)}
    before = {each.node: each for each in find_layers(dense)[0]}
    changed = _changed(dense, work)
    for layer in layers:
        old = before.get(layer.node)
        if old is None or layer.node not in changed:
            continue
        weight = models.constant(values[layer.weight])
        assert weight is not None
        matrix = layer.matrix(np.empty(weight.shape.numpy(), np.bool_))
        shared = len({n for n, _ in values[layer.weight].uses()}) > 1
        if shared:
            outcomes.append(Outcome(layer.node, reason="its weight is shared with another layer"))
            continue
        columns = kept(layer.y, layer.out_axis)
        outputs = matrix.shape[0] * matrix.shape[2]
        if int(columns.sum()) != outputs:
            outcomes.append(Outcome(layer.node, reason="its outputs cannot be matched"))
            continue
        if not how.producers and _inputs(dense, old) == matrix.shape[0] * matrix.shape[1]:
            continue
        merge = find_merge(values, facts, layer, outputs)
        yield _Step(layer, merge, columns, matrix.shape[1])


def _schedule(steps: Sequence[_Step], values: Mapping[str, ir.Value]) -> list[_Step]:
    """Steps in an order in which every skip is final before it is subtracted.

    Of two layers whose outputs are summed only one can make up for the other: the one with more
    inputs does, and comes last. The other is fitted to its own dense output.
    """
    position = {node: at for at, node in enumerate(_order(values))}
    planned = {step.layer.node for step in steps}
    strongest: dict[str, _Step] = {}
    for step in steps:
        if step.merge.skip is not None:
            rival = strongest.setdefault(step.merge.value, step)
            if step.inputs > rival.inputs:
                strongest[step.merge.value] = step
    timed: list[tuple[int, int, _Step]] = []
    for step in steps:
        at = position[step.layer.node]
        if step.merge.skip is None:
            timed.append((at, 0, step))
        elif strongest[step.merge.value] is not step:
            timed.append((at, 0, replace(step, merge=step.merge.alone)))
        else:
            before = ancestors(values[step.merge.skip])
            last = max((position[n] for n in planned & before), default=at)
            timed.append((max(at, last), 1, step))
    return [step for *_, step in sorted(timed, key=lambda each: each[:2])]


def _order(values: Mapping[str, ir.Value]) -> list[str]:
    graph = next(iter(values.values())).graph
    return [] if graph is None else [identity(node) for node in graph]


def _inputs(model: models.Model, layer: Layer) -> int:
    """The number of rows of a layer's matrices, all groups together."""
    found = next(v for v in models.values(model.ir.graph) if v.name == layer.weight)
    weight = models.constant(found)
    assert weight is not None
    matrix = layer.matrix(np.empty(weight.shape.numpy(), np.bool_))
    return int(matrix.shape[0] * matrix.shape[1])


def _changed(dense: models.Model, work: models.Model) -> set[str]:
    """Nodes that do not compute what they did: cut themselves, or fed by such."""
    before = {identity(node): node for node in dense.ir.graph}
    found: set[str] = set()
    for node in work.ir.graph:
        old = before.get(identity(node))
        fed = any(v is not None and v.name in found for v in node.inputs)
        if fed or old is None or _signature(old) != _signature(node):
            found.update(v.name for v in node.outputs if v.name)
    return found


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


def _measure(
    step: _Step, teacher: Segments, student: Segments, how: Settings
) -> tuple[Moments, Moments]:
    """Moments of sampled rows and their targets: of those to fit to, and of those to judge by."""
    layer, merge = step.layer, step.merge
    parts: list[Accumulator] = []
    seen = rows = 0
    for batch in range(len(teacher)):
        x = student.value(layer.x, batch)
        wanted = teacher.value(merge.value, batch)
        total = layer.count(x.shape)
        if not parts:
            probe = layer.rows(x, np.zeros(1, np.int64))
            groups, _, inputs = probe.shape
            outputs = int(step.kept.sum()) // groups
            parts = [Accumulator(groups, inputs, outputs) for _ in range(2)]
            rows = max(how.rows, how.rows_per_input * inputs)
        share = -(-rows // len(teacher))
        positions = sample_positions(total, share, how.seed + batch)
        samples = seen + positions * x.shape[0] // total
        seen += x.shape[0]
        skip = student.value(merge.skip, batch) if merge.skip else None
        targets = _targets(step, wanted, skip, positions)
        features = layer.rows(x, positions)
        aside = samples % how.held == how.held - 1
        for accumulator, chosen in zip(parts, (~aside, aside), strict=True):
            if chosen.any():
                accumulator.add(features[:, chosen], targets[:, chosen])
    return parts[0].moments(), parts[1].moments()


def _targets(step: _Step, wanted: Array, skip: Array | None, positions: Index) -> Array:
    """``[g, rows, N]``: what the layer should add, in the units of where it counts."""
    axis = step.layer.out_axis
    rows = token_rows(wanted, axis, positions)[0][:, step.kept]
    if skip is not None:
        rows = rows - token_rows(skip, axis, positions)[0]
    rows = rows - step.merge.shift.astype(rows.dtype)
    groups = step.layer.groups
    split: Array = rows.reshape(len(rows), groups, -1).transpose(1, 0, 2)
    return split


def _refit(
    step: _Step, train: Moments, held: Moments, values: Mapping[str, ir.Value], how: Settings
) -> Outcome:
    """Fit one layer and write it back if that helps."""
    layer = step.layer
    weight = models.constant(values[layer.weight])
    assert weight is not None
    matrix = layer.matrix(weight.numpy().astype(np.float64))
    groups = matrix.shape[0]
    gain = step.merge.gain.reshape(groups, -1)
    bias = np.zeros_like(gain)
    if layer.bias is not None:
        stored = models.constant(values[layer.bias])
        assert stored is not None
        bias = stored.numpy().astype(np.float64).reshape(groups, -1)
    found = refit(
        train, held, matrix * gain[:, None, :], bias * gain,
        free_bias=layer.bias_slot is not None, ridges=how.ridges,
    )  # fmt: skip
    method = max(set(found.methods), key=found.methods.count)
    if found.accepted:
        alive = np.abs(gain) > 1e-6 * np.abs(gain).max()
        scale = np.where(alive, gain, 1.0)
        solved = np.where(alive[:, None, :], found.weight / scale[:, None, :], matrix)
        shift = np.where(alive, found.bias / scale, bias)
        dtype = weight.numpy().dtype
        models.set_constant(values[layer.weight], layer.stored(solved).astype(dtype))
        _write_bias(layer, shift.reshape(-1).astype(dtype), values)
    return Outcome(layer.node, method, found.before, found.after)


def _write_bias(layer: Layer, bias: Array, values: Mapping[str, ir.Value]) -> None:
    """Store a layer's bias, in a vector of its own where the old one has other readers."""
    if layer.bias_slot is None:
        return
    if layer.bias is not None and len(values[layer.bias].uses()) == 1:
        models.set_constant(values[layer.bias], bias)
        return
    name, position = layer.bias_slot
    node = values[name].producer()
    assert node is not None
    assert isinstance(node.graph, ir.Graph)
    added = models.add_constant(node.graph, f"{name}/bias", bias)
    if len(node.inputs) <= position:
        node.resize_inputs(position + 1)
    node.replace_input_with(position, added)
