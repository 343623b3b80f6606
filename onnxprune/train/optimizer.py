"""Steps down a gradient, for weights some of which stay zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.data.activations.runner import Feeds
from onnxprune.evaluate.student import Student

Array = npt.NDArray[Any]

_FADE = (0.9, 0.98)
"""How much of the first and second moments of gradients is kept at every step."""
_WARM = 5
"""Steps that are shorter than the rate says."""
_CAREFUL = 0.25
"""How much shorter steps are then."""


class Descent:
    """Adam with steps in proportion to the size of each tensor, on the weights that are left.

    Inputs are centred where a bias can make up for it: rows of positive inputs share a gradient
    along their mean, which steps of equal size would follow far too quickly.

    Args:
        student: the model to train.
        keep: stored weight -> which of its entries may change.
        share: weight of the loss of each output.
        rate: the length of a step, as a share of the root mean square of each tensor.
        steps: their number.

    Attributes:
        weights: as they are now; arrays are replaced, never changed.
    """

    def __init__(
        self,
        student: Student,
        keep: Mapping[str, npt.NDArray[np.bool_]],
        share: Mapping[str, float],
        rate: float,
        steps: int,
    ) -> None:
        self._student, self._keep, self._share, self._rate = student, keep, share, rate
        self._steps, self._step, self._care = steps, 0, 1.0
        self.weights: dict[str, Array] = dict(student.weights)
        self._size = {name: self._rms(name) for name in student.trained}
        self._centred = [
            x for x in student.layers if x.bias is not None and x.bias in student.biases
        ]
        self._centre: dict[str, Array] = {}
        self._forget()

    def _forget(self) -> None:
        self._first = {name: np.zeros_like(self.weights[name]) for name in self._student.trained}
        self._second = {name: np.zeros_like(self.weights[name]) for name in self._student.trained}
        self._since = 0

    @property
    def restarted(self) -> bool:
        """Whether :meth:`restart` was called."""
        return self._care < 1.0

    def restart(self, weights: Mapping[str, Array]) -> None:
        """Go on from other weights, with shorter steps."""
        self.weights = dict(weights)
        self._care *= _CAREFUL
        self._forget()

    def step(self, feeds: Feeds, targets: Mapping[str, Array]) -> None:
        """One step; steps grow at first and shrink as a cosine."""
        self._step, self._since = self._step + 1, self._since + 1
        gradients = self._student.gradients(
            self._student.inputs(feeds, targets, self._share, self.weights)
        )
        if not self._centre:
            means = self._student.means(feeds)
            self._centre = {x.node: means[x.node] for x in self._centred}
        for layer in self._centred:
            along = gradients[str(layer.bias)].reshape(layer.groups, 1, -1)
            gradients[layer.weight] -= layer.stored(self._centre[layer.node] * along)
        rate = self._rate * self._care * min(self._since / _WARM, 1.0)
        rate *= 0.5 * (1 + np.cos(np.pi * self._step / self._steps))
        moves = {name: np.float32(rate) * self._move(name, g) for name, g in gradients.items()}
        for layer in self._centred:
            moved = layer.matrix(moves[layer.weight])
            shift = (self._centre[layer.node] * moved).sum(axis=1).reshape(-1)
            moves[str(layer.bias)] = moves[str(layer.bias)] - shift
        for name, move in moves.items():
            self.weights[name] = self.weights[name] - move

    def _move(self, name: str, gradient: Array) -> Array:
        """Adam's direction, as long as the tensor's entries are large."""
        mask = self._keep.get(name)
        moved = gradient if mask is None else gradient * mask
        first, second = self._first[name], self._second[name]
        first += (1 - _FADE[0]) * (moved - first)
        second += (1 - _FADE[1]) * (moved * moved - second)
        level, spread = (1 - fade**self._since for fade in _FADE)
        size = np.sqrt(second / spread) + 1e-12
        direction: Array = (self._size[name] / level) * first / size
        return direction

    def _rms(self, name: str) -> float:
        array, mask = self.weights[name], self._keep.get(name)
        kept = array if mask is None else array[mask]
        return float(np.sqrt(np.square(kept, dtype=np.float64).mean())) if kept.size else 0.0
