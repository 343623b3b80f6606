"""How the values of a weight are written: as they are, in fewer bits, or as scaled integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[Any]
Values: TypeAlias = Literal["exact", "fp32", "fp16", "int8"]

FLOATS = (ir.DataType.DOUBLE, ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_TARGETS: dict[Values, ir.DataType] = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}
_LARGEST = 127  # symmetric: -128 is not used, so that a zero stays a zero and signs are alike


@dataclass(frozen=True, eq=False)
class Coding:
    """How one weight's values are written.

    Attributes:
        dtype: of what is written.
        scale: float32, broadcastable to the weight: what integers are multiplied by; None where
            values are only converted.
    """

    dtype: ir.DataType
    scale: npt.NDArray[np.float32] | None = None

    def encode(self, array: Array) -> Array:
        """What is written for ``array``; zeros stay zeros, and lose their sign."""
        if self.scale is not None:
            scaled = np.rint(array.astype(np.float32) / self.scale)
            array = np.clip(scaled, -_LARGEST, _LARGEST)
        made: Array = array.astype(self.dtype.numpy(), copy=False)
        return made

    def decode(self, stored: Array, dtype: ir.DataType) -> Array:
        """What a runtime makes of it, in the weight's own type."""
        if self.scale is not None:
            stored = stored.astype(np.float32) * self.scale
        made: Array = stored.astype(dtype.numpy(), copy=False)
        return made


def choose(array: Array, dtype: ir.DataType, asked: Values) -> tuple[Coding, str]:
    """How a weight is written when ``asked`` is wanted, and why it stays exact if it does.

    Vectors are never integers: they are small, and variances among them may be tiny but not zero.
    They are narrowed to floats whose relative error is that of the type for each of them.
    Integers share one scale (largest magnitude / 127) per weight, or per index of the first or the
    last axis, whichever leaves the smallest error.

    Args:
        array: the weight.
        dtype: its element type.
        asked: ``exact``, or what floats may be narrowed to.
    """
    exact = Coding(dtype)
    vector = array.ndim < 2
    if asked == "exact" or dtype not in FLOATS or (vector and asked == "int8"):
        return exact, ""
    if asked == "int8":
        if not np.isfinite(array.astype(np.float32)).all():
            return exact, "it has values that are not finite"
        return Coding(ir.DataType.INT8, _scale(array.astype(np.float32))), ""
    target = _TARGETS[asked]
    if target.itemsize >= dtype.itemsize:
        return exact, ""
    with np.errstate(over="ignore"):
        narrow = array.astype(target.numpy())
    if np.isinf(narrow).sum() > np.isinf(array).sum():
        return exact, f"it has values beyond the range of {asked}"
    if vector and (np.abs(narrow[array != 0]) < np.finfo(narrow.dtype).tiny).any():
        return exact, f"it has values too small for {asked}"
    return Coding(target), ""


def _scale(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The scale with the smallest error: one, or one per index of the first or last axis."""
    best, least = _of(array, None), np.inf
    for axis in (None, *dict.fromkeys((0, array.ndim - 1))) if array.ndim > 1 else (None,):
        scale = _of(array, axis)
        error = float(np.square(np.rint(array / scale) * scale - array).sum(dtype=np.float64))
        if error < least:
            best, least = scale, error
    return best


def _of(array: npt.NDArray[np.float32], axis: int | None) -> npt.NDArray[np.float32]:
    others = tuple(each for each in range(array.ndim) if each != axis)
    most = np.abs(array).max(axis=others, keepdims=axis is not None, initial=0)
    scale = np.asarray(most, np.float32) / np.float32(_LARGEST)
    return np.where(scale > 0, scale, np.float32(1))
