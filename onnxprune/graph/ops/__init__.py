"""What every operator is: one file per family, with the rules of its operators.

* an axis rule (:mod:`onnxprune.graph.ops.call`): what the operator does to axes, a line of notation
  or a small function. Without one all axes of an operator are pinned, with that reason: an unknown
  operator costs opportunity, never correctness.
* a shape rule (:mod:`onnxprune.graph.ops.shape_call`), where onnx infers none, or a wrong one.
* a gradient rule (:mod:`onnxprune.graph.ops.gradient_call`), if it is no function of others.

``docs/operators.md`` lists which operator has which.
"""

from onnxprune.graph.ops import attention, elementwise, linear, movement, norm, recurrent, rows
from onnxprune.graph.ops.call import (
    LINEAR,
    RULES,
    Call,
    Contraction,
    Keep,
    Linear,
    Rule,
    apply_rule,
    lines,
    rule,
)
from onnxprune.graph.ops.gradient_call import GRADIENTS
from onnxprune.graph.ops.shape_call import SHAPES

__all__ = [
    "GRADIENTS",
    "LINEAR",
    "RULES",
    "SHAPES",
    "Call",
    "Contraction",
    "Keep",
    "Linear",
    "Rule",
    "apply_rule",
    "attention",
    "elementwise",
    "linear",
    "lines",
    "movement",
    "norm",
    "recurrent",
    "rows",
    "rule",
]
