"""Values inside a model while data go through it, and their moments, channel by channel.

Values are seen within a memory limit and not kept. Moments are added up in float64 and merged chunk
by chunk with the pairwise update of Chan, Golub and LeVeque, "Updating formulae and a pairwise
algorithm for computing sample variances" (1979): the result does not depend on how the data were
batched, and large means cost no digits.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import length_hint

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress

from onnxprune.data.batches import Array, Batch, Feeds
from onnxprune.errors import OnnxpruneError
from onnxprune.model import Model
from onnxprune.runtime import Session, open_session
from onnxprune.runtime.embed import with_sizes
from onnxprune.solve.moments import Accumulator

F64 = npt.NDArray[np.float64]

LIMIT = 1 << 30
"""Bytes of observed values held at once, by default."""
_bars = True
"""Whether progress bars are shown on a terminal."""
_CHUNK = 1 << 18  # elements worked on at once: 2 MiB in float64 stay in the cache


@contextmanager
def without_bars() -> Iterator[None]:
    """Show no progress bars, also on a terminal."""
    global _bars  # noqa: PLW0603  a process has one terminal
    before, _bars = _bars, False
    try:
        yield
    finally:
        _bars = before


def observe(
    model: Model,
    data: Iterable[Feeds],
    names: Sequence[str],
    *,
    provider: str = "cpu",
    threads: int | None = None,
    limit: int = LIMIT,
    progress: bool = True,
) -> Iterator[Batch]:
    """Run ``data`` through ``model`` and yield what the named values hold, feed by feed.

    Nothing is kept. Where all values of one feed take more than ``limit`` bytes together (judged
    by the first feed), the data are gone through several times, each time for a part of the names:
    every value still comes once per feed, in order, but not every name in every dict.

    Args:
        model: to run.
        data: feeds; restartable where several passes are needed (a `Calibration` or a list).
        names: values of the main graph.
        provider: as for `onnxprune.runtime.open_session`.
        threads: likewise.
        limit: bytes; a single larger value has a pass of its own.
        progress: show a bar if stderr is a terminal; see `without_bars`.

    Raises:
        OnnxpruneError: a value cannot be observed, or a feed does not run.
    """
    names = list(dict.fromkeys(names))
    session = open_session(model, provider=provider, threads=threads, outputs=names, arena=False)
    passes = _passes(model, data, session, names, limit, provider)
    shown = progress and _bars and sys.stderr.isatty()
    total = length_hint(data) * len(passes) or None
    with Progress(console=Console(stderr=True), transient=True, disable=not shown) as bar:
        task = bar.add_task("Observing", total=total)
        for part in passes:
            for feeds in data:
                yield session.run(feeds, part)
                bar.advance(task)


def _passes(
    model: Model,
    data: Iterable[Feeds],
    session: Session,
    names: list[str],
    limit: int,
    provider: str,
) -> list[list[str]]:
    """The names in parts whose values fit into ``limit`` together, in order."""
    if len(names) < 2:
        return [names]
    if iter(data) is data:
        raise OnnxpruneError(
            "data that can only be gone through once cannot be observed within a memory limit",
            hint="pass a list, or open them with open_calibration",
        )
    first = next(iter(data), None)
    if first is None:
        return [names]
    sized, outputs = with_sizes(model, names)
    counter = open_session(sized, provider=provider)
    counts = counter.run(first, list(outputs.values()))
    width = {spec.name: spec.dtype.itemsize for spec in session.outputs}
    parts: list[list[str]] = [[]]
    total = 0
    for name in names:
        size = int(counts[outputs[name]]) * width[name]
        if parts[-1] and total + size > limit:
            parts.append([])
            total = 0
        parts[-1].append(name)
        total += size
    return parts


@dataclass(frozen=True)
class Tap:
    """The statistics to collect of a value.

    Attributes:
        value: its name, in the main graph.
        axis: the channel axis; all others are averaged over.
        covariance: whether to collect covariances of channels.
        blocks: number of equal, consecutive parts of the channels; covariances are only kept
            within a part (the groups of a Conv).
    """

    value: str
    axis: int
    covariance: bool = False
    blocks: int = 1


@dataclass(frozen=True, eq=False)
class Statistics:
    """Moments of ``n`` channels.

    Attributes:
        count: elements per channel: rows, tokens, positions.
        mean: ``[n]``, E[x].
        var: ``[n]``, E[(x - mean)^2].
        mean_abs: ``[n]``, E[|x|], where it was collected.
        covariance: ``[blocks, n / blocks, n / blocks]``, the centred Gram matrix over ``count`` (or
            fewer rows, where their number was limited), if asked for. Channels of a convolution
            are ordered (block, channel, kernel tap).
        blocks: into how many independent contractions the channels fall (``group`` of a Conv).
    """

    count: int
    mean: F64
    var: F64
    mean_abs: F64 | None = None
    covariance: F64 | None = None
    blocks: int = 1

    @property
    def size(self) -> int:
        """The number of channels."""
        return len(self.mean)

    @property
    def mean_square(self) -> F64:
        """``[n]``: E[x^2]."""
        return np.asarray(np.maximum(self.var, 0) + np.square(self.mean))

    @property
    def rms(self) -> F64:
        """``[n]``: the root of E[x^2]."""
        return np.sqrt(self.mean_square)


def collect(
    model: Model,
    data: Iterable[Feeds],
    taps: Iterable[Tap],
    *,
    provider: str = "cpu",
    threads: int | None = None,
    limit: int = LIMIT,
    rows: int | None = None,
    progress: bool = True,
) -> dict[Tap, Statistics]:
    """Statistics of values inside ``model`` over ``data``.

    Covariances are multiplied in float64 up to 1024 channels per block, above in float32 on
    centred chunks, and always added up in float64.

    Args:
        model: to run.
        data: feeds; restartable (a `Calibration` or a list) if more than one value is tapped.
        taps: the values and their statistics.
        provider: as for `observe`.
        threads: likewise.
        limit: likewise.
        rows: most rows of one feed that enter a covariance, picked at random (seeded); all by
            default. Neighbouring positions of an image are nearly alike. Everything else is
            exact.
        progress: as for `observe`.

    Raises:
        OnnxpruneError: a value cannot be observed, has no such axis, is not a number, is NaN or
            infinite, or never holds anything.
    """
    wanted = list(dict.fromkeys(taps))
    if not wanted:
        return {}
    by_value: dict[str, list[Tap]] = defaultdict(list)
    for tap in wanted:
        by_value[tap.value].append(tap)
    running: dict[Tap, _Running] = {}
    chosen = np.random.default_rng(0)
    for values in observe(
        model,
        data,
        list(by_value),
        provider=provider,
        threads=threads,
        limit=limit,
        progress=progress,
    ):
        for name, array in values.items():
            for tap in by_value[name]:
                view = _channels(array, tap)
                if tap not in running:
                    running[tap] = _Running(view.shape[1], tap)
                running[tap].add(view, rows, chosen)
    return {tap: _finish(running.get(tap), tap) for tap in wanted}


class _Running:
    """The running moments of one tap."""

    def __init__(self, channels: int, tap: Tap) -> None:
        self.tap = tap
        self.count = 0
        self.mean = np.zeros(channels)
        self.spread = np.zeros(channels)  # sum of (x - mean)^2
        self.absolute = np.zeros(channels)
        if tap.covariance and channels % tap.blocks:
            raise OnnxpruneError(
                f"the {channels} channels of '{tap.value}' do not make {tap.blocks} equal blocks"
            )
        self.covariance = (
            Accumulator(tap.blocks, channels // tap.blocks) if tap.covariance else None
        )

    def add(self, view: Array, rows: int | None, chosen: np.random.Generator) -> None:
        """``view``: ``[outer, channels, inner]``."""
        if view.shape[1] != len(self.mean):
            raise OnnxpruneError(
                f"axis {self.tap.axis} of '{self.tap.value}' has {len(self.mean)} indices for one "
                f"feed and {view.shape[1]} for another, so it has no channels"
            )
        for chunk in _chunks(view):
            self._add_chunk(chunk.astype(np.float64))
        if self.covariance is not None and view.size:
            flat = _pick(view, rows, chosen)
            blocks = flat.reshape(len(flat), self.tap.blocks, -1)
            self.covariance.add(np.ascontiguousarray(blocks.transpose(1, 0, 2)))

    def _add_chunk(self, x: F64) -> None:
        count = x.shape[0] * x.shape[2]
        mean = x.mean(axis=(0, 2))
        if not np.isfinite(mean).all():
            raise OnnxpruneError(
                f"the value '{self.tap.value}' is NaN or infinite on the calibration data",
                hint="check the data, and whether float16 overflows in this model",
            )
        total = self.count + count
        shift = mean - self.mean
        self.absolute += np.abs(x).sum(axis=(0, 2))
        x -= mean[:, None]
        self.spread += np.einsum("oci,oci->c", x, x) + shift**2 * (self.count * count / total)
        self.mean += shift * (count / total)
        self.count = total


def _finish(running: _Running | None, tap: Tap) -> Statistics:
    if running is None or running.count == 0:
        raise OnnxpruneError(f"the value '{tap.value}' held nothing on all the calibration data")
    count = running.count
    return Statistics(
        count,
        running.mean,
        running.spread / count,
        running.absolute / count,
        None if running.covariance is None else running.covariance.moments().xx,
        tap.blocks,
    )


def _channels(array: Array, tap: Tap) -> Array:
    """``[outer, channels, inner]``, without copying."""
    rank = array.ndim
    if array.dtype.kind in "OUS":
        raise OnnxpruneError(f"the value '{tap.value}' holds strings, which have no moments")
    if not -rank <= tap.axis < rank:
        raise OnnxpruneError(
            f"the value '{tap.value}' has shape {list(array.shape)}, hence no axis {tap.axis}"
        )
    axis = tap.axis % rank
    outer = int(np.prod(array.shape[:axis]))
    inner = int(np.prod(array.shape[axis + 1 :]))
    return array.reshape(outer, array.shape[axis], inner)


def _chunks(view: Array) -> Iterator[Array]:
    outer, channels, inner = view.shape
    if view.size == 0:
        return
    wide = max(1, min(inner, _CHUNK // channels))
    deep = max(1, _CHUNK // (channels * wide))
    for start in range(0, outer, deep):
        for column in range(0, inner, wide):
            yield view[start : start + deep, :, column : column + wide]


def _pick(view: Array, rows: int | None, chosen: np.random.Generator) -> Array:
    """``[rows, channels]``: all positions, or a random choice of them in order."""
    outer, channels, inner = view.shape
    if rows is None or outer * inner <= rows:
        return view.transpose(0, 2, 1).reshape(-1, channels)
    index = np.sort(chosen.choice(outer * inner, rows, replace=False))
    return view[index // inner, :, index % inner]
