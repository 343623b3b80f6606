"""Two layers and the functions between them on a sample of rows: their outputs and their error.

If what is fitted is read through a clip (ReLU, ReLU6), errors where the wanted value is clipped
count only as far as they come out of the clip: a convex loss, majorised by plain squares.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.solve.moments import Accumulator, Moments, restrict
from onnxprune.solve.patch_sampling import Crops

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]


_DOUBLE = 256
"""Features up to which moments are multiplied in float64."""
_FEATURES = 8 << 20
"""Bytes of what the second layer multiplies, made at a time: it stays in the cache."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Sampled inputs and targets of a pair of layers.

    Attributes:
        crops: hidden and output positions.
        x: ``[g, rows, K]``, what the first layer multiplies, at the hidden positions.
        wanted: ``[out rows, N]``, what should come out where it counts.
        offset: ``[out rows, N]`` or 0, what is added to the second layer's output there.
        clip: bounds beyond which values are not told apart.
    """

    crops: Crops
    x: Array
    wanted: Array
    offset: Array
    clip: tuple[float, float] = (-np.inf, np.inf)


@dataclass(frozen=True, eq=False)
class Pair:
    """The weights of both layers.

    Attributes:
        first: ``[g, K + 1, n]``, the maker's matrix with its bias as the last row.
        second: ``[h * taps + 1, N]``, the reader's matrix, channel first, with its bias as the
            last row.
    """

    first: Float
    second: Float


class Side:
    """Two layers on one set of rows, with the values that every step needs.

    Args:
        rows: sample of rows.
        activation: what is between the layers.
        filters: what is between them after that.
    """

    def __init__(self, rows: Rows, activation: Activation, filters: Filter | None = None) -> None:
        self.rows = rows
        self.activation = activation
        self.filters = filters
        low, high = rows.clip
        # Where the wanted value is clipped the bound stands for it, and what is beyond counts 0.
        target = np.clip(rows.wanted, low, high, dtype=np.float32)
        mean = target.mean(axis=0, dtype=np.float64)
        spread = _energy(target - mean.astype(np.float32)) / len(target)
        # What does not vary, as behind a ReLU that is never active, is measured by its size.
        self.norm = spread or float((mean**2).sum()) or 1.0
        self.below = rows.wanted <= low if np.isfinite(low) else None
        self.above = rows.wanted >= high if np.isfinite(high) else None
        target -= rows.offset
        self.target = target

    def split(self, hidden: int) -> list[Side]:
        """The same in parts, whose features are small enough to be made anew when they are needed.

        Args:
            hidden: values between the layers, at one position.
        """
        rows = self.rows
        each = rows.x.shape[0] * rows.x.shape[2] + 2 * rows.crops.taps * hidden
        parts = []
        for inner, outer, crops in rows.crops.split(_FEATURES // (4 * each)):
            offset = rows.offset[outer] if len(rows.offset) == len(rows.wanted) else rows.offset
            part = copy.copy(self)
            part.rows = replace(
                rows, crops=crops, x=rows.x[:, inner], wanted=rows.wanted[outer], offset=offset
            )
            part.target = self.target[outer]
            part.below = None if self.below is None else self.below[outer]
            part.above = None if self.above is None else self.above[outer]
            parts.append(part)
        return parts

    def hidden(self, first: Float) -> Array:
        """``[rows, h]``, before the nonlinearity."""
        W = first.astype(np.float32)
        result: Array = self.rows.x @ W[:, :-1]
        result += W[:, -1:]
        return result.transpose(1, 0, 2).reshape(result.shape[1], -1)

    def features(self, hidden: Array) -> Array:
        """Inputs of the second layer, ``[out rows, features]``."""
        values, filters = self.activation.value(hidden), self.filters
        if filters is None:
            return self.rows.crops.features(values)
        return filters.activation.value(filters.inner(self.rows.crops, values))

    def order(self, hidden: int) -> npt.NDArray[np.int64]:
        """Which row of a channel-first matrix each feature belongs to."""
        return self.rows.crops.order(hidden) if self.filters is None else np.arange(hidden)

    def back(
        self, gradient: Array, hidden: Array, slope: Array, second: Float
    ) -> tuple[Array, Float]:
        """A gradient of the features as one of the hidden values, and how those meet behind them.

        Args:
            gradient: ``[out rows, features]``.
            hidden: ``[rows, h]``.
            slope: the same, of the function there.
            second: ``[features, N]``, what the features are multiplied with.

        Returns:
            ``[rows, h]``, and ``[h, h]``.
        """
        spread, meeting, steep = self.pulled(gradient, hidden, slope)
        return spread, self.curvature(second, meeting, steep)

    def pulled(
        self, gradient: Array, hidden: Array, slope: Array
    ) -> tuple[Array, Float, Float | None]:
        """The first of what :meth:`back` gives, and sums over rows that the second follows from."""
        crops, filters = self.rows.crops, self.filters
        meeting = (slope.T @ slope).astype(np.float64)
        if filters is None:
            return crops.spread(gradient) * slope, meeting, None
        steep = filters.activation.slope(filters.inner(crops, self.activation.value(hidden)))
        spread = crops.unfiltered(gradient * steep, filters.weight.astype(gradient.dtype))
        return spread * slope, meeting, (steep.T @ steep).astype(np.float64)

    def curvature(self, second: Float, meeting: Float, steep: Float | None) -> Float:
        """How hidden values meet behind them, ``[h, h]``, from the sums over all rows."""
        crops, filters = self.rows.crops, self.filters
        meeting = meeting / len(crops.hidden)
        if filters is None or steep is None:
            weights = second.reshape(crops.taps, len(meeting), -1)
            return np.asarray(np.einsum("thn,tjn->hj", weights, weights, optimize=True) * meeting)
        meeting *= steep / len(crops.outputs) * filters.overlap
        return np.asarray(second @ second.T * meeting)

    def work(self, pair: Pair) -> int:
        """Multiplications that the outputs take."""
        return int(
            self.rows.x.shape[1] * pair.first.size + len(self.rows.wanted) * pair.second.size
        )

    def output(self, features: Array, second: Float) -> Array:
        """Outputs of the second layer, ``[out rows, N]``."""
        W = second.astype(np.float32)
        result: Array = features @ W[:-1]
        result += W[-1]
        return result

    def beyond(self, output: Array) -> Array:
        """Output minus wanted, without what a clip hides; in place of the output."""
        output -= self.target
        if self.below is not None:
            np.copyto(output, 0, where=self.below & (output < 0))
        if self.above is not None:
            np.copyto(output, 0, where=self.above & (output > 0))
        return output

    def surplus(self, features: Array, second: Float) -> Array:
        """What that is off by, as :meth:`beyond` counts it."""
        return self.beyond(self.output(features, second))

    def loss(self, errors: Iterable[Array]) -> float:
        """The mean square of an error, in parts, over the variance of what is wanted."""
        return sum(map(_energy, errors)) / len(self.rows.wanted) / self.norm

    def of(self, pair: Pair) -> float:
        """The loss of a pair."""
        hidden = pair.first.shape[0] * pair.first.shape[2]
        return self.loss(
            part.surplus(part.features(part.hidden(pair.first)), pair.second)
            for part in self.split(hidden)
        )


def hidden_moments(side: Side, first: Float) -> Moments:
    """Moments of the inputs of the second layer and of its targets.

    Args:
        side: rows, and what is between the layers.
        first: ``[g, K + 1, n]``, the maker's matrix with its bias as the last row.
    """
    hidden = first.shape[0] * first.shape[2]
    order = side.order(hidden)
    both = Accumulator(1, len(order), side.rows.wanted.shape[1], double=len(order) <= _DOUBLE)
    for part in side.split(hidden):
        rows = part.rows
        both.add(part.features(part.hidden(first))[None], (rows.wanted - rows.offset)[None])
    return restrict(both.moments(), np.argsort(order))


def _energy(error: Array) -> float:
    """The sum of squares of ``[rows, N]``; rows are added up in float64."""
    return float(np.einsum("rn,rn->r", error, error).sum(dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Filter:
    """A filter per hidden channel and the function after it.

    Attributes:
        weight: ``[taps, channels]``.
        bias: ``[channels]``.
        activation: applied to what the filters give.
    """

    weight: Array
    bias: Array
    activation: Activation

    def inner(self, crops: Crops, values: Array) -> Array:
        """Outputs of the filters: hidden rows to ``[out rows, channels]``."""
        result = crops.filtered(values, self.weight.astype(values.dtype))
        result += self.bias.astype(values.dtype)
        return result

    @property
    def overlap(self) -> Array:
        """``[channels, channels]``, how much filters look at the same hidden positions."""
        return np.asarray(self.weight.T @ self.weight)


_PIECE = 1 << 21
"""Elements handed to the runtime at a time."""


@dataclass(frozen=True, eq=False)
class Activation:
    """An elementwise function and its derivative."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]


