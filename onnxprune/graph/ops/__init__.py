"""What every operator does to axes: a table of (operator, line or small function).

An operator without a rule has all its axes pinned, with that reason: an unknown operator costs
opportunity, never correctness.
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

__all__ = [
    "LINEAR",
    "RULES",
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
