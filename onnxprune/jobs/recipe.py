"""Recipes: the options of a run as a short YAML file whose keys are the flags.

::

    target: macs=50%
    calib: images.npz
    skip: ["*/head/*"]
    ratios: {"layer1*": 0.2}
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from onnxprune.config import (
    Options,
    current_name,
    declared,
    default_of,
    default_text,
    flag,
    help_of,
    option_of,
    spelling,
)
from onnxprune.errors import OnnxpruneError
from onnxprune.quantities import Budget, KeptIds, KeptIndices, Sparsity

_HINT = "write one flag and its value per line, as in `target: macs=50%`"
_LARGEST = 1 << 18
"""Bytes of a recipe."""
_DEEPEST = 20
_MOST_VALUES = 20_000
_LONGEST = 300
"""Characters of an error that a value leads to."""


@dataclass(frozen=True)
class Recipe:
    """Options as a file gives them, not yet checked.

    Attributes:
        values: by the names in the file.
        origins: where each is written, as in ``recipe.yaml, line 3: ratio``.
    """

    values: Mapping[str, object] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """Reads ``2:4`` as text: to YAML 1.1 it is the number 124, in base 60."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (
            tag,
            re.compile(rf"(?!.*:)(?:{pattern.pattern})", re.VERBOSE) if ":int" in tag else pattern,
        )
        for tag, pattern in resolvers
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


_IN_MEMORY = (
    *("calib", "labels", "eval", "eval_labels", "slices", "preprocess", "metric", "vocabulary"),
)
"""Options that take arrays, functions and the like from Python code."""


def read(path: Path) -> Recipe:
    """The options a recipe gives.

    Raises:
        OnnxpruneError: the file cannot be read, is no YAML mapping, or gives an option twice.
    """
    try:
        loader = _Loader(_text(path))
        node = loader.get_single_node()
        if node is None:
            return Recipe()
        if not isinstance(node, yaml.MappingNode):
            raise OnnxpruneError(
                f"the recipe {path} is no mapping from flags to values", hint=_HINT
            )
        _check_size(node, path)
        values: dict[str, object] = {}
        origins: dict[str, str] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise OnnxpruneError(
                    f"{path}, line {key.start_mark.line + 1}: a flag is a word", hint=_HINT
                )
            name = str(key.value)  # as written: YAML 1.1 takes `on` for True
            origin = f"{path}, line {key.start_mark.line + 1}: {name}"
            if name in values:
                raise OnnxpruneError(
                    f"{origin} is given twice", hint=f"first on {origins[name].split(', ')[-1]}"
                )
            try:
                values[name] = loader.construct_object(value, deep=True)
            except (ValueError, LookupError, AttributeError, TypeError) as error:
                # What values such as 2024-99-99 or !!int x lead to.
                raise OnnxpruneError(
                    f"{origin} has a value that YAML cannot read: {error}"[:_LONGEST], hint=_HINT
                ) from error
            origins[name] = origin
    except OSError as error:
        raise OnnxpruneError(
            f"the recipe {path} cannot be read: {error.strerror}", hint="check the path"
        ) from error
    except RecursionError as error:
        raise _too_much(path) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise OnnxpruneError(f"the recipe {path} is not YAML{where}", hint=_HINT) from error
    return Recipe(values, origins)


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise OnnxpruneError(
            f"the recipe {path} has more than {_LARGEST} bytes", hint="check the path"
        )
    return data.decode()


def _check_size(root: yaml.Node, path: Path) -> None:
    """Refuse a document that is small only because it refers to its own parts.

    Raises:
        OnnxpruneError: it is nested too deep, or too large with every reference written out.
    """
    sizes: dict[int, tuple[int, int]] = {}

    def measure(node: yaml.Node, depth: int) -> tuple[int, int]:
        """Values and levels of a node that is ``depth`` levels below the root."""
        if depth > _DEEPEST:  # also where a part refers to what it is in
            raise _too_much(path)
        if id(node) not in sizes:
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            inner = (each for part in parts for each in (part if type(part) is tuple else (part,)))
            below = [measure(each, depth + 1) for each in inner]
            levels = 1 + max((level for _, level in below), default=0)
            sizes[id(node)] = 1 + sum(count for count, _ in below), levels
        return sizes[id(node)]

    count, levels = measure(root, 0)
    if count > _MOST_VALUES or levels > _DEEPEST:
        raise _too_much(path)


def _too_much(path: Path) -> OnnxpruneError:
    return OnnxpruneError(
        f"the recipe {path} has more than {_DEEPEST} levels or {_MOST_VALUES} values", hint=_HINT
    )


