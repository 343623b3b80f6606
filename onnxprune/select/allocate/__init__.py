"""Allocation: how many units each group keeps, so that a budget is met at the least error."""

from onnxprune.select.allocate.alignment import TABLE, Alignment, Axis, alignments, axes_of
from onnxprune.select.allocate.allocation import (
    Allocation,
    Policy,
    allocate,
)
from onnxprune.select.allocate.candidate_widths import CandidateWidths, find_widths
from onnxprune.select.allocate.fill import CostFunction
from onnxprune.select.allocate.limits import Limits
from onnxprune.select.allocate.ranking import Ranking, ranked, uniform
from onnxprune.select.allocate.repair_widths import repair_widths

__all__ = [
    "TABLE",
    "Alignment",
    "Allocation",
    "Axis",
    "CandidateWidths",
    "CostFunction",
    "Limits",
    "Policy",
    "Ranking",
    "alignments",
    "allocate",
    "axes_of",
    "find_widths",
    "ranked",
    "repair_widths",
    "uniform",
]
