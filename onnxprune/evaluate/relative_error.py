"""Squared errors relative to how much the reference varies from sample to sample.

Both sums come batch by batch, and samples themselves are not kept. The variance is measured on the
same samples as the errors and is as uncertain as they are, so the standard error of the quotient
needs the distance of each sample from the mean of all. It is taken between sketches of samples,
short sums with random signs, whose distances are those of the samples but for a few percent
(Charikar, Chen and Farach-Colton, "Finding frequent items in data streams", 2002).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from onnxprune.evaluate.jackknife import Estimate, jackknife

F64 = npt.NDArray[np.float64]

FLAT = 1e-7
"""Variance below which a value counts as constant, as a share of its mean square."""
FLAT_SCORES = 1e-4
"""The same of scores of classes: those of a working classifier vary about as much as they are."""
_FLAT_SHARE = 1e-3
"""Standard deviation below which probabilities count as constant: their scale is 1."""
_LARGE_SHARE = 0.1
"""Size of probabilities that errors are relative to where they are constant and smaller."""
_PAIR, _FEWEST = 2, 5
"""Fewest rows for an estimate of spread, and samples for one of a correlation."""
_MOST_POSITIONS = 1 << 24
"""Most elements of a sample whose means are held apart: 128 MiB."""
_SKETCH = 509
"""Elements of a sketch; a prime, so that no regular pattern of a row meets itself."""
_MOST_KEPT = 1 << 17
"""Elements of sketches that are kept, 1 MiB; of later samples only the distance from their mean."""


@dataclass(frozen=True)
class RelativeError:
    """A squared error over the variance of the reference.

    Attributes:
        own: of the values as they are.
        scaled: of the values times the one number that makes it least.
        factor: how many times too large the values are, by that number; infinite where they have
            nothing to do with the reference.
        constant: whether the variance is too small; the error is then relative to the mean square.
    """

    own: Estimate
    scaled: Estimate
    factor: float
    constant: bool


class Variation:
    """A squared error, relative to how much the reference varies from sample to sample."""

    def __init__(self) -> None:
        self._elements = 0
        self._by_position: dict[int, _Squares] = {}
        self._by_row = _Squares()
        self._samples, self._rows = _Distances(), _Distances()
        self._sums: list[_Sums] = []
        self._pairs: list[tuple[F64, F64]] = []
        self._batch: _Batch | None = None

    def add(self, reference: F64, other: F64, size: int, width: int, position: int = 0) -> None:
        """Add samples of both models, or a part of each.

        Args:
            reference: finite, ``[samples, elements]``.
            other: likewise.
            size: elements of a whole sample.
            width: elements of a row, where positions cannot be compared from sample to sample.
            position: of the first element in the whole sample; large samples come in parts.
        """
        self._elements += reference.size
        if position < _MOST_POSITIONS:
            self._by_position.setdefault(position, _Squares()).add(reference)
        self._by_row.add(reference.reshape(-1, width))
        if self._batch is None:
            self._batch = _Batch(len(reference), min(size, _SKETCH), min(width, _SKETCH))
        self._batch.add(reference, other, width, position)

    def close(self) -> F64:
        """Close the samples whose parts were added.

        Returns:
            the squared error of each.
        """
        batch, self._batch = self._batch, None
        if batch is None:
            return np.zeros(0)
        self._sums.append(batch.sums)
        self._samples.add(batch.whole, np.square(batch.whole).sum(1), 1)
        self._rows.add(batch.rows, batch.squares, batch.count)
        if sum(one.size for one, _ in self._pairs) < _MOST_KEPT:
            self._pairs.append((batch.whole, batch.other))
        return batch.sums.errors

    def error(self, *, bounded: bool, scores: bool = False) -> RelativeError:
        """The squared error over the variance, and whether that was too small.

        The variance is that of each position from sample to sample; of each column of a row where
        samples have different sizes, or there is one alone. Where it is next to nothing the error
        is relative to the mean square instead.

        Args:
            bounded: whether values are probabilities, whose scale is 1.
            scores: whether they are scores of classes.
        """
        if not self._sums:
            return RelativeError(Estimate(0.0), Estimate(0.0), 1.0, constant=True)
        sums = _Sums.joined(self._sums)
        energy = float(sums.reference.sum())
        elements = sums.elements if bounded else np.zeros(len(sums.elements))
        variance, without = self._variance(sums.reference)
        flat = FLAT_SCORES if scores else FLAT
        least = max(flat * energy, float(elements.sum()) * _FLAT_SHARE**2)
        constant = not variance > least
        if constant:
            floor = _LARGE_SHARE**2 * elements
            scales = sums.reference if energy >= floor.sum() else floor
            variance, without = float(scales.sum()), _without(scales)
        product, other = float(sums.products.sum()), float(sums.other.sum())
        errors = float(sums.errors.sum()), _without(sums.errors)
        gap = float(_left(energy, product, other))
        gaps = _left(*(_without(each) for each in (sums.reference, sums.products, sums.other)))
        own = _quotient(*errors, variance, without)
        scaled = _quotient(gap, gaps, variance, without)
        if not constant and len(sums.elements) >= _FEWEST:
            least = self._unrelated().low
            own, scaled = (replace(e, low=max(e.low, min(least, e.value))) for e in (own, scaled))
        factor = other / product if product > 0 else (1.0 if energy == other == 0 else math.inf)
        return RelativeError(own, scaled, factor, constant)

    def _variance(self, energies: F64) -> tuple[float, F64]:
        """The sum of squares about the mean of the finest kind that can be told.

        Returns:
            of all samples, and without each of them.
        """
        total = self._of_positions()
        if total is not None:
            return total, self._samples.without(total)
        by_row = self._by_row.sum()
        if by_row is None:
            return float(energies.sum()), _without(energies)
        return by_row, self._rows.without(by_row)

    def _of_positions(self) -> float | None:
        """The sum of squares about the mean of each position; None where these differ."""
        parts = [each.sum() for each in self._by_position.values()]
        counts = {each.count for each in self._by_position.values()}
        elements = sum(each.size for each in self._by_position.values())
        if None in parts or len(counts) != 1 or elements != self._elements:
            return None
        return sum(each for each in parts if each is not None)

    def _unrelated(self) -> Estimate:
        """The error that is left by the best multiple and the best constant at each position.

        No relative error is smaller, and it is far more certain where a model has nothing to do
        with the reference: it is then 1, whatever the sizes of both.
        """
        if self._of_positions() is None:
            return Estimate(0.0)
        one, two = (np.concatenate(each) for each in zip(*self._pairs, strict=True))
        one, two = one - one.mean(0), two - two.mean(0)
        pairs = ((one, one), (one, two), (two, two))
        moments = [np.einsum("ij,ij->i", *pair) for pair in pairs]
        growth = len(one) / (len(one) - 1)
        gaps = [(float(each.sum()), each.sum() - growth * each) for each in moments]
        left, lefts = (_left(*each) for each in zip(*gaps, strict=True))
        return _quotient(float(left), lefts, *gaps[0])


def _left(reference: F64 | float, product: F64 | float, other: F64 | float) -> F64:
    """The squared error that is left by the best positive multiple of the other values."""
    product, other = np.maximum(product, 0.0), np.asarray(other)
    ratio = np.divide(product, other, out=np.zeros(other.shape), where=other > 0)
    return np.asarray(np.maximum(reference - ratio * product, 0.0))


def _without(values: F64) -> F64:
    """The sum without each of the values."""
    return np.asarray(values.sum() - values)


def _quotient(gap: float, gaps: F64, scale: float, scales: F64) -> Estimate:
    if gap == 0:
        return jackknife(0.0, np.zeros(len(gaps)))
    if scale <= 0 or not math.isfinite(gap):
        return Estimate(math.inf)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return jackknife(gap / scale, np.where(scales > 0, np.maximum(gaps, 0) / scales, np.inf))


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over the elements of each sample ``[samples]``.

    Attributes:
        errors: squared errors.
        reference, other: squares of both models.
        products: of both.
        elements: how many.
    """

    errors: F64
    reference: F64
    products: F64
    other: F64
    elements: F64

    @staticmethod
    def joined(parts: list[_Sums]) -> _Sums:
        names = ("errors", "reference", "products", "other", "elements")
        return _Sums(*(np.concatenate([getattr(each, name) for each in parts]) for name in names))


