"""Stacks of matrices: products that multiply each matrix with rows of its own.

The weights of experts come as ``[E, K, N]``: every expert is a problem of its own, with the rows
that are routed to it, or with all rows where all experts see the same. Rows are laid out as in
``solve.im2col``: ``[group, rows, K]``, one group for each matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.solve.im2col import Index, token_rows

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Stack:
    """Where the matrices of a stack lie.

    Attributes:
        size: number of matrices.
        order: the axes of the weight that are matrices, inputs and outputs.
        x: the axis of the input that tells rows of different matrices apart; None where all read
            the same rows.
        y: that axis of the output.
        loose: whether the input may lack its axis, or have it with size 1, as a product broadcasts.
    """

    size: int
    order: tuple[int, int, int]
    x: int | None
    y: int
    loose: bool = False

    def matrix(self, weight: Array) -> Array:
        """A weight as ``[E, K, N]``."""
        return weight.transpose(self.order)

    def stored(self, matrix: Array) -> Array:
        """The inverse of :meth:`matrix`."""
        return matrix.transpose(np.argsort(self.order))

    def is_apart(self, shape: tuple[int, ...]) -> bool:
        """Whether the matrices read rows of their own in an input of this shape."""
        if self.x is None or (self.loose and len(shape) < -self.x):
            return False
        return not self.loose or shape[self.x] == self.size

    def count(self, shape: tuple[int, ...], axis: int) -> int:
        """The number of rows that each matrix reads in an input of this shape."""
        total = math.prod(shape) // max(shape[axis], 1)
        return total // self.size if self.is_apart(shape) else total

    def rows(self, x: Array, axis: int, positions: Index | None = None) -> Array:
        """``[E, rows, K]``.

        Args:
            x: the input.
            axis: the axis of it that is contracted.
            positions: rows of each matrix; None for all.
        """
        if self.x is not None and self.is_apart(x.shape):
            return stacked_rows(x, self.x, axis, positions)
        rows = token_rows(x, axis, positions)
        return np.broadcast_to(rows, (self.size, *rows.shape[1:]))

    def targets(self, y: Array, axis: int, positions: Index | None = None) -> Array:
        """``[E, rows, N]`` of an output, or of anything of its shape."""
        if self.loose and self.size == 1:  # its axis may hold a batch
            return token_rows(y, axis, positions)
        return stacked_rows(y, self.y, axis, positions)


def stacked_rows(x: Array, stack: int, axis: int, positions: Index | None = None) -> Array:
    """The vectors along ``axis``, stack by stack: ``[E, rows, K]``."""
    rows = np.moveaxis(x, (stack, axis), (0, -1))
    rows = rows.reshape(rows.shape[0], -1, rows.shape[-1])
    return rows if positions is None else rows[:, positions]
