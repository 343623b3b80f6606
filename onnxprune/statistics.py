"""What calibration data say about the readers of every group, in one streaming pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.analysis import Analysis
from onnxprune.backends import open_session
from onnxprune.consumers import of_groups
from onnxprune.criteria import InputStatistics
from onnxprune.inputs import Inputs
from onnxprune.units import Block, Group

F64 = npt.NDArray[np.float64]
_GRAM_LIMIT = 4096
"""Channels above which no covariance is kept: 128 MiB each in double precision."""


@dataclass
class _Moments:
    """Running centred moments of one value along one axis (Chan et al., 1979)."""

    count: int = 0
    mean: F64 | None = None
    spread: F64 | None = None
    absolute: F64 | None = None

    def add(self, x: F64) -> None:
        """``x``: float64 ``[rows, channels]``."""
        rows = len(x)
        if not rows:
            return
        mean = x.mean(0)
        centred = x - mean
        wide = x.shape[1] > _GRAM_LIMIT
        spread = np.square(centred).sum(0) if wide else centred.T @ centred
        absolute = np.abs(x).sum(0)
        if self.mean is None or self.spread is None or self.absolute is None:
            self.count, self.mean, self.spread, self.absolute = rows, mean, spread, absolute
            return
        total = self.count + rows
        gap = mean - self.mean
        shift = np.square(gap) if wide else np.outer(gap, gap)
        self.spread += spread + shift * (self.count * rows / total)
        self.mean = self.mean + gap * (rows / total)
        self.absolute += absolute
        self.count = total

    def finish(self, blocks: int) -> InputStatistics | None:
        """The statistics a criterion sees, with covariances within each block."""
        if self.mean is None or self.spread is None or self.absolute is None:
            return None
        dense = self.spread.ndim == 2
        var = np.diag(self.spread) if dense else self.spread
        covariance = None
        if dense:
            n = len(self.mean) // blocks
            covariance = np.stack(
                [self.spread[k * n : (k + 1) * n, k * n : (k + 1) * n] for k in range(blocks)]
            )
            covariance = covariance / self.count
        return InputStatistics(
            count=self.count,
            mean=self.mean,
            var=var / self.count,
            mean_abs=self.absolute / self.count,
            covariance=covariance,
            blocks=blocks,
        )


def input_statistics(
    analysis: Analysis, groups: Iterable[Group], inputs: Inputs
) -> dict[tuple[str, str], InputStatistics]:
    """Per-channel moments and channel covariances of what every consumer of ``groups`` reads.

    Args:
        analysis: of the model.
        groups: whose readers are observed.
        inputs: calibration data; gone through once, keeping no activations.

    Returns:
        By (tensor, node), what the node contracts with the tensor.
    """
    readers = list(of_groups(analysis, groups))
    taps = sorted({(r.activation, r.channel) for r in readers if _observable(analysis, r.activation)})
    found: dict[tuple[str, int], _Moments] = defaultdict(_Moments)
    session = open_session(analysis.model, outputs=sorted({name for name, _ in taps}))
    for feeds in inputs.batches(analysis):
        values = session.run(feeds, sorted({name for name, _ in taps}))
        for name, channel in taps:
            x = np.moveaxis(values[name], channel, -1)
            found[name, channel].add(_thin(x.reshape(-1, x.shape[-1])).astype(np.float64))
    out = {}
    for reader in readers:
        moments = found.get((reader.activation, reader.channel))
        blocks = int(reader.call.attr("group", 1)) if reader.call.op.endswith("Conv") else 1
        statistics = moments.finish(blocks) if moments is not None else None
        if statistics is not None:
            out[reader.tensor, reader.node.outputs[0].name or ""] = statistics
    return out


def _thin(rows: npt.NDArray[np.generic], most: int = 4096) -> npt.NDArray[np.generic]:
    """At most so many rows of one batch, evenly spread: neighbours say nearly the same."""
    return rows if len(rows) <= most else rows[:: -(-len(rows) // most)]


def _observable(analysis: Analysis, name: str) -> bool:
    """Whether a value lies in the main graph, where a runtime can return it."""
    graph = analysis.model.ir.graph
    return any(v.name == name for n in graph for v in n.outputs) or any(
        v.name == name for v in graph.inputs
    )


def block_importance(
    analysis: Analysis, blocks: Sequence[Block], inputs: Inputs
) -> Mapping[str, float]:
    """How much each residual branch changes what passes by: 1 - cosine(skip, skip + branch).

    Source: "ShortGPT" (Men et al., 2024), block influence.
    """
    names = sorted({n for b in blocks for n in (b.skip, b.output)})
    session = open_session(analysis.model, outputs=names)
    sums: dict[str, list[float]] = {b.name: [0.0, 0.0] for b in blocks}
    for feeds in inputs.batches(analysis):
        values = session.run(feeds, names)
        for block in blocks:
            x, y = (values[n].astype(np.float64) for n in (block.skip, block.output))
            size = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
            cosine = (x * y).sum(-1) / np.maximum(size, 1e-30)
            sums[block.name][0] += float((1 - cosine).sum())
            sums[block.name][1] += cosine.size
    return {name: total / max(count, 1) for name, (total, count) in sums.items()}