class _Batch:
    """Samples that come in parts, one part of all after the other.

    Attributes:
        sums: over the elements of each sample.
        whole, other: the sketch of each, of both models.
        rows: the sum of the sketches of its rows, of the reference.
        squares: the sum of squares of these.
        count: rows of each.
    """

    def __init__(self, samples: int, size: int, width: int) -> None:
        self.sums = _Sums(*np.zeros((5, samples)))
        self.whole, self.other = np.zeros((2, samples, size))
        self.rows, self.squares, self.count = np.zeros((samples, width)), np.zeros(samples), 0

    def add(self, reference: F64, other: F64, width: int, position: int) -> None:
        """Add a part of each sample, as `Variation.add` takes it."""
        samples, size = reference.shape
        gap = other - reference
        own = np.einsum("ij,ij->i", reference, reference)
        self.sums = _Sums(
            self.sums.errors + np.einsum("ij,ij->i", gap, gap),
            self.sums.reference + own,
            self.sums.products + np.einsum("ij,ij->i", reference, other),
            self.sums.other + np.einsum("ij,ij->i", other, other),
            self.sums.elements + size,
        )
        self.whole += _sketch(reference, position)[:, : self.whole.shape[1]]
        self.other += _sketch(other, position)[:, : self.whole.shape[1]]
        if width > _SKETCH:
            rows = _sketch(reference.reshape(-1, width), 0).reshape(samples, -1, _SKETCH)
            self.squares += np.einsum("ijk,ijk->i", rows, rows)
        else:
            rows = reference.reshape(samples, -1, width)
            self.squares += own
        self.rows += rows.sum(1)
        self.count += size // width


