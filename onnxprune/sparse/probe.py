"""A quick preview of sparse layers: what is wrong in one, and how far that moves the outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.evaluate.output_comparison import Comparison, OutputComparison
from onnxprune.graph.layers.epilogue import Epilogue, Weights
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.runtime import open_session
from onnxprune.solve.least_squares import correct_bias
from onnxprune.solve.moments import Moments, squared_error, with_targets
from onnxprune.solve.obs import Pattern
from onnxprune.solve.support import conjugate_gradients
from onnxprune.sparse.rows import Feeds
from onnxprune.sparse.select import gram_of, mask_of, scores_of

Float = npt.NDArray[np.float64]

GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Shares at which a layer's error is known; the last is the most it can lose."""
_SAMPLES = 64
"""Inputs looked at, rounded up to whole batches."""
_AT = 0.5
"""The share of a layer that is removed."""


def errors_of(layer: LinearLayer, weight: Float, rows: Moments) -> Float:
    """Mean squared errors after removing each share of ``GRID``, ``[len(GRID), g, N]``.

    Args:
        layer: the layer.
        weight: ``[g, K, N]``, dense.
        rows: moments of its inputs.
    """
    if rows.xx.ndim == 2:
        return _errors_apart(layer, weight, rows)
    rows = with_targets(rows, weight)
    return np.stack(
        [squared_error(rows, *preview_layer(layer, weight, rows, share)) for share in GRID]
    )


def _errors_apart(layer: LinearLayer, weight: Float, rows: Moments) -> Float:
    """The same where only variances of inputs are known, and nothing makes up for what goes."""
    energy = weight**2 * rows.second[:, :, None]
    keeps = (mask_of(layer, energy, Pattern(share)) for share in GRID)
    return np.stack([np.where(keep, 0.0, energy).sum(axis=1) for keep in keeps])


def preview_layer(
    layer: LinearLayer, weight: Float, rows: Moments, share: float
) -> tuple[Float, Float]:
    """A sparse layer, refitted quickly: ``[g, K, N]`` and its bias ``[g, N]``, 0 if it has none.

    Args:
        layer: the layer.
        weight: ``[g, K, N]``, dense.
        rows: moments of its inputs, with its outputs (without bias) as targets.
        share: part of its weights that is removed.
    """
    free = layer.bias_slot is not None
    xx = gram_of(rows, free_bias=free)
    keep = mask_of(layer, scores_of("wanda", weight, xx), Pattern(share))
    preview = np.stack(
        [
            conjugate_gradients(a, a @ w, k, w, ridge=0.03, iterations=4)
            for a, w, k in zip(xx, weight, keep, strict=True)
        ]
    )
    return preview, correct_bias(rows, preview) if free else np.zeros(preview.shape[::2])


class Probe:
    """Makes one layer at a time of a dense model sparse, and compares the outputs.

    Args:
        model: the dense model; it is not changed.
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
        """What one unit of a layer's error costs at the outputs.

        Args:
            layer: the layer.
            epilogue: where its output counts.
            weight: ``[g, K, N]``, dense, in units of ``epilogue``.
            rows: moments of its inputs.
            curve: its errors at the shares of ``GRID``.

        Returns:
            Divergence of the outputs (where they are class scores; else their squared relative
            error) over the layer's error, both with half of the weights removed.
        """
        preview, _ = preview_layer(layer, weight, with_targets(rows, weight), _AT)
        work = models.clone(self._dense)
        Weights(work).write(layer, preview, epilogue=epilogue)
        session = open_session(work, provider=self._provider)
        compared = Comparison()
        for feeds, dense_outputs in zip(self._feeds, self._wanted, strict=True):
            compared.add(dense_outputs, session.run(feeds))
        moved = sum(_distance(each) for each in compared.result().values())
        error = float(curve[GRID.index(_AT)])
        return moved / max(error, float(np.finfo(np.float64).tiny))


def _distance(comparison: OutputComparison) -> float:
    if comparison.kl is not None:
        return comparison.kl
    return 0.0 if comparison.relative_error is None else min(comparison.relative_error, 1e6) ** 2


def _size(feeds: Feeds) -> int:
    return len(next(iter(feeds.values())))
