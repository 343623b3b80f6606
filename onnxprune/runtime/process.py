"""Processes that run a model for this one, which outlives their crashes; and the memory they have.

Requests and answers are pickles: ``(verb, arguments)`` one way, ``("ok", value)`` or ``("refused",
message, hint)`` the other. Whatever a runtime prints goes to stderr, so that it cannot get between.
A process is started anew rather than forked: a fork of a process with threads may never run.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Self

from onnxprune.errors import OnnxpruneError

_PATIENCE_S = 600.0
_SERVE = "from {0} import main; main()"
"""Not ``-m``: what it sends would then belong to a module that is called ``__main__`` there."""


class WorkerError(Exception):
    """A process died or did not answer; the message says how, as data for the report.

    Attributes:
        hung: whether it did not answer in time.
        signal: that it died of; empty if it ended otherwise.
    """

    def __init__(self, message: str, *, hung: bool = False, died_of: str = "") -> None:
        super().__init__(message)
        self.hung, self.signal = hung, died_of


class Worker:
    """A process that answers requests, for use in a ``with`` statement.

    Args:
        module: its ``main`` serves there.
        patience_s: seconds that an answer may take.
    """

    def __init__(self, module: str, *, patience_s: float = _PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        self._process = subprocess.Popen(  # noqa: S603  # this interpreter
            [sys.executable, "-c", _SERVE.format(module)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._answers: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, verb: str, **arguments: Any) -> Any:  # noqa: ANN401  # as the method has them
        """Have a method of the object that is served there called.

        Raises:
            OnnxpruneError: it refused.
            WorkerError: it died, or did not answer in time.
        """
        assert self._process.stdin is not None
        try:
            pickle.dump((verb, arguments), self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            answer = self._answers.get(timeout=self._patience_s)
        except queue.Empty:
            self._process.kill()
            what = f"its process did not answer within {self._patience_s:.0f} s"
            raise WorkerError(f"{what} (request: {verb})", hung=True) from None
        except OSError:
            answer = None
        if answer is None:
            cause, died_of = self._cause()
            raise WorkerError(f"its process died{cause} (request: {verb})", died_of=died_of)
        if answer[0] == "refused":
            raise OnnxpruneError(answer[1], hint=answer[2])
        return answer[1]

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except OSError:  # it died with something in the pipe
                    continue
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                self._answers.put(pickle.load(self._process.stdout))  # noqa: S301  # our own
        except Exception:  # noqa: BLE001  # a broken answer means a broken process
            self._answers.put(None)

    def _cause(self) -> tuple[str, str]:
        """How it ended, in words, and the signal that it died of."""
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        if code < 0:
            name = signal.Signals(-code).name
            return f" of {name}{last}", name
        return f" with exit code {code}{last}", ""


def serve(served: object) -> None:
    """Answer requests on stdin with the methods of an object, until the other side hangs up."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _answer(served, sys.stdin.buffer, answers)


def _answer(served: object, requests: BinaryIO, answers: BinaryIO) -> None:
    while True:
        try:
            verb, arguments = pickle.load(requests)  # noqa: S301  # our own parent process
        except EOFError:
            return
        try:
            method: Callable[..., Any] = getattr(served, verb)
            answer: tuple[Any, ...] = ("ok", method(**arguments))
        except OnnxpruneError as error:
            answer = ("refused", *error.written)
        except Exception as error:  # noqa: BLE001  # a runtime's own; the parent makes a row of it
            answer = ("refused", f"{type(error).__name__}: {' '.join(str(error).split())}", "")
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


def free_bytes() -> int | None:
    """Memory that this process may still take; None where the system does not say."""
    limits = [_available(), _in_group(), _in_address_space()]
    known = [each for each in limits if each is not None]
    return max(min(known), 0) if known else None


def _available() -> int | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _in_group() -> int | None:
    """What a container's limit leaves."""
    limit, usage = (
        next(iter(_lines(f"/sys/fs/cgroup/memory.{what}")), "") for what in ("max", "current")
    )
    if not (limit.isdigit() and usage.isdigit()):
        return None
    cached = [int(n.split()[1]) for n in _lines("/sys/fs/cgroup/memory.stat") if n[:5] == "file "]
    return int(limit) - int(usage) + sum(cached)


def _in_address_space() -> int | None:
    """What a limit on the address space leaves."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    pages = next(iter(_lines("/proc/self/statm")), "0").split()[0]
    return limit - int(pages) * resource.getpagesize()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
