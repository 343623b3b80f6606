"""Data: what a model is fed while it is observed, and what is observed."""

from onnxprune.data.activations.moments import Statistics, Tap, collect, observe
from onnxprune.data.calibration import Calibration, open_calibration, split

__all__ = [
    "Calibration",
    "Statistics",
    "Tap",
    "collect",
    "observe",
    "open_calibration",
    "split",
]
