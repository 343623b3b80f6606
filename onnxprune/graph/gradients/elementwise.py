"""Gradients of elementwise operators and of softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from onnxprune.graph.emit import Emit, Undifferentiable
from onnxprune.graph.gradients.rules import Back, Call, rule

_SOFTMAX_HAS_ONE_AXIS = 13


@rule("Identity", "Dropout")
def _same(call: Call) -> Back:
    return {0: lambda: call.dy}


@rule("Cast")
def _cast(call: Call) -> Back:
    source = call.x()
    if source.dtype not in (None, ir.DataType.FLOAT):
        raise Undifferentiable("it casts from another type")
    return {0: lambda: call.emit.op("Cast", call.dy, to=int(ir.DataType.FLOAT))}


@rule("Add", "Sum")
def _add(call: Call) -> Back:
    def back(index: int) -> ir.Value:
        return call.emit.fitted(call.dy, call.x(index), call.y)

    return {k: (lambda k=k: back(k)) for k in range(len(call.node.inputs))}  # type: ignore[misc]


@rule("Sub")
def _sub(call: Call) -> Back:
    e = call.emit
    return {
        0: lambda: e.fitted(call.dy, call.x(0), call.y),
        1: lambda: e.fitted(e.op("Neg", call.dy), call.x(1), call.y),
    }


@rule("Mul")
def _mul(call: Call) -> Back:
    e = call.emit
    return {
        0: lambda: e.fitted(e.op("Mul", call.dy, call.x(1)), call.x(0), call.y),
        1: lambda: e.fitted(e.op("Mul", call.dy, call.x(0)), call.x(1), call.y),
    }


@rule("Div")
def _div(call: Call) -> Back:
    e = call.emit
    a, b = call.x(0), call.x(1)

    def below() -> ir.Value:
        moved = e.op("Div", e.op("Mul", call.dy, call.y), b)
        return e.fitted(e.op("Neg", moved), b, call.y)

    return {0: lambda: e.fitted(e.op("Div", call.dy, b), a, call.y), 1: below}


@rule("Pow")
def _pow(call: Call) -> Back:
    e, base, power = call.emit, call.x(0), call.x(1)

    def back() -> ir.Value:
        if power.dtype not in (None, ir.DataType.FLOAT):
            exponent = e.op("Cast", power, to=int(ir.DataType.FLOAT))
        else:
            exponent = power
        lower = e.op("Pow", base, e.op("Sub", exponent, e.number(1.0)))
        slope = e.op("Mul", exponent, lower)
        return e.fitted(e.op("Mul", call.dy, slope), base, call.y)

    return {0: back}


@rule("Where")
def _where(call: Call) -> Back:
    e, condition = call.emit, call.x(0)

    def back(index: int) -> ir.Value:
        zero = e.number(0.0)
        parts = (call.dy, zero) if index == 1 else (zero, call.dy)
        return e.fitted(e.op("Where", condition, *parts), call.x(index), call.y)

    return {1: lambda: back(1), 2: lambda: back(2)}


@rule("Max", "Min")
def _extreme(call: Call) -> Back:
    if len(call.node.inputs) != 2:
        raise Undifferentiable("it compares more than two values")
    e = call.emit
    kind = "Greater" if call.node.op_type == "Max" else "Less"

    def back(index: int) -> ir.Value:
        chosen = e.op("Cast", e.op(kind, call.x(index), call.x(1 - index)), to=1)
        return e.fitted(e.op("Mul", call.dy, chosen), call.x(index), call.y)

    return {0: lambda: back(0), 1: lambda: back(1)}


Slope = Callable[[Emit, Call], ir.Value]


def _sigmoid(e: Emit, call: Call) -> ir.Value:
    return e.op("Mul", call.y, e.op("Sub", e.number(1.0), call.y))


def _positive(e: Emit, call: Call) -> ir.Value:
    return e.op("Cast", e.op("Greater", call.x(), e.number(0.0)), to=1)


def _leaky(e: Emit, call: Call) -> ir.Value:
    low = e.number(float(call.attribute("alpha", 0.01)))
    return e.op("Where", e.op("Greater", call.x(), e.number(0.0)), e.number(1.0), low)


def _elu(e: Emit, call: Call) -> ir.Value:
    alpha = e.number(float(call.attribute("alpha", 1.0)))
    positive = e.op("Greater", call.x(), e.number(0.0))
    return e.op("Where", positive, e.number(1.0), e.op("Add", call.y, alpha))


def _clip(e: Emit, call: Call) -> ir.Value:
    """One where the value was not moved: limits may be attributes or inputs."""
    return e.op("Cast", e.op("Equal", call.x(), call.y), to=1)


def _erf(e: Emit, call: Call) -> ir.Value:
    bell = e.op("Exp", e.op("Neg", e.op("Mul", call.x(), call.x())))
    return e.op("Mul", bell, e.number(2 / math.sqrt(math.pi)))


def _tanh(e: Emit, call: Call) -> ir.Value:
    return e.op("Sub", e.number(1.0), e.op("Mul", call.y, call.y))


def _gelu(e: Emit, call: Call) -> ir.Value:
    x = call.x()
    if call.attribute("approximate", "none") != "none":
        c = math.sqrt(2 / math.pi)
        cube = e.op("Mul", e.op("Mul", x, x), x)
        inner = e.op("Mul", e.number(c), e.op("Add", x, e.op("Mul", e.number(0.044715), cube)))
        t = e.op("Tanh", inner)
        rising = e.op("Mul", e.number(3 * 0.044715), e.op("Mul", x, x))
        steep = e.op("Mul", e.number(0.5 * c), e.op("Add", e.number(1.0), rising))
        bent = e.op("Mul", e.op("Mul", x, e.op("Sub", e.number(1.0), e.op("Mul", t, t))), steep)
        return e.op("Add", e.op("Mul", e.number(0.5), e.op("Add", t, e.number(1.0))), bent)
    mass = e.op("Erf", e.op("Mul", x, e.number(1 / math.sqrt(2))))
    below = e.op("Mul", e.number(0.5), e.op("Add", mass, e.number(1.0)))
    bell = e.op("Exp", e.op("Mul", e.op("Mul", x, x), e.number(-0.5)))
    density = e.op("Mul", bell, e.number(1 / math.sqrt(2 * math.pi)))
    return e.op("Add", below, e.op("Mul", x, density))


def _hard_sigmoid(e: Emit, call: Call) -> ir.Value:
    inside = e.op("And", e.op("Greater", call.y, e.number(0.0)), e.op("Less", call.y, e.number(1.0)))  # noqa: E501  # fmt: skip
    return e.op("Mul", e.op("Cast", inside, to=1), e.number(float(call.attribute("alpha", 0.2))))


def _hard_swish(e: Emit, call: Call) -> ir.Value:
    x = call.x()
    gate = e.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    inside = e.op("And", e.op("Greater", gate, e.number(0.0)), e.op("Less", gate, e.number(1.0)))
    rising = e.op("Mul", e.op("Cast", inside, to=1), e.op("Mul", x, e.number(1 / 6)))
    return e.op("Add", gate, rising)


def _swish(e: Emit, call: Call) -> ir.Value:
    alpha = e.number(float(call.attribute("alpha", 1.0)))
    gate = e.op("Sigmoid", e.op("Mul", alpha, call.x()))
    rest = e.op("Mul", e.op("Mul", alpha, call.y), e.op("Sub", e.number(1.0), gate))
    return e.op("Add", gate, rest)


_SLOPES: dict[str, Slope] = {
    "Relu": _positive,
    "LeakyRelu": _leaky,
    "Elu": _elu,
    "Clip": _clip,
    "Sigmoid": _sigmoid,
    "Tanh": _tanh,
    "Erf": _erf,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Swish": _swish,
    "Softplus": lambda e, call: e.op("Sigmoid", call.x()),
    "Exp": lambda _, call: call.y,
    "Log": lambda e, call: e.op("Reciprocal", call.x()),
    "Neg": lambda e, _: e.number(-1.0),
    "Abs": lambda e, call: e.op("Sign", call.x()),
    "Sqrt": lambda e, call: e.op("Div", e.number(0.5), call.y),
    "Reciprocal": lambda e, call: e.op("Neg", e.op("Mul", call.y, call.y)),
    "Sin": lambda e, call: e.op("Cos", call.x()),
    "Cos": lambda e, call: e.op("Neg", e.op("Sin", call.x())),
}


@rule(*_SLOPES)
def _by_slope(call: Call) -> Back:
    slope = _SLOPES[call.node.op_type]
    return {0: lambda: call.emit.op("Mul", call.dy, slope(call.emit, call))}


def _softmax_axis(call: Call) -> int:
    if call.emit.version >= _SOFTMAX_HAS_ONE_AXIS:
        return int(call.attribute("axis", -1))
    axis, rank = int(call.attribute("axis", 1)), call.rank()
    if axis % rank != rank - 1:
        raise Undifferentiable("it normalises over several axes at once")
    return -1


@rule("Softmax")
def _softmax(call: Call) -> Back:
    e, axis = call.emit, _softmax_axis(call)

    def back() -> ir.Value:
        mean = e.sum(e.op("Mul", call.dy, call.y), [axis])
        return e.op("Mul", call.y, e.op("Sub", call.dy, mean))

    return {0: back}


@rule("LogSoftmax")
def _log_softmax(call: Call) -> Back:
    e, axis = call.emit, _softmax_axis(call)
    return {
        0: lambda: e.op("Sub", call.dy, e.op("Mul", e.op("Exp", call.y), e.sum(call.dy, [axis])))
    }
