"""Which rows of one matrix another one still has: pruners keep most values, and the order.

Knows arrays and no model. Rows are described by *parts*: the same axis as several tensors have it.
Where rows are found unchanged they are taken; where all have changed (fine-tuning, compensation)
the order-preserving choice that is closest in squares is taken, if every other choice is clearly
worse. An order-preserving assignment is an alignment of two sequences (Needleman and Wunsch, 1970),
which is solved exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float64]

Certainty = Literal["equal", "close", "equal to several", "unclear", "unlike"]
"""``equal``: values are those of one choice alone. ``close``: they have changed, and any other
choice is clearly worse. ``equal to several``: units with the same values stay and go, and nothing
tells them apart. ``unclear``: another choice is about as good. ``unlike``: no choice resembles."""

_LIKENESS = 0.5
"""Least mean likeness of the chosen rows: 1 is equal, 0 is unrelated."""
_GAP = 0.1
"""A row that leaves must be further off than the one that stays by this, in the same measure."""
_SILENT = 1e-3
"""Rows with less than this share of the mean energy are not judged: nothing hangs on them."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Which rows stay.

    Attributes:
        kept: bool ``[n]``.
        certainty: how sure that is.
        likeness: mean over the kept rows of ``1 - |x - y|^2 / (|x|^2 + |y|^2)``.
    """

    kept: Bool
    certainty: Certainty
    likeness: float


def align(dense: Sequence[Array], pruned: Sequence[Array], allowed: Bool) -> Alignment:
    """Find the rows of ``dense`` that are those of ``pruned``, in the same order.

    Args:
        dense: parts ``[n, features]``; features differ from part to part.
        pruned: the same parts ``[m, features]``, ``m <= n``.
        allowed: ``[n]``, rows that may be kept; at least ``m``.
    """
    rows = np.flatnonzero(allowed)
    parts = [(a[rows], b) for a, b in zip(dense, pruned, strict=True)]
    equal, unchanged = _equal(parts, len(rows), len(pruned[0]))
    x, y = _features(parts)
    energy_x, energy_y = (x**2).sum(axis=1), (y**2).sum(axis=1)
    cost = energy_x[:, None] + energy_y[None] - 2 * (x @ y.T)
    np.maximum(cost, 0.0, out=cost)
    if unchanged:
        cost += np.where(equal, 0.0, cost.max() * (len(y) + 1) + 1)
    chosen = ordered_assignment(cost)
    kept = np.zeros(len(allowed), np.bool_)
    kept[rows[chosen]] = True
    size = energy_x[chosen] + energy_y
    judged = size > _SILENT * size.mean()
    own = ((x[chosen] - y) ** 2).sum(axis=1)
    likeness = float(1 - own[judged].sum() / size[judged].sum()) if judged.any() else 1.0
    if unchanged:
        spare = np.ones(len(rows), np.bool_)
        spare[chosen] = False
        twins = equal[spare].any()
        return Alignment(kept, "equal to several" if twins else "equal", likeness)
    if likeness < _LIKENESS:
        return Alignment(kept, "unlike", likeness)
    clear = _is_clear(x, cost, chosen, size, judged)
    return Alignment(kept, "close" if clear else "unclear", likeness)


def ordered_assignment(cost: Float) -> npt.NDArray[np.int64]:
    """For each column the row that serves it, ascending, at the smallest total cost.

    Args:
        cost: ``[n, m]`` with ``n >= m``.
    """
    n, m = cost.shape
    taken = np.zeros((n, m), np.bool_)
    total = np.full(m + 1, np.inf)
    total[0] = 0.0
    for i in range(n):
        served = total[:-1] + cost[i]
        taken[i] = served < total[1:]
        total[1:] = np.where(taken[i], served, total[1:])
    chosen = np.empty(m, np.int64)
    i = n - 1
    for j in range(m - 1, -1, -1):
        while not taken[i, j]:
            i -= 1
        chosen[j] = i
        i -= 1
    return chosen


def likeness_of(dense: Array, pruned: Array) -> float:
    """The correlation of two tensors of one shape, means removed; 1 where both are constant."""
    x, y = (a.astype(np.float64).ravel() for a in (dense, pruned))
    x, y = x - x.mean(), y - y.mean()
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size > 0 else float(np.array_equal(x, y))


def _equal(parts: Sequence[tuple[Array, Array]], n: int, m: int) -> tuple[Bool, bool]:
    """``[n, m]``: rows that are equal in every part that has not been changed; is there one?

    A part is unchanged where all its pruned rows are found among the dense ones. One that holds
    the same value everywhere says nothing.
    """
    equal = np.ones((n, m), np.bool_)
    told = False
    for a, b in parts:
        ids = _identities(np.concatenate([a, b]))
        same = ids[:n, None] == ids[None, n:]
        if same.any(axis=0).all() and len(np.unique(ids)) > 1:
            equal &= same
            told = True
    # Parts may each be found and yet contradict each other: then nothing is unchanged. An equal
    # choice must exist as a whole, too: in order, each dense row once.
    return equal, told and _fits(equal)


def _fits(equal: Bool) -> bool:
    """Whether every column has an equal row, in order, none used twice."""
    i = 0
    for j in range(equal.shape[1]):
        found = np.flatnonzero(equal[i:, j])
        if not len(found):
            return False
        i += int(found[0]) + 1
    return True


def _identities(rows: Array) -> npt.NDArray[np.int64]:
    """Equal numbers for equal rows."""
    plain = np.ascontiguousarray(rows + rows.dtype.type(0) if rows.dtype.kind == "f" else rows)
    if not plain.shape[1]:
        return np.zeros(len(plain), np.int64)
    whole = plain.view(np.dtype((np.void, plain.dtype.itemsize * plain.shape[1])))
    return np.unique(whole.ravel(), return_inverse=True)[1].astype(np.int64).ravel()


def _features(parts: Sequence[tuple[Array, Array]]) -> tuple[Float, Float]:
    """All parts side by side, centred and scaled so that an element of each counts alike."""
    xs, ys = [], []
    for a, b in parts:
        x, y = a.astype(np.float64), b.astype(np.float64)
        mean = x.mean(axis=0)
        x, y = x - mean, y - mean
        spread = float(np.sqrt((x**2).mean())) if x.size else 0.0
        if spread > 0 and np.isfinite(spread):
            xs.append(x / spread)
            ys.append(y / spread)
    if not xs:
        return np.zeros((len(parts[0][0]), 1)), np.zeros((len(parts[0][1]), 1))
    return np.concatenate(xs, axis=1), np.concatenate(ys, axis=1)


def _is_clear(
    x: Float, cost: Float, chosen: npt.NDArray[np.int64], size: Float, judged: Bool
) -> bool:
    """Whether no row that leaves could as well stand where another one stays."""
    spare = np.setdiff1d(np.arange(len(x)), chosen)
    if not len(spare):
        return True
    at = cost[spare].argmin(axis=0)
    columns = np.arange(len(chosen))
    gap = cost[spare[at], columns] - cost[chosen, columns]
    apart = ((x[chosen] - x[spare[at]]) ** 2).sum(axis=1)
    doubtful = judged & (gap < _GAP * size) & (apart > _GAP * size)
    return not doubtful.any()
