"""Gradients of products, with respect to both operands."""

from __future__ import annotations

import onnx_ir as ir

from onnxprune.graph.emit import Undifferentiable
from onnxprune.graph.gradients.rules import Back, Call, rule


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

    def right() -> ir.Value:
        if ranks[1] > 2:
            return batched(e.op("MatMul", turned(a, ranks[0]), call.dy), b)
        # One product of all rows instead of one for each of a batch, and their sum.
        rows = [
            e.op("Reshape", value, e.integers([-1, e.sizes(like)[-1]]))
            for value, like in ((a, a), (call.dy, call.y))
        ] if ranks[0] > 2 else [a, call.dy]  # fmt: skip
        return e.gemm(*rows, transA=1)

    return {0: lambda: batched(e.op("MatMul", call.dy, turned(b, ranks[1])), a), 1: right}


@rule("Gemm")
def _gemm(call: Call) -> Back:
    e, a, b = call.emit, call.x(0), call.x(1)
    flip_a, flip_b = (bool(call.attribute(name, 0)) for name in ("transA", "transB"))
    alpha = float(call.attribute("alpha", 1.0))

    def left() -> ir.Value:
        if flip_a:
            return e.gemm(b, call.dy, alpha=alpha, transA=int(flip_b), transB=1)
        return e.gemm(call.dy, b, alpha=alpha, transB=int(not flip_b))

    def right() -> ir.Value:
        if flip_b:
            return e.gemm(call.dy, a, alpha=alpha, transA=1, transB=int(flip_a))
        return e.gemm(a, call.dy, alpha=alpha, transA=int(not flip_a))

    def shift() -> ir.Value:
        added = e.fitted(call.dy, call.x(2), call.y)
        return e.op("Mul", added, e.number(float(call.attribute("beta", 1.0))))

    return {0: left, 1: right, 2: shift}
