"""What a layer and the one before it see in the pruned model, to be refitted together."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.data.activations.between import Maker
from onnxprune.data.activations.rows import Sample, run_to, wanted_rows, whole
from onnxprune.data.activations.runner import Segments
from onnxprune.recovery.order import Step
from onnxprune.solve.im2col import Index
from onnxprune.solve.patch_sampling import Crops, sample_crops, sample_tokens
from onnxprune.solve.two_layer import Rows

Array = npt.NDArray[Any]

_BYTES = 768 << 20
"""Most bytes of rows held at a time."""


def pair_rows(
    step: Step, maker: Maker, teacher: Segments, student: Segments, sample: Sample
) -> tuple[Rows, Rows]:
    """Rows for a layer and its maker, from what the maker reads: to fit to, and to judge by.

    Both models are run as far as that takes.
    """
    run_to(step.epilogue, maker.layer.x, teacher, student)
    parts: tuple[list[Rows], list[Rows]] = ([], [])
    for batch in range(len(teacher)):
        x = student.as_held(maker.layer.x, batch)
        dense = teacher.as_held(step.epilogue.value, batch)
        skip = student.as_held(step.epilogue.skip, batch) if step.epilogue.skip else None
        aside = sample.aside(student.samples, batch, np.arange(len(x)), len(x))
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
        # What comes out is there several times, too: wanted, made, off, and what is added to it.
        per_row = 4 * (2 * each + 3 * step.inputs + 4 * step.layer.shape[2])
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
    wanted, offset = wanted_rows(step.layer, step.epilogue, dense, skip, crops.outputs, step.kept)
    read = whole(maker.layer.rows(x, crops.hidden))
    return Rows(crops, read, wanted, offset, step.clip)


def _joined(parts: list[Rows]) -> Rows:
    """All rows as one; the list is emptied, so that they are not in memory twice."""
    crops, clip = [p.crops for p in parts], parts[0].clip
    xs, wanted, offsets = [p.x for p in parts], [p.wanted for p in parts], [p.offset for p in parts]
    parts.clear()
    first = crops[0]
    return Rows(
        Crops(
            np.concatenate([c.hidden for c in crops]),
            np.concatenate([c.inside for c in crops]),
            np.concatenate([c.outputs for c in crops]),
            first.field,
            first.block,
            first.window,
        ),
        _stacked(xs, 1),
        _stacked(wanted, 0),
        _stacked(offsets, 0),
        clip,
    )


def _stacked(parts: list[Array], axis: int) -> Array:
    """Arrays one behind the other; each is let go of once it is copied."""
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    out, at = np.empty(shape, parts[0].dtype), 0
    while parts:
        part = parts.pop(0)
        out.swapaxes(0, axis)[at : at + part.shape[axis]] = part.swapaxes(0, axis)
        at += part.shape[axis]
    return out
