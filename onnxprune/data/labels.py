"""Labels and groups of samples, from arrays and files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.data.arrays import load, open_npy, open_npz
from onnxprune.data.batches import Array, Index
from onnxprune.data.boxes import open_boxes
from onnxprune.data.calibration import Calibration
from onnxprune.data.validation import LABELS
from onnxprune.errors import OnnxpruneError, blame
from onnxprune.model.limits import read_json
from onnxprune.quantities import plural
from onnxprune.types import is_of_boxes

SLICES = ("slice", "slices", "group", "groups")
"""Keys of groups of samples in files."""
TEXTS = (*LABELS, "text")
"""Keys of texts in files."""

_ENCODING = "save it as UTF-8: 'CSV UTF-8' in spreadsheets, or iconv -f UTF-16 -t UTF-8"

Form: TypeAlias = Literal["numbers", "text", "boxes", "pairs"]


def form_of(metric: object) -> Form:
    """The form of the labels of a metric, by its name; numbers for a user's function."""
    name = metric.partition("@")[0] if isinstance(metric, str) and ":" not in metric else ""
    if name in ("cer", "wer"):
        return "text"
    if is_of_boxes(name):
        return "boxes"
    return "pairs" if name == "spearman-pairs" else "numbers"


def together(metric: object) -> int:
    """The samples that a metric compares with each other, and that must not be parted."""
    return 2 if form_of(metric) == "pairs" else 1


def open_labels(
    spec: Any,  # noqa: ANN401
    indices: Index | None = None,
    option: str = "--labels",
    *,
    metric: object = "accuracy",
    samples: Calibration | None = None,
) -> Array:
    """Labels, one per sample along the first axis.

    Args:
        spec: an .npy file; an .npz file with one array, or one under ``y``, ``label``, ``labels``,
            ``target`` or ``targets``; a .txt file with one number per line; a .csv file with a
            column of one of these names, else its last column; or anything numpy makes an array
            of. Where the metric compares texts, each line or entry is one (also of a column
            ``text``); where it compares boxes, see `onnxprune.data.boxes.open_boxes`; where it
            compares pairs, there is one label per pair.
        indices: of the samples in use (`onnxprune.data.Calibration.indices`); None for all.
        option: that gives the labels, for messages.
        metric: that the labels are for.
        samples: that the labels belong to; needed for boxes.

    Raises:
        OnnxpruneError: there are no labels, too few for ``indices``, or they are of another form
            than the metric needs.
    """
    form = form_of(metric)
    with blame(option):
        if form == "boxes":
            where, labels = _boxes(spec, samples)
            return _chosen(labels, indices, where, "label")
        keys = TEXTS if form == "text" else LABELS
        names = () if samples is None else [each.name for each in samples.inputs.signature]
        where, labels = _read(spec, "texts" if form == "text" else "labels", keys, names)
        _check_numbers(labels, where, text=form == "text")
        _check_any(labels, where, "label")
        if form == "pairs":
            labels = np.repeat(labels, 2, axis=0)
        count = None if indices is not None or samples is None else samples.available
        if count is not None and len(labels) < count:
            raise OnnxpruneError(
                f"{where} holds {plural(len(labels), 'label')} for {count} samples",
                hint="give one label per sample, in the order of the samples",
            )
        return _chosen(labels, indices, where, "label")


