"""The one error users see: what went wrong and where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_FEW = 8
_NEAREST = 5
"""Names in a hint, where there are more than a few."""


class OnnxpruneError(Exception):
    """A problem the user can act on.

    Args:
        message: one sentence naming what is wrong and where.
        hint: one sentence saying what to do; empty when there is nothing useful to say.
        exit_code: of the command line (2: could not run; 1: the verdict is bad).
    """

    def __init__(self, message: str, *, hint: str = "", exit_code: int = 2) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


def suggest(word: str, known: Iterable[str], every: str = "") -> str:
    """A hint for a word that is not among the known ones: the closest, a few or all of them.

    Args:
        word: as it was written.
        known: the words there are.
        every: where a long list can be seen, as in "`onnxprune inspect` lists all".
    """
    words = list(dict.fromkeys(known))
    close = difflib.get_close_matches(word.lower(), words, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    if len(words) <= _FEW:
        return f"there {'is only' if len(words) == 1 else 'are'} {', '.join(words)}"
    return f"the nearest are {', '.join(_nearest(word, words))}" + (every and f"; {every}")


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
        if not when or option in error.message:
            raise
        raise OnnxpruneError(
            f"{option}: {error.message}", hint=error.hint, exit_code=error.exit_code
        ) from error
