"""Plans: independent of any model; printed, compared, edited, saved and applied again."""

from onnxprune.graph.plan.compare import PlanDiff, diff, merge
from onnxprune.graph.plan.core import (
    ComputedMask,
    Origin,
    PackedMask,
    Plan,
    load_plan,
    pack,
    save_plan,
    versions,
)
from onnxprune.graph.plan.fitting import check

__all__ = [
    "ComputedMask",
    "Origin",
    "PackedMask",
    "Plan",
    "PlanDiff",
    "check",
    "diff",
    "load_plan",
    "merge",
    "pack",
    "save_plan",
    "versions",
]
