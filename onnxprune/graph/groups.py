"""From labelled axes to units and groups: what leaves together, and its cost."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.axes import Axis, Column
from onnxprune.graph.notation import SPATIAL, Tensor
from onnxprune.graph.ops.call import (
    CHANNEL,
    EXPERT,
    FFN,
    HEAD,
    HEAD_DIM,
    HIDDEN,
    INPUT,
    OUTPUT,
    VOCABULARY,
)
from onnxprune.graph.units import Group, Pinned, Role, Slice
from onnxprune.graph.walk import KEPT_WHOLE, Walk, identity


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor that pruning cuts, as some node reads it.

    An initializer, a Constant, or a ConstantOfShape filled with one value (``filled``).
    """

    name: str
    axes: Tensor
    nodes: tuple[str, ...]
    itemsize: float
    filled: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod([a.size or 0 for a in self.axes], dtype=np.int64))


def stored_tensors(walk: Walk) -> list[Stored]:
    """Every distinct way in which a weight is read; sizes and positions do not count."""
    readings: dict[tuple[str, int], tuple[ir.Value, Tensor, list[str]]] = {}
    for use in walk.uses:
        key = (use.value.name or "", id(use.axes))
        readings.setdefault(key, (use.value, use.axes, []))[2].append(identity(use.node))
    out = []
    for (name, _), (value, axes, nodes) in readings.items():
        tensor = models.constant(value)
        assert tensor is not None
        if tensor.dtype in KEPT_WHOLE:
            continue
        itemsize = tensor.dtype.itemsize
        out.append(Stored(name, axes, tuple(dict.fromkeys(nodes)), itemsize))
    for node, call in walk.calls:
        value = node.outputs[0]
        fact = walk.facts.get(value.name or "")
        numbers = fact is not None and fact.dtype is not None and fact.dtype.is_floating_point()
        if call.op == "ConstantOfShape" and call.outputs and call.literal[0] and numbers:
            reader = tuple(identity(n) for n, _ in value.uses())
            out.append(Stored(value.name or "", call.outputs[0], reader, 0, filled=True))
    return out


def roles_of_axes(walk: Walk) -> dict[int, list[tuple[Role, str]]]:
    """``id(axis) -> [(role, node)]`` for every axis with a role in an operator.

    Moving operators hand the same axis objects on, so a weight's axis is found behind Transpose,
    Cast or DequantizeLinear too.
    """
    roles: dict[int, list[tuple[Role, str]]] = defaultdict(list)
    for _, call in walk.calls:
        for (i, k), role in call.roles.items():
            tensor = call.inputs[i] if i < len(call.inputs) and call.static[i] else None
            if tensor is not None and k < len(tensor):
                roles[id(tensor[k])].append((role, call.name))
    return roles


@dataclass(frozen=True, eq=False)
class _Slot:
    """One column of one axis of one stored tensor in one role."""

    tensor: Stored
    axis: int
    column: Column
    role: Role
    nodes: tuple[str, ...]


def _slots(walk: Walk, tensors: Iterable[Stored]) -> list[_Slot]:
    roles = roles_of_axes(walk)
    out, seen = [], set()
    for stored in tensors:
        for k, axis in enumerate(stored.axes):
            known = roles.get(id(axis)) or [("scales", n) for n in stored.nodes]
            by_role: dict[Role, list[str]] = defaultdict(list)
            for role, node in known:
                by_role[role].append(node)
            for column in walk.space.columns(axis):
                for role, nodes in by_role.items():
                    key = (stored.name, k, role, column.tobytes())
                    if key not in seen:
                        seen.add(key)
                        out.append(_Slot(stored, k, column, role, tuple(dict.fromkeys(nodes))))
    return out


def _occurrences(walk: Walk, columns: Sequence[Column]) -> dict[bytes, list[int]]:
    """Atoms by signature: in which columns they stand, how often."""
    atoms, slot, count = [], [], []
    for k, column in enumerate(columns):
        free = walk.space.labels(column)
        a, n = np.unique(free[free > 0], return_counts=True)
        atoms.append(a)
        slot.append(np.full(len(a), k))
        count.append(n)
    if not atoms:
        return {}
    a, s, n = np.concatenate(atoms), np.concatenate(slot), np.concatenate(count)
    order = np.lexsort((s, a))
    a, pairs = a[order], np.stack([s[order], n[order]], axis=1)
    starts = np.flatnonzero(np.r_[True, a[1:] != a[:-1]]) if len(a) else np.zeros(0, np.int64)
    by: dict[bytes, list[int]] = defaultdict(list)
    for begin, end in zip(starts, [*starts[1:], len(a)], strict=True):
        by[pairs[begin:end].tobytes()].append(int(a[begin]))
    return by


