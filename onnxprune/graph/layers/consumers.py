"""Who reads a group, and what those readers see: the link between an analysis and statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from onnxprune.graph.analysis import Analysis, identity
from onnxprune.graph.ops import Call
from onnxprune.graph.units import Group, Slice


@dataclass(frozen=True, eq=False)
class Consumer:
    """One node contracting one stored tensor with one activation.

    Attributes:
        node: the node; ``call`` is what its rule said.
        tensor: the stored tensor; ``axis`` is contracted.
        activation: name of the value it meets, contracted along ``channel``.
    """

    node: ir.Node
    call: Call
    tensor: str
    axis: int
    activation: str
    channel: int


def consumers(analysis: Analysis) -> dict[tuple[str, str], Consumer]:
    """Every contraction of a stored tensor with an activation, by (tensor, node)."""
    found: dict[tuple[str, str], Consumer] = {}
    for node, call in analysis.walk.calls:
        for contraction in call.contractions:
            weights = [s for s in contraction.slots if call.literal[s[0]]]
            others = [s for s in contraction.slots if not call.static[s[0]]]
            if len(weights) != 1 or len(others) != 1:
                continue
            (i, axis), (j, channel) = weights[0], others[0]
            weight, activation = node.inputs[i], node.inputs[j]
            if weight is None or activation is None:
                continue
            key = (weight.name or "", identity(node))
            found[key] = Consumer(
                node, call, weight.name or "", axis, activation.name or "", channel
            )
    return found


def of_groups(analysis: Analysis, groups: Iterable[Group]) -> Iterator[Consumer]:
    """The consumers that read any of ``groups``, each once."""
    known = consumers(analysis)
    seen = set()
    for group in groups:
        for cut in group.slices:
            for node in cut.nodes if cut.role == "reads" else ():
                key = (cut.tensor, node)
                if key in known and key not in seen:
                    seen.add(key)
                    yield known[key]


def use_of(analysis: Analysis) -> Callable[[Slice], str]:
    """A function from a slice to what its tensor is to its node, as in ``Conv.W``."""
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
