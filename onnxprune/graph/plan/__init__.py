"""Plans: independent of any model; printed, compared, edited, saved and applied again."""

from onnxprune.graph.plan.compare import PlanDiff, diff, merge
from onnxprune.graph.plan.core import (
    ComputedMask,
    Origin,
    PackedMask,
    Plan,
    from_document,
    load_plan,
    pack,
    plan_document,
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
    "from_document",
    "load_plan",
    "merge",
    "pack",
    "plan_document",
    "save_plan",
    "versions",
]
