"""Elementwise functions between two layers, and their slopes.

A clip is known in closed form. Whatever else a model has there is computed by the runtime that
will compute it later, so that fits see the very function; slopes are central differences of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

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
"""No function at all."""


def computed(function: Callable[[Array], Array], dtype: npt.DTypeLike = np.float32) -> Activation:
    """A function that somebody else computes.

    Args:
        function: of vectors, elementwise.
        dtype: what it takes; steps are in proportion to what that resolves.
    """
    # Where rounding and curvature err about alike (Press et al., Numerical Recipes, section 5.7).
    step = float(np.cbrt(np.finfo(dtype).eps))

    def slope(x: Array) -> Array:
        reach = (step * np.maximum(np.abs(x), 1)).astype(dtype)
        above, below = x.astype(dtype) + reach, x.astype(dtype) - reach
        with np.errstate(invalid="ignore"):
            rise = (function(above) - function(below)) / (above - below)
        return np.asarray(np.nan_to_num(rise, nan=0.0, posinf=0.0, neginf=0.0))

    def in_pieces(what: Callable[[Array], Array]) -> Callable[[Array], Array]:
        def over(x: Array) -> Array:
            flat, made = x.reshape(-1), np.empty_like(x)
            target = made.reshape(-1)
            for at in range(0, flat.size, _PIECE):
                target[at : at + _PIECE] = what(flat[at : at + _PIECE])
            return made

        return over

    return Activation(in_pieces(lambda x: function(x.astype(dtype))), in_pieces(slope))
