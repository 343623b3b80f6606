"""Contractions with weights: convolutions and matrix products."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxprune.graph.axes import Axis
from onnxprune.graph.emit import Emit, Undifferentiable
from onnxprune.graph.facts import Fact
from onnxprune.graph.notation import MismatchError, Tensor
from onnxprune.graph.ops.call import (
    CHANNEL,
    FFN,
    HEAD,
    HEAD_DIM,
    MICROSOFT,
    Call,
    Contraction,
    count,
    linear,
    rule,
)
from onnxprune.graph.ops.gradient_call import GradientCall, gradient_rule
from onnxprune.graph.ops.shape_call import (
    InconsistentError,
    ShapeCall,
    ShapeRule,
    check_window,
    like_first,
    multiply,
    require,
    shape_rule,
    window_places,
)
from onnxprune.solve.im2col import Window, leading_pads, output_sizes

_CONV = "n (g i) *, (g o) i *, (g o), n (g o) * -> n (g o) *"
_DEFORM_CONV = "n (g i) *, (g o) i *, n *, (g o), n * -> n (g o) *"
_CONV_TRANSPOSE = "n (g i) *, (g i) o *, (g o) -> n (g o) *"


def _groups(call: Call, channels: Axis) -> dict[str, int]:
    """``group``, kept true when whole groups leave."""
    group = int(call.attr("group", 1))
    if group > 1:
        outer = call.space.split(channels, (group, (channels.size or 0) // group))[0]
        call.settings["group"] = count(outer)
    return {"g": group}


@rule("Conv")
@rule("FusedConv", domain=MICROSOFT)
def conv(call: Call) -> list[Tensor]:
    """Dense, grouped and depthwise convolution.

    Fused, it has an activation and, optionally, a summand (input 3) of the output's shape.
    """
    return call.einsum(_CONV, _groups(call, call.tensor(0)[1]), tags=CHANNEL)


@rule("DeformConv")
def deform_conv(call: Call) -> list[Tensor]:
    """Offsets and masks (inputs 2 and 4) move taps, the same for all channels of a group."""
    if call.attr("offset_group", 1) > 1:
        raise MismatchError("each group of channels has offsets of its own")
    return call.einsum(_DEFORM_CONV, _groups(call, call.tensor(0)[1]), tags=CHANNEL)


@rule("NhwcFusedConv", "NhwcConv", domain=MICROSOFT)
def nhwc_conv(call: Call) -> list[Tensor]:
    """Channels-last activations, weights as in Conv."""
    line = "n ... (g i), (g o) i *, (g o) -> n ... (g o)"
    rank = len(call.tensor(0))
    space = " ".join(["_"] * (rank - 2))
    sizes = _groups(call, call.tensor(0)[-1])
    return call.einsum(line.replace("...", space), sizes, tags=CHANNEL)


@rule("ConvTranspose")
def conv_transpose(call: Call) -> list[Tensor]:
    """Weights are ``[in, out/group, ...]``."""
    sizes = _groups(call, call.tensor(0)[1])
    out = call.einsum(_CONV_TRANSPOSE, sizes, tags=CHANNEL)
    image, weight = call.tensor(0), call.tensor(1)
    call.work = [[*image, weight[1], *weight[2:]]]
    return out


@rule("ConvInteger")
def conv_integer(call: Call) -> list[Tensor]:
    """Integer convolution; a removed weight is its zero point."""
    out = call.einsum("n (g i) *, (g o) i * -> n (g o) *", _groups(call, call.tensor(0)[1]))
    call.contractions = [Contraction(((1, 1),), fill=3 if call.has(3) else None)]
    call.pin(3)
    return out


@rule("QLinearConv")
def qlinear_conv(call: Call) -> list[Tensor]:
    """x, scale, zero, w, scale, zero, y scale, y zero, bias."""
    at = [i for i in (0, 3, 4, 5, 8) if i < 9 and call.has(i)]
    vector = ["(g o)" if len(call.tensor(i)) and call.shape(i) != [1] else "*" for i in at[2:]]
    line = ", ".join(["n (g i) *", "(g o) i *", *vector]) + " -> n (g o) *"
    call.touched.update(at)
    sub = Call(**{**call.__dict__, "inputs": [call.inputs[i] for i in at]})
    out = sub.einsum(line, _groups(call, call.tensor(0)[1]), tags=CHANNEL)
    call.roles = {(at[i], k): role for (i, k), role in sub.roles.items()}
    call.work, call.settings = sub.work, sub.settings
    call.contractions = [Contraction(((3, 1),), fill=5 if call.has(5) else None)]
    return out


@rule("Gemm")
@rule("FusedGemm", domain=MICROSOFT)
def gemm(call: Call) -> list[Tensor]:
    """``alpha * A' B' + beta * C`` with C broadcast one way; fused, an activation of that."""
    a = "k m" if call.attr("transA", 0) else "m k"
    b = "n k" if call.attr("transB", 0) else "k n"
    bias = call.inputs[2] if call.has(2) else None
    (out,) = call.einsum(f"{a}, {b} -> m n", tags=FFN, first=2)
    if bias is not None:
        call.broadcast([out, bias])
        call.touched.add(2)
        call.roles |= {(2, k): "scales" for k in range(len(bias))}
    return [out]


def product(call: Call, flip: tuple[bool, bool] = (False, False)) -> list[Tensor]:
    """numpy.matmul, either operand optionally with its last two axes swapped."""
    a, b = call.tensor(0), call.tensor(1)
    left = "k" if len(a) == 1 else "... k m" if flip[0] else "... m k"
    right = "k" if len(b) == 1 else "... n k" if flip[1] else "... k n"
    lead = "..." if max(len(a), len(b)) > 2 else ""
    if min(len(a), len(b)) == 2 == max(len(a), len(b)):
        left, right = left.replace("... ", ""), right.replace("... ", "")
    out = " ".join([lead, "m" * (len(a) > 1), "n" * (len(b) > 1)])
    return call.einsum(f"{left}, {right} -> {out}", tags=FFN)


def _tag_attention(call: Call) -> None:
    """A product of two activations over a batch of heads: say which axes are heads."""
    if any(call.static[:2]) or len(call.inputs) != 2 or len(call.tensor(0)) < 3:
        return
    for i in (0, 1):
        for k, axis in enumerate(call.tensor(i)):
            batch = call.roles.get((i, k), "scales") == "scales"
            call.space.tag(axis, HEAD if batch else HEAD_DIM)


@rule("MatMul")
def matmul(call: Call) -> list[Tensor]:
    """Batched or not, weights on either side."""
    out = product(call)
    _tag_attention(call)
    return out


_QUANTISED = {
    "MatMulInteger": ([0, 1], [3]),
    "QLinearMatMul": ([0, 3], [4, 5]),
    "QGemm": ([0, 3, 6], [4, 5]),
}
"""Where operands are, and what may hold one value per column of the second: scale, zero point."""


@rule("MatMulInteger", "QLinearMatMul")
@rule("QGemm", domain=MICROSOFT)
def quantised_product(call: Call) -> list[Tensor]:
    """A matrix product of codes; a removed weight is its zero point."""
    at, per_column = _QUANTISED[call.op]
    for i in set(range(len(call.inputs))) - {*at, *per_column}:
        if call.has(i) and any(n != 1 for n in call.shape(i)):
            raise MismatchError("scales or zero points per row")
    inputs = [call.inputs[i] if call.has(i) else None for i in at]
    sub = Call(**{**call.__dict__, "inputs": inputs, "contractions": [], "roles": {}})
    out = gemm(sub) if call.op == "QGemm" else product(sub)
    call.roles = {(at[i], k): role for (i, k), role in sub.roles.items()}
    columns = call.tensor(at[1])[0 if call.attr("transB", 0) else -1]
    for i in per_column:
        if call.has(i) and any(n != 1 for n in call.shape(i)):
            call.space.unify(columns, call.tensor(i)[0])
    zero = per_column[-1] if call.has(per_column[-1]) else None
    slots = [(at[1], k) for c in sub.contractions for i, k in c.slots if i == 1]
    call.contractions = [Contraction((slot,), fill=zero) for slot in slots]
    call.touched.update(at)
    return out


@rule("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul(call: Call) -> list[Tensor]:
    """MatMul with transposes in attributes."""
    if call.attr("transBatchA", 0) or call.attr("transBatchB", 0):
        raise MismatchError("transposes its batch axes")
    out = product(call, (bool(call.attr("transA", 0)), bool(call.attr("transB", 0))))
    _tag_attention(call)
    return out


@rule("MatMulNBits", domain=MICROSOFT)
def matmul_nbits(_: Call) -> list[Tensor]:
    """K and N are packed into blocks of codes, so neither can lose single indices."""
    raise MismatchError("weights are packed in blocks of 4-bit codes along K")


def _equation(attributes: Mapping[str, Any]) -> str:
    """The line that an equation is."""
    text = str(attributes.get("equation")).replace(" ", "")
    if "->" not in text:
        free = [c for c in sorted(set(text)) if c.isalpha() and text.count(c) == 1]
        text += "->" + ("..." if "..." in text else "") + "".join(free)
    line = " ".join(text.replace("...", "…").replace("->", "→"))
    return line.replace("…", "...").replace("→", "->")


@rule("Einsum")
def einsum(call: Call) -> list[Tensor]:
    """The equation is the rule: letters are axes."""
    out = call.einsum(_equation(call.attributes), tags=FFN)
    _tag_attention(call)
    return out


def _matrices(attributes: Mapping[str, Any]) -> str:
    """A product of two matrices, either transposed, and a bias per column."""
    a = "k m" if attributes.get("transA", 0) else "m k"
    b = "n k" if attributes.get("transB", 0) else "k n"
    return f"{a}, {b}, n -> m n"


def _stacks(attributes: Mapping[str, Any]) -> str:
    """A product of two stacks of matrices, either transposed."""
    a = "... k m" if attributes.get("transA", 0) else "... m k"
    b = "... n k" if attributes.get("transB", 0) else "... k n"
    return f"{a}, {b} -> ... m n"


linear("Conv", line=_CONV)
linear("ConvTranspose", line=_CONV_TRANSPOSE)
linear("DeformConv", line=_DEFORM_CONV, kind="deformable")
linear("Gemm", line=_matrices, weights=(1, 0), scale="alpha", bias_scale="beta")
linear("MatMul", line=_stacks, weights=(1, 0))
linear("Einsum", line=_equation, weights=(1, 0, 2, 3), kind="sum")
linear("FusedConv", domain=MICROSOFT, line=_CONV, kind="fused")
linear(
    *("NhwcFusedConv", "NhwcConv"),
    domain=MICROSOFT, line="n * (g i), (g o) i *, (g o) -> n * (g o)", kind="fused",
)  # fmt: skip
linear(
    "FusedMatMul", "TransposeMatMul", domain=MICROSOFT, line=_stacks, weights=(1, 0), kind="fused"
)
linear("FusedGemm", domain=MICROSOFT, line=_matrices, weights=(1, 0), kind="fused")
linear("ConvInteger", line=_CONV, places=(0, 1), kind="quantized")
linear("QLinearConv", line=_CONV, weights=(3,), places=(0, 3, 8), kind="quantized")
linear("MatMulInteger", line=_stacks, places=(0, 1), kind="quantized")
linear("QLinearMatMul", line=_stacks, weights=(3,), places=(0, 3), kind="quantized")
linear("QGemm", domain=MICROSOFT, line=_matrices, weights=(3,), places=(0, 3, 6), kind="quantized")


# -- shapes ----------------------------------------------------------------------------------------


def _convolution_check(weight_at: int) -> ShapeRule:
    """Input channels meet those of the weight, and the window has at least one place."""

    def check(call: ShapeCall) -> Fact:
        x, weight = call.sizes(0), call.sizes(weight_at)
        if x is not None and weight is not None and len(x) > 2 and len(weight) == len(x):
            require(x[1], weight[1] * call.integer("group", 1), "channels")
            check_window(call, x[2:], weight[2:])
        return call.result

    return check


shape_rule("Conv", "ConvInteger")(_convolution_check(1))
shape_rule("QLinearConv")(_convolution_check(3))


@shape_rule("ConvTranspose")
def _conv_transpose_shape(call: ShapeCall) -> Fact:
    x, weight = call.sizes(0), call.sizes(1)
    if x is not None and weight is not None and len(x) > 1 and weight:
        require(x[1], weight[0], "channels")
    return call.result


def _convolution_of_layout(weight_at: int, *, last: int) -> ShapeRule:
    """Data may be channels last (``last``: when unsaid); weights are [out, in, ...] all the same.

    Source: onnxruntime ``core/graph/contrib_ops/nhwc_schema_defs.cc``.
    """

    def convolution(call: ShapeCall) -> Fact:
        sizes, weight = call.shape(0), call.shape(weight_at)
        dtype = call.fact(7 if weight_at == 3 else 0).dtype or call.fact(0).dtype
        if sizes is None or weight is None or len(sizes) != len(weight):
            return Fact(None, dtype)
        behind = bool(call.integer("channels_last", last))
        out = window_places(call, sizes[1:-1] if behind else sizes[2:], weight[2:])
        return Fact((sizes[0], *((*out, weight[0]) if behind else (weight[0], *out))), dtype)

    return convolution


shape_rule("NhwcConv", "NhwcFusedConv", domain=MICROSOFT)(_convolution_of_layout(1, last=1))
shape_rule("QLinearConv", domain=MICROSOFT)(_convolution_of_layout(3, last=0))


@shape_rule("Einsum")
def _einsum_shape(call: ShapeCall) -> Fact:
    """A letter has one size, or 1."""
    equation = str(call.attr("equation", "")).replace(" ", "")
    seen: dict[str, int] = {}
    for index, term in enumerate(equation.split("->")[0].split(",")):
        sizes = call.sizes(index)
        if sizes is None or "." in term or len(term) != len(sizes):
            continue
        for letter, size in zip(term, sizes, strict=True):
            if size != 1 and seen.setdefault(letter, size) != size:
                raise InconsistentError(f"{letter} is {seen[letter]} and {size} in {equation}")
    return call.result


@shape_rule("FusedMatMul", "FusedMatMulActivation", domain=MICROSOFT)
def _fused_matmul_shape(call: ShapeCall) -> Fact:
    """transA/transB swap the last two axes, transBatchA/B rotate the leading ones."""
    operands = []
    for index, letter in enumerate("AB"):
        sizes = call.shape(index)
        if sizes is not None and len(sizes) > 1:
            if call.integer(f"transBatch{letter}"):
                sizes = (*sizes[1:-1], sizes[0], sizes[-1])
            if call.integer(f"trans{letter}"):
                sizes = (*sizes[:-2], sizes[-1], sizes[-2])
        operands.append(sizes)
    return Fact(multiply(*operands), call.fact(0).dtype)


@shape_rule("DynamicQuantizeMatMul", "MatMulIntegerToFloat", domain=MICROSOFT)
def _scaled_matmul_shape(call: ShapeCall) -> Fact:
    """An integer product, of the type of the scale."""
    return Fact(multiply(call.shape(0), call.shape(1)), call.fact(2).dtype)


@shape_rule("MatMulNBits", "MatMulBnb4", domain=MICROSOFT)
def _packed_matmul_shape(call: ShapeCall) -> Fact:
    """The weight is packed, its columns N are an attribute."""
    sizes, columns = call.shape(0), call.integer("N") or None
    if sizes and sizes[-1] not in (None, call.integer("K", sizes[-1] or 0)):
        raise ValueError(f"{sizes[-1]} columns meet {call.integer('K')} rows")
    return Fact((*sizes[:-1], columns) if sizes else None, call.fact(0).dtype)


@shape_rule("QGemm", domain=MICROSOFT)
def _quantized_gemm_shape(call: ShapeCall) -> Fact:
    """(A, scale, zero, B, scale, zero, C, Y scale, Y zero); a float result without them."""
    a, b = call.shape(0, 2), call.shape(3, 2)
    if a is not None and call.integer("transA"):
        a = a[::-1]
    if b is not None and call.integer("transB"):
        b = b[::-1]
    return Fact(multiply(a, b), call.fact(8).dtype or ir.DataType.FLOAT)


shape_rule("GemmFastGelu", "Inverse", "MoE", "QMoE", domain=MICROSOFT)(like_first)


@shape_rule("STFT")
def _stft_shape(call: ShapeCall) -> Fact:
    """Onesided transforms keep half the frequencies, which onnx's inference forgets."""
    window, fact = call.sizes(2), call.result
    stated = call.inputs[3] if len(call.inputs) > 3 else None
    length = window[0] if window else None
    if stated is not None:
        length = int(stated.value.reshape(-1)[0]) if stated.value is not None else None
    if fact.shape is None or len(fact.shape) != 4:
        return fact
    bins = length
    if length is not None and call.attr("onesided", 1):
        bins = length // 2 + 1
    return Fact((*fact.shape[:2], bins, fact.shape[3]), fact.dtype)


