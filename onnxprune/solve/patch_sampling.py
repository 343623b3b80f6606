"""Sampled positions between two convolutions, and the patches made of them.

To change a layer together with the one that reads it, the hidden values between them have to be
computed at every position that a sampled output depends on. Outputs are therefore sampled in small
blocks, whose fields overlap, and the hidden values are held as crops, of which the patches are
strided slices. Between two matrix products there is nothing but tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.solve.im2col import Index, Window, leading_pads, output_sizes, sample_positions

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Crops:
    """Sampled blocks of outputs and the hidden positions they read.

    Attributes:
        hidden: ``[rows]``, flat positions in the hidden map (image first, row-major).
        inside: ``[rows]``, False where the position is padding.
        outputs: ``[out rows]``, flat positions in the output map.
        field: sizes of one crop of hidden positions.
        block: sizes of one block of outputs.
        window: what reads the crops; None for tokens.
    """

    hidden: Index
    inside: npt.NDArray[np.bool_]
    outputs: Index
    field: tuple[int, ...] = ()
    block: tuple[int, ...] = ()
    window: Window | None = None

    def split(self, most: int) -> Iterator[tuple[slice, slice, Crops]]:
        """Runs of whole crops: which hidden rows and which out rows they are, and the crops.

        Args:
            most: out rows of each run, about.
        """
        wide, high = math.prod(self.field), math.prod(self.block)
        count = len(self.outputs) // high
        step = max(most // high, 1)
        for start in range(0, count, step):
            stop = min(start + step, count)
            hidden, outputs = slice(start * wide, stop * wide), slice(start * high, stop * high)
            some = replace(
                self,
                hidden=self.hidden[hidden],
                inside=self.inside[hidden],
                outputs=self.outputs[outputs],
            )
            yield hidden, outputs, some

    @property
    def taps(self) -> int:
        """How many hidden positions one output reads."""
        return math.prod(self.window.kernel) if self.window else 1

    def order(self, channels: int) -> Index:
        """Which row of a channel-first matrix each column of :meth:`features` belongs to."""
        index = np.arange(channels * self.taps, dtype=np.int64)
        return index.reshape(channels, self.taps).T.reshape(-1)

    def features(self, values: Array) -> Array:
        """The rows the reader multiplies with its matrix.

        Args:
            values: ``[rows, channels]`` at the hidden positions.

        Returns:
            ``[out rows, taps * channels]``, tap first: whole runs of channels are copied.
        """
        if self.window is None:
            return values
        channels = values.shape[1]
        crops = np.where(self.inside[:, None], values, 0).reshape(-1, *self.field, channels)
        rows = np.empty((len(crops), *self.block, self.taps, channels), dtype=values.dtype)
        for tap, cut in enumerate(self._cuts()):
            rows[..., tap, :] = crops[cut]
        return rows.reshape(-1, self.taps * channels)

    def spread(self, gradient: Array) -> Array:
        """The transpose of :meth:`features`: ``[out rows, taps * channels]`` to hidden rows."""
        if self.window is None:
            return gradient
        channels = gradient.shape[1] // self.taps
        rows = gradient.reshape(-1, *self.block, self.taps, channels)
        crops = np.zeros((len(rows), *self.field, channels), dtype=gradient.dtype)
        for tap, cut in enumerate(self._cuts()):
            crops[cut] += rows[..., tap, :]
        return np.where(self.inside[:, None], crops.reshape(-1, channels), 0)

    def filtered(self, values: Array, weight: Array) -> Array:
        """A depthwise convolution of hidden rows: ``[out rows, channels]``.

        Args:
            values: ``[rows, channels]`` at the hidden positions.
            weight: ``[taps, channels]``.
        """
        channels = values.shape[1]
        crops = np.where(self.inside[:, None], values, 0).reshape(-1, *self.field, channels)
        result = np.zeros((len(crops), *self.block, channels), dtype=values.dtype)
        for tap, cut in enumerate(self._cuts()):
            result += crops[cut] * weight[tap]
        return result.reshape(-1, channels)

    def unfiltered(self, gradient: Array, weight: Array) -> Array:
        """The transpose of :meth:`filtered`: ``[out rows, channels]`` to hidden rows."""
        channels = gradient.shape[1]
        rows = gradient.reshape(-1, *self.block, channels)
        crops = np.zeros((len(rows), *self.field, channels), dtype=gradient.dtype)
        for tap, cut in enumerate(self._cuts()):
            crops[cut] += rows * weight[tap]
        return np.where(self.inside[:, None], crops.reshape(-1, channels), 0)

    def _cuts(self) -> Iterator[tuple[slice, ...]]:
        """The part of a crop that each tap of the kernel meets, tap by tap."""
        window = self.window
        assert window is not None
        for tap in np.ndindex(*window.kernel):
            yield (
                slice(None),
                *(
                    slice(k * d, k * d + (b - 1) * s + 1, s)
                    for k, d, s, b in zip(
                        tap, window.dilations, window.strides, self.block, strict=True
                    )
                ),
            )


def sample_tokens(total: int, count: int, seed: int, among: Index | None = None) -> Crops:
    """``count`` of ``total`` tokens, or of ``among``; hidden and output positions are the same."""
    drawn = sample_positions(total, count, seed, among)
    return Crops(drawn, np.ones(len(drawn), dtype=bool), drawn)


def sample_crops(
    window: Window, batch: int, sizes: tuple[int, ...], count: int, seed: int, block: int = 4
) -> Crops:
    """Blocks of outputs of a convolution, about ``count`` output rows in all.

    Where there are no more than that, blocks tile the maps, so that every output is there.

    Args:
        window: the convolution that reads the hidden map; not a transposed one.
        batch: images.
        sizes: spatial sizes of the hidden map.
        count: output rows wanted; images are drawn evenly.
        seed: seed of the sample.
        block: side of a block; smaller where the map is.
    """
    outs = output_sizes(window, sizes)
    tile = tuple(min(block, out) for out in outs)
    grid = [np.arange(0, out - t + 1) for out, t in zip(outs, tile, strict=True)]
    tiles = [np.minimum(np.arange(0, out, t), out - t) for out, t in zip(outs, tile, strict=True)]
    if count >= batch * math.prod(map(len, tiles)) * math.prod(tile):
        each = np.meshgrid(np.arange(batch), *tiles, indexing="ij")
        images, *origins = (axis.ravel() for axis in each)
    else:
        rng = np.random.default_rng(seed)
        wanted = max(-(-count // math.prod(tile)), 1)
        images = np.sort(np.resize(rng.permutation(batch), wanted))
        origins = [starts[rng.integers(0, len(starts), wanted)] for starts in grid]
    field = tuple(
        (t - 1) * s + (k - 1) * d + 1
        for t, s, k, d in zip(tile, window.strides, window.kernel, window.dilations, strict=True)
    )
    begins = leading_pads(window, sizes)
    first = [o * s - p for o, s, p in zip(origins, window.strides, begins, strict=True)]
    outputs, _ = _positions(images, origins, tile, outs)
    hidden, inside = _positions(images, first, field, sizes)
    return Crops(hidden, inside, outputs, field, tile, window)


def _positions(
    images: Index, origins: list[Index], crop: tuple[int, ...], sizes: tuple[int, ...]
) -> tuple[Index, npt.NDArray[np.bool_]]:
    """Flat positions of crops of a map, clipped to it, and which were inside."""
    rank = len(crop)
    flat = images.reshape((-1,) + (1,) * rank).astype(np.int64)
    inside = np.ones(flat.shape, dtype=bool)
    for axis, (origin, length, size) in enumerate(zip(origins, crop, sizes, strict=True)):
        shape = [1] * (rank + 1)
        shape[axis + 1] = length
        at = origin.reshape((-1,) + (1,) * rank) + np.arange(length).reshape(shape)
        inside = inside & (at >= 0) & (at < size)
        flat = flat * size + np.clip(at, 0, size - 1)
    inside = np.broadcast_to(inside, flat.shape)
    return flat.reshape(-1), inside.reshape(-1).copy()
