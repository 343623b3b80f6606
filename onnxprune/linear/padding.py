"""Rows that are padding, to which nothing is fitted.

Sentences of a batch are made equally long, and a mask among the inputs says where they end. What a
model computes beyond is read by nobody, but there may be more of it than of anything else.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Masks = Mapping[str, npt.NDArray[np.generic]]
Index = npt.NDArray[np.int64]


def masks_of(feeds: Masks) -> dict[str, npt.NDArray[np.generic]]:
    """The inputs that are masks of tokens, by the name they were given: ``[samples, tokens]``."""
    return {n: a for n, a in feeds.items() if "mask" in n.lower() and a.ndim == 2}


def shown(masks: Masks, shape: tuple[int, ...], axis: int) -> Index | None:
    """The rows that are no padding; None if no mask belongs to a value of this shape.

    Args:
        masks: of tokens. A mask is other than 0 where there is something, or where there is
            nothing if it is named after the padding (as PyTorch's ``key_padding_mask``).
        shape: of a value, tokens before features.
        axis: of the features.
    """
    if len(shape) < 2 or axis % len(shape) != len(shape) - 1:
        return None
    for name, mask in masks.items():
        if shape[:-1] in (mask.shape, (mask.size,)):
            rows = np.flatnonzero((mask != 0) != ("pad" in name.lower()))
            if len(rows):
                return rows.astype(np.int64)
    return None
