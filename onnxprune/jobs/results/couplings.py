"""What leaves with one unit of each group: rows of a report, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxprune.graph.analysis import Analysis
    from onnxprune.graph.units import Slice

MOST_SLICES = 2000
"""Slices one report describes: a network of a thousand layers stays a document one can mail."""
_MOST_NODES = 8


@dataclass(frozen=True)
class NodeRow:
    """A node that uses a tensor: its identity (first output name) and operator."""

    name: str
    op: str


@dataclass(frozen=True)
class SliceRow:
    """What one stored tensor loses with one unit.

    Attributes:
        tensor, shape: the tensor, dense.
        axis: the axis that is cut.
        rows: number of its indices that leave with one unit.
        role: ``writes`` (makes the units), ``reads`` (contracts them) or ``scales`` (one value per
            unit: biases, normalisations).
        nodes: the nodes that use the tensor this way; the first few where there are many.
    """

    tensor: str
    shape: tuple[int, ...]
    axis: int
    rows: int
    role: str
    nodes: tuple[NodeRow, ...]


@dataclass(frozen=True)
class CouplingRow:
    """Everything that leaves with one unit of a group.

    Attributes:
        group: its name.
        slices: that leave, in the order of the network.
        more: slices that are left out here, because the group or the model has so many.
    """

    group: str
    slices: tuple[SliceRow, ...]
    more: int


def coupling_rows(analysis: Analysis, *, most: int = MOST_SLICES) -> tuple[CouplingRow, ...]:
    """One row per group, of ``most`` slices together.

    Each group may use an equal share of them, and what smaller groups leave over.
    """
    # Imported here: who reads a report from a file needs no model.
    from onnxprune import model as models
    from onnxprune.graph.analysis import identity

    ops = {
        identity(node): node.op_type for graph in models.graphs(analysis.model) for node in graph
    }
    shapes = {t.name: tuple(axis.size or 0 for axis in t.axes) for t in analysis.tensors}

    def row(cut: Slice) -> SliceRow:
        nodes = tuple(NodeRow(name, ops.get(name, "")) for name in cut.nodes[:_MOST_NODES])
        rows = int(cut.rows.shape[1])
        return SliceRow(cut.tensor, shapes.get(cut.tensor, ()), cut.axis, rows, cut.role, nodes)

    shares = _shares([len(group.slices) for group in analysis.groups], most)
    return tuple(
        CouplingRow(group.name, tuple(map(row, group.slices[:share])), len(group.slices) - share)
        for group, share in zip(analysis.groups, shares, strict=True)
    )


def _shares(counts: list[int], most: int) -> list[int]:
    """Shares of ``most``: at most the count of each, and equal shares of the remainder."""
    shares, remaining = [0] * len(counts), most
    for place, k in enumerate(sorted(range(len(counts)), key=counts.__getitem__)):
        shares[k] = min(counts[k], remaining // (len(counts) - place))
        remaining -= shares[k]
    return shares
