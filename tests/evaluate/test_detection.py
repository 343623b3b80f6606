"""mAP against pycocotools, and detections from the outputs of every layout."""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.data import boxes as labelled
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.metrics import Reading, find_metric, score
from onnxprune.evaluate.metrics.detection.average_precision import SIZES, Objects, match
from onnxprune.evaluate.metrics.detection.boxes import areas, overlaps, suppress
from onnxprune.evaluate.metrics.detection.layouts import find_layout, grid
from onnxprune.evaluate.standard_error import paired_error

Array = npt.NDArray[Any]
seeds = st.integers(0, 100_000)
COCO = tuple(np.linspace(0.5, 0.95, 10).tolist())


def scene(
    rng: np.random.Generator, pictures: int, classes: int, most: int, coarse: bool
) -> tuple[list[Objects], list[Objects]]:
    """Detections near labelled objects, with ties, crowds and empty pictures."""
    detections, labels = [], []
    for _ in range(pictures):
        count, extra = rng.integers(0, most, 2)
        low = rng.integers(0, 40, (count, 2)).astype(float)
        boxes = np.concatenate([low, low + rng.integers(1, 30, (count, 2))], 1)
        kinds = rng.integers(0, classes, count)
        crowd = rng.random(count) < 0.2
        labels.append(Objects(boxes, kinds, np.zeros(count), crowd))
        moved = boxes[rng.integers(0, count, extra)] if count else np.zeros((0, 4))
        moved = moved + rng.integers(-4, 5, moved.shape)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2])
        scores = rng.random(len(moved))
        scores = scores.round(1) if coarse else scores
        near = rng.integers(0, classes, len(moved))
        detections.append(Objects(moved, near, scores, np.zeros(len(moved), bool)))
    return detections, labels


def by_pycocotools(detections: list[Objects], labels: list[Objects]) -> list[float]:
    """Mean AP; at an overlap of 50 %, of 75 %; of small, of medium and of large objects."""
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    evaluator = pytest.importorskip("pycocotools.cocoeval", reason="pycocotools is not installed")

    def sized(box: Array) -> list[float]:
        return [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]

    truth, found = coco.COCO(), []
    numbers = range(1, len(labels) + 1)
    kinds = sorted({int(k) for each in (*labels, *detections) for k in each.classes})
    truth.dataset = {
        "info": {},
        "images": [{"id": k} for k in numbers],
        "categories": [{"id": k} for k in kinds],
        "annotations": [
            {
                "image_id": number,
                "category_id": int(kind),
                "bbox": sized(box),
                "area": float(np.prod(box[2:] - box[:2])),
                "iscrowd": int(crowd),
            }
            for number, each in zip(numbers, labels, strict=True)
            for box, kind, crowd in zip(each.boxes, each.classes, each.crowd, strict=True)
        ],
    }
    for number, each in enumerate(truth.dataset["annotations"], 1):
        each["id"] = number
    for number, each in zip(numbers, detections, strict=True):
        found += [
            {
                "image_id": number,
                "category_id": int(kind),
                "bbox": sized(box),
                "score": float(value),
            }
            for box, kind, value in zip(each.boxes, each.classes, each.scores, strict=True)
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        run = evaluator.COCOeval(truth, truth.loadRes(found), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats[:6].tolist()


@given(
    pictures=st.integers(1, 6),
    classes=st.integers(1, 3),
    most=st.sampled_from([4, 15]),
    coarse=st.booleans(),
    seed=seeds,
)
def test_average_precision_equals_pycocotools(
    pictures: int, classes: int, most: int, coarse: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    detections, labels = scene(rng, pictures, classes, most, coarse)
    if not any(len(each.classes) for each in detections):
        return
    wanted = by_pycocotools(detections, labels)
    for least, value in zip((COCO, (0.5,), (0.75,)), wanted[:3], strict=True):
        statistics = match(detections, labels, least)
        found = statistics.figure(np.ones(pictures))
        assert found == pytest.approx(max(value, 0.0), abs=1e-6)


@settings(max_examples=30)
@given(
    pictures=st.integers(1, 5),
    spread=st.sampled_from([1, 3, 6]),
    scale=st.sampled_from([1.0, 0.25, 4.0]),
    seed=seeds,
)
def test_average_precision_by_area_equals_pycocotools(
    pictures: int, spread: int, scale: float, seed: int
) -> None:
    """Areas count in the picture, wherever the boxes come to lie in the model's input."""
    rng = np.random.default_rng(seed)
    detections, labels = scene(rng, pictures, 2, 12, coarse=True)
    detections, labels = (
        [replace(each, boxes=each.boxes * spread) for each in side] for side in (detections, labels)
    )
    if not any(len(each.classes) for each in detections):
        return
    wanted = by_pycocotools(detections, labels)[3:]
    moved = [
        [replace(e, boxes=e.boxes * scale, area=areas(e.boxes)) for e in side]
        for side in (detections, labels)
    ]
    result = match(*moved, COCO)
    for limits, value in zip(SIZES.values(), wanted, strict=True):
        own = result.of_size(*limits)
        known = len(own.label_category)
        assert bool(known) == (value >= 0)
        assert own.figure(np.ones(pictures)) == pytest.approx(max(value, 0.0), abs=1e-6)
    by_class = [value for _, value in result.by_class().values()]
    mean = float(np.mean(by_class)) if by_class else 0.0
    assert result.figure(np.ones(pictures)) == pytest.approx(mean)


def test_only_the_best_hundred_of_a_class_count() -> None:
    rng = np.random.default_rng(3)
    low = rng.random((250, 2)) * 900
    boxes = np.concatenate([low, low + 20], 1)
    kinds = np.arange(250) % 2
    scores = rng.random(250).round(2)
    labels = [Objects(boxes, kinds, np.zeros(250), np.zeros(250, bool))]
    detections = [Objects(boxes + 1, kinds, scores, np.zeros(250, bool))]
    found = match(detections, labels, COCO).figure(np.ones(1))
    assert found == pytest.approx(by_pycocotools(detections, labels)[0], abs=1e-6)
    assert 0 < found < 0.85


def test_weights_are_repeated_pictures() -> None:
    rng = np.random.default_rng(5)
    detections, labels = scene(rng, 8, 3, 12, coarse=False)
    weights = rng.integers(0, 4, 8)
    repeated = [
        [each for each, times in zip(side, weights, strict=True) for _ in range(times)]
        for side in (detections, labels)
    ]
    whole = match(detections, labels, COCO).figure(weights.astype(float))
    assert whole == pytest.approx(match(*repeated, COCO).figure(np.ones(weights.sum())), abs=1e-12)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.65, 1.0]))
