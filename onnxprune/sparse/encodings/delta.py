"""The delta form: one byte per value says how far it is from the one before.

A distance of more than 255 takes several entries; those in between hold the value zero, which is
what is there. Decoding: distances are summed up to places, and values scattered into zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.sparse.encodings.graph_builder import Pieces, Stream
from onnxprune.sparse.encodings.sparsity_stats import LONGEST, nonzero

Array = npt.NDArray[Any]


def gaps(flat: Array) -> npt.NDArray[np.uint8]:
    """uint8 ``[entries]``: distances, the first from place 0; at least one entry."""
    distances, ends = _entries(flat)
    made = np.full(int(ends[-1]) + 1 if len(ends) else 1, LONGEST, np.uint8)
    if not len(ends):
        made[:] = 0
    made[ends] = distances
    return made


def values(flat: Array) -> Array:
    """``[entries]``: the value at the place each entry leads to."""
    _, ends = _entries(flat)
    made = np.zeros(int(ends[-1]) + 1 if len(ends) else 1, flat.dtype)
    made[ends] = flat[nonzero(flat)]
    return made


def _entries(flat: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Per value, what is left of its distance after the long steps, and the place of its entry."""
    distances = np.diff(np.flatnonzero(nonzero(flat)), prepend=0)
    long = np.maximum((distances - 1) // LONGEST, 0)
    return distances - LONGEST * long, np.arange(len(distances)) + np.cumsum(long)


def decode(pieces: Pieces, stream: Stream) -> ir.Value:
    """Add the nodes that decode a stream; their output, ``[n]``."""
    content = stream.content
    entries = (max(content.steps, 1),)
    steps = stream.add(pieces, "gaps", gaps, ir.DataType.UINT8, entries)
    held = stream.add(pieces, "values", values, stream.stored, entries)
    width = ir.DataType.INT32 if content.size < 1 << 31 else ir.DataType.INT64
    at = pieces.node(
        "CumSum", pieces.cast(steps, width), pieces.shared("axis", np.array(0, np.int64))
    )
    zeros = pieces.zeros((content.size,), stream.work)
    return pieces.node("ScatterElements", zeros, at, pieces.cast(held, stream.work), axis=0)
