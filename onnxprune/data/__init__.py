"""Calibration: what a model is fed while it is observed, and what is observed."""

from onnxprune.data.activations.moments import Statistics, Tap, collect
from onnxprune.data.activations.observe import observe
from onnxprune.data.calibration import Calibration, split
from onnxprune.data.sources import open_calibration

__all__ = [
    "Calibration",
    "Statistics",
    "Tap",
    "collect",
    "observe",
    "open_calibration",
    "split",
]
