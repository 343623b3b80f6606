"""Gradients of operators that move, select or repeat elements."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxprune.graph.emit import Undifferentiable
from onnxprune.graph.gradients.rules import Back, Call, rule

_SLICE_HAS_INPUTS = 10
_SPLIT_HAS_INPUTS = 13
_SCATTER_ADDS = 16


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshaped(call: Call) -> Back:
    return {0: lambda: call.emit.like(call.dy, call.x())}


@rule("Transpose")
def _transpose(call: Call) -> Back:
    perm = call.attribute("perm") or list(range(call.rank()))[::-1]
    return {0: lambda: call.emit.op("Transpose", call.dy, perm=np.argsort(perm).tolist())}


@rule("Expand")
def _expand(call: Call) -> Back:
    return {0: lambda: call.emit.fitted(call.dy, call.x(), call.y)}


@rule("Concat")
def _concat(call: Call) -> Back:
    e, axis = call.emit, int(call.attribute("axis"))
    lengths: list[ir.Value] = []

    def length(index: int) -> ir.Value:
        shape = e.op("Shape", call.x(index))
        rank = len(e.sizes(call.x(index)))
        return e.op("Gather", shape, e.integers([axis % rank]), axis=0)

    def back(index: int) -> ir.Value:
        while len(lengths) <= index:
            before = lengths[-1] if lengths else e.integers([0])
            lengths.append(e.op("Add", before, length(len(lengths))))
        start = lengths[index - 1] if index else e.integers([0])
        return e.part(call.dy, start, lengths[index], axis)

    return {k: (lambda k=k: back(k)) for k in range(len(call.node.inputs))}  # type: ignore[misc]


@rule("Split")
def _split(call: Call) -> Back:
    e, axis = call.emit, int(call.attribute("axis", 0))

    def back() -> ir.Value:
        parts = []
        for out, gradient in zip(call.node.outputs, call.gradients, strict=True):
            parts.append(e.op("Sub", out, out) if gradient is None else gradient)
        return e.op("Concat", *parts, axis=axis)

    return {0: back}


@rule("Slice")
def _slice(call: Call) -> Back:
    e = call.emit
    if e.version < _SLICE_HAS_INPUTS:
        raise Undifferentiable("its bounds are attributes, as before opset 10")
    steps = e.content(call.input(4)) if call.input(4) is not None else np.ones(1)
    if (steps != 1).any():
        raise Undifferentiable("it takes steps")
    starts, stops = call.x(1), call.x(2)
    (count,) = e.sizes(starts)
    axes = e.content(call.input(3)) if call.input(3) is not None else np.arange(count)

    def back() -> ir.Value:
        whole = [call.x()]
        bounds: list[tuple[ir.Value, ir.Value]] = []
        for k in range(count):
            at = e.integers([k])
            start, stop = (e.op("Gather", v, at, axis=0) for v in (starts, stops))
            if starts.dtype == ir.DataType.INT32:
                start, stop = (e.op("Cast", v, to=int(ir.DataType.INT64)) for v in (start, stop))
            bounds.append((start, stop))
            whole.append(e.part(whole[-1], start, stop, int(axes[k])))
        gradient = call.dy
        for k in reversed(range(count)):
            gradient = e.within(gradient, whole[k], *bounds[k], int(axes[k]))
        return gradient

    return {0: back}


@rule("Gather")
def _gather(call: Call) -> Back:
    e = call.emit
    indices = e.content(call.x(1))
    axis = int(call.attribute("axis", 0)) % call.rank()
    size = e.sizes(call.x())[axis]
    flat = indices.reshape(-1) % size
    if indices.size == 1 and indices.ndim < 2:

        def one() -> ir.Value:
            dy = call.dy if indices.ndim else e.unsqueeze(call.dy, [axis])
            at = int(flat[0])
            return e.within(dy, call.x(), e.integers([at]), e.integers([at + 1]), axis)

        return {0: one}
    if indices.ndim == 1 and sorted(flat.tolist()) == list(range(size)):
        inverse = np.argsort(flat).tolist()
        return {0: lambda: e.op("Gather", call.dy, e.integers(inverse), axis=axis)}
    raise Undifferentiable("it selects several indices")


@rule("Pad")
def _pad(call: Call) -> Back:
    e = call.emit
    if call.attribute("mode", "constant") not in ("constant", b"constant"):
        raise Undifferentiable("it does not pad with a constant")
    if call.input(3) is not None:
        raise Undifferentiable("it names its axes")
    pads = call.attribute("pads") or e.content(call.input(1)).tolist()
    if min(pads) < 0:
        raise Undifferentiable("it crops")

    def back() -> ir.Value:
        gradient, rank = call.dy, len(pads) // 2
        for axis in range(rank):
            if pads[axis] or pads[rank + axis]:
                stop = -pads[rank + axis] or np.iinfo(np.int64).max
                bounds = e.integers([pads[axis]]), e.integers([int(stop)])
                gradient = e.part(gradient, *bounds, axis)
        return gradient

    return {0: back}


@rule("MaxPool")
def _max_pool(call: Call) -> Back:
    """Sent to where the maximum was, by the indices that a second run of it returns."""
    e, x = call.emit, call.x()
    if e.version < _SCATTER_ADDS:
        raise Undifferentiable("ScatterElements cannot add before opset 16")
    if call.attribute("storage_order", 0):
        raise Undifferentiable("its indices are column-major")

    def back() -> ir.Value:
        attributes = {name: each.value for name, each in call.node.attributes.items()}
        _, where = e.ops("MaxPool", 2, x, **attributes)
        flat = e.integers([-1])
        zeros = e.op("Reshape", e.op("Sub", x, x), flat)
        index, gradient = (e.op("Reshape", v, flat) for v in (where, call.dy))
        sent = e.op("ScatterElements", zeros, index, gradient, axis=0, reduction="add")
        return e.like(sent, x)

    return {0: back}
