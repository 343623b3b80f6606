"""Labels from arrays and files."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.data.batches import Array
from onnxprune.data.validation import LABELS
from onnxprune.errors import OnnxpruneError, blame


@blame("--labels")
def open_labels(spec: Any, indices: npt.NDArray[np.int64] | None = None) -> Array:  # noqa: ANN401
    """Labels, one per sample along the first axis.

    Args:
        spec: an .npy file; an .npz file with one array, or one under ``y``, ``label``, ``labels``,
            ``target`` or ``targets``; a .txt file with one number per line; a .csv file with a
            column of one of these names, else its last column; or anything numpy makes an array
            of.
        indices: of the samples in use (`onnxprune.data.Calibration.indices`); None for all.

    Raises:
        OnnxpruneError: there are no labels, too few for ``indices``, or they are not numbers.
    """
    where = str(spec) if isinstance(spec, str | Path) else "the array of labels"
    labels = _read(Path(spec)) if isinstance(spec, str | Path) else np.asarray(spec)
    if labels.dtype.kind not in "biuf":
        raise OnnxpruneError(
            f"{where} holds {labels.dtype.name}, not numbers", hint="class numbers start at 0"
        )
    if labels.ndim == 0 or len(labels) == 0:
        raise OnnxpruneError(f"{where} holds no labels", hint="give one label per sample")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise OnnxpruneError(
            f"{where} holds NaN or infinite labels", hint="leave out samples without a label"
        )
    if indices is None:
        return labels
    if len(indices) and indices.max() >= len(labels):
        raise OnnxpruneError(
            f"{where} holds {len(labels)} labels, but sample {indices.max()} is used",
            hint="give one label per sample of the data, in their order",
        )
    return labels[indices]


def _read(path: Path) -> Array:
    if not path.is_file():
        raise OnnxpruneError(f"there is no file {path}", hint="labels are .npy, .npz, .txt or .csv")
    readers: dict[str, Callable[[Path], Array]] = {
        ".npy": lambda path: np.load(path, allow_pickle=False),
        ".npz": _npz,
        ".txt": lambda path: _numbers(path.read_text().split()),
        ".csv": _csv,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise OnnxpruneError(f"{path} is not a label file", hint=f"one of {', '.join(readers)}")
    try:
        return reader(path)
    except (ValueError, OSError, EOFError) as error:
        raise OnnxpruneError(f"{path} cannot be read as labels: {error}") from error


def _npz(path: Path) -> Array:
    with np.load(path, allow_pickle=False) as archive:
        names = archive.files
        key = next((key for key in LABELS if key in names), names[0] if len(names) == 1 else None)
        if key is None:
            raise OnnxpruneError(
                f"{path} has no labels among {', '.join(names)}",
                hint=f"store them under one of {', '.join(LABELS)}",
            )
        loaded: Array = archive[key]
    return loaded


def _csv(path: Path) -> Array:
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        return np.empty(0)
    header = [name.strip().lower() for name in rows[0]]
    named = [index for index, name in enumerate(header) if name in LABELS]
    column = named[0] if named else len(header) - 1
    start = 1 if named or not _is_number(header[column]) else 0
    if any(len(row) <= column for row in rows[start:]):
        raise OnnxpruneError(f"{path} has rows without a label")
    return _numbers([row[column] for row in rows[start:]])


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
