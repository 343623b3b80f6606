"""Second moments of what a layer reads and of what it should compute.

Inputs are those of the thinned model, targets those of the dense one, so that each layer makes up
for the errors of those before it instead of passing them on; where its output is added to a
residual stream the target is the dense sum minus the thinned other summand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.linear.merges import Merge
from onnxprune.linear.segments import Segments
from onnxprune.recover.measure import Sample
from onnxprune.solve.gram import Accumulator, Moments
from onnxprune.solve.patches import sample_positions
from onnxprune.sparse.weights import Target

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Bool = npt.NDArray[np.bool_]

_LOOK = 1000
"""Rows per batch that a mean square is taken over."""
_TRACE = 1e-6
"""Share of the mean variance of inputs that is added to each."""
_GATHERED = 4096
"""Rows of several batches that are multiplied together."""
_DOUBLE = 256
"""Inputs up to which moments are multiplied in float64: what is fitted to them has a ridge."""
ROWS = 20_000
"""Rows sampled per layer, at least."""


def moments_of(
    target: Target,
    merge: Merge,
    teacher: Segments,
    student: Segments,
    sample: Sample,
) -> tuple[Moments, Moments]:
    """Moments of sampled rows and their targets: those to fit to, and those to judge by.

    Args:
        target: the layer; what it reads is held by ``student``.
        merge: where its output counts; ``teacher`` holds the value there.
        teacher: the dense model.
        student: the thinned one.
        sample: how rows are drawn; those that are padding are left out.
    """
    layer, (groups, inputs, outputs) = target.layer, target.shape
    double = inputs <= _DOUBLE
    parts = [
        Accumulator(groups, inputs, outputs, double=double, gathered=_GATHERED) for _ in range(2)
    ]
    share = -(-max(sample.rows, sample.per_input * inputs) // len(student))
    samples = [len(student.value(layer.x, k)) for k in range(len(student))]
    seen, apart = 0, False
    for k in range(len(student)):
        x = student.value(layer.x, k)
        total = layer.count(x.shape)
        among = student.shown_to(layer, k)
        positions = sample_positions(total, share, sample.seed + k, among)
        # A few samples cannot be put aside whole: then it is their last rows.
        of = samples[k] if sum(samples) >= sample.held else sample.held
        first = seen if of == samples[k] else 0
        aside = sample.judges(first + positions * of // total)
        seen += samples[k]
        wanted = teacher.value(merge.value, k)
        if merge.skip is not None:
            wanted = wanted - student.value(merge.skip, k)
        targets = layer.targets(wanted, positions) - merge.shift.reshape(groups, 1, outputs)
        features = layer.rows(x, positions)
        for part, chosen in zip(parts, (~aside, aside), strict=True):
            if chosen.any():
                part.add(features[:, chosen], targets[:, chosen])
        apart = apart or bool(aside.any())
    fitted = parts[0].moments()
    return fitted, parts[1].moments() if apart else fitted  # too few rows to put any aside


def norms_of(
    model: models.Model, targets: Sequence[Target], batches: Sequence[Feeds], provider: str
) -> dict[str, Array]:
    """The root mean square of every input of every target, ``[g, K]``, by name of its weight.

    Args:
        model: it is only read.
        targets: in the order of the graph.
        batches: feeds; at least one.
        provider: what runs the model.
    """
    run = Segments(model, batches, provider=provider)
    found: dict[str, Array] = {}
    for target in targets:
        run.advance([target.layer.x])
        squares, count = np.zeros(target.shape[:2]), 0
        layer = target.layer
        for k in range(len(run)):
            x = run.value(layer.x, k)
            among = run.shown_to(layer, k)
            rows = layer.rows(x, sample_positions(layer.count(x.shape), _LOOK, k, among))
            squares += np.square(rows, dtype=np.float64).sum(axis=1)
            count += rows.shape[1]
        found[target.name] = np.sqrt(squares / max(count, 1))
    return found


def steadied(rows: Moments, weight: Array) -> Moments:
    """The same rows and a trace of others that read one input each and want what it gave before.

    Inputs that hardly vary leave their weights undetermined: rounding would decide them, and the
    weights it makes up are huge.

    Args:
        rows: moments of inputs and targets.
        weight: ``[g, K, N]``, what those inputs had.
    """
    trace = _TRACE * np.diagonal(rows.xx, axis1=1, axis2=2).mean(axis=1)[:, None, None]
    xx, diagonal = rows.xx.copy(), np.arange(rows.xx.shape[1])
    xx[:, diagonal, diagonal] += trace[:, 0]
    return replace(
        rows,
        xx=xx,
        xy=rows.xy + trace * weight,
        yy=rows.yy + trace[:, 0] * (weight**2).sum(axis=1),
    )
