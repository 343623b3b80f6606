"""Labels from arrays and files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.data.batches import Array
from onnxprune.data.boxes import open_boxes
from onnxprune.data.calibration import Calibration
from onnxprune.data.validation import LABELS
from onnxprune.errors import OnnxpruneError, blame

Form: TypeAlias = Literal["numbers", "text", "boxes", "pairs"]

TEXTS = (*LABELS, "text")
"""Keys and columns of labels that are text."""


def form_of(metric: object) -> Form:
    """The form of the labels of a metric, by its name; numbers for a user's function."""
    name = metric.partition("@")[0] if isinstance(metric, str) and ":" not in metric else ""
    if name in ("cer", "wer"):
        return "text"
    if name.startswith("map"):
        return "boxes"
    return "pairs" if name == "spearman-pairs" else "numbers"


@blame("--labels")
def open_labels(
    spec: Any,  # noqa: ANN401
    indices: npt.NDArray[np.int64] | None = None,
    *,
    metric: object = "accuracy",
    samples: Calibration | None = None,
) -> Array:
    """Labels, one per sample along the first axis.

    Args:
        spec: an .npy file; an .npz file with one array, or one under ``y``, ``label``, ``labels``,
            ``target`` or ``targets``; a .txt file with one number per line; a .csv file with a
            column of one of these names, else its last column; or anything numpy makes an array
            of. Where the metric compares texts, each line or entry is one (also a column ``text``);
            where it compares boxes, see `onnxprune.data.boxes.open_boxes`; where it compares pairs,
            there is one label per pair.
        indices: of the samples in use (`onnxprune.data.Calibration.indices`); None for all.
        metric: that the labels are for.
        samples: that the labels belong to; needed for boxes.

    Raises:
        OnnxpruneError: there are no labels, too few for ``indices``, or they are of another form
            than the metric needs.
    """
    form = form_of(metric)
    if form == "boxes":
        path = Path(spec) if isinstance(spec, str | Path) else Path()
        arrays = path.suffix.lower() in (".npy", ".npz")
        boxes = open_boxes(_read(path, _NUMBER_READERS) if arrays else spec, samples)
        return _chosen(boxes, indices, spec)
    where = _where(spec)
    if isinstance(spec, str | Path):
        path = Path(spec)
        labels = _read(path, _TEXT_READERS if form == "text" else _NUMBER_READERS)
    else:
        labels = np.asarray(spec)
    if labels.dtype.kind == "U" and form != "text":
        raise OnnxpruneError(
            f"{where} holds text, not numbers",
            hint="class numbers start at 0; text is for --metric cer and --metric wer",
        )
    if labels.dtype.kind not in "biufU":
        raise OnnxpruneError(
            f"{where} holds {labels.dtype.name}, not numbers", hint="class numbers start at 0"
        )
    if labels.ndim == 0 or len(labels) == 0:
        raise OnnxpruneError(f"{where} holds no labels", hint="give one label per sample")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise OnnxpruneError(
            f"{where} holds NaN or infinite labels", hint="leave out samples without a label"
        )
    if form == "pairs":
        labels = np.repeat(labels, 2, axis=0)
    return _chosen(labels, indices, spec)


def _where(spec: object) -> str:
    return str(spec) if isinstance(spec, str | Path) else "the array of labels"


def _chosen(labels: Array, indices: npt.NDArray[np.int64] | None, spec: object) -> Array:
    """The labels of some samples."""
    if indices is None:
        return labels
    if len(indices) and indices.max() >= len(labels):
        raise OnnxpruneError(
            f"{_where(spec)} holds {len(labels)} labels, but sample {indices.max()} is used",
            hint="give one label per sample of the data, in their order",
        )
    return labels[indices]


Readers: TypeAlias = Mapping[str, Callable[[Path], Array]]