# -- gradients of products, with respect to both operands ------------------------------------------


@gradient_rule("MatMul", of=(0, 1))
def _matmul_gradient(call: GradientCall, k: int) -> ir.Value:
    e, a, b = call.emit, call.x(0), call.x(1)
    ranks = [len(e.sizes(v)) for v in (a, b)]
    if min(ranks) < 2:
        raise Undifferentiable("it multiplies with a vector")
    if k == 1 and ranks[1] == 2:
        # One product of all rows instead of one for each of a batch, and their sum.
        rows = [
            e.op("Reshape", value, e.integers([-1, e.sizes(like)[-1]]))
            for value, like in ((a, a), (call.dy, call.y))
        ] if ranks[0] > 2 else [a, call.dy]  # fmt: skip
        return e.gemm(*rows, transA=1)
    other, rank = call.x(1 - k), ranks[1 - k]
    turned = e.op("Transpose", other, perm=[*range(rank - 2), rank - 1, rank - 2])
    gradient = e.op("MatMul", *((turned, call.dy) if k else (call.dy, turned)))
    # Summed over batch axes that the operand was broadcast along.
    small, large = e.sizes(call.x(k)), e.sizes(call.y)
    extra = len(large) - len(small)
    axes = [
        axis for axis in range(len(large) - 2)
        if axis < extra or (small[axis - extra] == 1 and large[axis] != 1)
    ]  # fmt: skip
    return e.like(e.sum(gradient, axes), call.x(k)) if axes else gradient


