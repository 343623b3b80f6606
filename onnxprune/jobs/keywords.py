"""The Python functions of jobs: their keywords are the options that ``config`` declares."""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import Field
from typing import Any, TypeVar, cast

from onnxprune.config import (
    COMMANDS,
    DEFAULTS,
    DOC_WIDTH,
    default_of,
    describe_option,
    option_of,
    options_of,
)
from onnxprune.errors import warn_caller, wrong_type

Function = TypeVar("Function", bound=Callable[..., Any])


class _Text(str):
    """A type in a signature, which shows it without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class _Signature(inspect.Signature):
    """A signature with one parameter per line where one line cannot hold all."""

    __slots__ = ()

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) <= DOC_WIDTH:
            return text
        lines, kind = [], None
        for each in self.parameters.values():
            if each.kind is each.KEYWORD_ONLY and kind is not each.kind:
                lines.append("*")
            kind = each.kind
            lines.append("\n        ".join(textwrap.wrap(str(each), DOC_WIDTH - 9)))
        result = f" -> {self.return_annotation!r}"
        return f"({''.join(f'{chr(10)}    {line},' for line in lines)}\n){result}"


def keywords(command: str) -> Callable[[Function], Function]:
    """Give a function the signature and the documentation of the options that it takes.

    Its ``**fields`` stand for them; editors read the same from the stub of the package. Its
    ``progress`` may be None, and arguments may have their former names, with a warning.
    """

    def describe(function: Function) -> Function:
        signature = inspect.signature(function)
        parameters = signature.parameters.values()
        models = {each.name for each in parameters if "ModelLike" in str(each.annotation)}
        optional = {each.name for each in parameters if each.default is None}
        classes = {f"{config.__name__} | None": config for config in COMMANDS[command]}
        objects = {p.name: classes[p.annotation] for p in parameters if p.annotation in classes}

        @functools.wraps(function)
        def call(*args: object, **values: Any) -> object:  # noqa: ANN401  any argument
            for former, name in _FORMER_ARGUMENTS.items():
                if former in values and name in signature.parameters:
                    warn_caller(f"{former}= is called {name}= now")
                    values[name] = values.pop(former)
            if "progress" in signature.parameters:
                values["progress"] = _progress(values.get("progress"))
            for name, value in (*zip(signature.parameters, args, strict=False), *values.items()):
                missing = value is None and name not in optional
                if name in models and (missing or isinstance(value, _NO_MODELS)):
                    raise wrong_type(name, value, "a model", _MODEL)
                if name in objects and not isinstance(value, objects[name] | None):
                    hint = f"give options by name, as in {_EXAMPLES[command]}"
                    raise wrong_type(name, value, objects[name].__name__, hint)
            return function(*args, **values)

        call.__signature__ = _signature(signature, command)  # type: ignore[attr-defined]
        text = inspect.cleandoc(function.__doc__ or "")
        text = re.sub(r"\n    fields: .*", "", text)  # they are listed one by one
        lines = [line for _, each in options_of(command) for line in describe_option(each, command)]
        call.__doc__ = "\n".join([text, "", "Options:", *lines, ""])
        return cast(Function, call)

    return describe


_FORMER_ARGUMENTS = {"source": "model"}
"""Names that arguments had in the last version, and their names today."""

_NO_MODELS = (bool, int, float, bytes, list, tuple, dict, set)
_MODEL = "give a path, a loaded model, a ModelProto, or a graph of onnx-graphsurgeon or onnx-ir"

_EXAMPLES = dict.fromkeys(COMMANDS, "calib=batches") | {
    "prune": "ratio=0.3",
    "store": 'store="packed"',
}


def _progress(value: object) -> Callable[[str], object]:
    """What is called with a line of text at each stage.

    Raises:
        OnnxpruneError: ``value`` cannot be called.
    """
    if value is None:
        return lambda _: None
    if not callable(value):
        raise wrong_type(
            "progress", value, "a function", "give one that takes a line of text: progress=print"
        )
    return value


def _signature(signature: inspect.Signature, command: str) -> inspect.Signature:
    """The signature of a function with the options that its ``**fields`` stand for."""
    parameters = []
    for each in signature.parameters.values():
        if each.kind is each.VAR_KEYWORD:
            continue
        annotation = _Text(str(each.annotation).replace("models.", ""))
        if each.name == "progress":
            each = each.replace(default=None)  # noqa: PLW2901
            annotation = _Text("Callable[[str], None] | None")
        parameters.append(each.replace(annotation=annotation))
    defaults = DEFAULTS.get(command, {})
    parameters += [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(name, default_of(each)),
            annotation=_Text(_annotation(each)),
        )
        for name, each in options_of(command)
        if name not in signature.parameters
    ]
    result = _Text(str(signature.return_annotation).replace("models.", ""))
    return _Signature(parameters, return_annotation=result)


def _annotation(each: Field[Any]) -> str:
    accepts = option_of(each).reader.accepts
    needs_none = default_of(each) is None and accepts != "object"
    return f"{accepts} | None" if needs_none or accepts == "object" else accepts
