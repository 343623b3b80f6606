"""The one way in: calibration data from whatever the user names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from onnxprune.data.calibration import DEFAULT_BATCH, Calibration, limit
from onnxprune.data.folders import from_file, from_folder
from onnxprune.data.intake import Intake
from onnxprune.data.layout import Layout, layout_of
from onnxprune.data.objects import from_object, load_object
from onnxprune.data.preprocess import Preprocess, parse_preprocess
from onnxprune.data.stream import Source
from onnxprune.data.synthetic import from_noise
from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import TensorSpec, describe


def open_calibration(
    spec: Any,  # noqa: ANN401
    signature: Sequence[TensorSpec],
    *,
    preprocess: str | Preprocess | Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None = None,
    samples: int | None = None,
    batch: int | None = None,
    seed: int = 0,
) -> Calibration:
    """Open calibration data for a model.

    Args:
        spec: a path (.npz, .npy, Polygraphy .json, a folder of these, of images, or of ONNX test
            data), ``file.py:function`` or ``package.module:function``, ``random`` (see
            `onnxprune.data.synthetic.from_noise`), a `Calibration`, or a Python object (see
            `onnxprune.data.objects.from_object`).
        signature: the inputs of the model, as `onnxprune.runtime.Session.inputs` has them.
        preprocess: done to raw data of floating inputs: a specification (see
            `onnxprune.data.preprocess.parse_preprocess`) or a function from array to array.
        samples: how many to use at most: a seeded random choice, the first of a stream.
        batch: samples per feed. By default 32 where samples come singly, and otherwise the batches
            that the source makes. Models of fixed shapes are always fed their own.
        seed: of everything random here.

    Raises:
        OnnxpruneError: the data do not exist, or do not fit the inputs in name, shape, element
            type or length; hints say what the model expects. What only reading tells (NaN, a bad
            image) is raised while iterating.
    """
    if batch is not None and batch < 1:
        raise OnnxpruneError(f"a batch of {batch} samples cannot be fed", hint="at least 1")
    layout = layout_of(signature)
    if isinstance(spec, Calibration):
        return _reopen(spec, layout, samples, batch, seed)
    if not layout.signature:
        raise OnnxpruneError("the model has no inputs, so there is nothing to calibrate with")
    how = parse_preprocess(preprocess) if isinstance(preprocess, str) else preprocess
    intake = Intake(layout, how)
    if isinstance(spec, str) and (spec == "random" or spec.startswith("random:")):
        source = from_noise(spec, layout, samples, seed)
        samples = None
    else:
        source = _open(spec, intake)
    if layout.fixed:
        batch = None
    elif batch is None and not source.batched:
        batch = DEFAULT_BATCH
    opened = Calibration(layout, source, batch)
    return opened if samples is None else limit(opened, samples, seed)


def _reopen(
    opened: Calibration, layout: Layout, samples: int | None, batch: int | None, seed: int
) -> Calibration:
    if opened.signature != layout.signature:
        raise OnnxpruneError(
            f"the calibration data are for {describe(opened.signature)}", hint=layout.hint
        )
    if batch is not None and not layout.fixed:
        opened = replace(opened, batch=batch)
    return opened if samples is None else limit(opened, samples, seed)


def _open(spec: Any, intake: Intake) -> Source:  # noqa: ANN401
    if not isinstance(spec, str | Path):
        return from_object(spec, intake, _called(spec))
    path = Path(spec)
    if path.is_dir():
        return from_folder(path, intake)
    if path.is_file():
        return from_file(path, intake)
    module, colon, name = str(spec).rpartition(":")
    if colon and name.isidentifier() and (module.endswith(".py") or _is_dotted(module)):
        return from_object(load_object(str(spec)), intake, str(spec))
    raise OnnxpruneError(
        f"there is no calibration data '{spec}'",
        hint="give a file, a folder, file.py:function, or random",
    )


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _called(spec: object) -> str:
    name = getattr(spec, "__name__", None)
    return f"the function {name}" if name else f"the {type(spec).__name__} passed in"
