"""Channel permutation for N:M: which inputs share a group is free where a layer's inputs are.

Reordering the inputs of a layer, together with whatever produces them, changes nothing that the
model computes, but it changes which weights compete inside a group of ``m``. The search is that of
RIA (Zhang et al., "Plug-and-Play", ICLR 2024): channels are first dealt out so that the important
ones do not share groups, then, slot by slot, one member of every group is taken out and all are
put back in the best way at once, which is a linear assignment problem.

Putting channel ``c`` back into a group whose other members have the ``n``-th highest score ``t``
keeps ``constant + max(t, score of c)`` per output, so the whole benefit matrix is one reduction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.solve.masks import keep_n_of_m

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]

_ENTRIES = 1 << 22
"""Entries of the benefit matrix' intermediate held at a time."""


@dataclass(frozen=True, eq=False)
class Permutation:
    """An order of the inputs.

    Attributes:
        order: ``[K]``; position ``i`` takes what was input ``order[i]``.
        before: share of the total score the pattern keeps in the order given.
        after: the same in the new order, never less.
    """

    order: Index
    before: float
    after: float


def kept_share(scores: Array, n: int, m: int) -> float:
    """The share of the total score that N:M along the first axis keeps."""
    total = float(scores.sum(dtype=np.float64))
    if total <= 0:
        return 1.0
    kept = scores[keep_n_of_m(scores, n, m, axis=0)]
    return float(kept.sum(dtype=np.float64)) / total


def _deal(scores: Array, m: int) -> Index:
    """Groups ``[K/m, m]`` with every rank of importance spread evenly over the groups."""
    ranked = np.argsort(-scores.sum(axis=1), kind="stable")
    return ranked.reshape(m, -1).T.copy()


def _benefits(threshold: Array, candidates: Array) -> Array:
    """``[G, C]``: the sum over outputs of ``max(threshold[g], candidates[c])``."""
    groups, outputs = threshold.shape
    benefit = np.empty((groups, len(candidates)), dtype=np.float64)
    step = max(_ENTRIES // (len(candidates) * outputs), 1)
    for start in range(0, groups, step):
        part = threshold[start : start + step, None, :]
        benefit[start : start + step] = np.maximum(part, candidates[None]).sum(axis=2)
    return benefit


def _reassign(scores: Array, groups: Index, n: int, slot: int) -> Index:
    """Take the members at ``slot`` out of all groups and put them back in the best way."""
    others = np.delete(groups, slot, axis=1)
    resident = scores[others]
    if n == others.shape[1] + 1:
        return groups
    # The n-th highest of the residents: what a newcomer must beat.
    threshold = np.partition(resident, others.shape[1] - n, axis=1)[:, others.shape[1] - n]
    benefit = _benefits(threshold, scores[groups[:, slot]])
    from scipy.optimize import linear_sum_assignment  # slow to import, and seldom needed

    rows, columns = linear_sum_assignment(benefit, maximize=True)
    moved = groups.copy()
    moved[rows, slot] = groups[columns, slot]
    return moved


def permute(
    scores: Array, n: int, m: int, *, rounds: int = 2, outputs: int = 512, seed: int = 0
) -> Permutation:
    """An order of the inputs under which N:M keeps more of the score.

    Args:
        scores: ``[K, N]``, score of each weight (the higher the better): magnitude, Wanda's or
            OBS. All layers that read the inputs are laid side by side in ``N``, as are the
            positions of a kernel. ``K`` must be a multiple of ``m``.
        n: kept of every group.
        m: length of a group.
        rounds: how often each of the ``m`` slots is reassigned, at most; it stops when a whole
            round brings nothing.
        outputs: columns the search looks at, drawn at random; the outcome is judged on all.
        seed: seed of that draw.

    Returns:
        The better of the order found and the order given.

    Raises:
        ValueError: if ``K`` is not a multiple of ``m``.
    """
    K, N = scores.shape
    if K % m:
        raise ValueError(f"{K} inputs cannot be grouped by {m}")
    stay = np.arange(K, dtype=np.int64)
    before = kept_share(scores, n, m)
    if m in (n, K):
        return Permutation(stay, before, before)
    drawn = scores
    if outputs < N:
        chosen = np.random.default_rng(seed).choice(N, outputs, replace=False)
        drawn = np.ascontiguousarray(scores[:, chosen])
    drawn = drawn.astype(np.float32, copy=False)
    groups = _deal(drawn, m)
    best = kept_share(drawn[groups.ravel()], n, m)
    for _ in range(rounds):
        for slot in range(m):
            groups = _reassign(drawn, groups, n, slot)
        now = kept_share(drawn[groups.ravel()], n, m)
        if now <= best * (1 + 1e-6):
            break
        best = now
    # Groups and their members in ascending order: the result does not depend on ties.
    groups = np.sort(groups, axis=1)
    order = groups[np.argsort(groups[:, 0])].ravel()
    after = kept_share(scores[order], n, m)
    if after <= before:
        return Permutation(stay, before, before)
    return Permutation(order, before, after)
