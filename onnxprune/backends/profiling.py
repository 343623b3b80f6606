"""Where a runtime spends its time, operator by operator, as it says itself."""

from __future__ import annotations

import bisect
import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.backends.interface import Feeds
from onnxprune.backends.ort import open_session
from onnxprune.backends.registry import Backend
from onnxprune.errors import OnnxpruneError

_KERNEL = "_kernel_time"
_BUDGET_S = 1.0
_FEWEST = 8

_Nodes = Mapping[tuple[str, str], float]
"""Seconds by name and kind of node."""


@dataclass(frozen=True)
class OperatorTime:
    """What runs of one kind of operator take in one run of the model.

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
        run_s: seconds of a run without the profiler, the median.
        operators: seconds of each kind of operator, the slowest first.
        gaps_s: seconds between operators.
    """

    backend: str
    run_s: float
    operators: tuple[OperatorTime, ...]
    gaps_s: float


def profile(chosen: Backend, path: Path, feeds: Feeds, *, threads: int | None = None) -> Profile:
    """Measure a model operator by operator.

    Args:
        chosen: onnxruntime with any provider, or OpenVINO.
        path: of the model.
        feeds: of every run.
        threads: of the runtime.

    Raises:
        OnnxpruneError: the backend is not available, refuses the model, or has no profiler that
            is known here.
    """
    family = chosen.name.partition(":")[0]
    if not (chosen.switch or family == "openvino"):  # onnxruntime's can turn optimisation off
        raise OnnxpruneError(f"{chosen.name} has no profiler that onnxprune reads")
    runner = chosen.open(path, threads=threads)
    runs = _seconds(lambda: runner.run(feeds))
    runner.close()
    count = max(_FEWEST, min(200, int(_BUDGET_S / float(np.median(runs)))))
    if family == "openvino":
        nodes = _openvino(chosen, path, feeds, threads, count)
        gaps = max(0.0, float(runs.min()) - sum(nodes.values()))
    else:
        nodes, gaps = _onnxruntime(chosen, path, feeds, threads, count)
    return Profile(chosen.name, float(np.median(runs)), _by_kind(nodes), gaps)


def _seconds(run: Callable[[], object]) -> npt.NDArray[np.float64]:
    """Seconds of each run, for a second after warming up."""
    for _ in range(3):
        run()
    found: list[float] = []
    end = time.perf_counter() + _BUDGET_S
    while len(found) < _FEWEST or (time.perf_counter() < end and len(found) < 2000):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return np.array(found)


def _onnxruntime(
    chosen: Backend, path: Path, feeds: Feeds, threads: int | None, count: int
) -> tuple[_Nodes, float]:
    """Seconds of every node, and between them."""
    name = chosen.name.removeprefix("ort-").partition(":")[0]
    with tempfile.TemporaryDirectory(prefix="onnxprune.") as folder:
        session = open_session(
            path, provider=name, threads=threads, profile=Path(folder) / "profile"
        )
        for _ in range(count + 1):
            session.run(feeds)
        events = json.loads(Path(session.handle.end_profiling()).read_text(encoding="utf-8"))
    starts = sorted(each["ts"] for each in events if each.get("name") == "model_run")
    nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
    gaps: dict[int, list[float]] = defaultdict(list)
    ends = list(starts)
    place = [0] * len(starts)
    kernels = (e for e in events if e.get("cat") == "Node" and e["name"].endswith(_KERNEL))
    for event in sorted(kernels, key=lambda each: each["ts"]):
        run = bisect.bisect_right(starts, event["ts"]) - 1
        if run < 1:  # the first run allocates
            continue
        nodes[event["name"], event["args"].get("op_name", "?")].append(event["dur"] * 1e-6)
        gaps[place[run]].append(max(0.0, (event["ts"] - ends[run]) * 1e-6))
        ends[run] = max(ends[run], event["ts"] + event["dur"])
        place[run] += 1
    return (
        {key: _quartile(times) for key, times in nodes.items()},
        sum(_quartile(times) for times in gaps.values()),
    )


def _openvino(chosen: Backend, path: Path, feeds: Feeds, threads: int | None, count: int) -> _Nodes:
    runner: Any = chosen.open(path, threads=threads, options={"PERF_COUNT": "YES"})
    nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
    for turn in range(count + 1):
        runner.run(feeds)
        for each in runner.profiling():
            seconds = each.real_time.total_seconds()
            if turn and seconds:
                nodes[each.node_name, each.node_type].append(seconds)
    runner.close()
    return {key: _quartile(times) for key, times in nodes.items()}


def _quartile(times: list[float]) -> float:
    return float(np.quantile(times, 0.25))


def _by_kind(nodes: _Nodes) -> tuple[OperatorTime, ...]:
    """Nodes of one kind together."""
    seconds: dict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    for (_, kind), each in nodes.items():
        seconds[kind] += each
        calls[kind] += 1
    rows = [OperatorTime(kind, calls[kind], total) for kind, total in seconds.items()]
    return tuple(sorted(rows, key=lambda row: -row.seconds))
