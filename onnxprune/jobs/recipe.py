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
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import yaml

from onnxprune.config import Options, flag
from onnxprune.errors import OnnxpruneError
from onnxprune.quantities import Budget, Sparsity


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


def read(path: Path) -> dict[str, object]:
    """The options a recipe gives, by flag name, as written and not yet checked.

    Raises:
        OnnxpruneError: the file cannot be read or is no YAML mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 a SafeLoader
    except OSError as error:
        raise OnnxpruneError(
            f"the recipe {path} cannot be read: {error.strerror}", hint="check the path"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise OnnxpruneError(
            f"the recipe {path} is not YAML{where}",
            hint="write one flag and its value per line, as in `target: macs=50%`",
        ) from error
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise OnnxpruneError(
            f"the recipe {path} is no mapping from flags to values",
            hint="write one flag and its value per line, as in `target: macs=50%`",
        )
    return {str(name): value for name, value in content.items()}


def as_mapping(options: Options) -> dict[str, object]:
    """Every option that is not at its default, by flag name, as a recipe writes it.

    Values that a file cannot hold (arrays, functions) become their ``repr``; `write` refuses them.
    """
    written = {each.name: _plain(getattr(options, each.name)) for each in fields(Options)}
    default = {each.name: _plain(getattr(Options(), each.name)) for each in fields(Options)}
    return {flag(name): value for name, value in written.items() if value != default[name]}


def write(options: Options, path: Path) -> None:
    """Write a recipe that asks for the same again.

    Raises:
        OnnxpruneError: an option holds something a file cannot, or ``path`` cannot be written.
    """
    for name in ("calib", "labels", "preprocess", "metric"):
        value = getattr(options, name)
        if value is not None and not isinstance(value, str | os.PathLike):
            raise OnnxpruneError(
                f"a recipe cannot hold the {name} of this run, which is no path or text",
                hint=f"give {name} as a path or as module.py:function",
            )
    text = yaml.safe_dump(as_mapping(options), sort_keys=False, allow_unicode=True)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OnnxpruneError(
            f"the recipe {path} cannot be written: {error.strerror}", hint="check the folder"
        ) from error


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Budget | Sparsity | os.PathLike):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple) and all(isinstance(each, str) for each in value):
        return list(value)
    if isinstance(value, tuple) and all(isinstance(each, int) for each in value):
        return list(value)
    if isinstance(value, tuple):
        return {str(key): _plain(each) for key, each in value}
    return repr(value)
