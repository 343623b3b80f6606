"""Rows that are padding, to which nothing is fitted.

Sentences of a batch are made equally long, and a mask among the inputs says where they end. What a
model computes beyond is read by nobody, but there may be more of it than of anything else.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from onnxprune.graph.layers.linear import LinearLayer

Index = npt.NDArray[np.int64]
Masks = Mapping[str, npt.NDArray[np.bool_]]
"""Which tokens are there, ``[samples, tokens]``, by the name of the input that says so."""


def shown(masks: Masks, shape: tuple[int, ...], axis: int) -> Index | None:
    """The rows that are no padding; None if no mask belongs to a value of this shape.

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
    """The rows of what a layer reads that are no padding; None if none is known to be.

    Args:
        layer: a convolution reads no tokens.
        masks: of tokens.
        shape: of what it reads.
    """
    return None if layer.window else shown(masks, shape, layer.axis)
