"""Statistics of samples that come batch by batch, none of which is kept.

What is measured of a model is a sum over samples, and its standard error follows from how these
differ. The rows of one sample (tokens of a text, boxes of a picture) are not independent, so they
are added up first.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]

_PAIR = 2
"""Fewest samples for an estimate of spread."""
_MOST_ANSWERS = 1 << 18
"""Most different answers that are counted."""


class SampleMean:
    """A mean over rows, and its standard error over the samples that these belong to.

    Attributes:
        samples: how many there are.
        count: rows of all.
    """

    def __init__(self) -> None:
        self.samples, self.count = 0, 0
        self._sum = self._squares = self._product = self._counts = 0.0

    def add(self, sums: F64, rows: int) -> None:
        """Add samples of ``rows`` rows each, by the sum over the rows of each."""
        self.samples += len(sums)
        self.count += rows * len(sums)
        total = float(sums.sum())
        self._sum += total
        self._squares += float(np.vdot(sums, sums))
        self._product += total * rows
        self._counts += float(len(sums)) * rows * rows

    @property
    def mean(self) -> float:
        """The mean over all rows; 0 without any."""
        return self._sum / self.count if self.count else 0.0

    def error(self) -> float | None:
        """Standard error of the mean; None where it cannot be estimated."""
        if self.samples < _PAIR or not self.count or not math.isfinite(self._squares):
            return None
        mean = self.mean
        square = self._squares - 2 * mean * self._product + mean * mean * self._counts
        square *= self.samples / (self.samples - 1)
        return math.sqrt(max(square, 0.0)) / self.count

    def independent(self) -> float:
        """Independent zeros and ones whose mean is as certain as this one.

        These are the rows, less where those of one sample are alike, but at least the samples.
        """
        mean, error = self.mean, self.error()
        variance = mean * (1 - mean)
        if self.samples == self.count or not error or variance <= 0:
            return float(self.count)
        return min(max(variance / error**2, float(self.samples)), float(self.count))

    def proportion_error(self) -> float:
        """Standard error of a mean of zeros and ones, never 0."""
        if self.samples < _PAIR or self.samples == self.count:
            return agreement_error(self.mean, self.samples)
        return max(self.error() or 0.0, agreement_error(self.mean, self.count))


def agreement_error(agreement: float, samples: int) -> float:
    """Standard error of the fraction of samples whose answers are the same.

    Source: Agresti and Coull, "Approximate is better than exact for interval estimation of
    binomial proportions", The American Statistician 52 (1998): two samples of each kind are added.

    Args:
        agreement: in [0, 1].
        samples: how many; the rows of one sample count as one.
    """
    share = (agreement * samples + 2) / (samples + 4)
    return math.sqrt(share * (1 - share) / (samples + 4))


class Answers:
    """How often each answer was given, by two models."""

    def __init__(self) -> None:
        self._first: Counter[Any] = Counter()
        self._second: Counter[Any] = Counter()
        self._bounded = True

    def add(self, first: Array, second: Array) -> None:
        """Add the answers of both models to the same questions."""
        if not self._bounded:
            return
        for counter, answers in ((self._first, first), (self._second, second)):
            values, counts = np.unique(answers, return_counts=True)
            counter.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        self._bounded = max(len(self._first), len(self._second)) <= _MOST_ANSWERS

    def chance(self) -> float | None:
        """Share of equal answers if both were drawn at random, each as often as it was given.

        Source: Cohen, "A coefficient of agreement for nominal scales", 1960. None without answers,
        or where there are too many different ones to count.
        """
        total = self._first.total() * self._second.total()
        if not (total and self._bounded):
            return None
        return sum(n * self._second[answer] for answer, n in self._first.items()) / total


class Columns:
    """Squared errors of single classes, beside the variance of their scores."""

    def __init__(self) -> None:
        self._rows = 0
        self._errors = self._sums = self._squares = np.zeros(0)

    def add(self, reference: F64, gaps: F64) -> None:
        """Add ``[rows, classes]``; as soon as there are others, nothing is known of single ones."""
        sums = (np.square(gaps).sum(0), reference.sum(0), np.square(reference).sum(0))
        if not self._rows:
            self._errors, self._sums, self._squares = sums
        elif len(sums[0]) == len(self._errors):
            self._errors = self._errors + sums[0]
            self._sums, self._squares = self._sums + sums[1], self._squares + sums[2]
        else:
            self._errors = np.zeros(0)
        self._rows += len(reference)

    def furthest(self) -> tuple[int | None, float | None]:
        """The class that makes up most of the error, and the relative error of all others.

        Returns:
            None where no class does, or there are only two.
        """
        errors = self._errors
        if len(errors) <= _PAIR or not errors.max() > errors.sum() / 2:
            return None, None
        worst = int(errors.argmax())
        variance = self._squares - self._sums**2 / self._rows
        rest = float(np.delete(variance, worst).sum())
        gap = float(np.delete(errors, worst).sum())
        return worst, gap / rest if rest > 0 else (math.inf if gap else 0.0)
