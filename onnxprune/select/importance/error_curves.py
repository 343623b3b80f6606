"""What is measured before anything is chosen: the damage of every width, and of every bypass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from onnxprune.data.batches import collate, hold_out, inputs_of
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.units import Block, Group
from onnxprune.select.importance.bypass import block_damage
from onnxprune.select.importance.curves import Feeds, calibrate, sweep
from onnxprune.select.importance.output_damage import in_outputs
from onnxprune.solve.group_obs import Elimination

_ASIDE = 5
"""One batch of so many, or one sample of as many where batches are fewer, is kept aside: errors of
rows that were fitted to say too little. Late layers look as good as free to them."""
_RANKING, _RANKING_PER_INPUT = 4000, 4
"""Rows sampled per layer, and per input of it, where units are only to be put into an order."""
_NOTHING: Mapping[str, float] = MappingProxyType({})


class Curves(NamedTuple):
    """What everything would cost.

    Attributes:
        swept: the order of removal and the damage of every width, by group.
        unpriced: why other groups have none.
        blocks: the damage of bypassing a block, by its name.
    """

    swept: Mapping[str, Elimination]
    unpriced: Mapping[str, str]
    blocks: Mapping[str, float] = _NOTHING


@dataclass(frozen=True, eq=False)
class Measurement:
    """What error curves are measured of, and on what.

    Attributes:
        analysis: of the dense model.
        groups: of it, whose units are removed.
        batches: feeds.
        blocks: of it, that are bypassed; always measured by what that does to the outputs.
        outputs: whether errors of groups are in the currency of the outputs, too. What a ratio
            takes from every group alike needs no common currency.
        provider: what runs the model.
        seed: of the sample of rows.
    """

    analysis: Analysis
    groups: Sequence[Group]
    batches: Sequence[Feeds]
    blocks: Sequence[Block] = ()
    outputs: bool = True
    provider: str = "cpu"
    seed: int = 0


def measure(work: Measurement, tell: Callable[[str], None] = lambda _: None) -> Curves:
    """Measure error curves of groups, and of blocks, on calibration data.

    Args:
        work: what is measured.
        tell: hears the progress.
    """
    analysis, groups, provider = work.analysis, work.groups, work.provider
    tell("measuring what every layer reads")
    known, unseen = parted(analysis, work.batches)
    readers = calibrate(analysis, known, groups=groups, provider=provider, seed=work.seed)
    swept, unpriced = sweep(groups, readers, tell=tell)
    if work.outputs:
        swept = in_outputs(analysis, groups, swept, readers, unseen, provider=provider, tell=tell)
    del readers  # moments of wide layers are large
    dropped = {}
    if work.blocks:
        tell("measuring what blocks do to the outputs")
        dropped = block_damage(analysis, work.blocks, known, unseen, provider=provider)
    return Curves(swept, unpriced, dropped)


def orders(work: Measurement, tell: Callable[[str], None] = lambda _: None) -> Curves:
    """The orders of removal alone, from fewer rows; arguments are those of :func:`measure`."""
    tell("measuring what every layer reads")
    readers = calibrate(
        work.analysis,
        parted(work.analysis, work.batches)[0],
        groups=work.groups,
        rows=_RANKING,
        rows_per_input=_RANKING_PER_INPUT,
        provider=work.provider,
        seed=work.seed,
    )
    return Curves(*sweep(work.groups, readers, tell=tell))


def parted(analysis: Analysis, batches: Sequence[Feeds]) -> tuple[Sequence[Feeds], Sequence[Feeds]]:
    """Batches to measure layers on, and others to see what becomes of the outputs.

    They are the same where there is nothing to part.
    """
    if aside := len(batches) // _ASIDE:
        return batches[:-aside], batches[-aside:]
    inputs = inputs_of(analysis.model)
    known, unseen = hold_out(batches, inputs, _ASIDE)
    if not unseen:
        known, unseen = known[:-1] or known, known[-1:]
    size = max(map(inputs.count, batches))
    return collate(known, inputs, size), collate(unseen, inputs, size)
