"""Statistics of calibration data for the readers of every group and for residual branches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from onnxprune.data import Statistics, Tap, collect, observe
from onnxprune.data.batches import Feeds
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.layers.linear import LinearLayer, find_layers
from onnxprune.graph.units import Block, Group

_ROWS = 4096
"""Rows of one feed that enter a covariance: neighbouring positions are nearly alike."""


InputStatistics = Statistics
"""What criteria see of the inputs of a layer."""


def input_statistics(
    analysis: Analysis,
    groups: Iterable[Group],
    data: Iterable[Feeds],
    *,
    covariance: bool = True,
    provider: str = "cpu",
) -> dict[tuple[str, str], InputStatistics]:
    """Moments, and covariances if asked for, of the inputs of every consumer of ``groups``.

    Args:
        analysis: of the model.
        groups: whose readers are observed.
        data: feeds, restartable; observed values are not kept.
        covariance: whether to collect covariances of channels.
        provider: execution provider.

    Returns:
        By (tensor, node). Readers inside If, Loop and Scan bodies cannot be observed and are left
        out.
    """
    graph = analysis.model.ir.graph
    seen = {v.name for n in graph for v in n.outputs} | {v.name for v in graph.inputs}
    taps = {}
    for layer in readers(analysis, groups):
        if layer.x in seen:
            channel = layer.axis % len(analysis.walk.axes[layer.x])
            taps[layer.weight, layer.node] = Tap(layer.x, channel, covariance, layer.groups)
    statistics = collect(analysis.model, data, taps.values(), provider=provider, rows=_ROWS)
    return {key: statistics[tap] for key, tap in taps.items()}


def readers(analysis: Analysis, groups: Iterable[Group]) -> Iterator[LinearLayer]:
    """The layers that contract an axis of any of ``groups`` with a computed value, each once.

    Those that others read through a Transpose or a cast are none: the slice is that of the mover.
    """
    direct = {
        (layer.weight, layer.node): layer
        for layer in find_layers(analysis.model)
        if layer.source is not None and not layer.source.through
    }
    for group in groups:
        for cut in group.slices:
            for node in cut.nodes if cut.role == "reads" else ():
                layer = direct.pop((cut.tensor, node), None)
                if layer is not None and layer.x and layer.x not in analysis.walk.static:
                    yield layer


def block_importance(
    analysis: Analysis, blocks: Sequence[Block], data: Iterable[Feeds], provider: str = "cpu"
) -> Mapping[str, float]:
    """How much each residual branch changes its stream: 1 - cosine(skip, skip + branch).

    Source: "ShortGPT" (Men et al., 2024), block influence. Vectors run along the last axis for
    sequences (rank up to 3) and along axis 1, the channels, for images.
    """
    names = sorted({n for b in blocks for n in (b.skip, b.output)})
    sums = {b.name: np.zeros(2) for b in blocks}
    latest: dict[str, np.ndarray] = {}
    for values in observe(analysis.model, data, names, provider=provider, limit=1 << 62):
        latest.update(values)
        for block in blocks:
            x, y = (latest[n].astype(np.float64) for n in (block.skip, block.output))
            axis = 1 if x.ndim > 3 else -1
            size = np.linalg.norm(x, axis=axis) * np.linalg.norm(y, axis=axis)
            cosine = (x * y).sum(axis) / np.maximum(size, 1e-30)
            sums[block.name] += (1 - cosine).sum(), cosine.size
    return {name: float(total / max(count, 1)) for name, (total, count) in sums.items()}
