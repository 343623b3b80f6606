"""Calibration: what a model is fed while it is observed, and what is observed."""

from onnxprune.calibrate.calibration import Calibration, split
from onnxprune.calibrate.sources import open_calibration

__all__ = ["Calibration", "open_calibration", "split"]