def relu(low: float = 0.0, high: float = np.inf) -> Activation:
    """ReLU, or a clip to ``[low, high]``."""
    return Activation(
        lambda x: np.clip(x, low, high), lambda x: ((x > low) & (x < high)).astype(x.dtype)
    )


IDENTITY = Activation(lambda x: x, np.ones_like)
"""The identity."""


def computed(function: Callable[[Array], Array], dtype: npt.DTypeLike = np.float32) -> Activation:
    """A function computed elsewhere, as by a runtime.

    Args:
        function: elementwise function of vectors.
        dtype: what it takes; steps are in proportion to what that resolves.
    """
    # Where rounding and curvature err about alike (Press et al., Numerical Recipes, section 5.7).
    step = float(np.cbrt(np.finfo(dtype).eps))

    def slope(x: Array) -> Array:
        step_size = (step * np.maximum(np.abs(x), 1)).astype(dtype)
        above, below = x.astype(dtype) + step_size, x.astype(dtype) - step_size
        with np.errstate(invalid="ignore"):
            rise = (function(above) - function(below)) / (above - below)
        return np.asarray(np.nan_to_num(rise, nan=0.0, posinf=0.0, neginf=0.0))

    def in_pieces(what: Callable[[Array], Array]) -> Callable[[Array], Array]:
        def over(x: Array) -> Array:
            flat, result = x.reshape(-1), np.empty_like(x)
            target = result.reshape(-1)
            for at in range(0, flat.size, _PIECE):
                target[at : at + _PIECE] = what(flat[at : at + _PIECE])
            return result

        return over

    return Activation(in_pieces(lambda x: function(x.astype(dtype))), in_pieces(slope))
