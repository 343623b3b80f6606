"""The distance of a changed model's outputs from those of the dense one, as one number.

The squared error of each output, relative to how much that output varies from sample to sample (a
constant carries no information), added up over the outputs; an output assembled from several values
counts as these (``model.parts``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.runtime import open_session

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

_FLAT = 1e-6
"""The least variance that an error is relative to, as a share of the mean square."""


class OutputError:
    """Compares models with a dense one, on inputs that stay.

    Args:
        dense: the reference.
        batches: feeds; the dense model's outputs for them are kept.
        provider: execution provider.
        worst: cap on relative errors.
    """

    def __init__(
        self,
        dense: models.Model,
        batches: Sequence[Feeds],
        *,
        provider: str = "cpu",
        worst: float = math.inf,
    ) -> None:
        self._names = models.part_names(models.parts(dense))
        self._batches, self._provider, self._worst = batches, provider, worst
        self._wanted = [*self._run(dense)]
        self._names = [name for name in self._names if _numbers(self._wanted[0][name])]
        self._spread = {n: _spread([each[n] for each in self._wanted]) for n in self._names}

    @property
    def names(self) -> tuple[str, ...]:
        """The values that are compared."""
        return tuple(self._names)

    def of(self, model: models.Model) -> float:
        """The error of a model whose outputs have the names and sizes of the dense one's."""
        return self.distance(self._run(model))

    def distance(self, results: Iterable[Mapping[str, Array]]) -> float:
        """The same for outputs by name, batch by batch; those that are absent are unchanged."""
        gaps = dict.fromkeys(self._names, 0.0)
        for wanted, values in zip(self._wanted, results, strict=True):
            for name in (name for name in self._names if name in values):
                gaps[name] += _energy(values[name].astype(float) - wanted[name].astype(float))
        return sum(self._share(gap, self._spread[name]) for name, gap in gaps.items())

    def _share(self, gap: float, spread: float) -> float:
        if gap == 0:
            return 0.0
        most = self._worst**2
        return min(gap / spread, most) if spread > 0 and math.isfinite(gap) else most

    def _run(self, model: models.Model) -> Iterator[dict[str, Array]]:
        session = open_session(model, provider=self._provider, outputs=self._names, arena=False)
        return (session.run(feeds, self._names) for feeds in self._batches)


def _numbers(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind not in "OUS"


def _energy(array: Array) -> float:
    return float(np.square(array.astype(float)).sum())


def _spread(arrays: Sequence[Array]) -> float:
    """The sum of squares about the mean over samples, where samples can be told and compared."""
    energy = sum(map(_energy, arrays))
    count = sum(len(a) if a.ndim else 1 for a in arrays)
    if count < 2 or arrays[0].ndim == 0 or len({a.shape[1:] for a in arrays}) > 1:
        return energy
    mean = sum(a.astype(float).sum(axis=0) for a in arrays) / count
    return max(sum(_energy(a.astype(float) - mean) for a in arrays), _FLAT * energy)
