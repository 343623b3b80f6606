"""Progress where nobody watches a terminal: a line per phase, and one every ten seconds."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

BEGIN = 1.0
"""Seconds after which a phase has its line: short runs stay silent."""
EVERY = 10.0
"""Seconds between two lines of one phase."""
_COUNT = re.compile(r"\b(\d+) of (?:about )?(\d+)\b")


class Phases:
    """Says which phase a command is in, how long it has taken, and how long it will.

    The time that is left follows from counts such as ``layer 3 of 20`` in the phases themselves.

    Args:
        say: prints a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._change = threading.Condition()
        self._stage: str | None = None
        self._serial = 0
        self._ended = False
        self._start = time.monotonic()
        self._rate = _Rate()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def begin(self, stage: str) -> None:
        """Begin another phase."""
        with self._change:
            same = self._rate.note(stage, time.monotonic())
            self._stage = stage
            if not same:  # the next of a series is no phase of its own
                self._serial += 1
                self._change.notify()

    def line(self, stage: str, now: float) -> str:
        """What is said about a phase at a moment."""
        spent = f"{_duration(now - self._start)} so far"
        left = self._rate.left(now)
        more = f", about {_duration(left)} left" if left is not None else ""
        return f"{stage} ({spent}{more})"

    def _watch(self) -> None:
        with self._change:
            while not self._ended:
                serial = self._serial
                wait = BEGIN if self._stage is not None else None
                # A change of phase starts the wait anew; within one, lines come regularly.
                while not self._change.wait_for(partial(self._is_past, serial), wait):
                    self._say(self.line(self._stage or "", time.monotonic()))
                    wait = EVERY

    def _is_past(self, serial: int) -> bool:
        return self._ended or serial != self._serial

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._change:
            self._ended = True
            self._change.notify()
        self._thread.join()


class _Rate:
    """How fast the counts in the texts of a series of phases grow."""

    def __init__(self) -> None:
        self._series = ""
        self._first = (0.0, 0)
        self._last = (0.0, 0, 0)

    def note(self, stage: str, now: float) -> bool:
        """Take a phase in; whether it is the next of the same series."""
        count = _COUNT.search(stage)
        series = stage[: count.start()] if count else stage  # names come after counts
        same = series == self._series and count is not None
        done, total = (int(count[1]), int(count[2])) if count else (0, 0)
        if not same:
            self._series, self._first = series, (now, done)
        self._last = (now, done, total)
        return same

    def left(self, now: float) -> float | None:
        """Seconds until the series ends; None where nothing tells."""
        start, first = self._first
        reached, done, total = self._last
        if done <= first or total < done:
            return None
        each = (reached - start) / (done - first)
        return max(each * (total - done + 1) - (now - reached), 0.0)


def _duration(seconds: float) -> str:
    """Seconds below two minutes, else minutes, else hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