@gradient_rule("Gemm", of=(0, 1, 2))
def _gemm_gradient(call: GradientCall, k: int) -> ir.Value:
    e, a, b = call.emit, call.x(0), call.x(1)
    flip_a, flip_b = int(call.attr("transA", 0)), int(call.attr("transB", 0))
    alpha = float(call.attr("alpha", 1.0))
    if k == 2:
        added = e.fitted(call.dy, call.x(2), call.y)
        return e.op("Mul", added, e.number(float(call.attr("beta", 1.0))))
    if k == 0:
        if flip_a:
            return e.gemm(b, call.dy, alpha=alpha, transA=flip_b, transB=1)
        return e.gemm(call.dy, b, alpha=alpha, transB=1 - flip_b)
    if flip_b:
        return e.gemm(call.dy, a, alpha=alpha, transA=1, transB=flip_a)
    return e.gemm(a, call.dy, alpha=alpha, transA=1 - flip_a)


@gradient_rule("Einsum", of=None)
def _einsum_gradient(call: GradientCall, k: int) -> ir.Value:
    """An operand's gradient is the product of the others and of what comes back, summed anew."""
    text = str(call.attr("equation")).replace(" ", "")
    ins, out = text.split("->")[0].split(","), text.partition("->")[2]
    if "->" not in text or "." in text or any(len(set(t)) < len(t) for t in ins):
        raise Undifferentiable("its equation has an ellipsis, a diagonal or no arrow")
    terms = [out, *ins[:k], *ins[k + 1 :]]
    if not set(ins[k]) <= set("".join(terms)):
        raise Undifferentiable("it sums an operand along an axis of its own")
    values = [call.x(i) for i in range(len(ins)) if i != k]
    return call.emit.op("Einsum", call.dy, *values, equation=f"{','.join(terms)}->{ins[k]}")


