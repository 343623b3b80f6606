"""Exact tests of shares that are measured on few samples.

A share of 85 % of 20 samples has a standard error of 8 points, so it is not two of these below
99 %; but where 1 % of the answers change, three or more of 20 change in one of 1,000 draws. So the
probability of what is seen is taken at the limit that it is compared with.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, gammaln, ndtr, xlog1py, xlogy

from onnxprune.evaluate.standard_error import SURE

UNLIKELY = float(ndtr(-SURE))
"""Probability below which an excess counts: that beyond two standard errors, 2.3 %."""
CHANGED = 0.01
"""Share of answers that may change, or be lost: one point."""
_FEWEST = 2
"""Fewest changed answers that count: a single one may be a tie, of however few."""
_PRIOR = 1 / 3
"""Gains that are added to those that are seen, as none of few samples does not mean none of many.

Source: Kerman, "Neutral noninformative and informative conjugate beta and gamma prior
distributions", Electronic Journal of Statistics 5 (2011).
"""


def probability_of(changed: float, answers: float, share: float = CHANGED) -> float:
    """The probability that at least so many of some answers change.

    Args:
        changed: how many; need not be whole, as rows of one sample count for less than one each.
        answers: of how many.
        share: of all answers that change.

    Example:
        >>> round(probability_of(3, 20), 4)
        0.001
    """
    if changed <= 0:
        return 1.0
    if changed > answers:
        return 0.0
    return float(betainc(changed, answers - changed + 1, share))


def surely_changed(changed: float, answers: float) -> bool:
    """Whether more than 1 % of all answers change, by those of some samples."""
    many = changed >= _FEWEST - 1e-9 and changed > CHANGED * answers
    return many and probability_of(changed, answers) < UNLIKELY


def least_changed(answers: float) -> float | None:
    """The fewest changed answers that `surely_changed` counts; None where even all are too few.

    Example:
        >>> least_changed(20), least_changed(60)
        (2, 3)
    """
    start = max(_FEWEST, math.floor(CHANGED * answers))
    width = 10 + math.ceil(4 * math.sqrt(CHANGED * answers))
    counts = range(start, min(start + width, math.floor(answers)) + 1)
    return next((each for each in counts if surely_changed(each, answers)), None)


def probability_of_loss(losses: int, gains: int, samples: int) -> float:
    """The probability of at least so many more losses than gains, where 1 % more are lost.

    A sample is a loss if the dense model alone is right, and a gain if the other one alone is.
    Gains are taken to be one standard error more frequent than seen, and losses 1 % more than that.

    Example:
        >>> round(probability_of_loss(3, 0, 20), 3), round(probability_of_loss(4, 1, 20), 2)
        (0.012, 0.15)
    """
    gain = min((gains + _PRIOR + math.sqrt(gains)) / samples, (1 - CHANGED) / 2)
    loss, excess = gain + CHANGED, losses - gains
    if excess <= 0:
        return 1.0
    most = math.ceil(samples * gain + 10 * math.sqrt(samples * gain) + 20)
    count = np.arange(min(samples, most) + 1, dtype=np.float64)
    rest, need = samples - count, excess + count
    possible = need <= rest
    others = betainc(need[possible], (rest - need + 1)[possible], loss / (1 - gain))
    return float(_binomial(count[possible], samples, gain) @ others)


def surely_lost(losses: int, gains: int, samples: int) -> bool:
    """Whether more than 1 % of all samples are lost on balance, by the pairs of some."""
    many = losses - gains > CHANGED * samples
    return many and probability_of_loss(losses, gains, samples) < UNLIKELY


def _binomial(
    count: npt.NDArray[np.float64], samples: int, share: float
) -> npt.NDArray[np.float64]:
    """The probability of each count."""
    choices = gammaln(samples + 1) - gammaln(count + 1) - gammaln(samples - count + 1)
    logs = choices + xlogy(count, share) + xlog1py(samples - count, -share)
    return np.asarray(np.exp(logs))
