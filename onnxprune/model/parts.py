"""The parts that outputs are assembled from.

A detector often returns one tensor whose columns are boxes in pixels, then scores between 0 and 1.
Compared as one, errors of the scores drown in those of the boxes; so parts are compared instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxprune.model.constants import constant
from onnxprune.model.core import Model

_MOVING = frozenset({"Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten"})
"""Operators of ONNX that keep all numbers of their first input as they are."""


def parts(model: Model) -> dict[str, tuple[str, ...]]:
    """The values that each output is assembled from, by output.

    Those are the inputs of the ``Concat`` that it comes from, and of theirs, constants left out;
    where it is not assembled, the output itself.
    """
    result = {}
    for output in model.ir.graph.outputs:
        leaves = dict.fromkeys(leaf.name or "" for leaf in _leaves(output))
        several = len(leaves) > 1 and output.name not in leaves
        result[output.name or ""] = tuple(leaves) if several else (output.name or "",)
    return result


def shared_parts(one: Model, other: Model) -> dict[str, tuple[str, ...]]:
    """The same for two models with the same outputs: whole ones where their parts differ."""
    own = parts(one)
    return own if own == parts(other) else {output: (output,) for output in own}


def part_names(leaves: Mapping[str, Sequence[str]]) -> list[str]:
    """All parts of all outputs, once each."""
    return list(dict.fromkeys(name for names in leaves.values() for name in names))


def _leaves(value: ir.Value) -> list[ir.Value]:
    node = value.producer()
    if node is None or node.domain:
        return [value]
    if node.op_type == "Concat":
        return [leaf for part in node.inputs if part is not None for leaf in _part(part)]
    if node.op_type in _MOVING and node.inputs[0] is not None:
        inner = _leaves(node.inputs[0])
        return inner if len(inner) > 1 else [value]
    return [value]


def _part(value: ir.Value) -> list[ir.Value]:
    return [] if constant(value) is not None else _leaves(value)
