"""Allocation: how many units each group keeps, so that a budget is met at the least damage."""

from onnxprune.select.allocate.alignment import TABLE, Axis, Grain, axes_of, grains
from onnxprune.select.allocate.allocation import (
    Allocation,
    CostFunction,
    Policy,
    allocate,
)
from onnxprune.select.allocate.candidate_widths import Lattice, lattice
from onnxprune.select.allocate.limits import Limits
from onnxprune.select.allocate.ranking import Ranking, ranked, uniform
from onnxprune.select.allocate.repair_widths import settle

__all__ = [
    "TABLE",
    "Allocation",
    "Axis",
    "CostFunction",
    "Grain",
    "Lattice",
    "Limits",
    "Policy",
    "Ranking",
    "allocate",
    "axes_of",
    "grains",
    "lattice",
    "ranked",
    "settle",
    "uniform",
]
