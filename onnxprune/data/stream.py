"""Steps on their way from a source to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.data.layout import Chunk, Layout, join, joinable, select, steps_in
from onnxprune.errors import OnnxpruneError

Steps: TypeAlias = npt.NDArray[np.int64]
"""Ascending indices of steps (see `onnxprune.data.layout`)."""


@dataclass(frozen=True, eq=False)
class Source:
    """Where steps come from.

    Attributes:
        description: for reports.
        read: yields chunks of the wanted steps (all for None) in order, checked against the model;
            can be called any number of times.
        steps: how many there are, or None where only reading tells.
        per_step: samples in one step.
        synthetic: whether the data are made up.
        batched: whether the chunks are batches that somebody chose.
        uniform: whether all steps are known to have equal shapes.
    """

    description: str
    read: Callable[[Steps | None], Iterator[Chunk]] = field(repr=False)
    steps: int | None = None
    per_step: int = 1
    synthetic: bool = False
    batched: bool = False
    uniform: bool = False


def concatenate(sources: Sequence[Source], description: str) -> Source:
    """Sources of known size, one after the other.

    Raises:
        OnnxpruneError: their steps hold different numbers of samples.
    """
    counts = [source.steps or 0 for source in sources]
    if len({source.per_step for source in sources}) > 1:
        raise OnnxpruneError(f"{description} holds whole batches in some parts, but not in others")
    ends = np.cumsum(counts)

    def read(wanted: Steps | None) -> Iterator[Chunk]:
        for source, end, count in zip(sources, ends, counts, strict=True):
            if wanted is None:
                yield from source.read(None)
                continue
            here = wanted[(wanted >= end - count) & (wanted < end)] - (end - count)
            if len(here):
                yield from source.read(here)

    return replace(
        sources[0],
        description=description,
        read=read,
        steps=int(ends[-1]),
        uniform=len(sources) == 1 and sources[0].uniform,
    )


def keep(chunks: Iterable[Chunk], layout: Layout, wanted: Steps | None) -> Iterator[Chunk]:
    """The wanted steps of chunks that can only be read from the beginning."""
    if wanted is None:
        yield from chunks
        return
    start = 0
    for chunk in chunks:
        end = start + steps_in(chunk, layout)
        here = wanted[(wanted >= start) & (wanted < end)] - start
        if len(here):
            yield chunk if len(here) == end - start else select(chunk, layout, here)
        start = end
        if not len(wanted) or start > wanted[-1]:
            return


def feeds(chunks: Iterator[Chunk], layout: Layout, batch: int | None) -> Iterator[Chunk]:
    """Chunks regrouped into what a model is fed: ``batch`` samples at once, or as they come."""
    if layout.fixed:
        for chunk in chunks:
            for index in range(steps_in(chunk, layout)):
                yield {name: np.asarray(array[index], order="C") for name, array in chunk.items()}
        return
    if batch is None:
        yield from chunks
        return
    pending: list[Chunk] = []
    have = 0
    for chunk in chunks:
        if pending and not joinable(pending[0], chunk, layout):
            yield join(pending, layout)
            pending, have = [], 0
        start, count = 0, steps_in(chunk, layout)
        while start < count:
            taken = min(batch - have, count - start)
            pending.append(select(chunk, layout, slice(start, start + taken)))
            start, have = start + taken, have + taken
            if have == batch:
                yield join(pending, layout)
                pending, have = [], 0
    if pending:
        yield join(pending, layout)