# -- gradients of convolutions, with respect to the data, the kernel and the bias ------------------
#
# The gradient of a kernel is one product per tap: of what the tap meets, taken out of the padded
# data, with the gradient of what came out. A transposed convolution is the same with the two in
# each other's place.


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


@gradient_rule("Conv", of=(0, 1, 2))
def _conv_gradient(call: GradientCall, k: int) -> ir.Value:
    if k == 2:
        return _bias_gradient(call)
    e, x, weight = call.emit, call.x(0), call.x(1)
    sizes, kernel = e.sizes(x)[2:], e.sizes(weight)[2:]
    window = Window(
        kernel=kernel,
        strides=tuple(call.attr("strides", ())),
        dilations=tuple(call.attr("dilations", ())),
        pads=tuple(call.attr("pads", ())),
        auto_pad=call.attr("auto_pad", "NOTSET"),
        group=int(call.attr("group", 1)),
    )
    begins, outs = leading_pads(window, sizes), output_sizes(window, sizes)
    taps = _Taps(
        kernel, window.strides, window.dilations, begins, sizes, outs, window.group
    )  # fmt: skip
    if k == 1:
        return _kernel_gradient(e, taps, x, call.dy, (e.sizes(x)[1], e.sizes(call.y)[1]))
    # What a transposed convolution covers from the first output to the last.
    short = [n - (s - b) for n, s, b in zip(sizes, taps.spans, begins, strict=True)]
    return e.op(
        "ConvTranspose", call.dy, weight,
        strides=list(window.strides), dilations=list(window.dilations), group=window.group,
        pads=[*begins, *(max(-n, 0) for n in short)], output_padding=[max(n, 0) for n in short],
    )  # fmt: skip


