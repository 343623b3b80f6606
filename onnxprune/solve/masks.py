"""Masks over single weights: scores of weights, and which of them are kept.

A score is an array of the weight's shape, higher = keep; a mask is the same in bool, True = kept.
Neither knows a model. Axes are named by the caller, because the inputs of a layer are axis 1 and
the kernel of a Conv, the last axis but one of a MatMul and either axis of a Gemm.

Sources: Wanda (Sun et al., arXiv 2306.11695), RIA (Zhang et al., "Plug-and-Play: An Efficient
Post-training Pruning Method for Large Language Models", ICLR 2024), N:M as NVIDIA defines it
(Mishra et al., arXiv 2104.08378), along two axes at once (Hubara et al., "Accelerated Sparse Neural
Training: A Provable and Efficient Method to Find N:M Transposable Masks", NeurIPS 2021). OBS
scores, which change as weights go, are in ``solve.obs``.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bool = npt.NDArray[np.bool_]

_SLAB = 1 << 17
"""Weights worked on at a time, so that the comparisons stay in the cache."""

TRANSPOSABLE = 4
"""Up to this group length every mask of a square block can be listed (90 for 2:4)."""

_PAIRWISE = 8
"""Up to this many, the members of an N:M group are ranked by comparing every pair."""


def magnitude(weight: Array) -> Array:
    """``|W|``, in float32 unless the weight is float64."""
    if weight.dtype not in (np.float32, np.float64):
        weight = weight.astype(np.float32)
    return np.abs(weight)


def wanda(weight: Array, norm: Array) -> Array:
    """``|W| ||x||``: magnitude times the root mean square of the input each weight multiplies.

    Args:
        weight: any shape.
        norm: the inputs' root mean squares, broadcastable to the weight.
    """
    size = magnitude(weight)
    score: Array = size * norm.astype(size.dtype)
    return score


def ria(weight: Array, norm: Array, *, inputs: tuple[int, ...], power: float = 0.5) -> Array:
    """Relative importance: a weight's share of its input's and of its output's, times activation.

    ``(|W_ij| / sum_i |W_ij| + |W_ij| / sum_j |W_ij|) * ||x_i||^power``

    Args:
        weight: any shape.
        norm: the inputs' root mean squares, broadcastable to the weight.
        inputs: the axes that index inputs; all others index outputs.
        power: exponent of the activation; 0.5 as in the paper.
    """
    size = magnitude(weight)
    inputs = tuple(axis % size.ndim for axis in inputs)
    outputs = tuple(axis for axis in range(size.ndim) if axis not in inputs)
    tiny = np.finfo(size.dtype).tiny
    of_output = size.sum(axis=inputs, keepdims=True) + tiny
    of_input = size.sum(axis=outputs, keepdims=True) + tiny
    score: Array = (size / of_output + size / of_input) * norm.astype(size.dtype) ** power
    return score


def removed_count(size: int, sparsity: float) -> int:
    """How many of ``size`` weights a sparsity removes: rounded half up, never all of them."""
    return min(math.floor(sparsity * size + 0.5), size - 1) if size else 0


def keep_top(scores: Array, sparsity: float, *, within: tuple[int, ...] | None = None) -> Bool:
    """Remove exactly the share ``sparsity`` of the lowest scores.

    Args:
        scores: any shape.
        sparsity: in ``[0, 1)``.
        within: the axes over which weights compete: None for the whole tensor, the input axes
            for a threshold per output.

    Returns:
        The mask.
    """
    axes = tuple(range(scores.ndim)) if within is None else within
    axes = tuple(sorted(axis % scores.ndim for axis in axes))
    ends = tuple(range(scores.ndim - len(axes), scores.ndim))
    moved = np.moveaxis(scores, axes, ends)
    rows = moved.reshape(-1, math.prod(scores.shape[axis] for axis in axes))
    keep = np.ones(rows.shape, dtype=bool)
    count = removed_count(rows.shape[1], sparsity)
    if count:
        step = max(_SLAB // rows.shape[1], 1)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            _keep_above(rows[part], keep[part], count)
    return np.ascontiguousarray(np.moveaxis(keep.reshape(moved.shape), ends, axes))


def _keep_above(rows: Array, keep: Bool, count: int) -> None:
    """Fill ``keep`` ``[a, b]`` with False for the ``count`` lowest of every row.

    Selecting values is several times faster than selecting places, which only ties then need.
    """
    highest = np.partition(rows, count - 1, axis=1)[:, count - 1 : count]
    np.less_equal(rows, highest, out=keep)
    np.logical_not(keep, out=keep)
    missing = rows.shape[1] - count - np.count_nonzero(keep, axis=1)
    for row in np.flatnonzero(missing > 0):
        keep[row, np.flatnonzero(rows[row] == highest[row])[: missing[row]]] = True


def keep_top_global(scores: Sequence[Array], sparsity: float) -> list[Bool]:
    """One threshold for all the weights of several tensors; every tensor keeps at least one.

    Args:
        scores: comparable across tensors; it is the caller who makes them so.
        sparsity: share of all weights together that is removed.

    Returns:
        One mask per tensor.
    """
    flat = np.concatenate([np.asarray(s, dtype=np.float32).ravel() for s in scores])
    keep = np.ones(flat.size, dtype=bool)
    count = removed_count(flat.size, sparsity)
    if count:
        keep[np.argpartition(flat, count - 1)[:count]] = False
    masks: list[Bool] = []
    start = 0
    for s in scores:
        mask = keep[start : start + s.size].reshape(s.shape)
        if s.size and not mask.any():
            mask.flat[np.argmax(s)] = True
        masks.append(mask)
        start += s.size
    return masks


def kth_smallest(parts: Callable[[], Iterable[Array]], k: int) -> np.unsignedinteger[Any]:
    """The ``k``-th smallest of numbers that are too many to hold.

    Counts digits of 16 bits, the highest first, in one pass each.

    Args:
        parts: gives all numbers, unsigned and of one type, in parts; called once per pass.
        k: from 1 to how many there are.
    """
    kind = next(iter(parts())).dtype
    bits = 8 * kind.itemsize
    digit = min(bits, 16)
    last = kind.type((1 << digit) - 1)
    prefix = 0
    for shift in range(bits - digit, -1, -digit):
        counts = np.zeros(1 << digit, np.int64)
        for part in parts():
            among = part
            if shift + digit < bits:
                among = part[part >> kind.type(shift + digit) == kind.type(prefix)]
            digits = (among >> kind.type(shift)) & last
            counts += np.bincount(digits.reshape(-1).astype(np.intp), minlength=1 << digit)
        up_to = counts.cumsum()
        at = int(np.searchsorted(up_to, k))
        k -= int(up_to[at] - counts[at])
        prefix = prefix << digit | at
    result: np.unsignedinteger[Any] = kind.type(prefix)
    return result


def _keep_in_groups(scores: Array, keep: Bool, n: int) -> None:
    """Fill ``keep`` ``[a, m, b]`` with True for the ``n`` highest of the middle axis."""
    m = scores.shape[1]
    if m > _PAIRWISE:
        lowest = np.argsort(-scores, axis=1, kind="stable")[:, n:]
        np.put_along_axis(keep, lowest, values=False, axis=1)
        return
    # Every pair has one loser, and ties go to the lower index, so exactly n lose fewer than n.
    lost = np.zeros((m, scores.shape[0], scores.shape[2]), dtype=np.int8)
    for i in range(m):
        for j in range(i + 1, m):
            first = scores[:, i] >= scores[:, j]
            lost[j] += first
            lost[i] += ~first
    for i in range(m):
        np.less(lost[i], n, out=keep[:, i])


def keep_n_of_m(scores: Array, n: int, m: int, axis: int) -> Bool:
    """Keep the ``n`` highest of every ``m`` consecutive scores along an axis.

    A last group that is shorter than ``m`` is treated as if it went on with zeros, as hardware
    that pads does: it keeps ``min(n, its length)``.

    Args:
        scores: any shape.
        n: how many are kept of every group.
        m: how long a group is, at least ``n``.
        axis: the axis groups run along.

    Returns:
        The mask; ties keep the lower index.
    """
    axis %= scores.ndim
    before, size = math.prod(scores.shape[:axis]), scores.shape[axis]
    cube = np.ascontiguousarray(scores).reshape(before, size, -1)
    keep = np.ones(cube.shape, dtype=bool)
    whole = size - size % m
    after = cube.shape[2]
    groups = cube[:, :whole].reshape(-1, m, after)  # a copy only where a short group is in the way
    chosen = np.ones(groups.shape, dtype=bool)
    step = max(_SLAB // (m * max(after, 1)), 1)
    for start in range(0, len(groups), step):
        _keep_in_groups(groups[start : start + step], chosen[start : start + step], n)
    keep[:, :whole] = chosen.reshape(before, whole, after)
    if whole < size and n < size - whole:
        _keep_in_groups(cube[:, whole:], keep[:, whole:], n)
    return keep.reshape(scores.shape)


def keep_n_of_m_both(scores: Array, n: int, m: int, axes: tuple[int, int]) -> Bool:
    """Keep ``n`` of every ``m`` along two axes at once, so that the sum of what is kept is largest.

    Every square block is solved exactly, by comparing all its masks.

    Args:
        scores: what weights add up to; both axes are multiples of ``m`` long.
        n: how many are kept of every group.
        m: how long a group is, at most `TRANSPOSABLE`.
        axes: the two axes groups run along.
    """
    choices = _squares(n, m)
    ends = (scores.ndim - 2, scores.ndim - 1)
    moved = np.moveaxis(scores, axes, ends)
    rows, columns = moved.shape[-2:]
    tiles = moved.reshape(-1, rows // m, m, columns // m, m).swapaxes(2, 3)
    blocks = tiles.reshape(-1, m * m)
    keep = np.empty(blocks.shape, dtype=bool)
    step = max(_SLAB // len(choices), 1)
    for start in range(0, len(blocks), step):
        part = slice(start, start + step)
        total = blocks[part].astype(np.float32) @ choices.T.astype(np.float32)
        keep[part] = choices[total.argmax(axis=1)]
    back = keep.reshape(tiles.shape).swapaxes(2, 3).reshape(moved.shape)
    return np.ascontiguousarray(np.moveaxis(back, ends, axes))


@functools.cache
def _squares(n: int, m: int) -> Bool:
    """``[masks, m * m]``: all masks of a square block with ``n`` in every row and column."""
    lines = [[k in kept for k in range(m)] for kept in itertools.combinations(range(m), n)]
    every = np.array(list(itertools.product(lines, repeat=m)), dtype=bool)
    balanced: Bool = every[(every.sum(axis=1) == n).all(axis=1)].reshape(-1, m * m)
    return balanced


def is_n_of_m(weight: Array, n: int, m: int, axis: int) -> bool:
    """Whether at most ``n`` of every ``m`` consecutive values along an axis are not zero."""
    moved = np.moveaxis(weight, axis, -1) != 0
    size = moved.shape[-1]
    padded = np.zeros((*moved.shape[:-1], -(-size // m) * m), dtype=bool)
    padded[..., :size] = moved
    counts = padded.reshape(*moved.shape[:-1], -1, m).sum(axis=-1)
    return bool((counts <= n).all())
