"""The exact cost of a model under any removal: multiply-accumulates, parameters, bytes.

Costs are products of axis sizes, so the cost of a cut is the product of the kept sizes; no model is
cut for it. Multiply-accumulates are those of contractions (convolutions, matrix products,
attention, recurrences) at the analysed input shapes, per sample where the batch size is open;
elementwise work is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np

from onnxprune.graph.analysis import Analysis
from onnxprune.graph.axes import Axis, Column
from onnxprune.graph.groups import Stored

_NOTHING: Mapping[str, Sequence[int]] = MappingProxyType({})


@dataclass(frozen=True)
class Cost:
    """Totals of one model: multiply-accumulates per sample, stored elements, stored bytes."""

    macs: int
    params: int
    bytes: int

    def of(self, kind: str) -> int:
        """One of them by its name, as budgets have it."""
        return int(getattr(self, kind))


class CostMeasure(Protocol):
    """One figure of a model under any removal, to set a budget on.

    Attributes:
        kind: its name among `quantities.COST_KINDS`.
        stairs: whether it grows in steps with the width, so that every width has to be priced.
    """

    @property
    def kind(self) -> str: ...  # noqa: D102

    @property
    def stairs(self) -> bool: ...  # noqa: D102

    def measure(
        self, removed: Mapping[str, Sequence[int]] = _NOTHING, bypassed: Sequence[str] = ()
    ) -> int:
        """The figure of the model without ``removed`` units and ``bypassed`` blocks."""
        ...


@dataclass(frozen=True, eq=False)
class StaticCost:
    """A cost that is read off the graph."""

    model: CostModel
    kind: str
    stairs: bool = False

    def measure(
        self, removed: Mapping[str, Sequence[int]] = _NOTHING, bypassed: Sequence[str] = ()
    ) -> int:
        """The figure of the model without ``removed`` units and ``bypassed`` blocks."""
        return self.model(removed, bypassed).of(self.kind)


@dataclass(frozen=True, eq=False)
class _Term:
    """One product of sizes: a constant part and the axes that can shrink."""

    fixed: int
    axes: tuple[int, ...]
    itemsize: float
    node: str


class CostModel:
    """The products of one analysis, compiled once; call it with a removal.

    Args:
        analysis: of the dense model.
        additions: tensors that the model does not store yet and that count as if it did.
    """

    def __init__(self, analysis: Analysis, additions: Iterable[Stored] = ()) -> None:
        self._analysis = analysis
        self._columns: list[list[Column]] = []
        self._index: dict[bytes, int] = {}
        calls = analysis.walk.calls
        self._work = [self._term(axes, 0.0, call.name) for _, call in calls for axes in call.work]
        seen: dict[tuple[str, tuple[int, ...]], _Term] = {}
        for stored in (*analysis.tensors, *additions):
            if not stored.filled:
                term = self._term(stored.axes, stored.itemsize, stored.nodes[0])
                seen.setdefault((stored.name, term.axes), term)
        self._stored = seen

    def _term(self, axes: Sequence[Axis], itemsize: float, node: str) -> _Term:
        fixed, varying = 1, []
        for axis in axes:
            columns = self._analysis.walk.space.columns(axis) if axis.columns else []
            if not columns:
                fixed *= axis.size or 0
                continue
            key = b"|".join(c.tobytes() for c in columns)
            if key not in self._index:
                self._index[key] = len(self._columns)
                self._columns.append(columns)
            varying.append(self._index[key])
        return _Term(fixed, tuple(varying), itemsize, node)

    def __call__(
        self, removed: Mapping[str, Sequence[int]] = _NOTHING, bypassed: Sequence[str] = ()
    ) -> Cost:
        """The cost of the model without ``removed`` units and ``bypassed`` blocks."""
        atoms = self._analysis.removed_atoms(removed)
        kept = []
        for columns in self._columns:
            out = atoms[columns[0]]
            for column in columns[1:]:
                out = out | atoms[column]
            kept.append(len(out) - int(np.count_nonzero(out)))
        dead = {n for name in bypassed for n in self._analysis.block(name).nodes}
        macs = sum(self._size(t, kept) for t in self._work if t.node not in dead)
        macs //= self._analysis.batch
        params, total, counted = 0, 0.0, set()
        for (name, _), term in self._stored.items():
            size = self._size(term, kept)
            if term.node in dead or (name, size) in counted:
                continue
            counted.add((name, size))  # a vector read in equal cuts is stored once
            params += size
            total += size * term.itemsize
        return Cost(macs, params, math.ceil(total))

    def only(self, kind: str) -> StaticCost:
        """One of the totals, for a budget."""
        return StaticCost(self, kind)

    @staticmethod
    def _size(term: _Term, kept: Sequence[int]) -> int:
        return term.fixed * math.prod(kept[k] for k in term.axes)


def cost(
    analysis: Analysis,
    removed: Mapping[str, Sequence[int]] = _NOTHING,
    bypassed: Sequence[str] = (),
) -> Cost:
    """The cost of the analysed model without the given units and blocks.

    Raises:
        OnnxpruneError: an unknown group or block.
    """
    return CostModel(analysis)(removed, bypassed)
