"""In which order units leave: within a group by score, between groups by a key.

An allocation removes a prefix of all units sorted by key. Two ways of making keys from scores are
the two simple allocations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.select.allocate.alignment import I64

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ranking:
    """The order in which units leave.

    Attributes:
        order: by group, int64 ``[units]``, the first to leave first.
        keys: by group, float64 ``[units]`` in that order, never falling.
    """

    order: Mapping[str, I64]
    keys: Mapping[str, F64]

    def removed(self, kept: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Unit indices, ascending, of every group that loses some."""
        return {
            g: tuple(sorted(self.order[g][: len(self.order[g]) - n].tolist()))
            for g, n in kept.items()
            if g in self.order and n < len(self.order[g])
        }

    def sequence(self, groups: Sequence[str]) -> I64:
        """Int64 ``[units of all the groups]``: whose next unit leaves, by index into ``groups``.

        Units whose keys tie leave in turn, so that no group is emptied before another is touched.
        """
        if not groups:
            return np.zeros(0, np.int64)
        keys = np.concatenate([self.keys[g] for g in groups])
        turn = np.concatenate([np.arange(len(self.keys[g])) / len(self.keys[g]) for g in groups])
        owner = np.repeat(np.arange(len(groups)), [len(self.keys[g]) for g in groups])
        return owner[np.lexsort((owner, turn, keys))]

    def mean_key(self, group: str, kept: int, more: int) -> float:
        """The mean key of the units that come back when a group grows from ``kept`` to ``more``."""
        size = len(self.keys[group])
        return float(self.keys[group][size - more : size - kept].mean())


def uniform(scores: Mapping[str, F64]) -> Ranking:
    """Every group loses the same fraction: a unit's key is its rank within its group.

    Args:
        scores: by group, float64 ``[units]``, higher = keep.
    """
    order = _orders(scores)
    return Ranking(order, {g: (np.arange(len(o)) + 0.5) / len(o) for g, o in order.items()})


def ranked(
    scores: Mapping[str, F64],
    *,
    comparable: bool = True,
    prices: Mapping[str, float] | None = None,
) -> Ranking:
    """The lowest scores go wherever they are: a unit's key is its score.

    Args:
        scores: by group, float64 ``[units]``, higher = keep.
        comparable: whether scores of different groups share a currency; if not, each group's are
            divided by their mean magnitude first.
        prices: by group, what removing one unit saves. Given, a unit's key is its score per saving,
            which is sound for scores that add up; what saves nothing goes last.
    """
    order = _orders(scores)
    keys = {}
    for group, ranks in order.items():
        values = np.asarray(scores[group], np.float64)[ranks]
        mean = float(np.abs(values).mean()) if len(values) else 0.0
        values = values if comparable or mean == 0 else values / mean
        price = 1.0 if prices is None else prices[group]
        keys[group] = values / price if price > 0 else np.full(len(values), np.inf)
    return Ranking(order, keys)


def _orders(scores: Mapping[str, F64]) -> dict[str, I64]:
    for group, values in scores.items():
        if not np.isfinite(values).all():
            raise OnnxpruneError(f"the scores of group {group!r} are not finite")
    return {g: np.argsort(v, kind="stable").astype(np.int64) for g, v in scores.items()}
