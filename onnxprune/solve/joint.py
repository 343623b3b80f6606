"""One least-squares problem of several applications of the same weights.

    min_{W, b_i}  sum_i E ||y_i - x_i W - b_i||^2

The normal equations of the applications add up. How depends on the biases: each application has one
of its own, which absorbs its own means; or all share one, which absorbs the common mean; or they
have none that may change. Moments are shifted accordingly before they are merged, so that what
solves the problem of one layer (``solve.refit``, ``solve.support``) solves that of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxprune.solve.moments import Moments, merge, squared_error

Float = npt.NDArray[np.float64]
Biases = Literal["own", "common", "fixed"]


@dataclass(eq=False)
class JointMoments:
    """Moments of all applications of one weight, merged as they come.

    Args:
        matrix: ``[g, K, N]``, the weights as they are.
        biases: what may change besides: a bias of each application, one for all, or none.

    Attributes:
        old: ``[g, N]``, the bias of each application as it is.
    """

    matrix: npt.NDArray[Any]
    biases: Biases
    _train: list[Moments] = field(default_factory=list)
    _holdout: list[Moments] = field(default_factory=list)
    _every: list[tuple[Float, Float]] = field(default_factory=list)
    old: list[Float] = field(default_factory=list)
    _wrong: float = 0.0

    def add(self, train: Moments, holdout: Moments, bias: Float) -> None:
        """Account for one application.

        Args:
            train: moments of its rows to fit to.
            holdout: moments of other rows; the same object where there are none.
            bias: ``[g, N]``, its bias as it is.
        """
        x, y = np.zeros_like(train.mean_x), bias
        if self.biases == "own":
            x, y = train.mean_x, train.mean_y
        every = train if holdout is train else _means(train, holdout)
        self._every.append((every.mean_x, every.mean_y))
        self.old.append(bias)
        self._wrong += float(squared_error(holdout, self.matrix, bias).sum()) * holdout.count
        for parts, part in ((self._train, train), (self._holdout, holdout)):
            shifted = replace(part, mean_x=part.mean_x - x, mean_y=part.mean_y - y)
            parts[:] = [merge(parts[0], shifted) if parts else shifted]

    @property
    def train(self) -> Moments:
        """Moments of the rows that may be fitted to, about what ``biases`` says.

        What is wanted is the difference to the bias as it is, or to the mean.
        """
        return self._train[0]

    @property
    def holdout(self) -> Moments:
        """The same of other rows."""
        return self._holdout[0]

    @property
    def free(self) -> bool:
        """Whether a fit has a bias to change: that of applications of their own is in the means."""
        return self.biases == "common"

    @property
    def bias(self) -> Float:
        """``[g, N]``: the bias that a fit starts from."""
        return np.zeros(self.train.mean_y.shape)

    @property
    def error(self) -> float:
        """The squared error of weights and biases as they are on held-out rows, per row."""
        return self._wrong / self.holdout.count

    def fitted(self, matrix: Float, shift: Float) -> list[Float]:
        """The bias ``[g, N]`` of every application with fitted weights.

        Args:
            matrix: ``[g, K, N]``.
            shift: ``[g, N]``, the bias of the fit.
        """
        if self.biases == "fixed":
            return self.old
        if self.biases == "common":
            return [old + shift for old in self.old]
        return [y - np.einsum("gk,gkn->gn", x, matrix) for x, y in self._every]


def _means(train: Moments, holdout: Moments) -> Moments:
    """The means of all rows; nothing else of them is needed."""
    a, b = (part.count / (train.count + holdout.count) for part in (train, holdout))
    return replace(
        train,
        mean_x=a * train.mean_x + b * holdout.mean_x,
        mean_y=a * train.mean_y + b * holdout.mean_y,
    )


def joined(
    parts: Sequence[tuple[Moments, Moments]], old: Sequence[Float], matrix: Float, biases: Biases
) -> JointMoments:
    """The moments of several applications at once, see :class:`JointMoments`."""
    rows = JointMoments(matrix, biases)
    for (train, holdout), bias in zip(parts, old, strict=True):
        rows.add(train, holdout, bias)
    return rows
