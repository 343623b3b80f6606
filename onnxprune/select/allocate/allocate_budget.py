"""A budget allocated at the least error: widths and whole branches in one choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from onnxprune.select.allocate.candidate_widths import CandidateWidths
from onnxprune.select.allocate.ranking import Ranking
from onnxprune.select.allocate.repair_widths import parts_of, repair_near, repair_widths
from onnxprune.solve.coupled import PROBES, Branch, Curve, Fit, Widths, fit

CLEARLY = 1.5
"""Factor on the measured error of dropping a branch: what is measured is one branch
alone, and branches that go together do more than the sum of it."""

Removed = dict[str, tuple[int, ...]]
Cost = Callable[[Mapping[str, Sequence[int]], Sequence[str]], float]


@dataclass(frozen=True)
class Removal:
    """Units and branches to remove so that a budget is met.

    Attributes:
        removed: by group, unit indices, ascending; not of groups in branches that go.
        dropped: names of the branches that go, in the order they were given.
    """

    removed: Removed
    dropped: tuple[str, ...]


def allocate_budget(
    candidates: CandidateWidths,
    ranking: Ranking,
    curves: Mapping[str, Curve],
    cost: Cost,
    budget: float,
    *,
    change: Cost | None = None,
    branches: Mapping[str, Branch],
    most: int | None = None,
    probes: int = PROBES,
) -> Removal:
    """Choose the widths of groups that have a choice and the branches to drop, by error.

    Args:
        candidates: the widths allowed.
        ranking: the order in which units leave.
        curves: error of every allowed width, by group; groups without one stay dense.
        cost: the exact cost of the model without units and branches.
        budget: bound on it.
        change: the exact cost once some groups lose other units than in the latest call of either
            function; without it every removal is priced as a whole.
        branches: what may be dropped, with the groups in each.
        most: how many of them, at most.
        probes: see :func:`~onnxprune.solve.coupled.fit`.

    Raises:
        OnnxpruneError: the budget cannot be met.
    """
    free = {g: curves[g] for g in candidates.free if g in curves}
    prices = _Prices(candidates, ranking, cost, change, branches)

    def solved(names: Sequence[str]) -> Fit:
        some = {
            name: Branch(
                tuple(g for g in branches[name].members if g in free),
                branches[name].error * CLEARLY,
            )
            for name in names
        }
        return fit(
            free,
            prices,
            budget,
            change=None if change is None else prices.change,
            branches=some,
            probes=probes,
        )

    allowed = list(branches) if most != 0 else []
    solution = solved(allowed)
    if most is not None and len(solution.dropped) > most:
        mildest = sorted(solution.dropped, key=lambda b: branches[b].error)
        allowed = mildest[:most]
        solution = solved(allowed)
    return prices.removal(
        {**solution.widths, **{b: int(b not in solution.dropped) for b in allowed}}
    )


class _Prices:
    """The exact costs of widths, group by group where only some of them change."""

    def __init__(
        self,
        candidates: CandidateWidths,
        ranking: Ranking,
        cost: Cost,
        change: Cost | None,
        branches: Mapping[str, Branch],
    ) -> None:
        self._candidates, self._ranking = candidates, ranking
        self._cost, self._change, self._branches = cost, change, branches
        self._branch_of = {g: b for b, branch in branches.items() for g in branch.members}
        self._parts = parts_of(candidates)
        self._widths: dict[str, int] = {}
        self._wanted: dict[str, int] = {}
        self._kept: dict[str, int] = {}
        self._dropped: tuple[str, ...] = ()

    def removal(self, widths: Widths) -> Removal:
        """The units and branches that go at some widths; a branch goes at a width of 0."""
        dense = self._candidates.dense()
        self._widths = dict(widths)
        self._wanted = {group: widths.get(group, width) for group, width in dense.items()}
        self._kept = repair_widths(self._candidates, self._ranking, self._wanted)
        self._dropped = tuple(b for b in self._branches if not widths.get(b, 1))
        removed = self._ranking.removed(self._kept)
        stays = {g: u for g, u in removed.items() if self._branch_of.get(g) not in self._dropped}
        return Removal(stays, self._dropped)

    def __call__(self, widths: Widths) -> float:
        """The cost at these widths."""
        removal = self.removal(widths)
        return self._cost(removal.removed, removal.dropped)

    def change(self, widths: Widths) -> float:
        """The cost once some widths are others than in the latest call."""
        if self._change is None or not widths.keys().isdisjoint(self._branches):
            return self({**self._widths, **widths})
        self._widths.update(widths)
        after = repair_near(self._parts, self._ranking, self._wanted, widths)
        self._wanted.update(widths)
        moved = {group: n for group, n in after.items() if n != self._kept[group]}
        self._kept.update(moved)
        removed = {**dict.fromkeys(moved, ()), **self._ranking.removed(moved)}
        dropped = self._dropped
        stays = {g: u for g, u in removed.items() if self._branch_of.get(g) not in dropped}
        return self._change(stays, dropped)
