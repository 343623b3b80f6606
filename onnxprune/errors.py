"""The one error users see: what went wrong and where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


def suggest(word: str, known: Iterable[str]) -> str:
    """A hint for a word that is not among the known ones: the closest of them, or all."""
    words = list(known)
    close = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(words)}"
