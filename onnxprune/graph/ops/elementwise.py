"""Operators that act on every element alone: axes broadcast, nothing else."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxprune.graph.axes import Axis
from onnxprune.graph.emit import Term, Undifferentiable
from onnxprune.graph.facts import Fact
from onnxprune.graph.notation import MismatchError, Tensor
from onnxprune.graph.ops.call import CLASSIC, MICROSOFT, Call, lines, rule
from onnxprune.graph.ops.gradient_call import GradientCall, gradient_rule, slopes
from onnxprune.graph.ops.shape_call import ShapeCall, broadcast, like_first, shape_rule, share

_MS = "com.microsoft"
_FUNCTIONS = (
    "Abs Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Elu Erf Exp Gelu HardSigmoid HardSwish "
    "Identity LeakyRelu Log Mish Neg Reciprocal Relu Selu Sigmoid Sin Sinh Softplus Softsign Sqrt "
    "Swish Tan Tanh ThresholdedRelu"
)
_STEPS = (
    "BitwiseNot Cast Ceil Floor IsInf IsNaN Not Round Shrink Sign Binarizer ImageScaler "
    "ParametricSoftplus ScaledTanh Affine"
)
_ARITHMETIC = "Add Clip Div Max Min Mul Pow Sub"
lines({f"{_FUNCTIONS} {_STEPS}": "... -> ..."})
lines({"QuickGelu Gelu BiasDropout QLinearSigmoid QLinearLeakyRelu": "... -> ..."}, domain=_MS)

POINTWISE = frozenset(
    [("", op) for op in f"{_FUNCTIONS} {_ARITHMETIC}".split()]
    + [(_MS, op) for op in ("BiasGelu", "FastGelu", "Gelu", "QuickGelu")]
)
"""(domain, operator): functions of numbers that have a slope almost everywhere. Compositions of
them, with no other operands than single numbers, are activations."""
lines({"Binarizer LabelEncoder": "... -> ...", "Imputer Scaler": "... _ -> ... _"}, domain=CLASSIC)


@rule("Bernoulli", "RandomNormalLike", "RandomUniformLike")
def drawn(call: Call) -> list[Tensor]:
    """Drawn anew at each run, in the shape of the input: fewer elements are other ones."""
    for axis in call.tensor(0):
        call.space.inexact(axis, f"{call.op} `{call.name}` draws other values for another size")
    return [call.tensor(0)]


@rule("Dropout")
def dropout(call: Call) -> list[Tensor]:
    """Passes everything on, except in training mode."""
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
@rule("BiasGelu", "FastGelu", "BiasAdd", "QuantizeBFP", domain=_MS)
def broadcasting(call: Call) -> list[Tensor]:
    """Any number of operands under numpy broadcasting, biases along the last axis among them."""
    operands = [t for t in call.inputs if t is not None]
    call.touched.update(range(len(call.inputs)))
    old_axis = call.attr("axis")
    if call.version < 7 and old_axis is not None and len(operands) == 2:
        spare = len(operands[0]) - len(operands[1]) - int(old_axis)
        operands[1] = (*operands[1], *[Axis(1)] * spare)
    call.roles = {(i, k): "scales" for i, t in enumerate(call.inputs) for k in range(len(t or ()))}
    return [call.broadcast(operands)]


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


# -- shapes ----------------------------------------------------------------------------------------

shape_rule("Dropout")(lambda call: [like_first(call)] * len(call.inferred))
shape_rule(
    *"BiasAdd BiasDropout BiasGelu BitmaskDropout FastGelu Gelu QLinearLeakyRelu".split(),
    *"QLinearSigmoid QuickGelu".split(),
    domain=MICROSOFT,
)(like_first)


shape_rule("Imputer", domain=CLASSIC)(like_first)


@shape_rule("Scaler", domain=CLASSIC)
def _scaler_shape(call: ShapeCall) -> Fact:
    """As the input, always in floats."""
    return Fact(call.shape(0), ir.DataType.FLOAT)


@shape_rule("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def _quantized_binary_shape(call: ShapeCall) -> Fact:
    """(A, scale, zero, B, scale, zero, C scale, C zero)."""
    return Fact(broadcast(call.shape(0), call.shape(3)), call.fact(0).dtype)


@shape_rule("BiasSplitGelu", domain=MICROSOFT)
def _split_gelu_shape(call: ShapeCall) -> Fact:
    """Half the last axis gates the other half."""
    sizes = call.shape(0)
    halved = (*sizes[:-1], share(sizes[-1], 2)) if sizes else None
    return Fact(halved, call.fact(0).dtype)


# -- gradients -------------------------------------------------------------------------------------


def _selu(call: GradientCall) -> tuple[float, float]:
    """Alpha and gamma, with the defaults of the specification."""
    return float(call.attr("alpha", 1.6732632)), float(call.attr("gamma", 1.050701))


slopes(
    {
        "Relu": lambda x, _, __: (x > 0).mask(),
        "Elu": lambda x, y, call: (x > 0).where(1, y + float(call.attr("alpha", 1.0))),
        "Selu": lambda x, y, call: (x > 0).where(_selu(call)[1], y + math.prod(_selu(call))),
        "Clip": lambda x, y, _: x.op("Equal", y).mask(),  # limits may be attributes or inputs
        "Sigmoid": lambda _, y, __: y * (1 - y),
        "Softplus": lambda x, _, __: x.op("Sigmoid"),
        "Tanh": lambda _, y, __: 1 - y * y,
        "Erf": lambda x, _, __: (-(x * x)).op("Exp") * (2 / math.sqrt(math.pi)),
        "Exp": lambda _, y, __: y,
        "Log": lambda x, _, __: x.op("Reciprocal"),
        "Neg": lambda _, __, ___: -1.0,
        "Abs": lambda x, _, __: x.op("Sign"),
        "Sqrt": lambda _, y, __: 0.5 / y,
        "Reciprocal": lambda _, y, __: -(y * y),
        "Sin": lambda x, _, __: x.op("Cos"),
        "Cos": lambda x, _, __: -x.op("Sin"),
        "Sinh": lambda x, _, __: x.op("Cosh"),
        "Cosh": lambda x, _, __: x.op("Sinh"),
        "Tan": lambda _, y, __: y * y + 1,
        "Atan": lambda x, _, __: 1 / (x * x + 1),
        "Asinh": lambda x, _, __: 1 / (x * x + 1).op("Sqrt"),
    }
)


def _quick_gelu(x: Term, y: Term, call: GradientCall) -> Term:
    alpha = float(call.attr("alpha", 1.702))
    gate = (x * alpha).op("Sigmoid")
    return gate + y * (1 - gate) * alpha


slopes({"QuickGelu": _quick_gelu}, domain=MICROSOFT)


@gradient_rule("Identity", "Dropout")
def _same_gradient(call: GradientCall, _: int) -> ir.Value:
    return call.dy


@gradient_rule("Cast")
def _cast_gradient(call: GradientCall, _: int) -> ir.Value:
    if call.x().dtype not in (None, ir.DataType.FLOAT):
        raise Undifferentiable("it casts from another type")
    return call.emit.op("Cast", call.dy, to=int(ir.DataType.FLOAT))


@gradient_rule("Add", "Sub", "Sum", of=None)
def _add_gradient(call: GradientCall, k: int) -> ir.Value:
    dy = call.emit.op("Neg", call.dy) if call.op == "Sub" and k else call.dy
    return call.emit.fitted(dy, call.x(k), call.y)


@gradient_rule("Mul", of=(0, 1))
def _mul_gradient(call: GradientCall, k: int) -> ir.Value:
    return call.emit.fitted(call.emit.op("Mul", call.dy, call.x(1 - k)), call.x(k), call.y)


@gradient_rule("Div", of=(0, 1))
def _div_gradient(call: GradientCall, k: int) -> ir.Value:
    dy, below = call.term(call.dy), call.term(call.x(1))
    part = -(dy * call.term(call.y) / below) if k else dy / below
    return call.emit.fitted(part.value, call.x(k), call.y)


@gradient_rule("Pow")
def _pow_gradient(call: GradientCall, _: int) -> ir.Value:
    """Of the base only."""
    power = call.term(call.x(1))
    if call.x(1).dtype not in (None, ir.DataType.FLOAT):
        power = power.op("Cast", to=int(ir.DataType.FLOAT))
    slope = power * call.term(call.x()).op("Pow", power - 1)
    return call.emit.fitted((call.term(call.dy) * slope).value, call.x(), call.y)


@gradient_rule("Where", of=(1, 2))
def _where_gradient(call: GradientCall, k: int) -> ir.Value:
    dy, condition = call.term(call.dy), call.term(call.x(0))
    part = condition.where(dy, 0) if k == 1 else condition.where(0, dy)
    return call.emit.fitted(part.value, call.x(k), call.y)


@gradient_rule("Max", "Min", of=(0, 1))
def _extreme_gradient(call: GradientCall, k: int) -> ir.Value:
    if len(call.node.inputs) != 2:
        raise Undifferentiable("it compares more than two values")
    beats = "Greater" if call.op == "Max" else "Less"
    chosen = call.term(call.x(k)).op(beats, call.term(call.x(1 - k))).mask()
    return call.emit.fitted((call.term(call.dy) * chosen).value, call.x(k), call.y)
