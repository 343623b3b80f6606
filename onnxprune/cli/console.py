"""What goes where: data to stdout; errors, warnings and progress to stderr."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console, RenderableType
from rich.text import Text

from onnxprune.errors import OnnxpruneError
from onnxprune.jobs.results import schema
from onnxprune.report import terminal

_PIPE_WIDTH = 100  # columns of a table in a file: what an editor or a log viewer shows whole

_SILENCE = 15.0
"""Seconds between two lines of progress in a file: short runs stay silent."""


def report(document: schema.Report, *, as_json: bool, verbose: bool = False) -> None:
    """Print a report to stdout, for a person or for a program; ``verbose`` is for the first."""
    if as_json:
        sys.stdout.write(json.dumps(schema.to_json(document), indent=2, ensure_ascii=False) + "\n")
    else:
        terminal.show(document, _console(sys.stdout), verbose=verbose)
    sys.stdout.flush()


def reports(documents: Sequence[schema.Report]) -> None:
    """Print several reports to stdout as one JSON list."""
    plain = [schema.to_json(each) for each in documents]
    sys.stdout.write(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def data(view: RenderableType, plain: object, *, as_json: bool) -> None:
    """Print data of a command that has no report of its own, for a person or for a program."""
    if as_json:
        sys.stdout.write(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
    else:
        _console(sys.stdout).print(view, crop=False)  # commands to copy may be long
    sys.stdout.flush()


def error(problem: OnnxpruneError) -> None:
    """Say what is wrong, and what to do about it, on stderr."""
    _say("error", "bold red", problem.message)
    if problem.hint:
        _say("hint", "bold cyan", problem.hint)


def warning(message: str) -> None:
    """Say what the user should know although the work goes on, on stderr."""
    _say("warning", "bold yellow", message)


def done(message: str) -> None:
    """Say what was done, on stderr."""
    _console(sys.stderr).print(Text(message), soft_wrap=True)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A function that says what is being done now.

    On a terminal it is one line that changes; elsewhere a line now and then, in long runs only.
    """
    console = _console(sys.stderr)
    if console.is_terminal:
        with console.status("") as status:
            yield lambda stage: status.update(Text(stage))
        return
    start = last = time.monotonic()

    def say(stage: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SILENCE:
            done(f"{stage} ({now - start:.0f} s so far)")
            last = now

    yield say


@contextmanager
def warnings_in_words() -> Iterator[None]:
    """Print Python warnings, of whichever library, as one line without file and source."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_args, **_named: warning(str(message))
        yield


def _say(word: str, style: str, message: str) -> None:
    _console(sys.stderr).print(Text.assemble((f"{word}:", style), " ", message), soft_wrap=True)


def _console(stream: TextIO) -> Console:
    # Made for each use, so that it follows a stream that was redirected and a changed environment.
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, emoji=False, markup=False)
