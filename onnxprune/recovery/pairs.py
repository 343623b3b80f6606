"""Sampled rows of a layer and the one before it, to refit both together."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.data.activations.between import Maker
from onnxprune.data.activations.rows import Sample, run_to, wanted_rows
from onnxprune.data.activations.runner import Segments
from onnxprune.data.memory import give_back
from onnxprune.recovery.order import Step
from onnxprune.solve.im2col import Index
from onnxprune.solve.patch_sampling import Crops, sample_crops, sample_tokens
from onnxprune.solve.two_layer import Rows

Array = npt.NDArray[Any]


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
        for part, chosen in zip(parts, (~aside, aside), strict=True):
            if not chosen.any():
                continue
            count = _rows_wanted(step, maker, x, sample) * int(chosen.sum())
            count = -(-count // (len(x) * len(teacher)))
            rows = _some_rows(
                step, maker, x[chosen], dense[chosen],
                None if skip is None else skip[chosen], count, sample.seed + batch,
                None if shown is None else _of_samples(shown, chosen, maker.layer.count(x.shape)),
            )  # fmt: skip
            part.append(rows)
    give_back()
    alike = step.epilogue.skip is None  # then every row has the same summand
    return _joined(parts[0], alike=alike), _joined(parts[1], alike=alike)


def _of_samples(rows: Index, chosen: npt.NDArray[np.bool_], total: int) -> Index:
    """Which rows of some samples these are, of rows of all samples."""
    each = total // len(chosen)
    mine = rows[chosen[rows // each]]
    place = np.cumsum(chosen) - 1
    return np.asarray(place[mine // each] * each + mine % each, dtype=np.int64)


def _rows_wanted(step: Step, maker: Maker, x: Array, sample: Sample) -> int:
    """Output rows of a pair, bounded by memory: twice those of a layer, which has half to fit."""
    probe = maker.layer.rows(x[:1], np.zeros(1, np.int64))
    each = probe.shape[0] * probe.shape[2]
    if maker.filters is None:
        window, taps = step.layer.window, step.layer.taps
    else:
        window, taps = maker.filters.layer.window, 1
    ratio = 1.0  # hidden positions of each output
    if window is not None:
        hidden = sample_crops(window, 1, tuple(maker.layer.out_sizes(x.shape)), 1, 0)
        ratio = len(hidden.hidden) / len(hidden.outputs)
    # What comes out is there several times: wanted, made, off, and what is added to it.
    per_row = int(4 * (ratio * (each + step.inputs // taps) + 5 * step.layer.shape[2]))
    most = max(sample.memory.rows // per_row, 2000)
    return int(min(2 * sample.wanted(step.inputs), most))


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
    target, offset = wanted_rows(step.layer, step.epilogue, dense, skip, crops.outputs, step.kept)
    read = maker.layer.rows(x, crops.hidden)
    return Rows(crops, read, target, offset, step.clip)


def _joined(parts: list[Rows], *, alike: bool) -> Rows:
    """All rows as one; the list is emptied, so that they are not in memory twice."""
    crops, clip = [p.crops for p in parts], parts[0].clip
    xs, targets, offsets = (
        [p.x for p in parts],
        [p.wanted for p in parts],
        [p.offset for p in parts],
    )
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
        _stacked(targets, 0),
        offsets[0][:1].copy() if alike else _stacked(offsets, 0),
        clip,
    )


def _stacked(parts: list[Array], axis: int) -> Array:
    """Arrays one behind the other, in single precision; each is let go of once it is copied."""
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    out, at = np.empty(shape, np.float32), 0
    while parts:
        part = parts.pop(0)
        out.swapaxes(0, axis)[at : at + part.shape[axis]] = part.swapaxes(0, axis)
        at += part.shape[axis]
    return out
