"""Batches of samples, and where samples lie in the inputs of a model.

A *batch* has an array per input, as the model takes it. Samples lie along the batch axis of each
input; an input without one is the same for every sample. Where no input has a batch axis, because
shapes are fixed or leading axes count different things (nodes and edges of a graph), a batch is
neither divided nor joined: it is one feed, of a fixed number of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.model import Model
from onnxprune.model.signature import Signature, TensorSpec, describe, is_floating, signature_of

Array: TypeAlias = npt.NDArray[Any]
Feeds: TypeAlias = Mapping[str, Array]
Batch: TypeAlias = dict[str, Array]
Index: TypeAlias = npt.NDArray[np.int64]
Prepare: TypeAlias = Callable[[Array, TensorSpec], Array]
"""A function of the raw array of an input, applied before it is checked."""

DEFAULT_BATCH = 32
_SINGLE = "onnxprune.single"
"""In ``meta`` of the graph inputs of a model that takes one sample at a time."""
_BATCH_NAMES = ("batch", "batch_size", "batchsize", "n", "bs", "b", "batch_dim")
_UNNAMED = ("", "?", "-1", "None")
"""Placeholders of exporters for sizes without a name; they do not imply equal sizes."""


@dataclass(frozen=True)
class InputFormat:
    """The layout of samples in the inputs of a model.

    Attributes:
        signature: the inputs.
        axes: the batch axis of each input; None for an input without one.
        group: samples in one feed of a model without any batch axis; 1 for other models.
        prepare: applied to the raw arrays of floating inputs, or None.
        origin: of the data, for messages.
        loose: whether single samples may come without their batch axis.
        option: that gives the data, for messages.
    """

    signature: Signature
    axes: Mapping[str, int | None]
    group: int = 1
    prepare: Prepare | None = None
    origin: str = "the data"
    loose: bool = False
    option: str = "--calib"

    @property
    def noun(self) -> str:
        """The data by their purpose, for messages."""
        return "calibration data" if self.option == "--calib" else "evaluation data"

    @property
    def fixed(self) -> bool:
        """Whether no input has a batch axis, so that a batch is fed as it is."""
        return all(axis is None for axis in self.axes.values())

    @property
    def hint(self) -> str:
        """The inputs the model expects, for hints."""
        return f"the model expects {describe(self.signature)}"

    def of(self, origin: object, *, loose: bool = False) -> InputFormat:
        """The same for data of some origin."""
        return replace(self, origin=str(origin), loose=loose)

    def error(self, problem: str, hint: str = "") -> OnnxpruneError:
        """The error of data that do not fit: "ORIGIN holds no samples"."""
        return OnnxpruneError(f"{self.option}: {self.origin} {problem}", hint=hint or self.hint)

    def count(self, batch: Feeds) -> int:
        """Samples in a batch."""
        axes = ((name, axis) for name, axis in self.axes.items() if axis is not None)
        return max((batch[name].shape[axis] for name, axis in axes), default=self.group)

    def take(self, batch: Feeds, samples: slice | Index) -> Batch:
        """Some samples of a batch; all of them where no input has a batch axis."""
        return {
            name: array if axis is None else array[(slice(None),) * axis + (samples,)]
            for name, array in batch.items()
            for axis in [self.axes[name]]
        }

    def join(self, batches: Sequence[Feeds]) -> Batch:
        """Batches that are `joinable`, one after the other, as one."""
        first = batches[0]
        return {
            name: array
            if len(batches) == 1 or (axis := self.axes[name]) is None
            else np.concatenate([batch[name] for batch in batches], axis)
            for name, array in first.items()
        }

    def joinable(self, one: Feeds, other: Feeds) -> bool:
        """Whether sizes besides the batch, and inputs without a batch axis, are equal."""
        return not self.fixed and all(
            np.array_equal(array, other[name])
            if (axis := self.axes[name]) is None
            else _without(array.shape, axis) == _without(other[name].shape, axis)
            for name, array in one.items()
        )


def input_format(
    signature: Sequence[TensorSpec], prepare: Prepare | None = None, option: str = "--calib"
) -> InputFormat:
    """Find the batch axis of every input.

    The batch is the symbolic size with a usual name (``batch``, ``N``, ...), else the first
    symbolic first axis. An input that does not have it anywhere takes its own first axis if that
    is symbolic (exporters that name every size differently), else it is the same for every sample.
    A size that is also a later axis of some input (``seq``, ``num_edges``) is not a batch. Where
    none is called a batch and leading axes are of several kinds (``num_nodes`` and ``num_edges``,
    or one of these and an input without it), no input has a batch axis.

    Inputs that are no tensors get no data: an optional is left out, a sequence is empty.

    Raises:
        OnnxpruneError: an input is a map, which has to be fed.
    """
    specs = []
    for spec in signature:
        if spec.kind == "map":
            raise OnnxpruneError(
                f"the input '{spec.name}' is a {spec.kind}; calibration can only feed tensors"
            )
        if spec.kind != "tensor":
            continue
        shape = tuple(None if size in _UNNAMED else size for size in spec.shape)
        specs.append(replace(spec, shape=shape))
    axes = _batch_axes(specs)
    group = 1
    if all(axis is None for axis in axes.values()):
        sizes = [spec.shape[0] for spec in specs if spec.shape]
        fixed = [size for size in sizes if isinstance(size, int)]
        group = max(fixed[0], 1) if fixed and len(fixed) == len(sizes) else 1
    return InputFormat(tuple(specs), axes, group, prepare, option=option)


def inputs_of(model: Model) -> InputFormat:
    """The layout of samples in the inputs of a model."""
    inputs = input_format(signature_of(model))
    return one_by_one(inputs) if is_single(model) else inputs


def is_single(model: Model) -> bool:
    """Whether a model is known to take one sample at a time, whatever its inputs declare."""
    return any(_SINGLE in value.meta for value in model.ir.graph.inputs)


def mark_single(model: Model) -> None:
    """Have `is_single` know that of a model, and of clones of it."""
    for value in model.ir.graph.inputs:
        value.meta[_SINGLE] = True


def one_by_one(inputs: InputFormat) -> InputFormat:
    """The same where a batch is one sample, neither divided nor joined."""
    return replace(inputs, axes=dict.fromkeys(inputs.axes), group=1)


def _batch_axes(specs: Sequence[TensorSpec]) -> dict[str, int | None]:
    names = [size for spec in specs for size in spec.shape if isinstance(size, str)]
    later = {size for spec in specs for size in spec.shape[1:]} - {None}
    firsts = {spec.name: spec.shape[0] for spec in specs if spec.shape}
    leading = {n: s for n, s in firsts.items() if not isinstance(s, int) and s not in later}
    usual = next((name for name in names if name.lower() in _BATCH_NAMES), None)
    symbol = usual or next((size for size in leading.values() if size is not None), None)
    axes = {
        spec.name: spec.shape.index(symbol)
        if symbol in spec.shape and symbol is not None
        else (0 if spec.name in leading else None)
        for spec in specs
    }
    if any("batch" in name.lower() or name.lower() == "bs" for name in names):
        return axes
    chosen = {name for name in names if not any(map(str.isdigit, name))}  # others are numbered
    known = {size for spec in specs if axes[spec.name] is not None for size in spec.shape}
    kinds = chosen & set(leading.values())
    if chosen - known or (usual is None and len(kinds) > 1):
        return dict.fromkeys(axes)  # nodes and edges, say: no axis counts samples
    return axes


@dataclass(frozen=True, eq=False)
class Reader:
    """Samples of one origin, checked against the inputs of a model.

    Attributes:
        description: of the origin, for reports.
        inputs: how the model takes samples.
        read: gives the wanted samples (all for None; numbers ascending) in batches, in order; can
            be called any number of times.
        samples: their number; None if unknown before reading.
        group: samples that are fed together because the model fixes its batch.
        synthetic: whether the data are synthetic.
        batched: whether the user chose the batches.
        uniform: whether all samples are known to have equal shapes.
        files: of the samples, where each has one of its own.
        notes: sentences on how they were read.
    """

    description: str
    inputs: InputFormat = field(repr=False)
    read: Callable[[Index | None], Iterator[Batch]] = field(repr=False)
    samples: int | None = None
    group: int = 1
    synthetic: bool = False
    batched: bool = False
    uniform: bool = False
    files: tuple[Path, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()


def chain(readers: Sequence[Reader], description: str) -> Reader:
    """Readers of a known number of samples, one after the other.

    Raises:
        OnnxpruneError: only some of them hold whole batches of the model.
    """
    counts = [reader.samples or 0 for reader in readers]
    if len({reader.group for reader in readers}) > 1:
        raise OnnxpruneError(f"{description} holds whole batches in some parts, but not in others")

    def read(wanted: Index | None) -> Iterator[Batch]:
        start = 0
        for reader, count in zip(readers, counts, strict=True):
            here = None if wanted is None else within(wanted, start, start + count)
            if here is None or len(here):
                yield from reader.read(here)
            start += count

    uniform = len(readers) == 1 and readers[0].uniform
    return replace(
        readers[0], description=description, read=read, samples=sum(counts), uniform=uniform
    )


def within(samples: Index, start: int, end: int) -> Index:
    """Which samples are from ``start`` to before ``end``, counted from ``start``."""
    return samples[(samples >= start) & (samples < end)] - start


def choose(batches: Iterable[Batch], inputs: InputFormat, wanted: Index | None) -> Iterator[Batch]:
    """The wanted samples of batches that can only be read from the beginning."""
    if wanted is None:
        yield from batches
        return
    start = 0
    for batch in batches:
        end = start + inputs.count(batch)
        here = within(wanted, start, end)
        if len(here):
            yield batch if len(here) == end - start else inputs.take(batch, here)
        start = end
        if not len(wanted) or start > wanted[-1]:
            return


def rebatch(batches: Iterable[Batch], inputs: InputFormat, size: int | None) -> Iterator[Batch]:
    """Batches of ``size`` samples, as far as neighbours can be joined; None: as they come."""
    if inputs.fixed or size is None:
        yield from batches
        return
    pending: list[Batch] = []
    room = size
    for batch in batches:
        if pending and not inputs.joinable(pending[0], batch):
            yield inputs.join(pending)
            pending, room = [], size
        start, count = 0, inputs.count(batch)
        while start < count:
            taken = min(room, count - start)
            pending.append(inputs.take(batch, slice(start, start + taken)))
            start, room = start + taken, room - taken
            if not room:
                yield inputs.join(pending)
                pending, room = [], size
    if pending:
        yield inputs.join(pending)


def hold_out(
    batches: Sequence[Feeds], inputs: InputFormat, every: int
) -> tuple[list[Feeds], list[Feeds]]:
    """Single samples to fit to, and each ``every``-th held out; fixed batches stay whole."""
    samples: list[Feeds] = []
    for batch in batches:
        count = inputs.count(batch)
        parts = [slice(None)] if inputs.fixed else [slice(k, k + 1) for k in range(count)]
        samples += [inputs.take(batch, part) for part in parts]
    fit = [sample for k, sample in enumerate(samples) if k % every != every - 1]
    return fit, samples[every - 1 :: every]


def collate(samples: Sequence[Feeds], inputs: InputFormat, size: int) -> list[Feeds]:
    """Batches of up to ``size`` single samples of equal shapes; larger batches stay as they are."""
    groups: dict[object, list[Feeds]] = {}
    for number, sample in enumerate(samples):
        key: object = number
        if not inputs.fixed and inputs.count(sample) == 1:
            key = tuple(
                array.tobytes() if axis is None else _without(array.shape, axis)
                for name, array in sample.items()
                for axis in [inputs.axes[name]]
            )
        groups.setdefault(key, []).append(sample)
    return [
        inputs.join(group[k : k + size])
        for group in groups.values()
        for k in range(0, len(group), size)
    ]


def in_types_of(feeds: Feeds, signature: Signature) -> Feeds:
    """Feeds whose floating arrays have the floating types that a model takes.

    A model that computes in float16 and the float32 model it was made from so see the same samples.

    Args:
        feeds: an array per input.
        signature: the inputs of the model.

    Example:
        >>> spec = TensorSpec("x", np.dtype(np.float16), ("n",))
        >>> in_types_of({"x": np.ones(2, np.float32)}, (spec,))["x"].dtype
        dtype('float16')
    """
    types = {spec.name: spec.dtype for spec in signature if is_floating(spec.dtype)}
    return {
        name: array.astype(types[name])
        if name in types and is_floating(array.dtype) and array.dtype != types[name]
        else array
        for name, array in feeds.items()
    }


def count_samples(feeds: Feeds) -> int:
    """Samples in a batch, by the first axis of the first input that has one and is not empty."""
    return next((len(array) for array in feeds.values() if array.ndim and len(array)), 1)


def token_masks(feeds: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.bool_]]:
    """The inputs that are token masks, and which tokens are not padding, ``[samples, places]``.

    A mask is other than 0 at tokens, or at padding if it is named after
    the padding (as PyTorch's ``key_padding_mask``).
    """
    masks = {n: a != 0 for n, a in feeds.items() if "mask" in n.lower() and a.ndim == 2}
    return {n: ~mask if "pad" in n.lower() else mask for n, mask in masks.items()}


def unpadded_rows(
    masks: Mapping[str, npt.NDArray[np.bool_]], shape: tuple[int, ...], axis: int
) -> Index | None:
    """The rows of a value that are not padding; None if no mask belongs to its shape.

    Sentences of a batch are padded to one length. What a model computes for padding is never read,
    but there may be more of it than of anything else, so nothing should be fitted to it.

    Args:
        masks: as `token_masks` finds them.
        shape: of a value, tokens before features.
        axis: of the features.
    """
    if len(shape) < 2 or axis % len(shape) != len(shape) - 1:
        return None
    for tokens in masks.values():
        if shape[:-1] in (tokens.shape, (tokens.size,)) and tokens.any():
            return np.flatnonzero(tokens).astype(np.int64)
    return None


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]
