"""The sources of values: the inputs of nodes, their ancestors, and stored tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import Analysis, identity
from onnxprune.graph.units import Slice
from onnxprune.graph.walk import KEPT_WHOLE

Place = tuple[str, int]
"""An input of a node: the node's identity and the position."""

_COUNTED = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)


def read_by(node: ir.Node) -> list[ir.Value]:
    """Everything a node reads, values captured by its bodies included."""
    values = [v for v in node.inputs if v is not None]
    for _, body in models.bodies(node):
        inner = set(models.values(body))
        for each in body:
            values += [v for v in read_by(each) if v not in inner]
        values += [v for v in body.outputs if v not in inner]
    return values


def ancestors(value: ir.Value) -> set[str]:
    """The identities of all nodes a value depends on, within its graph."""
    names: set[str] = set()
    queue = [value]
    while queue:
        node = queue.pop().producer()
        if node is not None and identity(node) not in names:
            names.add(identity(node))
            queue += read_by(node)
    return names


def read_at(nodes: Mapping[str, ir.Node], place: Place) -> ir.Value | None:
    """The value at an input of a node, None where there is none."""
    inputs = nodes[place[0]].inputs
    return inputs[place[1]] if place[1] < len(inputs) else None


def by_identity(model: models.Model, dense: models.Model | None = None) -> dict[str, ir.Node]:
    """All nodes of all graphs by the name of their first output.

    Args:
        model: whose nodes.
        dense: the model before the cut, which may have dropped unused outputs: nodes then go by
            their names there.
    """
    nodes = {identity(node): node for graph in models.graphs(model) for node in graph}
    if dense is None:
        return nodes
    whole = {v.name: identity(n) for g in models.graphs(dense) for n in g for v in n.outputs}
    return {whole.get(name, name): node for name, node in nodes.items()}


def source(value: ir.Value) -> ir.Value:
    """Where a value comes from, seen through nodes that hand it on."""
    node = value.producer()
    while node is not None and _hands_on(node, value) and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _hands_on(node: ir.Node, value: ir.Value) -> bool:
    if node.domain or value is not node.outputs[0]:
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
    return (one.op_type, one.domain) == (two.op_type, two.domain)


def is_size(analysis: Analysis, value: ir.Value) -> bool:
    """Whether a dense value is a known integer or boolean, which follows a cut by itself."""
    stored = models.constant(source(value))
    if stored is not None:
        return stored.dtype in KEPT_WHOLE
    fact = analysis.facts.get(value.name or "")
    return fact is not None and fact.value is not None and fact.dtype in _COUNTED


def fits(dense: ir.TensorProtocol, pruned: ir.TensorProtocol) -> bool:
    """Whether one tensor can be a cut of another."""
    mine, theirs = dense.shape.numpy(), pruned.shape.numpy()
    same = len(mine) == len(theirs) and dense.dtype == pruned.dtype
    return same and all(n <= m for m, n in zip(mine, theirs, strict=True))


def use_of(analysis: Analysis) -> Callable[[Slice], str]:
    """A function from a slice to the role of its tensor at its node, as in ``Conv.W``."""
    names: dict[tuple[str, str], str] = {}
    schemas: dict[str, Mapping[int, str]] = {}
    for use in analysis.walk.uses:
        op = use.node.op_type
        if op not in schemas:
            try:
                schemas[op] = dict(
                    enumerate(p.name for p in onnx.defs.get_schema(op, use.node.domain).inputs)
                )
            except onnx.defs.SchemaError:
                schemas[op] = {}
        label = schemas[op].get(use.position, str(use.position))
        names[use.value.name or "", identity(use.node)] = f"{op}.{label}"
    return lambda cut: names.get((cut.tensor, cut.nodes[0]), "") if cut.nodes else ""


def content(analysis: Analysis, name: str) -> npt.NDArray[np.generic]:
    """What a stored tensor holds, or a ConstantOfShape that stands for one."""
    value = analysis.constants.get(name)
    tensor = models.constant(value) if value is not None else None
    if tensor is not None:
        return tensor.numpy()
    fact = analysis.facts[name]
    return np.ones(fact.sizes or (), fact.dtype.numpy() if fact.dtype else np.float32)
