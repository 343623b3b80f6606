"""A depthwise convolution between two layers that are refitted together.

In networks for phones a layer makes hidden channels, a depthwise convolution filters each of them,
and another layer reads what comes out (Howard et al., "MobileNets", arXiv 1704.04861). The filters
stay as they are: they have few weights, and the layer before them makes up for what they lack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.solve.activation import Activation
from onnxprune.solve.patch_sampling import Crops

Array = npt.NDArray[Any]


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
        """What the filters give: hidden rows to ``[out rows, channels]``."""
        made = crops.filtered(values, self.weight.astype(values.dtype))
        made += self.bias.astype(values.dtype)
        return made

    @property
    def overlap(self) -> Array:
        """``[channels, channels]``, how much filters look at the same hidden positions."""
        return np.asarray(self.weight.T @ self.weight)
