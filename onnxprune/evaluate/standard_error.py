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

_ENOUGH = 2
"""Fewest samples for an estimate of spread."""
_RESAMPLES = 200


def paired_error(metric: Metric, before: Score, after: Score) -> float | None:
    """Standard error of the difference of a metric between two models on the same samples.

    The metric is a ratio of sums over samples; its difference is linearised. Rows of one sample
    (the tokens of a text) are not independent, and count as one. For hits and misses, half a pair
    is added on either side, so that a few samples without any change do not pass for certainty.
    Source: Agresti and Min, "Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine 24 (2005).

    Args:
        metric: what was measured.
        before: of the dense model.
        after: of the other one.

    Metrics that are no means (F1, Spearman, mAP) are measured on sets drawn with replacement from
    the samples, the same for both models (a bootstrap with a fixed seed); one sample that disagrees
    is added there too.

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


def score_error(metric: Metric, score: Score) -> float | None:
    """Standard error of a metric of one model; None for a user's function, or too few samples.

    Arguments and sources are those of `paired_error`.
    """
    if score.statistics is not None:
        return _resampled(score.statistics.samples, score.statistics.figure)
    if score.sums is None or score.counts is None:
        return None
    samples, counts = len(score.counts), score.counts
    if samples < _ENOUGH:
        return None
    spread = score.sums - counts * (score.sums.sum() / counts.sum())
    square = float(spread @ spread) * samples / (samples - 1)
    if metric.kind == "accuracy":
        square += float(np.mean(counts)) ** 2 / 2  # half a hit and half a miss more
    error = math.sqrt(square) / float(counts.sum())
    if metric.kind == "perplexity":
        error *= score.value
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


def agreement_error(agreement: float, samples: int) -> float:
    """Standard error of the fraction of samples whose answers are the same.

    Source: Agresti and Coull, "Approximate is better than exact for interval estimation of
    binomial proportions", The American Statistician 52 (1998): two samples of each kind are added.

    Args:
        agreement: in [0, 1].
        samples: how many; the rows of one sample count as one.
    """
    share = (agreement * samples + 2) / (samples + 4)
    return math.sqrt(share * (1 - share) / (samples + 4))
