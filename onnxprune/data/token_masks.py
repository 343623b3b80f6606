"""Masks among inputs, that say which tokens are no padding."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt


def masks_of(feeds: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.bool_]]:
    """The inputs that are masks of tokens, and which tokens are there, ``[samples, places]``.

    A mask is other than 0 where there is something, or where there is nothing if it is named after
    the padding (as PyTorch's ``key_padding_mask``).
    """
    found = {n: a != 0 for n, a in feeds.items() if "mask" in n.lower() and a.ndim == 2}
    return {n: ~there if "pad" in n.lower() else there for n, there in found.items()}
