"""A fraction of the units of several groups together: which group loses how many of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onnxprune.select.allocate.candidate_widths import Lattice
from onnxprune.select.allocate.limits import Share
from onnxprune.select.allocate.ranking import Ranking
from onnxprune.select.allocate.search import meet
from onnxprune.solve.coupled import Curve, fit


def divide(
    lattice: Lattice, ranking: Ranking, curves: Mapping[str, Curve] | None = None
) -> dict[str, int]:
    """Spread every share over its groups where it hurts least.

    What counts are units, each as much as any other: the number that stays is the nearest whole
    number to what was asked for, or as much more as widths that are rounded and guard rails demand.

    Args:
        lattice: the widths allowed, with the shares.
        ranking: the order in which units leave; decides where there are no curves.
        curves: the damage of every width, by group.

    Returns:
        How many units each group of the shares keeps, of those that have a choice.
    """
    kept: dict[str, int] = {}
    for share in lattice.shares:
        if curves is not None and all(g in curves for g in _choosing(lattice, share)):
            kept |= _by_curves(lattice, share, curves)
        else:
            kept |= _by_ranking(lattice, share, ranking)
    return kept


def _by_curves(lattice: Lattice, share: Share, curves: Mapping[str, Curve]) -> Mapping[str, int]:
    chosen = {g: curves[g] for g in _choosing(lattice, share)}
    return fit(chosen, lambda kept: float(sum(kept.values())), _wanted(lattice, share)).widths


def _by_ranking(lattice: Lattice, share: Share, ranking: Ranking) -> Mapping[str, int]:
    groups = _choosing(lattice, share)

    def measure(kept: Mapping[str, int]) -> int:
        return sum(kept[g] for g in groups)

    others = {g: n for g, n in lattice.dense().items() if g not in groups}
    alone = replace(lattice.decided(others), free=groups)
    kept = meet(alone, ranking, measure, _wanted(lattice, share)) or alone.smallest()
    return {g: kept[g] for g in groups}


def _choosing(lattice: Lattice, share: Share) -> tuple[str, ...]:
    """The groups that have more than one width to choose from."""
    return tuple(g for g in share.groups if len(lattice.widths[g]) > 1)


def _wanted(lattice: Lattice, share: Share) -> int:
    """How many units may stay in those groups; never fewer than must."""
    units = sum(lattice.units[g] for g in share.groups)
    groups = _choosing(lattice, share)
    others = sum(int(lattice.widths[g][0]) for g in share.groups if g not in groups)
    least = sum(int(lattice.widths[g][0]) for g in groups)
    return max(round(units * (1 - share.ratio)) - others, least)
