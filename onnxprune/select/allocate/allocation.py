"""The two simple allocations, by a ratio or to a budget."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from onnxprune.errors import OnnxpruneError
from onnxprune.quantities import Budget
from onnxprune.select.allocate.alignment import I64
from onnxprune.select.allocate.candidate_widths import Lattice
from onnxprune.select.allocate.limits import Share
from onnxprune.select.allocate.ranking import F64, Ranking, ranked, uniform
from onnxprune.select.allocate.repair_widths import settle
from onnxprune.solve.coupled import Curve, fit

Policy = Literal["uniform", "global"]
"""``uniform``: the same fraction of every group; ``global``: the lowest scores of all groups."""


CostFunction = Callable[[Mapping[str, Sequence[int]]], int]
"""The cost of the model without ``{group: unit indices}``, in the unit of the budget."""


@dataclass(frozen=True, eq=False)
class Allocation:
    """Which units go.

    Attributes:
        removed: by group, unit indices, ascending; groups that lose none are absent.
        kept: by group, how many units stay.
        declined: by group, why it could not be cut at all.
    """

    removed: Mapping[str, tuple[int, ...]]
    kept: Mapping[str, int]
    declined: Mapping[str, str]


def allocate(
    lattice: Lattice,
    scores: Mapping[str, F64],
    *,
    ratio: float | None = None,
    target: Budget | None = None,
    cost: CostFunction | None = None,
    policy: Policy | None = None,
    comparable: bool = True,
    damage: bool = False,
    stairs: bool = False,
) -> Allocation:
    """Choose the units to remove.

    Groups with a ratio of their own lose that, whatever the rest does. With neither ``ratio`` nor
    ``target`` nothing else is removed.

    Args:
        lattice: the widths allowed.
        scores: by group, float64 ``[units]``, higher = keep, for every group that is not declined.
        ratio: the fraction of units to remove. ``uniform`` takes the nearest allowed width in every
            group; ``global`` removes at least this fraction of all the units that can go.
        target: what may be left of the model; met from below, never exceeded.
        cost: needed with ``target``.
        policy: ``uniform`` for a ratio and ``global`` for a target, unless said otherwise.
        comparable: whether scores of different groups share a currency (``Scores.comparable``).
        damage: whether scores add up to what is lost (``Scores.damage``). Under a target,
            ``global`` then removes what does least damage for what it saves.
        stairs: whether the cost climbs in stairs as widths grow, as latencies do.

    Raises:
        OnnxpruneError: ratio and target are both given, or cannot be met: the message says what
            can; or scores are missing or of the wrong length.
    """
    if ratio is not None and target is not None:
        raise OnnxpruneError(
            "a ratio and a target both say how much to remove", hint="give one of them"
        )
    policy = policy or ("uniform" if target is None else "global")
    idle = lattice.free if ratio is None and target is None else ()
    _check_scores(lattice, scores, idle)
    ranking = uniform(scores) if policy == "uniform" else ranked(scores, comparable=comparable)
    if target is not None:
        if cost is None:
            raise ValueError("a target needs a cost model")
        if damage and policy == "global":
            ranking = ranked(scores, prices=_prices(lattice, scores, cost, stairs=stairs))
        kept = _to_budget(lattice, ranking, target, cost)
    elif ratio is None or (policy == "uniform"):
        wanted = lattice.dense()
        for group in lattice.free:
            wanted[group] = lattice.nearest(group, lattice.units[group] * (1 - (ratio or 0)))
        kept = settle(lattice, ranking, wanted)
    else:
        kept = _to_ratio(lattice, ranking, ratio)
    return Allocation(ranking.removed(kept), kept, lattice.declined)


def _prices(
    lattice: Lattice, scores: Mapping[str, F64], cost: CostFunction, *, stairs: bool
) -> dict[str, float]:
    """By group, what a unit that goes saves while everything else is dense.

    Of costs that are products of widths the first unit tells that; of costs that climb in stairs it
    is the mean down to the smallest width.
    """
    dense = cost({})
    prices = {}
    for group, values in scores.items():
        climbs = stairs and group in lattice.units
        count = max(len(values) - int(lattice.widths[group][0]), 1) if climbs else 1
        if len(values):
            saved = dense - cost({group: tuple(range(count))})
            prices[group] = float(saved) / count
    return prices


def _to_budget(
    lattice: Lattice, ranking: Ranking, target: Budget, cost: CostFunction
) -> dict[str, int]:
    def measure(kept: Mapping[str, int]) -> int:
        return cost(ranking.removed(kept))

    dense = cost({})
    limit = target.limit(dense)
    kept = meet(lattice, ranking, measure, limit)
    if kept is None:
        least = measure(settle(lattice, ranking, lattice.smallest()))
        part = least / max(dense, 1)
        raise OnnxpruneError(
            f"{target.kind} cannot go below {least:,} ({part:.1%} of the original), "
            f"and {target} allows {limit:,}",
            hint=_advice(lattice),
        )
    return kept


def _to_ratio(lattice: Lattice, ranking: Ranking, ratio: float) -> dict[str, int]:
    units = sum(lattice.units[g] for g in lattice.free)

    def measure(kept: Mapping[str, int]) -> int:
        return sum(kept[g] for g in lattice.free)

    kept = meet(lattice, ranking, measure, int(units * (1 - ratio) + 1e-9))
    if kept is None:
        most = 1 - measure(settle(lattice, ranking, lattice.smallest())) / max(units, 1)
        raise OnnxpruneError(
            f"of {units:,} units that may go, at most {most:.1%} can go together, not {ratio:.1%}",
            hint=_advice(lattice),
        )
    return kept


def _check_scores(lattice: Lattice, scores: Mapping[str, F64], idle: Container[str]) -> None:
    for group, units in lattice.units.items():
        if group in lattice.declined or group in idle:
            continue
        found = scores.get(group)
        if found is None or found.shape != (units,):
            shape = "none" if found is None else f"an array of shape {found.shape}"
            raise OnnxpruneError(f"group {group!r} needs {units} scores and has {shape}")


def _advice(lattice: Lattice) -> str:
    advice = "raise max-ratio or lower round-to"
    if lattice.declined:
        name, why = next(iter(lattice.declined.items()))
        advice += f"; {len(lattice.declined)} of {len(lattice.units)} groups are left alone"
        advice += f", among them {name}: {why}"
    return advice


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
