"""The best remaining weights in closed form: ridge regression towards the old ones.

    min_{W, b}  E ||y - x W - b||^2  +  ridge * mean(diag E[x x^T]) * ||W - W0||^2

solved in float64 from second moments alone. ``g`` independent problems are solved side by side: one
for a dense layer, one per group of a grouped convolution, one per channel (``K`` = kernel area) of
a depthwise one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh

from onnxprune.solve.moments import Moments, require_finite

Float = npt.NDArray[np.float64]


_SMALL = 64
"""Problems up to this size are solved in one batched call."""


def solve_symmetric(A: Float, B: Float) -> Float:
    """``A^-1 B`` for symmetric positive (semi-)definite ``A``.

    Args:
        A: ``[g, K, K]``.
        B: ``[g, K, N]``.

    Returns:
        ``[g, K, N]``; by Cholesky factors, or from the eigenvectors whose eigenvalues are not
        numerically zero where a factor does not exist.

    Raises:
        OnnxpruneError: values overflowed.
    """
    require_finite(B)
    if A.shape[1] <= _SMALL < A.shape[0] * A.shape[1]:
        try:
            np.linalg.cholesky(A)  # solve() alone would not notice a problem that is not definite
        except np.linalg.LinAlgError:
            pass
        else:
            return np.asarray(np.linalg.solve(A, B), dtype=np.float64)
    return np.stack([_solve_one(a, b) for a, b in zip(A, B, strict=True)])


def _solve_one(A: Float, B: Float) -> Float:
    return solver(A)(B)


def solver(A: Float) -> Callable[[Float], Float]:
    """What multiplies with the inverse of a symmetric positive (semi-)definite ``[K, K]``.

    The matrix is factored once, as :func:`solve_symmetric` says.
    """
    require_finite(A)
    try:
        factor = cho_factor(A, lower=True)
    except LinAlgError:
        pass
    else:
        return lambda B: np.asarray(cho_solve(factor, B))
    values, vectors = eigh(A)
    floor = values[-1] * len(values) * np.finfo(np.float64).eps
    inverse = np.divide(1.0, values, out=np.zeros_like(values), where=values > max(floor, 0.0))
    return lambda B: np.asarray(vectors @ (inverse[:, None] * (vectors.T @ B)))


def ridge_regression(
    train: Moments, weight: npt.NDArray[Any], ridge: float | Float, bias: Float | None = None
) -> tuple[Float, Float]:
    """The minimiser of the problem in the module docstring.

    Args:
        train: moments of ``g`` problems.
        weight: ``[g, K, N]``, what the ridge pulls towards.
        ridge: share of the mean input variance, one or ``[g]``.
        bias: ``[g, N]`` if the bias is given and must stay, None if it is free.

    Returns:
        ``W`` ``[g, K, N]`` and ``b`` ``[g, N]``.
    """
    xx, xy = train.xx, train.xy
    if bias is not None:
        xx = xx + train.mean_x[:, :, None] * train.mean_x[:, None, :]
        xy = xy + train.mean_x[:, :, None] * (train.mean_y - bias)[:, None, :]
    diagonal = np.diagonal(xx, axis1=1, axis2=2)
    # Where nothing varies at all, the smallest penalty there is keeps the old weights.
    penalty = np.asarray(ridge) * diagonal.mean(axis=1) + np.finfo(np.float64).tiny
    damped, at = xx.copy() if xx is train.xx else xx, np.arange(xx.shape[1])
    damped[:, at, at] += penalty[:, None]
    W = solve_symmetric(damped, xy + penalty[:, None, None] * weight.astype(np.float64))
    if bias is not None:
        return W, bias
    return W, train.mean_y - np.einsum("gk,gkn->gn", train.mean_x, W)


def correct_bias(train: Moments, weight: npt.NDArray[Any]) -> Float:
    """``[g, N]``: the bias under which the mean output is right for these weights."""
    offset: Float = train.mean_y - np.einsum("gk,gkn->gn", train.mean_x, weight.astype(np.float64))
    return offset


def rescale(train: Moments, weight: npt.NDArray[Any]) -> tuple[Float, Float]:
    """The best scale and bias per output, ``y = a_n (x W)_n + b_n``, folded into the weights."""
    W = weight.astype(np.float64)
    wanted = np.einsum("gkn,gkn->gn", W, train.xy)
    target = np.einsum("gkn,gkn->gn", W, train.xx @ W)
    scale = np.divide(wanted, target, out=np.ones_like(wanted), where=target > 0)
    scaled = W * scale[:, None, :]
    return scaled, correct_bias(train, scaled)
