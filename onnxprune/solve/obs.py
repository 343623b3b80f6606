"""Single weights removed the optimal-brain-surgeon way: mask and update in one sweep.

SparseGPT (Frantar and Alistarh, arXiv 2301.00774): inputs are visited one after the other; the
error of the weights removed at each is passed on to the inputs still to come through the Cholesky
factor of the inverse Gram matrix. Weights compete for removal by ``w^2 / c^2``, ``c`` the factor's
diagonal entry, within blocks of inputs.

Where the matrix is not positive definite the damping grows; llm-compressor's fallback to an
identity matrix would silently prune by magnitude. Inputs are visited in the stored order: visiting
them by variance, which helps GPTQ, was 20 to 40 % worse here, because weights compete within
blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, cho_solve, cholesky

from onnxprune.solve import masks
from onnxprune.solve.moments import require_finite

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

_BLOCK = 128
"""Inputs that compete with each other and whose updates are passed on together."""


@dataclass(frozen=True)
class Pattern:
    """What is removed: a share of the weights, or all but ``n`` of every ``m`` along the inputs.

    Attributes:
        sparsity: share removed; ignored if ``m`` is not 0.
        n: kept of every ``m`` consecutive inputs of each output.
        m: length of a group, 0 for none.
        per_output: whether every output loses the same share (no meaning under N:M).
    """

    sparsity: float = 0.0
    n: int = 0
    m: int = 0
    per_output: bool = False

    def keep(self, scores: npt.NDArray[Any]) -> Bool:
        """The mask for scores ``[K, N]``."""
        if self.m:
            return masks.keep_n_of_m(scores, self.n, self.m, axis=0)
        return masks.keep_top(scores, self.sparsity, within=(0,) if self.per_output else None)


def damped(xx: Float, damping: float) -> Float:
    """``xx`` with every diagonal entry raised by the share ``damping`` of itself.

    That is shrinkage towards uncorrelated inputs. In proportion to each entry, not to their mean,
    because then the outcome does not depend on the units the inputs are measured in: on inputs of
    unequal size a mean-sized damping of 0.1 cost 20 % in held-out error where this gained 10 %.
    Inputs that are zero throughout get a trace of the mean, so that a factor exists.
    """
    diagonal = np.diagonal(xx)
    trace = 1e-9 * float(diagonal.mean()) or 1.0
    return xx + np.diag(damping * diagonal + trace)


def inverse_factor(xx: Float, damping: float) -> Float:
    """The upper Cholesky factor of ``damped(xx, damping)^-1``.

    Damping grows tenfold for as long as the matrix is not numerically positive definite.
    """
    require_finite(xx)
    while damping < 1e4:
        try:
            lower = cholesky(damped(xx, damping), lower=True)
            return np.asarray(cholesky(cho_solve((lower, True), np.eye(len(xx))), lower=False))
        except LinAlgError:
            damping = max(damping * 10, 1e-8)
    raise LinAlgError("the Gram matrix has no positive definite neighbour")


def obs(
    weight: npt.NDArray[Any],
    xx: Float,
    pattern: Pattern,
    *,
    damping: float = 0.1,
) -> tuple[npt.NDArray[Any], Bool]:
    """Remove weights and make up for each removal with the inputs that follow.

    Args:
        weight: ``[K, N]``.
        xx: ``[K, K]``, the inputs' covariance or Gram matrix.
        pattern: what to remove.
        damping: share of its diagonal added to it.

    Returns:
        The updated weight (zero where removed, same dtype) and the mask.

    Raises:
        ValueError: if ``xx`` is not finite.
    """
    K = len(weight)
    factor = inverse_factor(xx, damping).astype(np.float32)
    W = weight.astype(np.float32)
    W[np.diagonal(xx) <= 0] = 0.0
    keep = np.ones(W.shape, dtype=bool)
    block = _BLOCK if not pattern.m else max(_BLOCK // pattern.m, 1) * pattern.m
    for start in range(0, K, block):
        stop = min(start + block, K)
        local = factor[start:stop, start:stop]
        part, kept = W[start:stop], keep[start:stop]
        pivots = np.diagonal(local)[:, None]
        if not pattern.m:
            kept[:] = pattern.keep((part / pivots) ** 2)
        errors = np.zeros_like(part)
        for i in range(stop - start):
            if pattern.m and i % pattern.m == 0:
                group = slice(i, i + pattern.m)
                kept[group] = pattern.keep((part[group] / pivots[group]) ** 2)
            np.multiply(part[i], ~kept[i], out=errors[i])
            errors[i] /= local[i, i]
            if i + 1 < stop - start:
                part[i + 1 :] -= local[i, i + 1 :, None] * errors[i]
        part *= kept
        W[stop:] -= factor[start:stop, stop:].T @ errors
    return W.astype(weight.dtype), keep
