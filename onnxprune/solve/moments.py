"""Streaming second moments of a layer's rows and of their targets.

Least squares, elimination, masks and conjugate gradients all need only the moments of the rows
``X`` and targets ``Y``, never the rows again. They are kept centred (as covariances), because a
bias absorbs the means for free, and merged batch by batch with the pairwise update of Chan, Golub
and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979),
which does not lose digits when means are large.

``X`` and ``Y`` may come from different models: rows of the pruned one and targets of the dense
one make the asymmetric problem that stops errors from accumulating.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas

from onnxprune.errors import OnnxpruneError

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]

_TINY = float(np.finfo(np.float64).tiny)
WORK = 64 << 20
"""Bytes of working copies of a chunk of rows."""
_BLOCK = 256
"""Rows of a matrix that are worked on at a time, so that no second matrix is needed."""


def require_finite(moments: npt.NDArray[Any]) -> None:
    """Refuse second moments that hold NaN or infinity.

    Raises:
        OnnxpruneError: they do: values, or their squares, are too large for their type.
    """
    if not np.isfinite(moments).all():
        raise OnnxpruneError(
            "values inside the model are too large on these inputs, or not numbers, to fit to them",
            hint="check the scale of the calibration data, and the model in float32 if it is half",
        )


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of ``count`` rows of ``g`` independent problems (groups of a Conv).

    Attributes:
        count: number of rows.
        mean_x: ``[g, K]``, mean input.
        mean_y: ``[g, N]``, mean target.
        xx: ``[g, K, K]``, covariance of the inputs (the centred Gram matrix over ``count``); or
            ``[g, K]``, their variances alone.
        xy: ``[g, K, N]``, covariance of inputs and targets.
        yy: ``[g, N]``, variance of each target.
    """

    count: int
    mean_x: Float
    mean_y: Float
    xx: Float
    xy: Float
    yy: Float

    @property
    def second(self) -> Float:
        """``[g, K]``: the mean square of each input, means included (Wanda's norm, squared)."""
        variance = self.xx if self.xx.ndim == 2 else np.diagonal(self.xx, axis1=1, axis2=2)
        return np.asarray(variance + self.mean_x**2)

    @property
    def variance(self) -> float:
        """The variance of the targets, summed: errors are relative to it.

        Where they do not vary, as those of a single row, it is their mean square, and 1 where
        that is 0.
        """
        return float(self.yy.sum()) or float((self.mean_y**2).sum()) or 1.0


