"""Atoms: ints that are kept or removed everywhere at once, in a union-find with reasons.

An atom may be united with another, pinned (never removed), inexact (removable, but not the same as
masking), tagged, or bound to two others, of which it then is the product.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.int64]
PIN = 0
"""The atom that is never removed."""
NEVER = np.iinfo(np.int32).max
"""No reason: the flag of an atom that is free, or exact."""


class Atoms:
    """The atoms of one analysis: who is united with whom, pinned, inexact, or a product.

    A root may be *bound* to two others, ``e := {left, right}``: wherever ``e`` stands, both
    stand. That is how a free axis of ``h*d`` atoms becomes the product ``(h d)`` everywhere at
    once when somebody reshapes it.
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