def test_suppression_is_greedy_by_overlaps_bit_by_bit(seed: int, overlap: float) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.round(rng.normal(0, 1, (int(rng.integers(0, 30)), 4)), 1)  # some without an area
    boxes[rng.random(boxes.shape) < 0.01] = np.nan
    scores = np.round(rng.random(len(boxes)), 1)
    order, wanted = np.argsort(-scores, kind="stable"), []
    while len(order):
        wanted.append(order[0])
        near = overlaps(boxes[order[:1]], boxes[order[1:]])[0]
        order = order[1:][near <= overlap]
    assert suppress(boxes, scores, overlap).tolist() == wanted


@given(count=st.integers(0, 30), overlap=st.sampled_from([0.3, 0.5, 0.7]), seed=seeds)
def test_suppression_leaves_no_two_boxes_that_overlap(
    count: int, overlap: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    low = rng.random((count, 2)) * 30
    boxes, scores = np.concatenate([low, low + 20], 1), rng.random(count).round(1)
    stay = suppress(boxes, scores, overlap)
    assert (np.diff(scores[stay]) <= 0).all()
    shares = overlaps(boxes[stay], boxes[stay])
    assert (shares[~np.eye(len(stay), dtype=bool)] <= overlap).all()
    for gone in set(range(count)) - set(stay.tolist()):
        better = stay[scores[stay] >= scores[gone]]
        assert (overlaps(boxes[[gone]], boxes[better]) > overlap).any()


# --- layouts ---------------------------------------------------------------------------------

WIDTH, HEIGHT = 160, 96
CLASSES = 4


def objects(rng: np.random.Generator, pictures: int, classes: int = CLASSES) -> Array:
    """Labels of objects that do not overlap: at most one per cell of 32 pixels."""
    table = np.zeros((pictures, 15, labelled.COLUMNS))
    table[..., labelled.CLASS] = table[..., labelled.CATEGORY] = -1
    table[..., labelled.LAST] = -1
    table[..., labelled.WIDTH], table[..., labelled.HEIGHT] = WIDTH, HEIGHT
    table[..., labelled.SCALE] = 1
    for rows in table:
        cells = rng.permutation(15)[: rng.integers(1, 6)]
        for row, cell in zip(rows, cells, strict=False):
            x, y = 32 * (cell % 5), 32 * (cell // 5)
            row[:4] = x + 3, y + 4, x + 27 + rng.random(), y + 25 + rng.random()
            row[labelled.CLASS] = row[labelled.CATEGORY] = rng.integers(0, classes)
    table[0, 0, labelled.CLASS] = table[0, 0, labelled.CATEGORY] = 0
    return table


def anchors_of(labels: Array, strides: tuple[int, ...] = (8, 16, 32), copies: int = 1) -> Array:
    """``[pictures, anchors, 4 + classes]``: centres in pixels; junk of low score elsewhere."""
    rng = np.random.default_rng(0)
    places, sizes = grid(strides, (WIDTH, HEIGHT))
    places, sizes = (np.tile(each, (copies, 1)) for each in (places, sizes))
    table = np.zeros((len(labels), len(places), 4 + CLASSES))
    table[..., :2] = (places + 0.5) * sizes
    table[..., 2:4] = 10
    table[..., 4:] = 0.1 * rng.random(table[..., 4:].shape)
    for rows, truth in zip(table, labels, strict=True):
        for each in truth[truth[:, labelled.CLASS] >= 0]:
            centre = (each[:2] + each[2:4]) / 2
            near = np.argsort(np.abs((places + 0.5) * sizes - centre).sum(1))[:3]
            for rank, place in enumerate(near):
                rows[place, :2], rows[place, 2:4] = centre + rank, each[2:4] - each[:2]
                rows[place, 4:] = 0.01
                rows[place, 4 + int(each[labelled.CLASS])] = 0.95 - 0.1 * rank
    return table


def logit(p: Array) -> Array:
    return np.asarray(np.log(p / (1 - p)))


def outputs_of(layout: str, labels: Array) -> dict[str, Array]:  # noqa: PLR0911  one per layout
    """The outputs of a detector of some layout that finds all objects."""
    size = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], float)
    rows = anchors_of(labels, copies=3 if layout.startswith("yolov5") else 1)
    boxes, scores = rows[..., :4], rows[..., 4:]
    corners = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2] * 2, -1)
    corners[..., 2:] += boxes[..., 2:]
    one = np.ones((*rows.shape[:2], 1))
    if layout.startswith(("yolov5", "yolov6")):
        table = np.concatenate([boxes, one * 0.9, scores], -1)
        if layout == "yolov5 with heads":
            return {"out": table, "p3": np.zeros((len(labels), 3, 12, 20, 9))}
        return {"out": table}
    if layout == "yolov8":
        return {"output0": rows.swapaxes(1, 2)}
    if layout == "yolov8 relative":
        return {"output0": np.concatenate([boxes / size, scores], -1).swapaxes(1, 2)}
    if layout == "yolov8 with masks":
        masks = np.zeros((len(labels), 32, 24, 40))
        more = np.concatenate([rows, np.ones((*rows.shape[:2], 32)) * 3], -1)
        return {"output0": more.swapaxes(1, 2), "output1": masks}
    if layout == "yolox":
        places, sizes = grid((8, 16, 32), (WIDTH, HEIGHT))
        raw = np.concatenate([boxes[..., :2] / sizes - places, np.log(boxes[..., 2:] / sizes)], -1)
        return {"output": np.concatenate([raw, one, scores], -1)}
    if layout.startswith("ssd"):
        background = 1 - scores.max(-1, keepdims=True)
        padded = np.concatenate([background, scores], -1)
        padded /= padded.sum(-1, keepdims=True)
        if layout == "ssd":
            return {"scores": padded, "boxes": corners / size}
        if layout == "ssd logits":
            return {"confs": np.log(padded), "locs": corners}
        return {"boxes": corners, "scores": scores}  # no background, as YOLO-NAS has it
    if layout.startswith("detr"):
        kept = np.argsort(-scores.max(-1), axis=1)[:, :50]
        boxes, scores = (np.take_along_axis(a, kept[..., None], 1) for a in (boxes, scores))
        scores = np.where(scores > 0.9, scores, 1e-4)  # one query per object
        if layout == "detr":
            rest = 1 - scores.sum(-1, keepdims=True)
            full = np.log(np.maximum(np.concatenate([scores, rest], -1), 1e-9))
            return {"pred_logits": full + 2.5, "pred_boxes": boxes / size}
        return {"logits": logit(scores), "pred_boxes": boxes / size}  # sigmoids, as RT-DETR has
    return selected(layout, corners, scores)


