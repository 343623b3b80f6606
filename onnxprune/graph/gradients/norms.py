"""Gradients of normalisations, means and sums, with respect to the data."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxprune.graph.emit import Undifferentiable
from onnxprune.graph.gradients.rules import Back, Call, rule


def _axes(call: Call) -> list[int]:
    """The axes that a reduction runs along, ascending."""
    rank = call.rank()
    given = call.attribute("axes")
    if given is None and call.input(1) is not None:
        given = call.emit.content(call.input(1)).tolist()
    if not given:
        if call.attribute("noop_with_empty_axes", 0):
            raise Undifferentiable("it reduces nothing")
        return list(range(rank))
    return sorted(int(a) % rank for a in given)


def _spread(call: Call, gradient: ir.Value) -> ir.Value:
    """A gradient of a reduction with the axes that were dropped."""
    axes = _axes(call)
    if not call.attribute("keepdims", 1):
        gradient = call.emit.unsqueeze(gradient, axes)
    return gradient


def _repeated(call: Call, gradient: ir.Value) -> ir.Value:
    return call.emit.op("Expand", gradient, call.emit.op("Shape", call.x()))


@rule("ReduceSum")
def _sum(call: Call) -> Back:
    return {0: lambda: _repeated(call, _spread(call, call.dy))}


@rule("ReduceMean")
def _mean(call: Call) -> Back:
    e = call.emit

    def back() -> ir.Value:
        # The number of elements may differ from run to run: it is what both shapes say.
        dims = e.op("Gather", e.op("Shape", call.x()), e.integers(_axes(call)), axis=0)
        count = e.op("Cast", e.op("ReduceProd", dims, keepdims=0), to=1)
        return _repeated(call, e.op("Div", _spread(call, call.dy), count))

    return {0: back}


@rule("ReduceL2")
def _length(call: Call) -> Back:
    e = call.emit

    def back() -> ir.Value:
        return e.op("Mul", call.x(), _spread(call, e.op("Div", call.dy, call.y)))

    return {0: back}


@rule("GlobalAveragePool")
def _global_average(call: Call) -> Back:
    e = call.emit
    count = math.prod(e.sizes(call.x())[2:])
    return {0: lambda: _repeated(call, e.op("Div", call.dy, e.number(float(count))))}


@rule("AveragePool")
def _average(call: Call) -> Back:
    """A transposed convolution of every channel with a kernel of equal weights."""
    e, x = call.emit, call.x()
    kernel = list(call.attribute("kernel_shape"))
    rank = len(kernel)
    pads = list(call.attribute("pads", (0,) * (2 * rank)))
    strides = list(call.attribute("strides", (1,) * rank))
    sizes, outs = e.sizes(x)[2:], e.sizes(call.y)[2:]
    spans = [(o - 1) * s + k for o, s, k in zip(outs, strides, kernel, strict=True)]
    more = [n - span for n, span in zip(sizes, spans, strict=True)]
    simple = (
        call.attribute("auto_pad", "NOTSET") in ("NOTSET", b"NOTSET")
        and not any(pads)
        and not any(d != 1 for d in call.attribute("dilations", ()))
        and all(0 <= m < s or (m == 0) for m, s in zip(more, strides, strict=True))
    )
    if not simple:
        raise Undifferentiable("it pads, dilates or rounds up")

    def back() -> ir.Value:
        channels = e.sizes(x)[1]
        one = e.number(1.0 / math.prod(kernel))
        weight = e.op("Expand", one, e.integers([channels, 1, *kernel]))
        return e.op(
            "ConvTranspose", call.dy, weight, strides=strides, output_padding=more, group=channels
        )

    return {0: back}


@rule("BatchNormalization")
def _batch(call: Call) -> Back:
    e = call.emit
    if call.attribute("training_mode", 0):
        raise Undifferentiable("it is in training mode")
    scale, variance = call.x(1), call.x(4)

    def back() -> ir.Value:
        steady = e.op("Add", variance, e.number(float(call.attribute("epsilon", 1e-5))))
        gain = e.op("Div", scale, e.op("Sqrt", steady))
        shape = [1, -1] + [1] * (call.rank() - 2)
        return e.op("Mul", call.dy, e.op("Reshape", gain, e.integers(shape)))

    return {0: back}


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def _layer(call: Call) -> Back:
    e, x, scale = call.emit, call.x(0), call.x(1)
    rank = call.rank()
    axes = list(range(int(call.attribute("axis", -1)) % rank, rank))
    count = math.prod(e.sizes(x)[axes[0] :])
    centred = call.node.op_type == "LayerNormalization"

    def mean(value: ir.Value) -> ir.Value:
        return e.op("Div", e.sum(value, axes), e.number(float(count)))

    def back() -> ir.Value:
        around = e.op("Sub", x, mean(x)) if centred else x
        variance = mean(e.op("Mul", around, around))
        steady = e.op("Add", variance, e.number(float(call.attribute("epsilon", 1e-5))))
        deviation = e.op("Sqrt", steady)
        normal = e.op("Div", around, deviation)
        pushed = e.op("Mul", call.dy, scale)
        along = e.op("Mul", normal, mean(e.op("Mul", pushed, normal)))
        inner = e.op("Sub", pushed, along)
        if centred:
            inner = e.op("Sub", inner, mean(pushed))
        return e.op("Div", inner, deviation)

    return {0: back}
