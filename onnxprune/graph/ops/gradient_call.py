"""One node as its gradient rule sees it: what an operator passes back.

Only primitives have a rule. What onnx defines as a function of simpler operators is differentiated
through its body (:mod:`onnxprune.graph.functions`), unless that is inexact: an exponential that
overflows on the side that is not taken turns a gradient into NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxprune.graph.emit import Emit, Term, Undifferentiable
from onnxprune.graph.ops.call import Node


@dataclass
class GradientCall(Node):
    """A node that is being differentiated.

    Attributes:
        emit: adds nodes.
        node: the node.
        gradients: one per output; None where nothing depends on it.
        shared: what the gradients of several inputs have in common.
    """

    emit: Emit
    node: ir.Node
    gradients: Sequence[ir.Value | None]
    shared: dict[str, list[ir.Value]] = field(default_factory=dict)

    @property
    def dy(self) -> ir.Value:
        """The gradient of the first output."""
        if self.gradients[0] is None:
            raise Undifferentiable("only a minor output is used")
        return self.gradients[0]

    @property
    def y(self) -> ir.Value:
        """The first output."""
        return self.node.outputs[0]

    def x(self, index: int = 0) -> ir.Value:
        """An input.

        Raises:
            Undifferentiable: it was left out.
        """
        value = self.input(index)
        if value is None:
            raise Undifferentiable("an input is left out")
        return value

    def input(self, index: int) -> ir.Value | None:
        """An input, None if it was left out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def rank(self) -> int:
        """Axes of the first input."""
        return len(self.emit.sizes(self.x()))

    def term(self, value: ir.Value) -> Term:
        """A value to calculate with."""
        return Term(self.emit, value)


GradientRule = Callable[[GradientCall, int], ir.Value]
"""The gradient of an input, by its position."""

GRADIENTS: dict[tuple[str, str], tuple[GradientRule, tuple[int, ...] | None]] = {}
"""(domain, operator) -> its rule, and the inputs that it is for (None: all)."""

BODIES = frozenset(
    "Attention Celu Gelu GroupNormalization HardSigmoid HardSwish LeakyRelu "
    "MeanVarianceNormalization Mish PRelu RotaryEmbedding Shrink Softsign Swish "
    "ThresholdedRelu".split()
)
"""Functions whose bodies are known to have a gradient (any other is tried too)."""


def gradient_rule(
    *ops: str, of: tuple[int, ...] | None = (0,), domain: str = ""
) -> Callable[[GradientRule], GradientRule]:
    """Register a function as the gradient rule of one or more operators.

    Args:
        ops: names of the operators.
        of: the inputs that have a gradient; None: all.
        domain: of all of them.
    """

    def register(function: GradientRule) -> GradientRule:
        GRADIENTS.update({(domain, op): (function, of) for op in ops})
        return function

    return register


def slopes(
    table: Mapping[str, Callable[[Term, Term, GradientCall], Term | float]], domain: str = ""
) -> None:
    """Register elementwise operators by their derivative: ``{"Tanh": lambda x, y, _: 1 - y * y}``.

    Args:
        table: operator -> its derivative, of its input, its output and the node.
        domain: of all of them.
    """

    def back(call: GradientCall, _: int) -> ir.Value:
        slope = table[call.op](call.term(call.x()), call.term(call.y), call)
        return (call.term(call.dy) * slope).value

    gradient_rule(*table, domain=domain)(back)
