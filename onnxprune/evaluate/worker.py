"""The process of one model: opens, runs and times it on requests over a pipe.

`onnxprune.runtime.process` has the pipe. Imported here is what opening a model needs and no more:
the peak memory of this process is a result.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxprune.runtime.process import serve
from onnxprune.runtime.registry import Loaded, Session, Shapes, Timed, backend

Feeds = Mapping[str, npt.NDArray[Any]]
Clock = Literal["wall", "cpu"]

PROCESS = "onnxprune.evaluate.worker"
"""What a `Worker` that measures serves."""
_WINDOW_S = 0.05
_STABLE = 0.05
_WINDOWS = 3


@dataclass(frozen=True)
class Opened:
    """A model that was opened.

    Attributes:
        load_s: seconds that took the runtime.
        idle_rss: resident bytes before, runtime included; None if unknown.
    """

    load_s: float
    idle_rss: int | None


@dataclass(frozen=True)
class Warm:
    """How a model became warm.

    Attributes:
        runs: that were needed.
        stable: whether they settled: the medians of the last two windows of runs are within 5 %.
        typical_s: the median of the last window.
    """

    runs: int
    stable: bool
    typical_s: float


class Bench:
    """The requests a process answers; every public method is a verb."""

    def __init__(self) -> None:
        self._runner: Session | None = None
        self._feeds: Feeds = {}

    def open(
        self,
        name: str,
        path: str,
        *,
        threads: int | None,
        optimise: bool,
        shapes: Sequence[Shapes],
    ) -> Opened:
        """Open a model; the backend's own imports are not part of the time."""
        chosen = backend(name)
        chosen.available()
        idle = resident("VmRSS")
        started = time.perf_counter()
        self._runner = chosen.open(Path(path), threads=threads, optimise=optimise, shapes=shapes)
        spent = time.perf_counter() - started
        if isinstance(self._runner, Loaded):
            spent = self._runner.load_s
        return Opened(spent, idle)

    def first(self, feeds: Feeds) -> float:
        """Keep the feeds that are timed; the seconds of the first run."""
        self._feeds = feeds
        return self.time(1)[0]

    def warm(self, most_s: float) -> Warm:
        """Run until stable: two windows of runs in a row, of at least 50 ms, agree within 5 %."""
        medians: list[float] = []
        runs, typical = 0, 0.0
        end = time.perf_counter() + most_s
        while time.perf_counter() < end or len(medians) < _WINDOWS:
            count = max(3, min(1000, int(_WINDOW_S / typical))) if typical else 3
            typical = float(np.median(self.time(count)))
            medians.append(typical)
            runs += count
            if len(medians) >= _WINDOWS and abs(medians[-1] / medians[-2] - 1) < _STABLE:
                return Warm(runs, stable=True, typical_s=typical)
        return Warm(runs, stable=False, typical_s=typical)

    def time(self, runs: int, unmeasured: int = 0, *, clock: Clock = "wall") -> list[float]:
        """Seconds of each run, after some that are not measured: caches belonged to others.

        ``cpu`` counts the time of the processor in all threads of this process, which other
        processes hardly change; a runtime with a clock of its own keeps that.
        """
        runner = self._open()
        if isinstance(runner, Timed):
            return list(runner.time(self._feeds, runs))
        run, feeds = runner.run, self._feeds
        now = time.process_time if clock == "cpu" else time.perf_counter
        seconds = []
        gc.disable()
        for _ in range(unmeasured):
            run(feeds)
        for _ in range(runs):
            started = now()
            run(feeds)
            seconds.append(now() - started)
        gc.enable()
        return seconds

    def outputs(self, feeds: Feeds) -> dict[str, npt.NDArray[Any]]:
        """The outputs of the model."""
        return self._open().run(feeds)

    def peak(self) -> int | None:
        """The most bytes of physical memory this process ever held."""
        return resident("VmHWM")

    def precision(self) -> str:
        """What it computes in."""
        return self._open().precision

    def _open(self) -> Session:
        assert self._runner is not None
        return self._runner


def resident(which: str) -> int | None:
    """Bytes of physical memory of this process: ``VmRSS`` now, ``VmHWM`` at its peak.

    Linux's getrusage would count the process that started this one too.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith(f"{which}:"):
                return int(line.split()[1]) * 1024
    if which == "VmHWM" and sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def main() -> None:
    """Serve on stdin and stdout."""
    serve(Bench())
