"""Means over labelled elements: accuracy, cross-entropy, perplexity, squared error."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.metrics.scores import F64, Array, Batch, Metric, Score, nothing, pick
from onnxprune.evaluate.output_comparison import is_distribution, log_probabilities

I64 = npt.NDArray[np.int64]

_LARGEST = 709.0  # whose exponential is finite


def score_means(metric: Metric, batches: Iterable[Batch]) -> Score:
    """The score of a metric that is a mean over labelled elements.

    Raises:
        OnnxpruneError: the labels fit no output, or several.
    """
    name, distribution = "", False
    sums, counts = [np.zeros(0)], [np.zeros(0)]
    for batch in batches:
        if not name:
            name = _output_of(metric, batch)
            distribution = is_distribution(_last(batch.outputs[name], batch.labels))
        values, of = _each(metric, batch.outputs[name], batch.labels, distribution=distribution)
        sums.append(np.bincount(of, values, len(batch)).astype(np.float64))
        counts.append(np.bincount(of, minlength=len(batch)).astype(np.float64))
    total, count = float(np.concatenate(sums).sum()), float(np.concatenate(counts).sum())
    if count == 0:
        raise nothing(metric)
    mean = total / count
    if metric.kind == "perplexity":
        mean = math.exp(mean) if mean < _LARGEST else math.inf
    return Score(mean, np.concatenate(sums), np.concatenate(counts))


def _each(
    metric: Metric, output: Array, expected: Array, *, distribution: bool
) -> tuple[Array, I64]:
    """What every labelled element adds to the metric, and which sample it belongs to."""
    samples = np.arange(len(expected))
    if metric.kind == "mse":
        gap = output.astype(np.float64).reshape(expected.shape) - expected
        return np.square(gap).ravel(), np.repeat(samples, gap.size // max(len(gap), 1))
    rows, classes, of = labelled_rows(output, expected)
    if metric.kind == "accuracy":
        return _hits(rows, classes, metric.top), of
    return _losses(rows, classes, distribution=distribution), of


def _output_of(metric: Metric, batch: Batch) -> str:
    """The output that the labels belong to."""

    def fits(array: Array) -> bool:
        if array.dtype.kind in "OU":
            return False
        if metric.kind == "mse":
            return array.size == batch.labels.size and array.shape[:1] == batch.labels.shape[:1]
        return class_axis(array, batch.labels) is not None

    shape = f"labels of shape {list(batch.labels.shape)}"
    return pick(metric, batch, fits, shape, "class numbers: one per row of scores")


def class_axis(array: Array, labels: Array) -> int | None:
    """The axis of an output whose entries are the scores of classes, for labels of its rows."""
    shape = labels.shape
    if array.ndim == labels.ndim and labels.ndim > 1 and shape[-1] == 1 < array.shape[-1]:
        shape = shape[:-1]
    if array.ndim != len(shape) + 1:
        return None
    for axis in (array.ndim - 1, 1):
        if array.shape[axis] >= 2 and array.shape[:axis] + array.shape[axis + 1 :] == shape:
            return axis
    return None


def _last(array: Array, labels: Array) -> Array:
    """Class scores with the classes along the last axis."""
    axis = class_axis(array, labels)
    return array if axis is None else np.moveaxis(array, axis, -1)


def labelled_rows(array: Array, labels: Array) -> tuple[Array, I64, I64]:
    """Scores ``[rows, classes]``, class numbers and samples ``[rows]``, without unlabelled rows.

    Raises:
        OnnxpruneError: the labels are no class numbers, or too large.
    """
    scores = _last(array, labels)
    rows = scores.reshape(-1, scores.shape[-1])
    classes = labels.reshape(-1).astype(np.int64)
    if not np.array_equal(classes, labels.reshape(-1)):
        raise OnnxpruneError("the labels are not class numbers", hint="they must be whole numbers")
    if classes.max(initial=-1) >= rows.shape[1]:
        raise OnnxpruneError(
            f"there is a label {classes.max()}, but only {rows.shape[1]} classes, counted from 0",
            hint="give labels of this model's classes; a negative label counts for nothing",
        )
    kept = classes >= 0
    of = np.repeat(np.arange(len(labels)), len(classes) // max(len(labels), 1))
    return rows[kept], classes[kept], of[kept]


def _hits(rows: Array, classes: I64, top: int) -> npt.NDArray[np.bool_]:
    """Whether each label is among the ``top`` best classes; of equal scores the first is best."""
    own = np.take_along_axis(rows, classes[:, None], 1)
    earlier = np.arange(rows.shape[1]) < classes[:, None]
    ahead = (rows > own) | ((rows == own) & earlier)
    return np.asarray((ahead.sum(1) < top) & ~np.isnan(own[:, 0]))


def _losses(rows: Array, classes: I64, *, distribution: bool) -> F64:
    """Negative log-likelihood of each label, in nats; infinite where a score is NaN."""
    logs = log_probabilities(rows, distribution=distribution)
    losses = -np.take_along_axis(logs, classes[:, None], 1)[:, 0]
    return np.where(np.isnan(losses), np.inf, losses)