def _read(path: Path, readers: Readers) -> Array:
    if not path.is_file():
        raise OnnxpruneError(f"there is no file {path}", hint=f"labels are {', '.join(readers)}")
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise OnnxpruneError(f"{path} is not a label file", hint=f"one of {', '.join(readers)}")
    try:
        return reader(path)
    except (ValueError, OSError, EOFError) as error:
        raise OnnxpruneError(f"{path} cannot be read as labels: {error}") from error


def read_vocabulary(spec: object) -> tuple[str, ...]:
    """The text of every token, in the order of their numbers.

    Args:
        spec: a file with one token per line (a line may be a space), a .json file with a list of
            tokens or a mapping from tokens to numbers (``vocab.json`` of Hugging Face), or a
            sequence of tokens.

    Raises:
        OnnxpruneError: it cannot be read, or numbers are missing.
    """
    if not isinstance(spec, str | Path):
        return tuple(map(str, spec)) if isinstance(spec, Iterable) else ()
    path = Path(spec)
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else _lines(text)
    except (ValueError, OSError, RecursionError) as error:
        raise OnnxpruneError(
            f"{path} cannot be read as a vocabulary: {error}",
            hint="a vocabulary is a text file with a token per line, or JSON",
        ) from error
    if isinstance(content, Mapping):
        numbers = content
        if any(type(each) is not int for each in numbers.values()) or sorted(
            numbers.values()
        ) != list(range(len(numbers))):
            raise OnnxpruneError(
                f"the numbers of the tokens in {path} are not 0 to {len(numbers) - 1}",
                hint="every token has a number of its own, without gaps",
            )
        content = sorted(numbers, key=lambda token: numbers[token])
    if not isinstance(content, list) or not all(isinstance(token, str) for token in content):
        raise OnnxpruneError(
            f"{path} holds no vocabulary", hint="JSON is a list of tokens, or tokens with numbers"
        )
    return tuple(content)


def _lines(text: str) -> list[str]:
    """Lines without their ends; spaces stay."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines and not lines[-1] else lines


def _npy(path: Path) -> Array:
    array: Array = np.load(path, allow_pickle=False)
    return array


def _npz(path: Path) -> Array:
    with np.load(path, allow_pickle=False) as archive:
        names = archive.files
        key = next((key for key in TEXTS if key in names), names[0] if len(names) == 1 else None)
        if key is None:
            raise OnnxpruneError(
                f"{path} has no labels among {', '.join(names)}",
                hint=f"store them under one of {', '.join(LABELS)}",
            )
        loaded: Array = archive[key]
    return loaded


def _csv(path: Path) -> Array:
    rows, column, named = _column(path, LABELS)
    if not rows:
        return np.empty(0)
    start = 1 if named or not _is_number(rows[0][column]) else 0
    return _numbers([row[column] for row in rows[start:]])


def _csv_text(path: Path) -> Array:
    rows, column, named = _column(path, TEXTS)
    return np.array([row[column] for row in rows[int(named) :]], dtype=str)


def _column(path: Path, names: Sequence[str]) -> tuple[list[list[str]], int, bool]:
    """The rows of a table, the column of labels (the last by default), and whether it has a name.

    Raises:
        OnnxpruneError: a row has no such column.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    header = [name.strip().lower() for name in rows[0]] if rows else []
    named = [index for index, name in enumerate(header) if name in names]
    column = named[0] if named else len(header) - 1
    if any(len(row) <= column for row in rows):
        raise OnnxpruneError(f"{path} has rows without a label")
    return rows, column, bool(named)


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


_NUMBER_READERS: Readers = {
    ".npy": _npy,
    ".npz": _npz,
    ".txt": lambda path: _numbers(path.read_text().split()),
    ".csv": _csv,
}
_TEXT_READERS: Readers = {
    ".npy": _npy,
    ".npz": _npz,
    ".txt": lambda path: np.array(_lines(path.read_text(encoding="utf-8")), dtype=str),
    ".csv": _csv_text,
}
