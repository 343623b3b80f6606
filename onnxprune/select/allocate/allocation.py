"""The two simple allocations, by a ratio or to a budget."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from onnxprune.errors import OnnxpruneError, stated
from onnxprune.quantities import Budget, percent
from onnxprune.select.allocate.alignment import I64
from onnxprune.select.allocate.candidate_widths import CandidateWidths, why_whole
from onnxprune.select.allocate.fill import (
    CostFunction,
    CostOfWidths,
    CountUnits,
    Kept,
    Measure,
    fill,
)
from onnxprune.select.allocate.limits import Share
from onnxprune.select.allocate.ranking import F64, Ranking, ranked, uniform
from onnxprune.select.allocate.repair_widths import repair_widths
from onnxprune.select.allocate.uniform_ratio import why_alone, widths_of_ratio
from onnxprune.solve.coupled import Curve
from onnxprune.solve.coupled import fit as fit_curves

Policy = Literal["uniform", "global"]
"""``uniform``: the same fraction of every group; ``global``: the lowest scores of all groups."""


class UnmetError(OnnxpruneError):
    """Not even the narrowest widths meet a ratio or a budget."""


@dataclass(frozen=True, eq=False)
class Allocation:
    """Which units go.

    Attributes:
        removed: by group, unit indices, ascending; groups that lose none are absent.
        kept: by group, how many units stay.
        declined: by group, why it could not be cut at all.
        unchanged: by group, why the ratio removes nothing from it though it could be cut.
    """

    removed: Mapping[str, tuple[int, ...]]
    kept: Mapping[str, int]
    declined: Mapping[str, str]
    unchanged: Mapping[str, str]


def allocate(
    candidates: CandidateWidths,
    scores: Mapping[str, F64],
    *,
    ratio: float | None = None,
    target: Budget | None = None,
    cost: CostFunction | None = None,
    change: CostFunction | None = None,
    policy: Policy | None = None,
    comparable: bool = True,
    additive: bool = False,
    stairs: bool = False,
    dense: int | None = None,
) -> Allocation:
    """Choose the units to remove.

    Groups with a ratio of their own lose that, whatever the rest does. With neither ``ratio`` nor
    ``target`` nothing else is removed.

    Args:
        candidates: the widths allowed.
        scores: by group, float64 ``[units]``, higher = keep, for every group that is not declined.
        ratio: the fraction of units to remove. ``uniform`` takes one of the two allowed widths
            around it in every group, ``global`` any; both come as near to it in sum as they can.
        target: what may be left of the model; met from below, never exceeded.
        cost: needed with ``target``.
        change: the cost once some groups lose other units than in the latest call of ``cost`` or
            of this; without it every step is priced as a whole.
        policy: ``uniform`` for a ratio and ``global`` for a target, unless said otherwise.
        comparable: whether scores of different groups share a currency (``Scores.comparable``).
        additive: whether scores add up to what is lost (``Scores.error``). Under a target,
            ``global`` then removes what costs the least error for what it saves.
        stairs: whether the cost climbs in stairs as widths grow, as latencies do.
        dense: the cost that a relative target is a part of; None for that with nothing removed.

    Raises:
        OnnxpruneError: ratio and target are both given, or cannot be met: the message says what
            can; or scores are missing or of the wrong length.
    """
    if ratio is not None and target is not None:
        raise OnnxpruneError(
            "a ratio and a target both say how much to remove", hint="give one of them"
        )
    policy = policy or ("uniform" if target is None else "global")
    idle = candidates.free if ratio is None and target is None else ()
    _check_scores(candidates, scores, idle)
    ranking = uniform(scores) if policy == "uniform" else ranked(scores, comparable=comparable)
    if target is not None:
        if cost is None:
            raise ValueError("a target needs a cost model")
        if additive and policy == "global":
            ranking = ranked(scores, prices=_prices(candidates, scores, cost, stairs=stairs))
        measure = CostOfWidths(ranking, cost, change)
        kept = _to_budget(
            candidates, ranking, target, measure, cost({}) if dense is None else dense
        )
    elif ratio is None or (policy == "uniform"):
        kept = widths_of_ratio(candidates, ranking, ratio or 0.0)
    else:
        kept = _to_ratio(candidates, ranking, ratio)
    free = Share(ratio, candidates.free) if ratio else None
    alone: tuple[Share, ...] = ()
    together = candidates.shares
    if free is not None and policy == "uniform":
        alone = tuple(Share(free.ratio, (group,)) for group in free.groups)
    elif free is not None:
        together = (*together, free)
    unchanged = _unchanged(candidates, (*alone, *together), kept)
    if free is not None and policy == "uniform":
        unchanged |= {
            group: why_alone(candidates, group, free.ratio)
            for group in unchanged.keys() & set(free.groups)
            if candidates.nearest(group, candidates.units[group] * (1 - free.ratio)) < kept[group]
        }
    return Allocation(ranking.removed(kept), kept, candidates.declined, unchanged)


def _unchanged(
    candidates: CandidateWidths, shares: Iterable[Share], kept: Mapping[str, int]
) -> dict[str, str]:
    """Why groups lose nothing though a share of their units is to go."""
    reasons: dict[str, str] = {}
    for share in shares:
        if any(kept[group] < candidates.units[group] for group in share.groups):
            continue
        units = sum(candidates.units[group] for group in share.groups)
        steps = [candidates.widths[group] for group in share.groups]
        least = min((int(w[-1] - w[-2]) for w in steps if len(w) > 1), default=1)
        reasons |= dict.fromkeys(share.groups, why_whole(share.ratio, units, least))
    return reasons


def _prices(
    candidates: CandidateWidths, scores: Mapping[str, F64], cost: CostFunction, *, stairs: bool
) -> dict[str, float]:
    """By group, what a unit that goes saves while everything else is dense.

    Of costs that are products of widths the first unit tells that; of costs that climb in stairs it
    is the mean down to the smallest width.
    """
    dense = cost({})
    prices = {}
    for group, values in scores.items():
        climbs = stairs and group in candidates.units
        count = max(len(values) - int(candidates.widths[group][0]), 1) if climbs else 1
        if len(values):
            saved = dense - cost({group: tuple(range(count))})
            prices[group] = float(saved) / count
    return prices


def _to_budget(
    candidates: CandidateWidths, ranking: Ranking, target: Budget, measure: Measure, dense: int
) -> dict[str, int]:
    limit = target.limit(dense)
    kept = meet_limit(candidates, ranking, measure, limit)
    if kept is None:
        least = measure(repair_widths(candidates, ranking, candidates.smallest()))
        raise UnmetError(unmet(target, least, limit, dense))
    return kept


def _to_ratio(candidates: CandidateWidths, ranking: Ranking, ratio: float) -> dict[str, int]:
    units, measure = sum(candidates.units[g] for g in candidates.free), CountUnits(candidates.free)
    kept = meet_limit(candidates, ranking, measure, int(units * (1 - ratio) + 1e-9))
    if kept is None:
        most = 1 - measure(repair_widths(candidates, ranking, candidates.smallest())) / max(
            units, 1
        )
        raise UnmetError(
            f"of {units:,} units that may go, at most {most:.1%} can go together, not {ratio:.1%}"
        )
    return _nearer(candidates, ranking, kept, units * (1 - ratio))


def _nearer(
    candidates: CandidateWidths, ranking: Ranking, kept: dict[str, int], wanted: float
) -> dict[str, int]:
    """The same widths, or with the smallest step given back where that is nearer to the ratio."""
    steps = {g: n for g in candidates.free if (n := candidates.above(g, kept[g])) is not None}
    if not steps:
        return kept
    group = min(
        steps, key=lambda g: (steps[g] - kept[g], -ranking.mean_key(g, kept[g], steps[g]), g)
    )
    wider = repair_widths(candidates, ranking, {**kept, group: steps[group]})
    total, more = (sum(widths[g] for g in candidates.free) for widths in (kept, wider))
    return wider if abs(more - wanted) < abs(total - wanted) - 1e-9 else kept


def _check_scores(
    candidates: CandidateWidths, scores: Mapping[str, F64], idle: Container[str]
) -> None:
    for group, units in candidates.units.items():
        if group in candidates.declined or group in idle:
            continue
        array = scores.get(group)
        if array is None or array.shape != (units,):
            shape = "none" if array is None else f"an array of shape {array.shape}"
            raise OnnxpruneError(f"group {group!r} needs {units} scores and has {shape}")


def unmet(target: Budget, least: int, limit: int, dense: int) -> str:
    """The message of a budget that is below the least that can remain."""
    part = percent(least / max(dense, 1))
    return (
        f"{stated('--target', str(target))}: {target.kind} cannot go below {least:,} "
        f"({part} of the original), and at most {limit:,} are allowed"
    )


def meet_limit(
    candidates: CandidateWidths, ranking: Ranking, measure: Measure, limit: int
) -> Kept | None:
    """Remove the lowest keys until ``measure`` is at most ``limit``, then give back what fits.

    Bisection over how many units leave finds where the limit is met; what rounding took too much
    is given back step by step, the most important units first. Nothing is measured that is not a
    possible result, so the limit holds exactly; and no single step of any group could be given back
    without breaking it, as long as widening one group makes no other cheaper.

    Args:
        candidates: the widths allowed.
        ranking: the order in which units leave.
        measure: what is left, given how many units each group keeps.
        limit: the most that may be left.

    Returns:
        How many units each group keeps, or None if even the narrowest model is over the limit.
    """
    sequence = ranking.sequence(candidates.free)
    if measure(dense := _after(0, sequence, candidates, ranking)) <= limit:
        return dense
    best = repair_widths(candidates, ranking, candidates.smallest())
    if measure(best) > limit:
        return None
    low, high = 0, len(sequence) + 1  # none leave: over the limit; all that can: within it
    while high - low > 1:
        middle = (low + high) // 2
        kept = _after(middle, sequence, candidates, ranking)
        if measure(kept) <= limit:
            high, best = middle, kept
        else:
            low = middle
    return fill(candidates, ranking, measure, limit, best)


def _after(count: int, sequence: I64, candidates: CandidateWidths, ranking: Ranking) -> Kept:
    """The widths nearest to what is left after so many units of the sequence."""
    removed = np.bincount(sequence[:count], minlength=len(candidates.free))
    wanted = candidates.dense()
    for group, n in zip(candidates.free, removed.tolist(), strict=True):
        wanted[group] = candidates.nearest(group, candidates.units[group] - n)
    return repair_widths(candidates, ranking, wanted)


def divide_shares(
    candidates: CandidateWidths, ranking: Ranking, curves: Mapping[str, Curve] | None = None
) -> dict[str, int]:
    """Spread every share over its groups where it hurts least.

    What counts are units, each as much as any other: the number that stays is the nearest whole
    number to what was asked for, or as much more as widths that are rounded and guard rails demand.

    Args:
        candidates: the widths allowed, with the shares.
        ranking: the order in which units leave; decides where there are no curves.
        curves: error of every width, by group.

    Returns:
        How many units each group of the shares keeps, of those that have a choice.
    """
    kept: dict[str, int] = {}
    for share in candidates.shares:
        if curves is not None and all(g in curves for g in _choosing(candidates, share)):
            kept |= _by_curves(candidates, share, curves)
        else:
            kept |= _by_ranking(candidates, share, ranking)
    return kept


def _by_curves(
    candidates: CandidateWidths, share: Share, curves: Mapping[str, Curve]
) -> Mapping[str, int]:
    some = {g: curves[g] for g in _choosing(candidates, share)}
    return fit_curves(
        some, lambda kept: float(sum(kept.values())), _wanted(candidates, share)
    ).widths


def _by_ranking(candidates: CandidateWidths, share: Share, ranking: Ranking) -> Mapping[str, int]:
    groups = _choosing(candidates, share)
    others = {g: n for g, n in candidates.dense().items() if g not in groups}
    alone = replace(candidates.decided(others), free=groups)
    wanted = _wanted(candidates, share)
    kept = meet_limit(alone, ranking, CountUnits(groups), wanted) or alone.smallest()
    return {g: kept[g] for g in groups}


def _choosing(candidates: CandidateWidths, share: Share) -> tuple[str, ...]:
    """The groups that have more than one width to choose from."""
    return tuple(g for g in share.groups if len(candidates.widths[g]) > 1)


def _wanted(candidates: CandidateWidths, share: Share) -> int:
    """How many units may stay in those groups; never fewer than must."""
    units = sum(candidates.units[g] for g in share.groups)
    groups = _choosing(candidates, share)
    others = sum(int(candidates.widths[g][0]) for g in share.groups if g not in groups)
    least = sum(int(candidates.widths[g][0]) for g in groups)
    return max(round(units * (1 - share.ratio)) - others, least)
