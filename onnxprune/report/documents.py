"""Reading what the commands print with ``--json``, and refusing what is something else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.errors import OnnxpruneError
from onnxprune.jobs.bench import schema as benches
from onnxprune.jobs.bench.schema import Bench
from onnxprune.jobs.results.schema import SCHEMA, VERSION, Report
from onnxprune.report.reading import FieldError, read_as
from onnxprune.select import sensitivity as sweeps
from onnxprune.select.sensitivity import Sensitivity

Content = Report | Bench | Sensitivity
_KINDS: Mapping[str, tuple[int, type[Content]]] = {
    SCHEMA: (VERSION, Report),
    benches.SCHEMA: (benches.VERSION, Bench),
    sweeps.SCHEMA: (sweeps.VERSION, Sensitivity),
}
_HINT = "give files that hold what onnxprune prune, bench or sensitivity print with --json"


@dataclass(frozen=True)
class Document:
    """What one run printed, and the file it was read from (empty: this very run)."""

    content: Content
    source: str = ""


def read_documents(paths: Iterable[str | Path]) -> tuple[Document, ...]:
    """All documents of some files; a file may hold a list of them.

    Raises:
        OnnxpruneError: a file cannot be read, or holds something that is no such document.
    """
    return tuple(document for path in paths for document in _read(Path(path)))


def _read(path: Path) -> list[Document]:
    try:
        held = json.loads(path.read_bytes(), parse_constant=_no_constant)
    except OSError as error:
        raise OnnxpruneError(
            f"{path} cannot be read: {error.strerror}", hint="check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise OnnxpruneError(f"{path} is not JSON: {_short(error)}", hint=_HINT) from error
    found = held if isinstance(held, list) else [held]
    if not found:
        raise OnnxpruneError(f"{path} holds an empty list", hint=_HINT)
    return [Document(_content(each, path), str(path)) for each in found]


def _content(held: Any, path: Path) -> Content:  # noqa: ANN401  JSON
    schema = held.get("schema") if isinstance(held, dict) else None
    if not isinstance(schema, str) or schema not in _KINDS:
        what = f"of the schema {schema!r}" if isinstance(schema, str) else "that names no schema"
        raise OnnxpruneError(f"{path} is JSON {what}, which no report is made of", hint=_HINT)
    known, kind = _KINDS[schema]
    version = held.get("version")
    if version != known or isinstance(version, bool):
        raise OnnxpruneError(
            f"{path} is {schema} version {version}, and only version {known} can be read",
            hint="make it again with this onnxprune, or read it with the one that wrote it",
        )
    try:
        return read_as(kind, _one_level(held) if kind is Sensitivity else held)
    except FieldError as error:
        raise OnnxpruneError(
            f"{path} is a damaged {schema}: {error}", hint="make it again with --json"
        ) from error


def _one_level(held: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a sweep with the fields of `Sensitivity`.

    Raises:
        FieldError: its metric or what it declined is written in no such form.
    """
    try:
        metric = {key: held["metric"][key] for key in ("name", "higher_is_better", "dense")}
        declined = {each["target"]: each["reason"] for each in held.get("declined", ())}
    except (KeyError, TypeError, AttributeError) as error:
        raise FieldError("its metric or what it declined has no such form") from error
    return {**held, **metric, "metric": metric["name"], "declined": declined}


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _short(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
