"""Sampled rows of a layer's inputs and targets, and their moments.

Inputs are those of the model that is being changed, targets those of the dense one, so that each
layer makes up for the errors of those before it instead of passing them on; where its output is
added to a residual stream the target is the dense sum minus the changed model's other summand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.data.activations.runner import Segments
from onnxprune.data.memory import MemoryBudget
from onnxprune.data.mixtures import held_out
from onnxprune.graph.layers.epilogue import Epilogue
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.solve.im2col import Index, sample_positions, token_rows
from onnxprune.solve.moments import Accumulator, Moments

Array = npt.NDArray[Any]
Bool = npt.NDArray[np.bool_]

_GROUPED = 1 << 28
"""Most numbers in the rows of a grouped layer, whose groups have few inputs each."""
_FEWEST, _ENOUGH = 3000, 160
"""Rows that suffice for a group: in all, or for each of its inputs if that is more."""
_GATHERED = 4096
"""Rows of several batches that are multiplied together."""
_DOUBLE = 256
"""Inputs up to which moments are multiplied in float64: the fit has a ridge."""


@dataclass(frozen=True)
class Sample:
    """Settings for sampling rows.

    Attributes:
        rows: per layer, at least; fewer where it has many groups.
        per_input: per input of the layer, if that is more.
        holdout_every: one of so many samples is held out.
        seed: random seed.
        memory: the memory budget.
    """

    rows: int = 12_000
    per_input: int = 16
    holdout_every: int = 6
    seed: int = 0
    memory: MemoryBudget = field(default_factory=MemoryBudget)

    def wanted(self, inputs: int, groups: int = 1) -> int:
        """Rows for a layer with so many inputs in each of its groups.

        A group with few inputs, as a channel of a depthwise convolution, needs few of them.
        """
        most = self.rows
        if groups > 1:
            enough = max(_FEWEST, _ENOUGH * inputs)
            most = min(self.rows, enough, _GROUPED // (groups * inputs))
        return max(most, self.per_input * inputs)

    def aside(self, samples: Sequence[int], batch: int, rows: Index, total: int) -> Bool:
        """Which rows of a batch are held out: those of whole samples, where there are enough.

        Args:
            samples: in every batch.
            batch: which one.
            rows: places in a value of the batch, sample after sample.
            total: rows that this value has.
        """
        if sum(samples) < self.holdout_every:
            # A few samples cannot be put aside whole: then it is their last rows.
            return held_out(rows * self.holdout_every // total, self.holdout_every)
        return held_out(sum(samples[:batch]) + rows * samples[batch] // total, self.holdout_every)


def part_of(sample: Sample, count: int) -> Sample:
    """The sample of each of so many applications of a weight: together they are those of one."""
    return replace(sample, rows=-(-sample.rows // count), per_input=-(-sample.per_input // count))


def run_to(epilogue: Epilogue, x: str, teacher: Segments, student: Segments) -> None:
    """Run both models as far as a layer needs them: the changing one up to the layer's inputs."""
    reads = [x, *([epilogue.skip] if epilogue.skip else [])]
    if teacher is student:
        student.advance([epilogue.value, *reads])
    else:
        teacher.advance([epilogue.value])
        student.advance(reads)


