"""Masks by alternating directions: the support is found together with the values on it.

    min_W  tr((W0 - W)^T G (W0 - W))   subject to   W has the pattern

split into a quadratic part (solved with one inverse) and the pattern (solved by keeping the
highest scores), tied by a penalty ``rho`` and a running dual. On inputs scaled to equal variance
this is the method of Boza ("Fast and Effective Weight Update for Pruned Large Language Models",
arXiv 2401.02938) and ALPS (Meng et al., arXiv 2406.07831). The right ``rho`` depends on how
correlated the inputs are, so it climbs a ladder: low rungs find the support, high rungs make it
final. The values are then best refitted by ``solve.support``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, lapack

from onnxprune.solve.obs import Pattern, damped

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

LADDER = (0.02, 0.05, 0.12, 0.3, 0.7)
"""Penalties, climbed in order, for inputs scaled to variance one."""


def admm(
    weight: npt.NDArray[Any],
    xx: Float,
    pattern: Pattern,
    *,
    damping: float = 0.1,
    ladder: tuple[float, ...] = LADDER,
    iterations: int = 4,
) -> tuple[npt.NDArray[Any], Bool]:
    """Find a mask and first values for the weights it keeps.

    All in float32: scaled to variance one and damped, the matrices are well-conditioned.

    Args:
        weight: ``[K, N]``.
        xx: ``[K, K]``, the inputs' covariance or Gram matrix.
        pattern: what to remove.
        damping: share of its diagonal added to it.
        ladder: penalties.
        iterations: steps on each rung.

    Returns:
        The weight (zero where removed, same dtype) and the mask.
    """
    exact = damped(xx, damping)
    scale = np.sqrt(np.diagonal(exact))[:, None]
    exact /= scale
    exact /= scale.T
    A = exact.astype(np.float32)
    W = (weight * scale).astype(np.float32)
    wanted = A @ W
    dual = np.zeros_like(W)
    keep = np.ones(W.shape, dtype=bool)
    rho_before = ladder[0]
    for rho in ladder:
        inverse = _inverse(A, rho)
        dual *= np.float32(rho_before / rho)
        for _ in range(iterations):
            W -= dual
            W *= np.float32(rho)
            W += wanted
            dual += inverse @ W
            keep = pattern.keep(np.abs(dual))
            np.multiply(dual, keep, out=W)
            dual -= W
        rho_before = rho
    return (W / scale).astype(weight.dtype), keep


def _inverse(A: npt.NDArray[np.float32], rho: float) -> npt.NDArray[np.float32]:
    """``(A + rho I)^-1``.

    Raises:
        LinAlgError: it has none.
    """
    shifted = np.array(A, order="F")
    shifted[np.diag_indices(len(A))] += np.float32(rho)
    factor, failed = lapack.spotrf(shifted, lower=1, overwrite_a=1, clean=1)
    if failed:
        raise LinAlgError("the Gram matrix is not positive definite")
    half = lapack.spotri(factor, lower=1, overwrite_c=1)[0]  # what is above it is 0
    inverse: npt.NDArray[np.float32] = half + half.T
    inverse[np.diag_indices(len(A))] /= 2
    return inverse
