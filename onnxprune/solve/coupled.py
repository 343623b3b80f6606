"""Allocation over error curves: the widths that meet a budget at the least error.

Choosing one width per group under one budget is a knapsack. What is particular to widths is that
their costs multiply: a layer costs its inputs times its outputs. So costs are taken as linear
around the current widths, the knapsack is solved, and both are repeated from there; what comes out
is then moved, step by step, to just within the exact budget.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from onnxprune.errors import OnnxpruneError
from onnxprune.solve.knapsack import Drop, Float, Index, knapsack

Widths = Mapping[str, int]
CostOf = Callable[[Widths], float]

PROBES = 9
_ROUNDS = 6
_AIMS = 8
"""Knapsacks solved per round to make the exact cost fit."""
_NEAR = 0.002
"""Share of the budget that may stay unused before single steps fill it."""


@dataclass(frozen=True, eq=False)
class Curve:
    """The widths that one group may keep, and the error of each.

    Attributes:
        widths: ``[choices]``, ascending.
        error: ``[choices]``, in the currency all groups share.
    """

    widths: Index
    error: Float

    def at(self, width: int) -> int:
        """The position of a width."""
        return int(np.searchsorted(self.widths, width))


@dataclass(frozen=True)
class Branch:
    """A residual branch that may be dropped as a whole.

    Attributes:
        members: the groups that lie in it: they cost nothing without it.
        error: error of dropping it, in the same currency.
    """

    members: tuple[str, ...]
    error: float


_NONE: Mapping[str, Branch] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Fit:
    """Widths that meet a budget.

    Attributes:
        widths: by group; the largest where its branch is dropped.
        dropped: names of the branches that go.
        error: their total.
        cost: what they cost exactly, at most the budget.
    """

    widths: Widths
    dropped: frozenset[str]
    error: float
    cost: float


class _Problem:
    """Curves, and a cache of exact costs.

    A branch counts as one more group, with a width of 1 where it stays and 0 where it goes.
    """

    def __init__(
        self,
        curves: Mapping[str, Curve],
        branches: Mapping[str, Branch],
        cost: CostOf,
        change: CostOf | None,
        probes: int,
    ) -> None:
        self.names = (*curves, *branches)
        self.curves = curves
        self.branches = branches
        self.branch_of = {g: b for b, branch in branches.items() for g in branch.members}
        self._cost = cost
        self._change = change
        self._here: Widths | None = None
        self._moved: set[str] = set()
        self._known: dict[tuple[int, ...], float] = {}
        self._probes = probes

    def cost(self, widths: Widths) -> float:
        key = tuple(widths[name] for name in self.names)
        if key not in self._known:
            self._here = None
            self._known[key] = float(self._cost(dict(zip(self.names, key, strict=True))))
        return self._known[key]

    def near(self, widths: Widths, name: str, width: int) -> float:
        """The cost with one other width; fastest where ``widths`` are the same object again."""
        if self._change is None:
            return self.cost({**widths, name: width})
        if self._here is not widths:
            self._cost(widths)
            self._here, self._moved = widths, set()
        cost = self._change({**{other: widths[other] for other in self._moved}, name: width})
        self._moved = {name}
        return float(cost)

    def stays(self, group: str, widths: Widths) -> bool:
        """Whether a group is not in a branch that goes."""
        return group not in self.branch_of or bool(widths[self.branch_of[group]])

    def error(self, widths: Widths) -> float:
        kept = {g: c for g, c in self.curves.items() if self.stays(g, widths)}
        dropped = [b.error for name, b in self.branches.items() if not widths[name]]
        return float(sum(c.error[c.at(widths[g])] for g, c in kept.items()) + sum(dropped))

    def slopes(self, widths: Widths) -> list[Float]:
        """Per group, the change of cost by each of its choices, all others unchanged."""
        tables = []
        for name, curve in self.curves.items():
            base = {**widths, self.branch_of[name]: 1} if name in self.branch_of else widths
            count = len(curve.widths)
            probed = np.unique(np.linspace(0, count - 1, min(count, self._probes)).round())
            at = curve.widths[probed.astype(np.int64)]
            exact = [self.near(base, name, int(width)) for width in at]
            tables.append(np.interp(curve.widths, at, exact) - self.cost(base))
        return tables

    def drops(self, widths: Widths) -> list[Drop]:
        """Per branch, the change of cost by keeping and dropping it, all others unchanged."""
        here, places = self.cost(widths), {name: at for at, name in enumerate(self.curves)}
        return [
            Drop(
                tuple(places[g] for g in branch.members),
                branch.error,
                self.cost({**widths, name: 0}) - here,
                self.cost({**widths, name: 1}) - here,
            )
            for name, branch in self.branches.items()
        ]

    def solve(
        self, tables: Sequence[Float], drops: Sequence[Drop], room: float
    ) -> dict[str, int] | None:
        """Solve the knapsack for costs that add up."""
        errors = [c.error for c in self.curves.values()]
        picked = knapsack(errors, tables, room, drops=drops)
        if picked is None:
            return None
        widths = {
            name: int(curve.widths[choice])
            for (name, curve), choice in zip(self.curves.items(), picked.choices, strict=True)
        }
        for number, (name, branch) in enumerate(self.branches.items()):
            widths[name] = int(number not in picked.dropped)
            if number in picked.dropped:
                widths |= {g: int(self.curves[g].widths[-1]) for g in branch.members}
        return widths

    def around(self, widths: Widths, budget: float) -> dict[str, int] | None:
        """The knapsack for costs linear around ``widths``, aimed until its exact cost fits.

        Linear costs err the further from ``widths`` the solution lies, so the budget that the
        knapsack is given is corrected by the error made, and by halves where that overshoots.
        """
        here, tables, drops = self.cost(widths), self.slopes(widths), self.drops(widths)
        within: dict[str, int] | None = None
        goal, low, high = budget, -np.inf, np.inf
        for _ in range(_AIMS):
            candidate = self.solve(tables, drops, goal - here)
            excess = 0.0 if candidate is None else self.cost(candidate) - budget
            if candidate is None or excess <= 0:
                low = max(low, goal)
                if candidate is not None and (
                    within is None or self.error(candidate) <= self.error(within)
                ):
                    within = candidate
                if excess > -_NEAR * abs(budget) and candidate is not None:
                    break
            else:
                high = min(high, goal)
            step = goal - excess if candidate is not None else goal + abs(here) * 0.1
            goal = step if low < step < high else 0.5 * (low + high)
        return within

    def even(self, budget: float) -> dict[str, int]:
        """About the same part of every group, as much as the budget allows; no branch goes."""

        def part(share: float) -> dict[str, int]:
            at = {g: round(share * (len(c.widths) - 1)) for g, c in self.curves.items()}
            kept = {g: int(c.widths[at[g]]) for g, c in self.curves.items()}
            return {**kept, **dict.fromkeys(self.branches, 1)}

        low, high = 0.0, 1.0
        for _ in range(_AIMS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.cost(part(middle)) <= budget else (low, middle)
        return part(low)

    def grow(self, widths: Widths, budget: float) -> Widths:
        """Step up, most error undone per cost first, for as long as the exact budget is met.

        Wider groups make the steps of others no cheaper: what did not fit never will, and a step
        is priced anew only when it is the best of those that were.
        """
        here, cost = dict(widths), self.cost(widths)
        places = {name: at for at, name in enumerate(self.curves)}

        def step(name: str) -> list[tuple[float, float, int, str]]:
            """The next step of a group, unless it adds to the error or does not fit."""
            curve = self.curves[name]
            at = curve.at(here[name])
            if at + 1 == len(curve.widths) or not self.stays(name, here):
                return []
            change = float(curve.error[at + 1] - curve.error[at])
            more = self.near(here, name, int(curve.widths[at + 1])) - cost
            if change > 0 or cost + more > budget:
                return []
            return [(change / max(more, 1e-300), more, places[name], name)]

        steps = [each for name in self.curves for each in step(name)]
        heapq.heapify(steps)
        while steps:
            *_, name = heapq.heappop(steps)
            current = step(name)
            if current and steps and current[0] > steps[0]:
                heapq.heappush(steps, current[0])
            elif current:
                curve = self.curves[name]
                cost += current[0][1]
                here[name] = int(curve.widths[curve.at(here[name]) + 1])
                for each in step(name):
                    heapq.heappush(steps, each)
        return here


def fit(
    curves: Mapping[str, Curve],
    cost: CostOf,
    budget: float,
    *,
    change: CostOf | None = None,
    branches: Mapping[str, Branch] = _NONE,
    rounds: int = _ROUNDS,
    probes: int = PROBES,
) -> Fit:
    """The widths that meet a budget at the least error, for costs that depend on each other.

    Args:
        curves: per group, what it may keep; guard rails and rounding are whatever is absent.
        cost: the exact cost of all widths together; non-decreasing in every width. Branches are
            among the widths: 1 where they stay, 0 where they go.
        budget: bound on it.
        change: the exact cost once some widths are others than in the latest call of either
            function; without it all widths are priced together each time.
        branches: what may be dropped as a whole, for the error that goes with it.
        rounds: how often costs are taken as linear anew.
        probes: exact costs asked for per group and round, with straight lines between them; raise
            it to the number of widths for costs that climb in stairs.

    Returns:
        The best feasible widths met on the way.

    Raises:
        OnnxpruneError: if even the smallest widths cost more than the budget.
    """
    problem = _Problem(curves, branches, cost, change, probes)
    least = {name: int(curve.widths[0]) for name, curve in curves.items()}
    least |= dict.fromkeys(branches, 1)
    if branches and problem.cost(least) > budget:
        least |= dict.fromkeys(branches, 0)
    if problem.cost(least) > budget:
        raise OnnxpruneError(
            f"the budget {budget:g} cannot be met: the smallest widths allowed cost "
            f"{problem.cost(least):g}",
            hint="raise the budget, or let groups lose more (max-ratio) or more groups be cut",
        )
    widths: Widths = {name: int(curve.widths[-1]) for name, curve in curves.items()}
    widths = {**widths, **dict.fromkeys(branches, 1)}
    best: Widths = widths if problem.cost(widths) <= budget else least
    # Far below the dense model its prices mislead: savings of groups that meet are counted twice.
    for start in (widths, problem.even(budget)):
        here: Widths = start
        for _ in range(rounds):
            candidate = problem.around(here, budget)
            if candidate is None:
                break
            if problem.error(candidate) < problem.error(best):
                best = candidate
            if candidate == here:
                break
            here = candidate
    best = problem.grow(best, budget)
    kept = {name: best[name] for name in curves}
    dropped = frozenset(name for name in branches if not best[name])
    return Fit(kept, dropped, problem.error(best), problem.cost(best))
