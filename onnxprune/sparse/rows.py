"""Norms of the inputs of layers, and moments that rounding cannot spoil."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.data.activations.runner import Segments
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.solve.im2col import sample_positions
from onnxprune.solve.moments import Moments

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

_LOOK = 1000
"""Rows per batch that a mean square is taken over."""
_TRACE = 1e-6
"""Share of the mean variance of inputs that is added to each."""
ROWS = 20_000
"""Rows sampled per layer, at least."""


def norms_of(
    model: models.Model,
    layers: Sequence[LinearLayer],
    batches: Sequence[Feeds],
    provider: str,
    most: int | None = None,
) -> dict[str, Array]:
    """The root mean square of every input of every layer, ``[g, K]``, by name of its weight.

    Args:
        model: the model; it is only read.
        layers: in the order of the graph.
        batches: feeds; at least one.
        provider: what runs the model.
        most: bytes of values that may be held.
    """
    run = Segments(model, batches, provider=provider, most=most)
    norms: dict[str, Array] = {}
    for layer in layers:
        run.advance([layer.x])
        squares, count = np.zeros(layer.shape[:2]), 0
        for k in range(len(run)):
            x = run.value(layer.x, k)
            among = run.shown_to(layer, k)
            rows = layer.rows(x, sample_positions(layer.count(x.shape), _LOOK, k, among))
            squares += np.square(rows, dtype=np.float64).sum(axis=1)
            count += rows.shape[1]
        norms[layer.weight] = np.sqrt(squares / max(count, 1))
    return norms


def steadied(rows: Moments, weight: Array) -> Moments:
    """The same rows and a trace of others that read one input each and want what it gave before.

    Inputs that hardly vary leave their weights undetermined: rounding would decide them, and the
    weights it makes up are huge.

    Args:
        rows: moments of inputs and targets.
        weight: ``[g, K, N]``, what those inputs had.
    """
    trace = _TRACE * np.diagonal(rows.xx, axis1=1, axis2=2).mean(axis=1)[:, None, None]
    xx, diagonal = rows.xx.copy(), np.arange(rows.xx.shape[1])
    xx[:, diagonal, diagonal] += trace[:, 0]
    return replace(
        rows,
        xx=xx,
        xy=rows.xy + trace * weight,
        yy=rows.yy + trace[:, 0] * (weight**2).sum(axis=1),
    )
