"""What rounding took too much is given back, a step of one group at a time, up to a limit.

Every step that is tried is judged by its own cost. A chain of 8,000 layers has thousands of them,
so a step is priced by what it changes and repaired among the groups that share an axis with it:
the time grows with the steps, not with their square.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from onnxprune.select.allocate.candidate_widths import CandidateWidths
from onnxprune.select.allocate.ranking import Ranking
from onnxprune.select.allocate.repair_widths import parts_of, repair_near

Kept = dict[str, int]
CostFunction = Callable[[Mapping[str, Sequence[int]]], int]
"""The cost of the model without ``{group: unit indices}``, in the unit of the budget."""


class Measure(Protocol):
    """What is left of a model, given how many units each group keeps."""

    def __call__(self, kept: Mapping[str, int]) -> int:
        """The amount at these widths of all groups."""
        ...

    def change(self, kept: Mapping[str, int]) -> int:
        """The amount once some groups have other widths than in the latest call."""
        ...


class CountUnits:
    """The units of some groups."""

    def __init__(self, groups: Iterable[str]) -> None:
        self._kept = dict.fromkeys(groups, 0)
        self._total = 0

    def __call__(self, kept: Mapping[str, int]) -> int:
        """The units at these widths."""
        return self.change({group: kept[group] for group in self._kept})

    def change(self, kept: Mapping[str, int]) -> int:
        """The units once some groups have other widths."""
        for group in self._kept.keys() & kept.keys():
            self._total += kept[group] - self._kept[group]
            self._kept[group] = kept[group]
        return self._total


class CostOfWidths:
    """The cost of a model.

    Args:
        ranking: the order in which units leave.
        cost: the cost of a removal.
        change: the cost once some groups lose other units than in the latest call of either
            function; None where only whole removals can be priced.
    """

    def __init__(
        self, ranking: Ranking, cost: CostFunction, change: CostFunction | None = None
    ) -> None:
        self._ranking, self._cost, self._change = ranking, cost, change
        self._kept: Kept = {}

    def __call__(self, kept: Mapping[str, int]) -> int:
        """The cost at these widths."""
        self._kept = dict(kept)
        return self._cost(self._ranking.removed(kept))

    def change(self, kept: Mapping[str, int]) -> int:
        """The cost once some groups have other widths."""
        if self._change is None:
            return self({**self._kept, **kept})
        return self._change({**dict.fromkeys(kept, ()), **self._ranking.removed(kept)})


def fill(
    candidates: CandidateWidths, ranking: Ranking, measure: Measure, limit: int, kept: Kept
) -> Kept:
    """Give back single steps while the limit holds, the most important units first.

    Within a pass, a group whose step does not fit is not tried again: what remains has only grown
    by then. Repaired totals can make an exception, so passes go on until one gives nothing back.

    Args:
        candidates: the widths allowed.
        ranking: the order in which units leave.
        measure: what is left at some widths.
        limit: the most that may be left.
        kept: where to begin: repaired widths within the limit.

    Returns:
        How many units each group keeps.
    """
    kept, parts = dict(kept), parts_of(candidates)
    place = {group: -at for at, group in enumerate(sorted(candidates.free))}

    def entry(group: str) -> list[tuple[float, int, str, int, int]]:
        """The next step of a group, the most important first in the order of entries."""
        width = kept[group]
        more = candidates.above(group, width)
        if more is None:
            return []
        return [(-ranking.mean_key(group, width, more), place[group], group, width, more)]

    measure(kept)
    progress = True
    while progress:
        progress = False
        steps = [step for group in candidates.free for step in entry(group)]
        heapq.heapify(steps)
        while steps:
            *_, group, width, more = heapq.heappop(steps)
            if width == kept[group]:
                after = repair_near(parts, ranking, kept, {group: more})
                wider = {name: width for name, width in after.items() if width != kept[name]}
                if measure.change(wider) > limit:
                    measure.change({name: kept[name] for name in wider})
                    continue
                kept.update(wider)
                progress = True
            # A group that was widened for another one: its next units count less than these.
            for step in entry(group):
                heapq.heappush(steps, step)
    return kept
