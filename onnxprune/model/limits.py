"""JSON that anybody may have written, read within limits of size and depth.

A small file can ask for a lot: brackets in brackets exhaust the stack of whoever walks over them,
and a device has no end. Both are refused before anything is built from them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxprune.errors import OnnxpruneError

LARGEST = 1 << 28
"""Bytes of a document, unless its kind is known to be larger."""
DEEPEST = 64
"""Levels of lists and objects in one another; no format that is read here needs ten."""


def read_json(
    path: Path,
    *,
    largest: int = LARGEST,
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
    parse_constant: Callable[[str], Any] | None = None,
) -> Any:  # noqa: ANN401  JSON
    """The content of a JSON file.

    Args:
        path: of the file; its text is UTF-8.
        largest: bytes that it may have.
        object_hook: as in `json.loads`.
        parse_constant: as in `json.loads`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON.
        OnnxpruneError: it is larger than ``largest``, or nested deeper than `DEEPEST`.
    """
    data = read_bytes(path, largest)
    try:
        return parse_json(data, object_hook=object_hook, parse_constant=parse_constant)
    except DepthError as error:
        raise OnnxpruneError(
            f"{path} is nested more than {DEEPEST} levels deep",
            hint="check the path: no file of this kind is",
        ) from error


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a file that has at most ``largest`` bytes, a pipe or a device included.

    Raises:
        OSError: it cannot be read.
        OnnxpruneError: it has more.
    """
    with path.open("rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise OnnxpruneError(
            f"{path} has more than {largest} bytes", hint="check the path: no file of this kind has"
        )
    return data


class DepthError(ValueError):
    """JSON is nested deeper than `DEEPEST` levels."""


def parse_json(
    data: bytes | str,
    *,
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
    parse_constant: Callable[[str], Any] | None = None,
) -> Any:  # noqa: ANN401  JSON
    """The value of a JSON text, of at most `DEEPEST` levels.

    Raises:
        ValueError: it is not JSON, or deeper (`DepthError`).

    Example:
        >>> parse_json('{"units": [0, 2]}')
        {'units': [0, 2]}
    """
    try:
        value = json.loads(data, object_hook=object_hook, parse_constant=parse_constant)
    except RecursionError as error:
        raise DepthError("it is nested too deep") from error
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise DepthError(f"it is nested more than {DEEPEST} levels deep")
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return value
