"""The other end of a worker process: requests, answers, and the error when it dies."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Self

from onnxprune.errors import OnnxpruneError

_PATIENCE_S = 600.0
_SERVE = "from onnxprune.evaluate.worker import main; main()"
"""Not ``-m``: what it sends would then belong to a module that is called ``__main__`` there."""


class WorkerError(Exception):
    """A process died or did not answer; the message says how, as data for the report."""


class Worker:
    """A process that runs one model, for use in a ``with`` statement."""

    def __init__(self, *, patience_s: float = _PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        self._process = subprocess.Popen(  # noqa: S603  # this interpreter
            [sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._answers: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, verb: str, **arguments: Any) -> Any:  # noqa: ANN401  # see `worker.Bench`
        """Have a method of `worker.Bench` called there.

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
            raise WorkerError(f"{what} (request: {verb})") from None
        except OSError:
            answer = None
        if answer is None:
            raise WorkerError(f"its process died{self._cause()} (request: {verb})")
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

    def _cause(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        if code < 0:
            return f" of {signal.Signals(-code).name}{last}"
        return f" with exit code {code}{last}"
