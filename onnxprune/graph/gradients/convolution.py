"""Gradients of convolutions, with respect to the data, the kernel and the bias.

The gradient of a kernel is one product per tap: of what the tap meets, taken out of the padded
data, with the gradient of what came out. A transposed convolution is the same with the two in each
other's place.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxprune.graph.emit import Emit, Undifferentiable
from onnxprune.graph.gradients.rules import Back, Call, rule
from onnxprune.solve.im2col import Window, leading_pads, output_sizes


@dataclass(frozen=True)
class _Taps:
    """Where the taps of a kernel meet the data.

    Attributes:
        kernel, strides, dilations, begins: one entry per spatial axis.
        sizes: of the data.
        outs: of what comes out.
        group: number of groups.
    """

    kernel: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    begins: Sequence[int]
    sizes: Sequence[int]
    outs: Sequence[int]
    group: int

    @property
    def spans(self) -> list[int]:
        """Per axis, the padded data that is met at all."""
        axes = zip(self.outs, self.strides, self.kernel, self.dilations, strict=True)
        return [(out - 1) * s + d * (k - 1) + 1 for out, s, k, d in axes]


@rule("Conv")
def _conv(call: Call) -> Back:
    e, x, weight = call.emit, call.x(0), call.x(1)
    sizes, kernel = e.sizes(x)[2:], e.sizes(weight)[2:]
    pad = call.attribute("auto_pad", "NOTSET")
    window = Window(
        kernel=kernel,
        strides=tuple(call.attribute("strides", ())),
        dilations=tuple(call.attribute("dilations", ())),
        pads=tuple(call.attribute("pads", ())),
        auto_pad=pad.decode() if isinstance(pad, bytes) else pad,
        group=int(call.attribute("group", 1)),
    )
    begins, outs = leading_pads(window, sizes), output_sizes(window, sizes)
    taps = _Taps(
        kernel, window.strides, window.dilations, begins, sizes, outs, window.group
    )  # fmt: skip

    def data() -> ir.Value:
        ends, more = [], []
        for n, span, begin in zip(sizes, taps.spans, begins, strict=True):
            # What a transposed convolution covers from the first output to the last.
            short = n - (span - begin)
            ends.append(max(-short, 0))
            more.append(max(short, 0))
        return e.op(
            "ConvTranspose", call.dy, weight,
            strides=list(window.strides), dilations=list(window.dilations), group=window.group,
            pads=[*begins, *ends], output_padding=more,
        )  # fmt: skip

    def kernels() -> ir.Value:
        return _kernels(e, taps, x, call.dy, (e.sizes(x)[1], e.sizes(call.y)[1]))

    return {0: data, 1: kernels, 2: lambda: _bias(call)}


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
    group = int(call.attribute("group", 1))
    # Output padding is computed without being read: the last window must not start there.
    outs, full = e.sizes(call.x(0))[2:], e.sizes(call.y)[2:]
    taps = _Taps(kernel, strides, dilations, pads[:rank], full, outs, group)
    for axis, span in enumerate(taps.spans):
        pads[rank + axis] = span - full[axis] - pads[axis]
    if min(pads) < 0:
        raise Undifferentiable("its output is padded")

    def data() -> ir.Value:
        return e.op(
            "Conv", call.dy, weight, strides=strides, dilations=dilations, pads=pads, group=group
        )

    def kernels() -> ir.Value:
        channels = e.sizes(call.y)[1], e.sizes(call.x(0))[1]
        return _kernels(e, taps, call.dy, call.x(0), channels)

    return {0: data, 1: kernels, 2: lambda: _bias(call)}


def _bias(call: Call) -> ir.Value:
    axes = [k for k in range(call.rank()) if k != 1]
    return call.emit.sum(call.dy, axes, keep=False)


def _kernels(
    e: Emit, taps: _Taps, data: ir.Value, back: ir.Value, channels: tuple[int, int]
) -> ir.Value:
    """The gradient of a kernel, ``[M, C/group, *kernel]``.

    Args:
        e: adds nodes.
        taps: where they meet the data.
        data: ``[N, C, *sizes]``.
        back: ``[N, M, *outs]``, the gradient of what came out.
        channels: C and M.
    """
    rank, group = len(taps.kernel), taps.group
    inner, outer = (count // group for count in channels)
    last = [0, *range(2, rank + 2), 1]
    ends = [max(s - b - n, 0) for s, b, n in zip(taps.spans, taps.begins, taps.sizes, strict=True)]
    padded = e.pad(data, [0, 0, *taps.begins, 0, 0, *ends])
    padded = e.op("Transpose", padded, perm=last)
    rows = _rows(e, e.op("Transpose", back, perm=last), group, outer)
    found = []
    for tap in itertools.product(*map(range, taps.kernel)):
        met = padded
        for axis, at in enumerate(tap):
            first, step, out = at * taps.dilations[axis], taps.strides[axis], taps.outs[axis]
            if taps.spans[axis] > 1 or out > 1:
                stop = first + (out - 1) * step + 1
                met = e.every(met, first, stop, step, axis + 1)
        met = _rows(e, met, group, inner)
        if group == 1:
            product = e.gemm(rows, met, transA=1)
        else:
            product = e.op("MatMul", e.op("Transpose", rows, perm=[0, 2, 1]), met)
        found.append(e.op("Reshape", product, e.integers([channels[1], inner, 1])))
    whole = e.op("Concat", *found, axis=2) if len(found) > 1 else found[0]
    return e.op("Reshape", whole, e.integers([channels[1], inner, *taps.kernel]))


def _rows(e: Emit, value: ir.Value, group: int, width: int) -> ir.Value:
    """``[N, *sizes, group * width]`` as ``[rows, width]``, or ``[group, rows, width]``."""
    if group == 1:
        return e.op("Reshape", value, e.integers([-1, width]))
    return e.op("Transpose", e.op("Reshape", value, e.integers([-1, group, width])), perm=[1, 0, 2])
