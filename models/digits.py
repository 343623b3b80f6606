"""The digits task: scikit-learn's 1,797 scans of 8x8 pixels, resampled to 16x16 with a random pose.

Each scan belongs to exactly one split, so the training, calibration and evaluation pictures never
show the same scan in different poses. All splits draw poses from the same distribution; writers
are shared between splits (the data set does not say who wrote what).

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
Learning Repository, 1998, as shipped by ``sklearn.datasets.load_digits``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 16
LEVELS = 16.0  # grey values are multiples of 1/16, as in the source: they compress well
TRAIN, CALIBRATION = 941, 256  # scans; the remaining 600 are for evaluation
DRAWS = {"calibration": 2, "evaluation": 2}  # poses per scan


@dataclass(frozen=True)
class Split:
    """Some scans: indices [n] into ``load_digits``, raw pixels [n, 8, 8] in 0..1, labels [n]."""

    indices: NDArray[np.int64]
    raw: NDArray[np.float32]
    labels: NDArray[np.int64]


def splits(seed: int = 0) -> dict[str, Split]:
    """The three disjoint splits "train", "calibration" and "evaluation"."""
    from sklearn.datasets import load_digits

    data = load_digits()
    raw = (data.images / LEVELS).astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(raw))
    cuts = np.split(order, [TRAIN, TRAIN + CALIBRATION])
    return {
        name: Split(rows.astype(np.int64), raw[rows], data.target[rows].astype(np.int64))
        for name, rows in zip(("train", "calibration", "evaluation"), cuts, strict=True)
    }


def posed(raw: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Resample each scan once under a random similarity transform.

    Args:
        raw: scans [n, 8, 8] in 0..1.
        rng: where the poses come from: rotation within 0.4 radians, scale 0.7 to 1.1,
            shear within 0.3, shift within 1.3 source pixels.

    Returns:
        pictures [n, 1, 16, 16] in 0..1, bilinear, black outside the scan.
    """
    count = len(raw)
    angle = rng.uniform(-0.4, 0.4, count)
    scale = 1.0 / rng.uniform(0.7, 1.1, count)
    shear = rng.uniform(-0.3, 0.3, count)
    shift = rng.uniform(-1.3, 1.3, (2, count))
    grid = (np.arange(SIDE) + 0.5) / SIDE * 8 - 4  # pixel centres in source pixels, from the middle
    y, x = (plane[None] for plane in np.meshgrid(grid, grid, indexing="ij"))
    sin, cos = (f(angle)[:, None, None] * scale[:, None, None] for f in (np.sin, np.cos))
    source_y = cos * y + sin * x + shift[0][:, None, None] + 3.5
    source_x = cos * x - sin * y + shear[:, None, None] * y + shift[1][:, None, None] + 3.5
    padded = np.pad(raw, ((0, 0), (1, 1), (1, 1)))
    source_y, source_x = (np.clip(c + 1, 0, 8.999) for c in (source_y, source_x))
    top, left = source_y.astype(np.int64), source_x.astype(np.int64)
    down, right = source_y - top, source_x - left
    row = np.arange(count)[:, None, None]
    picture = (
        padded[row, top, left] * (1 - down) * (1 - right)
        + padded[row, top, left + 1] * (1 - down) * right
        + padded[row, top + 1, left] * down * (1 - right)
        + padded[row, top + 1, left + 1] * down * right
    )
    grey: NDArray[np.float32] = (np.rint(picture * LEVELS) / LEVELS).astype(np.float32)
    return grey[:, None]


def arrays(name: str, seed: int = 1) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pictures [n, 1, 16, 16] and labels [n] of the "calibration" or "evaluation" split."""
    split, rng = splits()[name], np.random.default_rng([seed, len(name)])
    draws = [posed(split.raw, rng) for _ in range(DRAWS[name])]
    return np.concatenate(draws), np.tile(split.labels, DRAWS[name])
