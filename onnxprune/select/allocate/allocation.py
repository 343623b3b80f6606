"""The two simple allocations, by a ratio or to a budget."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from onnxprune.errors import OnnxpruneError
from onnxprune.quantities import Budget
from onnxprune.select.allocate.candidate_widths import Lattice
from onnxprune.select.allocate.ranking import F64, Ranking, ranked, uniform
from onnxprune.select.allocate.repair_widths import settle
from onnxprune.select.allocate.search import meet

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
