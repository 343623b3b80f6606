"""If, Loop and Scan: what meets at the border of a body must lose the same indices.

A body is walked like any graph: what it captures from outside it reads like everybody else. States
that a loop carries reach their fixed point by being united with what they become.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxprune import model as models
from onnxprune.dims import Axis
from onnxprune.notation import Tensor

if TYPE_CHECKING:
    from onnxprune.analysis.walk import Walk


def walk_bodies(walk: Walk, node: ir.Node, bodies: Mapping[str, ir.Graph], why: str) -> None:
    """Walk the bodies of ``node`` and set the axes of its outputs; ``why`` is what pins say."""
    given = [None if v is None else walk.read(node, i, v) for i, v in enumerate(node.inputs)]
    if node.op_type == "If":
        for body in bodies.values():
            walk.graph(body)
        branches = [_ends(walk, body) for body in bodies.values()]
        for k, value in enumerate(node.outputs):
            _one_of(walk, value, [ends[k] for ends in branches], why)
        return
    (body,) = bodies.values()
    outers, first, carried = _borders(walk, node, given, len(body.inputs), why)
    for value, outer in zip(body.inputs, outers, strict=True):
        inner = walk.plain(value.name or "", why)
        if outer is not None and _sizes(outer) == _sizes(inner):
            inner = outer
        else:
            walk.pin(outer, why)
        walk.axes[value.name or ""] = inner
    walk.graph(body)
    ends = _ends(walk, body)
    skip = len(body.outputs) - len(node.outputs)
    for tensor in ends[:skip]:
        walk.pin(tensor, why)
    for k, value in enumerate(node.outputs):
        end, shape = ends[skip + k], walk.shape(value.name or "")
        if k < carried:
            state = walk.axes[body.inputs[first + k].name or ""]
            _one_of(walk, value, [state, end], why)
        elif end is not None and shape and shape[1:] == _sizes(end) and _stacks(node):
            walk.axes[value.name or ""] = (Axis(shape[0], why=why), *end)
        else:
            walk.pin(end, why)
            walk.axes[value.name or ""] = walk.plain(value.name or "", why)


def _borders(
    walk: Walk, node: ir.Node, given: Sequence[Tensor | None], count: int, why: str
) -> tuple[list[Tensor | None], int, int]:
    """What each of ``count`` inputs of a body is outside; which are states: first, how many."""
    outers: list[Tensor | None] = [None] * count
    first = carried = 0
    if node.op_type == "Loop":
        first, carried = 2, len(given) - 2
        outers[2:] = given[2:]
    elif node.op_type == "Scan" and walk.opsets.get("", 9) > 8:
        carried = len(given) - node.attributes["num_scan_inputs"].as_int()
        outers[:carried] = given[:carried]
        for k, tensor in enumerate(given[carried:], carried):
            if tensor and _stacks(node):  # one step of it, without the axis of steps
                walk.pin(tensor[:1], why)
                outers[k] = tensor[1:]
    for k, tensor in enumerate(given):
        if k >= count or outers[k] is None:
            walk.pin(tensor, why)
    return outers, first, carried


def _stacks(node: ir.Node) -> bool:
    """Whether a Loop or Scan has its steps along the first axis of what it reads and gives."""
    axes = [node.attributes.get(f"scan_{way}_axes") for way in ("input", "output")]
    along_first = not any(any(a.as_ints()) for a in axes if a is not None)
    return node.op_type == "Loop" or (node.op_type == "Scan" and along_first)


def _ends(walk: Walk, body: ir.Graph) -> list[Tensor | None]:
    """Axes of the outputs of a body; a stored tensor that is one stays as it is."""
    out: list[Tensor | None] = []
    for value in body.outputs:
        name, stored, why = value.name or "", models.constant(value), "output of a body"
        if stored is not None:
            out.append(tuple(Axis(int(n), why=why) for n in stored.shape.numpy()))
        elif walk.shape(name) is not None:
            out.append(walk.axes.setdefault(name, walk.plain(name, why)))
        else:
            out.append(None)
    return out


def _one_of(walk: Walk, value: ir.Value, meet: Sequence[Tensor | None], why: str) -> None:
    """An output that is one of several values, chosen while the model runs."""
    name = value.name or ""
    tensors = [t for t in meet if t is not None]
    if len(tensors) == len(meet) and all(_sizes(t) == _sizes(tensors[0]) for t in tensors):
        for other in tensors[1:]:
            for a, b in zip(tensors[0], other, strict=True):
                walk.space.unify(a, b, why)
        if walk.shape(name) == _sizes(tensors[0]):
            walk.axes[name] = tensors[0]
            return
    for tensor in tensors:
        walk.pin(tensor, why)
    walk.axes[name] = walk.plain(name, why)


def _sizes(tensor: Tensor) -> tuple[int | None, ...]:
    return tuple(a.size for a in tensor)
