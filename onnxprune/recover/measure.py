"""What a layer to be refitted sees in the pruned model, and what it should compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibrate.mixing import judges
from onnxprune.linear.between import Maker
from onnxprune.linear.segments import Segments
from onnxprune.recover.steps import Step
from onnxprune.solve.chain import Rows
from onnxprune.solve.crops import Crops, sample_crops, sample_tokens
from onnxprune.solve.gram import Accumulator, Moments
from onnxprune.solve.patches import Index, sample_positions, token_rows

Array = npt.NDArray[Any]

_BYTES = 768 << 20
"""Most bytes of rows held at a time."""
_GROUPED = 1 << 28
"""Most numbers in the rows of a grouped layer, whose groups have few inputs each."""


@dataclass(frozen=True)
class Sample:
    """How rows are drawn.

    Attributes:
        rows: per layer, at least; fewer where it has many groups.
        per_input: per input of the layer, if that is more.
        held: every ``held``-th sample is put aside to judge by.
        seed: of the draw.
    """

    rows: int = 30_000
    per_input: int = 16
    held: int = 6
    seed: int = 0

    def wanted(self, inputs: int, groups: int = 1) -> int:
        """Rows for a layer with so many inputs in each of its groups."""
        most = self.rows if groups == 1 else min(self.rows, _GROUPED // (groups * inputs))
        return max(most, self.per_input * inputs)

    def judges(self, samples: Index) -> npt.NDArray[np.bool_]:
        """Which of some samples, counted through all batches, are put aside to judge by."""
        return judges(samples, self.held)


def moments_of(
    step: Step, teacher: Segments, student: Segments, sample: Sample
) -> tuple[Moments, Moments]:
    """Moments of sampled rows and their targets: those to fit to, and those to judge by."""
    layer, merge = step.layer, step.merge
    parts: list[Accumulator] = []
    seen = 0
    for batch in range(len(teacher)):
        x = student.value(layer.x, batch)
        total = layer.count(x.shape)
        share = -(-sample.wanted(step.inputs, layer.groups) // len(teacher))
        among = student.shown_to(layer, batch)
        positions = sample_positions(total, share, sample.seed + batch, among)
        aside = sample.judges(seen + positions * x.shape[0] // total)
        seen += x.shape[0]
        skip = student.value(merge.skip, batch) if merge.skip else None
        wanted, offset = _wanted(step, teacher.value(merge.value, batch), skip, positions)
        groups = layer.groups
        targets = (wanted - offset).reshape(len(wanted), groups, -1).transpose(1, 0, 2)
        features = layer.rows(x, positions)
        if not parts:
            shape = (groups, features.shape[2], targets.shape[2])
            parts = [Accumulator(*shape), Accumulator(*shape)]
        for accumulator, chosen in zip(parts, (~aside, aside), strict=True):
            if chosen.any():
                accumulator.add(features[:, chosen], targets[:, chosen])
    return parts[0].moments(), parts[1].moments()


def _wanted(step: Step, dense: Array, skip: Array | None, positions: Index) -> tuple[Array, Array]:
    """The values wanted where the layer's output counts, and what is added to it on the way there.

    Both are ``[rows, N]``.
    """
    axis = step.layer.out_axis
    wanted = token_rows(dense, axis, positions)[0][:, step.kept]
    offset = np.broadcast_to(step.merge.shift.astype(wanted.dtype), wanted.shape)
    if skip is not None:
        offset = offset + token_rows(skip, axis, positions)[0]
    return wanted, offset


def pair_rows(
    step: Step, maker: Maker, teacher: Segments, student: Segments, sample: Sample
) -> tuple[Rows, Rows]:
    """The same for a layer and its maker together, from what the maker reads."""
    parts: tuple[list[Rows], list[Rows]] = ([], [])
    seen = 0
    for batch in range(len(teacher)):
        x = student.value(maker.layer.x, batch)
        dense = teacher.value(step.merge.value, batch)
        skip = student.value(step.merge.skip, batch) if step.merge.skip else None
        aside = sample.judges(seen + np.arange(len(x)))
        seen += len(x)
        shown = student.shown_to(maker.layer, batch)
        for found, chosen in zip(parts, (~aside, aside), strict=True):
            if not chosen.any():
                continue
            count = _rows_wanted(step, maker, x, sample) * int(chosen.sum())
            count = -(-count // (len(x) * len(teacher)))
            rows = _some_rows(
                step, maker, x[chosen], dense[chosen],
                None if skip is None else skip[chosen], count, sample.seed + batch,
                None if shown is None else _of_samples(shown, chosen, maker.layer.count(x.shape)),
            )  # fmt: skip
            found.append(rows)
    return _joined(parts[0]), _joined(parts[1])


def _of_samples(rows: Index, chosen: npt.NDArray[np.bool_], total: int) -> Index:
    """Which rows of some samples these are, of rows of all samples."""
    each = total // len(chosen)
    mine = rows[chosen[rows // each]]
    place = np.cumsum(chosen) - 1
    return np.asarray(place[mine // each] * each + mine % each, dtype=np.int64)


def _rows_wanted(step: Step, maker: Maker, x: Array, sample: Sample) -> int:
    """Output rows of a pair, bounded by memory."""
    probe = maker.layer.rows(x[:1], np.zeros(1, np.int64))
    each, several = probe.shape[0] * probe.shape[2], 2
    if maker.filters is None:
        per_row = 4 * (2 * each + 3 * step.inputs)
    else:
        window = maker.filters.layer.window
        assert window is not None
        # Hidden positions per output: what is between them is there, too, for every output.
        hidden = sample_crops(window, 1, tuple(maker.layer.out_sizes(x.shape)), 1, 0)
        ratio = len(hidden.hidden) / len(hidden.outputs)
        per_row, several = int(4 * (ratio * (each + 2 * step.inputs) + 4 * step.inputs)), 1
    return int(min(several * sample.wanted(step.inputs), max(_BYTES // per_row, 2000)))


def _some_rows(
    step: Step,
    maker: Maker,
    x: Array,
    dense: Array,
    skip: Array | None,
    count: int,
    seed: int,
    among: Index | None,
) -> Rows:
    window = (maker.filters or step).layer.window
    if window is None:
        crops = sample_tokens(maker.layer.count(x.shape), count, seed, among)
    else:
        assert maker.layer.window is not None
        sizes = tuple(maker.layer.out_sizes(x.shape))
        crops = sample_crops(window, len(x), sizes, count, seed)
    wanted, offset = _wanted(step, dense, skip, crops.outputs)
    return Rows(crops, maker.layer.rows(x, crops.hidden), wanted, offset, step.clip)


def _joined(parts: Sequence[Rows]) -> Rows:
    first = parts[0]
    crops = Crops(
        np.concatenate([p.crops.hidden for p in parts]),
        np.concatenate([p.crops.inside for p in parts]),
        np.concatenate([p.crops.outputs for p in parts]),
        first.crops.field,
        first.crops.block,
        first.crops.window,
    )
    return Rows(
        crops,
        np.concatenate([p.x for p in parts], axis=1),
        np.concatenate([p.wanted for p in parts]),
        np.concatenate([p.offset for p in parts]),
        first.clip,
    )
