"""Atoms: ints that are kept or removed everywhere at once, in a union-find with reasons.

An atom may be united with another, pinned (never removed), inexact (removable, but not the same as
masking), tagged, or bound to two others, of which it then is the product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.int64]
PIN = 0
"""The atom that is never removed."""
NEVER = np.iinfo(np.int32).max
"""No reason: the flag of an atom that is free, or exact."""


LONGEST, MOST = 1 << 24, 1 << 26
"""Indices of one axis, and of all axes of a graph, that are followed; each takes 40 bytes."""
TOO_LONG = "too long an axis to be followed"


class Atoms:
    """The atoms of one analysis: which are united, pinned, inexact, or products.

    A root may be *bound* to two others, ``e := {left, right}``: wherever ``e`` stands, both
    stand. That is how a free axis of ``h*d`` atoms becomes the product ``(h d)`` everywhere at
    once when it is reshaped.
    """

    def __init__(self) -> None:
        self._n = 1
        self._parent = np.zeros(1, np.int64)
        self._left = np.full(1, -1, np.int64)
        self._right = np.full(1, -1, np.int64)
        self._pinned = np.zeros(1, np.int32)
        self._inexact = np.full(1, NEVER, np.int32)
        self._tags = np.zeros(1, np.int64)
        self._reasons: dict[str, int] = {"never removed": 0}
        self._texts: list[str] = ["never removed"]

    def find(self, atoms: Column) -> Column:
        """Roots of ``atoms`` (same shape), with path compression."""
        parent = self._parent
        root = parent[atoms]
        while True:
            above = parent[root]
            if np.array_equal(above, root):
                break
            root = above
        parent[atoms] = root
        return root

    def _unite(self, a: Column, b: Column) -> None:
        """Unite ``a[i]`` with ``b[i]``; both hold unbound roots. Flags follow to the new root."""
        touched = np.concatenate([a.ravel(), b.ravel()])
        a, b = a.ravel(), b.ravel()
        while True:
            a, b = self.find(a), self.find(b)
            low, high = np.minimum(a, b), np.maximum(a, b)
            apart = low < high
            if not apart.any():
                break
            np.minimum.at(self._parent, high[apart], low[apart])
        root = self.find(touched)
        np.minimum.at(self._pinned, root, self._pinned[touched])
        np.minimum.at(self._inexact, root, self._inexact[touched])
        np.bitwise_or.at(self._tags, root, self._tags[touched])

    def _reason(self, text: str) -> int:
        if text not in self._reasons:
            self._reasons[text] = len(self._texts)
            self._texts.append(text)
        return self._reasons[text]

    def _free(self, atoms: Column) -> npt.NDArray[np.bool_]:
        return np.asarray(self._pinned[atoms] == NEVER)

    def _new(self, n: int) -> Column:
        """``n`` new atoms."""
        need = self._n + n
        if need > len(self._parent):
            grow = max(need, 2 * len(self._parent)) - len(self._parent)
            start = len(self._parent)
            self._parent = np.concatenate([self._parent, np.arange(start, start + grow)])
            self._left = np.concatenate([self._left, np.full(grow, -1, np.int64)])
            self._right = np.concatenate([self._right, np.full(grow, -1, np.int64)])
            self._pinned = np.concatenate([self._pinned, np.full(grow, NEVER, np.int32)])
            self._inexact = np.concatenate([self._inexact, np.full(grow, NEVER, np.int32)])
            self._tags = np.concatenate([self._tags, np.zeros(grow, np.int64)])
        column = np.arange(self._n, need, dtype=np.int64)
        self._n = need
        return column

    def labels(self, column: Column) -> Column:
        """``column`` (roots) with every pinned row replaced by PIN."""
        return np.where(self._free(column), column, PIN)

    def why_inexact(self, atom: int) -> str:
        """Why removing ``atom`` is not the same as masking it; empty when it is."""
        flag = int(self._inexact[atom])
        return "" if flag == NEVER else self._texts[flag]

    def tags(self, atom: int) -> int:
        """The bits given to ``atom`` by :meth:`tag`."""
        return int(self._tags[atom])

    def __len__(self) -> int:
        return self._n


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of one tensor.

    Attributes:
        size: None when unknown.
        columns: one atom per index each.
        why: the reason where there are no columns; may be empty.
    """

    size: int | None
    columns: tuple[Column, ...] = ()
    why: str = ""


