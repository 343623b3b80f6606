"""The score of a detector: mean average precision over batches of its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from onnxprune.data import boxes as labelled
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.metrics.detection.average_precision import Objects, match
from onnxprune.evaluate.metrics.detection.boxes import areas
from onnxprune.evaluate.metrics.detection.decode import decode, scaled
from onnxprune.evaluate.metrics.detection.layouts import (
    Anchors,
    Frame,
    Layout,
    Lists,
    Parts,
    Selected,
    find_layout,
)
from onnxprune.evaluate.metrics.scores import Array, Batch, Metric, Score, nothing, of_statistics

_NORMALISED = 2.0
"""The largest coordinate of boxes that are relative to the picture."""


def score_boxes(metric: Metric, batches: Iterable[Batch]) -> Score:
    """Mean average precision, as COCO defines it, over all classes that have labelled objects.

    Labels are boxes as `onnxprune.data.boxes` describes them. A detector's class is the category of
    that number in COCO's JSON where the model has so many classes, else the category of that rank.

    Raises:
        OnnxpruneError: the layout of the outputs cannot be told, or the labels are no boxes or of
            classes that the model has not.
    """
    layout: Layout | None = None
    frame: Frame = (0, 0)
    detections: list[Objects] = []
    labels: list[Array] = []
    classes: int | None = None
    for batch in batches:
        if batch.labels.ndim != 3 or batch.labels.shape[-1] != labelled.COLUMNS:
            raise OnnxpruneError(
                f"the labels have the shape {list(batch.labels.shape)}, and are no boxes",
                hint="boxes are COCO's .json, a folder of YOLO's .txt files, or an array "
                "[samples, most, 5] of x1, y1, x2, y2, class",
            )
        if layout is None:
            size = batch.labels[0, 0, [labelled.WIDTH, labelled.HEIGHT]]
            frame = int(size[0]), int(size[1])
            layout = find_layout(
                batch.outputs, len(batch), frame, metric.reading.detector, metric.output
            )
            classes = _classes(layout, batch)
        detections += decode(layout, batch.outputs, len(batch), frame)
        labels += list(batch.labels)
    if layout is None:
        raise nothing(metric)
    if isinstance(layout, Lists | Selected) and _relative(detections):
        detections = scaled(detections, frame)
    detections = [
        _measured(d, rows[0, labelled.SCALE]) for d, rows in zip(detections, labels, strict=True)
    ]
    by_number, shift = _numbering(layout, detections, labels, classes)
    truth = [_objects(each, labelled.CATEGORY if by_number else labelled.CLASS) for each in labels]
    if not by_number:
        detections = [replace(each, classes=each.classes - shift) for each in detections]
    if not any(len(each.classes) for each in truth):
        raise nothing(metric, "no picture has a labelled object")
    if classes is not None:
        _check_classes(truth, classes - (0 if by_number else _nothings(layout)))
    result = of_statistics(match(detections, truth, metric.overlaps))
    if isinstance(layout, Selected) and layout.form == "yx-corners":
        # Graphs pass x first too, and the operator suppresses the same.
        turned = [replace(each, boxes=each.boxes[:, [1, 0, 3, 2]]) for each in detections]
        other = of_statistics(match(turned, truth, metric.overlaps))
        result = max(result, other, key=lambda each: each.value)
    return result


def _measured(detections: Objects, scale: float) -> Objects:
    """Detections with their areas in pixels of the picture."""
    return replace(detections, area=areas(detections.boxes) / scale)


def _numbering(
    layout: Layout, detections: Sequence[Objects], labels: Sequence[Array], classes: int | None
) -> tuple[bool, int]:
    """Whether classes are the numbers of COCO's categories; if not, what is first counted as."""
    last = int(max(each[0, labelled.LAST] for each in labels))
    if classes is not None:
        first = isinstance(layout, Parts) and layout.exclusive and layout.detector != "detr"
        return 0 <= last < classes, int(first)
    # Lists of detections do not say how many classes there are.
    if any((each.classes == 0).any() for each in detections):
        return False, 0
    counted = any((each[:, labelled.CLASS] == 0).any() for each in labels)
    from_one = counted or layout.detector == "ssd"
    return from_one and last >= 0, int(from_one and counted)


def _objects(rows: Array, column: int) -> Objects:
    """The labelled objects of one picture."""
    rows = rows[rows[:, labelled.CLASS] >= 0]
    classes = rows[:, column].astype(np.int64)
    boxes = np.asarray(rows[:, labelled.CORNERS], np.float64)
    crowd = rows[:, labelled.CROWD] > 0
    return Objects(boxes, classes, np.zeros(len(rows)), crowd, rows[:, labelled.AREA])


def _classes(layout: Layout, batch: Batch) -> int | None:
    """The number of classes that the outputs have scores of, nothing included; None if unknown."""
    if isinstance(layout, Anchors):
        shape = batch.outputs[layout.output].shape
        values = int(shape[1] if layout.columns else shape[2])
        return values - 4 - layout.objectness - layout.others
    if isinstance(layout, Selected):
        return int(batch.outputs[layout.scores].shape[1])
    if isinstance(layout, Parts):
        boxes, scores = (batch.outputs[name].shape for name in (layout.boxes, layout.scores))
        return int(scores[2] if scores[1] == boxes[1] else scores[1])
    return None


def _nothings(layout: Layout) -> int:
    """The number of classes that stand for nothing."""
    return int(isinstance(layout, Parts) and layout.exclusive)


def _check_classes(truth: Sequence[Objects], classes: int) -> None:
    largest = max((int(each.classes.max(initial=-1)) for each in truth), default=-1)
    if largest >= classes:
        raise OnnxpruneError(
            f"there is an object of class {largest}, but the detector has {classes} classes, "
            "counted from 0",
            hint="give labels of this model's classes, or name its layout with --detector",
        )


def _relative(detections: Sequence[Objects]) -> bool:
    """Whether coordinates of detections are relative to the picture."""
    largest = max((float(np.abs(d.boxes).max(initial=0)) for d in detections), default=0.0)
    return largest <= _NORMALISED
