"""The best values of the kept weights for a given mask.

    min_W  E ||y - x W||^2 + ridge ||D^1/2 (W - W0)||^2   subject to   W = 0 where the mask is False

with ``D`` the variances of the inputs and ``W0`` the weights before any was removed.

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

from onnxprune.solve.least_squares import solve_symmetric
from onnxprune.solve.moments import Moments
from onnxprune.solve.refit import Refit, refit_masked

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Index = npt.NDArray[np.int64]

RIDGES = (0.03, 0.1, 0.3)
"""Shares of the input variances that are tried as ridges."""

_FIRM = 0.01
"""Ridges from which on float32 does: no eigenvalue is then further below the diagonal."""

_SMALL = 128
"""Inputs up to which float64 costs little."""

_COLUMNS = 1024
"""Outputs solved for at a time: five arrays of ``K`` times this are in memory."""

SETTLED = 1e-3
"""Iterations end when what they can still gain is this share of what they could at first."""


def conjugate_gradients(
    xx: Float,
    xy: Float,
    keep: Bool,
    old: Array,
    start: Array | None = None,
    *,
    ridge: float,
    iterations: int = 10,
    settled: float = 0.0,
) -> Float:
    """Refit the kept weights of one layer.

    Args:
        xx: ``[K, K]``, the inputs' covariance or Gram matrix.
        xy: ``[K, N]``, the same of inputs and wanted outputs.
        keep: ``[K, N]``, the mask.
        old: ``[K, N]``, what the ridge pulls towards.
        start: ``[K, N]``, where the iterations begin; ``old`` if None.
        ridge: share of each input's own variance, see :func:`onnxprune.solve.obs.damped`.
        iterations: most steps per output.
        settled: share of the first squared gradient, in units of the preconditioner, at which they
            end.

    Returns:
        ``[K, N]``, zero where the mask is False; never worse in the objective than the start
        masked.
    """
    single = ridge >= _FIRM and len(xx) > _SMALL
    dtype: type[np.floating[Any]] = np.float32 if single else np.float64
    penalty = ridge * np.diagonal(xx)[:, None]
    A: Array = xx.astype(dtype)
    A[np.diag_indices(len(A))] += penalty[:, 0].astype(dtype)
    # What a dead input would gain is rounding: a pivot below that of the others' keeps it small.
    pivot: Array = np.diagonal(A).copy()[:, None]
    pivot = 1 / np.maximum(pivot, np.finfo(dtype).eps * float(pivot.mean()) or 1.0)
    result = np.empty(keep.shape, dtype=np.float64)
    for first in range(0, keep.shape[1], _COLUMNS):
        cut = slice(first, first + _COLUMNS)
        mask = keep[:, cut]
        W: Array = ((old if start is None else start)[:, cut] * mask).astype(dtype)
        wanted: Array = (xy[:, cut] + penalty * old[:, cut]).astype(dtype)
        R = (wanted - A @ W) * mask
        Z = R * pivot
        P = Z.copy()
        slope = np.einsum("kn,kn->n", R, Z)
        done = slope * np.finfo(dtype).eps ** 2
        total = settled * float(slope.sum())
        for _ in range(iterations):
            if (slope <= done).all() or float(slope.sum()) < total:
                break
            step = A @ P
            step *= mask
            curvature = np.einsum("kn,kn->n", P, step)
            alpha = np.divide(slope, curvature, out=np.zeros_like(slope), where=curvature > 0)
            step *= alpha
            R -= step
            np.multiply(P, alpha, out=step)
            W += step
            np.multiply(R, pivot, out=Z)
            following = np.einsum("kn,kn->n", R, Z)
            P *= np.divide(following, slope, out=np.zeros_like(slope), where=slope > 0)
            P += Z
            slope = following
        result[:, cut] = W
    return result


def refit_support(
    train: Moments,
    holdout: Moments,
    weight: Array,
    keep: Bool,
    bias: Array,
    *,
    start: Array | None = None,
    ridges: tuple[float, ...] = RIDGES,
    iterations: int = 10,
    exact: bool = False,
    free_bias: bool = True,
) -> Refit:
    """Refit the kept weights of ``g`` problems if that lowers the error on held-out rows.

    Args:
        train: moments of the rows that may be fitted to.
        holdout: moments of other rows, that decide group by group.
        weight: ``[g, K, N]``, the weights before anything was removed; the ridge pulls towards
            them.
        keep: ``[g, K, N]``, the mask.
        bias: ``[g, N]``.
        start: ``[g, K, N]``, weights that already make up for the removal, such as those of
            :func:`onnxprune.solve.obs.obs`; ``weight`` if None.
        ridges: candidates, shares of each input's own variance.
        iterations: most steps per output.
        exact: solve output by output, from the masked weights, instead of iterating: see
            :func:`affordable`.
        free_bias: whether the layer has a bias that may change.

    Returns:
        The winner per group among the masked start, the same with a new bias, and the refits
        (``pcg``, or ``lstsq`` if exact); of a layer with many outputs, some of them decide.
    """
    start = weight if start is None or exact else start
    masked = np.where(keep, start, 0.0).astype(np.float64)

    def solve(xx: Float, xy: Float, ridge: float, outputs: slice | Index) -> Float:
        parts = (x[:, :, outputs] for x in (keep, weight, masked))
        return np.stack([fit(*each, ridge=ridge) for each in zip(xx, xy, *parts, strict=True)])

    def fit(xx: Float, xy: Float, keep: Bool, old: Array, start: Array, *, ridge: float) -> Float:
        if exact:
            return solve_columns(xx, xy, keep, old, ridge=ridge)
        return conjugate_gradients(
            xx, xy, keep, old, start, ridge=ridge, iterations=iterations, settled=SETTLED
        )

    tried = [("lstsq" if exact else "pcg", ridge) for ridge in ridges]
    return refit_masked(train, holdout, masked, bias, tried, solve, free_bias=free_bias)


_AFFORDABLE = 2e10
"""Multiplications of all factorisations of a layer up to which it counts as small."""


def affordable(keep: Bool) -> bool:
    """Whether a layer with this mask ``[g, K, N]`` is small enough to be solved by outputs."""
    sizes = keep.sum(axis=1, dtype=np.float64)
    return float((sizes**3).sum()) / 3 <= _AFFORDABLE


def solve_columns(xx: Float, xy: Float, keep: Bool, old: Array, *, ridge: float) -> Float:
    """The minimiser on the support of every output.

    Args:
        xx: ``[K, K]``, the inputs' covariance or Gram matrix.
        xy: ``[K, N]``, the same of inputs and wanted outputs.
        keep: ``[K, N]``, the mask.
        old: ``[K, N]``, what the ridge pulls towards.
        ridge: share of each input's own variance.

    Returns:
        ``[K, N]``, zero where the mask is False, and ``old`` for inputs that are always 0.
    """
    penalty = ridge * np.diagonal(xx)
    A = xx + np.diag(penalty)
    wanted = xy + penalty[:, None] * old
    alive = np.diagonal(xx) > 0
    result = np.where(keep, old, 0.0).astype(np.float64)
    for n in range(keep.shape[1]):
        rows = np.flatnonzero(keep[:, n] & alive)
        if len(rows):
            solved = solve_symmetric(A[None, rows[:, None], rows], wanted[None, rows, n : n + 1])
            result[rows, n] = solved[0, :, 0]
    return result
