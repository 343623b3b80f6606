"""Boxes of pictures in every form, moved to where the pictures come to lie in the input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from onnxprune.data import Calibration, open_calibration
from onnxprune.data import boxes as labelled
from onnxprune.data.boxes import count_pictures
from onnxprune.data.images import parse_preprocess
from onnxprune.data.labels import open_labels
from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import TensorSpec

Array = npt.NDArray[Any]
SPEC = TensorSpec("images", np.dtype(np.float32), ("batch", 3, 64, 96))
PICTURES = {"a2.png": (200, 100), "a10.png": (50, 80), "b.png": (96, 64)}
"""Names, in natural order, and sizes."""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of grey pictures with a bright box from 20 to 60 % of both sides."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, (width, height) in PICTURES.items():
        pixels = np.full((height, width, 3), 50, np.uint8)
        pixels[
            round(0.2 * height) : round(0.6 * height), round(0.2 * width) : round(0.6 * width)
        ] = 250
        Image.fromarray(pixels).save(folder / name)
    return folder


def opened(folder: Path, preprocess: str = "scale=1", **more: Any) -> Calibration:
    return open_calibration(folder, (SPEC,), preprocess=preprocess, **more)


def coco(path: Path, sizes: dict[str, tuple[int, int]] = PICTURES) -> Path:
    """COCO's JSON of these boxes, in another order, of categories 3 and 7."""
    images, annotations = [], []
    for number, (name, (width, height)) in enumerate(reversed(sizes.items()), 10):
        images.append({"id": number, "file_name": f"set/{name}", "width": width, "height": height})
        box = [0.2 * width, 0.2 * height, 0.4 * width, 0.4 * height]
        annotations.append({"id": number, "image_id": number, "category_id": 7, "bbox": box})
    annotations.append(
        {"id": 1, "image_id": 10, "category_id": 3, "bbox": [0, 0, 5, 5], "iscrowd": 1}
    )
    categories = [{"id": 7, "name": "box"}, {"id": 3, "name": "corner"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(document))
    return path


def yolo(folder: Path) -> Path:
    folder.mkdir()
    for name in PICTURES:
        (folder / f"{Path(name).stem}.txt").write_text("1 0.4 0.4 0.4 0.4\n")
    (folder / "b.txt").write_text("1 0.2 0.2 0.6 0.2 0.6 0.6 0.2 0.6\n\n")  # an outline
    return folder


def bright(picture: Array) -> Array:
    """The smallest box around what is bright in a picture ``[3, height, width]``."""
    ys, xs = np.nonzero(picture[0] > 150)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], float)


@pytest.mark.parametrize("form", ["coco", "yolo"])
@pytest.mark.parametrize(
    "preprocess", ["scale=1", "scale=1,crop=1", "scale=1,crop=0.8", "scale=1,letterbox=114"]
)
def test_boxes_lie_where_their_pictures_do(
    tmp_path: Path, pictures: Path, form: str, preprocess: str
) -> None:
    samples = opened(pictures, preprocess)
    spec = coco(tmp_path / "boxes.json") if form == "coco" else yolo(tmp_path / "labels")
    table = open_labels(spec, metric="map50", samples=samples)
    assert table.shape[0] == len(PICTURES)
    assert table.shape[2] == labelled.COLUMNS
    assert (table[..., labelled.WIDTH] == 96).all()
    assert (table[..., labelled.HEIGHT] == 64).all()
    inputs = np.concatenate([feed["images"] for feed in samples])
    for rows, picture in zip(table, inputs, strict=True):
        box = rows[rows[:, labelled.CLASS] == 1][0, labelled.CORNERS]
        inside = np.clip(box, 0, [96, 64, 96, 64])
        assert np.abs(inside - bright(picture)).max() <= 1.5
    known = table[table[..., labelled.CLASS] == 1]
    moved = np.prod(known[:, 2:4] - known[:, :2], axis=1)
    assert moved / known[:, labelled.SCALE] == pytest.approx(known[:, labelled.AREA])
    sizes = [0.16 * width * height for width, height in PICTURES.values()]
    assert known[:, labelled.AREA] == pytest.approx(sizes)


def test_coco_has_categories_crowds_and_an_order_of_its_own(tmp_path: Path, pictures: Path) -> None:
    table = open_labels(coco(tmp_path / "boxes.json"), metric="map", samples=opened(pictures))
    known = table[..., labelled.CLASS] >= 0
    assert known.sum(1).tolist() == [1, 1, 2]
    assert table[2][known[2]][:, labelled.CLASS].tolist() == [1, 0]
    assert table[2][known[2]][:, labelled.CATEGORY].tolist() == [7, 3]
    assert table[2][known[2]][:, labelled.CROWD].tolist() == [0, 1]
    assert (table[..., labelled.LAST] == 7).all()


def test_some_samples_have_their_own_boxes(tmp_path: Path, pictures: Path) -> None:
    whole = open_labels(coco(tmp_path / "boxes.json"), metric="map", samples=opened(pictures))
    some = opened(pictures, samples=2)
    assert some.indices is not None
    chosen = open_labels(tmp_path / "boxes.json", some.indices, metric="map", samples=some)
    assert np.array_equal(chosen, whole[some.indices])


