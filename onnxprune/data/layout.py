"""Where samples lie in the inputs of a model.

A *step* is the least that can be fed: one sample of a model with a symbolic batch axis, one
complete feed of a model whose batch is fixed (other sizes may be open). Between reading and
feeding, data travel in *chunks* of steps: for a symbolic batch, arrays as the model takes them,
with the steps along each batch axis; for a fixed one, one more axis in front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import Dim, Signature, TensorSpec, describe

Chunk: TypeAlias = dict[str, npt.NDArray[Any]]

_BATCH_NAMES = ("batch", "batch_size", "batchsize", "n", "bs", "b", "batch_dim")


@dataclass(frozen=True)
class Layout:
    """How the inputs of a model take samples.

    Attributes:
        signature: the inputs.
        fixed: whether the batch is fixed.
        axes: the batch axis of each input; None for an input that is the same for every sample.
            Unused where ``fixed``.
        batch: samples in one step; 1 where the batch is open.
    """

    signature: Signature
    fixed: bool
    axes: Mapping[str, int | None]
    batch: int

    @property
    def hint(self) -> str:
        """What the model expects, for the hints of messages."""
        return f"The model expects {describe(self.signature)}."


@dataclass(frozen=True)
class Place:
    """How one array holds steps of one input.

    Attributes:
        form: ``rows`` (along ``axis``), ``stacked`` (one more axis in front), ``single`` (one
            sample without its batch axis) or ``shared`` (one value for all steps).
        steps: how many; 1 for ``single`` and ``shared``.
        axis: the axis that ``rows`` are counted along.
        rows: rows per step along that axis.
        left: rows left over after the last whole step.
    """

    form: Literal["rows", "stacked", "single", "shared"]
    steps: int = 1
    axis: int = 0
    rows: int = 1
    left: int = 0


def layout_of(signature: Sequence[TensorSpec]) -> Layout:
    """Find the batch axis of every input.

    The batch is the symbolic size with a usual name (``batch``, ``N``, ...), else the first
    symbolic first axis; without either it is fixed. An input that does not have it anywhere takes
    its own first axis if that is symbolic (exporters that name every size differently), else it is
    shared by all samples.

    Raises:
        OnnxpruneError: an input is a sequence, map or optional, which cannot be calibrated.
    """
    for spec in signature:
        if spec.kind != "tensor":
            raise OnnxpruneError(
                f"the input '{spec.name}' is a {spec.kind}; calibration can only feed tensors"
            )
    symbol = _batch_symbol(signature)
    axes = {spec.name: _batch_axis(spec.shape, symbol) for spec in signature}
    if all(axis is None for axis in axes.values()):
        first = next((spec.shape[0] for spec in signature if spec.shape), 1)
        assert isinstance(first, int)
        return Layout(tuple(signature), fixed=True, axes={}, batch=max(first, 1))
    return Layout(tuple(signature), fixed=False, axes=axes, batch=1)


def place(shape: Sequence[int], spec: TensorSpec, layout: Layout, *, loose: bool) -> Place | None:
    """How an array of ``shape`` holds steps of ``spec``; None if it does not fit.

    Args:
        shape: of the array.
        spec: the input.
        layout: of the model.
        loose: whether a single sample may come without its batch axis.
    """
    want = spec.shape
    if layout.fixed:
        return _place_fixed(tuple(shape), spec, loose=loose)
    axis = layout.axes[spec.name]
    if axis is None:
        return Place("shared") if _matches(shape, want) else None
    if _matches(shape, (*want[:axis], None, *want[axis + 1 :])):
        return Place("rows", shape[axis], axis)
    if loose and _matches(shape, want[:axis] + want[axis + 1 :]):
        return Place("single", axis=axis)
    return None


def arrange(array: npt.NDArray[Any], at: Place, layout: Layout) -> npt.NDArray[Any]:
    """The array in the form that chunks have, for the steps that ``at`` says it holds."""
    if not layout.fixed:
        return np.expand_dims(array, at.axis) if at.form == "single" else array
    if at.form == "stacked":
        return array
    if at.form == "shared":
        return array[None]
    if at.form == "single":
        return array[None, None]
    kept = array[: at.steps * at.rows]
    return kept.reshape(at.steps, at.rows, *array.shape[1:])


def steps_in(chunk: Chunk, layout: Layout) -> int:
    """How many steps a chunk holds."""
    for spec in layout.signature:
        if layout.fixed:
            return len(chunk[spec.name])
        axis = layout.axes[spec.name]
        if axis is not None:
            return int(chunk[spec.name].shape[axis])
    return 1


def select(chunk: Chunk, layout: Layout, steps: slice | npt.NDArray[np.int64]) -> Chunk:
    """Some steps of a chunk, as a chunk."""
    made = {}
    for name, array in chunk.items():
        axis = 0 if layout.fixed else layout.axes[name]
        if axis is None:
            made[name] = array
        else:
            made[name] = array[(slice(None),) * axis + (steps,)]
    return made


def join(chunks: Sequence[Chunk], layout: Layout) -> Chunk:
    """Chunks of equal shapes, one after the other, as one chunk."""
    if len(chunks) == 1:
        return chunks[0]
    made = {}
    for name, first in chunks[0].items():
        axis = 0 if layout.fixed else layout.axes[name]
        made[name] = first if axis is None else np.concatenate([one[name] for one in chunks], axis)
    return made


def joinable(one: Chunk, other: Chunk, layout: Layout) -> bool:
    """Whether two chunks can be joined: equal shapes besides the steps, equal shared inputs."""
    for name, array in one.items():
        axis = 0 if layout.fixed else layout.axes[name]
        if axis is None:
            if not np.array_equal(array, other[name]):
                return False
        elif _without(array.shape, axis) != _without(other[name].shape, axis):
            return False
    return True


def check_symbols(chunk: Chunk, layout: Layout, where: str) -> None:
    """Refuse a chunk in which one symbolic size has two values.

    Raises:
        OnnxpruneError: naming the size and the two inputs.
    """
    seen: dict[str, tuple[int, str]] = {}
    for spec in layout.signature:
        shape = chunk[spec.name].shape[1:] if layout.fixed else chunk[spec.name].shape
        for size, have in zip(spec.shape, shape, strict=True):
            if not isinstance(size, str):
                continue
            known, other = seen.setdefault(size, (have, spec.name))
            if known != have:
                raise OnnxpruneError(
                    f"{where} gives '{size}' the size {known} in '{other}' and {have} in "
                    f"'{spec.name}'",
                    hint=layout.hint,
                )


def _place_fixed(shape: tuple[int, ...], spec: TensorSpec, *, loose: bool) -> Place | None:
    want = spec.shape
    if not want and not shape:
        return Place("shared")
    if len(shape) == len(want) + 1 and _matches(shape[1:], want):
        return Place("stacked", shape[0])
    if want and len(shape) == len(want) and _matches(shape[1:], want[1:]):
        rows = want[0]
        assert isinstance(rows, int)
        if shape[0] == rows:
            return Place("rows", 1, 0, rows)
        if shape[0] > rows > 0:
            return Place("rows", shape[0] // rows, 0, rows, shape[0] % rows)
    if loose and want[:1] == (1,) and _matches(shape, want[1:]):
        return Place("single")
    return None


def _matches(shape: Sequence[int], want: Sequence[Dim]) -> bool:
    return len(shape) == len(want) and all(
        not isinstance(size, int) or size == have for have, size in zip(shape, want, strict=True)
    )


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _batch_symbol(signature: Sequence[TensorSpec]) -> str | None:
    names = [size for spec in signature for size in spec.shape if isinstance(size, str)]
    for name in names:
        if name.lower() in _BATCH_NAMES:
            return name
    firsts = [spec.shape[0] for spec in signature if spec.shape]
    return next((size for size in firsts if isinstance(size, str)), None)


def _batch_axis(shape: Sequence[Dim], symbol: str | None) -> int | None:
    if symbol is not None and symbol in shape:
        return list(shape).index(symbol)
    return 0 if shape and not isinstance(shape[0], int) else None
