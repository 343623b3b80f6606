"""Samples taken out of batches and put together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.data.activations.runner import Feeds

Array = npt.NDArray[Any]


def apart(
    model: models.Model, batches: Sequence[Feeds], every: int
) -> tuple[list[Feeds], list[Feeds]]:
    """Samples to train on and others to judge by; whole batches where their size is fixed."""
    fixed = any(
        isinstance(value.shape[0], int)
        for value in model.ir.graph.inputs
        if value.shape is not None and len(value.shape) and not value.is_initializer()
    )
    alike = all(len({len(a) if a.ndim else 0 for a in f.values()}) == 1 for f in batches)
    samples = list(batches)
    if alike and not fixed:
        samples = [
            {name: array[k : k + 1] for name, array in feeds.items()}
            for feeds in batches
            for k in range(len(first(feeds)))
        ]
    held = samples[every - 1 :: every]
    return [f for k, f in enumerate(samples) if k % every != every - 1], held


def joined(samples: Sequence[Feeds], size: int) -> list[Feeds]:
    """Batches of so many samples of one shape each.

    What holds several samples, or has them not along the first axis of every input, stays as it is.
    """
    groups: dict[object, list[Feeds]] = {}
    for number, one in enumerate(samples):
        single = all(array.ndim and len(array) == 1 for array in one.values())
        groups.setdefault(_sizes(one) if single else number, []).append(one)
    return [
        {name: np.concatenate([one[name] for one in some]) for name in some[0]}
        if len(some) > 1
        else dict(some[0])
        for group in groups.values()
        for some in (group[k : k + size] for k in range(0, len(group), size))
    ]


def first(feeds: Feeds) -> Array:
    """One of the inputs."""
    return next(iter(feeds.values()))


def _sizes(feeds: Feeds) -> tuple[tuple[int, ...], ...]:
    """The shapes of one sample."""
    return tuple(array.shape[1:] for array in feeds.values())