def test_pictures_without_a_file_have_no_objects(tmp_path: Path, pictures: Path) -> None:
    folder = yolo(tmp_path / "labels")
    (folder / "a10.txt").unlink()
    table = open_labels(folder, metric="map", samples=opened(pictures))
    assert (table[..., labelled.CLASS] >= 0).sum(1).tolist() == [1, 0, 1]
    assert (table[..., labelled.LAST] == -1).all()


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_arrays_are_in_pixels_of_the_input(counts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = open_calibration(np.zeros((len(counts), 3, 64, 96), np.float32), (SPEC,))
    lists = []
    for count in counts:
        low = rng.random((count, 2)) * 40
        classes = rng.integers(0, 3, (count, 1))
        lists.append(np.concatenate([low, low + 9, classes], 1))
    padded = np.full((len(counts), 4, 5), -1.0)
    for rows, each in zip(padded, lists, strict=True):
        rows[: len(each)] = each
    one, other = (open_labels(each, metric="map", samples=samples) for each in (lists, padded))
    assert np.array_equal(one, other)
    for rows, each in zip(one, lists, strict=True):
        assert np.allclose(rows[: len(each), :5], each)
        assert (rows[len(each) :, labelled.CLASS] == -1).all()


def test_arrays_of_files_are_read(tmp_path: Path) -> None:
    samples = open_calibration(np.zeros((2, 3, 64, 96), np.float32), (SPEC,))
    boxes = np.array([[[1, 2, 3, 4, 0]], [[0, 0, 9, 9, 1]]], float)
    np.savez(tmp_path / "boxes.npz", y=boxes)
    np.save(tmp_path / "boxes.npy", boxes)
    one, other = (
        open_labels(tmp_path / name, metric="map", samples=samples)
        for name in ("boxes.npz", "boxes.npy")
    )
    assert np.array_equal(one, other)
    assert one[1, 0, labelled.CORNERS].tolist() == [0, 0, 9, 9]


def test_arrays_whose_pictures_were_resized_are_refused(tmp_path: Path) -> None:
    samples = open_calibration(np.zeros((3, 3, 64, 96), np.float32), (SPEC,))
    with pytest.raises(OnnxpruneError, match="nothing says how one became the other") as error:
        open_labels(coco(tmp_path / "boxes.json"), metric="map", samples=samples)
    assert "--preprocess" in error.value.written[1]
    same = dict.fromkeys(PICTURES, (96, 64))
    table = open_labels(coco(tmp_path / "same.json", same), metric="map", samples=samples)
    assert np.allclose(table[1, 0, labelled.CORNERS], [19.2, 12.8, 57.6, 38.4])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "cannot be read"),
        ("[]", "is not COCO's JSON"),
        ('{"images": [{}], "annotations": [], "categories": []}', "have no 'id'"),
        ('{"images": [], "annotations": [], "categories": []}', "has no picture 'a2.png'"),
    ],
)
def test_damaged_json_is_refused(tmp_path: Path, pictures: Path, text: str, problem: str) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(text)
    with pytest.raises(OnnxpruneError, match=problem) as error:
        open_labels(path, metric="map", samples=opened(pictures))
    assert error.value.written[0].startswith("--labels: ")
    assert error.value.hint


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("1 0.5", "line 1 has 2 numbers"),
        ("x 0 0 1 1", "line 1"),
        ("1.5 0 0 1 1", "no class number"),
    ],
)
def test_damaged_lines_name_their_place(
    tmp_path: Path, pictures: Path, line: str, problem: str
) -> None:
    folder = yolo(tmp_path / "labels")
    (folder / "a10.txt").write_text(line)
    with pytest.raises(OnnxpruneError, match=f"a10.txt, .*{problem}"):
        open_labels(folder, metric="map", samples=opened(pictures))


def test_folders_of_other_pictures_are_refused(tmp_path: Path, pictures: Path) -> None:
    empty = tmp_path / "labels"
    empty.mkdir()
    with pytest.raises(OnnxpruneError, match=r"has no a2\.txt"):
        open_labels(empty, metric="map", samples=opened(pictures))
    samples = open_calibration(np.zeros((2, 3, 64, 96), np.float32), (SPEC,))
    with pytest.raises(OnnxpruneError, match=r"0 \.txt files for 2 samples"):
        open_labels(empty, metric="map", samples=samples)
    with pytest.raises(OnnxpruneError, match="holds no boxes"):
        open_labels(tmp_path / "boxes.txt", metric="map", samples=samples)
    with pytest.raises(OnnxpruneError, match="above or left of the first"):
        open_labels([[[9, 9, 1, 1, 0]]], metric="map", samples=samples)


@given(
    width=st.integers(1, 500),
    height=st.integers(1, 500),
    text=st.sampled_from(["", "crop=0.875", "crop=1", "letterbox=0"]),
)
def test_pictures_are_placed_as_they_are_resized(width: int, height: int, text: str) -> None:
    preprocess = parse_preprocess(f"{text},size=64".removeprefix(","))
    factor, offset = preprocess.placement((width, height), SPEC)
    low, high = offset, np.array([width, height]) * factor + offset
    if text.startswith("crop"):
        assert (low <= 0.5).all()
        assert (high >= 63.5).all()
    elif text:
        assert (low >= 0).all()
        assert (high <= 64 + 1e-9).all()
        assert (np.abs(high - low - 64) < 1e-9).any()
    else:
        assert low.tolist() == [0, 0]
        assert high == pytest.approx([64, 64])


def test_letterbox_and_crop_exclude_each_other() -> None:
    with pytest.raises(OnnxpruneError, match="both 'crop' and 'letterbox'"):
        parse_preprocess("crop=1,letterbox=114")
    with pytest.raises(OnnxpruneError, match="'letterbox=300' cannot be read"):
        parse_preprocess("letterbox=300")


def test_a_picture_without_a_batch_axis_is_one() -> None:
    assert count_pictures({"x": np.zeros((3, 8, 9))}) == 1
    assert count_pictures({"sizes": np.zeros((5, 2)), "x": np.zeros((5, 3, 8, 9))}) == 5
