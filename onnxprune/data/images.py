"""Samples from image files, and how pixels become what a network was trained on."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from onnxprune.data.batches import Array, Batch, Index, InputFormat, Prepare, Reader
from onnxprune.data.validation import cast, fits
from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import TensorSpec, is_floating
from onnxprune.types import PREPROCESSING

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
"""Suffixes of image files."""
EXAMPLE = f"size=224,{PREPROCESSING['imagenet'].spec}"
"""What most ImageNet networks take, spelled out."""

_TOGETHER = 8  # images decoded per batch


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop, then ``(pixels / scale - mean) / std``.

    Attributes:
        size: (height, width) fed to the model; the model's own where its shape is fixed.
        crop: None resizes straight to ``size``. A fraction (0.875) first makes the shorter side
            ``size / crop``, a number of pixels (256) first makes it that, and then both cut the
            centre out.
        letterbox: the whole image, as large as fits, with bars of this brightness (YOLO's 114).
        scale: divisor of pixels (0..255); None where it is not given.
        mean, std: one value, or one per channel, after scaling.
        layout: channels first or last in the model's input; inferred by default.
        color: order of the three channels.
        interpolation: of the resize.
        open_size: height and width where neither ``size`` nor the model fixes them.
    """

    size: tuple[int, int] | None = None
    crop: float | None = None
    letterbox: int | None = None
    scale: float | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["nchw", "nhwc"] | None = None
    color: Literal["rgb", "bgr"] = "rgb"
    interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos"] = "bilinear"
    open_size: int | None = None

    def __call__(self, array: Array, spec: TensorSpec) -> Array:
        """``(array / scale - mean) / std`` in float32; integers stay as they are without a scale.

        Raises:
            OnnxpruneError: ``mean`` or ``std`` do not fit the channels.
        """
        if not is_floating(spec.dtype) or (array.dtype.kind in "iub" and self.scale is None):
            return array
        array = array.astype(np.float32) / np.float32(1.0 if self.scale is None else self.scale)
        for values, apply in ((self.mean, np.subtract), (self.std, np.divide)):
            array = apply(array, _per_channel(values, array, self._channel_axis(spec)))
        return array

    def pixels(self, image: Image.Image, spec: TensorSpec) -> Array:
        """The pixels of an image in the size and layout of the input, as bytes.

        Raises:
            OnnxpruneError: neither the preprocessing nor the model fixes the size.
        """
        pixels = np.asarray(self._resize(image, spec))
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        pixels = pixels[..., ::-1] if self.color == "bgr" else pixels
        if self._channel_axis(spec) == -3:
            pixels = np.moveaxis(pixels, -1, 0)
        return np.ascontiguousarray(pixels)

    def target_size(self, spec: TensorSpec) -> tuple[int, int]:
        """(height, width) that the input gets.

        Raises:
            OnnxpruneError: neither the preprocessing nor the model fixes it.
        """
        if self.size is not None:
            return self.size
        shape = spec.shape[-3:]
        height, width = shape[1:] if self._channel_axis(spec) == -3 else shape[:2]
        if self.open_size is not None:
            height, width = (n if isinstance(n, int) else self.open_size for n in (height, width))
        if not isinstance(height, int) or not isinstance(width, int):
            raise OnnxpruneError(
                f"the input '{spec.name}' takes images of any size",
                hint="add size=224 (or size=HEIGHTxWIDTH) to the preprocessing",
            )
        return height, width

    def placement(
        self, size: tuple[int, int], spec: TensorSpec
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Where the pixels of an image come to lie in the input: at ``pixel * factor + offset``.

        Args:
            size: width and height of the image.
            spec: of the input.

        Returns:
            factor and offset along x and y.

        Raises:
            OnnxpruneError: neither the preprocessing nor the model fixes the size of the input.
        """
        resized, (left, top) = self._geometry(size, spec)
        return np.array(resized) / np.array(size), -np.array([left, top], float)

    def _channel_axis(self, spec: TensorSpec) -> int | None:
        return channel_axis(spec.shape, self.layout)

    def _resize(self, image: Image.Image, spec: TensorSpec) -> Image.Image:
        height, width = self.target_size(spec)
        size, (left, top) = self._geometry(image.size, spec)
        image = image.resize(size, Image.Resampling[self.interpolation.upper()])
        if self.letterbox is not None:
            bars = (self.letterbox,) * len(image.getbands())
            canvas = Image.new(image.mode, (width, height), bars if len(bars) > 1 else bars[0])
            canvas.paste(image, (-left, -top))
            return canvas
        if size == (width, height):
            return image
        return image.crop((left, top, left + width, top + height))

    def _geometry(
        self, size: tuple[int, int], spec: TensorSpec
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Width and height that an image is resized to, and where the input begins in it."""
        height, width = self.target_size(spec)
        if self.letterbox is not None:
            scale = min(width / size[0], height / size[1])
            fitted = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
            # Halves are rounded down, as YOLO does.
            return fitted, (-((width - fitted[0]) // 2), -((height - fitted[1]) // 2))
        if self.crop is None:
            return (width, height), (0, 0)
        shorter = int(min(height, width) / self.crop) if self.crop <= 1 else int(self.crop)
        scale = shorter / min(size)
        # The longer side is cut off to a whole number, as in torchvision's Resize.
        resized = max(int(size[0] * scale), shorter), max(int(size[1] * scale), shorter)
        return resized, (round((resized[0] - width) / 2), round((resized[1] - height) / 2))


def channel_axis(
    shape: Sequence[object], layout: Literal["nchw", "nhwc"] | None = None
) -> int | None:
    """The axis of the channels in an image input, counted from the end; None if it has none.

    Args:
        shape: of the input.
        layout: whether they are first or last; inferred by default.
    """
    if len(shape) < 3:
        return None
    if layout is not None:
        return {"nchw": -3, "nhwc": -1}[layout]
    few = (1, 2, 3, 4)
    return -1 if shape[-1] in few and shape[-3] not in few else -3


def _per_channel(
    values: tuple[float, ...], array: Array, axis: int | None
) -> npt.NDArray[np.float32]:
    vector = np.asarray(values, np.float32)
    if len(vector) == 1:
        return vector
    if axis is None or array.ndim < -axis or array.shape[axis] != len(vector):
        raise OnnxpruneError(
            f"the preprocessing has {len(vector)} values for the channels of an array of shape "
            f"{list(array.shape)}",
            hint="give one value, or one per channel, and layout=nchw or layout=nhwc",
        )
    return vector.reshape((-1,) + (1,) * (-axis - 1))


def parse_preprocess(text: str) -> Preprocess:
    """Read a specification such as ``size=224,scale=255,mean=0.5,std=0.5,layout=nhwc``.

    Lists are separated by colons; ``size`` is one number or ``HEIGHTxWIDTH``. A preset
    (`onnxprune.types.PREPROCESSING`) stands for what it spells out; what follows it changes parts
    of it. A preset takes the size of the model's input, where that is fixed.

    Raises:
        OnnxpruneError: an unknown key or preset, or a value that does not fit its key.

    Example:
        >>> parse_preprocess("clip,size=336").mean
        (0.48145466, 0.4578275, 0.40821073)
    """
    preprocess = Preprocess()
    first, _, rest = text.partition(",")
    preset = PREPROCESSING.get(first.strip().lower())
    if preset is not None:
        preprocess = replace(parse_preprocess(preset.spec), open_size=preset.size)
        text = rest
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = part.partition("=")
        if key not in _FIELDS or not equals:
            if key in _FIELDS:
                raise OnnxpruneError(f"'{part}' has no value", hint=f"write it as in {EXAMPLE}")
            close = difflib.get_close_matches(key, [*_FIELDS, *PREPROCESSING], 1)
            raise OnnxpruneError(
                f"'{part}' is not part of a preprocessing specification",
                hint=(f"did you mean '{close[0]}'? " if close else "")
                + f"presets are {', '.join(PREPROCESSING)}; others are written as in {EXAMPLE}, or "
                "file.py:function",
            )
        try:
            preprocess = replace(preprocess, **{key: _FIELDS[key](value)})
        except ValueError as error:
            raise OnnxpruneError(
                f"the preprocessing value '{part}' cannot be read: {error}",
                hint=f"for example: {EXAMPLE}",
            ) from error
    if preprocess.crop is not None and preprocess.crop <= 0:
        raise OnnxpruneError(
            "the preprocessing value of 'crop' must be positive", hint="write it as in crop=0.875"
        )
    if preprocess.crop is not None and preprocess.letterbox is not None:
        raise OnnxpruneError(
            "the preprocessing has both 'crop' and 'letterbox'",
            hint="the one cuts off what the other keeps: give one of them",
        )
    if preprocess.scale == 0 or 0 in preprocess.std:
        raise OnnxpruneError(
            "the preprocessing values of 'scale' and 'std' must not be 0",
            hint="write it as in scale=255,std=0.5",
        )
    return preprocess


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(":"))


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    size = int(height), int(width or height)
    if min(size) < 1:
        raise ValueError("sizes must be positive")
    return size


def _brightness(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 255:
        raise ValueError("pixels are from 0 to 255")
    return value


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text.lower()

    return read


_FIELDS: dict[str, Callable[[str], Any]] = {
    "size": _size,
    "crop": float,
    "letterbox": _brightness,
    "scale": float,
    "mean": _numbers,
    "std": _numbers,
    "layout": _one_of("nchw", "nhwc"),
    "color": _one_of("rgb", "bgr"),
    "interpolation": _one_of("bilinear", "bicubic", "nearest", "lanczos"),
}


def read_images(paths: Sequence[Path], inputs: InputFormat) -> Reader:
    """A reader of one sample per image file, for a model with one image input.

    Args:
        paths: of the images, in order.
        inputs: prepared by a `Preprocess`, or a function from the RGB pixels (uint8, height x width
            x 3, or height x width for a model with one channel) to one sample.

    Raises:
        OnnxpruneError: the model has several inputs or none for images, or nothing says how
            pixels become numbers or how large images should be.
    """
    spec = inputs.signature[0]
    if len(inputs.signature) != 1 or len(spec.shape) < 3:
        raise inputs.error("holds images, which the model does not take")
    if inputs.prepare is None and is_floating(spec.dtype):
        raise inputs.error(
            "holds images, but nothing says how pixels become numbers",
            hint=f"for example: --preprocess imagenet, or --preprocess {EXAMPLE}",
        )
    prepare = inputs.prepare or Preprocess()
    if isinstance(prepare, Preprocess):
        prepare.target_size(spec)
    alone = inputs.fixed and len(spec.shape) == 3  # the model takes one image, without a batch axis
    group = 1 if alone else inputs.group
    count = len(paths) // group * group
    if count == 0:
        raise inputs.error(f"holds {len(paths)} images, fewer than the model's batch of {group}")

    def read(wanted: Index | None) -> Iterator[Batch]:
        numbers = np.arange(count) if wanted is None else wanted
        size = group if inputs.fixed else _TOGETHER
        for start in range(0, len(numbers), size):
            chosen = [paths[int(k)] for k in numbers[start : start + size]]
            samples = [_sample(path, spec, prepare, inputs.of(path)) for path in chosen]
            yield {spec.name: samples[0] if alone else np.stack(samples)}

    remainder = len(paths) - count
    note = f", {remainder} left over after the last whole batch" if remainder else ""
    return Reader(
        f"{inputs.origin}: images{note}",
        inputs,
        read,
        count,
        group,
        uniform=True,
        files=tuple(paths[:count]),
    )


def undecodable(path: Path, error: Exception) -> OnnxpruneError:
    """The error for a picture that Pillow cannot read, or refuses to because of its size."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return OnnxpruneError(
        f"{path} cannot be decoded: {reason}", hint="save it again, or leave it out"
    )


def _sample(path: Path, spec: TensorSpec, prepare: Prepare, inputs: InputFormat) -> Array:
    """One sample, without a batch axis, checked against the input."""
    shape = spec.shape[-3:]
    gray = 1 in (shape[0], shape[-1])
    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if gray else "RGB")
    except MemoryError:
        raise
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise undecodable(path, error) from error
    pixels = prepare.pixels(image, spec) if isinstance(prepare, Preprocess) else np.asarray(image)
    sample = prepare(pixels, spec)
    if sample.ndim == len(shape) + 1 and sample.shape[0] == 1:
        sample = sample[0]
    if not fits(sample.shape, shape):
        raise inputs.error(
            f"becomes an array of shape {list(sample.shape)} for the input '{spec.name}'",
            hint=f"set size= and layout= in the preprocessing; {inputs.hint}",
        )
    return cast(sample, spec, inputs)
