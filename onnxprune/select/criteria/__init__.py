"""Criteria: plain functions over arrays that score units.

How the tensors of a unit enter is the same everywhere. Weight criteria average over all tensors
that read or write the unit, each divided by its own mean. Activation criteria look at the tensors
that read it: magnitudes are averaged like weights, errors are shares of each consumer's output and
add up. Vectors that only scale a unit (biases, gains) count where a criterion says so.
"""

from onnxprune.data.activations.groups import InputStatistics
from onnxprune.select.criteria import activation, gram, weight  # noqa: F401  they register themselves
from onnxprune.select.criteria.registry import Criterion, Inapplicable, criterion, get, names
from onnxprune.select.criteria.score import Scores, score
from onnxprune.select.criteria.slices import UnitSlice, pool, unit_slices

__all__ = [
    "Criterion",
    "Inapplicable",
    "InputStatistics",
    "Scores",
    "UnitSlice",
    "criterion",
    "get",
    "names",
    "pool",
    "score",
    "unit_slices",
]
