"""The nodes that contract a stored weight, and along which of its axes.

Groups of N:M run along what a kernel contracts: input channels at one kernel position for a Conv
(``[M, C/group, *kernel]``, axis 1), ``C`` for a ConvTranspose (axis 0), ``K`` for products, the
last axis of a left operand and the last but one of a right one, whatever the rank. That is what
sparse tensor cores take (TensorRT developer guide, "Structured Sparsity").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import identity
from onnxprune.graph.layers.trace import Stored, Unknown, movers, trace

LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators whose weights are thinned."""

_ASKS_ONLY = {"Shape", "Size"}


@dataclass(frozen=True, eq=False)
class Reading:
    """A node that contracts a stored weight.

    Attributes:
        node: it.
        stored: the weight, and how the node sees it.
        slot: which input of the node it is.
        axis: of the weight as the node sees it, contracted.
        inputs: the size of that axis.
        taps: kernel positions that read one channel each; 1 for products.
        outputs: how many numbers one position of the output has.
        groups: of a grouped convolution.
        inside: the node whose body the reading node is in; empty in the main graph.
    """

    node: ir.Node
    stored: Stored
    slot: int
    axis: int
    inputs: int
    taps: int
    outputs: int
    groups: int
    inside: str

    @property
    def name(self) -> str:
        """The identity of the node."""
        return identity(self.node)

    @property
    def along(self) -> tuple[object, ...]:
        """Equal for two readings of one weight exactly if the groups of N:M are the same."""
        axis = self.stored.stored_axis(self.axis)
        return (axis,) if axis is not None else (self.stored.steps, self.axis)


@dataclass(frozen=True, eq=False)
class Unread:
    """A linear node whose weight cannot be found in the store, and why."""

    node: ir.Node
    reason: str
    inside: str

    @property
    def name(self) -> str:
        """The identity of the node."""
        return identity(self.node)


def walk(model: models.Model) -> Iterator[tuple[ir.Node, str]]:
    """Every node in the order of the graph, bodies where they hang, and whose body it is in."""
    yield from _walk(model.ir.graph, "")


def _walk(graph: ir.Graph, inside: str) -> Iterator[tuple[ir.Node, str]]:
    for node in graph:
        yield node, inside
        for _, body in models.bodies(node):
            yield from _walk(body, f"{node.op_type} '{identity(node)}'")


def find_readings(model: models.Model) -> tuple[list[Reading], list[Unread]]:
    """The nodes that contract stored weights, in the order of the graph, and those that cannot be.

    Products of two activations are neither.
    """
    found: list[Reading] = []
    unread: list[Unread] = []
    for node, inside in walk(model):
        if node.domain in ("", "ai.onnx") and node.op_type in LINEAR:
            read = _reading(node, inside)
            if isinstance(read, Reading):
                found.append(read)
            elif read.reason:
                unread.append(Unread(node, read.reason, inside))
    return found, unread


def others(reading: Reading, known: Sequence[Reading], *, tables: bool = False) -> str:
    """Who else uses a weight than these readings of it; empty if nobody does.

    Args:
        reading: one of them.
        known: all readings of the same weight.
        tables: count those out who look the weight up as a table (a tied embedding).
    """
    names = {each.name for each in known}
    for node, output in _users(reading.stored.value):
        if output:
            return "whoever runs the model"
        if tables and node is not None and node.op_type == "Gather":
            continue
        if node is not None and identity(node) not in names and node.op_type not in _ASKS_ONLY:
            return f"{node.op_type} '{identity(node)}'"
    return ""


def _users(value: ir.Value) -> Iterator[tuple[ir.Node | None, bool]]:
    if value.is_graph_output():
        yield None, True
    for node, slot in value.uses():
        if slot == 0 and node.op_type in movers() and node.domain in ("", "ai.onnx"):
            yield from _users(node.outputs[0])
        else:
            yield node, False


def _reading(node: ir.Node, inside: str) -> Reading | Unknown:
    slots = (1,) if node.op_type.startswith("Conv") else (1, 0)
    reasons = []
    traced = {slot: trace(node.inputs[slot]) for slot in slots if len(node.inputs) > slot}
    for slot, stored in traced.items():
        if isinstance(stored, Unknown):
            reasons.append(stored.reason)
            continue
        if len(traced) == 2 and all(isinstance(each, Stored) for each in traced.values()):
            return Unknown("both of its operands are stored")
        shape = stored.seen_shape
        if len(shape) < 2:
            return Unknown("its weight is a single vector")
        axis = _contracted(node, slot, len(shape))
        taps = math.prod(shape[2:]) if node.op_type.startswith("Conv") else 1
        return Reading(
            node=node,
            stored=stored,
            slot=slot,
            axis=axis,
            inputs=shape[axis],
            taps=taps,
            outputs=_outputs(node, shape, axis),
            groups=_int(node, "group", 1),
            inside=inside,
        )
    return Unknown(next((each for each in reasons if each), ""))


def _contracted(node: ir.Node, slot: int, rank: int) -> int:
    if node.op_type == "Conv":
        return 1
    if node.op_type == "ConvTranspose":
        return 0
    if node.op_type == "Gemm":
        return 1 - _int(node, "transA", 0) if slot == 0 else _int(node, "transB", 0)
    return rank - 1 if slot == 0 else rank - 2


def _outputs(node: ir.Node, shape: tuple[int, ...], axis: int) -> int:
    if node.op_type.startswith("Conv"):
        return shape[1 - axis] * (_int(node, "group", 1) if axis == 0 else 1)
    return shape[-1] if axis == len(shape) - 2 else shape[-2]


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()
