"""Contractions with weights: convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxprune.graph.axes import Axis
from onnxprune.graph.notation import MismatchError, Tensor
from onnxprune.graph.ops.call import (
    CHANNEL,
    FFN,
    HEAD,
    HEAD_DIM,
    Call,
    Contraction,
    linear,
    rule,
)

_MS = "com.microsoft"
_CONV = "n (g i) *, (g o) i *, (g o), n (g o) * -> n (g o) *"
_CONV_TRANSPOSE = "n (g i) *, (g i) o *, (g o) -> n (g o) *"


def _groups(call: Call, channels: Axis) -> dict[str, int]:
    """``group``, kept true when whole groups leave."""
    group = int(call.attr("group", 1))
    if group > 1:
        outer = call.space.split(channels, (group, (channels.size or 0) // group))[0]
        call.settings["group"] = lambda keep: int(keep(outer).sum())
    return {"g": group}


@rule("Conv")
def conv(call: Call) -> list[Tensor]:
    """Dense, grouped and depthwise convolution."""
    return call.einsum(_CONV, _groups(call, call.tensor(0)[1]), tags=CHANNEL)


@rule("FusedConv", domain=_MS)
def fused_conv(call: Call) -> list[Tensor]:
    """Conv with an activation and, optionally, a summand (input 3) of the output's shape."""
    return conv(call)


@rule("NhwcFusedConv", "NhwcConv", domain=_MS)
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
def gemm(call: Call) -> list[Tensor]:
    """``alpha * A' B' + beta * C`` with C broadcast one way."""
    a = "k m" if call.attr("transA", 0) else "m k"
    b = "n k" if call.attr("transB", 0) else "k n"
    bias = call.inputs[2] if call.has(2) else None
    call.inputs, inputs = call.inputs[:2], call.inputs
    (out,) = call.einsum(f"{a}, {b} -> m n", tags=FFN)
    call.inputs = inputs
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
@rule("QGemm", domain=_MS)
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


@rule("FusedMatMul", "TransposeMatMul", domain=_MS)
def fused_matmul(call: Call) -> list[Tensor]:
    """MatMul with transposes in attributes."""
    if call.attr("transBatchA", 0) or call.attr("transBatchB", 0):
        raise MismatchError("transposes its batch axes")
    out = product(call, (bool(call.attr("transA", 0)), bool(call.attr("transB", 0))))
    _tag_attention(call)
    return out


@rule("FusedGemm", domain=_MS)
def fused_gemm(call: Call) -> list[Tensor]:
    """Gemm with an activation."""
    return gemm(call)


@rule("MatMulNBits", domain=_MS)
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
linear("Gemm", line=_matrices, weights=(1, 0), scale="alpha", bias_scale="beta")
linear("MatMul", line=_stacks, weights=(1, 0))
linear("Einsum", line=_equation, weights=(1, 0, 2, 3), kind="sum")
linear("FusedConv", domain=_MS, line=_CONV, kind="fused")
linear(
    *("NhwcFusedConv", "NhwcConv"),
    domain=_MS, line="n * (g i), (g o) i *, (g o) -> n * (g o)", kind="fused",
)  # fmt: skip
linear("FusedMatMul", "TransposeMatMul", domain=_MS, line=_stacks, weights=(1, 0), kind="fused")
linear("FusedGemm", domain=_MS, line=_matrices, weights=(1, 0), kind="fused")
linear("ConvInteger", line=_CONV, places=(0, 1), kind="quantized")
linear("QLinearConv", line=_CONV, weights=(3,), places=(0, 3, 8), kind="quantized")
linear("MatMulInteger", line=_stacks, places=(0, 1), kind="quantized")
linear("QLinearMatMul", line=_stacks, weights=(3,), places=(0, 3), kind="quantized")
linear("QGemm", domain=_MS, line=_matrices, weights=(3,), places=(0, 3, 6), kind="quantized")