def selected(  # noqa: PLR0911  one per layout
    layout: str, corners: Array, scores: Array
) -> dict[str, Array]:
    """The outputs of a detector whose graph suppresses."""
    size = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], float)
    order = np.argsort(-scores.max(-1), axis=1)[:, :20]
    boxes = np.take_along_axis(corners, order[..., None], 1)
    scores = np.take_along_axis(scores, order[..., None], 1)
    classes, values = scores.argmax(-1), scores.max(-1)
    values = np.where(values > 0.9, values, 0.0)
    listed = np.concatenate([boxes, values[..., None], classes[..., None]], -1)
    numbers = np.broadcast_to(np.arange(len(boxes))[:, None], values.shape)
    if layout.startswith("places"):
        anchor = np.tile(np.arange(values.shape[1]), (len(values), 1))
        places = np.stack([numbers, classes, anchor], -1)[values > 0]
        scores = scores.swapaxes(1, 2)
        if layout == "places, x first":
            return {"boxes": boxes, "scores": scores, "selected": places}
        if layout == "places, centres":
            ends = np.concatenate([boxes[..., :2] + boxes[..., 2:], boxes[..., 2:] * 2], -1) / 2
            ends[..., 2:] -= boxes[..., :2]
            places = np.concatenate([places, np.full((3, 3), -1)])
            return {"selected_indices": places[None].astype(np.int32), "b": ends, "s": scores}
        return {"selected": places, "boxes": (boxes / size)[..., [1, 0, 3, 2]], "scores": scores}
    if layout == "yolov10":
        return {"output0": listed}
    if layout == "yolov7 end to end":
        flat = np.concatenate(
            [numbers[..., None], boxes, classes[..., None], values[..., None]], -1
        )
        return {"output": flat[values > 0]}
    if layout == "openvino ssd":
        flat = np.concatenate(
            [numbers[..., None], classes[..., None] + 1, values[..., None], boxes / size], -1
        )
        return {"detection_out": flat[values > 0][None, None]}
    if layout == "efficient nms":
        return {
            "num_dets": (values > 0).sum(1, keepdims=True).astype(np.int32),
            "det_boxes": boxes,
            "det_scores": np.where(values > 0, values, 0.7),
            "det_classes": classes.astype(np.int32),
        }
    if layout == "tensorflow":
        return {
            "num_detections": np.full(len(boxes), 20.0),
            "detection_boxes": (boxes / size)[..., [1, 0, 3, 2]],
            "detection_classes": classes + 1.0,
            "detection_scores": values,
        }
    assert layout == "torchvision"
    keep = values[0] > 0
    return {"boxes": boxes[0, keep], "labels": classes[0, keep] + 1, "scores": values[0, keep]}


