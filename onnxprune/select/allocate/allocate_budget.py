"""A budget spent where it saves damage: widths and whole branches in one choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from onnxprune.select.allocate.candidate_widths import Lattice
from onnxprune.select.allocate.ranking import Ranking
from onnxprune.select.allocate.repair_widths import settle
from onnxprune.solve.coupled import PROBES, Branch, Curve, Fit, Widths, fit

CLEARLY = 1.5
"""How much more than its measured damage dropping a branch counts: what is measured is one branch
alone, and branches that go together do more than the sum of it."""

Removed = dict[str, tuple[int, ...]]
Cost = Callable[[Mapping[str, Sequence[int]], Sequence[str]], float]


@dataclass(frozen=True)
class Spent:
    """What goes, so that a budget is met.

    Attributes:
        removed: by group, unit indices, ascending; not of groups in branches that go.
        dropped: names of the branches that go, in the order they were given.
    """

    removed: Removed
    dropped: tuple[str, ...]


def spend(
    lattice: Lattice,
    ranking: Ranking,
    curves: Mapping[str, Curve],
    cost: Cost,
    budget: float,
    *,
    branches: Mapping[str, Branch],
    most: int | None = None,
    probes: int = PROBES,
) -> Spent:
    """Choose the widths of groups that have a choice and the branches to drop, by damage.

    Args:
        lattice: the widths allowed.
        ranking: the order in which units leave.
        curves: the damage of every width that is allowed, by group; groups without one stay dense.
        cost: the exact cost of the model without units and branches.
        budget: bound on it.
        branches: what may be dropped, with the groups in each.
        most: how many of them, at most.
        probes: see :func:`~onnxprune.solve.coupled.fit`.

    Raises:
        OnnxpruneError: the budget cannot be met.
    """
    free = {g: curves[g] for g in lattice.free if g in curves}
    lying = {g: b for b, branch in branches.items() for g in branch.members}

    def spent(widths: Widths) -> Spent:
        kept = lattice.dense() | {g: widths[g] for g in free}
        dropped = tuple(b for b in branches if not widths.get(b, 1))
        removed = ranking.removed(settle(lattice, ranking, kept))
        return Spent({g: u for g, u in removed.items() if lying.get(g) not in dropped}, dropped)

    def price(widths: Widths) -> float:
        made = spent(widths)
        return cost(made.removed, made.dropped)

    def solved(names: Sequence[str]) -> Fit:
        some = {
            name: Branch(
                tuple(g for g in branches[name].members if g in free),
                branches[name].damage * CLEARLY,
            )
            for name in names
        }
        return fit(free, price, budget, branches=some, probes=probes)

    allowed = list(branches) if most != 0 else []
    found = solved(allowed)
    if most is not None and len(found.dropped) > most:
        worth = sorted(found.dropped, key=lambda b: branches[b].damage)
        allowed = worth[:most]
        found = solved(allowed)
    return spent({**found.widths, **{b: int(b not in found.dropped) for b in allowed}})