def atom_totals(
    walk: Walk, terms: Iterable[tuple[float, Sequence[Axis]]]
) -> npt.NDArray[np.float64]:
    """Per atom: how much of each product of sizes leaves with it, to first order."""
    total = np.zeros(len(walk.space))
    for weight, axes in terms:
        volume = weight * float(np.prod([float(a.size or 0) for a in axes]))
        for axis in axes:
            for column in walk.space.columns(axis):
                np.add.at(total, column, volume / len(column))
    return total


def make_groups(walk: Walk, tensors: Sequence[Stored], batch: int) -> tuple[Group, ...]:
    """All groups, in graph order, with readable unique names."""
    slots = _slots(walk, tensors)
    once = {(t.name, tuple(c.tobytes() for a in t.axes for c in a.columns)): t for t in tensors}
    params = atom_totals(walk, [(1.0, t.axes) for t in once.values()])
    size = atom_totals(walk, [(t.itemsize, t.axes) for t in once.values()])
    macs = atom_totals(walk, [(1.0, axes) for _, call in walk.calls for axes in call.work])
    groups: list[Group] = []
    taken: set[str] = set()
    reached = _interface_columns(walk)
    normalised, lengths = _operators_over(walk, _SOFTMAXES), _operators_over(walk, _LENGTHS)
    columns = [s.column for s in slots] + [column for _, column in reached]
    for signature, members in _occurrences(walk, columns).items():
        places = np.frombuffer(signature, np.int64)[::2]
        used = [slots[k] for k in places if k < len(slots)]
        if not used:  # nothing stored leaves with it
            continue
        names = dict.fromkeys(reached[k - len(slots)][0] for k in places if k >= len(slots))
        reason = next((r for r in map(walk.space.why_inexact, members) if r), "")
        slices, atoms = _slices(used, np.asarray(members, np.int64))
        kind = _kind(walk.space.tags(members[0]), reason, slices)
        if kind in _PLAIN:
            embeds = int(atoms[0]) in lengths or any(map(_EMBEDDING.search, names))
            kind = _interface_kind(walk.space.tags(members[0]), kind, slices, embeds=embeds)
        name = _name(used, kind, taken)
        groups.append(
            Group(
                name=name,
                kind=kind,
                exact=not reason,
                reason=reason,
                atoms=atoms,
                slices=slices,
                params=round(params[atoms[0]]),
                macs=round(macs[atoms[0]] / batch),
                bytes=round(size[atoms[0]]),
                interface=tuple(names),
                renormalised=normalised.get(int(atoms[0]), ""),
            )
        )
    return tuple(groups)


def _slices(
    slots: Sequence[_Slot], atoms: npt.NDArray[np.int64]
) -> tuple[tuple[Slice, ...], npt.NDArray[np.int64]]:
    """Rows per unit in every slot; units in the order of their first row."""
    first = slots[0].column
    where = np.flatnonzero(np.isin(first, atoms))
    _, at = np.unique(first[where], return_index=True)
    atoms = first[where][np.sort(at)]
    rank = np.argsort(atoms)
    merged: dict[tuple[str, int, Role], tuple[list[npt.NDArray[np.int64]], list[str]]] = {}
    for slot in slots:
        at = np.flatnonzero(np.isin(slot.column, atoms))
        unit = rank[np.searchsorted(atoms, slot.column[at], sorter=rank)]
        rows = at[np.argsort(unit, kind="stable")].reshape(len(atoms), -1)
        parts, nodes = merged.setdefault((slot.tensor.name, slot.axis, slot.role), ([], []))
        if not any(np.array_equal(rows, p) for p in parts):
            parts.append(rows)
        nodes.extend(slot.nodes)
    slices = [
        Slice(tensor, axis, rows.astype(np.int64), role, tuple(dict.fromkeys(nodes)))
        for (tensor, axis, role), (parts, nodes) in merged.items()
        for rows in parts
    ]
    return tuple(slices), atoms


