"""Time per operator, as reported by the runtime."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onnxprune.runtime.interface import Backend, Feeds, NodeTime, Profiled

_BUDGET_S = 1.0
_FEWEST = 8


@dataclass(frozen=True)
class OperatorTime:
    """The time of one kind of operator in one run of the model.

    Attributes:
        op: as the runtime calls it: fused and re-laid out kinds are its own.
        calls: in one run.
        seconds: of all of them.
    """

    op: str
    calls: int
    seconds: float


@dataclass(frozen=True)
class Profile:
    """One run of a model on a backend.

    On a machine that does other things too, most runs are interrupted, each in another place. So
    every node counts with the lower quartile of its times over the runs, and so does every gap.

    Attributes:
        backend: its name.
        precision: it computes in.
        run_s: seconds of a run without the profiler, the median.
        operators: seconds of each kind of operator, the slowest first.
        gaps_s: seconds between operators.
    """

    backend: str
    precision: str
    run_s: float
    operators: tuple[OperatorTime, ...]
    gaps_s: float


def profile(chosen: Backend, path: Path, feeds: Feeds, *, threads: int | None = None) -> Profile:
    """Measure a model operator by operator.

    Args:
        chosen: one that has the capability ``profile``.
        path: of the model.
        feeds: of every run.
        threads: of the runtime.

    Raises:
        OnnxpruneError: the backend is not available, refuses the model, or has no profiler.
    """
    session = chosen.open(path, threads=threads)
    runs = _seconds(lambda: session.run(feeds))
    precision = session.precision
    session.close()
    count = max(_FEWEST, min(200, int(_BUDGET_S / float(np.median(runs)))))
    observed = chosen.open(path, threads=threads, profile=True)
    try:
        assert isinstance(observed, Profiled)
        profiles = observed.profiled(feeds, count)
    finally:
        observed.close()
    nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
    for each in (node for run in profiles for node in run):
        nodes[each.name, each.op].append(each.seconds)
    seconds = {key: _quartile(times) for key, times in nodes.items()}
    gaps = _gaps(profiles)
    if gaps is None:
        gaps = max(0.0, float(runs.min()) - sum(seconds.values()))
    return Profile(chosen.name, precision, float(np.median(runs)), _by_kind(seconds), gaps)


def _gaps(runs: list[list[NodeTime]]) -> float | None:
    """Seconds between nodes; None where the runtime does not report their starts."""
    gaps: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        end = 0.0
        for place, node in enumerate(run):
            if node.start_s is None:
                return None
            gaps[place].append(max(0.0, node.start_s - end))
            end = max(end, node.start_s + node.seconds)
    return sum(_quartile(times) for times in gaps.values())


def _seconds(run: Callable[[], object]) -> npt.NDArray[np.float64]:
    """Seconds of each run, for a second after warming up."""
    for _ in range(3):
        run()
    seconds: list[float] = []
    end = time.perf_counter() + _BUDGET_S
    while len(seconds) < _FEWEST or (time.perf_counter() < end and len(seconds) < 2000):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return np.array(seconds)


def _quartile(times: list[float]) -> float:
    return float(np.quantile(times, 0.25))


def _by_kind(nodes: Mapping[tuple[str, str], float]) -> tuple[OperatorTime, ...]:
    """Nodes of one kind together."""
    seconds: dict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    for (_, kind), each in nodes.items():
        seconds[kind] += each
        calls[kind] += 1
    rows = [OperatorTime(kind, calls[kind], total) for kind, total in seconds.items()]
    return tuple(sorted(rows, key=lambda row: -row.seconds))
