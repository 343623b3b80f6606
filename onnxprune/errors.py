"""The one error users see: what went wrong and where, and what to do about it."""

from __future__ import annotations


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
