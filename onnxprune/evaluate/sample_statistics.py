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
_MOST_POSITIONS = 1 << 24
"""Most elements of a sample whose means are held apart: 128 MiB."""
_MOST_ANSWERS = 1 << 18
"""Most different answers that are counted."""
FLAT = 1e-7
"""Variance below which a value counts as constant, as a share of its mean square."""
FLAT_SCORES = 1e-4
"""The same of scores of classes: those of a working classifier vary about as much as they are."""
_FLAT_SHARE = 1e-3
"""Standard deviation below which probabilities count as constant: their scale is 1."""
_LARGE_SHARE = 0.1
"""Size of probabilities that errors are relative to where they are constant and smaller."""


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


class Variation:
    """A squared error, relative to how much the reference varies from sample to sample."""

    def __init__(self) -> None:
        self._errors, self._energy, self._elements = SampleMean(), 0.0, 0
        self._by_position: dict[int, _Squares] = {}
        self._by_row = _Squares()

    def add(self, reference: F64, width: int, position: int = 0) -> None:
        """Add samples of the reference.

        Args:
            reference: finite, ``[samples, elements]``.
            width: elements of a row, where positions cannot be compared from sample to sample.
            position: of the first element in the whole sample; large samples come in parts.
        """
        self._energy += float(np.vdot(reference, reference))
        self._elements += reference.size
        if position < _MOST_POSITIONS:
            self._by_position.setdefault(position, _Squares()).add(reference)
        self._by_row.add(reference.reshape(-1, width))

    def add_errors(self, squares: F64) -> None:
        """Add the squared error of each sample."""
        self._errors.add(squares, 1)

    def unexplained(
        self, *, bounded: bool, scores: bool = False
    ) -> tuple[float, float | None, bool]:
        """The squared error over the variance, its standard error, and whether that was too small.

        The variance is that of each position from sample to sample; of each column of a row where
        samples have different sizes, or there is one alone. Where it is next to nothing the error
        is relative to the mean square instead.

        Args:
            bounded: whether values are probabilities, whose scale is 1.
            scores: whether they are scores of classes.
        """
        elements = self._elements if bounded else 0
        variance = self._variance()
        flat = FLAT_SCORES if scores else FLAT
        constant = variance <= max(flat * self._energy, elements * _FLAT_SHARE**2)
        scale = max(self._energy, elements * _LARGE_SHARE**2) if constant else variance
        samples, error = self._errors.samples, self._errors.error()
        total = self._errors.mean * samples
        if total == 0:
            return 0.0, None if error is None else 0.0, constant
        if scale == 0:
            return math.inf, None, constant
        return total / scale, None if error is None else error * samples / scale, constant

    def _variance(self) -> float:
        """The sum of squares about the mean of the finest kind that can be told."""
        parts = [each.sum() for each in self._by_position.values()]
        counts = {each.count for each in self._by_position.values()}
        elements = sum(each.size for each in self._by_position.values())
        if None not in parts and len(counts) == 1 and elements == self._elements:
            return sum(each for each in parts if each is not None)
        by_row = self._by_row.sum()
        return self._energy if by_row is None else by_row


class _Squares:
    """The sum of squares about the mean of each column.

    Attributes:
        count: rows.
        size: elements.

    Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983.
    """

    def __init__(self) -> None:
        self.count, self.size, self._squares = 0, 0, 0.0
        self._mean: F64 | None = None
        self._comparable = True

    def add(self, rows: F64) -> None:
        """Add ``[rows, columns]``; from the first that has other columns on, nothing is summed."""
        known = self._mean
        if known is not None and len(known) != rows.shape[1]:
            self._comparable = False
        self.size += rows.size
        if not self._comparable or not rows.size:
            return
        mean = rows.mean(0)
        self._squares += float(np.square(rows - mean).sum())
        total = self.count + len(rows)
        if known is None:
            self._mean = mean
        else:
            step = mean - known
            self._squares += float(np.vdot(step, step)) * self.count * len(rows) / total
            self._mean = known + step * (len(rows) / total)
        self.count = total

    def sum(self) -> float | None:
        """The sum of squares over as many rows, without bias; None where it cannot be told."""
        if not self._comparable or self.count < _PAIR:
            return None
        return self._squares * self.count / (self.count - 1)
