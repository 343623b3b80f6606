"""Rows of a report about weights on disk: their zeros, and the form each is stored in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxprune import model as models
    from onnxprune.jobs.store import Stored

_LEAST = 0.01
"""The share of zeros from which on a weight gets a row: trained weights have few."""


@dataclass(frozen=True)
class ZerosRow:
    """The zeros of one weight.

    Attributes:
        weight: its name.
        shape, dtype: of the weight.
        zeros: the part of it that is zero.
        pattern: of the zeros, such as ``2:4 along axis 1``.
        bytes: size in each form that can hold it.
    """

    weight: str
    shape: tuple[int, ...]
    dtype: str
    zeros: float
    pattern: str
    bytes: Mapping[str, int]


@dataclass(frozen=True)
class StoredRow:
    """The form one weight is stored in.

    Attributes:
        weight: its name.
        shape, dtype: of the weight.
        zeros: the part of it that is zero.
        form: the name of its encoding, such as ``bitmask``.
        values: type of the stored values.
        dense, stored: bytes before and after.
        remark: why the requested form does not apply; empty if it does.
    """

    weight: str
    shape: tuple[int, ...]
    dtype: str
    zeros: float
    form: str
    values: str
    dense: int
    stored: int
    remark: str


def zeros_rows(model: models.Model) -> tuple[ZerosRow, ...]:
    """One row per weight that has a noticeable share of zeros, in the order of the model."""
    from onnxprune.sparse.encodings.choose import bytes_of
    from onnxprune.sparse.encodings.sparsity_stats import find_pattern
    from onnxprune.sparse.encodings.table import ENCODINGS
    from onnxprune.sparse.encodings.weights import weights

    rows = []
    for weight in weights(model, "exact"):
        zeros = 1 - weight.stats.nonzeros / weight.stats.size
        if zeros < _LEAST:
            continue
        sizes = {form: bytes_of(weight, each) for form, each in ENCODINGS.items()}
        rows.append(
            ZerosRow(
                weight=weight.name,
                shape=weight.shape,
                dtype=weight.tensor.dtype.name.lower(),
                zeros=zeros,
                pattern=str(find_pattern(weight.tensor.numpy())),
                bytes={form: size for form, size in sizes.items() if size is not None},
            )
        )
    return tuple(rows)


def stored_rows(stored: Stored) -> tuple[StoredRow, ...]:
    """One row per weight that was looked at."""
    from onnxprune.sparse.encodings.choose import bytes_of

    return tuple(
        StoredRow(
            weight=weight.name,
            shape=weight.shape,
            dtype=weight.tensor.dtype.name.lower(),
            zeros=1 - weight.stats.nonzeros / weight.stats.size,
            form=weight.form,
            values=weight.coding.dtype.name.lower(),
            dense=weight.tensor.nbytes,
            stored=bytes_of(weight, weight.encoding) or 0,
            remark=weight.excluded or weight.remark,
        )
        for weight in stored.weights
    )
