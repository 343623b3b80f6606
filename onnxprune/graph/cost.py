"""The exact cost of a model under any removal: multiply-accumulates, parameters, bytes.

Costs are products of axis sizes, so the cost of a cut is the product of the kept sizes; no model is
cut for it. Multiply-accumulates are those of contractions (convolutions, matrix products,
attention, recurrences) at the analysed input shapes, per sample where the batch size is open;
elementwise work is not counted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Protocol

import numpy as np

from onnxprune.graph.analysis import Analysis
from onnxprune.graph.axes import Axis, Column

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

    A removal is priced by the products that it changes, so pricing every group of a model once
    takes time that is linear in the model.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._columns: list[list[Column]] = []
        self._index: dict[bytes, int] = {}
        calls = analysis.walk.calls
        self._work = [self._term(axes, 0.0, call.name) for _, call in calls for axes in call.work]
        distinct: dict[tuple[str, tuple[int, ...]], _Term] = {}
        for stored in analysis.tensors:
            if not stored.filled:
                term = self._term(stored.axes, stored.itemsize, stored.nodes[0])
                distinct.setdefault((stored.name, term.axes), term)
        self._stored: dict[str, list[_Term]] = defaultdict(list)
        for (name, _), term in distinct.items():
            self._stored[name].append(term)
        self._kept = [len(columns[0]) for columns in self._columns]
        self._sizes = [self._size(term, self._kept) for term in self._work]
        nowhere: frozenset[str] = frozenset()
        self._bytes = {
            name: self._storage(terms, self._kept, nowhere) for name, terms in self._stored.items()
        }
        self._macs = sum(self._sizes)
        self._params = sum(params for params, _ in self._bytes.values())
        self._total = math.fsum(total for _, total in self._bytes.values())

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

    @cached_property
    def _columns_of(self) -> Mapping[int, Sequence[int]]:
        """The columns that lose an index with an atom."""
        result: dict[int, list[int]] = defaultdict(list)
        for k, columns in enumerate(self._columns):
            for atom in np.unique(np.concatenate(columns)).tolist():
                result[atom].append(k)
        return result

    @cached_property
    def _uses(self) -> Mapping[int | str, tuple[Sequence[int], Sequence[str]]]:
        """By a column, or by a node: its products of work, and its stored tensors."""
        result: dict[int | str, tuple[list[int], list[str]]] = defaultdict(lambda: ([], []))
        keys: set[int | str]
        for number, term in enumerate(self._work):
            keys = {*term.axes, term.node}
            for key in keys:
                result[key][0].append(number)
        for name, terms in self._stored.items():
            keys = set()
            for term in terms:
                keys |= {*term.axes, term.node}
            for key in keys:
                result[key][1].append(name)
        return result

    def __call__(
        self, removed: Mapping[str, Sequence[int]] = _NOTHING, bypassed: Sequence[str] = ()
    ) -> Cost:
        """The cost of the model without ``removed`` units and ``bypassed`` blocks."""
        atoms = self._analysis.removed_atoms(removed)
        changed: set[int | str] = {
            k for atom in np.flatnonzero(atoms).tolist() for k in self._columns_of.get(atom, ())
        }
        kept = self._kept
        if changed:
            kept = list(kept)
            for k in changed:
                out = np.logical_or.reduce([atoms[column] for column in self._columns[int(k)]])
                kept[int(k)] = len(out) - int(np.count_nonzero(out))
        dead = frozenset(n for name in bypassed for n in self._analysis.block(name).nodes)
        uses = [self._uses[key] for key in (*changed, *dead) if key in self._uses]
        macs, params, total = self._macs, self._params, self._total
        for number in {n for work, _ in uses for n in work}:
            term = self._work[number]
            macs -= self._sizes[number]
            macs += 0 if term.node in dead else self._size(term, kept)
        for name in {name for _, stored in uses for name in stored}:
            fewer, less = self._bytes[name]
            more, bigger = self._storage(self._stored[name], kept, dead)
            params += more - fewer
            total += bigger - less
        return Cost(macs // self._analysis.batch, params, math.ceil(total))

    def _storage(
        self, terms: Sequence[_Term], kept: Sequence[int], dead: Collection[str]
    ) -> tuple[int, float]:
        """Elements and bytes of a stored tensor; read in equal cuts it is stored once."""
        sizes: dict[int, float] = {}
        for term in terms:
            if term.node not in dead:
                sizes.setdefault(self._size(term, kept), term.itemsize)
        return sum(sizes), sum(size * itemsize for size, itemsize in sizes.items())

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
