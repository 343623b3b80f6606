"""The multiple-choice knapsack: one choice per group at the least error within a budget.

Solved by dynamic programming over cost buckets (as SPDY, Frantar and Alistarh, ICML 2022, does for
sparsities). Groups that lie in one branch have another choice together: the whole branch goes, for
an error and a cost of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

_BUCKETS = 8192


@dataclass(frozen=True)
class Drop:
    """A branch that may go, with the groups in it.

    Attributes:
        members: positions of its groups; no group is in two branches.
        error: error of dropping it.
        cost: cost of the model without the branch and its members.
        kept: what is added to the costs of its members where it stays.
    """

    members: tuple[int, ...]
    error: float
    cost: float
    kept: float = 0.0


@dataclass(frozen=True)
class Picked:
    """The solution of a knapsack.

    Attributes:
        choices: the position chosen in each group; without meaning in a branch that goes.
        dropped: the positions of the branches that go.
    """

    choices: tuple[int, ...]
    dropped: frozenset[int]


def _unit(spans: Sequence[Float], buckets: int) -> float:
    """The cost of one bucket: exact for small whole numbers, else a share of the whole range."""
    total = float(sum(span.max() for span in spans))
    steps = np.concatenate(list(spans))
    if total <= 2**53 and np.array_equal(steps, np.round(steps)):
        divisor = math.gcd(*(int(step) for step in steps))
        if divisor and total <= divisor * buckets:
            return float(divisor)
    return total / buckets


class _Table:
    """The least error within every whole number of buckets, and how it is reached."""

    def __init__(self, room: int, groups: int) -> None:
        self.best = np.zeros(room + 1)
        self.taken = np.zeros((groups, room + 1), dtype=np.int32)

    def shifted(self, weight: int, error: float = 0.0) -> Float:
        """The table after spending ``weight`` buckets on a certain error."""
        out = np.full(len(self.best), np.inf)
        if weight < len(out):
            out[weight:] = self.best[: len(out) - weight] + error
        return out

    def choose(self, group: int, error: Float, weight: Index) -> None:
        """Account for one more group."""
        following = np.full(len(self.best), np.inf)
        for choice in np.argsort(weight, kind="stable"):
            start = int(weight[choice])
            if start >= len(following):
                break
            candidate = self.best[: len(following) - start] + error[choice]
            better = candidate < following[start:]
            np.copyto(following[start:], candidate, where=better)
            np.copyto(self.taken[group, start:], choice, where=better)
        self.best = following


def knapsack(
    errors: Sequence[Float],
    costs: Sequence[Float],
    budget: float,
    *,
    drops: Sequence[Drop] = (),
    buckets: int = _BUCKETS,
) -> Picked | None:
    """One choice per group: the least total error at a total cost within the budget.

    Args:
        errors: per group, ``[choices]``.
        costs: per group, ``[choices]``, any finite numbers.
        budget: bound on the sum of the costs chosen.
        drops: branches that may go instead.
        buckets: resolution. Costs are rounded up to it, so the budget is always met, and the
            choice is the best for a budget smaller by at most as many buckets as there are groups
            and branches; where all costs are whole multiples of a bucket it is simply the best. The
            size of a bucket depends on the costs alone, so a larger budget never does worse.

    Returns:
        What to choose, or None if nothing fits.
    """
    least = [float(np.min(cost)) for cost in costs]
    stays = [drop.kept + sum(least[m] for m in drop.members) for drop in drops]
    inside = {m for drop in drops for m in drop.members}
    base = sum(least[g] for g in range(len(costs)) if g not in inside)
    base += sum(min(kept, drop.cost) for kept, drop in zip(stays, drops, strict=True))
    remaining = budget - base
    if remaining < 0:
        return None
    spans = [np.asarray(c, dtype=np.float64) - low for c, low in zip(costs, least, strict=True)]
    spans += [np.array([k, d.cost]) - min(k, d.cost) for k, d in zip(stays, drops, strict=True)]
    if not spans:
        return Picked((), frozenset())
    unit = _unit(spans, buckets) or 1.0
    # A hair off before rounding up: a whole multiple must not become one more by its last digit.
    weights = [np.ceil(span / unit - 1e-9).astype(np.int64) for span in spans]
    room = int(min(remaining / unit + 1e-9, sum(int(w.max()) for w in weights)))
    table = _Table(room, len(costs))
    is_dropped = []
    for drop, (stay, go) in zip(drops, weights[len(costs) :], strict=True):
        without = table.shifted(int(go), drop.error)
        table.best = table.shifted(int(stay))
        for member in drop.members:
            table.choose(member, errors[member], weights[member])
        is_dropped.append(without < table.best)
        table.best = np.minimum(without, table.best)
    alone = [g for g in range(len(costs)) if g not in inside]
    for group in alone:
        table.choose(group, errors[group], weights[group])
    at, chosen, dropped = room, [0] * len(costs), set()

    def take(group: int) -> None:
        nonlocal at
        chosen[group] = int(table.taken[group, at])
        at -= int(weights[group][chosen[group]])

    for group in reversed(alone):
        take(group)
    for number in reversed(range(len(drops))):
        stay, go = weights[len(costs) + number]
        if is_dropped[number][at]:
            dropped.add(number)
            at -= int(go)
            continue
        for member in reversed(drops[number].members):
            take(member)
        at -= int(stay)
    return Picked(tuple(chosen), frozenset(dropped))
