"""Models that take one sample at a time, whatever their inputs declare.

An exporter names the batch axis of an input, and writes the batch of its example into a Reshape, an
initial state or a class token inside. Two samples at once then fail; one runs. Such a model is fed
like one of fixed shapes: its batches are neither divided nor joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from onnxprune.data.batches import Batch, Feeds, Index, mark_single, one_by_one, rebatch
from onnxprune.data.calibration import Calibration
from onnxprune.errors import OnnxpruneError
from onnxprune.model import Model
from onnxprune.runtime.first_run import RuntimeDiedError, first_run, may_crash


def runnable(
    model: Model, source: Calibration, first: Feeds, provider: str = "cpu"
) -> tuple[Calibration, Feeds]:
    """Samples in feeds that a model runs on, and the first feed: as they are, else one by one.

    Args:
        model: it is run on two samples, in a process of its own if it may crash; one that takes
            one sample at a time is remembered as such.
        source: the samples.
        first: the first feed of it.
        provider: execution provider.

    Raises:
        RuntimeDiedError: the runtime crashed or hung.
        OnnxpruneError: the model does not run, or the samples cannot be read.
    """
    inputs = source.inputs
    two = _first_two(source, first)
    if two is None:
        if may_crash(model):
            first_run(model, [first], provider=provider)
        return source, first
    try:
        first_run(model, [two], provider=provider)
    except RuntimeDiedError:
        raise
    except OnnxpruneError as problem:
        one = inputs.take(two, slice(0, 1))
        try:
            first_run(model, [one], provider=provider)
        except OnnxpruneError:
            raise problem from None
        mark_single(model)
        return singly(source), one
    return source, first


def singly(source: Calibration) -> Calibration:
    """The same samples, one a feed."""
    inputs, batches = source.inputs, source.reader.read

    def read(wanted: Index | None) -> Iterator[Batch]:
        return rebatch(batches(wanted), inputs, 1)

    reader = replace(source.reader, inputs=one_by_one(inputs), read=read)
    axes = [(spec.shape, inputs.axes[spec.name]) for spec in inputs.signature]
    axis = next((shape[k] for shape, k in axes if k is not None), None)
    named = f"the axis '{axis}'" if axis else "an axis for more"
    note = f"the model runs on one sample at a time, although it has {named}: so it was fed"
    notes = source.notes if source.batch == 1 else (*source.notes, note)
    return replace(source, reader=reader, batch=None, notes=notes)


def _first_two(source: Calibration, first: Feeds) -> Feeds | None:
    """The first two samples as one feed; None where feeds are not made of samples."""
    inputs = source.inputs
    if inputs.fixed:
        return None
    if inputs.count(first) > 1:
        return inputs.take(first, slice(0, 2))
    two = next(rebatch(source.reader.read(source.indices), inputs, 2), first)
    return None if inputs.count(two) < 2 else two
