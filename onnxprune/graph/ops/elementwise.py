"""Operators that act on every element alone: axes broadcast, nothing else."""

from __future__ import annotations

from onnxprune.graph.axes import Axis
from onnxprune.graph.notation import MismatchError, Tensor
from onnxprune.graph.ops.call import Call, lines, rule

_MS = "com.microsoft"
_FUNCTIONS = (
    "Abs Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Elu Erf Exp Gelu HardSigmoid HardSwish "
    "Identity LeakyRelu Log Mish Neg Reciprocal Relu Selu Sigmoid Sin Sinh Softplus Softsign Sqrt "
    "Swish Tan Tanh ThresholdedRelu"
)
_STEPS = (
    "BitwiseNot Cast Ceil Floor IsInf IsNaN Not Round Shrink Sign Binarizer ImageScaler "
    "ParametricSoftplus ScaledTanh Affine Bernoulli"
)
_ARITHMETIC = "Add Clip Div Max Min Mul Pow Sub"
lines({f"{_FUNCTIONS} {_STEPS}": "... -> ..."})
lines({"QuickGelu Gelu BiasDropout": "... -> ..."}, domain=_MS)

POINTWISE = frozenset(
    [("", op) for op in f"{_FUNCTIONS} {_ARITHMETIC}".split()]
    + [(_MS, op) for op in ("BiasGelu", "FastGelu", "Gelu", "QuickGelu")]
)
"""(domain, operator): functions of numbers that have a slope almost everywhere. What is made of
them, with no other operands than single numbers, is an activation."""


@rule("Dropout")
def dropout(call: Call) -> list[Tensor]:
    """Passes everything on, unless it is told to train."""
    if call.has(2) and call.value(2) != [0]:
        raise MismatchError("drops at random, as in training")
    return call.einsum("..., , -> ..., ...")


@rule("CastLike")
def cast_like(call: Call) -> list[Tensor]:
    """Its second operand lends nothing but its type."""
    call.touched.add(1)
    return [call.tensor(0)]


@rule(
    *_ARITHMETIC.split(),
    *(
        "And BitShift BitwiseAnd BitwiseOr BitwiseXor Equal Greater GreaterOrEqual Less "
        "LessOrEqual Mean Mod Or PRelu Sum Where Xor"
    ).split(),
)
def broadcasting(call: Call) -> list[Tensor]:
    """Any number of operands under numpy broadcasting."""
    given = [t for t in call.inputs if t is not None]
    call.touched.update(range(len(call.inputs)))
    old_axis = call.attr("axis")
    if call.version < 7 and old_axis is not None and len(given) == 2:
        spare = len(given[0]) - len(given[1]) - int(old_axis)
        given[1] = (*given[1], *[Axis(1)] * spare)
    call.roles = {(i, k): "scales" for i, t in enumerate(call.inputs) for k in range(len(t or ()))}
    return [call.broadcast(given)]


@rule("BiasGelu", "FastGelu", "BiasAdd", "QuantizeBFP", domain="com.microsoft")
def bias_gelu(call: Call) -> list[Tensor]:
    """An activation after an optional bias along the last axis."""
    return broadcasting(call)


@rule("QuantizeLinear", "DequantizeLinear")
@rule("QuantizeLinear", "DequantizeLinear", domain="com.microsoft")
def quantize(call: Call) -> list[Tensor]:
    """Per tensor, per axis, or in blocks along one axis."""
    x = call.tensor(0)
    block = int(call.attr("block_size", 0))
    at = call.axis(1, len(x)) if x else 0
    for i in (1, 2):
        if not call.has(i):
            continue
        parameter = call.tensor(i)
        call.roles |= {(i, k): "scales" for k in range(len(parameter))}
        if block:
            call.pin(0, [at], "quantised in blocks along this axis")
            call.pin(i, [at], "quantised in blocks along this axis")
            for k, axis in enumerate(parameter):
                if k != at:
                    call.space.unify(x[k], axis)
        elif len(parameter) == 1 and parameter[0].size == x[at].size:
            call.space.unify(x[at], parameter[0])
        elif any(a.size != 1 for a in parameter):
            raise MismatchError("scale of an unexpected shape")
    return [x]


@rule("DynamicQuantizeLinear")
def dynamic_quantize(call: Call) -> list[Tensor]:
    """One scale for all: the largest element of what is kept."""
    for axis in call.tensor(0):
        call.space.inexact(axis, f"DynamicQuantizeLinear `{call.name}` has one scale for all")
    return [call.tensor(0), (), ()]


@rule("QLinearAdd", "QLinearMul", domain="com.microsoft")
def qlinear_binary(call: Call) -> list[Tensor]:
    """a, scale, zero, b, scale, zero, y scale, y zero, all per tensor."""
    return [call.broadcast([call.tensor(0), call.tensor(3)])]


@rule("QLinearSigmoid", "QLinearLeakyRelu", domain="com.microsoft")
def qlinear_unary(call: Call) -> list[Tensor]:
    """Per-tensor quantised activation."""
    return [call.tensor(0)]
