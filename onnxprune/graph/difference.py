"""Compare two models of the same names: node by node, and weight by weight.

A cut model that was refitted, made sparse or stored in another form still has the names of the cut;
so it is known what it should be, and every difference has a place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import identity

Array = npt.NDArray[Any]
Kind = Literal["equal", "zeroed", "changed"]

_TENSORS = (ir.AttributeType.TENSOR, ir.AttributeType.TENSORS)
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


@dataclass(frozen=True, eq=False)
class Pairing:
    """The stored tensors of two models, paired by the nodes that read them.

    Attributes:
        problem: the first difference of the graphs; empty where there is none.
        stored: pairs of values, the expected and the actual one.
        added: stored tensors that only the second has, where the first leaves an input out.
    """

    problem: str
    stored: tuple[tuple[ir.Value, ir.Value], ...] = ()
    added: tuple[ir.Value, ...] = ()


@dataclass(frozen=True)
class Change:
    """How one stored tensor differs from the expected one.

    Attributes:
        kind: ``equal``; ``zeroed`` where all that differs is zero now; or ``changed``.
        zeros: number of zeros in it.
        zeros_before: the same of the expected one.
        largest: largest difference relative to the largest expected entry; infinite where an entry
            is not finite.
    """

    kind: Kind
    zeros: int
    zeros_before: int
    largest: float


def pair(expected: models.Model, actual: models.Model) -> Pairing:
    """Pair the stored tensors of two models that should have the same graph.

    Args:
        expected: the model that the other should be.
        actual: it may have other values, and biases where the first has none.
    """
    try:
        stored, added = _walk(expected, actual)
    except _MismatchError as error:
        return Pairing(str(error))
    return Pairing("", tuple(stored), tuple(added))


class _MismatchError(Exception):
    """Two graphs differ; the message says where."""


def _walk(
    expected: models.Model, actual: models.Model
) -> tuple[list[tuple[ir.Value, ir.Value]], list[ir.Value]]:
    _compare_interfaces(expected, actual)
    ours, theirs = _nodes(expected), _nodes(actual)
    for name in [*ours, *theirs]:
        if (name in ours) != (name in theirs):
            where = "is missing" if name in ours else "should not be there"
            raise _MismatchError(f"the node that computes '{name}' {where}")
    pairs: dict[tuple[str, str], tuple[ir.Value, ir.Value]] = {}
    added: dict[str, ir.Value] = {}
    for name, one in ours.items():
        two = theirs[name]
        _compare_nodes(name, one, two, expected.ir.opset_imports.get(one.domain, 1))
        for k in range(max(len(one.inputs), len(two.inputs))):
            a = one.inputs[k] if k < len(one.inputs) else None
            b = two.inputs[k] if k < len(two.inputs) else None
            if b is not None and models.constant(b) is not None and (a is None or not a.name):
                added[b.name or ""] = b
                continue
            if _compare_values(name, a, b):
                assert a is not None
                assert b is not None
                pairs[a.name or "", b.name or ""] = a, b
    for a, b in zip(expected.ir.graph.outputs, actual.ir.graph.outputs, strict=True):
        if _compare_values("the outputs", a, b):
            pairs[a.name or "", b.name or ""] = a, b
    _pair_idle(expected, actual, pairs, added)
    return list(pairs.values()), list(added.values())


def _pair_idle(
    expected: models.Model,
    actual: models.Model,
    pairs: dict[tuple[str, str], tuple[ir.Value, ir.Value]],
    added: Mapping[str, ir.Value],
) -> None:
    """Pair tensors that no node reads."""
    known = {there for _, there in pairs}
    ours = models.constants(expected)
    for name, value in models.constants(actual).items():
        if name in known or name in added:
            continue
        if name not in ours:
            raise _MismatchError(f"the stored tensor '{name}' should not be there")
        if _compare_values(name, ours[name], value):
            pairs[name, name] = ours[name], value


def _nodes(model: models.Model) -> dict[str, ir.Node]:
    """Every node that computes something, bodies included, by what it computes.

    Outputs that nobody reads do not count where another one is read: a cut leaves them out.
    """
    return {
        next(iter(_read(node)), identity(node)): node
        for graph in models.graphs(model)
        for node in graph
        if not (node.outputs and models.constant(node.outputs[0]) is not None)
    }


def _read(node: ir.Node) -> dict[str, int]:
    """The outputs of a node that anybody reads, and their places."""
    return {
        value.name or "": k
        for k, value in enumerate(node.outputs)
        if value.uses() or value.is_graph_output()
    }


def _compare_interfaces(expected: models.Model, actual: models.Model) -> None:
    for what in ("inputs", "outputs"):
        ours, theirs = (
            [(v.name, str(v.dtype)) for v in getattr(each.ir.graph, what) if not v.is_initializer()]
            for each in (expected, actual)
        )
        if ours != theirs:
            raise _MismatchError(f"its {what} are {_names(theirs)} instead of {_names(ours)}")
    used = {node.domain for node in expected.ir.graph.all_nodes()}
    for domain in used:
        old, new = (each.ir.opset_imports.get(domain) for each in (expected, actual))
        if old != new:
            name = domain or "ai.onnx"
            raise _MismatchError(f"its operator set {name} is {new} instead of {old}")


def _names(values: list[tuple[str | None, str]]) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in values) or "none"


def _compare_nodes(name: str, one: ir.Node, two: ir.Node, version: int) -> None:
    if (one.domain, one.op_type, one.overload) != (two.domain, two.op_type, two.overload):
        raise _MismatchError(f"'{name}' is computed by {two.op_type} instead of {one.op_type}")
    if _read(one) != _read(two):
        raise _MismatchError(f"the {one.op_type} node of '{name}' has other outputs")
    for key in {*one.attributes, *two.attributes}:
        ours, theirs = (each.attributes.get(key) for each in (one, two))
        if ours is None or theirs is None:  # left out, it has its default value
            default = _defaults(one.op_type, one.domain, version).get(key)
            ours, theirs = ours or default, theirs or default
        if ours is None or theirs is None or not _equal(ours, theirs):
            raise _MismatchError(f"the {one.op_type} node of '{name}' has another '{key}'")


@cache
def _defaults(op: str, domain: str, version: int) -> Mapping[str, ir.Attr]:
    """Attributes of an operator that nobody has to write; none where onnx does not know it."""
    try:
        schema = onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return {}
    values = {name: each.default_value for name, each in schema.attributes.items()}
    return {name: ir.from_proto(value) for name, value in values.items() if value.name}


def _equal(one: ir.Attr, two: ir.Attr) -> bool:
    if one.type != two.type:
        return False
    if one.type in _GRAPHS:  # their nodes are compared like all others
        mine, theirs = (
            [each.value] if each.type == ir.AttributeType.GRAPH else each.value
            for each in (one, two)
        )
        return [_border(graph) for graph in mine] == [_border(graph) for graph in theirs]
    if one.type in _TENSORS:
        mine, theirs = (
            [each.value] if each.type == ir.AttributeType.TENSOR else each.value
            for each in (one, two)
        )
        return len(mine) == len(theirs) and all(
            a.dtype == b.dtype and a.tobytes() == b.tobytes()
            for a, b in zip(mine, theirs, strict=True)
        )
    if one.type in (ir.AttributeType.TYPE_PROTO, ir.AttributeType.TYPE_PROTOS):
        return str(one.value) == str(two.value)
    return repr(one.value) == repr(two.value)  # a NaN equals itself here


def _border(graph: ir.Graph) -> tuple[list[str | None], list[str | None]]:
    return [v.name for v in graph.inputs], [v.name for v in graph.outputs]


def _compare_values(where: str, a: ir.Value | None, b: ir.Value | None) -> bool:
    """Compare what two nodes read; whether it is a stored tensor."""
    mine = None if a is None else models.constant(a)
    theirs = None if b is None else models.constant(b)
    if mine is not None and theirs is not None:
        ours, other = (
            (each.dtype.name, [int(n) for n in each.shape.numpy()]) for each in (mine, theirs)
        )
        if ours != other:
            name = "" if b is None else b.name
            raise _MismatchError(
                f"'{name}' is {other[0]} {other[1]} where the cut has {ours[0]} {ours[1]}"
            )
        return True
    names = ["" if v is None else v.name or "" for v in (a, b)]
    if mine is not None or theirs is not None or names[0] != names[1]:
        raise _MismatchError(f"'{where}' is computed of '{names[1]}' instead of '{names[0]}'")
    return False


def compare(expected: ir.TensorProtocol, actual: ir.TensorProtocol) -> Change:
    """Compare two tensors of one type and shape."""
    if expected.dtype == ir.DataType.STRING:
        same = expected.numpy().tolist() == actual.numpy().tolist()
        return Change("equal" if same else "changed", 0, 0, 0.0 if same else float("inf"))
    one, two = np.asarray(expected.numpy()), np.asarray(actual.numpy())
    zeros, before = (int(each.size - np.count_nonzero(each)) for each in (two, one))
    apart = one != two
    if one.dtype.kind not in "biu":  # a NaN differs from itself
        apart &= ~((one != one) & (two != two))  # noqa: PLR0124
    if not apart.any():
        return Change("equal", zeros, before, 0.0)
    kind: Kind = "changed" if np.count_nonzero(two[apart]) else "zeroed"
    wide = np.complex128 if one.dtype.kind == "c" else np.float64
    with np.errstate(over="ignore", invalid="ignore"):
        gap = np.abs(one[apart].astype(wide) - two[apart].astype(wide)).max()
        size = np.abs(one.astype(wide)).max()
    largest = float(gap / size) if np.isfinite(gap) and size else float("inf")
    return Change(kind, zeros, before, largest)


def changes(pairing: Pairing) -> Iterator[tuple[str, Change]]:
    """Every paired tensor by its actual name, one in memory at a time."""
    for ours, theirs in pairing.stored:
        mine, other = models.constant(ours), models.constant(theirs)
        assert mine is not None
        assert other is not None
        yield theirs.name or "", compare(mine, other)


def is_altered(change: Change, mask: tuple[int, int] | None) -> bool:
    """Whether a tensor has other values than a plan gives it.

    Args:
        change: against the cut of the dense model.
        mask: entries, and how many of them may be other than zero; None without a mask.
    """
    if change.kind != "zeroed" or mask is None:
        return change.kind != "equal"
    size, kept = mask
    return change.zeros > size - kept + change.zeros_before
