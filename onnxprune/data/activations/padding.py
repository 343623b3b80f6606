"""Padding: rows that are left out of the fit.

Sentences of a batch are made equally long, and a mask among the inputs says where they end. What a
model computes beyond is never read, but there may be more of it than of anything else.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from onnxprune.graph.layers.linear import LinearLayer

Index = npt.NDArray[np.int64]
Masks = Mapping[str, npt.NDArray[np.bool_]]
"""Which tokens are present, ``[samples, tokens]``, by the name of the mask input."""


def shown(masks: Masks, shape: tuple[int, ...], axis: int) -> Index | None:
    """The rows that are not padding; None if no mask belongs to a value of this shape.

    Args:
        masks: of tokens.
        shape: of a value, tokens before features.
        axis: of the features.
    """
    if len(shape) < 2 or axis % len(shape) != len(shape) - 1:
        return None
    for there in masks.values():
        if shape[:-1] in (there.shape, (there.size,)) and there.any():
            return np.flatnonzero(there).astype(np.int64)
    return None


def shown_to(layer: LinearLayer, masks: Masks, shape: tuple[int, ...]) -> Index | None:
    """The rows of a layer's input that are not padding; None if no mask is known.

    Args:
        layer: a convolution reads no tokens.
        masks: of tokens.
        shape: of its input.
    """
    return None if layer.window else shown(masks, shape, layer.axis)
