"""Plans: made without touching a model; printed, compared, edited, saved and applied again."""

from onnxprune.plan.compare import PlanDiff, diff, merge
from onnxprune.plan.core import Origin, PackedMask, Plan, pack, versions
from onnxprune.plan.fitting import check
from onnxprune.plan.store import load_plan, save_plan

__all__ = [
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
