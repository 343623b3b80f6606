"""COCO's average precision, in numpy.

Source: Lin et al., "Microsoft COCO: Common Objects in Context", 2014, as `pycocotools.COCOeval`
computes it for boxes: matching by score and overlap in each picture, crowds that count for nothing,
and precision at 101 recalls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from onnxprune.evaluate.metrics.detection.boxes import I64, areas, overlaps
from onnxprune.evaluate.metrics.scores import F64

Flags = npt.NDArray[np.bool_]

SIZES: Mapping[str, tuple[float, float]] = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""COCO's ranges of areas, in pixels of the picture."""
MOST = 100
"""Detections of one class in one picture that count, the best ones (COCO's ``maxDets``)."""
_RECALLS = np.linspace(0.0, 1.0, 101)
_EPSILON = float(np.spacing(1))
_CERTAIN = 1 - 1e-10
"""The overlap that is enough at any threshold, as COCO has it."""


@dataclass(frozen=True, eq=False)
class Objects:
    """Boxes in one picture.

    Attributes:
        boxes: ``[n, 4]``: ``x1, y1, x2, y2``.
        classes: ``[n]``.
        scores: ``[n]`` of detections; empty for labels.
        crowd: ``[n]`` of labels: whether a box is of a crowd, which detections may match any
            number of times without being counted; empty for detections.
        area: ``[n]``, in pixels of the picture; None for that of the boxes.
    """

    boxes: F64
    classes: I64
    scores: F64
    crowd: Flags
    area: F64 | None = None

    def within(self, low: float, high: float) -> Flags:
        """Which boxes ``[n]`` have an area between two, both included."""
        sizes = areas(self.boxes) if self.area is None else self.area
        return np.asarray((sizes >= low) & (sizes <= high))


@dataclass(frozen=True, eq=False)
class DetectionStatistics:
    """Detections of all pictures, matched with their labels.

    Attributes:
        samples: number of pictures.
        overlaps: the least overlaps of a hit.
        picture, category, score: of each detection, ``[n]``.
        hit: ``[overlaps, n]``: whether it is matched with a labelled object.
        ignored: ``[overlaps, n]``: whether it counts for nothing: it is matched with a crowd or
            with an object of another size, or with nothing and is of another size itself.
        label_picture, label_category: of each labelled object that counts, ``[m]``.
        sides: the detections and the labels of every picture.
    """

    samples: int
    overlaps: tuple[float, ...]
    picture: I64
    category: I64
    score: F64
    hit: Flags
    ignored: Flags
    label_picture: I64
    label_category: I64
    sides: tuple[Sequence[Objects], Sequence[Objects]] = ((), ())

    def of_size(self, low: float, high: float) -> DetectionStatistics:
        """The same where only objects count whose area is between two, in pixels of the picture."""
        return match(*self.sides, self.overlaps, (low, high))

    def by_class(self) -> dict[int, tuple[int, float]]:
        """Labelled objects and average precision of each class, by its number."""
        weights, result = np.ones(self.samples), {}
        for category, ranking in zip(np.unique(self.label_category), self._classes, strict=True):
            value = _average_precision(ranking, weights)
            if value is not None:
                result[int(category)] = len(ranking.labels), float(value.mean())
        return result

    def figure(self, weights: F64) -> float:
        """Mean over classes and overlaps of the average precision, each picture so often.

        Classes without any labelled object count for nothing; 0 where there are none at all.
        """
        values = [_average_precision(each, weights) for each in self._classes]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else 0.0

    @cached_property
    def _classes(self) -> list[_Ranking]:
        """The detections of each class that has labelled objects, the best first."""
        order = np.lexsort((-self.score, self.category))
        return [
            _ranking(self, order[self.category[order] == category], category)
            for category in np.unique(self.label_category)
        ]


@dataclass(frozen=True, eq=False)
class _Ranking:
    """The detections of one class, the best first, up to the last hit: what follows has no effect.

    Attributes:
        picture: of each, ``[n]``.
        hit, miss: ``[overlaps, n]``, as 0 and 1.
        labels: the picture of each labelled object.
    """

    picture: I64
    hit: F64
    miss: F64
    labels: I64


def _ranking(statistics: DetectionStatistics, own: I64, category: int) -> _Ranking:
    hit = statistics.hit[:, own] & ~statistics.ignored[:, own]
    last = np.flatnonzero(hit.any(axis=0))
    own, hit = own[: last[-1] + 1 if len(last) else 0], hit[:, : last[-1] + 1 if len(last) else 0]
    miss = ~(hit | statistics.ignored[:, own])
    labels = statistics.label_picture[statistics.label_category == category]
    return _Ranking(statistics.picture[own], hit.astype(float), miss.astype(float), labels)


