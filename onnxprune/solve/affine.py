"""The best gain and bias per channel, from second moments per channel.

What is fitted is ``t = slope * u + offset`` for every channel: by one factor and one shift for all
of them, or each for itself. Like ``least_squares``, but for ``C`` problems with one input each.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]

_DEAD = 1e-12
"""Channels whose variance is below this share of the largest keep their gain."""


@dataclass(frozen=True, eq=False)
class Paired:
    """Moments, channel by channel, of what is normalised and of what should come out.

    Attributes:
        count: rows.
        mean_u, mean_t: ``[C]``, the means of both.
        uu, ut, tt: ``[C]``, variances and covariance.
    """

    count: int
    mean_u: Float
    mean_t: Float
    uu: Float
    ut: Float
    tt: Float

    def error(self, line: Line) -> float:
        """Mean squared error of a line, summed over channels."""
        bias = self.mean_t - line.slope * self.mean_u - line.offset
        variance = self.tt - 2 * line.slope * self.ut + line.slope**2 * self.uu
        return float((variance + bias**2).sum())


def paired(u: Array, t: Array) -> Paired:
    """The moments of rows ``u`` and ``t``, both ``[rows, C]``; at least one row."""
    mean_u, mean_t = u.mean(axis=0, dtype=np.float64), t.mean(axis=0, dtype=np.float64)
    u, t = u - mean_u, t - mean_t
    products = (np.einsum("rc,rc->c", a, b) / len(u) for a, b in ((u, u), (u, t), (t, t)))
    return Paired(len(u), mean_u, mean_t, *products)


def pooled(parts: Iterable[Paired]) -> Paired:
    """The moments of disjoint sets of rows taken together (Chan, Golub and LeVeque, 1979)."""
    first, *rest = parts
    for other in rest:
        total = first.count + other.count
        a, b = first.count / total, other.count / total
        shift_u, shift_t = other.mean_u - first.mean_u, other.mean_t - first.mean_t
        first = Paired(
            total,
            first.mean_u + b * shift_u,
            first.mean_t + b * shift_t,
            a * first.uu + b * other.uu + a * b * shift_u**2,
            a * first.ut + b * other.ut + a * b * shift_u * shift_t,
            a * first.tt + b * other.tt + a * b * shift_t**2,
        )
    return first


@dataclass(frozen=True, eq=False)
class Line:
    """What a normalisation does to each channel: ``slope * u + offset``, both ``[C]``."""

    slope: Float
    offset: Float


def fit(
    rows: Paired, old: Line, method: str, *, free_bias: bool, floor: Float | float = 0.0
) -> Line:
    """The best line of a kind.

    Args:
        rows: moments to fit to.
        old: what the normalisation does now.
        method: ``none``; ``bias``: means are restored; ``scale``: one factor, and one shift if a
            bias is free, for all channels alike; ``affine``: each channel for itself;
            ``statistics``: ``u`` gets mean 0 and variance 1 before the old gain, and the mean that
            is wanted after it.
        free_bias: whether there is a bias that may change.
        floor: ``[C]``, what ``statistics`` adds to variances.
    """
    if method == "none":
        return old
    if method == "bias":
        return Line(old.slope, rows.mean_t - old.slope * rows.mean_u)
    if method == "statistics":
        slope = old.slope / np.sqrt(np.maximum(rows.uu + floor, np.finfo(np.float64).tiny))
        return Line(slope, rows.mean_t - slope * rows.mean_u)
    missing = rows.mean_t - old.offset
    if method == "scale":
        gain = old.slope
        square = float((gain**2 * (rows.uu + rows.mean_u**2)).sum())
        both = float((gain**2 * rows.mean_u).sum())
        wanted = float((gain * (rows.ut + rows.mean_u * missing)).sum())
        if not free_bias:
            return Line(gain * (wanted / square if square > 0 else 1.0), old.offset)
        normal = np.array([[square, both], [both, float((gain**2).sum())]])
        factor, shift = np.linalg.lstsq(normal, [wanted, float((gain * missing).sum())])[0]
        return Line(gain * factor, old.offset + gain * shift)
    alive = rows.uu > _DEAD * max(float(rows.uu.max()), np.finfo(np.float64).tiny)
    variance = np.where(alive, rows.uu, 1.0)
    if not free_bias:
        slope = (rows.ut + rows.mean_u * missing) / (variance + rows.mean_u**2)
        return Line(np.where(alive, slope, old.slope), old.offset)
    slope = np.where(alive, rows.ut / variance, old.slope)
    return Line(slope, rows.mean_t - slope * rows.mean_u)
