"""Iterative pruning so far: the remaining model in terms of the dense one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.graph.analysis import Analysis
from onnxprune.graph.units import Group
from onnxprune.select.allocate.candidate_widths import CandidateWidths
from onnxprune.select.allocate.ranking import F64
from onnxprune.select.importance.error_curves import Curves
from onnxprune.solve.group_obs import Elimination


@dataclass(frozen=True, eq=False)
class Remaining:
    """The model that earlier steps have left, and what they removed.

    Attributes:
        analysis: analysis of what is left; at the start of the dense model.
        removed: by group of the dense model, unit indices that are gone.
        bypassed: blocks that are gone.
    """

    analysis: Analysis
    removed: Mapping[str, Sequence[int]] = field(default_factory=dict)
    bypassed: tuple[str, ...] = ()

    def left(self, groups: Sequence[Group]) -> list[Group]:
        """The dense groups that the remaining model still has, as they are there."""
        here = {g.name: g for g in self.analysis.groups}
        kept = {g.name: len(g) - len(self.removed.get(g.name, ())) for g in groups}
        return [here[g] for g, count in kept.items() if g in here and len(here[g]) == count]

    def in_dense_units(self, curves: Curves, groups: Sequence[Group]) -> Curves:
        """Curves of the remaining model as curves over the units of the dense one.

        Units that are gone come first in the order; widths beyond what is left are no choice.
        """
        sizes = {g.name: len(g) for g in groups}
        eliminations = {}
        for name, one in curves.groups.items():
            removed_units = np.array(sorted(self.removed.get(name, ())), np.int64)
            stays = np.setdiff1d(np.arange(sizes[name]), removed_units)
            order = np.concatenate([removed_units, stays[one.order]])
            eliminations[name] = Elimination(
                order, np.append(one.error, np.zeros(len(removed_units)))
            )
        return curves._replace(groups=eliminations)

    def removed_first(self, values: Mapping[str, F64], groups: Sequence[Group]) -> dict[str, F64]:
        """Scores of the dense model's units; removed units have the lowest."""
        result = dict(values)
        for group in groups:
            removed_units = list(self.removed.get(group.name, ()))
            if removed_units:
                scores = np.array(values.get(group.name, np.zeros(len(group))))
                scores[removed_units] = scores.min() - 1.0
                result[group.name] = scores
        return result

    def narrowed(
        self, candidates: CandidateWidths, with_curves: Mapping[str, object]
    ) -> CandidateWidths:
        """The widths that are still possible: removed units do not come back."""
        kept = {g: n - len(self.removed.get(g, ())) for g, n in candidates.units.items()}
        lost = {g: n for g, n in kept.items() if n < candidates.units[g]}
        return candidates.within(lost).decided(
            {g: n for g, n in lost.items() if g not in with_curves}
        )

    def newly_removed(
        self, removed: Mapping[str, Sequence[int]], groups: Sequence[Group]
    ) -> dict[str, tuple[int, ...]]:
        """Units of the dense model yet to remove, as units of the remaining model."""
        result = {}
        here = {g.name for g in self.analysis.groups}  # others went with their block
        for group in (g for g in groups if g.name in here):
            removed_units = np.array(sorted(self.removed.get(group.name, ())), np.int64)
            more = np.setdiff1d(np.array(removed.get(group.name, ()), np.int64), removed_units)
            if len(more):
                stays = np.setdiff1d(np.arange(len(group)), removed_units)
                result[group.name] = tuple(np.searchsorted(stays, more).tolist())
        return result
