"""What the zeros of a weight look like: whole channels, N:M, blocks, or no pattern.

A pattern is reported where chance cannot explain it: one that as many zeros in random places would
show is none. Nothing here knows a runtime; what 2:4 along which axis is good for depends on one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.sparse.encodings.sparsity_stats import nonzero

Array = npt.NDArray[Any]
Bool = npt.NDArray[np.bool_]
Kind: TypeAlias = Literal["none", "empty", "channels", "n:m", "block", "unstructured"]

_GROUPS = (4, 8, 16, 2)
"""The M of N:M that are looked for, those that hardware has first."""
_SIDES = (32, 16, 8, 4, 2, 1)
"""Sides of the blocks that are looked for."""
_FULL = 0.9
"""How much of what N:M allows has to be there: with fewer values it is no more than a bound."""
_MOST = 0.99
"""The share of the zeros that whole channels or blocks have to explain."""
_BY_CHANCE = 0.5
"""The share of zeros that random places may put into blocks by themselves."""
_EXPECTED = 10.0
"""Groups that break N:M if zeros are in random places: fewer, and the pattern may be chance."""


@dataclass(frozen=True)
class Pattern:
    """What the zeros of one weight look like.

    Attributes:
        kind: ``none`` (no zeros), ``empty`` (nothing else), ``channels`` (whole indices of an
            axis), ``n:m``, ``block`` or ``unstructured``.
        axes: the axes it runs along; empty where that has no meaning.
        detail: ``2:4``, the sides of a block, or how many channels of how many.
    """

    kind: Kind
    axes: tuple[int, ...] = ()
    detail: str = ""

    def __str__(self) -> str:
        where = " and ".join(map(str, self.axes))
        match self.kind:
            case "none":
                return "no zeros"
            case "empty":
                return "zeros only"
            case "channels":
                return f"whole channels: {self.detail} of axis {where}"
            case "n:m":
                return f"{self.detail} along axis {where}"
            case "block":
                return f"blocks of {self.detail}"
        return "unstructured"


def find(array: Array) -> Pattern:
    """The most regular pattern that explains the zeros of a weight.

    Args:
        array: of any shape; what is not zero counts, whatever it is.
    """
    kept = nonzero(array)
    number = int(kept.sum())
    if number == kept.size:
        return Pattern("none")
    if not number:
        return Pattern("empty")
    if kept.ndim < 2:
        return Pattern("unstructured")
    return _channels(kept) or _n_of_m(kept, number) or _block(kept) or Pattern("unstructured")


def _channels(kept: Bool) -> Pattern | None:
    """Whole indices of one axis, or of several, that hold (nearly) all zeros."""
    zeros = kept.size - int(kept.sum())
    dead = np.zeros(kept.shape, np.bool_)
    found = []
    for axis, size in enumerate(kept.shape):
        others = tuple(each for each in range(kept.ndim) if each != axis)
        empty = ~kept.any(axis=others)
        if empty.any() and kept.size // size > 1:
            found.append((axis, int(empty.sum()), size))
            dead |= np.expand_dims(empty, others)
    if not found or dead.sum() < _MOST * zeros:
        return None
    detail = ", ".join(f"{count} of {size}" for _, count, size in found)
    return Pattern("channels", tuple(axis for axis, *_ in found), detail)


def _n_of_m(kept: Bool, number: int) -> Pattern | None:
    """At most N of every M consecutive values, where random places would break that often."""
    density = number / kept.size
    for m in _GROUPS:
        found: dict[int, list[int]] = {}
        for axis, size in enumerate(kept.shape):
            if size % m:
                continue
            counts = np.moveaxis(kept, axis, -1).reshape(-1, m).sum(axis=1, dtype=np.int64)
            n = int(counts.max())
            full = number >= _FULL * kept.size * n / m
            if n < m and full and len(counts) * _more_than(n, m, density) > _EXPECTED:
                found.setdefault(n, []).append(axis)
        if found:
            n = min(found)
            return Pattern("n:m", tuple(found[n]), f"{n}:{m}")
    return None


def _more_than(n: int, m: int, density: float) -> float:
    """Chance that more than ``n`` of ``m`` independent values are not zero."""
    return sum(math.comb(m, k) * density**k * (1 - density) ** (m - k) for k in range(n + 1, m + 1))


def _block(kept: Bool) -> Pattern | None:
    """The largest block of the matrix ``[first axis, all others]`` that zeros come in."""
    matrix = kept.reshape(kept.shape[0], -1)
    share = 1 - float(matrix.mean())
    inner = math.prod(kept.shape[2:])  # a kernel is a block of a Conv weight
    sides = sorted(product(_SIDES, {*_SIDES, inner}), key=lambda s: (-s[0] * s[1], -s[0]))
    zeros = matrix.size - int(matrix.sum())
    for high, wide in sides:
        if high * wide == 1 or matrix.shape[0] % high or matrix.shape[1] % wide:
            continue
        if share ** (high * wide - 1) > _BY_CHANCE:
            continue
        tiles = matrix.reshape(matrix.shape[0] // high, high, matrix.shape[1] // wide, wide)
        empty = ~tiles.any(axis=(1, 3))
        if int(empty.sum()) * high * wide >= _MOST * zeros:
            return Pattern("block", (0, 1), f"{high}x{wide}")
    return None
