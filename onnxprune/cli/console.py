"""What goes where: data to stdout; errors, warnings and progress to stderr.

A document that is wanted as JSON is printed when the command ends, with what became of it.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, get_args

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from onnxprune.cli.phases import Phases
from onnxprune.errors import OnnxpruneError, visible
from onnxprune.jobs.results import schema
from onnxprune.report import terminal
from onnxprune.types import QualityStatus, StructureStatus

_VERDICTS = (*get_args(StructureStatus), *get_args(QualityStatus))
_PIPE_WIDTH = 100  # columns of a table in a file: what an editor or a log viewer shows whole


@dataclass
class Session:
    """What one command has to say.

    Attributes:
        command: its name; empty before it is known.
        as_json: whether stdout takes JSON only.
        quiet: whether only errors, warnings and the closing line are shown.
        documents: what it found, as JSON values.
        several: whether these are printed as a list.
        outputs: the files that it wrote.
    """

    command: str = ""
    as_json: bool = False
    quiet: bool = False
    documents: list[Mapping[str, Any]] = field(default_factory=list)
    several: bool = False
    outputs: list[Path] = field(default_factory=list)


_session = Session()


def start(arguments: Sequence[str]) -> None:
    """Begin a command, or forget the last one; ``--json`` holds even where others are refused."""
    global _session  # noqa: PLW0603  the streams are the process's too
    _session = Session(as_json="--json" in arguments)


def settle(command: str, *, as_json: bool, quiet: bool) -> None:
    """Say what the command is and how it shows its results, once that has been parsed."""
    _session.command, _session.as_json, _session.quiet = command, as_json, quiet


def publish(problem: OnnxpruneError | None) -> None:
    """Print what is wanted as JSON: documents, or what went wrong."""
    if _session.as_json and (_session.documents or problem is not None):
        _print_json(problem)
    sys.stdout.flush()  # of argparse too; a closed pipe shows here


def finish(code: int, problem: OnnxpruneError | None) -> None:
    """Print the error and the closing line, and end the command.

    Args:
        code: the exit code.
        problem: what went wrong.
    """
    if problem is not None:
        error(problem)
    if _session.command and code in (0, 1):
        _say_plain(closing_line(code))
    sys.stderr.flush()
    start(())


def closing_line(code: int) -> str:
    """The line that a log is searched for: ``RESULT``, the command, and pairs of key and value."""
    facts: dict[str, object] = {"exit": code}
    for document in _session.documents[-1:]:
        for name in ("structure", "quality"):
            verdict = document.get(name)
            status = verdict.get("status") if isinstance(verdict, Mapping) else verdict
            if status in _VERDICTS:  # a sweep's document has the digest of a graph there
                facts[name] = status
    if _session.outputs:
        facts["output"] = ",".join(map(str, _session.outputs))
    pairs = (f"{name}={shlex.quote(str(value))}" for name, value in facts.items())
    return " ".join(["RESULT", _session.command, *pairs])


def _print_json(problem: OnnxpruneError | None) -> None:
    documents = _session.documents or [{"schema": "onnxprune.error", "version": 1}]
    verdict: dict[str, Any] = {"error": None, "hint": None}
    if problem is not None:
        verdict = {"ok": False, "error": problem.message, "hint": problem.hint or None}
    complete = [_with_verdict(each, verdict) for each in documents]
    several = _session.several and bool(_session.documents)
    text = json.dumps(complete if several else complete[0], indent=2, ensure_ascii=_needs_ascii())
    sys.stdout.write(_escaped(text) + "\n")


def _with_verdict(document: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, Any]:
    """A document with its verdict after what says which kind it is; others stay as they are."""
    if "schema" not in document:
        return dict(document)
    head = {name: document[name] for name in ("schema", "version") if name in document}
    return {**head, "ok": document.get("ok", True), **verdict} | {
        name: value for name, value in document.items() if name not in (*head, "ok")
    }


def _needs_ascii() -> bool:
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("_", "-")
    return encoding not in ("utf-8", "utf8")


_UNSEEN = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def _escaped(text: str) -> str:
    """JSON whose strings hold no character that a terminal obeys."""
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def report(document: schema.Report, *, as_json: bool, verbose: bool = False) -> None:
    """Show a report on stdout, to a person or to a program; ``verbose`` is for the first."""
    _session.documents.append(schema.to_json(document))
    if not as_json and not _session.quiet:
        terminal.show(document, _console(sys.stdout), verbose=verbose)
        sys.stdout.flush()


def reports(documents: Sequence[schema.Report]) -> None:
    """Show several reports on stdout as one JSON list."""
    _session.documents, _session.several = [schema.to_json(each) for each in documents], True


def data(view: RenderableType, plain: object, *, as_json: bool) -> None:
    """Show data of a command that has no report of its own, to a person or to a program."""
    if isinstance(plain, Mapping):
        _session.documents.append(plain)
    if not as_json and not _session.quiet:
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
    if not _session.quiet:
        _say_plain(message)


def wrote(path: Path) -> None:
    """Say which file was written."""
    _session.outputs.append(path)
    done(f"Wrote {path}")


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A function that says what is being done now.

    On a terminal it is one line that changes; elsewhere there is a line for each phase that takes a
    while, and one now and then within it.
    """
    console = _console(sys.stderr)
    if _session.quiet:
        from onnxprune.data.activations.moments import without_bars  # --help does not wait for it

        with without_bars():
            yield lambda _: None
    elif console.is_terminal:
        with console.status("") as status:
            yield lambda stage: status.update(Text(stage))
    else:
        with Phases(_say_plain) as phases:
            yield phases.begin


@contextmanager
def warnings_in_words() -> Iterator[None]:
    """Print Python warnings, of whichever library, as one line without file and source."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_args, **_named: warning(str(message))
        yield


def _say(word: str, style: str, message: str) -> None:
    line = Text.assemble((f"{word}:", style), " ", visible(message, line=True))
    _console(sys.stderr).print(line, soft_wrap=True)


def _say_plain(message: str) -> None:
    _console(sys.stderr).print(Text(visible(message, line=True)), soft_wrap=True)


class _Visible(Console):
    """A console on which text from files stays text."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of something, control characters in their text escaped."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)


def _console(stream: TextIO) -> Console:
    # Made for each use, so that it follows a stream that was redirected and a changed environment.
    width = None if stream.isatty() else _PIPE_WIDTH
    return _Visible(file=stream, width=width, highlight=False, emoji=False, markup=False)
