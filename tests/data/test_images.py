"""Presets of preprocessing, against the published recipes written out with Pillow and numpy."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from onnxprune.data import open_calibration
from onnxprune.data.images import parse_preprocess
from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import TensorSpec
from onnxprune.types import PREPROCESSING

F64 = npt.NDArray[np.float64]

# name: (shorter side for an input of that size, filter, mean, std)
PUBLISHED = {
    # torchvision.transforms._presets.ImageClassification
    ("imagenet", 224): (
        256,
        Image.Resampling.BILINEAR,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    ),
    ("imagenet", 112): (
        128,
        Image.Resampling.BILINEAR,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    ),
    # clip/clip.py of openai/CLIP
    ("clip", 224): (
        224,
        Image.Resampling.BICUBIC,
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
    ("clip", 336): (
        336,
        Image.Resampling.BICUBIC,
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
    # transform_test of kuangliu/pytorch-cifar, for images that are 32 x 32 already
    ("cifar10", 32): (32, None, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def published(name: str, size: int, image: Image.Image) -> F64:
    """``[height, width, channels]``, as the recipe has it."""
    shorter, method, mean, std = PUBLISHED[name, size]
    width, height = image.size
    if method is not None:
        if width <= height:
            width, height = shorter, int(shorter * height / width)
        else:
            width, height = int(shorter * width / height), shorter
        image = image.resize((width, height), method)
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    pixels = np.asarray(image, np.float64)[top : top + size, left : left + size]
    return (pixels / 255 - np.array(mean)) / np.array(std)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("name", "size", "fixed"),
    [(name, size, True) for name, size in PUBLISHED]
    + [(name, preset.size, False) for name, preset in PREPROCESSING.items()],
)
def test_presets_are_the_published_recipes(
    name: str, size: int, fixed: bool, layout: str, tmp_path: Path
) -> None:
    image = picture(32, 32) if name == "cifar10" else picture(400, 300)
    image.save(tmp_path / "a.png")
    axes = [size if fixed else None] * 2
    shape = ("batch", 3, *axes) if layout == "nchw" else ("batch", *axes, 3)
    signature = (TensorSpec("x", np.dtype(np.float32), shape),)
    ((feed,),) = (list(open_calibration(tmp_path, signature, preprocess=name)),)
    array = feed["x"][0] if layout == "nhwc" else feed["x"][0].transpose(1, 2, 0)
    assert array.shape == (size, size, 3)
    np.testing.assert_allclose(array, published(name, size, image), atol=1e-5)


@given(width=st.integers(20, 90), height=st.integers(20, 90), size=st.integers(8, 64))
def test_a_preset_gives_every_model_its_size(width: int, height: int, size: int) -> None:
    for name in PREPROCESSING:
        preprocess = parse_preprocess(name)
        spec = TensorSpec("x", np.dtype(np.float32), (None, 3, size, size))
        assert preprocess.pixels(picture(width, height), spec).shape == (3, size, size)


def test_a_preset_can_be_changed_in_parts() -> None:
    assert parse_preprocess(" ImageNet ") == parse_preprocess("imagenet")
    assert parse_preprocess("imagenet,color=bgr").color == "bgr"
    assert parse_preprocess("imagenet,color=bgr").mean == (0.485, 0.456, 0.406)
    spec = TensorSpec("x", np.dtype(np.float32), (None, 3, None, None))
    assert parse_preprocess("clip,size=336").target_size(spec) == (336, 336)
    with pytest.raises(OnnxpruneError, match="'imagnet'") as caught:
        parse_preprocess("imagnet")
    assert "did you mean 'imagenet'" in caught.value.hint
    assert all(name in caught.value.hint for name in PREPROCESSING)


def test_arrays_are_normalised_too() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4), np.uint8)
    signature = (TensorSpec("x", np.dtype(np.float32), ("n", 3, 4, 4)),)
    ((feed,),) = (list(open_calibration(pixels, signature, preprocess="cifar10")),)
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010])
    want = (pixels.transpose(0, 2, 3, 1) / 255 - mean) / std
    np.testing.assert_allclose(feed["x"].transpose(0, 2, 3, 1), want, atol=1e-5)


def test_a_function_in_a_file_prepares_pixels(tmp_path: Path) -> None:
    (tmp_path / "prepare.py").write_text("half = 3\ndef halve(array):\n    return array / 2\n")
    pixels = np.full((2, 3, 4, 4), 10, np.uint8)
    signature = (TensorSpec("x", np.dtype(np.float32), ("n", 3, 4, 4)),)
    spec = f"{tmp_path / 'prepare.py'}:halve"
    ((feed,),) = (list(open_calibration(pixels, signature, preprocess=spec)),)
    assert (feed["x"] == 5).all()
    with pytest.raises(OnnxpruneError, match="half is not a function"):
        open_calibration(pixels, signature, preprocess=f"{tmp_path / 'prepare.py'}:half")


def test_help_lists_the_presets(cli: Callable[..., Any]) -> None:
    text = cli("help", "preprocess").out
    assert all(name in text for name in PREPROCESSING)


def test_a_picture_that_is_damaged_or_too_large_is_refused_by_name(tmp_path: Path) -> None:
    spec = (TensorSpec("x", np.dtype(np.uint8), ("batch", 3, 8, 8)),)
    good = io.BytesIO()
    Image.new("RGB", (8, 8)).save(good, "PNG")
    content = good.getvalue()
    huge = content[:16] + struct.pack(">II", 60_000, 60_000) + content[24:]
    crc = struct.pack(">I", zlib.crc32(huge[12:29]))
    cases = {
        "text.png": b"not a picture",
        "cut.png": content[:40],
        "changed.png": content[:50] + bytes(8) + content[58:],
        "huge.png": huge[:29] + crc + huge[33:],
        "empty.jpg": b"",
    }
    for name, data in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(OnnxpruneError, match=f"{name} cannot be decoded") as caught:
            list(open_calibration(path, spec))
        assert caught.value.hint
