"""Allocation over damage curves: the widths that meet a budget at the least damage.

Choosing one width per group under one budget is a multiple-choice knapsack, solved by dynamic
programming over cost buckets (as SPDY, Frantar and Alistarh, ICML 2022, does for sparsities). What
is particular to widths is that their costs multiply: a layer costs its inputs times its outputs.
So costs are taken as linear around the current widths, the knapsack is solved, and both are
repeated from there; what comes out is then moved, step by step, to just within the exact budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Widths = Mapping[str, int]
CostOf = Callable[[Widths], float]

_BUCKETS = 8192
_ROUNDS = 6
PROBES = 9
_AIMS = 8
"""Knapsacks solved per round to make the exact cost fit."""
_NEAR = 0.002
"""Share of the budget that may stay unused before single steps fill it."""


@dataclass(frozen=True, eq=False)
class Curve:
    """What one group may keep, and the damage of keeping that.

    Attributes:
        widths: ``[choices]``, ascending; 0 where the branch may be dropped.
        damage: ``[choices]``, in the currency all groups share.
    """

    widths: Index
    damage: Float

    def at(self, width: int) -> int:
        """The position of a width."""
        return int(np.searchsorted(self.widths, width))


@dataclass(frozen=True, eq=False)
class Fit:
    """Widths that meet a budget.

    Attributes:
        widths: by group.
        damage: their total.
        cost: what they cost exactly, at most the budget.
    """

    widths: Widths
    damage: float
    cost: float


def _unit(spans: Sequence[Float], buckets: int) -> float:
    """The cost of one bucket: exact for small whole numbers, else a share of the whole range."""
    total = float(sum(span.max() for span in spans))
    steps = np.concatenate(list(spans))
    if total <= 2**53 and np.array_equal(steps, np.round(steps)):
        divisor = math.gcd(*(int(step) for step in steps))
        if divisor and total <= divisor * buckets:
            return float(divisor)
    return total / buckets


def knapsack(
    damages: Sequence[Float], costs: Sequence[Float], budget: float, *, buckets: int = _BUCKETS
) -> list[int] | None:
    """One choice per group: the least total damage at a total cost within the budget.

    Args:
        damages: per group, ``[choices]``.
        costs: per group, ``[choices]``, any finite numbers.
        budget: bound on the sum of the costs chosen.
        buckets: resolution. Costs are rounded up to it, so the budget is always met, and the
            choice is the best for a budget smaller by at most ``len(costs)`` buckets; where all
            costs are whole multiples of a bucket it is simply the best. The size of a bucket
            depends on the costs alone, so a larger budget never does worse.

    Returns:
        The position chosen in each group, or None if no choice fits.
    """
    if not costs:
        return [] if budget >= 0 else None
    spans = [np.asarray(cost, dtype=np.float64) - np.min(cost) for cost in costs]
    left = budget - float(sum(np.min(cost) for cost in costs))
    if left < 0:
        return None
    unit = _unit(spans, buckets) or 1.0
    # A hair off before rounding up: a whole multiple must not become one more by its last digit.
    weights = [np.ceil(span / unit - 1e-9).astype(np.int64) for span in spans]
    room = int(min(left / unit + 1e-9, sum(int(w.max()) for w in weights)))
    best = np.zeros(room + 1)
    taken = np.zeros((len(costs), room + 1), dtype=np.int32)
    for group, (damage, weight) in enumerate(zip(damages, weights, strict=True)):
        following = np.full(room + 1, np.inf)
        for choice in np.argsort(weight, kind="stable"):
            start = int(weight[choice])
            if start > room:
                break
            candidate = best[: room + 1 - start] + damage[choice]
            better = candidate < following[start:]
            np.copyto(following[start:], candidate, where=better)
            np.copyto(taken[group, start:], choice, where=better)
        best = following
    at = room
    chosen = []
    for group in reversed(range(len(costs))):
        choice = int(taken[group, at])
        chosen.append(choice)
        at -= int(weights[group][choice])
    return chosen[::-1]


class _Problem:
    """Curves and exact costs, remembered."""

    def __init__(self, curves: Mapping[str, Curve], cost: CostOf, probes: int) -> None:
        self.names = tuple(curves)
        self.curves = curves
        self._cost = cost
        self._known: dict[tuple[int, ...], float] = {}
        self._probes = probes

    def cost(self, widths: Widths) -> float:
        key = tuple(widths[name] for name in self.names)
        if key not in self._known:
            self._known[key] = float(self._cost(dict(zip(self.names, key, strict=True))))
        return self._known[key]

    def damage(self, widths: Widths) -> float:
        return float(sum(c.damage[c.at(widths[name])] for name, c in self.curves.items()))

    def slopes(self, widths: Widths) -> list[Float]:
        """Per group, the exact cost of each of its choices while all others stay as they are."""
        tables = []
        for name, curve in self.curves.items():
            count = len(curve.widths)
            probed = np.unique(np.linspace(0, count - 1, min(count, self._probes)).round())
            at = curve.widths[probed.astype(np.int64)]
            exact = [self.cost({**widths, name: int(width)}) for width in at]
            tables.append(np.interp(curve.widths, at, exact))
        return tables

    def solve(self, tables: Sequence[Float], here: float, budget: float) -> dict[str, int] | None:
        """The knapsack for costs that add up: ``here`` plus what each group's choice changes."""
        changes = [table - here for table in tables]
        chosen = knapsack([c.damage for c in self.curves.values()], changes, budget - here)
        if chosen is None:
            return None
        return {
            name: int(curve.widths[choice])
            for (name, curve), choice in zip(self.curves.items(), chosen, strict=True)
        }

    def steps(self, widths: Widths, direction: int) -> list[tuple[dict[str, int], float, float]]:
        """All neighbours one step up or down: widths, change of damage, change of cost."""
        here = self.cost(widths)
        found = []
        for name, curve in self.curves.items():
            at = curve.at(widths[name])
            to = at + direction
            if 0 <= to < len(curve.widths):
                moved = {**widths, name: int(curve.widths[to])}
                change = float(curve.damage[to] - curve.damage[at])
                found.append((moved, change, self.cost(moved) - here))
        return found

    def around(self, widths: Widths, budget: float) -> dict[str, int] | None:
        """The knapsack for costs linear around ``widths``, aimed until its exact cost fits.

        Linear costs err the further from ``widths`` the solution lies, so the budget that the
        knapsack is given is corrected by the error made, and by halves where that overshoots.
        """
        here, tables = self.cost(widths), self.slopes(widths)
        within: dict[str, int] | None = None
        aim, low, high = budget, -np.inf, np.inf
        for _ in range(_AIMS):
            found = self.solve(tables, here, aim)
            excess = 0.0 if found is None else self.cost(found) - budget
            if found is None or excess <= 0:
                low = max(low, aim)
                if found is not None and (
                    within is None or self.damage(found) <= self.damage(within)
                ):
                    within = found
                if excess > -_NEAR * abs(budget) and found is not None:
                    break
            else:
                high = min(high, aim)
            step = aim - excess if found is not None else aim + abs(here) * 0.1
            aim = step if low < step < high else 0.5 * (low + high)
        return within

    def grow(self, widths: Widths, budget: float) -> Widths:
        """Step up, most damage undone per cost first, for as long as the exact budget is met."""
        while True:
            room = budget - self.cost(widths)
            up = [step for step in self.steps(widths, 1) if step[2] <= room and step[1] <= 0]
            if not up:
                return widths
            widths = min(up, key=lambda step: (step[1] / max(step[2], 1e-300), step[2]))[0]


