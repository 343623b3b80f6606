"""Two layers and the functions between them on a sample of rows: their outputs and their error.

If what is fitted is read through a clip (ReLU, ReLU6), errors where the wanted value is clipped
count only as far as they come out of the clip: a convex loss, majorised by plain squares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.solve.moments import Moments, moments, restrict
from onnxprune.solve.patch_sampling import Crops

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]


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
        self._below = rows.wanted <= low if np.isfinite(low) else None
        self._above = rows.wanted >= high if np.isfinite(high) else None
        target -= rows.offset
        self._target = target

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
        crops, filters = self.rows.crops, self.filters
        meeting = (slope.T @ slope).astype(np.float64) / len(slope)
        if filters is None:
            weights = second.reshape(crops.taps, slope.shape[1], -1)
            across = np.einsum("thn,tjn->hj", weights, weights, optimize=True)
            return crops.spread(gradient) * slope, across * meeting
        steep = filters.activation.slope(filters.inner(crops, self.activation.value(hidden)))
        meeting *= (steep.T @ steep).astype(np.float64) / len(steep) * filters.overlap
        spread = crops.unfiltered(gradient * steep, filters.weight.astype(gradient.dtype))
        return spread * slope, second @ second.T * meeting

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
        output -= self._target
        if self._below is not None:
            np.copyto(output, 0, where=self._below & (output < 0))
        if self._above is not None:
            np.copyto(output, 0, where=self._above & (output > 0))
        return output

    def surplus(self, features: Array, second: Float) -> Array:
        """What that is off by, as :meth:`beyond` counts it."""
        return self.beyond(self.output(features, second))

    def loss(self, error: Array) -> float:
        """The mean square of an error over the variance of what is wanted."""
        return _energy(error) / len(error) / self.norm

    def of(self, pair: Pair) -> float:
        """The loss of a pair."""
        return self.loss(self.surplus(self.features(self.hidden(pair.first)), pair.second))


def hidden_moments(side: Side, first: Float) -> Moments:
    """Moments of the inputs of the second layer and of its targets.

    Args:
        side: rows, and what is between the layers.
        first: ``[g, K + 1, n]``, the maker's matrix with its bias as the last row.
    """
    hidden = side.hidden(first)
    rows = side.rows
    both = moments(side.features(hidden)[None], (rows.wanted - rows.offset)[None])
    return restrict(both, np.argsort(side.order(hidden.shape[1])))


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
