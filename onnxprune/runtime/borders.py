"""Arrays of element types that numpy has not, across the border to onnxruntime and back."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt


def foreign(dtype: np.dtype[Any]) -> bool:
    """Whether numpy itself has no such type, so that onnxruntime cannot convert it."""
    return dtype.kind == "V" or dtype.name.startswith(("bfloat", "float8", "int4", "uint4"))


def to_ort(ort: Any, array: npt.NDArray[Any], number: int | None = None) -> Any:  # noqa: ANN401
    """Wrap an array as an ``OrtValue`` that refers to the array's own memory.

    Args:
        ort: the onnxruntime module.
        array: of any numpy or whole-byte ``ml_dtypes`` type. It must outlive the value.
        number: the ONNX element type; taken from the dtype by default.
    """
    array = np.asarray(array, order="C")
    if not foreign(array.dtype):
        return ort.OrtValue.ortvalue_from_numpy(array)
    if number is None:
        import onnx  # slow to import, and seldom needed

        number = int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
    bits = array.view(np.uint16 if array.itemsize == 2 else np.uint8)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, number)


def from_ort(value: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:  # noqa: ANN401
    """Copy an ``OrtValue`` on the CPU into an array of ``dtype``."""
    if not foreign(dtype):
        return np.asarray(value.numpy())
    shape = value.shape()
    count = int(np.prod(shape))
    size = (count + 1) // 2 if dtype.name in ("int4", "uint4") else count * dtype.itemsize
    raw = np.empty(size, np.uint8)
    ctypes.memmove(raw.ctypes.data, value.data_ptr(), size)
    if dtype.name in ("int4", "uint4"):  # two to a byte, the first in the low half
        nibbles = np.stack([raw & 15, raw >> 4], axis=1).ravel()[:count]
        if dtype.name == "int4":
            nibbles = (nibbles ^ 8).astype(np.int8) - np.int8(8)
        return nibbles.astype(dtype).reshape(shape)
    return raw.view(dtype).reshape(shape)