def _average_precision(ranking: _Ranking, weights: F64) -> F64 | None:
    """Average precision of one class at each overlap; None without labelled objects."""
    positives = float(weights[ranking.labels].sum())
    if positives == 0:
        return None
    counted = weights[ranking.picture]
    hits = np.cumsum(counted * ranking.hit, axis=1)
    misses = np.cumsum(counted * ranking.miss, axis=1)
    recall = hits / positives
    precision = hits / (hits + misses + _EPSILON)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.concatenate([precision, np.zeros((len(precision), 1))], axis=1)
    return np.array(
        [
            row[np.searchsorted(reached, _RECALLS, side="left")].mean()
            for row, reached in zip(padded, recall, strict=True)
        ]
    )


def match(
    detections: Sequence[Objects],
    labels: Sequence[Objects],
    least: Sequence[float],
    size: tuple[float, float] = (0.0, math.inf),
) -> DetectionStatistics:
    """Match the detections in each picture with its labels.

    Args:
        detections: of each picture.
        labels: of the same pictures.
        least: overlaps (IoU) from which on a detection is a hit.
        size: areas between which objects count, in pixels of the picture.
    """
    numbers, categories, scores = [], [], []
    hits, ignored = [], []
    uncounted = [each.crowd | ~each.within(*size) for each in labels]
    for picture, (found, truth) in enumerate(zip(detections, labels, strict=True)):
        fitting = found.within(*size)
        for category in np.unique(found.classes):
            own = np.flatnonzero(found.classes == category)
            own = own[np.argsort(-found.scores[own], kind="stable")][:MOST]
            known = np.flatnonzero(truth.classes == category)
            # What does not count comes last.
            known = known[np.argsort(uncounted[picture][known], kind="stable")]
            hit, skip = np.zeros((2, len(least), len(own)), bool)
            if len(known):
                crowd, skipped = truth.crowd[known], uncounted[picture][known]
                with np.errstate(over="ignore", invalid="ignore"):
                    shares = overlaps(found.boxes[own], truth.boxes[known], crowd)
                hit, skip = _matched(shares, crowd, skipped, least)
            numbers.append(np.full(len(own), picture))
            categories.append(np.full(len(own), category))
            scores.append(found.scores[own])
            hits.append(hit)
            ignored.append(skip | (~hit & ~fitting[own]))
    counted = [each.classes[~skip] for each, skip in zip(labels, uncounted, strict=True)]
    none = np.zeros((len(least), 0), bool)
    empty = np.zeros(0, np.int64)
    return DetectionStatistics(
        samples=len(labels),
        overlaps=tuple(least),
        picture=np.concatenate([empty, *numbers]),
        category=np.concatenate([empty, *categories]),
        score=np.concatenate([np.zeros(0), *scores]),
        hit=np.concatenate([none, *hits], axis=1),
        ignored=np.concatenate([none, *ignored], axis=1),
        label_picture=np.repeat(np.arange(len(labels)), [len(each) for each in counted]),
        label_category=np.concatenate([empty, *counted]),
        sides=(detections, labels),
    )


def _matched(
    shares: F64, crowd: Flags, skipped: Flags, least: Sequence[float]
) -> tuple[Flags, Flags]:
    """The flags of `_matches` at every overlap: ``[overlaps, n]``."""
    if len(crowd) == 1 and not crowd[0]:  # as nearly everywhere: the first that reaches it has it
        reaches = shares[:, 0] >= np.minimum(least, _CERTAIN)[:, None]
        first = reaches & (np.cumsum(reaches, axis=1) == 1)
        return (np.zeros_like(first), first) if skipped[0] else (first, np.zeros_like(first))
    matched = [_matches(shares, crowd, skipped, each) for each in least]
    return np.stack([hit for hit, _ in matched]), np.stack([skip for _, skip in matched])


def _matches(shares: F64, crowd: Flags, skipped: Flags, least: float) -> tuple[Flags, Flags]:
    """Which detections, the best first, match an object that counts or another: flags ``[n]``.

    Each takes the label that it overlaps most among those that are free (of equal overlaps the
    last, as COCO does), and one that does not count only where no other is left. Crowds stay free.
    """
    count = len(shares)
    hit, ignored = np.zeros(count, bool), np.zeros(count, bool)
    if not shares.size:
        return hit, ignored
    free = np.ones(len(crowd), bool)
    lowest = min(least, _CERTAIN)
    for number in np.flatnonzero((shares >= lowest).any(axis=1)):
        for group in (~skipped, skipped):
            values = np.where(group & free, shares[number], -1.0)
            best = len(values) - 1 - int(values[::-1].argmax())
            if values[best] >= lowest:
                hit[number], ignored[number] = not skipped[best], skipped[best]
                free[best] = crowd[best]
                break
    return hit, ignored
