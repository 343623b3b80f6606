"""Error curves: the pruning error of every width of every group, and of every bypass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from onnxprune.data.batches import collate, hold_out, inputs_of
from onnxprune.data.memory import MemoryBudget
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.layers.applications import find_applications
from onnxprune.graph.layers.linear import find_layers
from onnxprune.graph.units import Block, Group
from onnxprune.select.importance.bypass import block_errors
from onnxprune.select.importance.curves import Feeds, Reader, calibrate, eliminate_groups
from onnxprune.select.importance.masked_errors import Removals, masked_curves
from onnxprune.select.importance.output_errors import scale_to_outputs
from onnxprune.solve.group_obs import Elimination

_ASIDE = 5
"""One batch of so many, or one sample of as many where batches are fewer, is kept aside: errors of
rows that were fitted to say too little. Late layers look as good as free to them."""
_RANKING, _RANKING_PER_INPUT = 4000, 4
"""Rows sampled per layer, and per input of it, where units are only to be put into an order."""
_NOTHING: Mapping[str, float] = MappingProxyType({})


class Curves(NamedTuple):
    """Pruning errors of groups and blocks.

    Attributes:
        groups: order of removal and error at every width, by group.
        declined: why other groups have no curve.
        blocks: error of bypassing a block, by name.
        notes: sentences on layers that were priced more cheaply.
    """

    groups: Mapping[str, Elimination]
    declined: Mapping[str, str]
    blocks: Mapping[str, float] = _NOTHING
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Measurement:
    """What error curves are measured of, and on what.

    Attributes:
        analysis: analysis of the dense model.
        groups: groups whose units are removed.
        batches: feeds.
        blocks: blocks that are bypassed; their errors are always those of the outputs.
        outputs: whether errors of groups are in the currency of the outputs, too. What a ratio
            takes from every group alike needs no common currency.
        provider: what runs the model.
        seed: seed of the sample of rows.
        memory: the memory budget.
    """

    analysis: Analysis
    groups: Sequence[Group]
    batches: Sequence[Feeds]
    blocks: Sequence[Block] = ()
    outputs: bool = True
    provider: str = "cpu"
    seed: int = 0
    memory: MemoryBudget = field(default_factory=MemoryBudget)


def measure_curves(work: Measurement, progress: Callable[[str], None] = lambda _: None) -> Curves:
    """Measure error curves of groups, and of blocks, on calibration data.

    Args:
        work: what is measured.
        progress: told what is being done.
    """
    analysis, groups, provider = work.analysis, work.groups, work.provider
    progress("measuring what every layer reads")
    fit, holdout = split_batches(analysis, work.batches)
    readers = calibrate(
        analysis, fit, groups=groups, provider=provider, seed=work.seed, memory=work.memory
    )
    readers = refitted(analysis, readers)
    notes = _notes(readers, work.memory)
    eliminations, others = eliminate_groups(groups, readers, progress=progress)
    if work.outputs:
        eliminations = scale_to_outputs(
            analysis,
            groups,
            eliminations,
            readers,
            holdout,
            provider=provider,
            memory=work.memory,
            progress=progress,
        )
    masked, declined = masked_curves(
        Removals(analysis, readers, fit, holdout, provider, work.memory),
        [group for group in groups if group.name in others],
        priced=work.outputs,
        progress=progress,
    )
    eliminations |= masked
    del readers  # moments of wide layers are large
    block_errors_ = {}
    if work.blocks:
        progress("measuring what blocks do to the outputs")
        block_errors_ = block_errors(
            analysis, work.blocks, fit, holdout, provider=provider, memory=work.memory
        )
    return Curves(eliminations, declined, block_errors_, notes)


def measure_orders(work: Measurement, progress: Callable[[str], None] = lambda _: None) -> Curves:
    """Measure the orders of removal alone, from fewer rows, see :func:`measure_curves`."""
    progress("measuring what every layer reads")
    fit, holdout = split_batches(work.analysis, work.batches)
    readers = calibrate(
        work.analysis,
        fit,
        groups=work.groups,
        rows=_RANKING,
        rows_per_input=_RANKING_PER_INPUT,
        provider=work.provider,
        seed=work.seed,
        memory=work.memory,
    )
    readers = refitted(work.analysis, readers)
    eliminations, others = eliminate_groups(work.groups, readers, progress=progress)
    masked, declined = masked_curves(
        Removals(work.analysis, readers, fit, holdout, work.provider, work.memory),
        [group for group in work.groups if group.name in others],
        priced=False,
        progress=progress,
    )
    return Curves(eliminations | masked, declined)


def refitted(analysis: Analysis, readers: Mapping[str, Reader]) -> dict[str, Reader]:
    """The readers that recovery can refit, together with all others that apply their weight."""
    joint, _ = find_applications(find_layers(analysis.model))
    sizes = {layer.node: len(layers) for layers in joint.values() for layer in layers}
    return {
        node: reader
        for node, reader in readers.items()
        if sizes.get(node) == len(reader.applications)
    }


def _notes(readers: Mapping[str, Reader], memory: MemoryBudget) -> tuple[str, ...]:
    """Sentences on the layers whose inputs were taken for uncorrelated."""
    wide = {r.layer.node: r.matrix.shape[1] for r in readers.values() if r.moments.xx.ndim == 2}
    return tuple(
        f"{node}: {memory.why(inputs)}; its units are priced by the variance of each input"
        for node, inputs in wide.items()
    )


def split_batches(
    analysis: Analysis, batches: Sequence[Feeds]
) -> tuple[Sequence[Feeds], Sequence[Feeds]]:
    """Batches to measure layers on, and others to see what becomes of the outputs.

    They are the same where there is nothing to part.
    """
    if aside := len(batches) // _ASIDE:
        return batches[:-aside], batches[-aside:]
    inputs = inputs_of(analysis.model)
    fit, holdout = hold_out(batches, inputs, _ASIDE)
    if not holdout:
        fit, holdout = fit[:-1] or fit, fit[-1:]
    size = max(map(inputs.count, batches))
    return collate(fit, inputs, size), collate(holdout, inputs, size)
