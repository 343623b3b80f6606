"""A budget allocated at the least error: widths and whole branches in one choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from onnxprune.select.allocate.candidate_widths import CandidateWidths
from onnxprune.select.allocate.ranking import Ranking
from onnxprune.select.allocate.repair_widths import repair_widths
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
        branches: what may be dropped, with the groups in each.
        most: how many of them, at most.
        probes: see :func:`~onnxprune.solve.coupled.fit`.

    Raises:
        OnnxpruneError: the budget cannot be met.
    """
    free = {g: curves[g] for g in candidates.free if g in curves}
    branch_of = {g: b for b, branch in branches.items() for g in branch.members}

    def removal(widths: Widths) -> Removal:
        kept = candidates.dense() | {g: widths[g] for g in free}
        dropped = tuple(b for b in branches if not widths.get(b, 1))
        removed = ranking.removed(repair_widths(candidates, ranking, kept))
        return Removal(
            {g: u for g, u in removed.items() if branch_of.get(g) not in dropped}, dropped
        )

    def price(widths: Widths) -> float:
        chosen = removal(widths)
        return cost(chosen.removed, chosen.dropped)

    def solved(names: Sequence[str]) -> Fit:
        some = {
            name: Branch(
                tuple(g for g in branches[name].members if g in free),
                branches[name].error * CLEARLY,
            )
            for name in names
        }
        return fit(free, price, budget, branches=some, probes=probes)

    allowed = list(branches) if most != 0 else []
    solution = solved(allowed)
    if most is not None and len(solution.dropped) > most:
        mildest = sorted(solution.dropped, key=lambda b: branches[b].error)
        allowed = mildest[:most]
        solution = solved(allowed)
    return removal({**solution.widths, **{b: int(b not in solution.dropped) for b in allowed}})