def moments_of(
    layer: LinearLayer,
    epilogue: Epilogue,
    teacher: Segments,
    student: Segments,
    sample: Sample,
    kept: Bool | None = None,
    reads: Bool | None = None,
    *,
    matrices: Bool | None = None,
    apart: bool = False,
    around: tuple[Array, Array] | None = None,
) -> tuple[Moments, Moments]:
    """Moments of sampled rows and their targets: those to fit to, and those held out.

    Both models are run as far as that takes. Rows that are padding are left out.

    Args:
        layer: of the model that is being changed.
        epilogue: where its output counts.
        teacher: the dense model.
        student: the one that is being changed; it may be the same.
        sample: settings for sampling rows.
        kept: which of the dense outputs the layer still has; None for all.
        reads: which of the dense inputs it still has, where ``student`` is the dense model as well,
            of which it is to see no more.
        matrices: which of the dense model's matrices it still has, of a stack.
        apart: variances of inputs alone, not their covariances.
        around: a matrix ``[g, K, N]`` and a bias ``[g, N]``: the moments are those of what the
            targets are off by with these, and of no inputs.

    Returns:
        The same twice where there are too few rows to put any aside.
    """
    run_to(epilogue, layer.x, teacher, student)
    shape = groups, inputs, outputs = layer.shape
    double = inputs <= _DOUBLE
    if around is not None:
        shape = groups, 0, outputs
    parts = [Accumulator(*shape, double=double, gathered=_GATHERED, apart=apart) for _ in range(2)]
    share = -(-sample.wanted(inputs, groups) // len(student))
    held = False
    for batch in range(len(student)):
        x = student.as_held(layer.x, batch)
        among = student.shown_to(layer, batch)
        if reads is not None:
            x = _of_matrices(layer, matrices, np.compress(reads, x, axis=layer.axis), reads=True)
        total = layer.count(x.shape)
        positions = sample_positions(total, share, sample.seed + batch, among)
        aside = sample.aside(student.samples, batch, positions, total)
        skip = student.as_held(epilogue.skip, batch) if epilogue.skip else None
        if skip is not None and reads is not None and kept is not None:
            skip = np.compress(kept, skip, axis=layer.out_axis)
            skip = _of_matrices(layer, matrices, skip)
        dense = _of_matrices(layer, matrices, teacher.as_held(epilogue.value, batch))
        wanted, offset = wanted_rows(layer, epilogue, dense, skip, positions, kept)
        targets = (wanted - offset).reshape(len(wanted), groups, outputs).transpose(1, 0, 2)
        features = whole(layer.rows(x, positions))
        if around is not None:
            targets = targets - features @ around[0] - around[1][:, None]
            features = features[:, :, :0]
        for part, chosen in zip(parts, (~aside, aside), strict=True):
            if chosen.any():
                part.add(features[:, chosen], targets[:, chosen])
        held = held or bool(aside.any())
    fitted = parts[0].finish()
    return fitted, parts[1].finish() if held else fitted


def _of_matrices(
    layer: LinearLayer, matrices: Bool | None, value: Array, *, reads: bool = False
) -> Array:
    """The part of an output of the dense model, or of its input, that matrices in use see."""
    stack = layer.stack
    if stack is None or matrices is None:
        return value
    axis = stack.x if reads else stack.y
    if axis is None or not -value.ndim <= axis < value.ndim or value.shape[axis] != len(matrices):
        return value
    return np.compress(matrices, value, axis=axis)


def whole(rows: Array) -> Array:
    """Rows that may be held in half precision, in a type to compute with."""
    return rows.astype(np.float32) if rows.dtype == np.float16 else rows


def wanted_rows(
    layer: LinearLayer,
    epilogue: Epilogue,
    dense: Array,
    skip: Array | None,
    rows: Index,
    kept: Bool | None,
) -> tuple[Array, Array]:
    """The targets where a layer's output counts, and the summands on the way there.

    Both are ``[rows, N]``.
    """
    if layer.stack is not None and kept is not None:
        dense, kept = np.compress(kept, dense, axis=layer.out_axis), None
    wanted = _output_rows(layer, dense, rows)
    if kept is not None:
        wanted = wanted[:, kept]
    offset = np.broadcast_to(epilogue.shift.astype(wanted.dtype), wanted.shape)
    if skip is not None:
        offset = offset + _output_rows(layer, skip, rows)
    return wanted, offset


def _output_rows(layer: LinearLayer, y: Array, rows: Index) -> Array:
    """``[rows, N]`` of an output; of a stack the outputs of its matrices, one after the other."""
    if layer.stack is None:
        return whole(token_rows(y, layer.out_axis, rows)[0])
    targets = whole(layer.targets(y, rows))
    return targets.transpose(1, 0, 2).reshape(targets.shape[1], -1)
