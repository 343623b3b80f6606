"""Read the documents that commands print with ``--json``, and refuse anything else.

A document becomes the frozen dataclass that it was printed from, each field checked by its type.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast

from onnxprune.errors import OnnxpruneError
from onnxprune.jobs import assessed
from onnxprune.jobs.assessed import Assessed
from onnxprune.jobs.bench import schema as benches
from onnxprune.jobs.bench.schema import Bench
from onnxprune.jobs.results.schema import SCHEMA, VERSION, Report
from onnxprune.model.limits import read_json
from onnxprune.select import sensitivity as sweeps
from onnxprune.select.sensitivity import Sensitivity

Content = Report | Assessed | Bench | Sensitivity
_RENAMED: Mapping[tuple[str, int], Mapping[str, str]] = {
    (SCHEMA, 1): {
        "pinned": "not_prunable",
        "reach": "reachable",
        "given": "as_given",
        "options.provider": "backend",
    },
    (benches.SCHEMA, 1): {"rows.fidelity": "outputs"},
}
"""By schema and version, the key that each key is called in the next version. Keys inside objects
and lists of objects are written with dots."""
_KINDS: Mapping[str, tuple[int, type[Content]]] = {
    SCHEMA: (VERSION, Report),
    assessed.SCHEMA: (assessed.VERSION, Assessed),
    benches.SCHEMA: (benches.VERSION, Bench),
    sweeps.SCHEMA: (sweeps.VERSION, Sensitivity),
}
T = TypeVar("T")

_NOT_FINITE = ("nan", "inf", "-inf")
"""How numbers are written that JSON does not have; see ``schema.to_json``."""
_HINT = "give files of the JSON that onnxprune prune, eval, bench or sensitivity print with --json"


@dataclass(frozen=True)
class Document:
    """The document of one run, and the file that it was read from (empty: this run)."""

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
        content = read_json(path, parse_constant=_no_constant)
    except OSError as error:
        raise OnnxpruneError(
            f"the report {path} cannot be read: {error.strerror}", hint="check the path"
        ) from error
    except ValueError as error:
        raise OnnxpruneError(f"{path} is not JSON: {_short(error)}", hint=_HINT) from error
    documents = content if isinstance(content, list) else [content]
    if not documents:
        raise OnnxpruneError(f"{path} holds an empty list", hint=_HINT)
    return [Document(_content(each, path), str(path)) for each in documents]


def _content(document: Any, path: Path) -> Content:  # noqa: ANN401  JSON
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, str) or schema not in _KINDS:
        what = f"of the schema {schema!r}" if isinstance(schema, str) else "that names no schema"
        raise OnnxpruneError(
            f"{path} is JSON {what}, and no document of a run, evaluation, benchmark or sweep",
            hint=_HINT,
        )
    current, kind = _KINDS[schema]
    version = document.get("version")
    versions = [number for number in range(1, current) if (schema, number) in _RENAMED] + [current]
    if type(version) is not int or version not in versions:
        readable = " and ".join(map(str, versions))
        raise OnnxpruneError(
            f"{path} is {schema} version {version}, and only version {readable} can be read",
            hint="make it again with this onnxprune, or read it with the one that wrote it",
        )
    for number in range(version, current):
        for old, new in _RENAMED[schema, number].items():
            document = _rename(document, old.split("."), new)
    try:
        return read_as(kind, _one_level(document) if kind is Sensitivity else document)
    except FieldError as error:
        raise OnnxpruneError(
            f"{path} is a damaged {schema}: {error}", hint="make it again with --json"
        ) from error


def _rename(value: Any, path: Sequence[str], new: str) -> Any:  # noqa: ANN401  JSON
    """The same value with the key at the end of ``path`` called ``new``."""
    if isinstance(value, list):
        return [_rename(each, path, new) if isinstance(each, dict) else each for each in value]
    if not isinstance(value, dict):
        return value
    key, *inner = path
    if inner:
        return {k: _rename(v, inner, new) if k == key else v for k, v in value.items()}
    return {new if k == key else k: v for k, v in value.items()}


def _one_level(document: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a sweep with the fields of `Sensitivity`.

    Raises:
        FieldError: its metric or its declined targets have another form.
    """
    try:
        metric = {key: document["metric"][key] for key in ("name", "higher_is_better", "dense")}
        declined = {each["target"]: each["reason"] for each in document.get("declined", ())}
    except (KeyError, TypeError, AttributeError) as error:
        raise FieldError("its metric or its declined targets have another form") from error
    return {**document, **metric, "metric": metric["name"], "declined": declined}


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _short(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class FieldError(ValueError):
    """A value has the wrong type for its field; the message names both."""


def read_as(kind: type[T], value: object) -> T:
    """A JSON value as an instance of the dataclass ``kind``.

    Fields that ``kind`` does not have are passed over: newer documents may have more.

    Raises:
        FieldError: a field without a default is missing, or holds another type.
    """
    return cast(T, _value(kind, value, ""))


def _value(kind: Any, value: object, where: str) -> object:  # noqa: ANN401  a type form
    if is_dataclass(kind) and isinstance(kind, type):
        return _record(kind, value, where)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(inner, value, where)
    if origin is Literal:
        return _when(value in inner, value, where, " or ".join(map(repr, inner)))
    if origin is tuple:
        _when(isinstance(value, list), value, where, "a list")
        return tuple(
            _value(inner[0], each, f"{where}[{k}]") for k, each in enumerate(cast(list[Any], value))
        )
    if origin is not None and issubclass(origin, Mapping):
        _when(isinstance(value, Mapping), value, where, "an object")
        pairs = cast(Mapping[str, Any], value).items()
        return {key: _value(inner[1], each, f"{where}.{key}") for key, each in pairs}
    return _plain(kind, value, where)


def _record(kind: type, value: object, where: str) -> object:
    if not isinstance(value, Mapping):
        raise FieldError(f"{where or 'it'} is not an object")
    values: dict[str, object] = {}
    for each, of in _fields(kind):
        here = f"{where}.{each.name}".lstrip(".")
        if each.name in value:
            values[each.name] = _value(of, value[each.name], here)
        elif each.default is MISSING and each.default_factory is MISSING:
            raise FieldError(f"{here} is missing")
    return kind(**values)


@cache
def _fields(kind: type) -> tuple[tuple[Field[Any], Any], ...]:
    hints = typing.get_type_hints(kind)
    return tuple((each, hints[each.name]) for each in fields(kind))


def _one_of(kinds: tuple[Any, ...], value: object, where: str) -> object:
    problem = FieldError(f"{where} is {_shown(value)}")
    for kind in kinds:
        try:
            return _value(kind, value, where)
        except FieldError as error:
            problem = problem if kind is type(None) else error
    raise problem


def _plain(kind: Any, value: object, where: str) -> object:  # noqa: ANN401  a type form
    if kind is object:
        return value
    if kind is float:
        if isinstance(value, str) and value in _NOT_FINITE:
            return float(value)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(cast(float, _when(number, value, where, "a number")))
    if kind is int:
        return _when(type(value) is int, value, where, "a whole number")
    if kind is str:
        return _when(isinstance(value, str), value, where, "text")
    if kind is bool:
        return _when(isinstance(value, bool), value, where, "true or false")
    if kind is type(None):
        return _when(value is None, value, where, "null")
    raise TypeError(f"{where} is of a type that no document has: {kind}")


def _when(good: bool, value: object, where: str, expected: str) -> object:  # noqa: FBT001
    if not good:
        raise FieldError(f"{where} is {_shown(value)} where {expected} belongs")
    return value


def _shown(value: object) -> str:
    match value:
        case None:
            return "null"
        case Mapping():
            return "an object"
        case list():
            return "a list"
        case _:
            text = repr(value)
            return text if len(text) <= 40 else f"{text[:37]}..."
