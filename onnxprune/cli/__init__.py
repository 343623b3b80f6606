"""The command line: ``onnxprune COMMAND``, one module for each command.

stdout carries data, stderr everything else. The exit code is 0 when the work is done, 1 when it ran
but a check failed or the result is broken, and 2 when it could not run.
"""

from __future__ import annotations

import errno
import importlib.metadata
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

from onnxprune.cli import (
    advise,
    apply,
    bench,
    build,
    completion,
    console,
    demo,
    densify,
    eligible,
    eval,  # noqa: A004 the command
    help,  # noqa: A004 the command
    inspect,
    mask,
    prune,
    quantize,
    recover,
    report,
    sensitivity,
    store,
    streams,
    verify,
)
from onnxprune.cli.parser import Parser
from onnxprune.errors import OnnxpruneError, typed_flags

_EPILOG = """to start:
  onnxprune demo                    # a small network, pruned and measured
  onnxprune inspect model.onnx      # what can be removed from a model
  onnxprune prune --help            # the everyday options of a command
  onnxprune help wanda              # a command, an option or a value in full"""
COULD_NOT_RUN = 2
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_CLOSED = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with streams.safe() as (output, _):
        console.start(arguments)
        code, problem = _attempt(arguments)
        if problem is not None and "--debug" in arguments and problem.__cause__ is not None:
            traceback.print_exception(problem.__cause__)
        console.publish(problem)
        if output.failure is not None and problem is None:
            code, problem = _unheard(code, output.failure)
        console.finish(code, problem)
    return code


def _attempt(arguments: list[str]) -> tuple[int, OnnxpruneError | None]:
    """Run a command; its exit code, and what went wrong."""
    try:
        with _interruptible(), typed_flags(), console.warnings_in_words():
            return _run(arguments), None
    except OnnxpruneError as problem:
        return problem.exit_code, problem
    except KeyboardInterrupt as stop:
        code = 128 + stop.signal if isinstance(stop, _StopError) else _INTERRUPTED
        return code, OnnxpruneError("interrupted")
    except OSError as problem:
        return COULD_NOT_RUN, _caused(_refused(problem), problem)
    except MemoryError as problem:
        hint = "give it more memory, or lower --memory, --batch or --calib-samples where there are"
        refusal = OnnxpruneError(f"not enough memory: {problem}".rstrip(": "), hint=hint)
        return COULD_NOT_RUN, _caused(refusal, problem)
    except Exception as problem:  # noqa: BLE001 the last place that can turn it into a sentence
        return COULD_NOT_RUN, _caused(_unexpected(problem, "--debug" in arguments), problem)


def _caused(problem: OnnxpruneError, cause: BaseException) -> OnnxpruneError:
    problem.__cause__ = cause
    return problem


def _unheard(code: int, failure: OSError) -> tuple[int, OnnxpruneError | None]:
    """The exit code, and what to say, where stdout did not take all that it should."""
    if failure.errno == errno.EPIPE:  # its reader has seen enough
        return code or _CLOSED, None
    reason = failure.strerror or str(failure)
    problem = OnnxpruneError(
        f"standard output cannot be written: {reason}",
        hint="the work is done; send the output elsewhere, as in > FILE",
    )
    return code or 1, problem


class _StopError(KeyboardInterrupt):
    """A signal that ends the process, as an interrupt."""

    def __init__(self, signal: int) -> None:
        super().__init__()
        self.signal = signal


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does, so that it leaves nothing half done."""

    def stop(number: int, _: object) -> NoReturn:
        raise _StopError(number)

    former = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        with suppress(ValueError):  # signals are the business of the main thread
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                former[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _refused(problem: OSError) -> OnnxpruneError:
    """What the system did not let us do, as an error of ours."""
    reason = problem.strerror or str(problem) or type(problem).__name__
    place = f"{problem.filename}: " if problem.filename else ""
    hint = "check the permissions and the limits of this user"
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = f"free some space, also in {tempfile.gettempdir()}"
    return OnnxpruneError(f"{place}{reason}", hint=hint)


def _topic(word: str) -> str:
    return word if word in ("--help", "--help-all", "--json", "--debug") else word.lstrip("-")


def _run(arguments: list[str]) -> int:
    parser = _parser()
    if arguments[:1] == ["help"]:  # of an option, as it is typed
        arguments = ["help", *(_topic(each) for each in arguments[1:])]
    try:
        args = parser.parse_all(arguments)
    except SystemExit as stop:  # --help and --version print and leave
        return stop.code if isinstance(stop.code, int) else 0
    if not hasattr(args, "run"):
        parser.print_help(sys.stderr)
        return COULD_NOT_RUN
    if args.command not in ("help", "completion"):
        settings = {name: getattr(args, name, False) for name in ("json", "quiet")}
        console.settle(args.command, as_json=settings["json"], quiet=settings["quiet"])
    code: int = args.run(args)
    return code


def _parser() -> Parser:
    parser = Parser(
        prog="onnxprune",
        description="Prune an exported ONNX graph, and verify and measure the result.",
        epilog=_EPILOG,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help="show this help")
    version = importlib.metadata.version("onnxprune")
    parser.add_argument(
        "--version", action="version", version=f"onnxprune {version}", help="show the version"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for command in (
        inspect,
        prune,
        apply,
        recover,
        verify,
        sensitivity,
        quantize,
        store,
        densify,
        mask,
        eligible,
        build,
        bench,
        eval,
        advise,
        report,
        demo,
        help,
        completion,
    ):
        command.add(commands)
    return parser


def _unexpected(problem: Exception, debug: bool) -> OnnxpruneError:  # noqa: FBT001
    what = " ".join(str(problem).split()) or "no message"
    hint = "please report it with what --debug prints" if not debug else "please report it"
    return OnnxpruneError(
        f"this is a bug in onnxprune: {type(problem).__name__}: {what}", hint=hint
    )
