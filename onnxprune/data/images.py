"""Samples from image files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from onnxprune.data.casting import as_array, cast
from onnxprune.data.intake import Intake
from onnxprune.data.layout import Chunk
from onnxprune.data.preprocess import EXAMPLE, Preprocess, channel_axis, normalise
from onnxprune.data.stream import Source, Steps
from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import TensorSpec, is_floating

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
"""What counts as an image file."""

_TOGETHER = 8  # images decoded per chunk
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def from_images(paths: Sequence[Path], intake: Intake, where: str) -> Source:
    """A source of one sample per image file, for a model with one image input.

    Args:
        paths: of the images, in order.
        intake: with a `Preprocess`, or a function from the RGB pixels (uint8, height x width x 3,
            or height x width for a model with one channel) to one sample.
        where: for messages.

    Raises:
        OnnxpruneError: the model has several inputs or none for images, or it was not said how
            pixels become numbers or how large images are to be.
    """
    layout = intake.layout
    if len(layout.signature) != 1 or len(layout.signature[0].shape) < 3:
        raise OnnxpruneError(
            f"{where} holds images, which the model does not take", hint=layout.hint
        )
    spec, how = layout.signature[0], intake.prepare
    if how is None and is_floating(spec.dtype):
        raise OnnxpruneError(
            f"{where} holds images, but it was not said how pixels become numbers",
            hint=f"for example: --preprocess {EXAMPLE}",
        )
    how = Preprocess() if how is None else how
    if isinstance(how, Preprocess):
        _target_size(spec, how)
    unbatched = len(spec.shape) == 3
    per_step = layout.batch if layout.fixed and not unbatched else 1
    steps = len(paths) // per_step
    if steps == 0:
        raise OnnxpruneError(
            f"{where} holds {len(paths)} images, fewer than the model's batch of {per_step}"
        )
    left = len(paths) - steps * per_step

    def read(wanted: Steps | None) -> Iterator[Chunk]:
        every = np.arange(steps) if wanted is None else wanted
        size = max(1, _TOGETHER // per_step)
        for start in range(0, len(every), size):
            group = every[start : start + size]
            files = (group[:, None] * per_step + np.arange(per_step)).ravel()
            samples = [_sample(paths[int(index)], spec, how, layout.hint) for index in files]
            stacked = np.stack(samples)
            if layout.fixed and not unbatched:
                stacked = stacked.reshape(len(group), per_step, *stacked.shape[1:])
            yield {spec.name: stacked}

    note = f", {left} left over after the last whole batch" if left else ""
    return Source(f"{where}: images{note}", read, steps, per_step, uniform=True)


def _sample(path: Path, spec: TensorSpec, how: Any, hint: str) -> npt.NDArray[Any]:  # noqa: ANN401
    """One sample, without a batch axis, checked against the input."""
    shape = spec.shape[-3:]
    gray = 1 in (shape[0], shape[-1])
    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if gray else "RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise OnnxpruneError(f"{path} cannot be decoded: {error}") from error
    if not isinstance(how, Preprocess):
        made = as_array(how(np.asarray(image)))
    else:
        pixels = np.asarray(_resize(image, spec, how))
        pixels = pixels[..., None] if gray else pixels
        pixels = pixels[..., ::-1] if how.color == "bgr" else pixels
        if channel_axis(spec, how) == -3:
            pixels = np.moveaxis(pixels, -1, 0)
        made = normalise(np.ascontiguousarray(pixels), spec, how)
    if made.ndim == len(shape) + 1 and made.shape[0] == 1:
        made = made[0]
    fits = made.ndim == len(shape) and all(
        not isinstance(want, int) or want == have
        for have, want in zip(made.shape, shape, strict=True)
    )
    if not fits:
        raise OnnxpruneError(
            f"{path} becomes an array of shape {list(made.shape)} for the input '{spec.name}'",
            hint=f"set size= and layout= in the preprocessing. {hint}",
        )
    return cast(made, spec, str(path), hint)


def _target_size(spec: TensorSpec, how: Preprocess) -> tuple[int, int]:
    if how.size is not None:
        return how.size
    shape = spec.shape[-3:]
    sizes = shape[1:] if channel_axis(spec, how) == -3 else shape[:2]
    height, width = sizes
    if not isinstance(height, int) or not isinstance(width, int):
        raise OnnxpruneError(
            f"the input '{spec.name}' takes images of any size; say which",
            hint="add size=224 (or size=HEIGHTxWIDTH) to the preprocessing",
        )
    return height, width


def _resize(image: Image.Image, spec: TensorSpec, how: Preprocess) -> Image.Image:
    height, width = _target_size(spec, how)
    filter_ = _RESAMPLING[how.interpolation]
    if how.crop is None:
        return image.resize((width, height), filter_)
    shorter = int(min(height, width) / how.crop) if how.crop <= 1 else int(how.crop)
    scale = shorter / min(image.size)
    # The longer side is cut off to a whole number, as in torchvision's Resize.
    size = (max(int(image.width * scale), shorter), max(int(image.height * scale), shorter))
    image = image.resize(size, filter_)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return image.crop((left, top, left + width, top + height))
