"""The node check: every node of a cut graph, given what the masked original computes up to it.

Outputs can hide a wrong cut (all of them zero, or a Sigmoid at its end), and can differ although
the cut is right (a code that rounds the other way, a step of a Sigmoid near zero). So the edges of
the cut graph are severed: each node reads the kept part of what the masked original has there, and
has to compute the kept part of what that has next. If every node does, the graphs are equal by
induction, and no rounding is carried on. What a node's own rounding amounts to is measured, by
running it once more on inputs that are off by half a unit in the last place.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.equivalence import (
    NOISE,
    TOLERANCE,
    Feeds,
    compare_outputs,
    epsilon,
    is_float,
    noisy,
    tolerance,
)
from onnxprune.graph.analysis import Analysis, identity
from onnxprune.graph.facts import Fact
from onnxprune.runtime import open_session
from onnxprune.types import Check

Array = npt.NDArray[Any]
Keeps = Mapping[int, npt.NDArray[np.bool_]]
"""Axis of a value -> which of its indices are kept."""

_AGAIN = "/again"
_MOST_BYTES = 32 << 20
"""Bytes of values that are compared at a time; about five times as much is held."""
_BLOCK = 1 << 18
"""Numbers that are compared at a time, in float64."""
_CHEAP = 16 << 20
"""Bytes of all values of a model below which its nodes are compared in any case."""
_DRAWN = {
    *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"),
    "RandomUniformLike",
}
_FLIPS = 0.01
"""Fraction of a slice of 8-bit codes that may be off by one: ties that rounding decides."""
_TAPPED = {
    *(ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE),
    *(ir.DataType.INT8, ir.DataType.UINT8),
}


@dataclass(frozen=True, eq=False)
class Fault:
    """The first node that computes something else than the masked original.

    Attributes:
        node: its first output.
        op: its operator.
        piece: a model of this node alone, its inputs stored: its outputs are what it computes and
            (``.../expected``) what the masked original has there.
    """

    node: str
    op: str
    piece: models.Model


@dataclass(frozen=True, eq=False)
class NodeCheck:
    """The result of :func:`check_nodes`.

    Attributes:
        compared: how many values were compared.
        value: the largest difference of a slice of one, as a multiple of what may be rounding.
        fault: where that is more than 1 first; None if nowhere.
    """

    compared: int
    value: float
    fault: Fault | None


def check_cut(
    analysis: Analysis,
    removed: Mapping[str, Sequence[int]],
    cut: models.Model,
    masked: models.Model,
    batches: Iterable[Feeds],
    provider: str = "cpu",
) -> tuple[Check, str]:
    """Check a cut by its outputs, and node by node where these tell too little, or at little cost.

    Args:
        analysis: of the model that was cut.
        removed: group name -> units that left; all of them exact.
        cut: the pruned model.
        masked: the masked original.
        batches: feeds to check on.
        provider: the execution provider both run on.

    Returns:
        The check, and a sentence for whoever reads it, empty where it speaks for itself. A node
        that computes something else is saved as a model of its own in the folder for temporary
        files; the sentence names both.

    Raises:
        OnnxpruneError: a model does not run, or there are no inputs to run it on.
    """
    feeds = list(batches)
    whole, reacts = compare_outputs(cut, masked, feeds, provider)
    settled = whole.ok and whole.limit <= max(TOLERANCE.values())
    cheap = provider == "cpu" and _bytes(analysis, feeds, analysis.facts) <= _CHEAP
    if settled and reacts and not cheap:
        return whole, ""
    try:
        result = check_nodes(analysis, removed, cut, masked, feeds, provider)
    except OnnxpruneError:  # not every graph runs in pieces; then the outputs decide
        return whole, ""
    if result.fault is None:
        if settled:
            return whole, ""
        check = Check("pruned = masked (node by node)", ok=True, value=result.value, limit=1.0)
        return check, "" if whole.ok else (
            "the outputs differ by more than rounding of one operator, but every node computes "
            "what it does in the masked original: rounding grows on the way"
        )
    fault = result.fault
    check = Check(f"pruned = masked ({fault.node})", ok=False, value=result.value, limit=1.0)
    with tempfile.NamedTemporaryFile(
        prefix="onnxprune-", suffix=".failed.onnx", delete=False
    ) as file:
        path = models.save(fault.piece, file.name)
    return check, (
        f"the {fault.op} node '{fault.node}' is the first that differs from the masked original; "
        f"it is saved with its inputs as {path}, to be reported"
    )


def check_nodes(
    analysis: Analysis,
    removed: Mapping[str, Sequence[int]],
    cut: models.Model,
    masked: models.Model,
    batches: Iterable[Feeds],
    provider: str = "cpu",
) -> NodeCheck:
    """Compare a cut model with its masked original, node by node.

    Args:
        analysis: of the model that was cut.
        removed: group name -> units that left; all of them exact.
        cut: the pruned model.
        masked: the masked original.
        batches: feeds to check on.
        provider: the execution provider both run on.

    Raises:
        OnnxpruneError: a model does not run, or its values cannot be fed.
    """
    feeds = list(batches)
    edges = _edges(analysis, removed, cut, masked)
    compared, worst = 0, 0.0
    for names in _chunks(analysis, feeds, _compared(cut, edges)):
        severed = _severed(cut, edges, names)
        for values in _runs(severed, masked, edges, names, feeds, provider):
            again, wanted, rough = values.compared
            for name in names:
                compared += 1
                excess = _excess(again[name], wanted[name], rough[name])
                worst = max(worst, excess)
                if excess > 1:
                    piece = _piece(cut, edges, name, values)
                    node = next(n for n in cut.ir.graph if name in [v.name for v in n.outputs])
                    return NodeCheck(compared, excess, Fault(identity(node), node.op_type, piece))
    return NodeCheck(compared, worst, None)


def _edges(
    analysis: Analysis,
    removed: Mapping[str, Sequence[int]],
    cut: models.Model,
    masked: models.Model,
) -> dict[str, Keeps]:
    """The values to sever by name, in graph order, and what they lose.

    Integers stay connected: sizes follow the cut, and positions follow from what is severed.
    """
    keep = analysis.keep(removed)
    walk = analysis.walk
    theirs = {v.name for node in masked.ir.graph for v in node.outputs}
    edges: dict[str, Keeps] = {}
    for node in cut.ir.graph:
        for value in node.outputs:
            name = value.name or ""
            fact, axes = analysis.facts.get(name), walk.axes.get(name)
            if fact is None or axes is None or fact.shape is None or fact.dtype not in _TAPPED:
                continue
            if name not in theirs or name in walk.static or fact.value is not None:
                continue
            masks = {k: keep(axis) for k, axis in enumerate(axes) if axis.columns}
            lost = {k: mask for k, mask in masks.items() if not mask.all()}
            other = walk.second().get(name)
            if not lost or (other is not None and _same_sizes(fact, other, lost)):
                edges[name] = lost
    return edges


def _same_sizes(first: Fact, second: Fact, axes: Iterable[int]) -> bool:
    """Whether these axes have the same sizes for other inputs: masks are of one length."""
    a, b = first.shape, second.shape
    return a is not None and b is not None and all(a[k] == b[k] for k in axes)


def _compared(cut: models.Model, edges: Mapping[str, Keeps]) -> list[str]:
    """What is severed, and the outputs that hold integers; nothing that is drawn at random."""
    outputs = {v.name for v in cut.ir.graph.outputs if isinstance(v.type, ir.TensorType)}
    return [
        value.name or ""
        for node in cut.ir.graph
        for value in node.outputs
        if (value.name in edges or value.name in outputs) and node.op_type not in _DRAWN
    ]


def _chunks(
    analysis: Analysis, feeds: Sequence[Feeds], names: Iterable[str]
) -> Iterator[list[str]]:
    """Names in graph order, as many at a time as memory allows."""
    chunk: list[str] = []
    held = 0.0
    for name in names:
        size = _bytes(analysis, feeds, [name])
        if chunk and held + size > _MOST_BYTES:
            yield chunk
            chunk, held = [], 0.0
        chunk.append(name)
        held += size
    if chunk:
        yield chunk


def _bytes(analysis: Analysis, feeds: Sequence[Feeds], names: Iterable[str]) -> float:
    """About how many bytes some values take, for the largest of the feeds."""
    fed = max(sum(np.size(array) for array in each.values()) for each in feeds)
    probed = sum(math.prod(shape) for shape in analysis.inputs[0].values())
    shapes = (analysis.facts[name].shape or () for name in names if name not in analysis.constants)
    return fed / max(probed, 1) * 4.0 * sum(math.prod(n or 1 for n in shape) for shape in shapes)


def _severed(cut: models.Model, edges: Iterable[str], names: Sequence[str]) -> models.Model:
    """The nodes that compute ``names``, each reading inputs instead of what others compute."""
    copy = models.clone(cut)
    graph = copy.ir.graph
    outputs = {v.name or "": v for node in graph for v in node.outputs}
    graph.outputs.clear()
    handed = []
    for name in edges:
        value = outputs[name]
        value.name = name + _AGAIN
        value.shape = None
        given = ir.Value(name=name, type=value.type)
        for reader, position in list(value.uses()):
            reader.replace_input_with(position, given)
        handed.append(given)
    graph.outputs.extend([outputs[name] for name in names])
    common.RemoveUnusedNodesPass()(copy.ir)
    graph.inputs.extend([value for value in handed if value.uses()])
    return copy


@dataclass(frozen=True, eq=False)
class _Values:
    """Values of one batch: computed by severed nodes, expected, and computed with noise."""

    compared: tuple[Mapping[str, Array], Mapping[str, Array], Mapping[str, Array]]
    given: Mapping[str, Array]


def _runs(
    severed: models.Model,
    masked: models.Model,
    edges: Mapping[str, Keeps],
    names: Sequence[str],
    feeds: Sequence[Feeds],
    provider: str,
) -> Iterator[_Values]:
    """Every batch through the masked original, then through the severed nodes."""
    inner = [v.name or "" for v in severed.ir.graph.inputs if v.name in edges]
    taps = list(dict.fromkeys([*names, *inner]))
    whole = open_session(masked, provider=provider, prepack=False, outputs=taps, arena=False)
    session = None
    labels = {name: name + _AGAIN if name in edges else name for name in names}
    for each in feeds:
        values = {
            name: _kept(array, edges.get(name, {})) for name, array in whole.run(each, taps).items()
        }
        if session is None:
            for value in severed.ir.graph.inputs:
                if value.name in values:
                    dtype = ir.DataType.from_numpy(values[value.name].dtype)
                    value.type = ir.TensorType(dtype)
            session = open_session(severed, provider=provider, prepack=False, arena=False)
        outer = {s.name: each[s.name] for s in session.inputs if s.name in each}
        given = outer | {name: values[name] for name in inner}
        results = [
            {name: run[label] for name, label in labels.items()}
            for run in (session.run(fed) for fed in (given, noisy(given)))
        ]
        yield _Values((results[0], {n: values[n] for n in names}, results[1]), given)


def _kept(array: Array, keeps: Keeps) -> Array:
    for axis, mask in keeps.items():
        array = np.compress(mask, array, axis)
    return np.asarray(array, order="C")


def _excess(again: Array, wanted: Array, noise: Array) -> float:
    """The largest difference of a slice along the channels, as a multiple of its limit."""
    if again.shape != wanted.shape:
        return float("inf")
    if not wanted.size:
        return 0.0
    if wanted.dtype not in (np.int8, np.uint8) and not is_float(wanted):
        return 0.0 if np.array_equal(again, wanted) else float("inf")
    if not is_float(wanted):
        return max(_flips(again, wanted, axis) for axis in _sliced(wanted))
    axes, blocks = _sliced(wanted), list(_blocks(wanted.shape))
    sums = {axis: np.zeros((3, 1 if axis is None else wanted.shape[axis])) for axis in axes}
    for block in blocks:
        parts = _differences(again[block], wanted[block], noise[block])
        if parts is None:
            return float("inf")
        for axis, total in sums.items():
            mine = slice(None) if axis is None else block[axis]
            total[:, mine] += [np.square(_norms(part, axis)) for part in parts]
    worst = 0.0
    for total in sums.values():
        difference, size, own = np.sqrt(total)
        typical = [float(np.sqrt(np.mean(np.square(a)))) for a in (size, own)]
        limit = tolerance(wanted) * size + NOISE * (own + typical[1])
        limit += NOISE * epsilon(wanted) * typical[0] + np.finfo(np.float32).tiny
        worst = max(worst, float(np.max(difference / limit)))
    return worst


def _differences(again: Array, wanted: Array, noise: Array) -> tuple[Array, Array, Array] | None:
    """The gap, what is wanted, and the rounding; None where values are not finite in one alone."""
    x, y, z = (a.astype(np.float64) for a in (again, wanted, noise))
    finite = np.isfinite(y)
    same = np.array_equal(x[~finite], y[~finite], equal_nan=True)
    if not same or not np.isfinite(x[finite]).all():
        return None
    y = np.where(finite, y, 0)
    gap = np.where(finite, x, 0) - y
    known = finite & np.isfinite(z)
    return gap, y, np.where(known, z, 0) - np.where(known, x, 0)


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Parts of an array along its longest axis, so that copies of one need little memory."""
    longest = max(range(len(shape)), key=lambda axis: shape[axis], default=0)
    every = [slice(None)] * len(shape)
    if not shape:
        yield ()
        return
    rows = max(_BLOCK * shape[longest] // max(math.prod(shape), 1), 1)
    for start in range(0, shape[longest], rows):
        block = slice(start, start + rows)
        yield (*every[:longest], block, *every[longest + 1 :])


def _flips(again: Array, wanted: Array, axis: int | None) -> float:
    """The same of codes: those that differ, as a multiple of how many may, by one."""
    gap = np.abs(again.astype(np.int64) - wanted.astype(np.int64))
    if gap.max() > 1:
        return float("inf")
    count = np.square(_norms(gap, axis))
    return float(count.max() / max(1.0, _FLIPS * gap.size / count.size))


def _sliced(array: Array) -> tuple[int | None, ...]:
    """The axes that hold channels: the second and the last; none of a vector."""
    return tuple({1, array.ndim - 1}) if array.ndim > 1 else (None,)


def _norms(array: Array, axis: int | None) -> npt.NDArray[np.float64]:
    """Per index along ``axis``; one of all without it."""
    others = None if axis is None else tuple(k for k in range(array.ndim) if k != axis)
    return np.atleast_1d(np.sqrt(np.sum(np.square(array.astype(np.float64)), axis=others)))


def _piece(
    cut: models.Model, edges: Mapping[str, Keeps], name: str, values: _Values
) -> models.Model:
    """One node with its inputs stored, and the value that was expected of it."""
    piece = _severed(cut, edges, [name])
    graph = piece.ir.graph
    for value in [v for v in graph.inputs if v.name in values.given]:
        graph.inputs.remove(value)
        label = value.name or ""
        value.name = f"{label}/input"
        stored = models.add_constant(graph, label, np.asarray(values.given[label]))
        for reader, position in list(value.uses()):
            reader.replace_input_with(position, stored)
    expected = np.asarray(values.compared[1][name])
    stored = models.add_constant(graph, f"{name}/stored", expected)
    same = ir.Node("", "Identity", [stored])
    same.outputs[0].name = f"{name}/expected"
    same.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(expected.dtype))
    graph.append(same)
    graph.outputs.append(same.outputs[0])
    return piece