def fit(
    curves: Mapping[str, Curve],
    cost: CostOf,
    budget: float,
    *,
    rounds: int = _ROUNDS,
    probes: int = PROBES,
) -> Fit:
    """The widths that meet a budget at the least damage, for costs that depend on each other.

    Args:
        curves: per group, what it may keep; guard rails and rounding are whatever is absent.
        cost: the exact cost of all widths together; non-decreasing in every width.
        budget: bound on it.
        rounds: how often costs are taken as linear anew.
        probes: exact costs asked for per group and round, with straight lines between them; raise
            it to the number of widths for costs that climb in stairs.

    Returns:
        The best feasible widths met on the way.

    Raises:
        OnnxpruneError: if even the smallest widths cost more than the budget.
    """
    problem = _Problem(curves, cost, probes)
    least = {name: int(curve.widths[0]) for name, curve in curves.items()}
    if problem.cost(least) > budget:
        raise OnnxpruneError(
            f"the budget {budget:g} cannot be met: the smallest widths allowed cost "
            f"{problem.cost(least):g}",
            hint="raise the budget, or let groups lose more (max-ratio) or more groups be cut",
        )
    widths: Widths = {name: int(curve.widths[-1]) for name, curve in curves.items()}
    best: Widths = widths if problem.cost(widths) <= budget else least
    for _ in range(rounds):
        candidate = problem.around(widths, budget)
        if candidate is None:
            break
        if problem.damage(candidate) < problem.damage(best):
            best = candidate
        if candidate == widths:
            break
        widths = candidate
    best = problem.grow(best, budget)
    return Fit(dict(best), problem.damage(best), problem.cost(best))
