"""Allocation: how many units each group keeps, so that a budget is met at the least damage."""

from onnxprune.allocate.allocation import Allocation, CostFunction, CostLike, Policy, allocate
from onnxprune.allocate.axes import Axis, Grain, axes_of
from onnxprune.allocate.lattice import Lattice, lattice
from onnxprune.allocate.limits import Limits
from onnxprune.allocate.ranking import Ranking, ranked, uniform
from onnxprune.allocate.rounding import TABLE, grains
from onnxprune.allocate.settle import settle

__all__ = [
    "TABLE",
    "Allocation",
    "Axis",
    "CostFunction",
    "CostLike",
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
