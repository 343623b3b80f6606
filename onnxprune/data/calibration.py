"""Calibration data: feeds that can be read repeatedly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxprune.data.batches import (
    DEFAULT_BATCH,
    Batch,
    Index,
    InputFormat,
    Prepare,
    Reader,
    input_format,
    rebatch,
)
from onnxprune.data.feeds import load_object
from onnxprune.data.images import Preprocess, parse_preprocess
from onnxprune.data.readers import open_reader
from onnxprune.data.synthetic import read_random
from onnxprune.data.validation import as_array
from onnxprune.errors import OnnxpruneError, blame, kind_of
from onnxprune.model.signature import Signature, TensorSpec, describe


@dataclass(frozen=True, eq=False)
class Calibration:
    """Feeds for a model; iterating starts from the beginning every time and keeps nothing.

    Attributes:
        reader: of the samples.
        batch: samples per feed; None keeps the batches of the reader. A model without a batch axis
            is always fed its own.
        indices: which samples of the reader are used, ascending (to pick their labels); None for
            all.
        note: on how they were chosen, for reports.
        notes: sentences on how they are fed.
    """

    reader: Reader
    batch: int | None = None
    indices: Index | None = field(default=None, repr=False)
    note: str = ""
    notes: tuple[str, ...] = ()

    @property
    def inputs(self) -> InputFormat:
        """The layout of samples in the inputs of the model."""
        return self.reader.inputs

    @property
    def signature(self) -> Signature:
        """The inputs that the feeds are for."""
        return self.inputs.signature

    @property
    def synthetic(self) -> bool:
        """Whether the data are synthetic: good for trials, not for evaluating a model."""
        return self.reader.synthetic

    @property
    def samples(self) -> int | None:
        """Number of samples; None if unknown before reading."""
        if self.reader.samples is None or self.indices is None:
            return self.reader.samples
        return len(self.indices)

    @property
    def available(self) -> int | None:
        """Number of samples that the data hold, chosen or not; None if unknown or synthetic."""
        return None if self.synthetic else self.reader.samples

    @property
    def steps(self) -> int | None:
        """Number of parts that can be chosen from: samples, or feeds of a fixed batch."""
        return None if self.samples is None else self.samples // self.reader.group

    @property
    def description(self) -> str:
        """Origin and amount of the data, for reports."""
        count = "unknown number of" if self.samples is None else str(self.samples)
        parts = _join(f"{count} samples", self.note)
        if self.synthetic:
            return f"{self.reader.description}, {parts}"
        return f"{self.reader.description} ({parts})"

    def __len__(self) -> int:
        """Number of feeds.

        Raises:
            TypeError: it is not known before reading.
        """
        steps, regular = self.steps, self.batch is not None and self.reader.uniform
        if steps is None or not (self.inputs.fixed or regular):
            raise TypeError("how many feeds these data make is not known before reading them")
        return steps if self.inputs.fixed else math.ceil(steps / (self.batch or 1))

    def __iter__(self) -> Iterator[Batch]:
        """Yield feeds: an array per input.

        Raises:
            OnnxpruneError: data that do not fit the model, or none at all.
        """
        empty = True
        for feed in rebatch(self.reader.read(self.indices), self.inputs, self.batch):
            empty = False
            yield feed
        if empty:
            raise OnnxpruneError(
                f"{self.reader.description} holds no {self.inputs.noun}", hint=self.inputs.hint
            )


def open_calibration(
    spec: Any,  # noqa: ANN401
    signature: Sequence[TensorSpec],
    *,
    preprocess: object | None = None,
    samples: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    option: str = "--calib",
    together: int = 1,
) -> Calibration:
    """Open calibration data for a model.

    Args:
        spec: a path (.npz, .npy, Polygraphy .json, a folder of these, of images, or of ONNX test
            data), ``file.py:function`` or ``package.module:function``, ``random`` (see
            `onnxprune.data.synthetic.read_random`), a `Calibration`, or a Python object (see
            `onnxprune.data.feeds.read_object`).
        signature: the inputs of the model, as `onnxprune.runtime.Session.inputs` has them.
        preprocess: done to raw data of floating inputs: a preset (``imagenet``, ``cifar10``,
            ``clip``) or another specification (see `onnxprune.data.images.parse_preprocess`), a
            function from array to array, or where it is: ``file.py:function``.
        samples: how many to use at most: a seeded random choice, the first of a stream.
        batch: samples per feed. By default 32 where samples come singly, and otherwise the batches
            that the reader makes. Models of fixed shapes are always fed their own.
        seed: random seed.
        option: that gives the data, for messages: ``--calib`` or ``--eval``.
        together: neighbours that are chosen together or not at all.

    Raises:
        OnnxpruneError: the data do not exist, or do not fit the inputs in name, shape, element
            type or length; hints say what the model expects. What shows only in reading (NaN,
            a bad image) is raised while iterating.

    Example:
        >>> from onnxprune.model.signature import TensorSpec
        >>> signature = [TensorSpec("x", np.dtype("float32"), ("batch", 3))]
        >>> calibration = open_calibration(np.zeros((10, 3)), signature, batch=4)
        >>> [feed["x"].shape for feed in calibration]
        [(4, 3), (4, 3), (2, 3)]
    """
    if batch is not None and batch < 1:
        raise OnnxpruneError(f"a batch of {batch} samples cannot be fed", hint="at least 1")
    inputs = input_format(signature, _prepare(preprocess), option)
    if isinstance(spec, Calibration):
        if spec.signature != inputs.signature:
            raise OnnxpruneError(
                f"the {inputs.noun} are for {describe(spec.signature)}", hint=inputs.hint
            )
        calibration = spec if batch is None or spec.inputs.fixed else replace(spec, batch=batch)
        return limit(calibration, samples, seed)
    if not inputs.signature:
        others = "".join(f"; '{each.name}' is a {each.kind}" for each in signature)
        what = "tensor inputs" if others else "inputs"
        raise OnnxpruneError(
            f"the model has no {what}, so there is nothing to calibrate with{others}"
        )
    if isinstance(spec, str) and (spec == "random" or spec.startswith("random:")):
        reader, samples = read_random(spec, inputs, samples, seed), None
    else:
        reader = open_reader(spec, inputs)
    if reader.inputs.fixed:
        batch = None
    elif batch is None and not reader.batched:
        batch = DEFAULT_BATCH
    if together > 1 and not inputs.fixed:
        reader = replace(reader, group=together)
    return limit(Calibration(reader, batch, notes=reader.notes), samples, seed)


@blame("--preprocess")
def _prepare(preprocess: object | None) -> Prepare | None:
    if isinstance(preprocess, str):
        if ":" not in preprocess or "=" in preprocess:
            return parse_preprocess(preprocess)
        function = load_object(preprocess)
        if not callable(function):
            raise OnnxpruneError(
                f"{preprocess} is not a function", hint="it must take and return an array"
            )
        return _prepare(function)
    if preprocess is None or isinstance(preprocess, Preprocess):
        return preprocess
    if not callable(preprocess):
        raise OnnxpruneError(
            f"the preprocessing is {kind_of(preprocess)}",
            hint="give a specification, as text, or a function from array to array",
        )

    def prepare(array: np.ndarray[Any, Any], _: TensorSpec) -> np.ndarray[Any, Any]:
        try:
            return as_array(preprocess(array))
        except (OnnxpruneError, MemoryError):
            raise
        except Exception as error:  # the user's function may raise anything
            raise OnnxpruneError(
                f"--preprocess: the function failed: {type(error).__name__}: {error}",
                hint="it is called with an array, and must return one",
            ) from error

    return prepare


def limit(calibration: Calibration, samples: int | None, seed: int) -> Calibration:
    """Use at most ``samples`` samples: a random choice of them, the first of a stream.

    Raises:
        OnnxpruneError: ``samples`` is not positive.
    """
    if samples is None:
        return calibration
    if samples < 1:
        raise OnnxpruneError(f"{samples} samples cannot calibrate anything", hint="at least 1")
    wanted = math.ceil(samples / calibration.reader.group)
    count = calibration.steps
    if count is None:
        first = _choose(calibration, np.arange(wanted))
        return replace(calibration, indices=first, note=f"the first {samples} at most")
    if count <= wanted:
        return calibration
    order = np.random.default_rng(seed).permutation(count)
    note = _join(calibration.note, f"of {calibration.samples}, seed {seed}")
    return replace(calibration, indices=_choose(calibration, order[:wanted]), note=note)


def split(
    calibration: Calibration, fraction: float, seed: int = 0
) -> tuple[Calibration, Calibration]:
    """Split the data in two at random.

    The parts share no sample and both keep the order of the data; equal arguments give equal
    parts. Data of unknown size are read once to count them. Feeds of a fixed batch stay whole.

    Args:
        calibration: at least two samples, or two feeds of a fixed batch.
        fraction: of the samples that go into the second part, between 0 and 1 exclusive; each part
            gets at least one.
        seed: random seed.

    Returns:
        the larger share of ``1 - fraction``, and the part set aside.

    Raises:
        OnnxpruneError: there is only one sample, or the fraction is out of range.
    """
    if not 0 < fraction < 1:
        raise OnnxpruneError(f"a part of {fraction} cannot be set aside", hint="0 < part < 1")
    reader, count = calibration.reader, calibration.steps
    if count is None:
        batches = reader.read(calibration.indices)
        count = sum(map(calibration.inputs.count, batches)) // reader.group
        last = _choose(calibration, np.arange(count))[-1:]
        reader = replace(reader, samples=int(last.sum()) + 1)
    if count < 2:
        raise OnnxpruneError(
            f"{reader.description} is too small to set a part of it aside",
            hint="give at least two samples (two feeds, for a model of fixed shapes)",
        )
    aside = min(max(round(count * fraction), 1), count - 1)
    order = np.random.default_rng(seed).permutation(count)
    kept, aside_part = (
        replace(
            calibration,
            reader=reader,
            indices=_choose(calibration, part),
            note=_join(calibration.note, note),
        )
        for part, note in (
            (order[aside:], f"all but a held-out {fraction:g}"),
            (order[:aside], f"held-out {fraction:g}"),
        )
    )
    return kept, aside_part


def _choose(calibration: Calibration, parts: Index) -> Index:
    """The samples of some of the parts that ``calibration.steps`` counts, ascending."""
    group = calibration.reader.group
    samples: Index = (np.sort(parts)[:, None] * group + np.arange(group)).ravel()
    if calibration.indices is None:
        return samples
    return np.asarray(calibration.indices[samples[samples < len(calibration.indices)]])


def _join(*notes: str) -> str:
    return ", ".join(filter(None, notes))
