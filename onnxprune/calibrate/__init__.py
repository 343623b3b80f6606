"""Calibration: what a model is fed while it is observed, and what is observed."""

from onnxprune.calibrate.calibration import Calibration, split
from onnxprune.calibrate.observe import observe
from onnxprune.calibrate.sources import open_calibration
from onnxprune.calibrate.statistics import Statistics, Tap, collect

__all__ = [
    "Calibration",
    "Statistics",
    "Tap",
    "collect",
    "observe",
    "open_calibration",
    "split",
]
