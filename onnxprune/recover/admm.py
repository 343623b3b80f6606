"""Masks by alternating directions: the support is found together with the values on it.

    min_W  tr((W0 - W)^T G (W0 - W))   subject to   W has the pattern

split into a quadratic part (solved with one inverse) and the pattern (solved by keeping the
highest scores), tied by a penalty ``rho`` and a running dual. On inputs scaled to equal variance
this is the method of Boza ("Fast and Effective Weight Update for Pruned Large Language Models",
arXiv 2401.02938) and ALPS (Meng et al., arXiv 2406.07831). The right ``rho`` depends on how
correlated the inputs are, so it climbs a ladder: low rungs find the support, high rungs make it
final. The values are then best refitted by ``recover.pcg``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from onnxprune.recover.obs import Pattern, damped

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

LADDER = (0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
"""Penalties, climbed in order, for inputs scaled to variance one."""


def admm(
    weight: npt.NDArray[Any],
    xx: Float,
    pattern: Pattern,
    *,
    damping: float = 0.1,
    ladder: tuple[float, ...] = LADDER,
    iterations: int = 5,
) -> tuple[npt.NDArray[Any], Bool]:
    """Find a mask and first values for the weights it keeps.

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
    A = damped(xx, damping)
    scale = np.sqrt(np.diagonal(A))[:, None]
    A = A / (scale * scale.T)
    W = (weight * scale).astype(np.float32)
    wanted = A.astype(np.float32) @ W
    dual = np.zeros_like(W)
    keep = np.ones(W.shape, dtype=bool)
    rho_before = ladder[0]
    for rho in ladder:
        inverse = cho_solve(cho_factor(A + rho * np.eye(len(A))), np.eye(len(A)))
        inverse = inverse.astype(np.float32)
        dual *= rho_before / rho
        for _ in range(iterations):
            W -= dual
            W *= rho
            W += wanted
            dual += inverse @ W
            keep = pattern.keep(np.abs(dual))
            W = dual * keep
            dual -= W
        rho_before = rho
    return (W / scale).astype(weight.dtype), keep
