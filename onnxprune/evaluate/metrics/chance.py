"""What a model reaches that sees no input: it always gives the answer that pays most on average."""

from __future__ import annotations

import numpy as np

from onnxprune.evaluate.metrics.base import Array, Metric


def chance_level(metric: Metric, labels: Array) -> float | None:
    """The metric of a model that sees no input; None for a user's function.

    Nothing correlates with a constant, no box is found and no text read without looking. For
    accuracy, cross-entropy and squared error see `onnxprune.evaluate.evaluation.chance_of`.

    Args:
        metric: not one of these three.
        labels: of the samples.
    """
    if metric.kind in ("map", "spearman", "spearman-pairs"):
        return 0.0
    if metric.kind in ("cer", "wer"):
        return 1.0
    return _chance_of_f1(metric, labels) if metric.kind == "f1" else None


def _chance_of_f1(metric: Metric, labels: Array) -> float:
    """F1 of always the most frequent class; of classes that may coincide, of always all."""
    known = labels[labels >= 0]
    together = labels.ndim > 1 and known.size > 0 and float(known.max()) <= 1
    if together or metric.average == "binary":
        columns = labels.reshape(-1, labels.shape[-1]) if labels.ndim > 1 else labels[:, None]
        shares = (columns > 0).mean(0)
        if metric.average == "micro":
            shares = shares.mean(keepdims=True)
        return float((2 * shares / (1 + shares)).mean())
    shares = np.unique(known, return_counts=True)[1] / max(known.size, 1)
    most = float(shares.max(initial=0.0))
    return most if metric.average == "micro" else 2 * most / (1 + most) / max(len(shares), 1)
