"""Criteria that know what removing a unit does to the outputs of its consumers.

Both are shares of the squared output of each consumer, added up over the consumers: one currency
for channels, heads and neurons of any layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.select.criteria.activation import consumers, share_of
from onnxprune.select.criteria.registry import Inapplicable, criterion
from onnxprune.select.criteria.slices import F64, UnitSlice
from onnxprune.select.criteria.weight import feature_squares

_RIDGE = 1e-4
"""Damping, as a share of the mean variance of the features."""
_CHUNK = 1 << 23
"""Entries gathered at once (64 MiB)."""


@criterion("output-error", needs=("weights", "inputs"), claims=("comparable", "pruning error"))
def output_error(slices: Sequence[UnitSlice]) -> F64:
    """E||W_j x_j||^2 of what a unit adds to each consumer: the error if nothing is repaired.

    Exact where the covariance was collected; features are taken as independent otherwise.
    """
    total = np.zeros(len(slices[0].features) if slices else 0)
    for one, inputs in consumers(slices):
        if inputs.covariance is None:
            lost = inputs.mean_square * feature_squares(one)
            total += share_of(one.total(lost), float(lost.sum()))
            continue
        mean = inputs.mean.reshape(inputs.blocks, -1)
        gram = inputs.covariance + mean[:, :, None] * mean[:, None, :]
        total += share_of(_quadratic(one, gram, inverse=False), _energy(one, gram))
    return total


@criterion("obs", needs=("weights", "covariance"), claims=("comparable", "pruning error"))
def obs(slices: Sequence[UnitSlice]) -> F64:
    """Rise of each consumer's squared error after the best refit of everything that stays.

    With ``H`` the damped covariance of the features and ``P = H^-1``, removing the features ``j``
    of a unit and refitting raises the error by exactly ``tr(W_j^T P_jj^-1 W_j)``. Single shot: each
    unit is judged as if it went alone. Consumers without a covariance are left out of the sum.
    Source: Hassibi and Stork, "Second order derivatives for network pruning" (1993), for blocks of
    weights.
    """
    total = np.zeros(len(slices[0].features) if slices else 0)
    known = [(s, x) for s, x in consumers(slices) if x.covariance is not None]
    if not known:
        raise Inapplicable("no covariance was collected at its consumers' inputs")
    for one, inputs in known:
        assert inputs.covariance is not None
        ridge = _RIDGE * float(np.mean(np.maximum(inputs.var, 0)))
        if ridge == 0:
            continue  # constant inputs: a bias replaces every unit
        damped = inputs.covariance + ridge * np.eye(inputs.covariance.shape[1])
        spread = np.asarray(np.linalg.inv(damped), np.float64)
        total += share_of(_quadratic(one, spread, inverse=True), _energy(one, damped))
    return total


def _energy(one: UnitSlice, gram: F64) -> float:
    """The summed square of the outputs: tr(W^T G W) over all features, ``gram`` [blocks, k, k]."""
    weight = one.matrix.reshape(*gram.shape[:2], -1).astype(np.float64)
    return float(np.einsum("bkn,bkn->", weight, gram @ weight))


def _quadratic(one: UnitSlice, form: F64, *, inverse: bool) -> F64:
    """``[units]``: tr(W_j^T A_j W_j), where A_j is the unit's own part of ``form``, or its inverse.

    Args:
        one: the tensor.
        form: symmetric ``[blocks, k, k]``; features of different blocks do not meet.
        inverse: invert each unit's part before it is applied.
    """
    units, own = one.features.shape
    total = np.empty(units)
    step = max(_CHUNK // max(own * max(own, one.matrix.shape[1]), 1), 1)
    for start in range(0, units, step):
        block, local = np.divmod(one.features[start : start + step], form.shape[1])
        part = form[block[:, :, None], local[:, :, None], local[:, None, :]]
        part = np.where(block[:, :, None] == block[:, None, :], part, 0.0)
        weight = one.matrix[one.features[start : start + step]].astype(np.float64)
        applied = np.linalg.solve(part, weight) if inverse else part @ weight
        total[start : start + step] = np.einsum("ukn,ukn->u", weight, applied)
    return np.maximum(total, 0)
