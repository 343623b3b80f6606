"""A cut model against the dense one, on the backend the budget is for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.backends.registry import Backend, Runner

Feeds = Mapping[str, npt.NDArray[Any]]
Float = npt.NDArray[np.float64]

_BLOCK = 0.02
"""Seconds one model runs before it is the other's turn: threads of both never wait together."""
_FEWEST = 7
"""Pairs of blocks, however long they take."""
_SETTLE = 2
"""Runs at the start of a block that do not count: caches hold what the other model left."""
_DRAWS = 2000
_LEVEL = 0.95


@dataclass(frozen=True)
class Compared:
    """How long two models take, measured in turn.

    Attributes:
        dense, pruned: median seconds of one run.
        ratio: median over pairs of blocks of pruned over dense.
        low, high: bootstrap interval of that median, 95 %.
        runs: of each model.
    """

    dense: float
    pruned: float
    ratio: float
    low: float
    high: float
    runs: int


class Stopwatch:
    """The dense model, open on a backend, against which others are measured.

    Args:
        backend: what runs them.
        model: the dense one.
        feeds: one set of inputs.
        threads: that the backend may use; None leaves it the choice.
    """

    def __init__(
        self, backend: Backend, model: models.Model, feeds: Feeds, threads: int | None = None
    ) -> None:
        self._backend, self._feeds, self._threads = backend, feeds, threads
        self._dense = self._open(model)

    def __call__(self, model: models.Model, seconds: float) -> Compared:
        """Measure a model for about so many seconds."""
        runner = self._open(model)
        try:
            return compare(
                lambda: self._dense.run(self._feeds), lambda: runner.run(self._feeds), seconds
            )
        finally:
            runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._dense.close()

    def _open(self, model: models.Model) -> Runner:
        shapes = ({name: array.shape for name, array in self._feeds.items()},)
        return self._backend.open(model, threads=self._threads, shapes=shapes)


def compare(
    dense: Callable[[], object], pruned: Callable[[], object], seconds: float, *, seed: int = 0
) -> Compared:
    """Time two functions in turn, in blocks, for about so many seconds."""
    for run in (dense, pruned):
        run()
    blocks: tuple[list[Float], list[Float]] = ([], [])
    end = time.perf_counter() + seconds
    while len(blocks[0]) < _FEWEST or time.perf_counter() < end:
        order = (0, 1) if len(blocks[0]) % 2 else (1, 0)
        for which in order:
            blocks[which].append(_block((dense, pruned)[which]))
    middle = [np.array([np.median(block) for block in each]) for each in blocks]
    ratios = middle[1] / middle[0]
    low, high = interval(ratios, seed=seed)
    return Compared(
        dense=float(np.median(middle[0])),
        pruned=float(np.median(middle[1])),
        ratio=float(np.median(ratios)),
        low=low,
        high=high,
        runs=min(sum(map(len, each)) for each in blocks),
    )


def _block(run: Callable[[], object]) -> Float:
    """Seconds of each run of one block."""
    for _ in range(_SETTLE):
        run()
    found: list[float] = []
    end = time.perf_counter() + _BLOCK
    while not found or time.perf_counter() < end:
        before = time.perf_counter()
        run()
        found.append(time.perf_counter() - before)
    return np.array(found)


def interval(ratios: Sequence[float] | Float, *, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the median of independent ratios, 95 %."""
    each = np.asarray(ratios, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(each), (_DRAWS, len(each)))
    medians = np.median(each[drawn], axis=1)
    low, high = np.quantile(medians, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)
