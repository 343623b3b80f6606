"""Labels and groups of samples, from arrays and files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.data.batches import Array, Index
from onnxprune.data.validation import LABELS
from onnxprune.errors import OnnxpruneError, blame

SLICES = ("slice", "slices", "group", "groups")
"""Keys of groups of samples in files."""


def open_labels(spec: Any, indices: Index | None = None, option: str = "--labels") -> Array:  # noqa: ANN401
    """Labels, one per sample along the first axis.

    Args:
        spec: an .npy file; an .npz file with one array, or one under ``y``, ``label``, ``labels``,
            ``target`` or ``targets``; a .txt file with one number per line; a .csv file with a
            column of one of these names, else its last column; or anything numpy makes an array
            of.
        indices: of the samples in use (`onnxprune.data.Calibration.indices`); None for all.
        option: that gives the labels, for messages.

    Raises:
        OnnxpruneError: there are no labels, too few for ``indices``, or they are not numbers.
    """
    with blame(option):
        where, labels = _read(spec, "labels", LABELS, _numbers)
        if labels.dtype.kind not in "biuf":
            raise OnnxpruneError(
                f"{where} holds {labels.dtype.name}, not numbers", hint="class numbers start at 0"
            )
        _check_any(labels, where, "label")
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise OnnxpruneError(
                f"{where} holds NaN or infinite labels", hint="leave out samples without a label"
            )
        return _chosen(labels, indices, where, "label")


def open_slices(
    spec: Any,  # noqa: ANN401
    indices: Index | None = None,
    count: int | None = None,
) -> npt.NDArray[np.str_]:
    """The name of the group of each sample, ``[samples]``.

    Args:
        spec: a file as for `open_labels`, of names or whole numbers, with a key or column called
            ``slice`` or ``group``; a .txt file, or a .csv file of one column, has one name per
            line. Or anything numpy makes an array of.
        indices: of the samples in use; None for all.
        count: of all samples of the data; None if unknown.

    Raises:
        OnnxpruneError: there are no groups, or not one for each sample.

    Example:
        >>> open_slices(["day", "night", "day"], np.array([0, 1])).tolist()
        ['day', 'night']
    """
    with blame("--slices"):
        where, groups = _read(spec, "groups", SLICES, np.array)
        _check_any(groups, where, "group")
        if groups.ndim != 1 or groups.dtype.kind not in "biuUSO":
            raise OnnxpruneError(
                f"{where} holds {groups.dtype.name} of shape {list(groups.shape)}, no names",
                hint="give one name or whole number per sample",
            )
        if groups.dtype.kind == "S":
            groups = np.char.decode(groups, "utf-8", "replace")
        if count is not None and len(groups) != count:
            raise OnnxpruneError(
                f"{where} holds {len(groups)} groups for {count} samples",
                hint="give one name per sample, in their order; a .csv header is slice or group",
            )
        return _chosen(groups, indices, where, "group").astype(np.str_)


def _check_any(values: Array, where: str, what: str) -> None:
    if values.ndim == 0 or len(values) == 0:
        raise OnnxpruneError(f"{where} holds no {what}s", hint=f"give one {what} per sample")


def _chosen(values: Array, indices: Index | None, where: str, what: str) -> Array:
    """The values of the samples in use."""
    if indices is None:
        return values
    if len(indices) and indices.max() >= len(values):
        raise OnnxpruneError(
            f"{where} holds {len(values)} {what}s, but sample {indices.max()} is used",
            hint=f"give one {what} per sample of the data, in their order",
        )
    return np.asarray(values[indices])


def _read(
    spec: Any,  # noqa: ANN401
    what: str,
    keys: Sequence[str],
    parse: Callable[[list[str]], Array],
) -> tuple[str, Array]:
    """An array of a file, or of Python, and what to call it."""
    if not isinstance(spec, str | Path):
        return f"the array of {what}", np.asarray(spec)
    path = Path(spec)
    readers: dict[str, Callable[[Path], Array]] = {
        ".npy": partial(np.load, allow_pickle=False),
        ".npz": lambda path: _npz(path, what, keys),
        ".txt": lambda path: parse(_words(path, by_line=what == "groups")),
        ".csv": lambda path: parse(_column(path, what.removesuffix("s"), keys)),
    }
    kinds = ", ".join(readers)
    if not path.is_file():
        raise OnnxpruneError(f"there is no file {path}", hint=f"{what} are one of {kinds}")
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise OnnxpruneError(
            f"{path} is not a {what.removesuffix('s')} file", hint=f"one of {kinds}"
        )
    try:
        return str(spec), reader(path)
    except (ValueError, OSError, EOFError) as error:
        raise OnnxpruneError(f"{path} cannot be read as {what}: {error}") from error


def _npz(path: Path, what: str, keys: Sequence[str]) -> Array:
    with np.load(path, allow_pickle=False) as archive:
        names = archive.files
        key = next((key for key in keys if key in names), names[0] if len(names) == 1 else None)
        if key is None:
            raise OnnxpruneError(
                f"{path} has no {what} among {', '.join(names)}",
                hint=f"store them under one of {', '.join(keys)}",
            )
        loaded: Array = archive[key]
    return loaded


def _words(path: Path, *, by_line: bool) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip()] if by_line else text.split()


def _column(path: Path, what: str, keys: Sequence[str]) -> list[str]:
    """The column of one of the keys, else the last one; its header is left out."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        return []
    header = [name.strip().lower() for name in rows[0]]
    named = [index for index, name in enumerate(header) if name in keys]
    if what == "group" and not named and len(header) > 1:
        raise OnnxpruneError(
            f"{path} has no {what}s among its columns {', '.join(header)}",
            hint=f"name one of them {' or '.join(keys)} in the first line",
        )
    column = named[0] if named else len(header) - 1
    headed = bool(named) or (what == "label" and not _is_number(header[column]))
    rows = rows[1:] if headed else rows
    if any(len(row) <= column for row in rows):
        raise OnnxpruneError(f"{path} has rows without a {what}")
    return [row[column] for row in rows]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(texts: list[str]) -> Array:
    values = np.array([float(text) for text in texts])
    whole = values.astype(np.int64, copy=True) if np.isfinite(values).all() else values
    return whole if np.array_equal(whole, values) else values
