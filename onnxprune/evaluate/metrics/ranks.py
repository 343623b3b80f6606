"""Spearman's rank correlation of outputs with labels: numbers, or similarities of pairs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.metrics.scores import (
    F64,
    Array,
    Batch,
    Metric,
    Score,
    nothing,
    of_statistics,
    pick,
)


@dataclass(frozen=True, eq=False)
class RankStatistics:
    """The values that are ranked.

    Attributes:
        answers, labels: ``[samples]``; of pairs where pairs are ranked.
    """

    answers: F64
    labels: F64

    @property
    def samples(self) -> int:
        """Number of values."""
        return len(self.labels)

    def figure(self, weights: F64) -> float:
        """The correlation where each sample counts as often as ``weights`` says.

        Equal values share the mean of their ranks. It is 0 where all answers are equal, or one is
        NaN: they say nothing about the labels.
        """
        if np.isnan(self.answers).any():
            return 0.0
        x, y = (_ranks(values, weights) for values in (self.answers, self.labels))
        x, y = (ranks - np.average(ranks, weights=weights) for ranks in (x, y))
        spread = float(weights @ (x * x)) * float(weights @ (y * y))
        return float(weights @ (x * y)) / spread**0.5 if spread > 0 else 0.0


def _ranks(values: F64, weights: F64) -> F64:
    """Ranks of values that occur ``weights`` times each; ties share the mean of theirs."""
    _, place = np.unique(values, return_inverse=True)
    amounts = np.bincount(place, weights)
    return np.asarray((np.cumsum(amounts) - (amounts - 1) / 2)[place])


def score_ranks(metric: Metric, batches: Iterable[Batch]) -> Score:
    """Spearman's correlation of one number per sample with its label.

    Raises:
        OnnxpruneError: no output or several have one number per sample, or there are too few.
    """
    name = ""
    answers, labels = [np.zeros(0)], [np.zeros(0)]
    for batch in batches:
        if not name:

            def fits(array: Array, batch: Batch = batch) -> bool:
                return array.dtype.kind not in "OU" and array.size == batch.labels.size

            shape = f"labels of shape {list(batch.labels.shape)}"
            name = pick(metric, batch, fits, shape, "one number per sample; or spearman-pairs")
        if batch.outputs[name].size != batch.labels.size:
            raise OnnxpruneError(
                f"the output '{name}' has {batch.outputs[name].size} numbers for "
                f"{batch.labels.size} labels",
                hint="a rank correlation is of one number per sample",
            )
        answers.append(batch.outputs[name].astype(np.float64).ravel())
        labels.append(batch.labels.astype(np.float64).ravel())
    return _scored(metric, np.concatenate(answers), np.concatenate(labels))


def score_pairs(metric: Metric, batches: Iterable[Batch]) -> Score:
    """Spearman's correlation of the cosine of two embeddings with the label of the pair.

    Samples 2k and 2k + 1 are pair k, and both have its label.

    Raises:
        OnnxpruneError: no output or several are embeddings, a sample is left without its pair, or
            there are too few pairs.
    """
    name = ""
    cosines: list[F64] = []
    labels: list[F64] = []
    rest, rest_labels = np.zeros((0, 0)), np.zeros(0)
    for batch in batches:
        if not name:

            def fits(array: Array, batch: Batch = batch) -> bool:
                floats = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
                return floats and array.ndim == 2 and len(array) == len(batch)

            name = pick(metric, batch, fits, "pairs of embeddings", "one row per sample")
        rows = batch.outputs[name].astype(np.float64)
        known = batch.labels.astype(np.float64).reshape(len(batch), -1)[:, 0]
        if len(rest):
            rows, known = np.concatenate([rest, rows]), np.concatenate([rest_labels, known])
        whole = len(rows) // 2 * 2
        cosines.append(_cosines(rows[:whole:2], rows[1:whole:2]))
        labels.append(known[:whole:2])
        if not np.array_equal(known[:whole:2], known[1:whole:2]):
            raise OnnxpruneError(
                "the two samples of a pair have different labels",
                hint="samples 2k and 2k + 1 are a pair: give one label per pair",
            )
        rest, rest_labels = rows[whole:], known[whole:]
    if len(rest):
        raise OnnxpruneError(
            "the last sample has no other to be compared with",
            hint="samples 2k and 2k + 1 are a pair: give an even number of them",
        )
    if not cosines:
        raise nothing(metric)
    return _scored(metric, np.concatenate(cosines), np.concatenate(labels))


def _cosines(one: F64, other: F64) -> F64:
    sizes = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    products = (one * other).sum(1)
    return np.asarray(np.divide(products, sizes, out=np.zeros_like(products), where=sizes != 0))


def _scored(metric: Metric, answers: F64, labels: F64) -> Score:
    if len(labels) < 2:
        raise nothing(metric, "a correlation needs at least two labelled values")
    if (labels == labels[0]).all():
        raise OnnxpruneError(
            f"all labels are {labels[0]:g}, so nothing can correlate with them",
            hint="give labels that differ",
        )
    return of_statistics(RankStatistics(answers, labels))
