"""What an interface that may change can lose: vocabularies, classes, features.

All functions take an analysis with ``interface=True``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError, suggest
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.axes import Axis, Column
from onnxprune.graph.interface import AxisMap, Interface
from onnxprune.graph.units import Group


@dataclass(frozen=True)
class Vocabulary:
    """Ids that graph inputs hold and tables have a row for.

    Attributes:
        group: the group whose units they are.
        size: number of ids.
        inputs: the graph inputs that hold them.
        outputs: the graph outputs that hold them, or have an axis of them: scores of a language
            model, whose table is that of the inputs, or has as many rows.
        params: elements that leave with one id.
    """

    group: str
    size: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: int


def vocabularies(analysis: Analysis) -> tuple[Vocabulary, ...]:
    """The vocabularies of a model, that with the most parameters first.

    Example:
        >>> from onnxprune.data import zoo
        >>> from onnxprune.graph.analysis import analyse
        >>> vocabularies(analyse(zoo.get("digits_mlp").model, interface=True))
        ()
    """
    out = []
    graph = analysis.model.ir.graph
    inputs = {value.name or "" for value in graph.inputs}
    for group in analysis.groups:
        holders = [n for n in group.interface if n in inputs and _domain(analysis, n) is not None]
        if group.kind == "vocabulary" and holders:
            size = _domain(analysis, holders[0])
            assert size is not None
            count = size.size or 0
            outputs = [name for name in group.interface if name not in inputs]
            outputs += [v for v, _ in _untied(analysis, count) if v not in outputs]
            out.append(Vocabulary(group.name, count, tuple(holders), tuple(outputs), group.params))
    return tuple(sorted(out, key=lambda v: -v.size * v.params))


_FEW = 64
"""Ids below which an output of as many scores may be something else."""


def _untied(analysis: Analysis, size: int) -> list[tuple[str, int]]:
    """Outputs, and their axes, that have as many scores as there are ids."""
    out = []
    for value in analysis.model.ir.graph.outputs if size >= _FEW else ():
        tensor = analysis.walk.axes.get(value.name or "", ())
        if len(tensor) > 1 and tensor[-1].size == size and analysis.walk.space.columns(tensor[-1]):
            out.append((value.name or "", len(tensor) - 1))
    return out


def vocabulary_units(
    analysis: Analysis, vocabulary: Vocabulary, ids: Iterable[int]
) -> dict[str, tuple[int, ...]]:
    """The units that have to leave so that a vocabulary loses ids, from scores for them too.

    Args:
        analysis: with an interface that may change.
        vocabulary: one of `vocabularies`.
        ids: those that leave.

    Raises:
        OnnxpruneError: as `units_at`.
    """
    leaving = list(ids)
    removed = units_at(analysis, vocabulary.inputs[0], None, leaving)
    for name, axis in _untied(analysis, vocabulary.size):
        if name in vocabulary.outputs:
            removed = units_at(analysis, name, axis, leaving) | removed
    return removed


def _domain(analysis: Analysis, name: str) -> Axis | None:
    """The axis that the elements of a value are indices of; None where they are no ids."""
    walk = analysis.walk
    return walk.domains.get(walk.ids.get(name, ""))


def units_at(
    analysis: Analysis, value: str, axis: int | None, indices: Iterable[int]
) -> dict[str, tuple[int, ...]]:
    """The units that have to leave so that an axis of a graph input or output loses indices.

    Args:
        analysis: with an interface that may change.
        value: name of the graph input or output.
        axis: which; None for the ids that it holds.
        indices: those that leave.

    Returns:
        Units by group, as `cut` takes them.

    Raises:
        OnnxpruneError: there is no such axis, it cannot lose these indices, or not these alone.

    Example:
        >>> from onnxprune.data import zoo
        >>> from onnxprune.graph.analysis import analyse
        >>> analysis = analyse(zoo.get("digits_mlp").model, interface=True)
        >>> units_at(analysis, "logits", 1, [3, 7])
        {'body.9:class': (3, 7)}
    """
    target, what = _axis(analysis, value, axis)
    leaving = np.unique(np.asarray(list(indices), np.int64))
    size = target.size or 0
    outside = leaving[(leaving < 0) | (leaving >= size)]
    if outside.size:
        raise OnnxpruneError(
            f"{what} has no index {outside[0]}", hint=f"its indices are 0 to {size - 1}"
        )
    if not leaving.size:
        return {}
    if len(leaving) == size:
        raise OnnxpruneError(f"{what} would keep nothing", hint="keep at least one index")
    columns = analysis.walk.space.columns(target)
    if not columns:
        why = analysis.walk.space.why_pinned(target)
        raise OnnxpruneError(
            f"{what} cannot lose indices: {why or 'nothing stored gives them'}",
            hint="`onnxprune inspect --interface` lists what can be removed",
        )
    return _units(analysis, _atoms(analysis, columns, leaving, size, what), what)


def _axis(analysis: Analysis, value: str, axis: int | None) -> tuple[Axis, str]:
    """An axis of the interface, and what to call it in messages."""
    graph = analysis.model.ir.graph
    names = [v.name or "" for v in (*graph.inputs, *graph.outputs) if models.constant(v) is None]
    if value not in names:
        raise OnnxpruneError(
            f"the model has no input or output '{value}'", hint=suggest(value, names)
        )
    if axis is None:
        domain = _domain(analysis, value)
        if domain is None:
            raise OnnxpruneError(
                f"the elements of '{value}' are not looked up in a stored table",
                hint="`onnxprune inspect --interface` lists the inputs that hold ids",
            )
        return domain, f"the vocabulary of '{value}'"
    tensor = analysis.walk.axes.get(value, ())
    if not -len(tensor) <= axis < len(tensor):
        raise OnnxpruneError(
            f"'{value}' has no axis {axis}", hint=f"it has {len(tensor)} axes, counted from 0"
        )
    return tensor[axis], f"axis {axis % len(tensor)} of '{value}'"


def _atoms(
    analysis: Analysis,
    columns: Sequence[Column],
    leaving: Column,
    size: int,
    what: str,
) -> Column:
    """An atom for every leaving index that takes along none but leaving ones."""
    space = analysis.walk.space
    gone = np.zeros(size, np.bool_)
    gone[leaving] = True
    chosen = np.zeros(len(leaving), np.int64)
    for column in columns:
        labels = space.labels(column)
        stays = np.unique(labels[~gone])
        fits = (labels[leaving] > 0) & ~np.isin(labels[leaving], stays)
        chosen = np.where((chosen == 0) & fits, labels[leaving], chosen)
    if (chosen == 0).any():
        index = int(leaving[chosen == 0][0])
        rows = {int(r) for c in columns for r in np.flatnonzero(c == c[index]) if not gone[r]}
        if not rows:
            raise OnnxpruneError(
                f"index {index} of {what} cannot leave: it meets something that stays",
                hint="`onnxprune inspect --interface` lists what can be removed",
            )
        others = ", ".join(map(str, sorted(rows)[:8]))
        raise OnnxpruneError(
            f"index {index} of {what} leaves only together with {others}",
            hint="remove all of them, or none",
        )
    return np.unique(chosen)


def _units(analysis: Analysis, atoms: Column, what: str) -> dict[str, tuple[int, ...]]:
    """Atoms as units of groups."""
    removed: dict[str, tuple[int, ...]] = {}
    found = np.zeros(len(atoms), np.bool_)
    for group in analysis.groups:
        mine = np.isin(group.atoms, atoms)
        if mine.any():
            removed[group.name] = tuple(map(int, np.flatnonzero(mine)))
            found |= np.isin(atoms, group.atoms)
    if not found.all():
        raise OnnxpruneError(
            f"{what} cannot lose these indices: no stored tensor has them",
            hint="`onnxprune inspect --interface` lists what can be removed",
        )
    return removed


def changed_interface(
    analysis: Analysis, removed: Mapping[str, Sequence[int]], unknown: int | None = None
) -> Interface:
    """What a removal changes of the inputs and outputs of a model.

    Args:
        analysis: with an interface that may change; else nothing does.
        removed: group name -> units that leave.
        unknown: the id that removed ids are read as.
    """
    keep = analysis.keep(removed)
    graph = analysis.model.ir.graph
    groups = [analysis.group(name) for name, units in removed.items() if len(units)]

    def maps(values: Sequence[ir.Value]) -> tuple[AxisMap, ...]:
        out = []
        for value in values:
            name = value.name or ""
            if models.constant(value) is not None:
                continue
            axes: list[tuple[int | None, Axis]] = list(enumerate(analysis.walk.axes.get(name, ())))
            domain = _domain(analysis, name)
            for k, axis in [*axes, *([(None, domain)] if domain is not None else [])]:
                stays = keep(axis)
                if not stays.all():
                    group = next((g for g in groups if name in g.interface), None)
                    out.append(
                        AxisMap(
                            name,
                            k,
                            len(stays),
                            tuple(map(int, np.flatnonzero(stays))),
                            "width" if group is None else group.kind,
                            unknown if k is None else None,
                            fill=_fill(value, group),
                        )
                    )
        return tuple(out)

    if not analysis.walk.opened:
        return Interface()
    inputs, outputs = maps(graph.inputs), maps(graph.outputs)
    ids = {(axis.size, axis.kept) for axis in inputs if axis.axis is None}
    outputs = tuple(  # scores of an untied head are of the ids that inputs lose
        replace(a, kind="vocabulary") if (a.size, a.kept) in ids else a for a in outputs
    )
    return Interface(inputs, outputs)


_PROBABILITIES = {"Softmax", "Sigmoid"}
_VIEWS = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Cast", "Concat", "Flatten"}


def _fill(value: ir.Value, group: Group | None) -> Literal["lowest", "zero"]:
    """What stands for a removed index: scores are lowest, probabilities and features zero."""
    if group is None or group.kind not in ("class", "vocabulary"):
        return "zero"
    return "zero" if _views(value, _PROBABILITIES) else "lowest"


def normalised_outputs(analysis: Analysis, group: Group) -> list[str]:
    """The graph outputs whose scores an operator normalises over the units of a group.

    All that have the units, where that cannot be told (a Softmax written out in simpler operators).
    """
    if not group.renormalised:
        return []
    values = {value.name or "": value for value in analysis.model.ir.graph.outputs}
    names = [name for name in group.interface if name in values]
    return [name for name in names if _views(values[name], {group.renormalised})] or names


def _views(value: ir.Value, operators: Collection[str]) -> bool:
    """Whether a value is what one of some operators gives, in another order or shape at most."""
    queue, seen = [value], {value}
    while queue:
        node = queue.pop().producer()
        if node is not None and node.op_type in operators:
            return True
        for each in node.inputs if node is not None and node.op_type in _VIEWS else ():
            if each is not None and each not in seen:
                seen.add(each)
                queue.append(each)
    return False
