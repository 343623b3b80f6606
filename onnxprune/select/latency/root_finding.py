"""From a wanted latency to a plan that was measured to reach it.

What the table predicts is off by what segments cost beside each other, so a plan for a part of the
predicted latency is cut and measured, what is asked of the table is corrected by the error made,
and so on until the measured latency is the wanted one. Nothing is recovered on the way: the numbers
in the weights do not change how long a model takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

TOLERANCE = 0.05
"""How far from the wanted latency a measured one may be."""
_GOAL = 0.99
"""Fraction of the wanted latency to search for: noise should not carry the result over it."""
_CLOSE = 0.02
"""Distance from the goal at which the search stops."""
_ROUNDS = 7
_SEARCHES = 12
"""Budgets tried for a plan that was not measured yet."""


@dataclass(frozen=True, eq=False)
class Try(Generic[T]):
    """A plan and its measured latency.

    Attributes:
        chosen: the plan.
        predicted: nanoseconds, by the table.
        latency: the measured latency as a fraction of the wanted one.
    """

    chosen: T
    predicted: int
    latency: float


def find_root(
    dense: Try[T],
    choose: Callable[[int], T],
    predict: Callable[[T], int],
    measure: Callable[[T], float],
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Try[T], ...]:
    """Measure plans until the latency is met; the closest plan comes last.

    Args:
        dense: the plan that removes nothing.
        choose: the best plan within so many predicted nanoseconds, or the narrowest there is.
        predict: nanoseconds of a plan, by the table.
        measure: the latency of a plan, in parts of the wanted one.
        progress: told what is being done.
    """
    tries = [dense]
    for turn in range(_ROUNDS):
        if abs(tries[-1].latency / _GOAL - 1) <= _CLOSE or dense.latency <= 1:
            break
        if (candidate := _another(tries, choose, predict)) is None:
            break  # there is no plan in between
        progress(f"measuring what the cut takes, round {turn + 1}")
        tries.append(Try(*candidate, measure(candidate[0])))
    return closest_last(tries)


def _another(
    tries: Sequence[Try[T]], choose: Callable[[int], T], predict: Callable[[T], int]
) -> tuple[T, int] | None:
    """The next plan and what is predicted of it; None where all plans there are were measured.

    Widths come in steps, so what is asked for may be a plan that was measured; the next one on the
    side where the goal lies is taken then.
    """
    known = {t.predicted: t for t in tries}
    budget = next_budget(tries)
    above = min(t.predicted for t in tries if t.latency >= _GOAL)
    for _ in range(_SEARCHES):
        chosen = choose(budget)
        predicted = predict(chosen)
        if (seen := known.get(predicted)) is None:
            return chosen, predicted
        if predicted > budget:
            return None  # it is the narrowest
        if seen.latency >= _GOAL:
            budget = min(predicted - 1, round(predicted * _GOAL / seen.latency))
        elif budget + 1 < above:
            budget = (budget + above) // 2
        else:
            return None
    return None


def closest_last(tries: Sequence[Try[T]]) -> tuple[Try[T], ...]:
    """The same plans, the one that comes closest at the end."""
    best = min(tries, key=lambda t: (miss(t.latency), abs(t.latency - _GOAL)))
    return (*(t for t in tries if t is not best), best)


def miss(latency: float) -> float:
    """How far outside of the tolerance a latency is; above counts more than below."""
    if latency > 1 + TOLERANCE:
        return 1 + latency
    return max(1 - TOLERANCE - latency, 0.0)


def next_budget(tries: Sequence[Try[T]]) -> int:
    """Predicted nanoseconds to ask for next: on the line through what was measured around the goal.

    Where the goal lies between two measured plans, those two; else the nearest, scaled, or the one
    predicted to take least where all take too long.
    """
    over = [t for t in tries if t.latency >= _GOAL]
    under = [t for t in tries if t.latency < _GOAL]
    if over and under:
        above = min(over, key=lambda t: t.latency)
        below = max(under, key=lambda t: t.latency)
        if above.predicted > below.predicted:
            share = (_GOAL - below.latency) / (above.latency - below.latency)
            return round(below.predicted + share * (above.predicted - below.predicted))
    if not under:
        nearest = min(over, key=lambda t: t.predicted)
    else:
        nearest = min(tries, key=lambda t: abs(t.latency - _GOAL))
    return round(nearest.predicted * _GOAL / nearest.latency)
