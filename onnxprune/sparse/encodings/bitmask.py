"""The bitmask form: one bit per weight says whether a value is stored.

Decoding: the bits, looked up byte by byte, are counted up; where a bit is set the count is the
place of the value in ``[0; values]``, elsewhere it is multiplied to 0, the place of the zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.sparse.encodings.graph_builder import Pieces, Stream
from onnxprune.sparse.encodings.sparsity_stats import nonzero

Array = npt.NDArray[Any]

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
"""The eight bits of each byte, highest first, as numpy packs them."""


def mask(flat: Array) -> npt.NDArray[np.uint8]:
    """uint8 ``[ceil(n / 8)]``: which of ``n`` values are not zero."""
    return np.packbits(nonzero(flat))


def values(flat: Array) -> Array:
    """``[1 + kept]``: a zero, then the values that are not zero."""
    return np.concatenate([np.zeros(1, flat.dtype), flat[nonzero(flat)]])


def decode(pieces: Pieces, stream: Stream) -> ir.Value:
    """Add the nodes that decode a stream; their output, ``[n]``."""
    content = stream.content
    packed = stream.add(pieces, "mask", mask, ir.DataType.UINT8, (-(-content.size // 8),))
    held = stream.add(pieces, "values", values, stream.stored, (1 + content.kept,))
    table = pieces.shared("bits", _BITS)
    eights = pieces.node("Gather", table, pieces.cast(packed, ir.DataType.INT32), axis=0)
    flat = pieces.node("Reshape", eights, pieces.shared("flat", np.array([-1], np.int64)))
    if content.size % 8:
        flat = pieces.head(flat, content.size)
    bits = pieces.cast(flat, ir.DataType.INT32)
    counted = pieces.node("CumSum", bits, pieces.shared("axis", np.array(0, np.int64)))
    at = pieces.node("Mul", counted, bits)
    return pieces.node("Gather", pieces.cast(held, stream.work), at, axis=0)
