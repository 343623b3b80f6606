"""Error curves in the currency of the outputs.

An error curve is relative to the variance of where each layer's output counts, which compares
groups well but not perfectly: errors grow or fade on their way to the outputs. So each group loses
units alone, at a few widths; the layers that read it are refitted to what they computed, in closed
form from the moments at hand; the model is run to its end; and the curve is multiplied by how far
the outputs moved over what the curve said. On a ResNet-20 (CIFAR-10) at half of its
multiplications this lowers the error of the recovered model's outputs by 7 %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.data.activations.between import find_maker
from onnxprune.data.batches import count_samples
from onnxprune.data.memory import MemoryBudget
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.cost import CostModel
from onnxprune.graph.layers.applications import write_applications
from onnxprune.graph.layers.epilogue import Weights
from onnxprune.graph.layers.linear import refittable
from onnxprune.graph.layers.pad_nodes import unpadded_layers
from onnxprune.graph.units import Group
from onnxprune.select.importance.curves import Feeds, Reader, consumers_of, reads
from onnxprune.select.importance.refit_errors import RefitErrors
from onnxprune.solve.group_obs import Consumer, Elimination
from onnxprune.solve.moments import shrinkage

Float = npt.NDArray[np.float64]

_SHARES, _SHARE = (0.75, 0.5, 0.25), 0.5
"""The shares of its units that a group keeps when it is measured; the one that is measured where
three take too long."""
_GROUPS = 512
"""Groups that are measured, at most: of more, some that are spread evenly over the model."""
FEWEST, _MOST = 16, 256
"""Fewest and most inputs looked at."""
_MACS = 1.5e12
"""What all runs together may take, where the fewest inputs allow."""
JOINT = 0.8
"""Part of the error of the units between two layers that refitting both together leaves: 0.6 to
0.94 on the blocks of a ResNet-20."""
WORST = 1e3
"""Relative errors beyond are all the same."""


def scale_to_outputs(
    analysis: Analysis,
    groups: Sequence[Group],
    eliminations: Mapping[str, Elimination],
    readers: Mapping[str, Reader],
    batches: Sequence[Feeds],
    *,
    ridge: float = 1e-4,
    provider: str = "cpu",
    memory: MemoryBudget | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Elimination]:
    """The same curves in the currency of the outputs: multiplied by a factor per group and width.

    Args:
        analysis: analysis of the dense model.
        groups: groups of the analysis.
        eliminations: their error curves.
        readers: the moments that the curves came from.
        batches: feeds; the first few are used.
        ridge: of the closed-form refit, see ``solve.group_obs``.
        provider: what runs the models.
        memory: the memory budget.
        progress: told which group is being worked on.

    Returns:
        Errors in the currency of the outputs (see ``output_error``), by group. Groups that are not
        measured, or whose removal moves no output by more than rounding, get the middle of the
        other groups' factors.
    """
    priced = [g for g in groups if g.name in eliminations and len(g) > 1]
    measured = priced[:: -(-len(priced) // _GROUPS) or 1]
    shares = _shares(analysis, len(measured))
    some = affordable(batches, analysis, len(measured) * len(shares))
    errors = RefitErrors(analysis, some, readers, provider=provider, worst=WORST, memory=memory)
    factors: dict[str, tuple[Float, Float]] = {}
    for stretch in errors.stretches(measured):
        errors.open(stretch)
        for group in stretch:
            progress(f"measuring what {group.name} does to the outputs")
            one = eliminations[group.name]
            ratios: dict[int, float] = {}
            for width in sorted({max(round(len(group) * share), 1) for share in shares}):
                removed = one.order[: len(group) - width]
                edit = partial(
                    refit_readers, group=group, removed=removed, readers=readers, ridge=ridge
                )
                output_error = errors.of(edit)
                if output_error > 0 and one.error[width] > 0:
                    ratios[width] = output_error / float(one.error[width])
            if ratios:
                values = np.array(list(ratios.values()))
                factors[group.name] = np.array(list(ratios), float), values
    every = np.concatenate([f for _, f in factors.values()]) if factors else np.ones(1)
    middle = float(np.exp(np.mean(np.log(every))))
    return {name: scaled(one, factors.get(name), middle) for name, one in eliminations.items()}


def repairable(analysis: Analysis, groups: Sequence[Group]) -> frozenset[str]:
    """The groups whose makers can be refitted together with their only reader.

    Args:
        analysis: analysis of the dense model.
        groups: groups of the analysis.
    """
    layers = refittable(unpadded_layers(analysis.model, analysis.facts))
    values = {v.name or "": v for v in models.values(analysis.model.ir.graph)}
    pairs = {
        layer.node
        for layer in layers
        if find_maker(values, analysis.facts, layers, layer) is not None
    }
    names = set()
    for group in groups:
        reading = {node for cut in group.slices if cut.role == "reads" for node in cut.nodes}
        if len(reading) == 1 and reading <= pairs:
            names.add(group.name)
    return frozenset(names)


def without(
    analysis: Analysis,
    group: Group,
    removed: Sequence[int] | npt.NDArray[np.int64],
    readers: Mapping[str, Reader],
    ridge: float = 1e-4,
) -> models.Model:
    """The dense model as if it had lost some units of a group, its readers refitted.

    Nothing is cut: readers get zeros for the units that are gone, and for the others the weights
    that come closest to what they computed.

    Args:
        analysis: analysis of the dense model.
        group: group of the analysis.
        removed: units.
        readers: moments of layers that read the group; others keep their weights.
        ridge: pull towards the old weights, as a share of the mean input variance.
    """
    model = models.clone(analysis.model)
    refit_readers(Weights(model), group, removed, readers, ridge)
    return model


def refit_readers(
    weights: Weights,
    group: Group,
    removed: Sequence[int] | npt.NDArray[np.int64],
    readers: Mapping[str, Reader],
    ridge: float,
) -> None:
    """Give the readers of a group the weights that :func:`without` says."""
    removed_mask = np.zeros(len(group), dtype=bool)
    removed_mask[np.asarray(removed, dtype=np.int64)] = True
    done: set[tuple[int, str, int]] = set()
    for cut in group.slices:
        for node in cut.nodes if cut.role == "reads" else ():
            reader = readers.get(node)
            if reader is None or not reads(reader.layer, cut):
                continue
            if (once := (id(reader), cut.tensor, cut.axis)) in done:
                continue  # another application of the same weight
            done.add(once)
            matrix, bias = weights.read(reader.layer, reader.epilogue)
            free = all(layer.bias_slot is not None for layer, _ in reader.applications)
            shift = np.zeros_like(bias)
            for consumer in consumers_of(reader, cut):
                at = consumer.problem
                lost = consumer.blocks[removed_mask[consumer.units]].ravel()
                mean = reader.moments.mean_x[at]
                if consumer.xx.ndim == 1:
                    refitted = matrix[at].copy()
                    refitted[lost] = 0
                else:
                    refitted = _refitted(consumer, None if free else mean, lost, matrix[at], ridge)
                shift[at] += mean @ (matrix[at] - refitted)
                matrix[at] = refitted
            others = (weights.read(*each)[1] + shift for each in reader.applications[1:])
            biases = [bias + shift, *others] if free else None
            write_applications(weights, reader.applications, matrix, biases)


def _refitted(
    consumer: Consumer,
    mean: Float | None,
    removed: npt.NDArray[np.int64],
    matrix: Float,
    ridge: float,
) -> Float:
    """``[K, N]`` with zeros in the rows that are lost; with the mean where no bias absorbs it."""
    remaining = np.setdiff1d(np.arange(len(matrix)), removed)
    share, added = shrinkage(consumer.xx, consumer.count)
    diagonal = (1 - share) * np.diagonal(consumer.xx) + added
    gram = consumer.xx[remaining]
    gram *= 1 - share
    at = np.arange(len(remaining)), remaining
    gram[at] += added
    if mean is not None:
        diagonal = diagonal + mean * mean
        gram += mean[remaining, None] * mean
    gram[at] += ridge * float(diagonal.mean()) or 1.0
    wanted, gram = gram @ matrix, gram[:, remaining]
    out = np.zeros_like(matrix)
    out[remaining] = np.linalg.solve(gram, wanted)
    return out


def scaled(
    one: Elimination, factors: tuple[Float, Float] | None, middle: float = 1.0
) -> Elimination:
    """A curve times a factor that changes geometrically between the widths it was measured at.

    Args:
        one: the curve.
        factors: ascending widths, and the factor at each; None where none was measured.
        middle: the factor without any.
    """
    counts = np.arange(len(one.error))
    factor: Any = middle
    if factors is not None:
        factor = np.exp(np.interp(counts, factors[0], np.log(factors[1])))
    error = np.maximum.accumulate((one.error * factor)[::-1])[::-1]
    return Elimination(one.order, error)


def _shares(analysis: Analysis, groups: int) -> tuple[float, ...]:
    """The shares of its units that every group keeps in turn.

    On average half of the model runs again, see ``DownstreamError``.
    """
    macs = CostModel(analysis)().macs * FEWEST * groups * len(_SHARES) / 2
    return _SHARES if macs <= _MACS else (_SHARE,)


def affordable(
    batches: Sequence[Feeds],
    analysis: Analysis,
    runs: float,
    *,
    macs: float = _MACS,
    fewest: int = FEWEST,
    most: int = _MOST,
) -> list[Feeds]:
    """As many batches as so many runs of the model may take, at least one.

    Args:
        batches: feeds.
        analysis: of the model.
        runs: how often each of them runs; a part of the model counts as that part of a run.
        macs: multiplications that all runs may take.
        fewest: samples that are taken all the same.
        most: samples that are enough.
    """
    each = max(CostModel(analysis)().macs, 1)
    count = int(np.clip(macs / (each * max(runs, 1)), fewest, most))
    some: list[Feeds] = []
    samples = 0
    for feeds in batches:
        if samples >= count:
            break
        some.append(feeds)
        samples += count_samples(feeds)
    return some
