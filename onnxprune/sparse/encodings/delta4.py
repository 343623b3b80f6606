"""The delta form in half bytes, which suits weights with 75 to 95 % zeros.

A code of 1 to 14 says how far a value is from the one before; 15 goes 14 places on, where there is
no value; 0 is a first value in the first place. Decoding: codes, looked up, become steps, which are
summed up to places, and a flag for whether a value is there; flags are summed up to places among
``[0; values]``, as in the bitmask form, and what is found is scattered into zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.sparse.encodings.graph_builder import Pieces, Stream
from onnxprune.sparse.encodings.sparsity_stats import SHORT, nonzero

Array = npt.NDArray[Any]

_ON = SHORT + 1
"""The code that only goes on."""

_STEPS = np.array([*range(SHORT + 1), SHORT], np.uint8)
_VALUES = np.array([1] * (SHORT + 1) + [0], np.uint8)
_HALVES = np.stack([np.arange(256) >> 4, np.arange(256) & 15], axis=1).astype(np.uint8)
"""The two codes of each byte."""


def codes(flat: Array) -> npt.NDArray[np.uint8]:
    """uint8 ``[ceil(entries / 2)]``: two codes each, the last one padded with 0."""
    places = np.flatnonzero(nonzero(flat))
    distances = np.diff(places, prepend=0)
    on = np.maximum((distances - 1) // SHORT, 0)
    ends = np.arange(len(places)) + np.cumsum(on)
    entries = int(ends[-1]) + 1 if len(ends) else 1
    made = np.full(entries + entries % 2, _ON, np.uint8)
    made[entries:] = 0
    made[ends] = distances - SHORT * on
    if not len(ends):
        made[0] = 0
    pairs = made.reshape(-1, 2)
    return (pairs[:, 0] << 4 | pairs[:, 1]).astype(np.uint8)


def values(flat: Array) -> Array:
    """``[1 + kept]``: a zero, then the values that are not zero; two if there are none."""
    kept = flat[nonzero(flat)]
    return np.concatenate([np.zeros(1 if len(kept) else 2, flat.dtype), kept])


def decode(pieces: Pieces, stream: Stream) -> ir.Value:
    """Add the nodes that decode a stream; their output, ``[n]``."""
    content = stream.content
    entries = max(content.short, 1)
    packed = stream.add(pieces, "codes", codes, ir.DataType.UINT8, (-(-entries // 2),))
    held = stream.add(pieces, "values", values, stream.stored, (1 + max(content.kept, 1),))
    halves = pieces.shared("halves", _HALVES)
    pairs = pieces.node("Gather", halves, pieces.cast(packed, ir.DataType.INT32), axis=0)
    code = pieces.node("Reshape", pairs, pieces.shared("flat", np.array([-1], np.int64)))
    if entries % 2:
        code = pieces.head(code, entries)
    code = pieces.cast(code, ir.DataType.INT32)
    width = ir.DataType.INT32 if content.size < 1 << 31 else ir.DataType.INT64
    first = pieces.shared("axis", np.array(0, np.int64))
    step = pieces.node("Gather", pieces.shared("steps", _STEPS), code, axis=0)
    at = pieces.node("CumSum", pieces.cast(step, width), first)
    flag = pieces.node("Gather", pieces.shared("flags", _VALUES), code, axis=0)
    flag = pieces.cast(flag, ir.DataType.INT32)
    which = pieces.node("Mul", pieces.node("CumSum", flag, first), flag)
    found = pieces.node("Gather", pieces.cast(held, stream.work), which, axis=0)
    zeros = pieces.zeros((content.size,), stream.work)
    return pieces.node("ScatterElements", zeros, at, found, axis=0)
