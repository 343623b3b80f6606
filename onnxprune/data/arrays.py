"""Samples in arrays: in memory, mapped, or streamed out of an .npz archive."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from onnxprune.data.batches import Array, Batch, Index, InputFormat, Reader
from onnxprune.data.validation import (
    SUBSTITUTES,
    Arrangement,
    arrange,
    check_array,
    conform,
    match_names,
)
from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import TensorSpec

_PIECE_BYTES = 4 << 20
_PIECE_SAMPLES = 4096


@dataclass(frozen=True)
class Member:
    """An array in an .npz archive, read piece by piece.

    Attributes:
        path: of the archive.
        name: of the array.
        shape, dtype: of its header.
        sequential: whether rows of its first axis lie one after the other.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sequential: bool


Column: TypeAlias = Array | Member
"""One array, read or not."""


def open_npz(path: Path) -> dict[str, Column]:
    """The arrays of an .npz archive, of which only the headers are read.

    Raises:
        OnnxpruneError: it is not such an archive, or holds pickled objects.
    """
    members: dict[str, Column] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                with archive.open(entry) as file:
                    shape, column_major, dtype = _read_header(file)
                if dtype.hasobject:
                    raise OnnxpruneError(
                        f"{path}: '{entry}' holds Python objects, which are not read from files",
                        hint="save arrays of numbers",
                    )
                name = entry.removesuffix(".npy")
                sequential = not column_major and bool(shape)
                members[name] = Member(path, name, shape, dtype, sequential)
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise OnnxpruneError(
            f"{path} is not an .npz archive: {error}", hint="write it with numpy.savez"
        ) from error
    return members


def open_npy(path: Path) -> Array:
    """The array of an .npy file, mapped.

    Raises:
        OnnxpruneError: it is not such a file, or holds pickled objects.
    """
    try:
        mapped: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise OnnxpruneError(
            f"{path} is not an .npy file of numbers: {error}", hint="write it with numpy.save"
        ) from error
    return mapped


def read_columns(columns: Mapping[str, Column], inputs: InputFormat, *, lone: bool) -> Reader:
    """A reader of samples held by arrays.

    Args:
        columns: by key; see `onnxprune.data.validation.match_names`.
        inputs: of the model.
        lone: whether the only key may have any name.

    Raises:
        OnnxpruneError: names, shapes, element types or lengths do not fit the model.
    """
    keys = match_names(columns, inputs, lone=lone)
    used = {name: columns[key] for name, key in keys.items()}
    shapes = {s.name: _prepared_shape(used[s.name], s, inputs) for s in inputs.signature}
    forms, count = arrange(shapes, inputs)
    remainder = max(form.remainder for form in forms.values())
    stacked = any(form.form == "stacked" for form in forms.values())
    group = 1 if stacked else inputs.group
    total = sum(int(np.prod(column.shape)) * column.dtype.itemsize for column in used.values())
    size = max(1, min(_PIECE_SAMPLES, _PIECE_BYTES * count // max(total, 1)))

    def read(wanted: Index | None) -> Iterator[Batch]:
        chosen = np.arange(count) if wanted is None else wanted[::group] // group
        parts = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        pieces = [
            _pieces(column, forms[name], inputs.axes[name] or 0, parts, count)
            for name, column in used.items()
        ]
        for arrays in zip(*pieces, strict=True):
            yield from conform(dict(zip(used, arrays, strict=True)), inputs)

    note = f", {remainder} left over after the last whole batch" if remainder else ""
    return Reader(
        f"{inputs.origin}{note}", inputs, read, count * group, group,
        uniform=True, notes=_substitute(columns, keys, inputs),
    )  # fmt: skip


def _substitute(
    columns: Mapping[str, Column], keys: Mapping[str, str], inputs: InputFormat
) -> tuple[str, ...]:
    """A note where an array of another name serves the only input, and might be the wrong one.

    ``x`` and ``arr_0`` are what such arrays are usually called, so they are mentioned only beside
    others that would fit as well.
    """
    for name, key in keys.items():
        if key == name:
            continue
        shape = columns[key].shape
        rivals = [
            other
            for other, column in columns.items()
            if other != key and len(column.shape) > 1 and column.shape[1:] == shape[1:]
        ]
        if key in SUBSTITUTES and not rivals:
            continue
        unused = f"; {', '.join(map(repr, rivals))} would fit too" if rivals else ""
        return (f"{inputs.option}: the array '{key}' was taken for the input '{name}'{unused}",)
    return ()


def _prepared_shape(column: Column, spec: TensorSpec, inputs: InputFormat) -> tuple[int, ...]:
    """Shape after preparation; also refuses an unusable element type before reading."""
    if not column.shape or inputs.prepare is None:
        if column.dtype.kind not in "USO":
            check_array(np.empty(0, column.dtype), spec, inputs)
        return column.shape
    first = next(_rows(column, 0, [np.arange(min(1, column.shape[0]))]))
    prepared = check_array(first, spec, inputs)
    same = prepared.ndim == first.ndim
    return (column.shape[0], *prepared.shape[1:]) if same else prepared.shape


def _pieces(
    column: Column, form: Arrangement, axis: int, parts: Sequence[Index], count: int
) -> Iterator[Array]:
    if form.form in ("shared", "single") or (form.count == 1 and count > 1):
        whole = _load(column)
        yield from (whole for _ in parts)
        return
    each = np.arange(form.size)
    yield from _rows(column, axis, [(p[:, None] * form.size + each).ravel() for p in parts])


def _rows(column: Column, axis: int, parts: Sequence[Index]) -> Iterator[Array]:
    if isinstance(column, Member) and axis == 0 and column.sequential:
        yield from _stream(column, parts)
        return
    array = _load(column)
    for rows in parts:
        yield np.take(array, rows, axis)


def _stream(member: Member, parts: Sequence[Index]) -> Iterator[Array]:
    """Rows of the first axis in ascending order, without holding or unpacking the others."""
    shape = member.shape[1:]
    row = int(np.prod(shape)) * member.dtype.itemsize
    with zipfile.ZipFile(member.path) as archive, archive.open(f"{member.name}.npy") as file:
        assert isinstance(file, zipfile.ZipExtFile)
        _read_header(file)
        start = file.tell()
        for rows in parts:
            content = np.empty((len(rows), row), np.uint8)
            for low, high in pairwise([0, *(np.flatnonzero(np.diff(rows) != 1) + 1), len(rows)]):
                file.seek(start + int(rows[low]) * row)
                target, filled = content[low:high].reshape(-1), 0
                while filled < len(target):
                    count = file.readinto(target[filled:].data)
                    if not count:
                        raise OnnxpruneError(f"{member.path} is cut off inside '{member.name}'")
                    filled += count
            yield content.view(member.dtype).reshape(len(rows), *shape)


def _load(column: Column) -> Array:
    if not isinstance(column, Member):
        return column
    with np.load(column.path, allow_pickle=False) as archive:
        array: Array = archive[column.name]
    return array


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)
