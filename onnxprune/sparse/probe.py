"""How far the damage of one layer moves what the model says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.evaluate.output_comparison import Comparison, OutputComparison
from onnxprune.graph.layers.epilogue import Epilogue, Weights
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.runtime import open_session
from onnxprune.solve.moments import Moments, with_targets
from onnxprune.sparse import shares
from onnxprune.sparse.rows import Feeds

Float = npt.NDArray[np.float64]

_SAMPLES = 64
"""Inputs looked at, rounded up to whole batches."""
_AT = 0.5
"""The share of a layer that is taken away."""


class Probe:
    """Thins one layer at a time of an otherwise dense model, and looks at the outputs.

    Args:
        model: it is left as it is.
        batches: feeds.
        provider: what runs the models.
    """

    def __init__(self, model: models.Model, batches: Sequence[Feeds], provider: str) -> None:
        self._dense = model
        self._provider = provider
        self._feeds: list[Feeds] = []
        for feeds in batches:
            if sum(_size(each) for each in self._feeds) < _SAMPLES:
                self._feeds.append(feeds)
        session = open_session(model, provider=provider)
        self._wanted = [session.run(feeds) for feeds in self._feeds]

    def weight_of(
        self, layer: LinearLayer, epilogue: Epilogue, weight: Float, rows: Moments, curve: Float
    ) -> float:
        """What one unit of a layer's damage costs at the outputs.

        Args:
            layer: the layer.
            epilogue: where its output counts.
            weight: ``[g, K, N]``, dense, in units of ``epilogue``.
            rows: moments of its inputs.
            curve: its damage at the shares of ``shares.GRID``.

        Returns:
            Divergence of the outputs (where they are class scores; else their squared relative
            error) over the damage, both with half of the weights gone.
        """
        made, _ = shares.thinned(layer, weight, with_targets(rows, weight), _AT)
        work = models.clone(self._dense)
        Weights(work).write(layer, made, epilogue=epilogue)
        session = open_session(work, provider=self._provider)
        compared = Comparison()
        for feeds, wanted in zip(self._feeds, self._wanted, strict=True):
            compared.add(wanted, session.run(feeds))
        moved = sum(_distance(each) for each in compared.result().values())
        damage = float(curve[shares.GRID.index(_AT)])
        return moved / max(damage, float(np.finfo(np.float64).tiny))


def _distance(found: OutputComparison) -> float:
    if found.kl is not None:
        return found.kl
    return 0.0 if found.relative_error is None else min(found.relative_error, 1e6) ** 2


def _size(feeds: Feeds) -> int:
    return len(next(iter(feeds.values())))