@contextmanager
def naming_lines(origins: Mapping[str, str]) -> Iterator[None]:
    """Name options in errors by the lines of the recipe that they are written on.

    Args:
        origins: by option, as in `Recipe.origins`.
    """
    options = declared(Options)
    try:
        yield
    except OnnxpruneError as error:
        names = {current_name(options, name, None): place for name, place in origins.items()}
        raise error.at({spelling(options[name]): place for name, place in names.items()}) from error


def as_mapping(options: Options) -> dict[str, object]:
    """The options of a run by flag name, as a recipe writes them.

    An option stands as the user wrote it, also where that is its default, unless code has given it
    another value since. For values that a file cannot hold (arrays, functions) the name of the
    option stands in capitals; `write` refuses them.

    Example:
        >>> as_mapping(Options(ratio=0.3, calib=[{"x": [0.0]}]))
        {'ratio': 0.3, 'calib': 'CALIB'}
    """
    mapping: dict[str, object] = {}
    for name, each in declared(Options).items():
        value, word = getattr(options, name), flag(name)
        if name in _IN_MEMORY and not isinstance(value, str | os.PathLike | None):
            mapping[word] = placeholder(word)
            continue
        written = options.written.get(word)
        if written is not None and _same(each, written, value):
            keeps = isinstance(written, str) and not _is_number(written)
            mapping[word] = written if keeps else _plain(value)
        elif _plain(value) != _plain(default_of(each)):
            mapping[word] = _plain(value)
    return mapping


def placeholder(word: str) -> str:
    """What stands for the value of an option that was passed in memory: its name in capitals."""
    return word.upper()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _same(each: Field[Any], written: object, value: object) -> bool:
    try:
        return bool(option_of(each).reader.read(written, "") == value)
    except (OnnxpruneError, ValueError):  # arrays compare element by element
        return written is value


def as_flags(options: Mapping[str, object]) -> list[tuple[str, ...]]:
    """Options by flag name, as in `as_mapping`, as the words of a command line, flag by flag.

    Example:
        >>> as_flags({"ratios": {"layer1*": 0.25}, "cache": False})
        [('--ratios', 'layer1*=0.25'), ('--no-cache',)]
    """
    known = {flag(name): each for name, each in declared(Options).items()}
    flags: list[tuple[str, ...]] = []
    for name, value in options.items():
        if isinstance(value, bool):
            default = default_of(known[name]) if name in known else False
            if value is not default:
                flags.append((spelling(known[name]) if name in known else f"--{name}",))
        elif isinstance(value, Mapping):
            flags += [(f"--{name}", f"{key}={_amount(each)}") for key, each in value.items()]
        elif isinstance(value, list | tuple):
            flags += [(f"--{name}", str(each)) for each in value]
        else:
            flags.append((f"--{name}", _amount(value)))
    return flags


def _amount(value: object) -> str:
    if isinstance(value, list | tuple):  # a shape
        return "x".join(map(str, value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def schema() -> dict[str, object]:
    """The JSON schema of recipes, for editors."""
    properties = {}
    for name, each in declared(Options).items():
        option = option_of(each)
        text = f"{help_of(each, 'prune')}. {option.details}".strip()
        default = default_text(each)
        description = f"{text} Default: {default}." if default else text
        properties[flag(name)] = {**option.reader.schema, "description": description}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "onnxprune recipe",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def write(options: Options, path: Path) -> None:
    """Write a recipe that asks for the same again.

    Raises:
        OnnxpruneError: an option holds something a file cannot, or ``path`` cannot be written.
    """
    for name in _IN_MEMORY:
        value = getattr(options, name)
        if value is not None and not isinstance(value, str | os.PathLike):
            raise OnnxpruneError(
                f"a recipe cannot hold the {name} of this run, which is no path or text",
                hint=f"give {name} as a path or as module.py:function",
            )
    text = yaml.safe_dump(as_mapping(options), sort_keys=False, allow_unicode=True)
    from onnxprune.model import files  # here so that --help does not wait for onnx

    files.write(path, text, "the recipe")


def _plain_ids(value: tuple[KeptIds | KeptIndices, ...]) -> list[object]:
    """What stays, as texts; ids that were passed as numbers stay numbers."""
    first = value[0]
    if isinstance(first, KeptIds) and isinstance(first.value, tuple):
        return list(first.value)
    return [str(each) for each in value]


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Budget | Sparsity | os.PathLike):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple) and all(isinstance(each, str) for each in value):
        return list(value)
    if isinstance(value, tuple) and isinstance(value[0], KeptIds | KeptIndices):
        return _plain_ids(value)
    if isinstance(value, tuple) and all(isinstance(each, int) for each in value):
        return list(value)
    if isinstance(value, tuple):
        return {str(key): _plain(each) for key, each in value}
    return repr(value)
