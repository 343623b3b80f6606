"""Rows of a report about weights on disk: their zeros, and the form each is stored in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ZerosRow:
    """The zeros of one weight.

    Attributes:
        weight: its name.
        shape, dtype: of the weight.
        zeros: the part of it that is zero.
        pattern: what they look like, such as ``2:4 along axis 1``.
        bytes: what it takes in each form; forms that cannot hold it are left out.
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
        form: ``dense``, ``sparse``, ``bitmask``, ``delta``, ``delta4`` or ``nibble``.
        values: type of the stored values.
        dense, stored: bytes before and after.
        remark: why it did not get what was asked for; empty if it did.
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
