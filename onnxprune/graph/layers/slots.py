"""Where nodes read stored tensors, and what is between them and those tensors."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import Analysis, identity
from onnxprune.graph.walk import KEPT_WHOLE

Place = tuple[str, int]
"""An input of a node: the node's identity and the position."""

_COUNTED = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)


def read_at(nodes: Mapping[str, ir.Node], place: Place) -> ir.Value | None:
    """The value at an input of a node, None where there is none."""
    inputs = nodes[place[0]].inputs
    return inputs[place[1]] if place[1] < len(inputs) else None


def by_identity(model: models.Model, dense: models.Model | None = None) -> dict[str, ir.Node]:
    """All nodes of all graphs by the name of their first output.

    Args:
        model: whose nodes.
        dense: what ``model`` was cut from, which may have dropped outputs that nobody reads: then
            nodes go by the name that they have there.
    """
    found = {identity(node): node for graph in models.graphs(model) for node in graph}
    if dense is None:
        return found
    whole = {v.name: identity(n) for g in models.graphs(dense) for n in g for v in n.outputs}
    return {whole.get(name, name): node for name, node in found.items()}


def source(value: ir.Value) -> ir.Value:
    """Where a value comes from, seen through nodes that hand it on."""
    node = value.producer()
    while node is not None and _hands_on(node, value) and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _hands_on(node: ir.Node, value: ir.Value) -> bool:
    if node.domain not in ("", "ai.onnx") or value is not node.outputs[0]:
        return False
    if node.op_type == "Dropout":
        return len(node.inputs) < 3 or node.inputs[2] is None
    return node.op_type == "Identity"


def stored_at(node: ir.Node, position: int) -> Place | None:
    """The place where a stored tensor enters a node, seen through nodes that hand it on."""
    value = node.inputs[position]
    while value is not None and models.constant(value) is None:
        producer = value.producer()
        if producer is None or not _hands_on(producer, value):
            return None
        node, position = producer, 0
        value = node.inputs[0]
    return (identity(node), position) if value is not None else None


def same_operator(one: ir.Node, two: ir.Node) -> bool:
    """Whether two nodes compute the same function but for attributes."""
    domains = {"" if node.domain == "ai.onnx" else node.domain for node in (one, two)}
    return one.op_type == two.op_type and len(domains) == 1


def is_size(analysis: Analysis, value: ir.Value) -> bool:
    """Whether a dense value is a known integer or truth, which follows a cut by itself."""
    stored = models.constant(source(value))
    if stored is not None:
        return stored.dtype in KEPT_WHOLE
    fact = analysis.facts.get(value.name or "")
    return fact is not None and fact.value is not None and fact.dtype in _COUNTED


def fits(dense: ir.TensorProtocol, pruned: ir.TensorProtocol) -> bool:
    """Whether one tensor can be what is left of another."""
    mine, theirs = dense.shape.numpy(), pruned.shape.numpy()
    same = len(mine) == len(theirs) and dense.dtype == pruned.dtype
    return same and all(n <= m for m, n in zip(mine, theirs, strict=True))
