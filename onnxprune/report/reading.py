"""Documents back from JSON: any of our frozen dataclasses, each field checked against its type."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast

T = TypeVar("T")

_NOT_FINITE = ("nan", "inf", "-inf")
"""How numbers are written that JSON does not have; see ``schema.to_json``."""


class FieldError(ValueError):
    """A value is not what its field holds; says which field and what was found."""


def read_as(kind: type[T], value: object) -> T:
    """A JSON value as an instance of the dataclass ``kind``.

    Fields that ``kind`` does not have are passed over: newer documents may have more.

    Raises:
        FieldError: a field without a default is missing, or holds another type.
    """
    return cast(T, _read(kind, value, ""))


def _read(kind: Any, value: object, where: str) -> object:  # noqa: ANN401  a type form
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
            _read(inner[0], each, f"{where}[{k}]") for k, each in enumerate(cast(list[Any], value))
        )
    if origin is not None and issubclass(origin, Mapping):
        _when(isinstance(value, Mapping), value, where, "an object")
        pairs = cast(Mapping[str, Any], value).items()
        return {key: _read(inner[1], each, f"{where}.{key}") for key, each in pairs}
    return _plain(kind, value, where)


def _record(kind: type, value: object, where: str) -> object:
    if not isinstance(value, Mapping):
        raise FieldError(f"{where or 'it'} is not an object")
    found: dict[str, object] = {}
    for each, of in _fields(kind):
        here = f"{where}.{each.name}".lstrip(".")
        if each.name in value:
            found[each.name] = _read(of, value[each.name], here)
        elif each.default is MISSING and each.default_factory is MISSING:
            raise FieldError(f"{here} is missing")
    return kind(**found)


@cache
def _fields(kind: type) -> tuple[tuple[Field[Any], Any], ...]:
    hints = typing.get_type_hints(kind)
    return tuple((each, hints[each.name]) for each in fields(kind))


def _one_of(kinds: tuple[Any, ...], value: object, where: str) -> object:
    problem = FieldError(f"{where} is {_shown(value)}")
    for kind in kinds:
        try:
            return _read(kind, value, where)
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


def _when(good: bool, value: object, where: str, wanted: str) -> object:  # noqa: FBT001
    if not good:
        raise FieldError(f"{where} is {_shown(value)} where {wanted} belongs")
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
