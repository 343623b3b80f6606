"""The weights of a model and how they are stored.

Values are written as they are, in fewer bits, or as scaled integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.sparse.encodings.sparsity_stats import DISTANCES, SparsityStats, count, nonzero
from onnxprune.sparse.encodings.table import DENSE, Encoding

Array = npt.NDArray[Any]
Values: TypeAlias = Literal["exact", "fp32", "fp16", "int8"]

FLOATS = (ir.DataType.DOUBLE, ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_TARGETS: dict[Values, ir.DataType] = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}
_LARGEST = 127  # symmetric: -128 is not used, so that a zero stays a zero and signs are alike

SMALLEST = 256
"""Weights with fewer values are left alone: describing another encoding takes what it saves."""

_SMALLEST_NARROWED = 16
"""The same where values are narrowed: tensors that stay dense share what converts them."""

_TYPES = (*FLOATS, ir.DataType.INT8, ir.DataType.UINT8)


@dataclass(frozen=True, eq=False)
class Coding:
    """How one weight's values are written.

    Attributes:
        dtype: element type of the written values.
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
        written: Array = array.astype(self.dtype.numpy(), copy=False)
        return written

    def decode(self, stored: Array, dtype: ir.DataType) -> Array:
        """What a runtime makes of it, in the weight's own type."""
        if self.scale is not None:
            stored = stored.astype(np.float32) * self.scale
        decoded: Array = stored.astype(dtype.numpy(), copy=False)
        return decoded


@dataclass(frozen=True, eq=False)
class Weight:
    """One stored tensor of a model, and the encoding it gets.

    Attributes:
        value: the value that holds it, in the edited model.
        tensor: the dense tensor.
        coding: how its values are written.
        stats: statistics of the written values.
        encoding: the chosen encoding.
        exact_stats: statistics of the values before they are narrowed; None if they are not.
        excluded: why it has to stay dense; empty if it need not.
        unusable: encodings that it cannot have, each with the reason.
        remark: why a request was not met; empty if it was.
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    coding: Coding
    stats: SparsityStats
    encoding: Encoding = DENSE
    exact_stats: SparsityStats | None = None
    excluded: str = ""
    unusable: Mapping[Encoding, str] = field(default_factory=dict)
    remark: str = ""

    @property
    def name(self) -> str:
        """Name of the value."""
        return self.value.name or ""

    @property
    def form(self) -> str:
        """The name of its encoding."""
        return self.encoding.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return tuple(int(size) for size in self.tensor.shape.numpy())

    @property
    def narrowed(self) -> bool:
        """Whether its values are not written in the weight's own type."""
        return self.coding.dtype != self.tensor.dtype

    @property
    def changed(self) -> bool:
        """Whether it is written in any other way than it was."""
        return self.encoding is not DENSE or self.narrowed

    @property
    def work(self) -> ir.DataType:
        """The type values have once they are converted, before a scale."""
        return self.tensor.dtype if self.coding.scale is None else ir.DataType.FLOAT

    @property
    def moved(self) -> int | None:
        """The axis that is laid out last, where it is not last anyway; None if none is."""
        axis = self.encoding.last_axis(self.stats)
        return None if axis == len(self.shape) - 1 else axis

    def stored(self) -> Array:
        """Its values as they are written, in the order they are written; zeros have no sign."""
        array = self.coding.encode(self.tensor.numpy())
        if self.stats.negative:
            array = np.where(nonzero(array), array, array.dtype.type(0))
        if self.moved is not None:
            array = np.moveaxis(array, self.moved, -1)
        return np.ascontiguousarray(array)

    def expected(self) -> Array:
        """What a runtime that reads it computes with: the weight, or close to it."""
        dense = replace(self, encoding=DENSE)  # in the weight's own layout
        return self.coding.decode(dense.stored(), self.tensor.dtype)


def weights(model: models.Model, values: Values) -> Iterator[Weight]:
    """Every stored tensor that is large enough for an encoding to pay.

    Args:
        model: dense; the values of what is returned are its own.
        values: what floats may be narrowed to.
    """
    least = SMALLEST if values in ("exact", "int8") else _SMALLEST_NARROWED
    for value in models.constants(model).values():
        tensor = models.constant(value)
        if tensor is None or tensor.size < least or tensor.dtype == ir.DataType.STRING:
            continue
        excluded = _excluded(value, tensor)
        if excluded:
            size = tensor.size
            stats = SparsityStats(size, size, dict.fromkeys(DISTANCES, size), None)
            if tensor.dtype in _TYPES:
                stats = count(tensor.numpy())
            yield Weight(value, tensor, Coding(tensor.dtype), stats, excluded=excluded)
            continue
        array = tensor.numpy()
        coding, remark = choose_coding(array, tensor.dtype, values)
        stats = count(coding.encode(array))
        exact = None if coding.dtype == tensor.dtype else count(array)
        yield Weight(value, tensor, coding, stats, exact_stats=exact, remark=remark)


def _excluded(value: ir.Value, tensor: ir.TensorProtocol) -> str:
    if value.is_graph_input():
        return "it is also a graph input, so whoever runs the model may replace it"
    if tensor.dtype not in _TYPES:
        return f"only floats and 8-bit integers are looked at, and it is {tensor.dtype.name}"
    return "it is an output of its graph" if value.is_graph_output() else ""


def choose_coding(array: Array, dtype: ir.DataType, values: Values) -> tuple[Coding, str]:
    """How the values of a weight are written, and why they stay exact if they do.

    Vectors are never integers: they are small, and variances among them may be tiny but not zero.
    They are narrowed to floats whose relative error is that of the type for each of them.
    Integers share one scale (largest magnitude / 127) per weight, or per index of the first or the
    last axis, whichever leaves the smallest error.

    Args:
        array: the weight.
        dtype: its element type.
        values: ``exact``, or what floats may be narrowed to.
    """
    exact = Coding(dtype)
    vector = array.ndim < 2
    if values == "exact" or dtype not in FLOATS or (vector and values == "int8"):
        return exact, ""
    if values == "int8":
        if not np.isfinite(array.astype(np.float32)).all():
            return exact, "it has values that are not finite"
        return Coding(ir.DataType.INT8, _scale(array.astype(np.float32))), ""
    target = _TARGETS[values]
    if target.itemsize >= dtype.itemsize:
        return exact, ""
    with np.errstate(over="ignore"):
        narrow = array.astype(target.numpy())
    if np.isinf(narrow).sum() > np.isinf(array).sum():
        return exact, f"it has values beyond the range of {values}"
    if vector and (np.abs(narrow[array != 0]) < np.finfo(narrow.dtype).tiny).any():
        return exact, f"it has values too small for {values}"
    return Coding(target), ""


def _scale(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The scale with the smallest error: one, or one per index of the first or last axis."""
    best, least = _scale_along(array, None), np.inf
    for axis in (None, *dict.fromkeys((0, array.ndim - 1))) if array.ndim > 1 else (None,):
        scale = _scale_along(array, axis)
        error = float(np.square(np.rint(array / scale) * scale - array).sum(dtype=np.float64))
        if error < least:
            best, least = scale, error
    return best


def _scale_along(array: npt.NDArray[np.float32], axis: int | None) -> npt.NDArray[np.float32]:
    others = tuple(each for each in range(array.ndim) if each != axis)
    most = np.abs(array).max(axis=others, keepdims=axis is not None, initial=0)
    scale = np.asarray(most, np.float32) / np.float32(_LARGEST)
    return np.where(scale > 0, scale, np.float32(1))