def _kind(tags: int, inexact: str, slices: Sequence[Slice]) -> str:
    """The kind of a unit, by the operators around it."""
    written = {s.rows.shape[1] for s in slices if s.role == "writes"} - {1}  # 1: a table's columns
    if tags & HEAD:
        uneven = len(written) > 1 and all(n % min(written) == 0 for n in written)
        return "kv-group" if uneven else "head"
    if tags & HEAD_DIM:
        return "head-dim"
    if inexact:
        return "width"
    kinds = {HIDDEN: "hidden-unit", EXPERT: "expert", CHANNEL: "channel", FFN: "ffn"}
    return next((kind for bit, kind in kinds.items() if tags & bit), "channel")


_PLAIN = ("channel", "ffn", "width")


_SOFTMAXES = ("Softmax", "LogSoftmax", "Hardmax", "ReduceMax")
"""Operators that make scores relative to one another; a Softmax written out has a ReduceMax."""
_LENGTHS = ("ReduceL2", "ReduceSumSquare", "LpNormalization")
"""Operators that take the length of a vector, as behind embeddings that are compared by angles."""
_EMBEDDING = re.compile(r"embed|feature|hidden|pool|latent|vector", re.IGNORECASE)


def _interface_kind(tags: int, kind: str, slices: Sequence[Slice], *, embeds: bool) -> str:
    """The kind of a unit that reaches the interface; as it was for others.

    An output that no weight reads has classes, one that some do is also a stream of features. What
    is brought to length one, or called an embedding, is one.
    """
    if tags & VOCABULARY:
        return "vocabulary"
    read = any(s.role == "reads" for s in slices)
    if tags & OUTPUT:
        return "embedding-dim" if read or embeds or tags & INPUT else "class"
    return "input-feature" if tags & INPUT else kind


def _interface_columns(walk: Walk) -> list[tuple[str, Column]]:
    """Columns of the graph inputs and outputs that may lose indices, with their names."""
    if not walk.opened or walk.main is None:
        return []
    out: list[tuple[str, Column]] = []
    for value in (*walk.main.inputs, *walk.main.outputs):
        name = value.name or ""
        if models.constant(value) is None:
            domain = walk.domains.get(walk.ids.get(name, ""))
            axes = (*walk.axes.get(name, ()), *([] if domain is None else [domain]))
            out += [(name, column) for axis in axes for column in walk.space.columns(axis)]
    return out


def _operators_over(walk: Walk, operators: Sequence[str]) -> dict[int, str]:
    """Atoms that one of some operators compares or adds up: its name; none unless opened."""
    out: dict[int, str] = {}
    for _, call in walk.calls:
        for contraction in call.contractions if walk.opened else ():
            if call.op in operators:
                i, k = contraction.slots[0]
                for column in walk.space.columns(call.tensor(i)[k]):
                    out |= dict.fromkeys(map(int, np.unique(column)), call.op)
    return out


_MACHINE_MADE = re.compile(r"^(onnx::.*|val_\d+|\d+|_v_\d+|.*MatMul_\d+|.*_quantized_\d+)$")


def _name(slots: Sequence[_Slot], kind: str, taken: set[str]) -> str:
    """The producer's name, then the kind; the node's name where the tensor's says nothing."""
    writer = next((s for s in slots if s.role == "writes"), slots[0])
    base = writer.tensor.name
    if _MACHINE_MADE.match(base) and writer.nodes:
        base = writer.nodes[0]
    for ending in (".weight", "_weight", "/kernel", "_output_0", ".bias"):
        base = base.removesuffix(ending)
    name, n = f"{base.strip('/')}:{kind}", 1
    while name in taken:
        n += 1
        name = f"{base.strip('/')}:{kind}#{n}"
    taken.add(name)
    return name


def pinned_axes(walk: Walk, tensors: Iterable[Stored]) -> tuple[Pinned, ...]:
    """Axes of weights that lose nothing, and why."""
    out = []
    for stored in tensors:
        for k, axis in enumerate(stored.axes):
            if axis.columns and (axis.size or 0) > 1 and not walk.space.columns(axis):
                why = walk.space.why_pinned(axis)
                if why != SPATIAL:
                    out.append(Pinned(stored.name, k, axis.size or 0, why))
    return tuple(dict.fromkeys(out))