LAYOUTS = {
    "yolov5": "yolov5",
    "yolov5 with heads": "yolov5",
    "yolov6": "yolov5",
    "yolov8": "yolov8",
    "yolov8 relative": "yolov8",
    "yolov8 with masks": "yolov8",
    "yolov10": "yolov8",
    "yolov7 end to end": "yolov5",
    "yolox": "yolox",
    "ssd": "ssd",
    "ssd logits": "ssd",
    "yolo-nas": "ssd",
    "efficient nms": "ssd",
    "openvino ssd": "ssd",
    "tensorflow": "ssd",
    "detr": "detr",
    "rt-detr": "detr",
    "torchvision": "ssd",
    "places": "ssd",
    "places, x first": "ssd",
    "places, centres": "ssd",
}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_finds_the_objects(layout: str, named: bool) -> None:
    labels = objects(np.random.default_rng(len(layout)), 1 if layout == "torchvision" else 6)
    key = "detr logits" if layout == "rt-detr" else layout
    key = "ssd apart" if layout == "yolo-nas" else key
    outputs = outputs_of(key, labels)
    if "end to end" in layout or layout == "openvino ssd":
        batches, counts = [outputs], [len(labels)]  # rows name their picture
    else:
        parts = [labels] if layout == "torchvision" else [labels[:4], labels[4:]]
        batches = [outputs_of(key, part) for part in parts]
        counts = [len(part) for part in parts]
    metric = find_metric("map50", Reading(detector=LAYOUTS[layout] if named else ""))
    found = score(metric, batches, labels, counts)
    assert found.value == pytest.approx(1.0, abs=1e-9)
    wrong = labels.copy()
    # Boxes that are turned and halved: places are read with x first and with y first.
    wrong[..., labelled.CORNERS] = wrong[..., [1, 0, 3, 2]] / 2
    assert score(metric, batches, wrong, counts).value < 0.6


