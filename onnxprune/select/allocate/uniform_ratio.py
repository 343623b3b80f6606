"""A ratio of the units of every group: the widths that come nearest to it in sum.

A width may have to be a multiple of what its kernel computes at once, so no group loses exactly the
ratio, and rounding each alone adds up: five layers that all round down lose a tenth more than was
meant. Every group takes one of the two allowed widths around its own, and a subset sum picks the
combination whose total is nearest; of equally near ones that which treats groups most alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from onnxprune.quantities import figure, percent
from onnxprune.select.allocate.candidate_widths import CandidateWidths
from onnxprune.select.allocate.ranking import Ranking
from onnxprune.select.allocate.repair_widths import repair_widths

F64 = npt.NDArray[np.float64]

_ATTEMPTS = 4
"""Totals that are tried where axes of several groups give units back."""


def widths_of_ratio(candidates: CandidateWidths, ranking: Ranking, ratio: float) -> dict[str, int]:
    """How many units every group keeps so that a ratio of all that are free leaves.

    Args:
        candidates: the widths allowed.
        ranking: which units come back first, where several groups share an axis.
        ratio: the part of the units to remove.
    """
    free = candidates.free
    dense = candidates.dense()
    rounded = {g: candidates.nearest(g, candidates.units[g] * (1 - ratio)) for g in free}
    best = repair_widths(candidates, ranking, {**dense, **rounded})
    wanted = sum(candidates.units[g] for g in free) * (1 - ratio)

    def total(kept: Mapping[str, int]) -> int:
        return sum(kept[g] for g in free)

    aim = wanted
    for _ in range(_ATTEMPTS):
        chosen = {**dense, **nearest_sum(candidates, ratio, aim)}
        kept = repair_widths(candidates, ranking, chosen)
        if abs(total(kept) - wanted) < abs(total(best) - wanted) - 1e-9:
            best = kept
        returned = total(kept) - total(chosen)
        if not returned:
            break
        aim -= returned
    return best


def nearest_sum(candidates: CandidateWidths, ratio: float, wanted: float) -> dict[str, int]:
    """One of the two widths around the ratio for each free group, their sum nearest to a total.

    Args:
        candidates: the widths allowed.
        ratio: the part of each group to remove.
        wanted: units to keep in all free groups together.
    """
    around = {g: _around(candidates, g, ratio) for g in candidates.free}
    steps = {g: above - below for g, (below, above) in around.items() if above > below}
    kept = {g: below for g, (below, _) in around.items()}
    if not steps:
        return kept
    unit = math.gcd(*steps.values())
    size = sum(steps.values()) // unit + 1
    costs: F64 = np.full(size, np.inf)
    costs[0] = 0.0
    taken: dict[str, npt.NDArray[np.bool_]] = {}
    for group, step in steps.items():
        units, shift = candidates.units[group], step // unit
        below, above = (((width / units) - (1 - ratio)) ** 2 for width in around[group])
        wide: F64 = np.full(size, np.inf)
        wide[shift:] = costs[: size - shift] + above
        narrow = costs + below
        taken[group] = wide < narrow
        costs = np.minimum(wide, narrow)
    gaps = np.abs(sum(kept.values()) + unit * np.arange(size) - wanted)
    gaps[~np.isfinite(costs)] = np.inf
    nearest = np.flatnonzero(gaps <= gaps.min() + 1e-9)
    at = int(nearest[np.argmin(costs[nearest])])
    for group in reversed(steps):
        if taken[group][at]:
            kept[group] = around[group][1]
            at -= steps[group] // unit
    return kept


def why_alone(candidates: CandidateWidths, group: str, ratio: float) -> str:
    """Why a group keeps all units although a narrower width is nearer to the ratio.

    Args:
        candidates: the widths allowed.
        group: its name.
        ratio: the part of the units to remove.
    """
    units = candidates.units[group]
    below, _ = _around(candidates, group, ratio)
    return (
        f"{percent(ratio)} of {units:,} units is {figure(ratio * units)} units; the nearest widths "
        f"remove 0 or {units - below:,}, and with this group whole all groups together come nearest"
    )


def _around(candidates: CandidateWidths, group: str, ratio: float) -> tuple[int, int]:
    """The widths next to what a ratio leaves: the larger one that is at most it, and the next."""
    widths, wanted = candidates.widths[group], candidates.units[group] * (1 - ratio)
    at = int(np.searchsorted(widths, wanted + 1e-9, side="right"))
    if at == 0:
        return int(widths[0]), int(widths[0])
    below = int(widths[at - 1])
    exact = abs(below - wanted) < 1e-9 or at == len(widths)
    return below, below if exact else int(widths[at])
