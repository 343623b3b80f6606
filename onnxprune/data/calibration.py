"""Calibration data as everything else sees it: feeds that can be gone through again and again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from onnxprune.data.layout import Chunk, Layout, steps_in
from onnxprune.data.stream import Source, Steps, feeds
from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import Signature

DEFAULT_BATCH = 32


@dataclass(frozen=True, eq=False)
class Calibration:
    """Feeds for a model; iterating starts from the beginning every time and keeps nothing.

    Attributes:
        layout: how the model takes samples.
        source: where they come from.
        batch: samples per feed; None keeps the batches of the source. A model of fixed shapes is
            always fed its own.
        chosen: steps that are used, ascending; None for all.
        note: how they were chosen, for reports.
    """

    layout: Layout = field(repr=False)
    source: Source
    batch: int | None = None
    chosen: Steps | None = field(default=None, repr=False)
    note: str = ""

    @property
    def signature(self) -> Signature:
        """The inputs that the feeds are for."""
        return self.layout.signature

    @property
    def synthetic(self) -> bool:
        """Whether the data are made up: good for trying things out, not for judging a model."""
        return self.source.synthetic

    @property
    def steps(self) -> int | None:
        """Number of steps, or None where only reading tells."""
        if self.source.steps is None:
            return None
        return self.source.steps if self.chosen is None else len(self.chosen)

    @property
    def samples(self) -> int | None:
        """Number of samples, or None where only reading tells."""
        return None if self.steps is None else self.steps * self.source.per_step

    @property
    def feeds(self) -> int | None:
        """Number of feeds one pass makes, or None where only reading tells."""
        if self.steps is None or self.layout.fixed:
            return self.steps
        if self.batch is None or not self.source.uniform:
            return None
        return math.ceil(self.steps / self.batch)

    @property
    def indices(self) -> npt.NDArray[np.int64] | None:
        """Which samples of the source are used, ascending (to pick their labels); None for all."""
        if self.chosen is None:
            return None
        each = np.arange(self.source.per_step)
        return (self.chosen[:, None] * self.source.per_step + each).ravel()

    @property
    def description(self) -> str:
        """Where the data come from and how much of it is used, for reports."""
        count = "unknown number of" if self.samples is None else str(self.samples)
        parts = [f"{count} samples", *([self.note] if self.note else [])]
        warning = "SYNTHETIC, " if self.synthetic else ""
        return f"{warning}{self.source.description} ({', '.join(parts)})"

    def __len__(self) -> int:
        """Number of feeds.

        Raises:
            TypeError: it is not known before reading.
        """
        known = self.feeds
        if known is None:
            raise TypeError("how many feeds these data make is not known before reading them")
        return known

    def __iter__(self) -> Iterator[Chunk]:
        """Yield feeds: an array per input.

        Raises:
            OnnxpruneError: data that do not fit the model, or none at all.
        """
        empty = True
        for fed in feeds(self.source.read(self.chosen), self.layout, self.batch):
            empty = False
            yield fed
        if empty:
            raise OnnxpruneError(
                f"{self.source.description} holds no calibration data", hint=self.layout.hint
            )


def split(
    calibration: Calibration, fraction: float, seed: int = 0
) -> tuple[Calibration, Calibration]:
    """Set a random part of the data aside.

    The parts share no sample and both keep the order of the data; equal arguments give equal
    parts. Data of unknown size are read once to count them.

    Args:
        calibration: at least two steps.
        fraction: of the steps that go into the second part, between 0 and 1 exclusive; each part
            gets at least one.
        seed: of the choice.

    Returns:
        the larger share of ``1 - fraction``, and the part set aside.

    Raises:
        OnnxpruneError: there is only one step, or the fraction is out of range.
    """
    if not 0 < fraction < 1:
        raise OnnxpruneError(f"a part of {fraction} cannot be set aside", hint="0 < part < 1.")
    count = calibration.steps
    if count is None:
        count = sum(
            steps_in(chunk, calibration.layout)
            for chunk in calibration.source.read(calibration.chosen)
        )
    pool = np.arange(count) if calibration.chosen is None else calibration.chosen[:count]
    if count < 2:
        raise OnnxpruneError(
            f"{calibration.source.description} is too small to set a part of it aside",
            hint="give at least two samples (two feeds, for a model of fixed shapes)",
        )
    aside = min(max(round(count * fraction), 1), count - 1)
    order = np.random.default_rng(seed).permutation(count)
    parts = np.sort(pool[order[aside:]]), np.sort(pool[order[:aside]])
    source = replace(calibration.source, steps=calibration.source.steps or int(pool[-1]) + 1)
    notes = f"all but a held-out {fraction:g}", f"held-out {fraction:g}"
    kept, held = (
        replace(calibration, source=source, chosen=part, note=_join(calibration.note, note))
        for part, note in zip(parts, notes, strict=True)
    )
    return kept, held


def limit(calibration: Calibration, samples: int, seed: int) -> Calibration:
    """Use at most ``samples`` samples: a random choice of them, the first of a stream.

    Raises:
        OnnxpruneError: ``samples`` is not positive.
    """
    if samples < 1:
        raise OnnxpruneError(f"{samples} samples cannot calibrate anything", hint="at least 1")
    source, known = calibration.source, calibration.steps
    steps = math.ceil(samples / source.per_step)
    if known is None:
        pool = np.arange(steps) if calibration.chosen is None else calibration.chosen[:steps]
        return replace(calibration, chosen=pool, note=f"the first {samples} at most")
    if known <= steps:
        return calibration
    pool = np.arange(known) if calibration.chosen is None else calibration.chosen
    chosen = pool[np.sort(np.random.default_rng(seed).permutation(known)[:steps])]
    note = _join(calibration.note, f"of {known * source.per_step}, seed {seed}")
    return replace(calibration, chosen=chosen, note=note)


def _join(*notes: str) -> str:
    return ", ".join(filter(None, notes))
