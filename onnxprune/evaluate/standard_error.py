"""Standard errors of differences between two models, measured on few samples.

Both models see the same samples, so what counts is how their samples differ in pairs: the error of
the difference is far smaller than that of either figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from onnxprune.evaluate.metrics import Metric, Score

F64 = npt.NDArray[np.float64]

SURE = 2.0
"""Standard errors by which a difference must exceed a limit to count."""
_ENOUGH = 2
"""Fewest samples for an estimate of spread."""
_RESAMPLES = 100


def paired_error(metric: Metric, before: Score, after: Score) -> float | None:
    """Standard error of the difference of a metric between two models on the same samples.

    The metric is a ratio of sums over samples; its difference is linearised. Rows of one sample
    (the tokens of a text) are not independent, and count as one. For hits and misses, half a pair
    is added on either side, so that a few samples without any change do not pass for certainty.
    Source: Agresti and Min, "Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine 24 (2005).

    Metrics that are no means (F1, Spearman, mAP) are measured on sets drawn with replacement from
    the samples, the same for both models (a bootstrap with a fixed seed); one sample that disagrees
    is added there too.

    Args:
        metric: what was measured.
        before: of the dense model.
        after: of the other one.

    Returns:
        The error in the unit of the metric; None for a user's function, and with too few samples.
    """
    if before.statistics is not None and after.statistics is not None:
        one, other = before.statistics, after.statistics
        if one.samples != other.samples:
            return None
        return _resampled(one.samples, lambda weights: other.figure(weights) - one.figure(weights))
    if before.sums is None or after.sums is None or before.counts is None or after.counts is None:
        return None
    samples, counts = len(before.counts), before.counts
    if samples < _ENOUGH or not np.array_equal(counts, after.counts):
        return None
    gap = after.sums - before.sums
    spread = gap - counts * (gap.sum() / counts.sum())
    square = float(spread @ spread) * samples / (samples - 1)
    if metric.kind == "accuracy":
        square += float(np.mean(counts)) ** 2  # one more pair that disagrees
    error = math.sqrt(square) / float(counts.sum())
    if metric.kind == "perplexity":  # the slope of the exponential, halfway
        error *= math.sqrt(before.value) * math.sqrt(after.value)
    return error if math.isfinite(error) else None


def count_pairs(metric: Metric, before: Score, after: Score) -> tuple[int, int, int] | None:
    """Samples that only the dense model has right, only the other one, and all labelled ones.

    Returns:
        None where a sample is not simply right or wrong.
    """
    if metric.kind != "accuracy" or before.sums is None or after.sums is None:
        return None
    counts = before.counts
    if counts is None or after.counts is None or not np.array_equal(counts, after.counts):
        return None
    if counts.size == 0 or counts.max() > 1 or not counts.any():
        return None
    gap = after.sums - before.sums
    return int((gap < 0).sum()), int((gap > 0).sum()), int(counts.sum())


def score_error(metric: Metric, score: Score) -> float | None:
    """Standard error of a metric of one model, in its unit; see `paired_error`.

    Returns:
        None for a user's function, and with too few samples.
    """
    if score.statistics is not None:
        return _resampled(score.statistics.samples, score.statistics.figure)
    error = mean_error(score)
    if error is None or score.counts is None:
        return None
    if metric.kind == "accuracy":  # a hit and a miss more
        error = math.hypot(error, math.sqrt(0.5) / len(score.counts))
    return error * score.value if metric.kind == "perplexity" else error


def mean_error(score: Score) -> float | None:
    """Standard error of the mean behind a metric; None where it is none, or of one sample."""
    if score.sums is None or score.counts is None or len(score.counts) < _ENOUGH:
        return None
    samples, total = len(score.counts), float(score.counts.sum())
    spread = score.sums - score.counts * (score.sums.sum() / total)
    error = math.sqrt(float(spread @ spread) * samples / (samples - 1)) / total
    return error if math.isfinite(error) else None


def _resampled(samples: int, figure: Callable[[F64], float]) -> float | None:
    """Standard deviation of a figure over sets drawn with replacement, by weights of samples."""
    if samples < _ENOUGH:
        return None
    rng = np.random.default_rng(0)
    chances = np.full(samples, 1 / samples)
    sets = (rng.multinomial(samples, chances).astype(np.float64) for _ in range(_RESAMPLES))
    values = np.array([figure(weights) for weights in sets])
    return float(math.hypot(values.std(ddof=1), 1 / samples))
