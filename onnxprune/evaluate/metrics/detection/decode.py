"""Detections from the outputs of detectors, in pixels of the model's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxprune.evaluate.metrics.detection.average_precision import Objects
from onnxprune.evaluate.metrics.detection.boxes import I64, corners, suppress
from onnxprune.evaluate.metrics.detection.layouts import (
    Anchors,
    BoxForm,
    Frame,
    Layout,
    Lists,
    Parts,
    Selected,
    class_scores,
    grid,
)
from onnxprune.evaluate.metrics.scores import F64, Array, Outputs

LEAST_SCORE = 0.001
"""Detections with lower scores are left out, as detectors do when they are measured."""
MOST_DETECTIONS = 300
"""Detections of a picture that stay, the best ones."""
_MOST_CANDIDATES = 10_000  # of a picture, before suppression
OVERLAP: Mapping[str, float] = {"yolov5": 0.6, "yolov8": 0.7, "yolox": 0.65, "ssd": 0.5}
"""Overlaps above which a better detection of the same class suppresses another: those of the
projects' own measurements. DETR suppresses none."""


def decode(layout: Layout, outputs: Outputs, samples: int, frame: Frame) -> list[Objects]:
    """The detections of every sample; boxes of `Lists` and `Selected` in the output's unit.

    Args:
        layout: as `find_layout` tells it.
        outputs: of one batch.
        samples: in it.
        frame: width and height of the model's input.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of a model that computes no boxes
        if isinstance(layout, Anchors):
            return _of_anchors(layout, outputs[layout.output], frame)
        if isinstance(layout, Parts):
            return _of_parts(layout, outputs, frame)
        if isinstance(layout, Selected):
            return _of_places(layout, outputs, samples)
        if layout.rows:
            return _of_rows(layout, outputs[layout.boxes], samples)
        return _of_lists(layout, outputs, samples)


def _of_anchors(layout: Anchors, output: Array, frame: Frame) -> list[Objects]:
    values = (output.swapaxes(1, 2) if layout.columns else output).astype(np.float64)
    start = 4 + layout.objectness
    boxes = values[..., :4]
    if layout.strides:
        places, sizes = grid(layout.strides, frame)
        middle, extent = boxes[..., :2] + places, np.exp(boxes[..., 2:])
        boxes = np.concatenate([middle, extent], -1) * sizes
    boxes = corners(boxes)
    if layout.normalised:
        boxes = boxes * np.tile(np.array(frame, float), 2)
    scores = values[..., 4 : values.shape[-1] - layout.others]
    if layout.logits:
        scores = _sigmoid(scores)
    if layout.objectness:
        scores = scores[..., start - 4 :] * scores[..., :1]
    return [
        _suppressed(*_candidates(b, s), OVERLAP[layout.detector])
        for b, s in zip(boxes, scores, strict=True)
    ]


def _of_parts(layout: Parts, outputs: Outputs, frame: Frame) -> list[Objects]:
    boxes = outputs[layout.boxes].astype(np.float64)
    boxes = _cornered(boxes[:, :, 0] if boxes.ndim == 4 else boxes, layout.form)
    if layout.normalised:
        boxes = boxes * np.tile(np.array(frame, float), 2)
    turned = class_scores(outputs[layout.scores], boxes.shape[1])
    assert turned is not None  # as when the layout was told
    scores = turned.astype(np.float64)
    if layout.logits:
        scores = _softmax(scores) if layout.exclusive else _sigmoid(scores)
    background = (-1 if layout.detector == "detr" else 0) if layout.exclusive else None
    if background is not None:
        scores = np.copy(scores)
        scores[..., background] = 0.0
    detections = []
    for each, rows in zip(boxes, scores, strict=True):
        if layout.detector == "detr" and layout.exclusive:  # one class per query
            rows = np.where(rows == rows.max(-1, keepdims=True), rows, 0.0)  # noqa: PLW2901
        candidates = _candidates(each, rows)
        if layout.detector == "detr":
            detections.append(_best(*candidates))
        else:
            detections.append(_suppressed(*candidates, OVERLAP[layout.detector]))
    return detections


def _of_places(layout: Selected, outputs: Outputs, samples: int) -> list[Objects]:
    boxes = outputs[layout.boxes].astype(np.float64)
    boxes = _cornered(boxes.reshape(samples, -1, 4), layout.form)
    scores = outputs[layout.scores].astype(np.float64)
    if layout.logits:
        scores = _sigmoid(scores)
    places = outputs[layout.places].reshape(-1, 3).astype(np.int64)
    places = places[(places >= 0).all(-1)]  # rows of -1 fill up
    sample, category, anchor = places.T
    values, ends = scores[sample, category, anchor], boxes[sample, anchor]
    own = (sample == k for k in range(samples))
    return [_best(ends[some], values[some], category[some]) for some in own]


def _of_lists(layout: Lists, outputs: Outputs, samples: int) -> list[Objects]:
    boxes = _cornered(outputs[layout.boxes].astype(np.float64).reshape(samples, -1, 4), layout.form)
    scores = outputs[layout.scores].astype(np.float64).reshape(samples, -1)
    classes = np.zeros(scores.shape, np.int64)
    if layout.classes:
        classes = _whole(outputs[layout.classes].reshape(samples, -1))
    if layout.amount:
        amounts = _whole(outputs[layout.amount].reshape(samples, 1))
        scores = np.where(np.arange(scores.shape[1]) < amounts, scores, 0.0)
    return [_best(*each) for each in zip(boxes, scores, classes, strict=True)]


def _of_rows(layout: Lists, output: Array, samples: int) -> list[Objects]:
    assert layout.rows
    sample, box, score, category = layout.rows
    rows = output.astype(np.float64).reshape(-1, output.shape[-1])
    numbers = np.repeat(np.arange(samples), len(rows) // samples)
    if sample >= 0:
        numbers = _whole(rows[:, sample])
    return [
        _best(own[:, box : box + 4], own[:, score], _whole(own[:, category]))
        for own in (rows[numbers == k] for k in range(samples))
    ]


def _candidates(boxes: F64, scores: F64) -> tuple[F64, F64, I64]:
    """Every box with every class that it may be of: boxes, scores, classes."""
    usable = (
        (scores > LEAST_SCORE)
        & np.isfinite(scores)
        & np.asarray(np.isfinite(boxes).all(-1))[:, None]
    )
    places, classes = np.nonzero(usable)
    values = scores[places, classes]
    if len(values) > _MOST_CANDIDATES:
        best = np.argsort(-values, kind="stable")[:_MOST_CANDIDATES]
        places, classes, values = places[best], classes[best], values[best]
    return boxes[places], values, classes.astype(np.int64)


def _suppressed(boxes: F64, scores: F64, classes: I64, overlap: float) -> Objects:
    """Detections after suppression within each class."""
    stay = [np.zeros(0, np.int64)]
    for category in np.unique(classes):
        own = np.flatnonzero(classes == category)
        stay.append(own[suppress(boxes[own], scores[own], overlap)])
    places = np.sort(np.concatenate(stay))
    return _best(boxes[places], scores[places], classes[places])


def _best(boxes: F64, scores: F64, classes: I64) -> Objects:
    """The best detections that are finite and of some class."""
    usable = (scores > LEAST_SCORE) & np.isfinite(scores) & (classes >= 0)
    usable &= np.isfinite(boxes).all(-1)
    places = np.flatnonzero(usable)
    places = places[np.argsort(-scores[places], kind="stable")][:MOST_DETECTIONS]
    none = np.zeros(len(places), bool)
    return Objects(boxes[places], classes[places], scores[places], none)


def scaled(detections: Sequence[Objects], frame: Frame) -> list[Objects]:
    """Detections relative to the input, in pixels of it."""
    size = np.tile(np.array(frame, float), 2)
    return [replace(each, boxes=each.boxes * size) for each in detections]


def _cornered(boxes: F64, form: BoxForm) -> F64:
    if form == "centres":
        return corners(boxes)
    return boxes[..., [1, 0, 3, 2]] if form == "yx-corners" else boxes


def _whole(values: Array) -> I64:
    """Whole numbers; -1 for what is none."""
    return np.where(np.isfinite(values.astype(np.float64)), values, -1).astype(np.int64)


def _sigmoid(values: F64) -> F64:
    return np.asarray(1 / (1 + np.exp(-values)))


def _softmax(values: F64) -> F64:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))
