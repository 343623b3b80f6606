"""What models are fed while they are measured: the user's data, or synthetic inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune import model as models
from onnxprune.data import Calibration, open_calibration
from onnxprune.data.batches import DEFAULT_BATCH, input_format
from onnxprune.data.dataset import Feeds
from onnxprune.data.singly import runnable
from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import signature_of
from onnxprune.quantities import shape_text

COMPARED = 256
"""Samples that outputs are compared on, where there are no labels and nothing else is said."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs for models of one signature.

    Attributes:
        calibration: where they come from.
    """

    calibration: Calibration

    @property
    def synthetic(self) -> bool:
        """Whether the inputs are synthetic: latencies are then those of such inputs."""
        return self.calibration.synthetic

    @property
    def batch(self) -> int | None:
        """The batch size that the model fixes; None if it is open."""
        inputs = self.calibration.inputs
        return inputs.group if inputs.fixed else None

    def timed(self, batch: int) -> Feeds:
        """One feed of ``batch`` samples, the first ones, over again where there are fewer.

        Raises:
            OnnxpruneError: the model fixes another batch size, or the data cannot be read.
        """
        if self.batch is not None:
            if batch != self.batch:
                raise OnnxpruneError(f"the batch size of the model is fixed at {self.batch}")
            return next(iter(self.calibration))
        inputs = self.calibration.inputs
        again = open_calibration(self.calibration, inputs.signature, batch=batch)
        feed = next(iter(again))
        feeds: Feeds = {
            name: array
            if (axis := inputs.axes[name]) is None
            else array.take(np.arange(batch) % array.shape[axis], axis=axis)
            for name, array in feed.items()
        }
        return feeds

    def judged(self) -> Iterator[Feeds]:
        """All samples, in batches."""
        signature = self.calibration.signature
        return iter(open_calibration(self.calibration, signature, batch=DEFAULT_BATCH))


def open_samples(
    model: models.Model,
    *,
    calib: object | None = None,
    preprocess: object | None = None,
    most: int | None = COMPARED,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
) -> tuple[Samples, int | None]:
    """Open inputs for a model.

    Args:
        model: whose inputs.
        calib: as `onnxprune.data.open_calibration` takes it; None makes inputs up.
        preprocess: preprocessing of raw pictures.
        most: samples that outputs are compared on; None for all.
        shapes: of inputs whose sizes the model leaves open, for synthetic ones.
        seed: random seed.

    Returns:
        the samples, and the batch size that ``shapes`` names, if it does.

    Raises:
        OnnxpruneError: data or shapes do not fit the model.
    """
    signature = signature_of(model)
    if calib is not None and shapes:
        raise OnnxpruneError(
            "--shapes is for synthetic inputs", hint="leave out --shapes or --calib"
        )
    if not signature:
        raise OnnxpruneError("the model has no inputs, so nothing can be fed to it")
    sizes, batch = _sizes(model, shapes or {})
    made_up = ":".join(filter(None, ("random", ",".join(f"{k}={v}" for k, v in sizes.items()))))
    calibration = open_calibration(
        made_up if calib is None else calib,
        signature,
        preprocess=preprocess,
        samples=most,
        seed=seed,
    )
    return Samples(_runnable(model, calibration)), batch


def _runnable(model: models.Model, calibration: Calibration) -> Calibration:
    """The samples one by one, where the model takes no two of them at once.

    What no execution provider runs here may still run on another backend, which then says itself
    what it does not take.
    """
    first = next(iter(calibration))
    try:
        return runnable(model, calibration, first)[0]
    except OnnxpruneError:
        return calibration


def _sizes(
    model: models.Model, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, int], int | None]:
    """The open sizes that shapes settle, by name, and that of the batch."""
    signature = signature_of(model)
    inputs = input_format(signature)
    specs = {spec.name: spec for spec in signature}
    sizes: dict[str, int] = {}
    batch = None
    for name, shape in shapes.items():
        spec = specs.get(name)
        fits = spec is not None and len(spec.shape) == len(shape)
        if not fits or any(
            isinstance(want, int) and want != size
            for want, size in zip(specs[name].shape, shape, strict=True)
        ):
            raise OnnxpruneError(
                f"--shapes {name}={shape_text(shape)} fits no input", hint=inputs.hint
            )
        for axis, (want, size) in enumerate(zip(specs[name].shape, shape, strict=True)):
            if inputs.axes[name] == axis:
                batch = size
            elif not isinstance(want, int):
                sizes.setdefault(want or f"{name}[{axis}]", size)
    return sizes, batch
