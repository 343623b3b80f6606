"""More inputs to fit to: mixtures of the calibration samples.

The target of a pruned layer is known for any input, from the dense model; so there is no need for
real samples to fit to, only for inputs that reach the same places. Mixtures of two
samples (Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv 1710.09412, without its
labels) reach places between them, where classes meet and networks are less sure than on the data
they were trained with. On a ResNet-20 (CIFAR-10, 1,740 pictures, half of its multiplications) they
lower the divergence of the recovered model from the dense one on unseen pictures by 13 %.

Only inputs that are all floating point and vary freely can be mixed so. Of tokens, a stretch of one
sample is put into another, all inputs that have a place for each token alike (ids, masks, types),
and then some tokens are exchanged for others that occur. A token is only put where smaller and
larger ones have been seen (or itself), so that markers stay where they are and every column of a
table keeps to what it may hold. On a MiniLM without a third of its heads and hidden units, that
lowers the squared error on other sentences by 5 to 9 % with 1,024 sentences to fit to, by 8 to 20 %
with 64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxprune.data.batches import Array, Batch, Feeds, Index, count_samples, token_masks

Bool = npt.NDArray[np.bool_]
Ranges = Mapping[str, tuple[Array, Array]]
"""The smallest and the largest number that an input of tokens may hold, place by place."""

ENOUGH = 4096
"""Samples beyond which mixtures are not worth their time."""
FEW, MORE = 512, 3
"""Tokens are spliced until there are as many samples as the first, at most as often as the second:
there are more ways to put sentences together than to mix two pictures."""
_SHARE = (0.3, 0.7)
"""The share of one sample in a mixture."""
_RANK = 2
"""Axes of an input of tokens: samples and places."""
_SPLICED = 0.8
"""The share of samples into which a stretch of another is put."""
_EXCHANGED = 0.5
"""The largest share of its tokens that a sample may lose after that."""


def with_mixtures(
    batches: Sequence[Feeds], *, most_bytes: int, holdout_every: int = 0, seed: int = 0
) -> list[Feeds]:
    """The batches, each followed by mixtures of its own samples, up to a limit.

    There are as many mixtures as samples; of tokens up to ``MORE`` times as many, where few.

    Args:
        batches: ``{input: [samples, ...]}``.
        most_bytes: of all batches together; the batches themselves stay.
        holdout_every: one of so many samples of the result, counted through all batches, is held
            out from the fit; 0 for none. A held-out mixture is of held-out samples alone, and these
            are in no other.
        seed: random seed.

    Returns:
        The same list where inputs cannot be mixed or are already enough (``ENOUGH`` samples).
    """
    tokens = ranges(batches, tokens_of(batches))
    if not tokens and not mixable(batches):
        return list(batches)
    samples = sum(map(count_samples, batches))
    copies = int(np.clip(FEW // max(samples, 1), 1, MORE)) if tokens else 1
    room = most_bytes - sum(a.nbytes for feeds in batches for a in feeds.values())
    rng = np.random.default_rng(seed)
    result: list[Feeds] = []
    position = 0
    for feeds in batches:
        result.append(feeds)
        size = sum(a.nbytes for a in feeds.values())
        count = count_samples(feeds)
        sources, position = held_out(position + np.arange(count), holdout_every), position + count
        for _ in range(copies):
            if count < 2 or size > room or samples + count > ENOUGH:
                continue
            targets = held_out(position + np.arange(count), holdout_every)
            pairs = _partners(sources, targets, rng)
            if pairs is None:
                continue
            room, samples, position = room - size, samples + count, position + count
            if tokens:
                pools = [np.flatnonzero(sources == held) for held in (False, True)]
                others = [pools[int(held)] for held in targets]
                result.append(_splice(feeds, tokens, pairs, others, rng))
            else:
                share = rng.uniform(*_SHARE, count)
                result.append({name: _mix(array, share, pairs) for name, array in feeds.items()})
    return result


def mixable(batches: Sequence[Feeds]) -> bool:
    """Whether all inputs are floating point, none of them whole numbers, in batches of several."""
    if not batches or not batches[0]:
        return False
    for array in batches[0].values():
        if not np.issubdtype(array.dtype, np.floating) or array.ndim < 2 or len(array) < 2:
            return False
        if np.array_equal(array, np.round(array)) and len(np.unique(array[:2])) <= 2:
            return False
    return len({len(array) for array in batches[0].values()}) == 1


def held_out(samples: Index, holdout_every: int) -> Bool:
    """Which of some samples, counted through all batches, are held out.

    Args:
        samples: their numbers.
        holdout_every: one of so many does; 0 if none does.
    """
    if not holdout_every:
        return np.zeros(len(samples), dtype=bool)
    return np.asarray(samples % holdout_every == holdout_every - 1)


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
    names = []
    for name, array in batches[0].items():
        if array.dtype.kind not in "iu" or array.ndim != _RANK or len(np.unique(array)) <= 2:
            continue
        if any((feeds[name] != feeds[name][:1]).any() for feeds in batches):
            names.append(name)
    return names if len({batches[0][name].shape for name in names}) == 1 else []


def ranges(batches: Sequence[Feeds], tokens: Sequence[str]) -> Ranges:
    """The smallest and the largest token at every place."""
    bounds = {}
    for name in tokens:
        dtype = batches[0][name].dtype
        width = max(feeds[name].shape[1] for feeds in batches)
        low = np.full(width, np.iinfo(dtype).max, dtype)
        high = np.full(width, np.iinfo(dtype).min, dtype)
        for feeds in batches:
            array = feeds[name]
            present, at = _present(feeds, array.shape), slice(0, array.shape[1])
            low[at] = np.minimum(low[at], np.where(present, array, low[at]).min(axis=0))
            high[at] = np.maximum(high[at], np.where(present, array, high[at]).max(axis=0))
        bounds[name] = low, high
    return bounds


def _partners(sources: Bool, targets: Bool, rng: np.random.Generator) -> Index | None:
    """``[2, count]``: the samples of each mixture, held-out ones for a held-out mixture.

    None where there is nothing to mix.
    """
    pairs = np.empty((2, len(targets)), dtype=np.int64)
    for held in (False, True):
        pool, places = np.flatnonzero(sources == held), np.flatnonzero(targets == held)
        if not len(places):
            continue
        if not len(pool):
            return None
        order = rng.permutation(np.resize(pool, len(places)))
        shift = int(rng.integers(1, max(len(pool), 2)))
        other = pool[(np.searchsorted(pool, order) + shift) % len(pool)]
        pairs[:, places] = order, other
    return pairs


def _mix(array: Array, share: npt.NDArray[np.float64], pairs: Index) -> Array:
    weight = share.astype(array.dtype).reshape(-1, *[1] * (array.ndim - 1))
    mixture: Array = weight * array[pairs[0]] + (1 - weight) * array[pairs[1]]
    return mixture


def _splice(
    feeds: Feeds, bounds: Ranges, pairs: Index, others: Sequence[Index], rng: np.random.Generator
) -> Batch:
    """New samples out of those of one batch.

    Args:
        feeds: the batch.
        bounds: of the inputs that hold tokens, what may be where.
        pairs: ``[2, count]``, the two samples of each new one.
        others: for each, the samples that further tokens may come from.
        rng: random generator.
    """
    shape = feeds[next(iter(bounds))].shape
    first, second = pairs
    ends = np.sort(rng.integers(0, shape[1] + 1, (2, len(first))), axis=0)[..., None]
    places = np.arange(shape[1])
    stretch = (places >= ends[0]) & (places < ends[1])
    stretch &= rng.random((len(first), 1)) < _SPLICED
    source = np.where(stretch, second[:, None], first[:, None])
    present = _present(feeds, shape)
    exchange = rng.random(stretch.shape) < rng.random((len(first), 1)) * _EXCHANGED
    exchange &= present[source, places]
    drawn = np.stack([_draw(present, pool, shape[1], rng) for pool in others])
    result = {}
    for name, array in feeds.items():
        if array.shape[:_RANK] != shape:
            result[name] = array[first]
            continue
        result[name] = array[source, places]
        if name in bounds:
            low, high = (bound[: shape[1]] for bound in bounds[name])
            new = array.ravel()[drawn]
            allowed = exchange & (new >= low) & (new <= high)
            result[name] = np.where(allowed, new, result[name])
    return result


def _draw(present: Bool, pool: Index, count: int, rng: np.random.Generator) -> Index:
    """Where some tokens are, of those that samples have, as flat places in the batch."""
    rows, columns = np.nonzero(present[pool])
    if not len(rows):
        return np.full(count, pool[0] * present.shape[1], dtype=np.int64)
    at = rng.integers(0, len(rows), count)
    return np.asarray(pool[rows[at]] * present.shape[1] + columns[at], dtype=np.int64)


def _present(feeds: Feeds, shape: tuple[int, ...]) -> Bool:
    """Which tokens are not padding, by every mask among the inputs."""
    masks = [mask for mask in token_masks(feeds).values() if mask.shape == shape]
    return np.asarray(np.logical_and.reduce([np.ones(shape, dtype=bool), *masks]))
