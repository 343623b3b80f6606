"""The exact cost of a model under any removal: multiply-accumulates, parameters, bytes.

Costs are products of axis sizes, so the cost of a cut is the product of the kept sizes; no model is
cut for it. Multiply-accumulates are those of contractions (convolutions, matrix products,
attention, recurrences) at the analysed input shapes, per sample where the batch size is open;
elementwise work is not counted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
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

    def change(self, removed: Mapping[str, Sequence[int]], bypassed: Sequence[str] = ()) -> int:
        """The figure once some groups lose other units, see :meth:`CostModel.change`."""
        return self.model.change(removed, bypassed).of(self.kind)


@dataclass(frozen=True, eq=False)
class _Term:
    """One product of sizes: a constant part and the axes that can shrink."""

    fixed: int
    axes: tuple[int, ...]
    itemsize: float
    node: str


@dataclass(eq=False)
class _State:
    """The totals of the latest removal of units.

    Attributes:
        removed: the units, by group.
        atoms: which are removed.
        kept: the size of every column of the model.
        macs, params, total: of all samples; the last are bytes.
    """

    removed: dict[str, Sequence[int]]
    atoms: npt.NDArray[np.bool_]
    kept: list[int]
    macs: int
    params: int
    total: float


class CostModel:
    """The products of one analysis, compiled once; call it with a removal.

    A removal is priced by the products that differ from those of the latest one.

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
        distinct: dict[tuple[str, tuple[int, ...]], _Term] = {}
        for stored in (*analysis.tensors, *additions):
            if not stored.filled:
                term = self._term(stored.axes, stored.itemsize, stored.nodes[0])
                distinct.setdefault((stored.name, term.axes), term)
        self._stored: dict[str, list[_Term]] = defaultdict(list)
        for (name, _), term in distinct.items():
            self._stored[name].append(term)
        kept = [len(columns[0]) for columns in self._columns]
        storage = [self._storage(terms, kept) for terms in self._stored.values()]
        self._state = _State(
            {},
            np.zeros(len(analysis.walk.space), np.bool_),
            kept,
            sum(self._size(term, kept) for term in self._work),
            sum(params for params, _ in storage),
            math.fsum(total for _, total in storage),
        )

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
        self._state.removed = dict(removed)
        self._flip(np.flatnonzero(atoms != self._state.atoms))
        return self._cost(bypassed)

    def change(self, removed: Mapping[str, Sequence[int]], bypassed: Sequence[str] = ()) -> Cost:
        """The cost once some groups lose other units than in the latest call.

        All other groups lose what they lost there. It takes time in proportion to the products
        that change, whatever the size of the model.

        Args:
            removed: all units that these groups now lose; none where a group is whole again.
            bypassed: blocks that are bypassed, all of them.
        """
        state, different = self._state, []
        for name, units in removed.items():
            atoms = self._analysis.group(name).atoms
            before, after = (np.zeros(len(atoms), np.bool_) for _ in range(2))
            before[np.asarray(state.removed.get(name, ()), np.int64)] = True
            after[np.asarray(units, np.int64)] = True
            different.append(atoms[before != after])
            state.removed[name] = units
        self._flip(np.concatenate(different) if different else np.zeros(0, np.int64))
        return self._cost(bypassed)

    def _cost(self, bypassed: Sequence[str]) -> Cost:
        """The cost of the current state, without some blocks."""
        state = self._state
        macs, params, total = state.macs, state.params, state.total
        dead = frozenset(n for name in bypassed for n in self._analysis.block(name).nodes)
        work, stored = self._users(dead)
        macs -= sum(self._size(term, state.kept) for term in work if term.node in dead)
        for terms in stored:
            had, has = (self._storage(terms, state.kept, nodes) for nodes in ((), dead))
            params += has[0] - had[0]
            total += has[1] - had[1]
        return Cost(macs // self._analysis.batch, params, math.ceil(total))

    def _flip(self, atoms: npt.NDArray[np.int64]) -> None:
        """Remove atoms that are there, and restore those that are not."""
        state = self._state
        state.atoms[atoms] ^= True
        columns = {k for atom in atoms.tolist() for k in self._columns_of.get(atom, ())}
        work, stored = self._users(columns)
        for sign in (-1, 1):
            state.macs += sign * sum(self._size(term, state.kept) for term in work)
            for terms in stored:
                params, total = self._storage(terms, state.kept)
                state.params += sign * params
                state.total += sign * total
            for k in columns if sign < 0 else ():
                out = np.logical_or.reduce([state.atoms[column] for column in self._columns[k]])
                state.kept[k] = len(out) - int(np.count_nonzero(out))

    def _users(self, keys: Iterable[int | str]) -> tuple[list[_Term], list[list[_Term]]]:
        """The products of work of columns or nodes, and those of stored tensors, by tensor."""
        uses = [self._uses[key] for key in keys if key in self._uses]
        work = {number for numbers, _ in uses for number in numbers}
        names = {name for _, stored in uses for name in stored}
        return [self._work[number] for number in work], [self._stored[name] for name in names]

    def _storage(
        self, terms: Sequence[_Term], kept: Sequence[int], dead: Collection[str] = ()
    ) -> tuple[int, float]:
        """Elements and bytes of a stored tensor; read in equal cuts it is stored once."""
        sizes: dict[int, float] = {}
        for term in terms:
            if term.node not in dead:
                sizes.setdefault(self._size(term, kept), term.itemsize)
        return sum(sizes), sum(size * itemsize for size, itemsize in sizes.items())

    def require_counted(self, kind: str) -> None:
        """Refuse a budget on what this model does not tell.

        Raises:
            OnnxpruneError: it is on multiply-accumulates, and sizes of contractions depend on data.
        """
        if kind != "macs":
            return
        unknown = next((term.node for term in self._work if not term.fixed), "")
        if unknown:
            raise OnnxpruneError(
                f"macs cannot be counted: a size at '{unknown}' depends on data",
                hint="limit another cost, as in --target params=50%, or use --ratio",
            )

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
