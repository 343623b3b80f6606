"""The best values of the weights that are kept, output by output, by least squares on its support.

The problem is that of ``solve.pcg``, solved to the end: the normal equations of every output,
restricted to the inputs it keeps, by Cholesky. That is one factorisation per output instead of one
matrix product per iteration for all of them, so it is for small layers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.solve.least_squares import solve_symmetric
from onnxprune.solve.moments import Moments
from onnxprune.solve.pcg import RIDGES
from onnxprune.solve.refit import Refit, refit_masked

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Index = npt.NDArray[np.int64]

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


def refit_columns(
    train: Moments,
    held: Moments,
    weight: Array,
    keep: Bool,
    bias: Array,
    *,
    ridges: tuple[float, ...] = RIDGES,
    free_bias: bool = True,
) -> Refit:
    """The best of several repairs of one masked layer by the error on held-out rows.

    Args:
        train: moments of the rows that may be fitted to.
        held: moments of other rows, that decide.
        weight: ``[g, K, N]``, the weights before any was removed.
        keep: ``[g, K, N]``, the mask.
        bias: ``[g, N]``, the bias as it is.
        ridges: candidates, shares of the input variances.
        free_bias: whether the layer has a bias that may change.

    Returns:
        The winner per group among the masked weights, the same with a new bias, and the refits
        (``lstsq``).
    """
    masked = np.where(keep, weight, 0.0).astype(np.float64)

    def solve(xx: Float, xy: Float, ridge: float, outputs: slice | Index) -> Float:
        problems = zip(xx, xy, *(x[:, :, outputs] for x in (keep, weight)), strict=True)
        return np.stack([solve_columns(*each, ridge=ridge) for each in problems])

    tried = [("lstsq", ridge) for ridge in ridges]
    return refit_masked(train, held, masked, bias, tried, solve, free_bias=free_bias)