class Space(Atoms):
    """The axes of one analysis over their atoms."""

    def fresh(self, n: int) -> Axis:
        """An axis of ``n`` new atoms; one that is too long for them loses no index."""
        if n > LONGEST or len(self) + n > MOST:
            return Axis(n, why=TOO_LONG)
        return Axis(n, (self._new(n),))

    # -- reading -----------------------------------------------------------------------------

    def columns(self, axis: Axis) -> list[Column]:
        """The columns of ``axis`` in today's roots, products expanded.

        Equal columns, and columns that are pinned throughout, are dropped.
        """
        out: list[Column] = []
        queue = list(axis.columns)
        while queue:
            column = self.find(queue.pop(0))
            bound = self._left[column] >= 0
            if bound.any():
                queue[:0] = [
                    np.where(bound, self._left[column], column),
                    np.where(bound, self._right[column], PIN),
                ]
            elif self._free(column).any() and not any(np.array_equal(column, c) for c in out):
                out.append(column)
        return out

    def why_pinned(self, axis: Axis) -> str:
        """Why ``axis`` cannot lose an index; empty if some index can go."""
        if not axis.columns:
            return axis.why
        if self.columns(axis):
            return ""
        flags = np.concatenate([self._pinned[self._leaves(c)] for c in axis.columns])
        reasons = flags[(flags > 0) & (flags < NEVER)]
        return self._texts[int(reasons.min(initial=NEVER)) if reasons.size else 0]

    def _leaves(self, column: Column) -> Column:
        """All unbound roots that stand for ``column``, in no order."""
        roots = self.find(column)
        bound = self._left[roots] >= 0
        if not bound.any():
            return roots
        below = np.concatenate([self._left[roots[bound]], self._right[roots[bound]]])
        return np.concatenate([roots[~bound], self._leaves(below)])

    # -- marking -----------------------------------------------------------------------------

    def pin(self, axis: Axis, why: str) -> Axis:
        """Never remove an index of ``axis``. Returns the axis, now without columns."""
        for column in self.columns(axis):
            np.minimum.at(self._pinned, column, self._reason(why))
        return Axis(axis.size, why=axis.why or why)

    def inexact(self, axis: Axis, why: str) -> None:
        """Removal along ``axis`` keeps shapes right but changes values: say why."""
        for column in self.columns(axis):
            np.minimum.at(self._inexact, column, self._reason(why))

    def tag(self, axis: Axis, bits: int) -> None:
        """Remember ``bits`` about every atom of ``axis`` (what kind of unit it is)."""
        for column in self.columns(axis):
            np.bitwise_or.at(self._tags, column, bits)

    # -- the algebra -------------------------------------------------------------------------

    def _bind(self, column: Column, factors: Sequence[Column]) -> bool:
        """Make the atoms of ``column`` the products of ``factors``, row by row.

        False, and nothing done, when an atom would stand for two different products or for itself.
        """
        column, factors = self.find(column), [self.find(f) for f in factors]
        free = self._free(column)
        atoms, first, back = np.unique(column[free], return_index=True, return_inverse=True)
        parts = [f[free][first] for f in factors]
        if any(not np.array_equal(p[back], f[free]) for p, f in zip(parts, factors, strict=True)):
            return False
        if np.isin(np.concatenate(factors), atoms).any():
            return False
        for factor in factors:  # a pinned product has pinned factors
            np.minimum.at(self._pinned, factor[~free], self._pinned[column[~free]])
        for part in parts:
            np.minimum.at(self._inexact, part, self._inexact[atoms])
            np.bitwise_or.at(self._tags, part, self._tags[atoms])
        for part in parts[:-2]:
            rest = self._new(len(atoms))
            self._left[atoms], self._right[atoms] = part, rest
            atoms = rest
        self._left[atoms], self._right[atoms] = parts[-2], parts[-1]
        return True

    def unify(self, p: Axis, q: Axis, why: str = "") -> None:
        """Make two axes of equal length lose the same indices.

        Columns with the same partition unite row by row; a column against several is refined
        into them; a column against nothing is pinned; anything else unites whole rows.
        """
        left, right = self.columns(p), self.columns(q)
        for same in (np.array_equal, self._same_partition):
            for a in list(left):
                b = next((b for b in right if same(a, b)), None)
                if b is not None:
                    self._unite(a, b)
                    left = [c for c in left if c is not a]
                    right = [c for c in right if c is not b]
        if not left and not right:
            return
        if not left or not right:
            reason = self.why_pinned(p if not left else q) or why or "meets an axis that stays"
            for column in left or right:
                np.minimum.at(self._pinned, column, self._reason(reason))
            return
        if len(left) == 1 and len(right) > 1 and self._bind(left[0], right):
            return
        if len(right) == 1 and len(left) > 1 and self._bind(right[0], left):
            return
        head, *rest = left + right
        for column in rest:
            self._unite(head, column)

    def _same_partition(self, a: Column, b: Column) -> bool:
        return bool(np.array_equal(_pattern(self.labels(a)), _pattern(self.labels(b))))

    def split(self, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
        """View one axis as several, row-major. ``prod(sizes)`` equals its size.

        A column that varies along one new axis belongs to it; one that varies along several is
        refined into a product where its atoms are free, else coarsened.
        """
        while True:
            parts: list[list[Column]] = [[] for _ in sizes]
            for column in self.columns(axis):
                grid = column.reshape(sizes)
                seen = self.labels(grid)
                varies = [k for k in range(len(sizes)) if (seen != seen.take([0], k)).any()]
                if len(varies) != 1:
                    self._refine(grid, varies)
                    break
                keep = tuple(slice(None) if k in varies else 0 for k in range(len(sizes)))
                parts[varies[0]].append(grid[keep])
            else:
                why = "" if axis.columns else axis.why
                return [Axis(n, tuple(c), why) for n, c in zip(sizes, parts, strict=True)]

    def _refine(self, grid: Column, varies: list[int]) -> None:
        """Make ``grid`` vary along one axis only, as a product if it is free, else coarser."""
        if not varies:  # one atom holds the whole axis: removing it would leave nothing
            np.minimum.at(self._pinned, grid.ravel(), self._reason("would leave nothing"))
            return
        small = grid[tuple(slice(None) if k in varies else 0 for k in range(grid.ndim))]
        classes = []  # indices of one axis that hold the same atoms throughout are one factor
        for k in range(small.ndim):
            rows = np.moveaxis(small, k, 0).reshape(small.shape[k], -1)
            _, first = np.unique(rows, axis=0, return_index=True)
            small = small.take(first, k)
            classes.append(len(first))
        if self._free(small).all() and len(np.unique(small)) == small.size:
            factors = []
            for k, n in enumerate(classes):
                shape = [n if j == k else 1 for j in range(small.ndim)]
                column = self._new(n)
                factors.append(np.broadcast_to(column.reshape(shape), small.shape).ravel())
            if self._bind(small.ravel(), factors):
                return
        free = self._free(grid)
        rest = [tuple(j for j in range(grid.ndim) if j != k) for k in varies]
        best = varies[int(np.argmax([free.all(axis=r).sum() for r in rest]))]
        rows = np.moveaxis(grid, best, 0).reshape(grid.shape[best], -1)
        self._unite(np.broadcast_to(rows[:, :1], rows.shape), rows)

    def merge(self, axes: Sequence[Axis]) -> Axis:
        """``(C, H, W) -> (C*H*W)``, row-major: every column is repeated over the others' sizes."""
        sizes = [a.size for a in axes]
        if None in sizes:
            why = "merged with an axis of unknown size"
            for axis in axes:
                self.pin(axis, why)
            return Axis(None, why=why)
        shape = [int(n) for n in sizes if n is not None]
        if math.prod(shape) > LONGEST and any(map(self.columns, axes)):
            for axis in axes:
                self.pin(axis, TOO_LONG)
            return Axis(math.prod(shape), why=TOO_LONG)
        columns = []
        for k, axis in enumerate(axes):
            view = [n if j == k else 1 for j, n in enumerate(shape)]
            columns += [np.broadcast_to(c.reshape(view), shape).ravel() for c in self.columns(axis)]
        why = next((a.why for a in axes if a.why), "")
        return Axis(math.prod(shape), tuple(columns), why)

    def repair_widths(self, axes: Iterable[Axis]) -> None:
        """Pin every atom that holds all of some axis: removing it would leave nothing."""
        for axis in axes:
            for column in self.columns(axis):
                if (column == column[0]).all():
                    np.minimum.at(self._pinned, column[:1], self._reason("would leave nothing"))

    def removed(self, axis: Axis, atoms: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """The removed indices of ``axis``, ``[size]``, for removed ``atoms``, ``[len(self)]``."""
        out = np.zeros(axis.size or 0, np.bool_)
        for column in self.columns(axis):
            out |= atoms[column]
        return out


def _pattern(column: Column) -> Column:
    """The partition of rows by atom, as labels numbered by first appearance."""
    _, first, back = np.unique(column, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[back]


def take(axis: Axis, rows: Column) -> Axis:
    """Rows of an axis, in any order, repeats allowed."""
    return Axis(len(rows), tuple(c[rows] for c in axis.columns), axis.why)


def concat(space: Space, axes: Sequence[Axis]) -> Axis:
    """Axes end to end; where one has fewer columns than another, its rows stay."""
    if any(a.size is None for a in axes):
        for axis in axes:
            space.pin(axis, "joined with an axis of unknown size")
        return Axis(None)
    parts = [(a.size or 0, space.columns(a)) for a in axes]
    if sum(n for n, _ in parts) > LONGEST:
        for axis in axes:
            space.pin(axis, TOO_LONG)
        return Axis(sum(n for n, _ in parts), why=TOO_LONG)
    depth = max(len(columns) for _, columns in parts)
    joined = tuple(
        np.concatenate([c[k] if k < len(c) else np.full(n, PIN, np.int64) for n, c in parts])
        for k in range(depth)
    )
    return Axis(sum(n for n, _ in parts), joined, next((a.why for a in axes if a.why), ""))
