"""Samples in arrays: in memory, mapped, or streamed out of an .npz archive."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.data.intake import Intake, admit, admit_array, common_steps, find_places, match_names
from onnxprune.data.layout import Chunk, Place
from onnxprune.data.stream import Source, Steps
from onnxprune.errors import OnnxpruneError

_CHUNK_BYTES = 4 << 20
_CHUNK_STEPS = 4096


@dataclass(frozen=True)
class Member:
    """An array in an .npz archive, read piece by piece.

    Attributes:
        path: of the archive.
        name: of the array.
        shape, dtype: as its header says.
        sequential: whether rows of its first axis lie one after the other.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sequential: bool


Column: TypeAlias = npt.NDArray[Any] | Member
"""One array, read or not."""


def open_npz(path: Path) -> dict[str, Member]:
    """The arrays of an .npz archive, of which only the headers are read.

    Raises:
        OnnxpruneError: it is no such archive, or holds pickled objects.
    """
    found = {}
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
                found[name] = Member(path, name, shape, dtype, not column_major and bool(shape))
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise OnnxpruneError(
            f"{path} is no .npz archive: {error}", hint="write it with numpy.savez"
        ) from error
    return found


def open_npy(path: Path) -> npt.NDArray[Any]:
    """The array of an .npy file, mapped.

    Raises:
        OnnxpruneError: it is no such file, or holds pickled objects.
    """
    try:
        loaded: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise OnnxpruneError(
            f"{path} is no .npy file of numbers: {error}", hint="write it with numpy.save"
        ) from error
    return loaded


def from_columns(
    columns: Mapping[str, Column], intake: Intake, where: str, *, lone: bool, loose: bool = False
) -> Source:
    """A source of samples held by arrays.

    Args:
        columns: by key; see `onnxprune.data.intake.match_names`.
        intake: what they must become.
        where: where they come from.
        lone: whether the only key may have any name.
        loose: whether a single sample may come without its batch axis.

    Raises:
        OnnxpruneError: names, shapes, element types or lengths do not fit the model.
    """
    layout = intake.layout
    keys = match_names(columns, layout, where, lone=lone)
    used = {name: columns[key] for name, key in keys.items()}
    shapes = {}
    for spec in layout.signature:
        column = used[spec.name]
        shapes[spec.name] = _prepared_shape(column, spec.name, intake, where)
    places = find_places(shapes, layout, where, loose=loose)
    steps = common_steps(places, layout, where)
    left = max(place.left for place in places.values())
    stacked = any(place.form == "stacked" for place in places.values())
    each = sum(int(np.prod(column.shape)) * column.dtype.itemsize for column in used.values())
    size = max(1, min(_CHUNK_STEPS, _CHUNK_BYTES * steps // max(each, 1)))

    def read(wanted: Steps | None) -> Iterator[Chunk]:
        every = np.arange(steps) if wanted is None else wanted
        groups = [every[start : start + size] for start in range(0, len(every), size)]
        pieces = [_blocks(used[name], places[name], groups, steps) for name in used]
        for blocks in zip(*pieces, strict=True):
            yield admit(dict(zip(used, blocks, strict=True)), intake, where, loose=loose)

    return Source(
        where + (f", {left} left over after the last whole batch" if left else ""),
        read,
        steps=steps,
        per_step=1 if stacked else layout.batch,
        uniform=True,
    )


def _prepared_shape(column: Column, name: str, intake: Intake, where: str) -> tuple[int, ...]:
    """Shape after preparation; also refuses an element type that will not do, before reading."""
    spec = next(spec for spec in intake.layout.signature if spec.name == name)
    if not column.shape or intake.prepare is None:
        if column.dtype.kind not in "USO":
            admit_array(np.empty(0, column.dtype), spec, intake, where)
        return column.shape
    first = next(_rows(column, 0, [np.arange(min(1, column.shape[0]))]))
    made = admit_array(first, spec, intake, where)
    return (column.shape[0], *made.shape[1:]) if made.ndim == first.ndim else made.shape


def _blocks(
    column: Column, at: Place, groups: Sequence[Steps], steps: int
) -> Iterator[npt.NDArray[Any]]:
    once = at.form in ("shared", "single") or (at.steps == 1 and steps > 1)
    if once:
        whole = _load(column)
        for _ in groups:
            yield whole
        return
    each = np.arange(at.rows)
    yield from _rows(column, at.axis, [(g[:, None] * at.rows + each).ravel() for g in groups])


def _rows(
    column: Column, axis: int, groups: Sequence[npt.NDArray[np.int64]]
) -> Iterator[npt.NDArray[Any]]:
    if isinstance(column, Member) and (axis != 0 or not column.sequential):
        column = _load(column)
    if isinstance(column, Member):
        yield from _stream(column, groups)
        return
    for rows in groups:
        yield np.take(column, rows, axis)


def _stream(member: Member, groups: Sequence[npt.NDArray[np.int64]]) -> Iterator[npt.NDArray[Any]]:
    """Rows of the first axis in ascending order, without holding or unpacking the others."""
    shape = member.shape[1:]
    row = int(np.prod(shape)) * member.dtype.itemsize
    with zipfile.ZipFile(member.path) as archive, archive.open(f"{member.name}.npy") as file:
        assert isinstance(file, zipfile.ZipExtFile)
        _read_header(file)
        start = file.tell()
        for rows in groups:
            made = np.empty((len(rows), row), np.uint8)
            for low, high in pairwise([0, *(np.flatnonzero(np.diff(rows) != 1) + 1), len(rows)]):
                file.seek(start + int(rows[low]) * row)
                _fill(file, made[low:high].reshape(-1), member)
            yield made.view(member.dtype).reshape(len(rows), *shape)


def _fill(file: zipfile.ZipExtFile, into: npt.NDArray[np.uint8], member: Member) -> None:
    filled = 0
    while filled < len(into):
        count = file.readinto(into[filled:].data)
        if not count:
            raise OnnxpruneError(f"{member.path} is cut off inside '{member.name}'")
        filled += count


def _load(column: Column) -> npt.NDArray[Any]:
    if not isinstance(column, Member):
        return column
    with np.load(column.path, allow_pickle=False) as archive:
        loaded: npt.NDArray[Any] = archive[column.name]
    return loaded


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)
