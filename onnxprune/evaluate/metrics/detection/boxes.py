"""Boxes: overlaps, and non-maximum suppression. Boxes are ``[..., x1, y1, x2, y2]``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxprune.evaluate.metrics.scores import F64

I64 = npt.NDArray[np.int64]


def areas(boxes: F64) -> F64:
    """Areas of boxes ``[n, 4]``; 0 where a side is negative."""
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def overlaps(one: F64, other: F64, crowd: npt.NDArray[np.bool_] | None = None) -> F64:
    """Intersection over union of every box with every other, ``[n, m]``.

    Args:
        one: ``[n, 4]``.
        other: ``[m, 4]``.
        crowd: ``[m]``: which of them are crowds, whose intersection is divided by the area of the
            first box alone, as COCO does.
    """
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    sides = np.maximum(high - low, 0)
    both = sides[..., 0] * sides[..., 1]
    first = areas(one)[:, None]
    union = first + areas(other)[None] - both
    if crowd is not None:
        union = np.where(crowd[None], first, union)
    there = (both > 0) & (union > 0)
    return np.asarray(np.divide(both, union, out=np.zeros_like(both), where=there))


def suppress(boxes: F64, scores: F64, overlap: float) -> I64:
    """Greedy non-maximum suppression of boxes of one class.

    Args:
        boxes: ``[n, 4]``.
        scores: ``[n]``.
        overlap: boxes that overlap a better one by more than that go; equal scores rank by place.

    Returns:
        the places of the boxes that stay, the best first.
    """
    order = np.argsort(-scores, kind="stable")
    # As `overlaps` of each box with the rest, but thousands of calls on columns computed once.
    sorted_boxes = boxes[order]
    x1, y1, x2, y2 = np.ascontiguousarray(sorted_boxes.T)
    area = areas(sorted_boxes)
    stay, rest = [], np.arange(len(order))
    while len(rest):
        best, rest = rest[0], rest[1:]
        stay.append(best)
        if not len(rest):
            break
        width = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest])
        height = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest])
        both = np.maximum(width, 0) * np.maximum(height, 0)
        union = area[best] + area[rest] - both
        there = (both > 0) & (union > 0)
        rest = rest[np.divide(both, union, out=np.zeros_like(both), where=there) <= overlap]
    return np.asarray(order[np.array(stay, np.int64)], np.int64)


def corners(boxes: F64) -> F64:
    """``x1, y1, x2, y2`` of boxes given as centre, width and height."""
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], -1)
