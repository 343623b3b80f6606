"""Selects the weights of one layer to remove, and first values of the others.

Exactly as many go as are asked for, whatever the method: the optimal-brain-surgeon sweep of
``solve.obs`` rounds in every block of inputs, so its mask is settled afterwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.quantities import Method
from onnxprune.solve import masks
from onnxprune.solve.admm import admm
from onnxprune.solve.moments import Moments
from onnxprune.solve.obs import Pattern, damped, obs
from onnxprune.solve.support import SETTLED, conjugate_gradients

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

_RIDGE = 0.03
"""Share of the input variances that pulls towards the dense weights while they are aimed anew."""


def mask_of(layer: LinearLayer, scores: Array, pattern: Pattern) -> Bool:
    """The mask ``[g, K, N]`` for scores of that shape, groups of N:M along the channels."""
    if pattern.m:
        keep = np.empty(scores.shape, dtype=bool)
        order = layer.order
        keep[:, order] = masks.keep_n_of_m(scores[:, order], pattern.n, pattern.m, axis=1)
        return keep
    return masks.keep_top(scores, pattern.sparsity, within=(1,) if pattern.per_output else None)


def gram_of(rows: Moments, *, free_bias: bool) -> Float:
    """``[g, K, K]``: what an error of the weights costs; with its mean if no bias absorbs it."""
    if free_bias:
        return rows.xx
    return rows.xx + rows.mean_x[:, :, None] * rows.mean_x[:, None, :]


def refit_dense(rows: Moments, weight: Float, bias: Float, *, free_bias: bool) -> Float:
    """The best weights with none removed: what the mask then loses as little of as it can.

    With the inputs of a sparse model these are no longer the dense weights.
    """
    xx, xy = gram_of(rows, free_bias=free_bias), rows.xy
    if not free_bias:
        xy = xy + rows.mean_x[:, :, None] * (rows.mean_y - bias)[:, None, :]
    keep_all = np.ones(weight.shape[1:], dtype=bool)
    return np.stack(
        [
            conjugate_gradients(*each, ridge=_RIDGE, settled=SETTLED)
            for each in zip(xx, xy, [keep_all] * len(xx), weight, strict=True)
        ]
    )


def scores_of(method: Method, weight: Float, xx: Float | None) -> Float:
    """Scores of all weights, ``[g, K, N]``, from the moments of a layer."""
    if method == "magnitude" or xx is None:
        return masks.magnitude(weight)
    variance = np.diagonal(xx, axis1=1, axis2=2)
    norm = np.sqrt(variance)[:, :, None]
    if method == "ria":
        return np.stack([masks.ria(w, n, inputs=(0,)) for w, n in zip(weight, norm, strict=True)])
    if method == "wanda":
        return masks.wanda(weight, norm)
    inverse = np.stack([np.linalg.inv(damped(each, 0.1)) for each in xx])
    score: Float = weight**2 / np.diagonal(inverse, axis1=1, axis2=2)[:, :, None]
    return score


def select(
    layer: LinearLayer, method: Method, weight: Float, xx: Float | None, pattern: Pattern
) -> tuple[Float, Bool]:
    """Choose the weights to remove.

    Args:
        layer: the layer.
        method: how masks are found.
        weight: ``[g, K, N]``, dense.
        xx: ``[g, K, K]``, moments of its inputs; None without data, then it is by magnitude.
        pattern: the requested pattern.

    Returns:
        First values ``[g, K, N]``, not zero yet where removed, and the mask.
    """
    sweeps = {"sparsegpt": obs, "admm": admm}
    if xx is None or method not in sweeps or len(weight) > 1:
        return weight, mask_of(layer, scores_of(method, weight, xx), pattern)
    order = layer.order if pattern.m else np.arange(layer.shape[1])
    values, kept = sweeps[method](weight[0][order], xx[0][np.ix_(order, order)], pattern)
    start, keep = weight.copy(), np.empty(weight.shape, dtype=bool)
    start[0, order] = np.where(kept, values, weight[0][order])
    keep[0, order] = kept
    if pattern.m:
        return start, keep
    return start, _settle(layer, keep, scores_of("wanda", weight, xx), pattern)


def _settle(layer: LinearLayer, keep: Bool, scores: Float, pattern: Pattern) -> Bool:
    """The nearest mask with the exact number of zeros: the lowest scores go, the highest return."""
    return mask_of(layer, scores + keep * (2 * scores.max() + 1), pattern)
