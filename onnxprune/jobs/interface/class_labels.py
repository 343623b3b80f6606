"""Labels of classes in the metadata of a model: read them, and rewrite them for fewer classes.

Exporters write them in several forms: a Python dictionary (Ultralytics' ``names``), JSON objects
from numbers to labels and back (``id2label``, ``label2id``), JSON lists, texts with commas, lines
(PaddleOCR's ``character``); some add the number of classes (``nc``, ``num_labels``).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.errors import OnnxpruneError

_OF_LABELS = re.compile(r"name|label|class|categor|^character$", re.IGNORECASE)
_COUNTS = re.compile(r"nc|n_?classes|num_(classes|labels|class)|classes|number_of_classes")
_LONGEST = 1 << 20
"""Characters of an entry that is looked into."""

Dump = Callable[[Any], str]


def read_labels(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The labels that metadata hold, by number; empty where there are none.

    Example:
        >>> read_labels({"names": "{0: 'cat', 1: 'dog'}", "stride": "32"})
        ('cat', 'dog')
    """
    for key, text in metadata.items():
        value = _parse(text)[0]
        labels = _find(key, value)
        if labels:
            return labels
    return ()


def label_file(path: str) -> tuple[str, ...]:
    """The labels of a file, one per line.

    Raises:
        OnnxpruneError: it cannot be read, or is empty.
    """
    hint = "write one label per line, as in --keep-outputs 'logits=@labels.txt:cat,dog'"
    try:
        if Path(path).stat().st_size > _LONGEST:
            raise OnnxpruneError(f"--keep-outputs: {path} is too large for labels", hint=hint)
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OnnxpruneError(
            f"--keep-outputs: {path} cannot be read: {reason}", hint=hint
        ) from None
    labels = tuple(line.strip() for line in text.splitlines())
    while labels and not labels[-1]:
        labels = labels[:-1]
    if not labels:
        raise OnnxpruneError(f"--keep-outputs: {path} holds no labels", hint=hint)
    return labels


def relabel(metadata: Mapping[str, str], size: int, kept: Sequence[int]) -> dict[str, str]:
    """The entries of metadata that speak of all classes, for those that remain.

    Args:
        metadata: of the model.
        size: number of classes before.
        kept: those that remain, ascending; they are numbered anew.

    Example:
        >>> relabel({"names": "{0: 'cat', 1: 'dog', 2: 'cow'}", "nc": "3"}, 3, [0, 2])
        {'names': "{0: 'cat', 1: 'cow'}", 'nc': '2'}
    """
    entries = {}
    for key, text in metadata.items():
        value, dump = _parse(text)
        new = _rewrite(key, value, size, kept)
        if new != value:
            entries[key] = dump(new)
    return entries


def relabel_characters(
    metadata: Mapping[str, str], size: int, kept: Sequence[int]
) -> dict[str, str]:
    r"""The characters of a text recogniser, for those that remain.

    PaddleOCR's ``character`` counts neither the blank, which is first, nor a space at the end.

    Args:
        metadata: of the model.
        size: number of classes before, the blank included.
        kept: those that remain, ascending.

    Example:
        >>> relabel_characters({"character": "a\nb\nc"}, 5, [0, 1, 3, 4])
        {'character': 'a\nc'}
    """
    own = {key: text for key, text in metadata.items() if key == "character"}
    for count in (size - 1, size - 2):
        if new := relabel(own, count, [k - 1 for k in kept if 0 < k <= count]):
            return new
    return {}


def _parse(text: str) -> tuple[Any, Dump]:
    """The value that an entry holds, and what writes such values; the text itself for others."""
    if len(text) <= _LONGEST:
        try:
            return json.loads(text), lambda value: json.dumps(value, ensure_ascii=False)
        except (ValueError, RecursionError):
            pass
        if text.lstrip()[:1] in ("{", "[", "("):
            try:
                return ast.literal_eval(text.strip()), repr
            except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
                pass
    if text.lstrip()[:1] in ("{", "[", "("):
        return text, str
    if "\n" in text:
        end = "\n" if text.endswith("\n") else ""
        return text.removesuffix("\n").split("\n"), lambda lines: "\n".join(lines) + end
    comma = ", " if ", " in text else ","
    return (text.split(comma), comma.join) if comma in text else (text, str)


def _find(key: str, value: object) -> tuple[str, ...]:
    """Labels in a value, or in the parts of an object."""
    labels = _labels(key, value)
    if labels:
        return labels
    if isinstance(value, dict):
        found = (_find(str(name), part) for name, part in value.items())
        return next((each for each in found if each), ())
    return ()


def _labels(key: str, value: object) -> tuple[str, ...]:
    """The labels that a value is, by number."""
    if isinstance(value, dict):
        by_number = _by_number(value)
        numbers = range(len(by_number))
        if by_number and all(isinstance(by_number.get(k), str) for k in numbers):
            return tuple(by_number[k] for k in numbers)
        inverse = {number: label for label, number in value.items() if type(number) is int}
        if len(inverse) == len(value) > 0 and all(k in inverse for k in range(len(value))):
            return tuple(str(inverse[k]) for k in range(len(value)))
        return ()
    texts = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
    if texts and _OF_LABELS.search(key):
        assert isinstance(value, list | tuple)
        return tuple(value)
    return ()


def _by_number(value: Mapping[Any, Any]) -> dict[int, Any]:
    """An object whose keys are numbers from 0 on; empty for any other."""
    try:
        numbers = {int(key): part for key, part in value.items()}
    except (TypeError, ValueError):
        return {}
    return numbers if sorted(numbers) == list(range(len(value))) else {}


def _rewrite(key: str, value: Any, size: int, kept: Sequence[int]) -> Any:  # noqa: ANN401  JSON
    if type(value) is int:
        return len(kept) if value == size and _COUNTS.fullmatch(key.lower()) else value
    labels = _labels(key, value)
    if len(labels) == size:
        if not isinstance(value, dict):
            return type(value)(labels[k] for k in kept)
        if _by_number(value):
            number = type(next(iter(value)))
            return {number(new): labels[old] for new, old in enumerate(kept)}
        return {labels[old]: new for new, old in enumerate(kept)}
    if isinstance(value, dict):
        return {name: _rewrite(str(name), part, size, kept) for name, part in value.items()}
    return value
