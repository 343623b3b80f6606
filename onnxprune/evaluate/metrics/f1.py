"""F1: the harmonic mean of precision and recall, of one class or over classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.metrics.classes import class_axis, labelled_rows
from onnxprune.evaluate.metrics.scores import (
    F64,
    Array,
    Average,
    Batch,
    Metric,
    Score,
    nothing,
    of_statistics,
    pick,
)

Counts = npt.NDArray[np.int64]

_HIT, _FALSE, _MISSED = range(3)


@dataclass(frozen=True, eq=False)
class F1Statistics:
    """How often each sample has each class right and wrong.

    Attributes:
        counts: ``[samples, classes, 3]``: true positives, false positives, false negatives.
        average: over classes; ``binary`` is the F1 of class 1.
        present: whether ``macro`` counts classes that occur only, in labels or in answers.
    """

    counts: Counts
    average: Average
    present: bool

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.counts)

    def figure(self, weights: F64) -> float:
        """F1 where each sample counts as often as ``weights`` says; 0 where nothing is there."""
        totals = np.tensordot(weights, self.counts, 1)
        if self.average == "binary":
            return float(_f1(totals[-1:])[0])
        if self.average == "micro":
            return float(_f1(totals.sum(0, keepdims=True))[0])
        occurring = totals.sum(1) > 0 if self.present else np.ones(len(totals), bool)
        return float(_f1(totals[occurring]).mean()) if occurring.any() else 0.0


def _f1(totals: F64) -> F64:
    """F1 of rows of true positives, false positives and false negatives."""
    hits = 2 * totals[:, _HIT]
    whole = hits + totals[:, _FALSE] + totals[:, _MISSED]
    return np.divide(hits, whole, out=np.zeros_like(hits), where=whole > 0)


def score_f1(metric: Metric, batches: Iterable[Batch]) -> Score:
    """F1 of classes that exclude each other, or of classes that may coincide.

    Where there is one label per row of scores, the answer is the best class (of equal ones the
    first), and ``binary`` is the F1 of class 1 of two. Where labels are 0 or 1 and have the shape
    of the output, every column is a class that is present or not: outputs are probabilities if all
    of them lie in [0, 1], else logits, and a class is present above the threshold. A class without
    labels and answers has an F1 of 0; ``macro`` leaves it out where classes exclude each other.
    This is scikit-learn's ``f1_score`` with ``zero_division=0``.

    Raises:
        OnnxpruneError: the labels fit no output, or several, or there are more than two classes to
            take one F1 of.
    """
    name, together = "", False
    counts: list[list[Counts]] = [[], []]
    logits = False
    for batch in batches:
        if not name:
            name, together = _output_of(metric, batch)
        output, labels = batch.outputs[name], batch.labels
        if not together:
            counts[0].append(_exclusive(output, labels))
            continue
        scores = output.astype(np.float64).reshape(len(labels), -1, _columns(labels))
        truth = labels.reshape(scores.shape)
        logits = logits or bool(((scores < 0) | (scores > 1)).any())
        least = metric.reading.threshold
        for place, limit in enumerate((least, _logit(least))):
            counts[place].append(_independent(scores > limit, truth))
    if not name:
        raise nothing(metric)
    whole = np.concatenate(counts[int(logits)])
    if not whole.any():
        raise nothing(metric, "all labels are negative, so none counts")
    if metric.average == "binary" and whole.shape[1] > 1 + (not together):
        raise OnnxpruneError(
            f"--metric {metric.name}: there are {whole.shape[1]} classes to take one F1 of",
            hint="average over classes with --metric f1-macro or --metric f1-micro",
        )
    return of_statistics(F1Statistics(whole, metric.average, present=not together))


def _logit(probability: float) -> float:
    with np.errstate(divide="ignore"):
        return float(np.log(probability) - np.log1p(-probability))


def _columns(labels: Array) -> int:
    return labels.shape[-1] if labels.ndim > 1 else 1


def _output_of(metric: Metric, batch: Batch) -> tuple[str, bool]:
    """The output that the labels belong to, and whether its classes may coincide."""
    labels = batch.labels
    flags = bool(np.isin(labels, (-1, 0, 1)).all())

    def is_exclusive(array: Array) -> bool:
        return array.dtype.kind not in "OU" and class_axis(array, labels) is not None

    def is_independent(array: Array) -> bool:
        same = array.shape in (labels.shape, (*labels.shape, 1))
        return flags and same and array.dtype.kind not in "OU"

    name = pick(
        metric,
        batch,
        lambda array: is_exclusive(array) or is_independent(array),
        f"labels of shape {list(labels.shape)}",
        "class numbers: one per row of scores; or 0 and 1: one per score",
    )
    return name, not is_exclusive(batch.outputs[name])


def _exclusive(output: Array, labels: Array) -> Counts:
    """Counts ``[samples, classes, 3]`` of answers that are the best class."""
    rows, classes, of = labelled_rows(output, labels)
    answers = np.where(np.isnan(rows), -np.inf, rows).argmax(1)
    shape = len(labels), rows.shape[1], 3
    counts = np.zeros(shape, np.int64)
    right = answers == classes
    np.add.at(counts, (of[right], classes[right], _HIT), 1)
    np.add.at(counts, (of[~right], answers[~right], _FALSE), 1)
    np.add.at(counts, (of[~right], classes[~right], _MISSED), 1)
    return counts


def _independent(answers: npt.NDArray[np.bool_], labels: Array) -> Counts:
    """Counts ``[samples, classes, 3]`` of classes that are present or not."""
    truth, known = labels > 0, labels >= 0
    cases = (answers & truth, answers & ~truth & known, ~answers & truth)
    return np.stack([case.sum(1) for case in cases], -1).astype(np.int64)
