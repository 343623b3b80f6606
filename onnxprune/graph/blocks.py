"""Residual branches that can be bypassed: an Add whose one operand is computed from the other."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import onnx_ir as ir

from onnxprune.graph.axes import Axis
from onnxprune.graph.units import Block
from onnxprune.graph.walk import Walk, identity
from onnxprune.model import Model

_SHORT = {"Conv", "BatchNormalization", "AveragePool", "MaxPool", "Identity", "Pad", "Slice"}
"""Operators of a projection shortcut: all of them linear, none of them a branch of its own."""


def _closure(node: ir.Node, start: ir.Value) -> list[ir.Node]:
    """Nodes that are dead once ``node`` stops reading ``start``, last ones first."""
    dead: list[ir.Node] = []
    uses: dict[ir.Node, int] = {}
    unread = deque([start])  # values that have lost one reader
    while unread:
        producer = unread.popleft().producer()
        if producer is None or producer.graph is not node.graph:
            continue
        if producer not in uses:
            uses[producer] = sum(len(v.uses()) for v in producer.outputs)
        uses[producer] -= 1
        if uses[producer] == 0 and not any(v.is_graph_output() for v in producer.outputs):
            dead.append(producer)
            unread.extend(v for v in producer.inputs if v is not None)
    return dead


def find_blocks(model: Model, walk: Walk, batch: int) -> tuple[Block, ...]:
    """All bypassable branches of the main graph, in order."""
    work = {identity(n): sum(_volume(axes) for axes in c.work) for n, c in walk.calls}
    out = []
    for node in model.ir.graph:
        if node.op_type not in ("Add", "Sum") or len(node.inputs) != 2:
            continue
        a, b = node.inputs
        if a is None or b is None or a is b:
            continue
        shapes = [walk.shape(v.name or "") for v in (a, b, node.outputs[0])]
        if shapes[0] is None or any(s != shapes[0] for s in shapes):
            continue
        for branch, skip in ((a, b), (b, a)):
            dying = _closure(node, branch)
            if not any(work.get(identity(n)) for n in dying):
                continue
            members = set(dying)
            read = {v for n in dying for v in n.inputs if v is not None}
            feeds = {v for v in read if v.producer() not in members}
            if skip not in feeds and not _projection(skip, feeds):
                continue
            names = tuple(identity(n) for n in reversed(dying))
            weights = {v for n in dying for v in n.inputs if v is not None and v.is_initializer()}
            sizes = [walk.shape(v.name or "") or () for v in weights]
            params = sum(math.prod(n or 0 for n in shape) for shape in sizes)
            macs = sum(work.get(n, 0) for n in names) // batch
            name = f"{(node.name or identity(node)).strip('/')}:block"
            out.append(Block(name, identity(node), skip.name or "", names, params, macs))
            break
    return tuple(out)


def _projection(skip: ir.Value, feeds: set[ir.Value]) -> bool:
    """Whether ``skip`` is a short linear function of one of ``feeds``."""
    value: ir.Value | None = skip
    for _ in range(4):
        producer = value.producer() if value is not None else None
        if producer is None or producer.op_type not in _SHORT:
            return False
        value = producer.inputs[0]
        if value in feeds:
            return True
    return False


def _volume(axes: Sequence[Axis]) -> int:
    return math.prod(a.size or 0 for a in axes)
