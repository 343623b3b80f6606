"""Gradients of products and convolutions, with respect to both operands of products."""

from __future__ import annotations

import onnx_ir as ir

from onnxprune.gradient.emit import Undifferentiable
from onnxprune.gradient.rules import Back, Call, rule
from onnxprune.recover.patches import Window, leading_pads, output_sizes


@rule("MatMul")
def _matmul(call: Call) -> Back:
    e, a, b = call.emit, call.x(0), call.x(1)
    ranks = [len(e.sizes(v)) for v in (a, b)]
    if min(ranks) < 2:
        raise Undifferentiable("it multiplies with a vector")

    def turned(value: ir.Value, rank: int) -> ir.Value:
        return e.op("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])

    def batched(gradient: ir.Value, operand: ir.Value) -> ir.Value:
        """Summed over batch axes that the operand was broadcast along."""
        small, large = e.sizes(operand), e.sizes(call.y)
        extra = len(large) - len(small)
        axes = [
            k for k in range(len(large) - 2)
            if k < extra or (small[k - extra] == 1 and large[k] != 1)
        ]  # fmt: skip
        if not axes:
            return gradient
        return e.like(e.sum(gradient, axes), operand)

    return {
        0: lambda: batched(e.op("MatMul", call.dy, turned(b, ranks[1])), a),
        1: lambda: batched(e.op("MatMul", turned(a, ranks[0]), call.dy), b),
    }


@rule("Gemm")
def _gemm(call: Call) -> Back:
    e, a, b = call.emit, call.x(0), call.x(1)
    flip_a, flip_b = (bool(call.attribute(name, 0)) for name in ("transA", "transB"))
    alpha = float(call.attribute("alpha", 1.0))

    def left() -> ir.Value:
        if flip_a:
            return e.op("Gemm", b, call.dy, alpha=alpha, transA=int(flip_b), transB=1)
        return e.op("Gemm", call.dy, b, alpha=alpha, transB=int(not flip_b))

    def right() -> ir.Value:
        if flip_b:
            return e.op("Gemm", call.dy, a, alpha=alpha, transA=1, transB=int(flip_a))
        return e.op("Gemm", a, call.dy, alpha=alpha, transA=int(not flip_a))

    return {0: left, 1: right}


@rule("Conv")
def _conv(call: Call) -> Back:
    """Of the data alone; that of a kernel is a sum over patches (``Layer.rows``)."""
    e, x, weight = call.emit, call.x(0), call.x(1)
    sizes = e.sizes(x)[2:]
    kernel = e.sizes(weight)[2:]
    pad = call.attribute("auto_pad", "NOTSET")
    window = Window(
        kernel=kernel,
        strides=tuple(call.attribute("strides", ())) or (1,) * len(kernel),
        dilations=tuple(call.attribute("dilations", ())) or (1,) * len(kernel),
        pads=tuple(call.attribute("pads", ())),
        auto_pad=pad.decode() if isinstance(pad, bytes) else pad,
        group=int(call.attribute("group", 1)),
        transposed=False,
        output_padding=(),
        output_shape=(),
    )

    def back() -> ir.Value:
        begins = leading_pads(window, sizes)
        outs = output_sizes(window, sizes)
        ends, more = [], []
        for n, out, k, s, d, begin in zip(
            sizes, outs, kernel, window.strides, window.dilations, begins, strict=True
        ):
            # What a transposed convolution covers from the first output to the last.
            short = n - ((out - 1) * s + d * (k - 1) + 1 - begin)
            ends.append(max(-short, 0))
            more.append(max(short, 0))
        return e.op(
            "ConvTranspose", call.dy, weight,
            strides=list(window.strides), dilations=list(window.dilations), group=window.group,
            pads=[*begins, *ends], output_padding=more,
        )  # fmt: skip

    return {0: back}


@rule("ConvTranspose")
def _conv_transpose(call: Call) -> Back:
    e, weight = call.emit, call.x(1)
    if call.attribute("auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET"):
        raise Undifferentiable("it pads automatically")
    if call.attribute("output_shape") is not None:
        raise Undifferentiable("it is told the size of its output")
    kernel = e.sizes(weight)[2:]
    rank = len(kernel)
    strides = list(call.attribute("strides", (1,) * rank))
    dilations = list(call.attribute("dilations", (1,) * rank))
    pads = list(call.attribute("pads", (0,) * (2 * rank)))
    # Output padding is computed without being read: the last window must not start there.
    outs = e.sizes(call.x(0))[2:]
    full = e.sizes(call.y)[2:]
    for axis in range(rank):
        span = (outs[axis] - 1) * strides[axis] + dilations[axis] * (kernel[axis] - 1) + 1
        pads[rank + axis] = span - full[axis] - pads[axis]
    if min(pads) < 0:
        raise Undifferentiable("its output is padded")

    def back() -> ir.Value:
        return e.op(
            "Conv", call.dy, weight, strides=strides, dilations=dilations, pads=pads,
            group=int(call.attribute("group", 1)),
        )  # fmt: skip

    return {0: back}