@pytest.mark.parametrize("layout", ["yolov8", "yolox", "ssd", "detr"])
def test_a_destroyed_detector_is_scored_all_the_same(layout: str) -> None:
    labels = objects(np.random.default_rng(1), 6)
    outputs = outputs_of(layout, labels)
    metric = find_metric("map")
    good = score(metric, [outputs], labels, [6])
    for value in (np.nan, np.inf, 0.0):
        broken = {name: np.full_like(array, value) for name, array in outputs.items()}
        bad = score(metric, [broken], labels, [6])
        assert bad.value < 0.1 < good.value
        error = paired_error(metric, good, bad)
        assert error is not None
        assert 0 < error < 0.5


def coco_labels(labels: Array, numbers: list[int]) -> Array:
    """The same objects with the category numbers of COCO's JSON."""
    table = labels.copy()
    table[..., labelled.LAST] = max(numbers)
    known = table[..., labelled.CLASS] >= 0
    table[..., labelled.CATEGORY][known] = np.array(numbers)[
        table[..., labelled.CLASS][known].astype(int)
    ]
    return table


def test_classes_are_categories_or_their_ranks() -> None:
    labels = coco_labels(objects(np.random.default_rng(2), 6), [1, 2, 5, 9])
    metric = find_metric("map50")
    for layout in ("yolov8", "yolox", "yolov10", "ssd apart", "efficient nms", "detr logits"):
        found = score(metric, [outputs_of(layout, labels)], labels, [6])
        assert found.value == pytest.approx(1.0), layout
    outputs = outputs_of("detr", labels)
    logits = np.full((6, 50, 11), -9.0)  # categories 0 to 9, and nothing
    logits[..., [1, 2, 5, 9, 10]] = outputs["pred_logits"]
    found = score(metric, [outputs | {"pred_logits": logits}], labels, [6])
    assert found.value == pytest.approx(1.0)
    lists = outputs_of("tensorflow", labels)
    lists["detection_classes"] = np.array([0, 1, 2, 5, 9.0])[lists["detection_classes"].astype(int)]
    assert score(metric, [lists], labels, [6]).value == pytest.approx(1.0)


@pytest.mark.parametrize(
    "outputs",
    [
        {"758": np.zeros((1, 85, 22, 22))},
        {"cls_8": np.zeros((1, 240, 1)), "bbox_8": np.ones((1, 240, 4))}
        | {"cls_16": np.zeros((1, 60, 1)), "bbox_16": np.ones((1, 60, 4))},
        {"dense": np.zeros((1, 10))},
        {"out": np.zeros((1, 777, 6 + 3))},
    ],
    ids=["grid", "heads", "classifier", "unusual"],
)
def test_other_outputs_name_the_way_out(outputs: dict[str, Array]) -> None:
    with pytest.raises(OnnxpruneError, match="no layout that is known") as error:
        find_layout(outputs, 1, (WIDTH, HEIGHT))
    assert "--detector yolov5|yolov8|yolox|ssd|detr" in error.value.written[1]


def test_unusual_grids_are_read_where_the_detector_is_named() -> None:
    labels = objects(np.random.default_rng(4), 3)
    rows = anchors_of(labels, strides=(8, 16))
    odd = rows[:, np.r_[: rows.shape[1], 0]]  # one anchor more
    table = np.concatenate([odd[..., :4], np.ones((*odd.shape[:2], 1)), odd[..., 4:]], -1)
    for outputs, detector in ((table, "yolov5"), (odd, "yolov8")):
        metric = find_metric("map50", Reading(detector=detector))
        assert score(metric, [{"out": outputs}], labels, [3]).value == pytest.approx(1.0)


def test_labels_that_are_no_boxes_are_refused() -> None:
    with pytest.raises(OnnxpruneError, match="are no boxes"):
        score(find_metric("map"), [{"out": np.zeros((2, 8, 315))}], np.zeros(2), [2])
    labels = objects(np.random.default_rng(0), 2)
    labels[0, 0, labelled.CLASS] = 7
    with pytest.raises(OnnxpruneError, match="class 7, but the detector has 4"):
        score(find_metric("map"), [outputs_of("yolov8", labels[:, :0])], labels, [2])


def test_offsets_from_priors_are_refused() -> None:
    rng = np.random.default_rng(0)
    outputs = {"loc": rng.normal(size=(1, 500, 4)), "conf": np.full((1, 500, 2), 0.5)}
    with pytest.raises(OnnxpruneError, match="neither corners nor centres"):
        find_layout(outputs, 1, (WIDTH, HEIGHT))


def test_grids_count_every_cell() -> None:
    places, sizes = grid((8, 16, 32), (WIDTH, HEIGHT))
    assert (
        len(places)
        == len(sizes)
        == sum(math.ceil(WIDTH / s) * math.ceil(HEIGHT / s) for s in (8, 16, 32))
    )
