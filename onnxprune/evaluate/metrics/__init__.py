"""Task metrics over outputs and labels.

Built in are those of `onnxprune.types.METRICS`; anything else is a user's function. Each family is
a module: ``classes`` (means over labelled elements), ``f1``, ``ranks``, ``text``, ``detection``.
"""

from onnxprune.evaluate.metrics.metric import chance_level, evaluate, find_metric, score
from onnxprune.evaluate.metrics.scores import Metric, Reading, Score, Statistics

__all__ = [
    "Metric",
    "Reading",
    "Score",
    "Statistics",
    "chance_level",
    "evaluate",
    "find_metric",
    "score",
]
