"""Samples in arrays: in memory, mapped, or streamed out of an .npz archive."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from onnxprune.runtime.process import free_bytes

_PIECE_BYTES = 4 << 20
_PIECE_SAMPLES = 4096
_MOST_MEMBERS = 4096
_MOST_PACKED = 1100
"""Bytes that a byte of a compressed archive can stand for: deflate reaches 1,032."""
_LARGEST_HEADER = 1 << 16
_MOST_AXES = 64
_FILE, _ARCHIVE = "write it with numpy.save", "write it with numpy.savez"

Header: TypeAlias = tuple[tuple[int, ...], bool, np.dtype[Any]]
"""Shape, whether columns come first, and element type."""


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


def open_npz(path: Path) -> dict[str, Member]:
    """The arrays of an .npz archive, of which only the headers are read.

    Raises:
        OnnxpruneError: it is not such an archive, holds pickled objects, or announces more than it
            can hold.
    """
    members: dict[str, Member] = {}
    with _reading(f"{path} is not an .npz archive", _ARCHIVE), zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > _MOST_MEMBERS:
            raise ValueError(f"it has {len(entries)} members")
        for entry in entries:
            with archive.open(entry) as file:
                header = _read_header(file)
                start = file.tell()
            shape, column_major, dtype = header
            where = f"{path}: '{entry.filename}'"
            _check_header(header, entry.file_size - start, where)
            if entry.file_size > max(_PIECE_BYTES, _MOST_PACKED * entry.compress_size):
                raise OnnxpruneError(
                    f"{where} has {entry.compress_size} bytes and claims to unpack to "
                    f"{entry.file_size}",
                    hint=_ARCHIVE,
                )
            name = entry.filename.removesuffix(".npy")
            sequential = not column_major and bool(shape)
            members[name] = Member(path, name, shape, dtype, sequential)
    return members


def open_npy(path: Path) -> Array:
    """The array of an .npy file, mapped.

    Raises:
        OnnxpruneError: it is not such a file, holds pickled objects, or is cut off.
    """
    with _reading(f"{path} is not an .npy file of numbers", _FILE):
        with path.open("rb") as file:
            header = _read_header(file)
            start = file.tell()
        _check_header(header, path.stat().st_size - start, str(path))
        empty = 0 in header[0]  # nothing to map
        mapped: Array = np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)
    return mapped


def parse_array(data: bytes, where: str) -> Array:
    """The array in the bytes of an .npy file, or the first one of an .npz archive.

    Args:
        data: the bytes.
        where: they come from, for messages.

    Raises:
        OnnxpruneError: they are neither, hold pickled objects, or announce more than there is.
    """
    with _reading(f"{where} holds something that is not an array", _FILE):
        if data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                entry = archive.infolist()[0]
                _check_memory(entry.file_size, where)
                data = archive.read(entry)
        file = io.BytesIO(data)
        header = _read_header(file)
        _check_header(header, len(data) - file.tell(), where)
        file.seek(0)
        array: Array = np.load(file, allow_pickle=False)
    return array


def load(column: Column) -> Array:
    """A column in memory.

    Raises:
        OnnxpruneError: it does not fit there, or cannot be read.
    """
    if not isinstance(column, Member):
        _check_memory(column.nbytes, "the array")
        return np.array(column)
    where = f"{column.path}: '{column.name}'"
    _check_memory(math.prod(column.shape) * column.dtype.itemsize, where)
    with _reading(f"{where} is damaged", _ARCHIVE), np.load(column.path) as archive:
        array: Array = archive[column.name]
    return array


@contextmanager
def _reading(problem: str, hint: str) -> Iterator[None]:
    """Turn whatever numpy and zipfile raise on a damaged file into ``problem``, with its reason."""
    try:
        yield
    except (OnnxpruneError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OnnxpruneError(f"{problem}: {reason}", hint=hint) from error


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
        whole = load(column) if isinstance(column, Member) else column
        yield from (whole for _ in parts)
        return
    each = np.arange(form.size)
    yield from _rows(column, axis, [(p[:, None] * form.size + each).ravel() for p in parts])


def _rows(column: Column, axis: int, parts: Sequence[Index]) -> Iterator[Array]:
    if isinstance(column, Member) and axis == 0 and column.sequential:
        yield from _stream(column, parts)
        return
    array = load(column) if isinstance(column, Member) else column
    for rows in parts:
        yield np.take(array, rows, axis)


def _stream(member: Member, parts: Sequence[Index]) -> Iterator[Array]:
    """Rows of the first axis in ascending order, without holding or unpacking the others."""
    shape = member.shape[1:]
    row = math.prod(shape) * member.dtype.itemsize
    where = f"{member.path}: '{member.name}' is damaged"
    with (
        _reading(where, _ARCHIVE),
        zipfile.ZipFile(member.path) as archive,
        archive.open(f"{member.name}.npy") as file,
    ):
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
                        raise EOFError("it is cut off")
                    filled += count
            yield content.view(member.dtype).reshape(len(rows), *shape)


def _read_header(file: IO[bytes]) -> Header:
    """The header of an .npy file; its length is checked before so many bytes are read."""
    version = np.lib.format.read_magic(file)
    digits = 2 if version == (1, 0) else 4
    length = file.read(digits)
    size = int.from_bytes(length, "little")
    if size > _LARGEST_HEADER:
        raise ValueError(f"its header claims to have {size} bytes")
    header = io.BytesIO(length + file.read(size))
    if digits == 2:
        return np.lib.format.read_array_header_1_0(header)
    return np.lib.format.read_array_header_2_0(header)


def _check_header(header: Header, size: int, where: str) -> None:
    """Refuse objects, and a shape that needs more bytes than there are, before it is allocated."""
    shape, _, dtype = header
    if dtype.hasobject:
        raise OnnxpruneError(
            f"{where} holds Python objects, which are not read from files",
            hint="save arrays of numbers",
        )
    if len(shape) > _MOST_AXES or min(shape, default=0) < 0:
        raise OnnxpruneError(
            f"{where} has the impossible shape {list(shape[:_MOST_AXES])}",
            hint=_FILE,
        )
    needed = math.prod(shape) * dtype.itemsize
    if needed > size:
        raise OnnxpruneError(
            f"{where} is cut off: its shape {list(shape)} takes {needed} bytes, and it has {size}",
            hint="copy or write it again",
        )


def _check_memory(size: int, where: str) -> None:
    free = free_bytes()
    if free is not None and size > free:
        raise OnnxpruneError(
            f"{where} takes {size} bytes, more than the {free} bytes of free memory",
            hint="give fewer samples, along the first axis of arrays in C order",
        )
