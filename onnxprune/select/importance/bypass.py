"""What bypassing a residual branch costs, in the currency of the outputs.

Without its branch, a block hands on what came in. Whatever follows can make up for a change of
scale and mean per channel, so that is granted: the skip is fitted to what the block gave, channel
by channel, and the error that is left is followed to the outputs. Recovery does better (layers
behind are refitted as a whole), so this is an upper bound of a single bypass; several add up to
more than their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.data.memory import MemoryBudget
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.surgery.edit import Editor
from onnxprune.graph.units import Block, Group
from onnxprune.runtime import open_session
from onnxprune.select.importance.curves import Feeds
from onnxprune.select.importance.downstream import DownstreamError
from onnxprune.select.importance.output_errors import WORST, affordable
from onnxprune.solve.im2col import token_rows

Float = npt.NDArray[np.float64]


def innermost(blocks: Sequence[Block]) -> list[Block]:
    """The blocks that hold no other one, and share no node: those may be dropped side by side."""
    chosen: list[Block] = []
    covered: set[str] = set()
    for block in sorted(blocks, key=lambda b: len(b.nodes)):
        if not covered & {*block.nodes, block.output}:
            chosen.append(block)
            covered |= {*block.nodes, block.output}
    return sorted(chosen, key=blocks.index)


def inside(groups: Sequence[Group], block: Block) -> tuple[str, ...]:
    """The groups all of whose tensors die with a block."""
    dying = set(block.nodes)
    return tuple(g.name for g in groups if all(c.nodes and dying >= set(c.nodes) for c in g.slices))


def block_errors(
    analysis: Analysis,
    blocks: Sequence[Block],
    fit: Sequence[Feeds],
    holdout: Sequence[Feeds],
    *,
    provider: str = "cpu",
    memory: MemoryBudget | None = None,
) -> dict[str, float]:
    """What the outputs lose without each of the blocks, see ``output_error``.

    Args:
        analysis: analysis of the dense model.
        blocks: blocks of the analysis.
        fit: feeds that scales and means are fitted to.
        holdout: feeds that the outputs are compared on.
        provider: what runs the models.
        memory: the memory budget.
    """
    lines = _lines(analysis, blocks, affordable(fit, analysis, len(blocks)), provider)
    some = affordable(holdout, analysis, len(blocks))
    error = DownstreamError(analysis.model, some, provider=provider, worst=WORST, memory=memory)
    return {b.name: error.of(_bypassed(analysis, b, *lines[b.name])) for b in blocks}


def _lines(
    analysis: Analysis, blocks: Sequence[Block], batches: Sequence[Feeds], provider: str
) -> dict[str, tuple[Float, Float]]:
    """By block, the scale and shift per channel that bring the skip nearest to what comes out."""
    taps = list(dict.fromkeys(v for b in blocks for v in (b.skip, b.output)))
    session = open_session(analysis.model, provider=provider, outputs=taps, arena=False)
    sums: dict[str, Any] = {}
    for feeds in batches:
        values = session.run(feeds, taps)
        for block in blocks:
            x, y = (_rows(values[v]) for v in (block.skip, block.output))
            products = [np.einsum("rc,rc->c", x, each, dtype=np.float64) for each in (x, y)]
            plain = [each.sum(axis=0, dtype=np.float64) for each in (x, y)]
            added = np.array([np.full(x.shape[1], len(x)), *plain, *products])
            sums[block.name] = sums.get(block.name, 0) + added
    lines = {}
    for name, (count, x, y, xx, xy) in sums.items():
        variance = np.maximum(xx / count - (x / count) ** 2, 0)
        together = xy / count - x * y / count**2
        scale = np.where(variance > 0, together / np.maximum(variance, 1e-30), 1.0)
        lines[name] = scale, (y - scale * x) / count
    return lines


def _axis(rank: int) -> int:
    """Where channels are: behind the samples for images, last for sequences."""
    return 1 if rank > 3 else -1


def _rows(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    rows: npt.NDArray[Any] = token_rows(value, _axis(value.ndim))[0]
    return rows


def _bypassed(analysis: Analysis, block: Block, scale: Float, shift: Float) -> models.Model:
    """The model with the sum of a block replaced by a line through its skip."""
    editor = Editor(models.clone(analysis.model))
    add, skip = editor.nodes[block.output], editor.values[block.skip]
    rank = len(analysis.facts[block.skip].shape or ())
    dtype = analysis.facts[block.skip].dtype or ir.DataType.FLOAT

    def stored(name: str, vector: Float) -> ir.Value:
        shape = [-1 if k == _axis(rank) % rank else 1 for k in range(rank)]
        array = vector.reshape(shape).astype(dtype.numpy())
        return editor.store(skip, f"{block.name}/{name}", ir.Tensor(array, dtype=dtype))

    scaled = editor.insert(add, "Mul", [skip, stored("scale", scale)])
    add.replace_input_with(0, scaled)
    add.replace_input_with(1, stored("shift", shift))
    return editor.model
