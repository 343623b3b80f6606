"""mAP of detectors: outputs decoded by their layout, then COCO's average precision.

``layouts`` tells what the outputs are, ``decode`` makes boxes of them, ``boxes`` has overlaps and
suppression, ``average_precision`` the metric, ``score`` puts them together.
"""

from onnxprune.evaluate.metrics.detection.score import score_boxes

__all__ = ["score_boxes"]
