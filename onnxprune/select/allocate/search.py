"""The least removal that meets a budget, among prefixes of a ranking."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from onnxprune.select.allocate.alignment import I64
from onnxprune.select.allocate.candidate_widths import Lattice
from onnxprune.select.allocate.ranking import Ranking
from onnxprune.select.allocate.repair_widths import settle

Kept = dict[str, int]


def meet(
    lattice: Lattice, ranking: Ranking, measure: Callable[[Mapping[str, int]], int], limit: int
) -> Kept | None:
    """Remove the lowest keys until ``measure`` is at most ``limit``, then give back what fits.

    Bisection over how many units leave finds where the limit is met; what rounding took too much
    is given back step by step, the worthiest units first. Nothing is measured that is not a
    possible result, so the limit holds exactly; and no single step of any group could be given back
    without breaking it, as long as widening one group makes no other cheaper.

    Args:
        lattice: the widths allowed.
        ranking: the order in which units leave.
        measure: what is left, given how many units each group keeps.
        limit: the most that may be left.

    Returns:
        How many units each group keeps, or None if even the narrowest model is over the limit.
    """
    sequence = ranking.sequence(lattice.free)
    if measure(dense := _after(0, sequence, lattice, ranking)) <= limit:
        return dense
    best = settle(lattice, ranking, lattice.smallest())
    if measure(best) > limit:
        return None
    low, high = 0, len(sequence) + 1  # none leave: over the limit; all that can: within it
    while high - low > 1:
        middle = (low + high) // 2
        kept = _after(middle, sequence, lattice, ranking)
        if measure(kept) <= limit:
            high, best = middle, kept
        else:
            low = middle
    return _fill(lattice, ranking, measure, limit, best)


def _after(count: int, sequence: I64, lattice: Lattice, ranking: Ranking) -> Kept:
    """The widths nearest to what is left after so many units of the sequence."""
    gone = np.bincount(sequence[:count], minlength=len(lattice.free))
    wanted = lattice.dense()
    for group, n in zip(lattice.free, gone.tolist(), strict=True):
        wanted[group] = lattice.nearest(group, lattice.units[group] - n)
    return settle(lattice, ranking, wanted)


def _fill(
    lattice: Lattice,
    ranking: Ranking,
    measure: Callable[[Mapping[str, int]], int],
    limit: int,
    kept: Kept,
) -> Kept:
    """Give back single steps while the limit holds.

    Within a pass, a group whose step does not fit is not tried again: what is left has only grown
    by then. Settled totals can make an exception, so passes go on until one gives nothing back.
    """
    given = True
    while given:
        given, waiting = False, set(lattice.free)
        while waiting:
            steps = {g: more for g in waiting if (more := lattice.above(g, kept[g])) is not None}
            if not steps:
                break
            group = max(steps, key=lambda g: (ranking.worth(g, kept[g], steps[g]), g))
            grown = settle(lattice, ranking, {**kept, group: steps[group]})
            if measure(grown) <= limit:
                kept, given = grown, True
            else:
                waiting.discard(group)
    return kept
