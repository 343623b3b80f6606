"""Criteria that need nothing but the stored weights.

All of them look at every weight that reads or writes the unit (``scales`` vectors, such as biases,
are no measure of how much signal a unit carries, and count only for ``bn-scale`` or where a group
has nothing else). A tensor's values are divided by their mean over the units before tensors are
averaged, so neither a tensor's magnitude nor their number matters: the mean score of a group is 1.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from onnxprune.select.criteria.registry import Inapplicable, criterion
from onnxprune.select.criteria.slices import F64, UnitSlice

_CHUNK = 1 << 24
"""Entries of a distance matrix held at once (128 MiB)."""


def weights_of(slices: Sequence[UnitSlice]) -> list[UnitSlice]:
    """What reads or writes the units, or, where nothing does, whatever else leaves with them.

    Raises:
        Inapplicable: nothing stored leaves with the units.
    """
    chosen = [s for s in slices if s.role != "scales"] or list(slices)
    if not chosen:
        raise Inapplicable("no stored float weight leaves with its units")
    return chosen


def relative(values: F64) -> F64:
    """Values divided by their mean: comparable between tensors. All zero where the mean is."""
    mean = float(np.mean(np.abs(values)))
    return values / mean if mean > 0 else np.zeros_like(values)


def averaged(tensors: Iterable[F64]) -> F64:
    """The mean over tensors of their relative values per unit."""
    return np.asarray(np.mean([relative(values) for values in tensors], axis=0))


def l1_norm(one: UnitSlice) -> F64:
    """``[units]``: sum of |w| over what leaves with a unit."""
    return one.total(np.abs(one.matrix).sum(axis=1, dtype=np.float64))


def square_norm(one: UnitSlice) -> F64:
    """``[units]``: sum of w^2 over what leaves with a unit."""
    return one.total(feature_squares(one))


def feature_squares(one: UnitSlice) -> F64:
    """``[features]``: the squared norm of the weights of each feature of the whole axis."""
    return np.asarray(np.einsum("fo,fo->f", one.matrix, one.matrix, dtype=np.float64))


@criterion("l1", claims=("comparable", "monotone"))
def l1(slices: Sequence[UnitSlice]) -> F64:
    """Sum of absolute weights.

    Source: Li et al., "Pruning filters for efficient convnets" (2017), over all coupled tensors.
    """
    return averaged(map(l1_norm, weights_of(slices)))


@criterion("l2", claims=("comparable", "monotone"))
def l2(slices: Sequence[UnitSlice]) -> F64:
    """Euclidean norm of the weights.

    Source: Fang et al., "DepGraph" (2023): the norm over all coupled tensors.
    """
    return averaged(np.sqrt(square_norm(s)) for s in weights_of(slices))


@criterion("lamp", claims=("comparable", "monotone"))
def lamp(slices: Sequence[UnitSlice]) -> F64:
    """Squared norm over the sum of all at least as large: comparable by construction.

    Units that tie share a score. Source: Lee et al., "Layer-adaptive sparsity for the
    magnitude-based pruning" (2021), equation 3, with units in the place of weights.
    """
    share = averaged(map(square_norm, weights_of(slices)))
    order = np.argsort(share, kind="stable")
    ascending = share[order]
    at_least = np.cumsum(ascending[::-1])[::-1]
    first = np.searchsorted(ascending, ascending, side="left")
    scores = np.empty_like(share)
    scores[order] = ascending / np.maximum(at_least[first], np.finfo(np.float64).tiny)
    return scores


@criterion("fpgm")
def fpgm(slices: Sequence[UnitSlice]) -> F64:
    """Distance to all other units: what is near the geometric median can be represented by them.

    Measured on the tensors that write the unit (its filters), as in the source; on those that read
    it where none writes it. Source: He et al., "Filter pruning via geometric median" (2019).
    """
    filters = [s for s in slices if s.role == "writes"] or weights_of(slices)
    return averaged(map(_distances, filters))


def _distances(one: UnitSlice) -> F64:
    """``[units]``: summed Euclidean distance to every other unit."""
    flat = one.weight.reshape(len(one.features), -1).astype(np.float64)
    square = np.einsum("uk,uk->u", flat, flat)
    total = np.empty(len(flat))
    step = max(_CHUNK // max(len(flat), 1), 1)
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        gap = square[part, None] + square - 2 * (flat[part] @ flat.T)
        total[part] = np.sqrt(np.maximum(gap, 0)).sum(axis=1)
    return total


@criterion("bn-scale", needs=("weights", "uses"), claims=("comparable", "monotone"))
def bn_scale(slices: Sequence[UnitSlice]) -> F64:
    """|gamma| of the BatchNormalization after the unit: network slimming.

    Not made relative: the source ranks the gammas of the whole network together. Where a unit
    passes several normalisations their mean counts. Source: Liu et al., "Learning efficient
    convolutional networks through network slimming" (2017).
    """
    gains = [s for s in slices if s.use == "BatchNormalization.scale"]
    if not gains:
        raise Inapplicable("no BatchNormalization scale leaves with its units")
    return np.asarray(np.mean([l1_norm(s) for s in gains], axis=0))


@criterion("random", needs=("weights", "seed"), claims=("comparable", "monotone"))
def random(slices: Sequence[UnitSlice], *, seed: int = 0) -> F64:
    """Uniform noise: the baseline every other criterion has to beat.

    A unit's value is drawn for its place in the group's first tensor, so it does not depend on the
    order in which units are listed.
    """
    first = weights_of(slices)[0]
    noise = np.random.default_rng([seed, zlib.crc32(first.tensor.encode()), first.axis])
    return noise.random(len(first.matrix))[first.features[:, 0]]
