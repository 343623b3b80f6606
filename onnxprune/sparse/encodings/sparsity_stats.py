"""What is inside a weight, counted in one pass that never holds more than a slab of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.sparse.encodings.forms import Content

Array = npt.NDArray[Any]

SLAB = 1 << 22
"""Values looked at at a time."""

LONGEST = 255
"""The longest distance that one entry of the delta form can say."""

SHORT = 14
"""The same of the delta4 form."""


def slabs(flat: Array) -> Iterator[tuple[int, Array]]:
    """Parts of a flat array: (position of the first, values)."""
    for start in range(0, len(flat), SLAB):
        yield start, flat[start : start + SLAB]


def nonzero(flat: Array) -> Array:
    """Bool, True where a value is not zero; a zero with a sign is a zero, and NaN is not."""
    kept: Array = flat != 0
    return kept


def places(flat: Array) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Where values are not zero, slab by slab: (position of the slab, places in the whole)."""
    for start, part in slabs(flat):
        yield start, np.flatnonzero(nonzero(part)).astype(np.int64) + start


def count(array: Array) -> Content:
    """Count what decides about the form of a weight.

    Args:
        array: of any shape and any number type, as it would be stored.
    """
    flat = array.reshape(-1)
    kept = steps = short = 0
    last = 0
    for _, found in places(flat):
        if len(found):
            gaps = np.diff(found, prepend=last)
            steps += len(found) + int(np.maximum((gaps - 1) // LONGEST, 0).sum())
            short += len(found) + int(np.maximum((gaps - 1) // SHORT, 0).sum())
            kept += len(found)
            last = int(found[-1])
    return Content(
        size=flat.size,
        kept=kept,
        steps=steps,
        short=short,
        paired=_paired(array) if 2 * kept <= flat.size else None,
        negative=_negative(flat) if kept < flat.size else 0,
    )


def _paired(array: Array) -> int | None:
    """The last axis along which at most two of every four consecutive values are not zero."""
    for axis in reversed(range(array.ndim)):
        if array.shape[axis] % 4 == 0 and array.size and _two_of_four(np.moveaxis(array, axis, -1)):
            return axis
    return None


def _two_of_four(moved: Array) -> bool:
    step = max(SLAB // max(moved[:1].size, 1), 1)
    for start in range(0, len(moved), step):
        groups = nonzero(moved[start : start + step]).reshape(-1, 4)
        if (groups.sum(axis=1) > 2).any():
            return False
    return True


def _negative(flat: Array) -> int:
    if flat.dtype.kind in "iub":
        return 0
    return sum(int((np.signbit(part) & ~nonzero(part)).sum()) for _, part in slabs(flat))
