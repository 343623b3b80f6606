"""Random inputs that look enough like real ones for a network to treat them differently.

White noise is no good for networks that end in a global average: every image then has the same
features.  Pictures get a random colour cast and low spatial frequencies; token sequences get
random lengths through the attention mask.  Only numpy: what runs the exported files need not have
torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["image", "tokens", "mask", "features"]
METADATA = "zoo_inputs"  # the key in an exported file's metadata_props that holds `dumps(inputs)`


@dataclass(frozen=True)
class Input:
    """A graph input: its axes are sizes, or names of symbolic ones; `high` bounds token ids."""

    name: str
    kind: Kind
    dims: tuple[int | str, ...]
    high: int = 0

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The concrete shape under `sizes` of the symbolic axes."""
        return tuple(d if isinstance(d, int) else sizes[d] for d in self.dims)


def dumps(inputs: Sequence[Input]) -> str:
    """The JSON text stored in an exported file."""
    return json.dumps([asdict(i) for i in inputs])


def loads(text: str) -> tuple[Input, ...]:
    """The inverse of `dumps`."""
    return tuple(Input(**{**row, "dims": tuple(row["dims"])}) for row in json.loads(text))


def sample(
    inputs: Sequence[Input], sizes: Mapping[str, int], seed: int
) -> dict[str, np.ndarray[Any, Any]]:
    """One batch: float32 pictures and features of unit scale, int64 ids and masks."""
    rng = np.random.default_rng(seed)
    return {i.name: _draw(i, i.shape(sizes), rng) for i in inputs}


def _draw(i: Input, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    if i.kind == "tokens":
        return rng.integers(0, i.high, shape, dtype=np.int64)
    if i.kind == "mask":
        lengths = rng.integers((shape[1] + 1) // 2, shape[1] + 1, shape[0])
        return (np.arange(shape[1]) < lengths[:, None]).astype(np.int64)
    if i.kind == "features":
        return rng.standard_normal(shape).astype(np.float32)
    return picture(shape, rng)


def picture(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Float32 [n, c, h, w]: a colour cast, blobs of about a quarter of the picture, and grain."""
    n, c, h, w = shape
    blobs = rng.standard_normal((n, c, 4, 4))
    coarse = blobs[:, :, np.arange(h) * 4 // h][:, :, :, np.arange(w) * 4 // w]
    cast = rng.standard_normal((n, c, 1, 1))
    grain = rng.standard_normal(shape)
    return (0.6 * cast + 0.7 * coarse + 0.4 * grain).astype(np.float32)