class _Distances:
    """Squared distances of groups of rows from the mean of all rows, by their sketches."""

    def __init__(self) -> None:
        self._sums: list[F64] = []
        self._squares: list[F64] = []
        self._counts: list[F64] = []
        self._kept = 0
        self._later: list[tuple[F64, F64]] = []

    def add(self, sums: F64, squares: F64, rows: int) -> None:
        """Add groups of ``rows`` rows each: the sum of their sketches, and of the squares."""
        counts = np.full(len(sums), float(rows))
        if self._sums and self._sums[0].shape[1] != sums.shape[1]:
            return  # samples of different sizes have no common mean
        if self._kept >= _MOST_KEPT:
            self._later.append(self._from_mean(sums, squares, counts))
        else:
            self._sums.append(sums)
            self._squares.append(squares)
            self._kept += sums.size
        self._counts.append(counts)

    def without(self, total: float) -> F64:
        """The sum of squares without each of the groups, over as many rows, without bias.

        Args:
            total: the same of all groups, by the rows themselves.
        """
        kept = np.concatenate(self._sums), np.concatenate(self._squares)
        counts = np.concatenate(self._counts)
        parts = [self._from_mean(*kept, counts[: len(kept[0])]), *self._later]
        within, shift = (np.concatenate(each) for each in zip(*parts, strict=True))
        rows = float(counts.sum())
        own = total * (rows - 1) / rows
        if within.sum() > 0:  # sketches measure shares, not the whole
            within, shift = (each * own / within.sum() for each in (within, shift))
        remaining = rows - counts
        with np.errstate(divide="ignore", invalid="ignore"):
            squares = own - within - counts**2 / remaining * shift
            return np.where(remaining > 1, squares * remaining / (remaining - 1), 0.0)

    def _from_mean(self, sums: F64, squares: F64, counts: F64) -> tuple[F64, F64]:
        """Squared distances of the rows of each group from the mean, and of the mean of each."""
        mean = sum(each.sum(0) for each in self._sums) / sum(
            float(each.sum()) for each in self._counts[: len(self._sums)]
        )
        within = squares - 2 * sums @ mean + counts * float(mean @ mean)
        shift = np.square(sums / counts[:, None] - mean).sum(1)
        return np.maximum(within, 0.0), shift


def _sketch(rows: F64, position: int) -> F64:
    """Rows folded to `_SKETCH` elements, each with a random sign."""
    count, size = rows.shape
    start = position % _SKETCH
    folds = -(-(start + size) // _SKETCH)
    result = np.zeros((count, folds * _SKETCH))
    np.multiply(rows, _signs(position, size), out=result[:, start : start + size])
    return np.asarray(result.reshape(count, folds, _SKETCH).sum(1))


@lru_cache(maxsize=8)
def _signs(position: int, size: int) -> F64:
    """The signs of elements from a position on."""
    index = np.arange(position, position + size, dtype=np.uint64)
    index = (index ^ (index >> np.uint64(16))) * np.uint64(0x9E3779B97F4A7C15)
    return np.where(index >> np.uint64(63), 1.0, -1.0)


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