def _check_numbers(labels: Array, where: str, *, text: bool) -> None:
    """Refuse labels that are no numbers, unless texts may be labels."""
    if labels.dtype.kind == "U" and text:
        return
    if labels.dtype.kind not in "biuf":
        hint = "text is for --metric cer and wer" if labels.dtype.kind == "U" else ""
        raise OnnxpruneError(
            f"{where} holds {labels.dtype.name}, not numbers",
            hint=hint or "class numbers start at 0",
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise OnnxpruneError(
            f"{where} holds NaN or infinite labels", hint="leave out samples without a label"
        )


def _boxes(spec: Any, samples: Calibration | None) -> tuple[str, Array]:  # noqa: ANN401
    path = Path(spec) if isinstance(spec, str | Path) else None
    if path is None or path.suffix.lower() not in (".npy", ".npz"):
        return str(path or "the array of boxes"), open_boxes(spec, samples)
    where, arrays = _read(path, "labels", LABELS)
    return where, open_boxes(arrays, samples)


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
        where, groups = _read(spec, "groups", SLICES)
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
    inputs: Sequence[str] = (),
) -> tuple[str, Array]:
    """An array of a file, or of Python, and what to call it.

    Args:
        spec: the file, or what numpy makes an array of.
        what: is read: ``labels`` (numbers), ``groups`` (names) or ``texts``.
        keys: names of arrays and columns that hold it.
        inputs: of the model, which an only array of such a name is.
    """
    if not isinstance(spec, str | Path):
        return f"the array of {what}", np.asarray(spec)
    path = Path(spec)
    parse: Callable[[list[str]], Array] = _numbers if what == "labels" else _strings
    readers: dict[str, Callable[[Path], Array]] = {
        ".npy": lambda path: load(open_npy(path)),
        ".npz": lambda path: _npz(path, what, keys, inputs),
        ".txt": lambda path: parse(_WORDS[what](path)),
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
    except (ValueError, OSError, EOFError, csv.Error) as error:
        raise OnnxpruneError(
            f"{path} cannot be read as {what}: {error}",
            hint="separate columns by commas, or by semicolons alone, with points in decimals"
            if path.suffix.lower() == ".csv" and any(sign in str(error) for sign in ";,")
            else f"{what} are one of {kinds}, one per sample",
        ) from error


def _strings(words: list[str]) -> Array:
    return np.array(words, dtype=str)


@blame("--vocabulary")
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
        content = read_json(path) if path.suffix.lower() == ".json" else _lines(path)
    except (ValueError, OSError) as error:
        raise OnnxpruneError(
            f"{path} cannot be read as a vocabulary: "
            f"{(error.strerror if isinstance(error, OSError) else None) or error}",
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


def _npz(path: Path, what: str, keys: Sequence[str], inputs: Sequence[str]) -> Array:
    members = open_npz(path)
    names = list(members)
    key = next((key for key in keys if key in names), names[0] if len(names) == 1 else None)
    if key in inputs and key not in keys:
        raise OnnxpruneError(
            f"{path} has no {what}: its only array, '{key}', is an input of the model",
            hint=f"store the {what} under one of {', '.join(keys)}, or in a file of their own",
        )
    if key is None:
        raise OnnxpruneError(
            f"{path} has no {what} among {', '.join(names)}",
            hint=f"store them under one of {', '.join(keys)}",
        )
    return load(members[key])


def _text(path: Path) -> str:
    """The text of a file in UTF-8, without the mark that spreadsheets put before it."""
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:1000]:
        raise OnnxpruneError(f"{path} is text in UTF-16, not in UTF-8", hint=_ENCODING)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OnnxpruneError(
            f"{path} is no text in UTF-8: byte {error.start} is 0x{content[error.start]:02x}",
            hint=_ENCODING,
        ) from error


def _lines(path: Path) -> list[str]:
    """Lines without their ends; spaces stay, and empty lines too."""
    text = path.read_text(encoding="utf-8")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


_WORDS: Mapping[str, Callable[[Path], list[str]]] = {
    "labels": lambda path: _text(path).split(),
    "groups": lambda path: [line.strip() for line in _lines(path) if line.strip()],
    "texts": _lines,
}
"""What a text file holds one of per sample."""


def _column(path: Path, what: str, keys: Sequence[str]) -> list[str]:
    """The column of one of the keys, else the last one; its header is left out."""
    text = _text(path)
    first = text.partition("\n")[0]
    cells = [cell.strip().lower() for cell in first.split(";")]
    other = "," not in first and (what == "label" or any(cell in keys for cell in cells))
    delimiter = ";" if other and len(cells) > 1 else ","  # as spreadsheets of some countries have
    rows = [row for row in csv.reader(StringIO(text, newline=""), delimiter=delimiter) if row]
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
