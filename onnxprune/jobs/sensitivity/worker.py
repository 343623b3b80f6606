"""What runs where cells are measured; whoever measures reads a job once and keeps it."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

from onnxprune.jobs.sensitivity.job import Bench, Job, unpacked
from onnxprune.select.sensitivity import Cell

_KEPT: dict[str, Bench] = {}
"""The job at hand, by its key."""
_READING = threading.Lock()


def prepare() -> None:
    """Called once in every new process: an interrupt is the business of whoever started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def ready() -> None:
    """Does nothing, after importing what measuring takes."""
    from onnxprune.runtime.providers import runtime

    runtime()


def measure(job: str | bytes, key: str, target: str, ratio: float) -> Cell:
    """Measure one cell.

    Args:
        job: the packed job, or the path of a file that holds it.
        key: of the job.
        target: the row.
        ratio: the column.
    """
    with _READING:
        bench = _KEPT.get(key)
        if bench is None:
            _KEPT.clear()
            data = Path(job).read_bytes() if isinstance(job, str) else job
            bench = _KEPT[key] = Bench(unpacked(data))
    return bench.measure(target, ratio)


def hold(job: Job) -> None:
    """Get ready for a job that is in this process already."""
    _KEPT.clear()
    _KEPT[job.key] = Bench(job)


def forget() -> None:
    """Let go of the job."""
    _KEPT.clear()