class Accumulator:
    """Collects :class:`Moments` batch by batch, in place.

    Args:
        groups, inputs, targets: ``g``, ``K`` and ``N``; ``targets=0`` collects inputs alone.
        memory: most bytes the working copies of one chunk of rows may take.
        double: multiply in float64 (the default up to ``K = 1024``) or in float32 on centred
            chunks, added up in float64: three times as fast, six to seven digits.
        gathered: rows that wait to be multiplied together, which is faster where batches are
            small; they are in memory meanwhile.
        apart: collect only the variance of each input.
    """

    def __init__(
        self,
        groups: int,
        inputs: int,
        targets: int = 0,
        *,
        memory: int = WORK,
        double: bool | None = None,
        gathered: int = 1,
        apart: bool = False,
    ) -> None:
        self._count = 0
        self._mean_x = np.zeros((groups, inputs))
        self._mean_y = np.zeros((groups, targets))
        # Fortran order: syrk then accumulates in place; only upper triangles are filled.
        shape = (inputs,) if apart else (inputs, inputs)
        self._xx = [np.zeros(shape, order="F") for _ in range(groups)]
        self._apart = apart
        self._xy = np.zeros((groups, inputs, targets))
        self._yy = np.zeros((groups, targets))
        self._double = inputs <= 1024 if double is None else double
        width = max((inputs + targets) * groups, 1) * (12 if self._double else 16)
        self._chunk = max(int(memory // width), 16)
        self._gathered = min(gathered, self._chunk)
        self._waiting: list[tuple[Array, Array]] = []

    def add(self, x: Array, y: Array | None = None) -> None:
        """Account for rows ``x`` ``[g, rows, K]`` and their targets ``y`` ``[g, rows, N]``.

        Raises:
            ValueError: if the shapes do not fit the problem or each other.
        """
        groups, _, inputs = x.shape
        targets = self._yy.shape[1]
        if (groups, inputs) != self._mean_x.shape:
            raise ValueError(f"rows of shape {x.shape} do not fit moments {self._mean_x.shape}")
        if y is None:
            y = np.zeros((groups, x.shape[1], 0), dtype=x.dtype)
        if y.shape != (groups, x.shape[1], targets):
            raise ValueError(f"targets of shape {y.shape} do not fit rows of shape {x.shape}")
        for start in range(0, x.shape[1], self._chunk):
            stop = start + self._chunk
            self._waiting.append((x[:, start:stop], y[:, start:stop]))
            if sum(each.shape[1] for each, _ in self._waiting) >= self._gathered:
                self._flush()

    def _flush(self) -> None:
        """Account for the rows that wait."""
        if not self._waiting:
            return
        dtype = np.float64 if self._double else np.float32
        parts = zip(*self._waiting, strict=True)
        (x, mean_x), (y, mean_y) = (_centred(each, dtype) for each in parts)
        self._waiting = []
        rows = x.shape[1]
        total = self._count + rows
        shift_x, shift_y = mean_x - self._mean_x, mean_y - self._mean_y
        weight = self._count * rows / total
        kept = self._xx if x.shape[2] else []  # BLAS takes no empty matrices
        for group, gathered in enumerate(kept):
            if self._apart:
                squares = np.einsum("rk,rk->k", x[group], x[group], dtype=np.float64)
                np.add(gathered, squares + weight * shift_x[group] ** 2, out=gathered)
                continue
            if self._double:
                blas.dsyrk(1.0, x[group].T, 1.0, gathered, overwrite_c=1)
            else:
                np.add(gathered, blas.ssyrk(1.0, x[group].T), out=gathered)
            blas.dsyrk(weight, shift_x[group, :, None], 1.0, gathered, overwrite_c=1)
        self._xy += x.transpose(0, 2, 1) @ y
        self._xy += weight * shift_x[:, :, None] * shift_y[:, None, :]
        self._yy += np.einsum("grn,grn->gn", y, y, dtype=np.float64) + weight * shift_y**2
        self._mean_x += shift_x * (rows / total)
        self._mean_y += shift_y * (rows / total)
        self._count = total

    def finish(self) -> Moments:
        """What has been collected, in the memory it was collected in: nothing is added after.

        Raises:
            ValueError: before any row was added.
        """
        if self._apart or len(self._xx) > 1:
            return self.moments()
        self._flush()
        if self._count == 0:
            raise ValueError("no rows were added")
        (xx,), n = self._xx, self._count
        for at in range(0, len(xx), _BLOCK):  # lower triangles are zero
            rows = slice(at, at + _BLOCK)
            xx[rows, :at] = xx[:at, rows].T
            corner = xx[rows, rows]
            corner += np.triu(corner, 1).T
        for part in (xx, self._xy, self._yy):
            np.divide(part, n, out=part)
        return Moments(n, self._mean_x, self._mean_y, xx.T[None], self._xy, self._yy)

    def moments(self) -> Moments:
        """What has been collected so far.

        Raises:
            ValueError: before any row was added.
        """
        self._flush()
        if self._count == 0:
            raise ValueError("no rows were added")
        n = self._count
        if self._apart:
            xx = np.stack(self._xx)
        else:
            xx = np.empty((len(self._xx), *self._xx[0].shape))
            for upper, whole in zip(self._xx, xx, strict=True):  # lower triangles are zero
                np.add(upper, upper.T, out=whole)
            diagonal = np.arange(xx.shape[1])
            xx[:, diagonal, diagonal] /= 2
        xx /= n
        return Moments(n, self._mean_x.copy(), self._mean_y.copy(), xx, self._xy / n, self._yy / n)


def _centred(parts: Sequence[Array], dtype: type[np.floating[Any]]) -> tuple[Array, Float]:
    """Rows without their mean, and the mean.

    What float32 cannot say of the mean, its rows cannot either.
    """
    wide = np.float32 if dtype == parts[0].dtype == np.float32 else np.float64
    rows: Array = np.concatenate(parts, axis=1, dtype=wide)  # a copy, so it may be written to
    mean: Float = rows.mean(axis=1, dtype=np.float64)
    rows -= mean.astype(wide)[:, None]
    return rows.astype(dtype, copy=False), mean


def moments(x: Array, y: Array | None = None) -> Moments:
    """The moments of rows held in memory: ``x`` ``[g, rows, K]``, ``y`` ``[g, rows, N]``."""
    collected = Accumulator(x.shape[0], x.shape[2], 0 if y is None else y.shape[2])
    collected.add(x, y)
    return collected.moments()


def merge(first: Moments, second: Moments) -> Moments:
    """The moments of two disjoint sets of rows taken together."""
    total = first.count + second.count
    a, b = first.count / total, second.count / total
    shift_x, shift_y = second.mean_x - first.mean_x, second.mean_y - first.mean_y
    return Moments(
        total,
        first.mean_x + b * shift_x,
        first.mean_y + b * shift_y,
        _summed(a, first.xx, b, second.xx, a * b * shift_x, shift_x),
        _summed(a, first.xy, b, second.xy, a * b * shift_x, shift_y),
        a * first.yy + b * second.yy + a * b * shift_y**2,
    )


def _summed(a: float, one: Float, b: float, other: Float, left: Float, right: Float) -> Float:
    """``a one + b other + left right^T`` of stacks of matrices, some of their rows at a time."""
    out = np.empty(one.shape)
    for at in range(0, one.shape[1], _BLOCK):
        rows = slice(at, at + _BLOCK)
        np.multiply(a, one[:, rows], out=out[:, rows])
        out[:, rows] += b * other[:, rows]
        out[:, rows] += left[:, rows, None] * right[:, None, :]
    return out


def mixed(rows: Moments, others: Moments, share: float) -> Moments:
    """Rows, and others that count ``share`` times as much; means, and so biases, are those of rows.

    Args:
        rows: moments.
        others: of the same inputs and targets elsewhere, about means of their own.
        share: positive.
    """
    own, theirs = 1 / (1 + share), share / (1 + share)
    return replace(
        rows,
        xx=_mixed(own, rows.xx, theirs, others.xx),
        xy=_mixed(own, rows.xy, theirs, others.xy),
        yy=own * rows.yy + theirs * others.yy,
    )


def _mixed(a: float, one: Float, b: float, other: Float) -> Float:
    out: Float = a * one
    for at in range(0, one.shape[1], _BLOCK):
        out[:, at : at + _BLOCK] += b * other[:, at : at + _BLOCK]
    return out


def restrict(whole: Moments, rows: npt.NDArray[np.int64]) -> Moments:
    """The moments of the inputs ``rows`` alone, in that order (targets unchanged)."""
    return Moments(
        whole.count,
        whole.mean_x[:, rows],
        whole.mean_y,
        whole.xx[:, rows[:, None], rows[None, :]],
        whole.xy[:, rows],
        whole.yy,
    )


def of_outputs(whole: Moments, outputs: npt.NDArray[np.int64]) -> Moments:
    """The moments of the same inputs and of some of the targets."""
    return replace(
        whole,
        mean_y=whole.mean_y[:, outputs],
        xy=whole.xy[:, :, outputs],
        yy=whole.yy[:, outputs],
    )


def shrunk(xx: Float, count: int) -> Float:
    """A covariance nearer to that of all inputs there are than the one of the rows seen.

    With fewer rows than inputs some directions were never seen, and whatever reads them seems to be
    had for nothing. The oracle approximating shrinkage of Chen, Wiesel, Eldar and Hero ("Shrinkage
    algorithms for MMSE covariance estimation", 2010, eq. 23) pulls towards a multiple of the
    identity, by next to nothing where rows abound.

    Args:
        xx: ``[K, K]``.
        count: rows it is of.
    """
    share, added = shrinkage(xx, count)
    out = (1 - share) * xx
    out[np.diag_indices(len(xx))] += added
    return out


def shrinkage(xx: Float, count: int) -> tuple[float, float]:
    """The share of a covariance that :func:`shrunk` takes away, and what variances get instead."""
    size = len(xx)
    trace, square = float(np.trace(xx)), float(np.einsum("ij,ij->", xx, xx))
    above = (count + 1 - 2 / size) * (square - trace**2 / size)
    share = min(((1 - 2 / size) * square + trace**2) / above, 1.0) if above > 0 else 0.0
    return share, share * trace / size


def with_targets(whole: Moments, weight: Array, bias: Array | None = None) -> Moments:
    """The same inputs with the outputs of a linear layer as targets.

    Args:
        whole: moments of the layer's inputs.
        weight: ``[g, K, N]``.
        bias: ``[g, N]``, zero if None.
    """
    W = weight.astype(np.float64)
    xy = whole.xx @ W
    mean_y = np.einsum("gk,gkn->gn", whole.mean_x, W)
    if bias is not None:
        mean_y = mean_y + bias
    yy = np.einsum("gkn,gkn->gn", W, xy)
    return Moments(whole.count, whole.mean_x, mean_y, whole.xx, xy, yy)


def squared_error(held: Moments, weight: Array, bias: Array) -> Float:
    """``[g, N]``: the mean of ``(y - x W - b)^2`` over the rows behind ``held``, exactly.

    Args:
        held: moments of rows and targets.
        weight: ``[g, K, N]``.
        bias: ``[g, N]``.
    """
    W = weight.astype(np.float64)
    variance = (
        held.yy
        - 2 * np.einsum("gkn,gkn->gn", W, held.xy)
        + np.einsum("gkn,gkn->gn", W, held.xx @ W)
    )
    offset = held.mean_y - np.einsum("gk,gkn->gn", held.mean_x, W) - bias
    error: Float = np.maximum(variance, 0.0) + offset**2
    return error
