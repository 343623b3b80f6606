"""A graph in segments that are timed one by one: a costly node and the cheap ones that follow it.

Runtimes fuse what follows a convolution or a product into it (bias, normalisation, activation, the
sum of a residual), so a node that is timed alone costs something else than in its graph. A segment
is what may be fused: it starts at a node that contracts, and takes in everything behind it up to
the next such node. What the model computes about sizes belongs to none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import Analysis, identity
from onnxprune.graph.shapes import Fact


@dataclass(frozen=True, eq=False)
class Segment:
    """Nodes that are timed together.

    Attributes:
        name: identity of the first, by which a segment is found again in a cut model.
        nodes: in graph order.
        inputs: what they read that others compute, or that is an input of the graph.
        stored: what they read that is stored, or known without running the model.
        outputs: what others read of what they compute.
    """

    name: str
    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    stored: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]


def costly_nodes(analysis: Analysis) -> frozenset[str]:
    """Identities of the nodes that contract: those that have multiply-accumulates."""
    return frozenset(call.name for _, call in analysis.walk.calls if call.work)


def segments(
    model: models.Model, facts: Mapping[str, Fact], costly: Collection[str]
) -> tuple[Segment, ...]:
    """Every node of the main graph that has to run, in segments.

    Args:
        model: as analysed, or cut.
        facts: of its values at the sizes that it will run with.
        costly: identities of the nodes that start a segment.
    """
    graph = model.ir.graph
    alive = _alive(graph)
    starts: list[list[ir.Node]] = []
    owner: dict[ir.Value, tuple[int, int]] = {}  # where in the graph, and in which segment
    for place, node in enumerate(graph):
        if node not in alive or _known(node, facts):
            continue
        made_by = [owner[v] for v in node.inputs if v is not None and v in owner]
        if identity(node) in costly or not made_by:
            number = len(starts)
            starts.append([])
        else:
            number = max(made_by)[1]
        starts[number].append(node)
        owner |= dict.fromkeys(node.outputs, (place, number))
    return tuple(_segment(nodes, facts) for nodes in starts)


def _alive(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that some output of the graph depends on; a cut leaves others behind."""
    waiting = [v.producer() for v in graph.outputs]
    nodes: set[ir.Node] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in nodes or node.graph is not graph:
            continue
        nodes.add(node)
        read = [v for v in node.inputs if v is not None]
        for _, body in models.bodies(node):
            read += [v for inner in body.all_nodes() for v in inner.inputs if v is not None]
        waiting += [v.producer() for v in read]
    return nodes


def _known(node: ir.Node, facts: Mapping[str, Fact]) -> bool:
    """Whether a node only computes what is known before the model runs."""
    return all(models.constant(v) is not None or _content(v, facts) for v in node.outputs if v.name)


def _content(value: ir.Value, facts: Mapping[str, Fact]) -> bool:
    fact = facts.get(value.name or "")
    return fact is not None and fact.value is not None


def _segment(nodes: list[ir.Node], facts: Mapping[str, Fact]) -> Segment:
    inside = set(nodes)
    read = dict.fromkeys(v for node in nodes for v in node.inputs if v is not None and v.name)
    outer = [v for v in read if v.producer() not in inside]
    stored = tuple(v for v in outer if models.constant(v) is not None or _content(v, facts))
    outputs = tuple(
        v
        for node in nodes
        for v in node.outputs
        if v.name and (v.is_graph_output() or any(use.node not in inside for use in v.uses()))
    )
    inputs = tuple(v for v in outer if v not in set(stored))
    return Segment(identity(nodes[0]), tuple(nodes), inputs, stored, outputs)
