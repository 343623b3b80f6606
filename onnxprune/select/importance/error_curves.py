"""What is measured before anything is chosen: the damage of every width, and of every bypass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


def measure(
    analysis: Analysis,
    groups: Sequence[Group],
    batches: Sequence[Feeds],
    *,
    blocks: Sequence[Block] = (),
    outputs: bool = True,
    provider: str = "cpu",
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Curves:
    """Price groups, and blocks, on calibration data.

    Args:
        analysis: of the dense model.
        groups: of it, those to price.
        batches: feeds.
        blocks: of it, those to price; always by what they do to the outputs.
        outputs: whether groups are priced by what they do to the outputs, too. What a ratio takes
            from every group alike needs no common currency.
        provider: what runs the model.
        seed: of the sample of rows.
        tell: hears the progress.
    """
    tell("measuring what every layer reads")
    known, unseen = parted(analysis, batches)
    readers = calibrate(analysis, known, groups=groups, provider=provider, seed=seed)
    swept, unpriced = sweep(groups, readers, tell=tell)
    if outputs:
        swept = in_outputs(analysis, groups, swept, readers, unseen, provider=provider, tell=tell)
    del readers  # moments of wide layers are large
    dropped = {}
    if blocks:
        tell("measuring what blocks do to the outputs")
        dropped = block_damage(analysis, blocks, known, unseen, provider=provider)
    return Curves(swept, unpriced, dropped)


def orders(
    analysis: Analysis,
    groups: Sequence[Group],
    batches: Sequence[Feeds],
    *,
    provider: str = "cpu",
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Curves:
    """The orders of removal alone, from fewer rows; arguments are those of :func:`measure`."""
    tell("measuring what every layer reads")
    readers = calibrate(
        analysis,
        parted(analysis, batches)[0],
        groups=groups,
        rows=_RANKING,
        rows_per_input=_RANKING_PER_INPUT,
        provider=provider,
        seed=seed,
    )
    return Curves(*sweep(groups, readers, tell=tell))


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
