"""Times of segments on one backend: each distinct segment is timed once and kept on disk."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnxprune import model as models
from onnxprune.data.cache import Cache
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.plan import versions
from onnxprune.runtime.registry import Backend, Timed
from onnxprune.select.latency.subgraph import (
    MOVED,
    End,
    Shapes,
    Subgraph,
    copies_of,
    copies_of_end,
    ends,
)

MOST = 50_000
"""Times that one file may hold; those not asked for the longest go first."""
_FORMAT = 2
"""Raised when times mean something else than before."""
_ENOUGH = 6e6
"""Multiply-accumulates that the copies of a segment should be together: some tenths of a
millisecond, next to which a call does not count, and which others seldom disturb."""
_COPIES = 8
_LEAST = 0.1
"""Part of a segment's time that is left to it, whatever it takes to make its outputs small."""
_LIMITS = (0.005, 0.3)
"""Seconds a segment is repeated for: at least, and at most where its time does not settle."""
_AGREE = (5, 0.03)
"""So many runs within so much of the fastest settle it: one alone may be luck."""


@dataclass(eq=False)
class Table:
    """Seconds by segment, on one backend with so many threads.

    Attributes:
        backend: what runs them.
        threads: that it may use; None leaves it the choice.
        times: seconds by `Subgraph.key`; NaN for what the backend does not take.
        doubted: keys of those that seemed wrong once and were timed again.
        timed: how many of them were timed anew.
    """

    backend: Backend
    threads: int | None = None
    times: dict[str, float] = field(default_factory=dict)
    doubted: set[str] = field(default_factory=set)
    timed: int = 0

    def __post_init__(self) -> None:
        self._call = 0.0

    def seconds(self, subgraph: Subgraph) -> float:
        """Seconds of a segment beside others; NaN where it cannot be timed."""
        if subgraph.key in self.times:
            self.times[subgraph.key] = self.times.pop(
                subgraph.key
            )  # asked for last: others go first
        else:
            self.times[subgraph.key] = self._timed(subgraph)
            self.timed += 1
        return self.times[subgraph.key]

    def again(self, subgraph: Subgraph) -> float:
        """Seconds of a doubtful segment: timed once more, and the faster time counts."""
        before = self.seconds(subgraph)
        if subgraph.key not in self.doubted:
            self.times[subgraph.key] = float(np.fmin(before, self._timed(subgraph)))
            self.doubted.add(subgraph.key)
            self.timed += 1
        return self.times[subgraph.key]

    def _timed(self, subgraph: Subgraph) -> float:
        try:
            self._call = self._call or self._time(*_nothing())
            seconds_ = self._each(lambda copies: copies_of(subgraph, copies), subgraph.work)
            after = sum(self._after(end, subgraph) for end in ends(subgraph))
        except OnnxpruneError:
            return float("nan")
        return max(seconds_ - after, seconds_ * _LEAST)

    def _after(self, end: End, subgraph: Subgraph) -> float:
        """What it takes to make an output of a segment small."""
        key = f"{end}"
        if key not in self.times:
            work = float(MOVED * prod(end.shape))
            self.times[key] = self._each(
                lambda copies: copies_of_end(end, subgraph.model.ir, copies), work
            )
        return self.times[key]

    def _each(self, model: Callable[[int], tuple[onnx.ModelProto, Shapes]], work: float) -> float:
        """What each copy in a model takes: of so many that the call around them hardly counts."""
        copies = int(np.clip(np.ceil(_ENOUGH / (work + 1)), 1, _COPIES))
        return max((self._time(*model(copies)) - self._call) / copies, 0.0)

    def _time(self, proto: onnx.ModelProto, shapes: Shapes) -> float:
        runner = self.backend.open(models.load(proto), threads=self.threads, shapes=(shapes,))
        feeds = {spec.name: _fed(spec.dtype, shapes[spec.name]) for spec in runner.inputs}
        try:
            if isinstance(runner, Timed):
                return float(min(runner.time(feeds, _AGREE[0])))
            return fastest(lambda: runner.run(feeds))
        finally:
            runner.close()


def fastest(run: Callable[[], object], limits: tuple[float, float] = _LIMITS) -> float:
    """Seconds of the fastest of several runs: what others do on the machine only slows them."""
    run()
    count, near = _AGREE
    start = time.perf_counter()
    seconds_: list[float] = []
    while True:
        before = time.perf_counter()
        run()
        now = time.perf_counter()
        insort(seconds_, now - before)
        settled = len(seconds_) >= count and seconds_[count - 1] <= seconds_[0] * (1 + near)
        if now - start > limits[1] or (settled and now - start > limits[0]):
            return seconds_[0]


def open_table(
    backend: Backend, threads: int | None, *, keep: bool, progress: Callable[[str], None]
) -> Table:
    """The table of a backend, with the times that are on disk if they are to be kept."""
    table = Table(backend, threads)
    if (stored := Cache("latency", progress, enabled=keep).get(_name(table))) is not None:
        table.times, table.doubted = stored["times"], set(stored["doubted"])
    return table


def keep_table(table: Table, progress: Callable[[str], None]) -> None:
    """Write what is in the table, with what others have written meanwhile."""
    if not table.timed:
        return
    others = open_table(table.backend, table.threads, keep=True, progress=lambda _: None)
    every = {**others.times, **table.times}
    latest = dict(list(every.items())[-MOST:])
    doubted = sorted((others.doubted | table.doubted) & latest.keys())
    Cache("latency", progress).put(_name(table), {"times": latest, "doubted": doubted})


def _of(table: Table) -> dict[str, object]:
    """What times depend on beside the segment."""
    return {
        "format": _FORMAT,
        "backend": table.backend.name,
        "version": table.backend.available().version,
        "onnxprune": versions().get("onnxprune", ""),
        "threads": table.threads,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
    }


def _name(table: Table) -> str:
    return hashlib.blake2b(repr(_of(table)).encode(), digest_size=16).hexdigest()


def _cpu() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags")
    return "|".join(next((x for x in lines if x.startswith(w)), "") for w in wanted)


def _fed(dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Small numbers; for integers, which are often positions in a table, zeros."""
    if dtype.kind in "iub":
        return np.zeros(shape, dtype)
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


def _nothing() -> tuple[onnx.ModelProto, Shapes]:
    """A model that does next to nothing: what a call takes."""
    graph = onnx.parser.parse_graph("nothing (float[1] x) => (float[1] y) { y = Neg(x) }")
    opset = onnx.helper.make_opsetid("", 13)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), {"x": (1,)}
