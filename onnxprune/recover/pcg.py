"""The best values of the weights that are kept, for a given mask.

    min_W  E ||y - x W||^2 + ridge ||W - W0||^2   subject to   W = 0 where the mask is False

Every output has its own support, so no one factorisation serves them all; but the normal equations
of all outputs share the Gram matrix, so conjugate gradients on all of them at once cost one matrix
product per iteration. Steps are per output (each column is its own CG, unlike ALPS, Meng et al.,
arXiv 2406.07831, whose one step serves all), preconditioned by the Gram diagonal. There is no
inverse to fail, dead inputs are left alone, and five to ten iterations do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.recover.gram import Moments, merge, squared_error
from onnxprune.recover.least_squares import Refit, correct_bias

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

_DOUBLE = 1024
"""Up to this many inputs the iterations run in float64."""

_COLUMNS = 1024
"""Outputs solved for at a time: five arrays of ``K`` times this are in memory."""


def conjugate_gradients(
    xx: Float, xy: Float, keep: Bool, start: Array, *, ridge: float, iterations: int = 10
) -> Float:
    """Refit the kept weights of one layer.

    Args:
        xx: ``[K, K]``, the inputs' covariance or Gram matrix.
        xy: ``[K, N]``, the same of inputs and wanted outputs.
        keep: ``[K, N]``, the mask.
        start: ``[K, N]``; the iterations begin from it and the ridge pulls towards it.
        ridge: share of the mean diagonal of ``xx``.
        iterations: most steps per output.

    Returns:
        ``[K, N]``, zero where the mask is False; never worse in the objective than ``start``
        masked.
    """
    dtype: type[np.floating[Any]] = np.float64 if len(xx) <= _DOUBLE else np.float32
    diagonal = np.diagonal(xx).copy()
    penalty = ridge * float(diagonal.mean())
    A: Array = (xx + penalty * np.eye(len(xx))).astype(dtype)
    # A dead input has nothing to gain; a unit pivot keeps its step finite (and its residual 0).
    pivot: Array = np.where(diagonal + penalty > 0, diagonal + penalty, 1.0).astype(dtype)[:, None]
    result = np.empty(keep.shape, dtype=np.float64)
    for first in range(0, keep.shape[1], _COLUMNS):
        cut = slice(first, first + _COLUMNS)
        mask = keep[:, cut]
        W: Array = (start[:, cut] * mask).astype(dtype)
        wanted: Array = (xy[:, cut] + penalty * start[:, cut]).astype(dtype)
        R = (wanted - A @ W) * mask
        Z = R / pivot
        P = Z.copy()
        slope = np.einsum("kn,kn->n", R, Z)
        done = slope * np.finfo(dtype).eps ** 2
        for _ in range(iterations):
            if (slope <= done).all():
                break
            step = A @ P
            step *= mask
            curvature = np.einsum("kn,kn->n", P, step)
            alpha = np.divide(slope, curvature, out=np.zeros_like(slope), where=curvature > 0)
            W += alpha * P
            step *= alpha
            R -= step
            np.divide(R, pivot, out=Z)
            following = np.einsum("kn,kn->n", R, Z)
            P *= np.divide(following, slope, out=np.zeros_like(slope), where=slope > 0)
            P += Z
            slope = following
        result[:, cut] = W
    return result


def refit_support(
    train: Moments,
    held: Moments,
    weight: Array,
    keep: Bool,
    bias: Array,
    *,
    start: Array | None = None,
    ridge: float = 1e-2,
    iterations: int = 10,
    free_bias: bool = True,
) -> Refit:
    """Refit the kept weights of ``g`` problems if that lowers the error on held-out rows.

    Args:
        train: moments of the rows that may be fitted to.
        held: moments of other rows, that decide group by group.
        weight: ``[g, K, N]``, masked or not; what the ridge pulls towards.
        keep: ``[g, K, N]``, the mask.
        bias: ``[g, N]``.
        start: ``[g, K, N]``, weights that already make up for the removal, such as those of
            :func:`onnxprune.recover.obs.obs`; ``weight`` if None.
        ridge: share of the mean input variance.
        iterations: most steps per output.
        free_bias: whether the layer has a bias that may change.

    Returns:
        The winner per group among the masked start, the same with a new bias, and the refit.
    """
    masked = np.where(keep, weight if start is None else start, 0.0).astype(np.float64)
    old = bias.astype(np.float64)

    def solve(rows: Moments) -> tuple[Float, Float]:
        xx, xy = rows.xx, rows.xy
        if not free_bias:
            xx = xx + rows.mean_x[:, :, None] * rows.mean_x[:, None, :]
            xy = xy + rows.mean_x[:, :, None] * (rows.mean_y - old)[:, None, :]
        W = np.stack(
            [
                conjugate_gradients(
                    xx[g], xy[g], keep[g], masked[g], ridge=ridge, iterations=iterations
                )
                for g in range(len(xx))
            ]
        )
        return W, correct_bias(rows, W) if free_bias else old

    candidates = [("none", masked, old)]
    if free_bias:
        candidates.append(("bias", masked, correct_bias(train, masked)))
    candidates.append(("pcg", *solve(train)))
    errors = np.stack([squared_error(held, W, b).sum(axis=1) for _, W, b in candidates])
    best = np.argmin(errors, axis=0)
    everything = merge(train, held)
    new, shift = masked.copy(), old.copy()
    if (best == len(candidates) - 1).any():
        mine = best == len(candidates) - 1
        W, b = solve(everything)
        new[mine], shift[mine] = W[mine], b[mine]
    if free_bias and (best == 1).any():
        shift[best == 1] = correct_bias(everything, masked)[best == 1]
    variance = max(float(held.yy.sum()), np.finfo(np.float64).tiny)
    return Refit(
        new,
        shift,
        bool((best > 0).any()),
        tuple(candidates[i][0] for i in best),
        np.where(best == len(candidates) - 1, ridge, 0.0),
        float(errors[0].sum()) / variance,
        float(errors.min(axis=0).sum()) / variance,
    )
