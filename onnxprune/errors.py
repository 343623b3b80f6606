"""The one error users see: what went wrong and where, and what to do about it.

Messages are written with the flags of the command line, as in ``--max-ratio 0.5``. In Python, where
nobody typed a flag, the same messages name the keyword: ``max_ratio=0.5``.
"""

from __future__ import annotations

import difflib
import os
import re
import reprlib
import shlex
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

_FEW = 8
_NEAREST = 5
"""Names in a hint, where there are more than a few."""
_ALIKE = 0.75
"""Likeness from which on a word passes for the misspelling of another."""


_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
"""What moves a cursor, changes colours, hides or turns text around, or is half a character."""


def visible(text: str, *, line: bool = False) -> str:
    r"""A text without control characters: they are escaped as Python does.

    Args:
        text: to be shown.
        line: whether it has to stay one line, so that line breaks and tabs count too.

    Example:
        >>> print(visible("\x1b[31mred"))
        \x1b[31mred
    """
    if line and not text.isprintable():
        text = text.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return _CONTROL.sub(lambda match: escaped(match[0]), text)


def escaped(character: str) -> str:
    r"""A character as Python escapes it."""
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class OnnxpruneError(Exception):
    """A problem the user can act on.

    Args:
        message: one sentence naming what is wrong and where.
        hint: one sentence saying what to do; empty when there is nothing useful to say. Tracebacks
            show it too. Names from files bring no line breaks or control characters into either.
        exit_code: of the command line (2: could not run; 1: the verdict is bad).

    Attributes:
        written: message and hint as they were written, with flags, also where Python is spoken.
    """

    def __init__(self, message: str, *, hint: str = "", exit_code: int = 2) -> None:
        self.written = (message, hint)
        self.message = visible(spelled(message), line=True)
        self.hint = visible(spelled(hint), line=True)
        self.exit_code = exit_code
        super().__init__(self.message)
        if hint:
            self.add_note(f"hint: {self.hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Spelt anew where it arrives: a worker process does not know who reads it.
        message, hint = self.written
        return partial(type(self), hint=hint, exit_code=self.exit_code), (message,)

    def at(self, origins: Mapping[str, str]) -> OnnxpruneError:
        """The same error, naming options by the places where they are written.

        Args:
            origins: by flag (``--ratio``), as in ``recipe.yaml, line 3: ratio``.
        """
        message, hint = self.written
        for flag, origin in origins.items():
            head, *tail = re.split(rf"{flag}(?![\w-])", message, maxsplit=1)
            message = origin.join([head, *tail])
        return OnnxpruneError(message, hint=hint, exit_code=self.exit_code)


def suggest(word: str, known: Iterable[str], every: str = "") -> str:
    """A hint for a word that is not among the known ones: the closest, a few or all of them.

    Args:
        word: as it was written.
        known: the words there are.
        every: where a long list can be seen, as in "`onnxprune inspect` lists all".
    """
    word, words = str(word), list(dict.fromkeys(map(str, known)))
    close = difflib.get_close_matches(word.lower(), words, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    if len(words) <= _FEW:
        return f"there {'is only' if len(words) == 1 else 'are'} {', '.join(words)}"
    return f"the nearest are {', '.join(_nearest(word, words))}" + (every and f"; {every}")


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is a likely misspelling of another; empty if there is none.

    Example:
        >>> nearest("prun", ["prune", "none"]), nearest("nonsense", ["prune", "none"])
        ('prune', '')
    """
    close = difflib.get_close_matches(word.lower(), list(map(str, known)), n=1, cutoff=_ALIKE)
    return close[0] if close else ""


def suggest_glob(glob: str, names: Iterable[str], every: str) -> str:
    """A hint for a glob that matches none of the names: those that are most like it.

    Args:
        glob: as it was written.
        names: what it could have matched.
        every: what lists them all, and how many there are.
    """
    core = glob.strip("*?").lower()
    words = list(dict.fromkeys(names))
    inside = [name for name in words if len(core) > 1 and core in name.lower()]
    close = inside or difflib.get_close_matches(glob, words, n=_NEAREST, cutoff=0.4)
    if not close:
        return every
    *most, last = map(repr, close[:_NEAREST])
    return f"did you mean {' or '.join(filter(None, (', '.join(most), last)))}? {every}"


def _nearest(word: str, words: list[str]) -> list[str]:
    return difflib.get_close_matches(word.lower(), words, n=_NEAREST, cutoff=0.0)


@contextmanager
def blame(option: str, *, when: bool = True) -> Iterator[None]:
    """Name an option in errors that its value leads to; also a decorator.

    Args:
        option: as the user wrote it, as in ``--calib``.
        when: whether it was given at all.
    """
    try:
        yield
    except OnnxpruneError as error:
        message, hint = error.written
        if not when or option in message or _BLAMED.match(message):
            raise
        named = f"{option}: {message}"
        raise OnnxpruneError(named, hint=hint, exit_code=error.exit_code) from error


def kind_of(value: object) -> str:
    """The type of a value with its article: ``an int``, ``a list``; ``None`` as it is."""
    name = type(value).__name__
    vowel = name.startswith(("nd", *"aeioAEIO"))  # an ndarray
    return "None" if value is None else f"{'an' if vowel else 'a'} {name}"


# --- how options are spelt -------------------------------------------------------------------


@dataclass(frozen=True)
class _Keyword:
    """The Python spelling of a flag.

    Attributes:
        name: of the keyword.
        value: of a switch (``True``, ``False``); empty for a flag that takes a value.
        words: values that can be listed, by which they are known from the words of a sentence.
    """

    name: str
    value: str
    words: frozenset[str]


_KEYWORDS: dict[str, _Keyword] = {}
_typed = False
"""Whether the user of this process types flags."""
_other_names: Mapping[str, str] = {}
"""Flag -> its name in the command that runs."""

_BLAMED = re.compile(r"--[a-z][a-z-]*: ")
"""A message that names an option already."""
_FLAG = re.compile(r"`[^`]*`|(?<![\w'\"-])(--[a-z][a-z0-9-]*)(?:([ =])('[^']*'|[^\s`'-]\S*))?")
_VALUE = re.compile(r"[\d=%*]")
_END = ".,;:)"
_PART = re.compile(r"(--[a-z-]+)(?: (.*)=)?")

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


def declare_keyword(flag: str, name: str, *, value: str = "", words: Iterable[str] = ()) -> None:
    """Have messages name ``flag`` by a keyword in Python.

    Args:
        flag: with its dashes.
        name: of the keyword.
        value: of a switch: ``True`` or ``False``.
        words: values that can be listed.
    """
    known = _KEYWORDS.get(flag, _Keyword(name, value, frozenset()))
    _KEYWORDS[flag] = _Keyword(known.name, known.value, known.words | frozenset(words))


@contextmanager
def typed_flags() -> Iterator[None]:
    """Name options by their flags: the user of this process is at the command line."""
    global _typed  # noqa: PLW0603  a process has one user
    before, _typed = _typed, True
    try:
        yield
    finally:
        _typed = before


@contextmanager
def named_as(names: Mapping[str, str]) -> Iterator[None]:
    """Name options as the command that runs does; also a decorator.

    Args:
        names: flag -> the other, as in ``--calib`` -> ``--data``.
    """
    global _other_names  # noqa: PLW0603  a process has one user
    before, _other_names = _other_names, {**_other_names, **names}
    try:
        yield
    finally:
        _other_names = before


def in_python() -> bool:
    """Whether options are keywords to the user, not flags."""
    return not _typed


def spelled(text: str) -> str:
    """A text about flags, as its reader writes them; what stands in backticks stays.

    Example:
        >>> declare_keyword("--max-ratio", "max_ratio")
        >>> spelled("raise --max-ratio, as in --max-ratio 0.9")
        'raise max_ratio=, as in max_ratio=0.9'
    """
    for flag, other in _other_names.items():
        text = re.sub(rf"(?<![\w-]){flag}(?![\w-])", other, text)
    return as_keywords(text) if in_python() else text


def as_keywords(text: str) -> str:
    """A text about flags in the words of Python, whoever reads it: for docstrings."""
    return _FLAG.sub(_keyword, text)


def _keyword(match: re.Match[str]) -> str:
    flag, gap, token = match.groups()
    known = _KEYWORDS.get(flag or "")
    if known is None:
        return match[0]
    if known.value:
        return f"{known.name}={known.value}{gap or ''}{token or ''}"
    if token is None:  # named, not given: as in "calib: it holds no samples"
        names = match.string[match.end() : match.end() + 1] == ":"
        return f"{known.name}{'' if names else '='}{gap or ''}"
    value = token.rstrip(_END)
    if gap == "=" or token[0] == "'" or value in known.words or _VALUE.search(value):
        return f"{known.name}={_literal(value.strip(chr(39)))}{token[len(value) :]}"
    return f"{known.name}={gap}{token}"


def _literal(text: str) -> str:
    try:
        float(text)
    except ValueError:
        return repr(text)
    return text


def stated(of: str, value: object) -> str:
    """An option with its value, as the user wrote both.

    Args:
        of: the flag (``--seed``), one part of its value (``--shapes input=``), or the place in a
            file (``recipe.yaml, line 3: seed``).
        value: as the user wrote it.
    """
    part = _PART.fullmatch(of)
    if in_python() and part:
        known = _KEYWORDS.get(part[1])
        name = known.name if known else part[1].lstrip("-").replace("-", "_")
        key = f"[{part[2]!r}]" if part[2] is not None else ""
        return f"{name}{key}={_repr.repr(value)}"
    text = value if isinstance(value, str) and value else _repr.repr(value)
    return f"{of}{text}" if of.endswith("=") else f"{of} {text}"


def example(of: str, value: object) -> str:
    """An option with a value that could be written, for a hint; ``of`` as in `stated`."""
    if _PART.fullmatch(of):
        return stated(of, value if in_python() else shlex.quote(str(value)))
    return f"{of.rpartition(': ')[2]}: {value}"


# --- what Python functions are called with ---------------------------------------------------

_PACKAGE = f"{Path(__file__).parent}{os.sep}"
_DECORATORS = ("contextlib.py", "_ufunc_config.py")
"""Files of context managers that decorate functions of this package."""


def warn_caller(message: str) -> None:
    """A `FutureWarning` that points to the line of the caller outside this package."""
    level, frame = 1, sys._getframe()  # noqa: SLF001  as warnings does
    caller: FrameType | None = frame
    while caller is not None and _is_inside(caller.f_code.co_filename):
        level, caller = level + 1, caller.f_back
    warnings.warn(spelled(message), FutureWarning, stacklevel=level)


def _is_inside(filename: str) -> bool:
    return filename.startswith(_PACKAGE) or filename.endswith(_DECORATORS)


def wrong_type(name: str, value: object, need: str, hint: str) -> OnnxpruneError:
    """The error for an argument of a type that it cannot have.

    Args:
        name: of the argument.
        value: of it.
        need: a noun phrase, as in ``a path``.
        hint: what to give.
    """
    return OnnxpruneError(f"{name} is {kind_of(value)}, not {need}", hint=hint)


MODELS = (".onnx", ".pb")
"""How the file of a model may end; ``.onnx.pb`` is one of them."""


def as_model_path(value: object) -> Path:
    """The path that a model is written to.

    Raises:
        OnnxpruneError: it is no path, or ends like a file of another kind.

    Example:
        >>> as_model_path("small.onnx").suffix
        '.onnx'
    """
    path = as_path(value, "path", "give the path of an .onnx file, as text")
    if path.suffix.lower() in MODELS:
        return path
    stem = path.with_suffix("") if path.suffix[1:].isalpha() else path
    raise OnnxpruneError(
        f"{path} does not end in {' or '.join(MODELS)}", hint=f"write it as in {stem}.onnx"
    )


def as_path(value: object, name: str, hint: str = "give the path of a file, as text") -> Path:
    """A path, of the argument ``name``.

    Raises:
        OnnxpruneError: it is none.
    """
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        if not text or "\0" in str(text):
            raise OnnxpruneError(f"{name}={text!r} is not a path", hint=hint)
        return Path(value)
    raise wrong_type(name, value, "a path", hint)
