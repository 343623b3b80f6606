"""Channel shuffles: Reshape, Transpose, Reshape that together only permute one axis.

As three operators they tie halves of the channels to one another; as one Gather with a constant
order they tie nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.graph.shapes import Fact


@dataclass(frozen=True, eq=False)
class Shuffle:
    """Three nodes whose output is their input with the rows of ``axis`` in ``order``."""

    nodes: tuple[ir.Node, ir.Node, ir.Node]
    axis: int
    order: npt.NDArray[np.int64]


def _only_reader(node: ir.Node, op: str) -> ir.Node | None:
    """The one node that reads ``node``'s output, if it is an ``op`` and nothing else does."""
    value = node.outputs[0]
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    reader, position = next(iter(uses))
    same = reader.op_type == op and position == 0 and reader.graph is node.graph
    return reader if same else None


def find_shuffle(node: ir.Node, facts: Mapping[str, Fact]) -> Shuffle | None:
    """The shuffle that starts at ``node``, or None."""
    if node.op_type != "Reshape" or node.inputs[0] is None:
        return None
    second = _only_reader(node, "Transpose")
    third = _only_reader(second, "Reshape") if second is not None else None
    if second is None or third is None:
        return None
    inner, outer = facts.get(node.outputs[0].name or ""), facts.get(third.outputs[0].name or "")
    first = facts.get(node.inputs[0].name or "")
    if inner is None or first is None or outer is None:
        return None
    old, mid, new = first.sizes, inner.sizes, outer.sizes
    perm = second.attributes.get_ints("perm", None)
    if not old or not mid or old != new or perm is None:
        return None
    extra = len(mid) - len(old)
    for k in range(len(old)):
        inside = range(k, k + extra + 1)
        if (
            extra > 0
            and mid[:k] == old[:k]
            and mid[k + extra + 1 :] == old[k + 1 :]
            and sorted(perm[k : k + extra + 1]) == list(inside)
            and all(p == i for i, p in enumerate(perm) if i not in inside)
            and list(perm) != sorted(perm)
        ):
            local = [perm[i] - k for i in inside]
            order = np.arange(old[k]).reshape(mid[k : k + extra + 1]).transpose(local).ravel()
            return Shuffle((node, second, third), k, order.astype(np.int64))
    return None
