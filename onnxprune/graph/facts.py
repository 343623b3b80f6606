"""One fact per value: shape, element type and, where known, content; and its ONNX type."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt
import onnx
import onnx_ir as ir

Shape = tuple[int | None, ...]
"""Sizes of a tensor; None where a size depends on data."""

SMALL = 4096
"""Most elements a value may have to be followed: shape arithmetic, masks and gains are below it."""


@dataclass(frozen=True, eq=False)
class Fact:
    """The facts about one value.

    Attributes:
        shape: None when even the rank is unknown; a None inside is a size that depends on data.
        dtype: element type; None for what is not a tensor (sequences, optionals) or not known.
        value: read-only content, only where it is statically known and has at most 4096 elements.
        reason: why the shape is not fully known; empty if it is.
    """

    shape: Shape | None
    dtype: ir.DataType | None
    value: npt.NDArray[Any] | None = None
    reason: str = ""

    @functools.cached_property
    def sizes(self) -> tuple[int, ...] | None:
        """The shape, if every size is known."""
        return full(self.shape)


def full(shape: Shape | None) -> tuple[int, ...] | None:
    """The same shape typed as integers, or None when a size is missing."""
    if shape is None:
        return None
    known = tuple(size for size in shape if size is not None)
    return known if len(known) == len(shape) else None


def of_value(array: npt.NDArray[Any], dtype: ir.DataType) -> Fact:
    """The fact of a known content; the array is made read-only."""
    array.flags.writeable = False
    return Fact(array.shape, dtype, array)


def because(fact: Fact, reason: str) -> Fact:
    """The same fact, with the reason its shape is not fully known (dropped if it is)."""
    return replace(fact, reason="" if fact.sizes is not None else reason)


def declared(value: ir.Value) -> Fact:
    """The model's own declaration of a value; symbolic (and negative) sizes become None."""
    shape = value.shape
    sizes = None
    if shape is not None:
        sizes = tuple(d if isinstance(d, int) and d >= 0 else None for d in shape)
    return Fact(sizes, value.dtype if isinstance(value.type, ir.TensorType) else None)


def join(facts: Iterable[Fact]) -> Fact:
    """The most that is true of a value that is one of these: equal sizes stay, others are None."""
    first, *rest = facts
    shape, dtype = first.shape, first.dtype
    for other in rest:
        dtype = dtype or other.dtype
        if shape is None or other.shape is None or len(shape) != len(other.shape):
            shape = None
        else:
            shape = tuple(a if a == b else None for a, b in zip(shape, other.shape, strict=True))
    return because(Fact(shape, dtype), "depends on the branch or the iteration")


@functools.lru_cache(maxsize=8192)
def to_type(shape: Shape | None, dtype: ir.DataType | None) -> onnx.TypeProto:
    """The ONNX type of a tensor; an empty type when the element type is unknown."""
    proto = onnx.TypeProto()
    if dtype is not None:
        proto.tensor_type.elem_type = dtype.value
        if shape is not None:
            dims = proto.tensor_type.shape.dim
            proto.tensor_type.shape.SetInParent()
            for size in shape:
                dim = dims.add()
                if size is not None:
                    dim.dim_value = size
    return proto


def from_type(proto: onnx.TypeProto) -> Fact:
    """The fact an inferred ONNX type amounts to."""
    if not proto.HasField("tensor_type"):
        kind = proto.WhichOneof("value")
        reason = f"not a tensor but a {kind.removesuffix('_type')}" if kind else ""
        return Fact(None, None, reason=reason)
    tensor = proto.tensor_type
    dtype = ir.DataType(tensor.elem_type) if tensor.elem_type else None
    if not tensor.HasField("shape"):
        return Fact(None, dtype)
    # Inference subtracts its way below zero where an input is smaller than the kernel.
    shape = tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None
        for d in tensor.shape.dim
    )
    return Fact(shape, dtype)
