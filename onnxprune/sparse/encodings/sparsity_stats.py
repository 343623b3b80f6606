"""The zeros of a weight: counts that decide its size on disk, and patterns.

Counts are taken in one pass that never holds more than a slab of the weight. A pattern (whole
channels, N:M, blocks) is reported where chance cannot explain it: one that as many zeros in random
places would show is none. Nothing here knows a runtime; what 2:4 along which axis is good for
depends on one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bool = npt.NDArray[np.bool_]
Kind: TypeAlias = Literal["none", "empty", "channels", "n:m", "block", "unstructured"]

DISTANCES = (255, 14)
"""The longest distances that one entry of a delta encoding can say: in a byte, in half of one."""

_SLAB = 1 << 20
"""Values looked at at a time."""

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
class SparsityStats:
    """Counts that decide how much space a weight takes.

    Attributes:
        size: number of values.
        nonzeros: number of values that are not zero.
        entries: of a delta encoding, by the longest distance that one entry can say: one per value
            that is not zero, and one per so much of every longer distance.
        paired: the axis along which at most two of every four values are not zero, or None.
        negative: zeros with a sign, which no encoding but the dense one keeps.
    """

    size: int
    nonzeros: int
    entries: Mapping[int, int]
    paired: int | None
    negative: int = 0


def slabs(flat: Array) -> Iterator[tuple[int, Array]]:
    """Parts of a flat array: (position of the first, values)."""
    for start in range(0, len(flat), _SLAB):
        yield start, flat[start : start + _SLAB]


def nonzero(flat: Array) -> Array:
    """Bool, True where a value is not zero; a zero with a sign is a zero, and NaN is not."""
    kept: Array = flat != 0
    return kept


def places(flat: Array) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Where values are not zero, slab by slab: (position of the slab, places in the whole)."""
    for start, part in slabs(flat):
        yield start, np.flatnonzero(nonzero(part)).astype(np.int64) + start


def count(array: Array) -> SparsityStats:
    """Count the values that decide about the encoding of a weight.

    Args:
        array: of any shape and any number type, as it would be stored.
    """
    flat = array.reshape(-1)
    nonzeros = last = 0
    entries = dict.fromkeys(DISTANCES, 0)
    for _, at in places(flat):
        if len(at):
            gaps = np.diff(at, prepend=last)
            for longest in DISTANCES:
                entries[longest] += len(at) + int(np.maximum((gaps - 1) // longest, 0).sum())
            nonzeros += len(at)
            last = int(at[-1])
    return SparsityStats(
        size=flat.size,
        nonzeros=nonzeros,
        entries=entries,
        paired=_paired(array) if 2 * nonzeros <= flat.size else None,
        negative=_negative(flat) if nonzeros < flat.size else 0,
    )


def _paired(array: Array) -> int | None:
    """The last axis along which at most two of every four consecutive values are not zero."""
    for axis in reversed(range(array.ndim)):
        if array.shape[axis] % 4 == 0 and array.size and _two_of_four(np.moveaxis(array, axis, -1)):
            return axis
    return None


def _two_of_four(groups_last: Array) -> bool:
    step = max(_SLAB // max(groups_last[:1].size, 1), 1)
    for start in range(0, len(groups_last), step):
        groups = nonzero(groups_last[start : start + step]).reshape(-1, 4)
        if (groups.sum(axis=1) > 2).any():
            return False
    return True


def _negative(flat: Array) -> int:
    if flat.dtype.kind in "iub":
        return 0
    return sum(int((np.signbit(part) & ~nonzero(part)).sum()) for _, part in slabs(flat))


@dataclass(frozen=True)
class Pattern:
    """The pattern of the zeros of one weight.

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


def find_pattern(array: Array) -> Pattern:
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
    empty_channels = []
    for axis, size in enumerate(kept.shape):
        others = tuple(each for each in range(kept.ndim) if each != axis)
        empty = ~kept.any(axis=others)
        if empty.any() and kept.size // size > 1:
            empty_channels.append((axis, int(empty.sum()), size))
            dead |= np.expand_dims(empty, others)
    if not empty_channels or dead.sum() < _MOST * zeros:
        return None
    detail = ", ".join(f"{count} of {size}" for _, count, size in empty_channels)
    return Pattern("channels", tuple(axis for axis, *_ in empty_channels), detail)


def _n_of_m(kept: Bool, number: int) -> Pattern | None:
    """At most N of every M consecutive values, where random places would break that often."""
    density = number / kept.size
    for m in _GROUPS:
        axes_by_n: dict[int, list[int]] = {}
        for axis, size in enumerate(kept.shape):
            if size % m:
                continue
            counts = np.moveaxis(kept, axis, -1).reshape(-1, m).sum(axis=1, dtype=np.int64)
            n = int(counts.max())
            full = number >= _FULL * kept.size * n / m
            if n < m and full and len(counts) * _more_than(n, m, density) > _EXPECTED:
                axes_by_n.setdefault(n, []).append(axis)
        if axes_by_n:
            n = min(axes_by_n)
            return Pattern("n:m", tuple(axes_by_n[n]), f"{n}:{m}")
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
