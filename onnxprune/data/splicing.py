"""Other sentences out of those given: what mixtures are for pictures.

A stretch of one sample is put into another, all inputs that have a place for each token alike
(ids, masks, types), and then some tokens are exchanged for others that occur. A token is only put
where smaller and larger ones have been seen (or itself), so that markers stay where they are and
every column of a table keeps to what it may hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.data.token_masks import masks_of

Feeds = Mapping[str, npt.NDArray[Any]]
Index = npt.NDArray[np.int64]
Ranges = Mapping[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]
"""The smallest and the largest number that an input of tokens may hold, place by place."""

_RANK = 2
"""Axes of an input of tokens: samples and places."""
_SPLICED = 0.8
"""The share of samples into which a stretch of another is put."""
_EXCHANGED = 0.5
"""The largest share of its tokens that a sample may lose after that."""


def tokens_of(batches: Sequence[Feeds]) -> list[str]:
    """The inputs that hold tokens; none where samples cannot be told apart in all of them.

    That is, whole numbers ``[samples, places]``, more than two of them, that are not the same in
    every sample; other inputs have as many samples, and are none of both kinds.
    """
    if not batches or not batches[0]:
        return []
    counts = {a.shape[0] if a.ndim else 0 for a in batches[0].values()}
    if len(counts) != 1 or not min(counts):
        return []
    found = []
    for name, array in batches[0].items():
        if array.dtype.kind not in "iu" or array.ndim != _RANK:
            continue
        every = [feeds[name] for feeds in batches]
        several = len(np.unique(array)) > 2
        if several and any((each != each[:1]).any() for each in every):
            found.append(name)
    return found if len({batches[0][name].shape for name in found}) == 1 else []


def ranges(batches: Sequence[Feeds], tokens: Sequence[str]) -> Ranges:
    """The smallest and the largest token at every place."""
    found = {}
    for name in tokens:
        every = [feeds[name] for feeds in batches]
        width = max(array.shape[1] for array in every)
        low = np.full(width, np.iinfo(every[0].dtype).max, every[0].dtype)
        high = np.full(width, np.iinfo(every[0].dtype).min, every[0].dtype)
        for feeds, array in zip(batches, every, strict=True):
            there, at = _there(feeds, array.shape), slice(0, array.shape[1])
            low[at] = np.minimum(low[at], np.where(there, array, low[at]).min(axis=0))
            high[at] = np.maximum(high[at], np.where(there, array, high[at]).max(axis=0))
        found[name] = low, high
    return found


def spliced(
    feeds: Feeds, may_be: Ranges, pairs: Index, others: Sequence[Index], rng: np.random.Generator
) -> dict[str, npt.NDArray[Any]]:
    """New samples out of those of one batch.

    Args:
        feeds: the batch.
        may_be: of the inputs that hold tokens, what may be where.
        pairs: ``[2, count]``, which samples each new one is of.
        others: for each, of which samples tokens may be taken besides.
        rng: of all choices.
    """
    shape = feeds[next(iter(may_be))].shape
    first, second = pairs
    ends = np.sort(rng.integers(0, shape[1] + 1, (2, len(first))), axis=0)[..., None]
    places = np.arange(shape[1])
    put = (places >= ends[0]) & (places < ends[1])
    put &= rng.random((len(first), 1)) < _SPLICED
    source = np.where(put, second[:, None], first[:, None])
    there = _there(feeds, shape)
    gone = rng.random(put.shape) < rng.random((len(first), 1)) * _EXCHANGED
    gone &= there[source, places]
    taken = np.stack([_drawn(there, pool, shape[1], rng) for pool in others])
    made = {}
    for name, array in feeds.items():
        if array.shape[:_RANK] != shape:
            made[name] = array[first]
            continue
        made[name] = array[source, places]
        if name in may_be:
            low, high = (bound[: shape[1]] for bound in may_be[name])
            new = array.ravel()[taken]
            made[name] = np.where(gone & (new >= low) & (new <= high), new, made[name])
    return made


def _drawn(
    there: npt.NDArray[np.bool_], pool: Index, count: int, rng: np.random.Generator
) -> Index:
    """Where some tokens are, of those that samples have, as flat places in the batch."""
    rows, columns = np.nonzero(there[pool])
    if not len(rows):
        return np.full(count, pool[0] * there.shape[1], dtype=np.int64)
    at = rng.integers(0, len(rows), count)
    return np.asarray(pool[rows[at]] * there.shape[1] + columns[at], dtype=np.int64)


def _there(feeds: Feeds, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Which tokens are no padding, by every mask among the inputs."""
    masks = [there for there in masks_of(feeds).values() if there.shape == shape]
    return np.asarray(np.logical_and.reduce([np.ones(shape, dtype=bool), *masks]))
