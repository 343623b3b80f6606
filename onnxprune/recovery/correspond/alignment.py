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
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]

Certainty = Literal[
    "equal",
    "close",
    "equal to several",
    "out of order",
    "contradictory",
    "unclear",
    "unlike",
]
"""``equal``: values are those of one choice alone. ``close``: they have changed, and any other
choice is clearly worse. ``equal to several``: units with the same values stay and go, and nothing
tells them apart. ``out of order``: all are there, but not one after the other. ``unclear``: another
choice is about as good. ``contradictory``: parts tell different choices. ``unlike``: none
resembles."""

_LIKENESS = 0.5
"""Least mean likeness of the chosen rows: 1 is equal, 0 is unrelated."""
_GAP = 0.1
"""A row that leaves must be further off than the one that stays by this, in the same measure."""
_ROUNDS = 3
"""How often parts are weighted anew by how much they have changed."""
_LEAST = 1e-3
"""The smallest change of a part that is told from none, as a share of its variance."""
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
    kept = np.zeros(len(allowed), np.bool_)
    ids = _identities(parts)
    alone = None if ids is None else _only_choice(*ids)
    if alone is not None:
        kept[rows[alone]] = True
        return Alignment(kept, "equal" if (np.diff(alone) > 0).all() else "out of order", 1.0)
    if ids is None and _contradict(parts):
        return Alignment(kept, "contradictory", 0.0)
    equal = None if ids is None else ids[0][:, None] == ids[1]
    if equal is not None and not _fits(equal):
        equal = None
    plain = _features(parts)
    x, y = plain.dense, plain.pruned
    cost = _distances(x, y)
    if equal is not None:
        chosen = ordered_assignment(cost + np.where(equal, 0.0, cost.max() * (len(y) + 1) + 1))
        kept[rows[chosen]] = True
        spare = np.delete(equal, chosen, axis=0)
        return Alignment(kept, "equal to several" if spare.any() else "equal", 1.0)
    chosen = ordered_assignment(cost)
    for _ in range(_ROUNDS):
        x, y = plain.weighted(chosen)
        cost = _distances(x, y)
        before, chosen = chosen, ordered_assignment(cost)
        if np.array_equal(before, chosen):
            break
    kept[rows[chosen]] = True
    size = _energy(x[chosen]) + _energy(y)
    judged = size > _SILENT * size.mean()
    own = _energy(x[chosen] - y)
    likeness = float(1 - own[judged].sum() / size[judged].sum()) if judged.any() else 1.0
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


def _identities(parts: Sequence[tuple[Array, Array]]) -> tuple[Ids, Ids] | None:
    """Equal numbers for rows that are equal in every part that has not been changed.

    A part is unchanged where all its pruned rows are found among the dense ones. One that holds
    the same value everywhere says nothing. None where no part says anything, or where they
    contradict each other.
    """
    n = len(parts[0][0])
    joint = np.zeros(n + len(parts[0][1]), np.int64)
    told = False
    for a, b in parts:
        ids = _numbered(np.concatenate([a, b]))
        if ids.any() and np.isin(ids[n:], ids[:n]).all():
            joint = np.unique(joint * len(ids) + ids, return_inverse=True)[1].ravel()
            told = True
    if not told or not np.isin(joint[n:], joint[:n]).all():
        return None
    return joint[:n], joint[n:]


def _contradict(parts: Sequence[tuple[Array, Array]]) -> bool:
    """Whether two parts are unchanged and each has one choice alone, but not the same."""
    n, said = len(parts[0][0]), None
    for a, b in parts:
        ids = _numbered(np.concatenate([a, b])) if a.shape[1] > 1 else np.zeros(0, np.int64)
        alone = _only_choice(ids[:n], ids[n:]) if np.isin(ids[n:], ids[:n]).all() else None
        if alone is not None:
            if said is not None and not np.array_equal(said, alone):
                return True
            said = alone
    return False


def _numbered(rows: Array) -> Ids:
    """Equal numbers for equal rows, 0 for the first."""
    plain = np.ascontiguousarray(rows + rows.dtype.type(0) if rows.dtype.kind == "f" else rows)
    seen: dict[bytes, int] = {}  # of their bytes: a negative zero is a zero by now
    return np.array([seen.setdefault(row.tobytes(), len(seen)) for row in plain], np.int64)


def _only_choice(dense: Ids, pruned: Ids) -> Ids | None:
    """The dense row of each pruned row, if each has one alone and no two have the same."""
    values, first, count = np.unique(dense, return_index=True, return_counts=True)
    if not len(pruned):
        return None
    at = np.searchsorted(values, pruned)
    if (count[at] > 1).any() or len(np.unique(pruned)) < len(pruned):
        return None
    return np.asarray(first[at], np.int64)


def _fits(equal: Bool) -> bool:
    """Whether every column has an equal row, in order, none used twice."""
    i = 0
    for j in range(equal.shape[1]):
        found = np.flatnonzero(equal[i:, j])
        if not len(found):
            return False
        i += int(found[0]) + 1
    return True


@dataclass(frozen=True, eq=False)
class _Features:
    """All parts side by side in float32, centred and scaled so that all elements count alike."""

    dense: Array
    pruned: Array
    ends: list[int]

    def weighted(self, chosen: Ids) -> tuple[Array, Array]:
        """Both with each part weighted by how little it has changed, if ``chosen`` is right.

        That is maximum likelihood for changes that are normal and of a size of each part's own.
        """
        change = self.dense[chosen] - self.pruned
        weight = np.empty(change.shape[1], np.float32)
        for start, end in pairwise([0, *self.ends]):
            weight[start:end] = max(float((change[:, start:end] ** 2).mean()), _LEAST) ** -0.5
        return self.dense * weight, self.pruned * weight


def _features(parts: Sequence[tuple[Array, Array]]) -> _Features:
    xs, ys = [], []
    for a, b in parts:
        x, y = a.astype(np.float64), b.astype(np.float64)
        mean = x.mean(axis=0)
        x, y = x - mean, y - mean
        spread = float(np.sqrt((x**2).mean())) if x.size else 0.0
        if spread > 0 and np.isfinite(spread):
            xs.append((x / spread).astype(np.float32))
            ys.append((y / spread).astype(np.float32))
    if not xs:
        xs, ys = ([np.zeros((len(p), 1), np.float32)] for p in parts[0])
    ends = np.cumsum([x.shape[1] for x in xs]).tolist()
    return _Features(np.concatenate(xs, axis=1), np.concatenate(ys, axis=1), ends)


def _energy(rows: Array) -> Float:
    return np.asarray(np.einsum("nf,nf->n", rows, rows), np.float64)


def _distances(x: Array, y: Array) -> Float:
    """Squared distances ``[n, m]`` between rows."""
    cost: Float = _energy(x)[:, None] + _energy(y)[None] - 2 * (x @ y.T)
    return np.maximum(cost, 0.0)


def _is_clear(
    x: Array, cost: Float, chosen: npt.NDArray[np.int64], size: Float, judged: Bool
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
