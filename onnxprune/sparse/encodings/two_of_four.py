"""The 2:4 form: half a byte says which two of every four weights are stored, and the two follow.

Weights are laid out with the axis that has the pattern last. Decoding: a byte, looked up, gives
for each of eight weights its place among ``[0, a, b, c, d]``, the four values stored for them.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.sparse.encodings.graph_builder import Pieces, Stream
from onnxprune.sparse.encodings.sparsity_stats import nonzero

Array = npt.NDArray[Any]

_PAIRS = np.array(list(itertools.combinations(range(4), 2)))
"""The two places of each of the six codes."""

_CODES = np.zeros((4, 4), np.uint8)
_CODES[_PAIRS[:, 0], _PAIRS[:, 1]] = np.arange(len(_PAIRS))


def _table() -> npt.NDArray[np.uint8]:
    """``[256, 8]``: where each of eight weights finds its value, by code byte; 0 is the zero."""
    table = np.zeros((256, 8), np.uint8)
    for (high, one), (low, two) in itertools.product(enumerate(_PAIRS), repeat=2):
        row = table[high << 4 | low]
        row[one] = (1, 2)
        row[two + 4] = (3, 4)
    return table


def _places(flat: Array) -> npt.NDArray[np.int64]:
    """``[groups, 2]``: the two places of each group that are stored, ascending; any for zeros."""
    empty = ~nonzero(flat).reshape(-1, 4)
    found: npt.NDArray[np.int64] = np.sort(np.argsort(empty, axis=1, kind="stable")[:, :2], axis=1)
    return found


def codes(flat: Array) -> npt.NDArray[np.uint8]:
    """uint8 ``[n / 8]``: the codes of two groups of four each."""
    at = _places(flat)
    found = _CODES[at[:, 0], at[:, 1]].reshape(-1, 2)
    return (found[:, 0] << 4 | found[:, 1]).astype(np.uint8)


def values(flat: Array) -> Array:
    """``[n / 8, 4]``: the stored values of two groups of four each."""
    return np.take_along_axis(flat.reshape(-1, 4), _places(flat), axis=1).reshape(-1, 4)


def decode(pieces: Pieces, stream: Stream) -> ir.Value:
    """Add the nodes that decode a stream; their output, ``[n / 8, 8]``."""
    rows = stream.content.size // 8
    packed = stream.add(pieces, "codes", codes, ir.DataType.UINT8, (rows,))
    held = stream.add(pieces, "values", values, stream.stored, (rows, 4))
    table = pieces.shared("pairs", _table())
    eights = pieces.node("Gather", table, pieces.cast(packed, ir.DataType.INT32), axis=0)
    column = pieces.zeros((rows, 1), stream.work)
    five = pieces.node("Concat", column, pieces.cast(held, stream.work), axis=1)
    at = pieces.cast(eights, ir.DataType.INT32)
    return pieces.node("GatherElements", five, at, axis=1)
