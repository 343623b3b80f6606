"""How much of every layer goes, so that the whole comes out as asked.

Under ``global`` all weights compete by their share of their layer's output. Under ``curves`` each
layer says what losing more costs after its other weights made up for it, and the zeros go where
they cost least; the curves are made convex first, which makes the greedy choice the best one.
Under ``sensitivity`` costs are in the currency of the model's outputs (``sparse.fisher``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.solve import masks
from onnxprune.solve.least_squares import correct_bias
from onnxprune.solve.moments import Moments, squared_error, with_targets
from onnxprune.solve.obs import Pattern
from onnxprune.solve.support import conjugate_gradients
from onnxprune.sparse.select import gram_of, mask_of, scores_of

Float = npt.NDArray[np.float64]

GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Shares at which a layer's damage is known; the last is the most it can lose."""
_MEASURED = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)
"""Those at which it is measured; in between its logarithm is taken for straight."""


def even(sizes: Sequence[int], share: float) -> list[int]:
    """The same share of every layer."""
    return [masks.removed_count(size, share) for size in sizes]


def by_scores(scores: Sequence[Float], share: float) -> list[int]:
    """What one threshold for all layers removes of each."""
    keeps = masks.keep_top_global(scores, share)
    return [int(keep.size - keep.sum()) for keep in keeps]


def errors(layer: LinearLayer, weight: Float, rows: Moments) -> Float:
    """What removing each share of ``GRID`` leaves wrong, ``[len(GRID), g, N]``: mean squares.

    Args:
        layer: the layer.
        weight: ``[g, K, N]``, dense.
        rows: moments of its inputs.
    """
    rows = with_targets(rows, weight)
    return np.stack([squared_error(rows, *thinned(layer, weight, rows, share)) for share in GRID])


def thinned(layer: LinearLayer, weight: Float, rows: Moments, share: float) -> tuple[Float, Float]:
    """A quick preview of a thinned layer: ``[g, K, N]`` and its bias ``[g, N]``, 0 if it has none.

    Args:
        layer: the layer.
        weight: ``[g, K, N]``, dense.
        rows: moments of its inputs, with its outputs (without bias) as targets.
        share: of its weights that go.
    """
    free = layer.bias_slot is not None
    xx = gram_of(rows, free_bias=free)
    keep = mask_of(layer, scores_of("wanda", weight, xx), Pattern(share))
    made = np.stack(
        [
            conjugate_gradients(a, a @ w, k, w, ridge=0.03, iterations=4)
            for a, w, k in zip(xx, weight, keep, strict=True)
        ]
    )
    return made, correct_bias(rows, made) if free else np.zeros(made.shape[::2])


def by_damage(sizes: Sequence[int], curves: Sequence[Float], share: float) -> list[int]:
    """How many weights each layer loses so that the sum of damages is least.

    Args:
        sizes: weights of each layer.
        curves: what each share of ``GRID`` costs it.
        share: of all weights together.

    Returns:
        Counts that add up to the exact total, or to what all can lose at most if that is less.
    """
    total = masks.removed_count(sum(sizes), share)
    pieces: list[tuple[float, int, int]] = []
    for index, (size, curve) in enumerate(zip(sizes, curves, strict=True)):
        at = [0] + [masks.removed_count(size, s) for s in GRID]
        for a, b in _hull(at, [0.0, *np.maximum.accumulate(curve)]):
            pieces.append(((b[1] - a[1]) / max(b[0] - a[0], 1), index, b[0] - a[0]))
    counts = [0] * len(sizes)
    for _, index, more in sorted(pieces, key=lambda piece: piece[0]):
        taken = min(more, total - sum(counts))
        counts[index] += taken
    return counts


def _hull(
    x: Sequence[int], y: Sequence[float]
) -> list[tuple[tuple[int, float], tuple[int, float]]]:
    """The edges of the lower convex hull of points with ascending ``x``."""
    hull: list[tuple[int, float]] = []
    for point in zip(x, y, strict=True):
        if hull and point[0] == hull[-1][0]:
            continue
        while len(hull) > 1 and _above(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return list(pairwise(hull))


def _above(a: tuple[int, float], b: tuple[int, float], c: tuple[int, float]) -> bool:
    """Whether ``b`` is on or above the line from ``a`` to ``c``."""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])
