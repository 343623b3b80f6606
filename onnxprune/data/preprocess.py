"""How pixels become what a network was trained on: parsing and applying ``--preprocess``."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import TensorSpec, is_floating

EXAMPLE = "size=224,crop=0.875,scale=255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225"
"""What most ImageNet networks take."""


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop, then ``(pixels / scale - mean) / std``.

    Attributes:
        size: (height, width) fed to the model; the model's own where its shape is fixed.
        crop: None resizes straight to ``size``. A fraction (0.875) first makes the shorter side
            ``size / crop``, a number of pixels (256) first makes it that, and then both cut the
            centre out.
        scale: what pixels (0..255) are divided by; None when it was not said.
        mean, std: one value, or one per channel, after scaling.
        layout: channels first or last in the model's input; found out by default.
        color: order of the three channels.
        interpolation: of the resize.
    """

    size: tuple[int, int] | None = None
    crop: float | None = None
    scale: float | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["nchw", "nhwc"] | None = None
    color: Literal["rgb", "bgr"] = "rgb"
    interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos"] = "bilinear"


def parse_preprocess(text: str) -> Preprocess:
    """Read a specification such as ``size=224,scale=255,mean=0.5,std=0.5,layout=nhwc``.

    Lists are separated by colons; ``size`` is one number or ``HEIGHTxWIDTH``.

    Raises:
        OnnxpruneError: an unknown key, or a value that does not fit its key.
    """
    made = Preprocess()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = part.partition("=")
        if key not in _FIELDS or not equals:
            close = difflib.get_close_matches(key, _FIELDS, 1)
            guess = f" Did you mean '{close[0]}'?" if close else ""
            raise OnnxpruneError(
                f"'{part}' is no part of a preprocessing specification.{guess}",
                hint=f"keys: {', '.join(_FIELDS)}. For example: {EXAMPLE}",
            )
        try:
            made = replace(made, **{key: _FIELDS[key](value)})
        except ValueError as error:
            raise OnnxpruneError(
                f"the preprocessing value '{part}' cannot be read: {error}",
                hint=f"for example: {EXAMPLE}",
            ) from error
    if made.crop is not None and made.crop <= 0:
        raise OnnxpruneError("the preprocessing value of 'crop' must be positive")
    if made.scale == 0 or 0 in made.std:
        raise OnnxpruneError("the preprocessing values of 'scale' and 'std' must not be 0")
    return made


def channel_axis(spec: TensorSpec, how: Preprocess) -> int | None:
    """The axis of the channels in an image input, counted from the end; None if it has none."""
    rank = len(spec.shape)
    if how.layout is not None:
        return {"nchw": -3, "nhwc": -1}[how.layout] if rank >= 3 else None
    if rank < 3:
        return None
    first, last = spec.shape[-3], spec.shape[-1]
    few = (1, 2, 3, 4)
    return -1 if last in few and first not in few else -3


def normalise(array: npt.NDArray[Any], spec: TensorSpec, how: Preprocess) -> npt.NDArray[Any]:
    """``(array / scale - mean) / std`` in float32; integers stay as they are without a scale.

    Raises:
        OnnxpruneError: ``mean`` or ``std`` do not fit the channels.
    """
    if not is_floating(spec.dtype) or (array.dtype.kind in "iub" and how.scale is None):
        return array
    made = array.astype(np.float32) / np.float32(1.0 if how.scale is None else how.scale)
    for values, apply in ((how.mean, np.subtract), (how.std, np.divide)):
        made = apply(made, _spread(values, made, spec, how))
    return made


def _spread(
    values: tuple[float, ...], array: npt.NDArray[Any], spec: TensorSpec, how: Preprocess
) -> npt.NDArray[np.float32]:
    vector = np.asarray(values, np.float32)
    if len(vector) == 1:
        return vector
    axis = channel_axis(spec, how)
    if axis is None or array.ndim < -axis or array.shape[axis] != len(vector):
        raise OnnxpruneError(
            f"the preprocessing has {len(vector)} values for the channels of an array of shape "
            f"{list(array.shape)}",
            hint="give one value, or one per channel, and layout=nchw or layout=nhwc",
        )
    return vector.reshape((-1,) + (1,) * (-axis - 1))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(":"))


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    made = int(height), int(width or height)
    if min(made) < 1:
        raise ValueError("sizes must be positive")
    return made


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text.lower()

    return read


_FIELDS: dict[str, Callable[[str], Any]] = {
    "size": _size,
    "crop": float,
    "scale": float,
    "mean": _numbers,
    "std": _numbers,
    "layout": _one_of("nchw", "nhwc"),
    "color": _one_of("rgb", "bgr"),
    "interpolation": _one_of("bilinear", "bicubic", "nearest", "lanczos"),
}
