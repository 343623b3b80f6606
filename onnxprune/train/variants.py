"""Variants of calibration inputs, for training when data are few.

The dense model gives the target for any input, so inputs need not be real. Tokens are cut out of
one sample and put into another, and some are exchanged for others that occur; pictures and other
real numbers are averaged with those of another sample (Zhang et al., "mixup", arXiv 1710.09412).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.data.activations.runner import Feeds

Array = npt.NDArray[Any]

_TOKENS = 2
"""Axes of an input of tokens: samples and places."""


class Variants:
    """Makes other inputs of inputs.

    Args:
        batches: all there are; tokens are drawn from those that occur in them.
        spliced: the share of samples that are mixed with another.
        exchanged: the largest share of its tokens that a sample may lose.
    """

    def __init__(
        self, batches: Sequence[Feeds], *, spliced: float = 0.8, exchanged: float = 0.7
    ) -> None:
        self._spliced, self._exchanged = spliced, exchanged
        self._known: dict[str, Array] = {}
        for name in batches[0]:
            arrays = [feeds[name] for feeds in batches]
            if arrays[0].dtype.kind == "i" and arrays[0].ndim == _TOKENS and _varies(arrays):
                self._known[name] = np.concatenate([a.ravel() for a in arrays])

    def __call__(self, feeds: Feeds, rng: np.random.Generator) -> dict[str, Array]:
        """A variant of one batch; the samples of all its inputs stay together."""
        variant = dict(feeds)
        sizes = {len(array) for array in feeds.values() if array.ndim}
        if len(sizes) != 1:  # samples are not told apart by the first axis
            return variant
        other = rng.permutation(sizes.pop())
        mixed = rng.random(len(other)) < self._spliced
        if self._known:
            self._splice(variant, other, mixed, rng)
            for name, pool in self._known.items():
                tokens = variant[name]
                share = rng.random((len(tokens), 1)) * self._exchanged
                replaced = rng.random(tokens.shape) < share
                variant[name] = np.where(replaced, rng.choice(pool, tokens.shape), tokens)
            return variant
        share = np.where(mixed, rng.random(len(other)), 1.0)
        for name, array in feeds.items():
            if array.dtype.kind == "f" and array.ndim:
                part = share.reshape((-1,) + (1,) * (array.ndim - 1)).astype(array.dtype)
                variant[name] = part * array + (1 - part) * array[other]
        return variant

    def _splice(
        self, variant: dict[str, Array], other: Array, mixed: Array, rng: np.random.Generator
    ) -> None:
        """Put a stretch of another sample into each that is mixed, in all inputs of tokens."""
        shape = variant[next(iter(self._known))].shape
        ends = np.sort(rng.integers(0, shape[1] + 1, (2, shape[0])), axis=0)[..., None]
        places = np.arange(shape[1])
        stretch = (places >= ends[0]) & (places < ends[1]) & mixed[:, None]
        for name, array in variant.items():
            if array.shape == shape:
                variant[name] = np.where(stretch, array[other], array)


def _varies(arrays: Sequence[Array]) -> bool:
    """Whether an input holds tokens: more than two of them, and not the same in every sample."""
    first = arrays[0]
    return len(np.unique(first)) > 2 and bool((first != first[:1]).any())
