"""Latency of a cut model against the dense one, on the backend of the budget.

Both are timed in turn, in processes of their own: see `onnxprune.evaluate.protocol`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.protocol import Case, Declined, Progress, Settings, measure
from onnxprune.model.files import ScratchFolder
from onnxprune.runtime.registry import Backend
from onnxprune.solve.bootstrap import ratio

Feeds = Mapping[str, npt.NDArray[Any]]

AIMING = Settings(processes=2, rounds=8, slice_s=0.02, warm_s=1.0)
"""For intermediate plans."""
FINAL = Settings(processes=4, rounds=10, slice_s=0.03, warm_s=2.0)
"""For the final result."""


@dataclass(frozen=True)
class Compared:
    """The latencies of two models, measured in turn.

    Attributes:
        dense, pruned: median seconds of one run.
        ratio: pruned over dense.
        low, high: the 95 % interval of the ratio.
        runs: fewest runs of a model.
    """

    dense: float
    pruned: float
    ratio: float
    low: float
    high: float
    runs: int


class Stopwatch:
    """Measures models against the dense one, which it keeps in a file; for a ``with`` statement.

    Args:
        backend: to run on.
        model: the dense one.
        feeds: one set of inputs.
        threads: number of threads; None leaves the choice to the backend.
        progress: called with a line of text at each stage of a measurement.
    """

    def __init__(
        self,
        backend: Backend,
        model: models.Model,
        feeds: Feeds,
        threads: int | None = None,
        progress: Progress = lambda _: None,
    ) -> None:
        self._progress = progress
        self._backend, self._feeds, self._threads = backend.name, feeds, threads
        self._folder = ScratchFolder()
        self._dense = models.save(model, Path(self._folder.name) / "dense.onnx")

    def __call__(self, model: models.Model | None, settings: Settings) -> Compared:
        """Measure a model; None measures the dense one against itself.

        Raises:
            OnnxpruneError: the backend cannot run one of them.
        """
        path = self._dense
        if model is not None:
            path = models.save(model, Path(self._folder.name) / "pruned.onnx")
        case = Case(self._backend, (self._dense, path), self._feeds, self._threads)
        timings = measure(case, settings, progress=self._progress)
        dense, pruned = timings
        for each in timings:
            if isinstance(each, Declined):
                raise OnnxpruneError(
                    f"latency cannot be measured on {self._backend}: {each.reason}", hint=each.hint
                )
        assert not isinstance(dense, Declined)
        assert not isinstance(pruned, Declined)
        between = ratio(dense.medians, pruned.medians, level=settings.level)
        return Compared(
            dense=float(np.median(dense.every)),
            pruned=float(np.median(pruned.every)),
            ratio=between.value,
            low=between.low,
            high=between.high,
            runs=min(len(dense.every), len(pruned.every)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()