@gradient_rule("ConvTranspose", of=(0, 1, 2))
def _conv_transpose_gradient(call: GradientCall, k: int) -> ir.Value:
    if k == 2:
        return _bias_gradient(call)
    e, weight = call.emit, call.x(1)
    if call.attr("auto_pad", "NOTSET") != "NOTSET":
        raise Undifferentiable("it pads automatically")
    if call.attr("output_shape") is not None:
        raise Undifferentiable("its output size is an attribute")
    kernel = e.sizes(weight)[2:]
    rank, group = len(kernel), int(call.attr("group", 1))
    strides = list(call.attr("strides", (1,) * rank))
    dilations = list(call.attr("dilations", (1,) * rank))
    pads = list(call.attr("pads", (0,) * (2 * rank)))
    # Output padding is computed without being read: the last window must not start there.
    outs, full = e.sizes(call.x(0))[2:], e.sizes(call.y)[2:]
    taps = _Taps(kernel, strides, dilations, pads[:rank], full, outs, group)
    for axis, span in enumerate(taps.spans):
        pads[rank + axis] = span - full[axis] - pads[axis]
    if min(pads) < 0:
        raise Undifferentiable("its output is padded")
    if k == 1:
        channels = e.sizes(call.y)[1], e.sizes(call.x(0))[1]
        return _kernel_gradient(e, taps, call.dy, call.x(0), channels)
    return e.op(
        "Conv", call.dy, weight, strides=strides, dilations=dilations, pads=pads, group=group
    )


def _bias_gradient(call: GradientCall) -> ir.Value:
    axes = [k for k in range(call.rank()) if k != 1]
    return call.emit.sum(call.dy, axes, keep=False)


def _kernel_gradient(
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
    products = []
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
        products.append(e.op("Reshape", product, e.integers([channels[1], inner, 1])))
    whole = e.op("Concat", *products, axis=2) if len(products) > 1 else products[0]
    return e.op("Reshape", whole, e.integers([channels[1], inner, *taps.kernel]))


def _rows(e: Emit, value: ir.Value, group: int, width: int) -> ir.Value:
    """``[N, *sizes, group * width]`` as ``[rows, width]``, or ``[group, rows, width]``."""
    if group == 1:
        return e.op("Reshape", value, e.integers([-1, width]))
    return e.op("Transpose", e.op("Reshape", value, e.integers([-1, group, width])), perm=[1, 0, 2])
