"""The weights of a model as storage sees them: what they hold, and how they will be written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.sparse.encodings import values
from onnxprune.sparse.encodings.forms import Content, Form
from onnxprune.sparse.encodings.sparsity_stats import count, nonzero

Array = npt.NDArray[Any]

SMALLEST = 256
"""Weights with fewer values are left alone: describing another form takes what it saves."""

_SMALLEST_NARROWED = 16
"""The same where values are narrowed: tensors that stay dense share what converts them."""

_TYPES = (*values.FLOATS, ir.DataType.INT8, ir.DataType.UINT8)


@dataclass(frozen=True, eq=False)
class Weight:
    """One stored tensor of a model, and the form it gets.

    Attributes:
        value: what holds it, in the model that is edited.
        tensor: its dense content.
        coding: how its values are written.
        content: counts, of what is written.
        form: what was chosen.
        excluded: why it cannot be anything but dense; empty if it can.
        remark: why it did not get all that was asked for; empty if it did.
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    coding: values.Coding
    content: Content
    form: Form = "dense"
    excluded: str = ""
    remark: str = ""

    @property
    def name(self) -> str:
        """Of the value."""
        return self.value.name or ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return tuple(int(size) for size in self.tensor.shape.numpy())

    @property
    def narrowed(self) -> bool:
        """Whether its values are not written in the weight's own type."""
        return self.coding.dtype != self.tensor.dtype

    @property
    def changed(self) -> bool:
        """Whether it is written in any other way than it was."""
        return self.form != "dense" or self.narrowed

    @property
    def work(self) -> ir.DataType:
        """The type values have once they are converted, before a scale."""
        return self.tensor.dtype if self.coding.scale is None else ir.DataType.FLOAT

    @property
    def moved(self) -> int | None:
        """The axis that is laid out last, where it is not last anyway; None if none is."""
        axis = self.content.paired if self.form == "nibble" else None
        return None if axis == len(self.shape) - 1 else axis

    def stored(self) -> Array:
        """Its values as they are written, in the order they are written; zeros have no sign."""
        array = self.coding.encode(self.tensor.numpy())
        if self.content.negative:
            array = np.where(nonzero(array), array, array.dtype.type(0))
        if self.moved is not None:
            array = np.moveaxis(array, self.moved, -1)
        return np.ascontiguousarray(array)

    def expected(self) -> Array:
        """What a runtime that reads the stored form computes with: the weight, or close to it."""
        still = replace(self, form="dense")  # in the weight's own layout
        return self.coding.decode(still.stored(), self.tensor.dtype)


def weights(model: models.Model, asked: values.Values) -> Iterator[Weight]:
    """Every stored tensor that is large enough for a form to be worth it.

    Args:
        model: dense; the values of what is returned are its own.
        asked: what the values of floats may be narrowed to.
    """
    least = SMALLEST if asked in ("exact", "int8") else _SMALLEST_NARROWED
    for value in models.constants(model).values():
        tensor = models.constant(value)
        if tensor is None or tensor.size < least or tensor.dtype == ir.DataType.STRING:
            continue
        excluded = _excluded(value, tensor)
        if excluded:
            whole = Content(tensor.size, tensor.size, tensor.size, tensor.size, None)
            yield Weight(value, tensor, values.Coding(tensor.dtype), whole, excluded=excluded)
            continue
        array = tensor.numpy()
        coding, remark = values.choose(array, tensor.dtype, asked)
        yield Weight(value, tensor, coding, count(coding.encode(array)), remark=remark)


def _excluded(value: ir.Value, tensor: ir.TensorProtocol) -> str:
    if value.is_graph_input():
        return "it is also a graph input, so whoever runs the model may replace it"
    if tensor.dtype not in _TYPES:
        return f"only floats and 8-bit integers are looked at, and it is {tensor.dtype.name}"
    return "it is an output of its graph" if value.is_graph_output() else ""
