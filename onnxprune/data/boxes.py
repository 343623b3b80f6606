"""Labels of detectors: boxes, from arrays, COCO's JSON or YOLO's text files.

An array ``[samples, most, 12]`` with a row per object, and rows of class -1 where a picture has
fewer. Columns:

* 0 to 3: ``x1, y1, x2, y2``, in pixels of the model's input.
* 4: class, counted from 0.
* 5: 1 for a crowd, whose detections are not counted.
* 6: number of the category in COCO's JSON; the class elsewhere.
* 7: the largest number of all categories of COCO's JSON; -1 elsewhere.
* 8, 9: width and height of the model's input, in every row.
* 10: area of the object, in pixels of the picture: that of its outline where COCO's JSON has it.
* 11: pixels of the model's input per pixel of the picture, in every row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from onnxprune.data.batches import Array, Feeds
from onnxprune.data.calibration import Calibration
from onnxprune.data.images import Preprocess, channel_axis, undecodable
from onnxprune.errors import OnnxpruneError
from onnxprune.model.limits import read_json

F64 = npt.NDArray[np.float64]

CORNERS = slice(0, 4)
CLASS, CROWD, CATEGORY, LAST, WIDTH, HEIGHT, AREA, SCALE = range(4, 12)
COLUMNS = 12
NO_OBJECT = -1

_FORMS = (
    "boxes are COCO's .json, a folder of YOLO's .txt files, or an array [samples, most, 5] of "
    "x1, y1, x2, y2, class in pixels of the model's input"
)
_LARGEST = 1 << 30
"""Bytes of a COCO file: the annotations of 118,287 pictures take 450 MB."""
_NUMBERS = 5  # in a line of YOLO's files, for a box; more are the corners of an outline


@dataclass(frozen=True, eq=False)
class Frame:
    """Where the pictures of a set come to lie in the input of the model.

    Attributes:
        size: width and height of the input.
        files: the pictures in order; empty where samples are arrays.
        place: from the size of a picture to factors and offsets of its pixels; None where nothing
            says how pictures are resized.
    """

    size: tuple[int, int]
    files: Sequence[Path]
    place: Callable[[tuple[int, int]], tuple[F64, F64]] | None

    def moved(self, boxes: F64, size: tuple[int, int], of: str) -> F64:
        """Boxes ``[n, 4]`` in pixels of a picture, as pixels of the input.

        Raises:
            OnnxpruneError: the picture is resized, and nothing says how.
        """
        if self.place is not None:
            factor, offset = self.place(size)
            return boxes * np.tile(factor, 2) + np.tile(offset, 2)
        if size == self.size:
            return boxes
        have, want = ("x".join(map(str, each)) for each in (size, self.size))
        raise OnnxpruneError(
            f"{of} is a picture of {have}, the model's input is {want}, and nothing says how one "
            "became the other",
            hint="give the pictures as a folder with --preprocess KEY=VALUE,...; or boxes in "
            "pixels of the model's input, as an array",
        )

    def scale(self, size: tuple[int, int]) -> float:
        """Pixels of the input per pixel of a picture."""
        return 1.0 if self.place is None else float(np.prod(self.place(size)[0]))


def open_boxes(spec: Any, samples: Calibration | None) -> Array:  # noqa: ANN401
    """Boxes of every sample of a set, in the form described above.

    Args:
        spec: COCO's ``.json``, a folder of YOLO's ``.txt`` files (one per picture, ``class x y w
            h`` relative to it), or arrays: ``[samples, most, 5]`` (``x1, y1, x2, y2, class``) or
            ``[samples, most, 6]`` (with 1 for crowds behind them), in pixels of the model's input;
            or one ``[objects, 5]`` per sample.
        samples: of the set; their pictures say how boxes are to be moved.

    Raises:
        OnnxpruneError: the boxes cannot be read, or belong to other pictures.
    """
    if samples is None:
        raise OnnxpruneError("boxes belong to pictures, and there are none", hint=_FORMS)
    frame = frame_of(samples)
    if not isinstance(spec, str | Path):
        return _from_arrays(spec, frame)
    path = Path(spec)
    if path.is_dir():
        return _from_yolo(path, frame, samples.reader.samples)
    if path.suffix.lower() == ".json":
        return _from_coco(path, frame)
    raise OnnxpruneError(f"{path} holds no boxes", hint=_FORMS)


def count_pictures(feeds: Feeds) -> int:
    """The pictures in a batch: one where the input has no batch axis."""
    pictures = [array for array in feeds.values() if array.ndim in (3, 4)]
    first = next((array for array in pictures if array.ndim == 4), None)
    return 1 if first is None else len(first)


def frame_of(samples: Calibration) -> Frame:
    """Where pictures come to lie in the first input of a model that takes some.

    Raises:
        OnnxpruneError: no input takes pictures.
    """
    inputs, reader = samples.inputs, samples.reader
    spec = next((spec for spec in inputs.signature if len(spec.shape) in (3, 4)), None)
    if spec is None:
        raise OnnxpruneError("no input of the model takes pictures, which boxes are for")
    prepare = inputs.prepare if isinstance(inputs.prepare, Preprocess) else None
    if reader.files and (prepare is not None or inputs.prepare is None):
        prepare = prepare or Preprocess()
        height, width = prepare.target_size(spec)

        def place(size: tuple[int, int]) -> tuple[F64, F64]:
            return prepare.placement(size, spec)

        return Frame((width, height), reader.files, place)
    sizes = spec.shape if all(isinstance(n, int) for n in spec.shape[1:]) else None
    sizes = sizes or next(iter(samples))[spec.name].shape
    axis = channel_axis(spec.shape, prepare.layout if prepare else None)
    sides = sizes[-2:] if axis == -3 else sizes[-3:-1]
    return Frame((int(sides[1] or 0), int(sides[0] or 0)), reader.files, None)


def _table(
    objects: Sequence[F64], frame: Frame, scales: Sequence[float] = (), last: int = NO_OBJECT
) -> Array:
    """Rows ``[n, 8]`` of every picture (to the category, and the area) as one array."""
    most = max((len(each) for each in objects), default=0)
    table = np.zeros((len(objects), max(most, 1), COLUMNS))
    table[..., CLASS] = table[..., CATEGORY] = NO_OBJECT
    for rows, each in zip(table, objects, strict=True):
        rows[: len(each), : CATEGORY + 1] = each[:, :-1]
        rows[: len(each), AREA] = each[:, -1]
    table[..., LAST] = last
    table[..., WIDTH], table[..., HEIGHT] = frame.size
    table[..., SCALE] = np.array(scales or [1.0] * len(objects))[:, None]
    return table


def _rows(boxes: F64, classes: object, crowd: object, categories: object, area: object) -> F64:
    columns = (
        np.broadcast_to(np.asarray(c, float), len(boxes))
        for c in (classes, crowd, categories, area)
    )
    return np.concatenate([boxes, np.stack([*columns], 1)], 1)


def _areas(boxes: F64) -> F64:
    return np.asarray(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))


# --- arrays ----------------------------------------------------------------------------------


def _from_arrays(values: Any, frame: Frame) -> Array:  # noqa: ANN401
    try:
        pictures = [np.asarray(each, float) for each in values]
        pictures = [each.reshape(len(each), each[:1].size) for each in pictures]
    except (TypeError, ValueError) as error:
        raise OnnxpruneError(f"the boxes are no arrays of numbers: {error}", hint=_FORMS) from error
    objects = []
    for number, each in enumerate(pictures):
        if len(each) and each.shape[1] not in (5, 6):
            raise OnnxpruneError(
                f"the boxes of sample {number} have {each.shape[1]} columns", hint=_FORMS
            )
        rows = each[each[:, 4] >= 0] if len(each) else np.zeros((0, 5))
        if not np.isfinite(rows).all():
            raise OnnxpruneError(
                f"the boxes of sample {number} are not finite", hint="rows of class -1 are left out"
            )
        crowd = rows[:, 5] if rows.shape[1] > 5 else 0
        objects.append(_rows(rows[:, :4], rows[:, 4], crowd, rows[:, 4], _areas(rows[:, :4])))
    if any((each[:, 2:4] < each[:, :2]).any() for each in objects):
        raise OnnxpruneError(
            "there are boxes whose second corner is above or left of the first",
            hint="the columns are x1, y1, x2, y2, class: two corners, not a centre and a size",
        )
    return _table(objects, frame)


# --- COCO ------------------------------------------------------------------------------------


def _from_coco(path: Path, frame: Frame) -> Array:
    document = _json(path)
    images, categories = document["images"], document["categories"]
    numbers = sorted({int(each["id"]) for each in categories})
    ranks = {number: rank for rank, number in enumerate(numbers)}
    by_image: dict[object, list[Mapping[str, Any]]] = {}
    for each in document["annotations"]:
        if each.get("bbox") is not None:
            by_image.setdefault(each["image_id"], []).append(each)
    objects, scales = [], []
    for image in _in_order(images, frame, path):
        own = by_image.get(image["id"], [])
        boxes = np.array([each["bbox"] for each in own], float).reshape(-1, 4)
        area = [each.get("area", each["bbox"][2] * each["bbox"][3]) for each in own]
        boxes[:, 2:] += boxes[:, :2]
        size = _picture_size(image, frame)
        moved = frame.moved(boxes, size, str(image.get("file_name", path)))
        scales.append(frame.scale(size))
        category = [int(each["category_id"]) for each in own]
        unknown = next((each for each in category if each not in ranks), None)
        if unknown is not None:
            raise OnnxpruneError(f"{path} has no category {unknown}, which an annotation is of")
        crowd = [bool(each.get("iscrowd", 0)) for each in own]
        objects.append(_rows(moved, [ranks[each] for each in category], crowd, category, area))
    return _table(objects, frame, scales, max(numbers, default=NO_OBJECT))


def _json(path: Path) -> Mapping[str, Any]:
    try:
        document = read_json(path, largest=_LARGEST)
    except (ValueError, OSError) as error:
        raise OnnxpruneError(f"{path} cannot be read: {error}", hint=_FORMS) from error
    keys = ("images", "annotations", "categories")
    if not isinstance(document, Mapping) or not all(
        isinstance(document.get(key), list) and all(isinstance(one, dict) for one in document[key])
        for key in keys
    ):
        raise OnnxpruneError(f"{path} is not COCO's JSON: it needs {', '.join(keys)}", hint=_FORMS)
    needs = {"images": ("id",), "annotations": ("image_id", "category_id"), "categories": ("id",)}
    for key, names in needs.items():
        if lacking := [name for name in names if any(name not in one for one in document[key])]:
            raise OnnxpruneError(f"{path}: some of its {key} have no '{lacking[0]}'", hint=_FORMS)
    return document


def _in_order(
    images: Sequence[Mapping[str, Any]], frame: Frame, path: Path
) -> list[Mapping[str, Any]]:
    """The entry of every sample: by the name of its picture, else in the order of the file."""
    if not frame.files:
        return list(images)
    by_name: dict[str, Mapping[str, Any]] = {}
    for image in images:
        by_name.setdefault(Path(str(image.get("file_name", ""))).name, image)
    missing = next((file for file in frame.files if file.name not in by_name), None)
    if missing is not None:
        raise OnnxpruneError(
            f"{path} has no picture '{missing.name}'",
            hint="give annotations of these pictures; they go by the name of the file",
        )
    return [{**by_name[file.name], "file": file} for file in frame.files]


def _picture_size(image: Mapping[str, Any], frame: Frame) -> tuple[int, int]:
    file = image.get("file")
    if file is not None:
        return picture_size(file)
    size = image.get("width"), image.get("height")
    return (int(size[0]), int(size[1])) if size[0] and size[1] else frame.size


def picture_size(file: Path) -> tuple[int, int]:
    """Width and height of a picture, which is not decoded.

    Raises:
        OnnxpruneError: it is none.
    """
    try:
        with Image.open(file) as opened:
            return opened.size
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise undecodable(file, error) from error


# --- YOLO ------------------------------------------------------------------------------------


def _from_yolo(folder: Path, frame: Frame, samples: int | None) -> Array:
    files: Iterable[Path]
    if frame.files:
        files = [folder / f"{picture.stem}.txt" for picture in frame.files]
        if not any(file.is_file() for file in files):
            raise OnnxpruneError(
                f"{folder} has no {next(iter(files)).name}, and none of the other pictures",
                hint="there is one .txt file per picture, of the same name; it may be missing "
                "where a picture has no objects",
            )
        sizes = [picture_size(picture) for picture in frame.files]
    else:
        from onnxprune.data.readers import in_order

        files = in_order(folder.glob("*.txt"))
        if samples is not None and len(files) != samples:
            raise OnnxpruneError(
                f"{folder} has {len(files)} .txt files for {samples} samples",
                hint="give one per sample, in the order of names; or the pictures as a folder",
            )
        sizes = [frame.size] * len(files)
    objects = []
    for file, size in zip(files, sizes, strict=True):
        rows = _yolo_rows(file) if file.is_file() else np.zeros((0, 5))
        boxes = rows[:, 1:] * np.tile(np.array(size, float), 2)
        moved, kinds = frame.moved(boxes, size, str(file)), rows[:, 0]
        objects.append(_rows(moved, kinds, 0, kinds, _areas(boxes)))
    return _table(objects, frame, [frame.scale(size) for size in sizes])


def _yolo_rows(file: Path) -> F64:
    """``class, x1, y1, x2, y2`` of every line, relative to the picture."""
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            values = [float(word) for word in words]
        except ValueError as error:
            raise OnnxpruneError(f"{file}, line {number}: {error}", hint=_FORMS) from error
        if len(values) == _NUMBERS:
            x, y, width, height = values[1:]
            box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        elif len(values) > _NUMBERS and len(values) % 2:
            xs, ys = values[1::2], values[2::2]
            box = (min(xs), min(ys), max(xs), max(ys))
        else:
            raise OnnxpruneError(
                f"{file}, line {number} has {len(values)} numbers",
                hint="a line is class, centre x, centre y, width, height, relative to the picture",
            )
        if not np.isfinite(values).all() or values[0] < 0 or values[0] != int(values[0]):
            raise OnnxpruneError(f"{file}, line {number} has no class number, or is not finite")
        rows.append((values[0], *box))
    return np.array(rows, float).reshape(-1, 5)
