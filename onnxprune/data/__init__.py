"""Data: the inputs of models, and the values observed inside them."""

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
