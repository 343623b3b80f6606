"""Signatures: the name, element type and shape of each input or output of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.model.core import Model

Dim = int | str | None
"""One dimension: a size, the name of a symbolic size, or ``None`` where it has no name."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: as the model has it.
        dtype: numpy element type; ``ml_dtypes`` supplies bfloat16, float8 and the 4-bit types;
            ``object`` for strings and for values that are not tensors.
        shape: sizes, names of symbolic sizes, ``None`` for sizes without a name.
        kind: ``tensor``, ``sequence``, ``map`` or ``optional``.
        ranked: whether the model declares a shape; without one, ``shape`` is empty.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[Dim, ...]
    kind: str = "tensor"
    ranked: bool = True

    def __str__(self) -> str:
        kind = self.dtype.name if self.kind == "tensor" else self.kind
        kind = "string" if kind == "object" else kind
        if not self.ranked:
            return f"{self.name}: {kind} without a shape"
        return (
            f"{self.name}: {kind} [{', '.join('?' if d is None else str(d) for d in self.shape)}]"
        )


Signature = tuple[TensorSpec, ...]
"""The inputs of a model, in the model's order."""


def describe(signature: Sequence[TensorSpec]) -> str:
    """``input_ids: int64 [batch, seq]; attention_mask: int64 [batch, seq]``, for messages."""
    return "; ".join(str(spec) for spec in signature) or "(no inputs)"


_DTYPES: dict[str, np.dtype[Any]] = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "string": np.dtype(object),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "float8e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "int4": np.dtype(ml_dtypes.int4),
    "uint4": np.dtype(ml_dtypes.uint4),
}


def element_type(name: str) -> np.dtype[Any]:
    """The numpy type of an ONNX element type, as in ``tensor(float16)``; ``object`` if unknown."""
    if name in _DTYPES:
        return _DTYPES[name]
    try:
        return np.dtype(name)
    except TypeError:
        return np.dtype(object)


def parse_type(text: str) -> tuple[str, np.dtype[Any]]:
    """Split a type such as ``tensor(int64)`` or ``seq(tensor(float))`` into kind and dtype."""
    outer, _, inner = text.partition("(")
    kind = {"tensor": "tensor", "seq": "sequence"}.get(outer, outer)
    if kind != "tensor":
        return kind, np.dtype(object)
    return kind, element_type(inner.rstrip(")"))


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is a floating type, those of ``ml_dtypes`` included."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def is_integer(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is an integer type (booleans are not), 4-bit ones included."""
    return dtype.kind in "iu" or dtype.name in ("int4", "uint4")


def signature_of(model: Model) -> Signature:
    """Names, element types and shapes of the graph inputs that are not stored."""
    inputs = (value for value in model.ir.graph.inputs if not value.is_initializer())
    return tuple(_spec(value, object, "sequence") for value in inputs)


def outputs_of(model: Model) -> Signature:
    """Names, element types and shapes of the graph outputs."""
    return tuple(_spec(value, np.float32, "tensor") for value in model.ir.graph.outputs)


def _spec(value: ir.Value, dtype: npt.DTypeLike, kind: str) -> TensorSpec:
    """A value as the model declares it; ``dtype`` and ``kind`` where it declares none.

    A negative size, as converters write for what they do not know, is none.
    """
    if value.dtype is not None:
        dtype = value.dtype.numpy()
    if isinstance(value.type, ir.TensorType):
        kind = "tensor"
    dims = (dim if isinstance(dim, int) else dim.value for dim in value.shape or ())
    shape = tuple(None if isinstance(dim, int) and dim < 0 else dim for dim in dims)
    ranked = value.shape is not None or kind != "tensor"
    return TensorSpec(value.name or "", np.dtype(dtype), shape, kind, ranked)
