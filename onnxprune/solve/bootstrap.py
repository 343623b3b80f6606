"""The ratio of two latencies, and an interval for it that holds on a noisy machine.

Two things vary. Within a pair of processes, rounds do: the machine slows down and speeds up, and
neighbouring rounds resemble each other. Both models are timed in every round, so a round gives one
log ratio in which what both suffered cancels. Between pairs of processes, memory layout does: the
same model is a little faster or slower for the whole life of a process (Mytkowicz et al.,
"Producing wrong data without doing anything obviously wrong!", ASPLOS 2009), which no number of
rounds averages out. So several pairs are run, and the bootstrap resamples on both levels (Kalibera
and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013): pairs with replacement, and
within each blocks of neighbouring rounds (Kuensch, "The jackknife and the bootstrap for general
stationary observations", 1989).

There are few pairs, so percentiles of the bootstrap would be too narrow; its standard error with
Student's quantiles is used instead, corrected by sqrt(n / (n - 1)) (Hesterberg, "What teachers
should know about the bootstrap", 2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

Verdict = Literal["faster", "slower", "no speed-up"]

_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A ratio and its confidence interval.

    Attributes:
        value: other / reference.
        low, high: ends of the interval.
    """

    value: float
    low: float
    high: float


def ratio(reference: F64, other: F64, *, level: float = 0.95, seed: int = 0) -> Interval:
    """The ratio of latencies with its interval.

    The value is the geometric mean over pairs of processes of the median over rounds of
    ``other / reference``.

    Args:
        reference: seconds ``[pairs, rounds]``, each the median of the runs of one round.
        other: the same of the other model, round by round beside the reference.
        level: confidence level.
        seed: seed of the resampling.
    """
    logs = np.log(other) - np.log(reference)
    pairs, rounds = logs.shape
    value = float(np.median(logs, axis=1).mean())
    rng = np.random.default_rng(seed)
    chosen = rng.integers(pairs, size=(_RESAMPLES, pairs))
    length = max(1, round(rounds ** (1 / 3)))
    starts = rng.integers(rounds, size=(_RESAMPLES, pairs, math.ceil(rounds / length)))
    places = (starts[..., None] + np.arange(length)) % rounds
    places = places.reshape(_RESAMPLES, pairs, -1)[..., :rounds]
    drawn = np.median(logs[chosen[..., None], places], axis=2).mean(axis=1)
    groups = pairs if pairs > 1 else rounds  # one pair alone says nothing about others
    if groups < 2:
        return Interval(math.exp(value), 0.0, math.inf)
    error = float(drawn.std(ddof=1)) * math.sqrt(groups / (groups - 1))
    from scipy.special import stdtrit  # not every job needs it

    half_width = error * float(stdtrit(groups - 1, (1 + level) / 2))  # of Student's t
    return Interval(math.exp(value), math.exp(value - half_width), math.exp(value + half_width))


def verdict(interval: Interval) -> Verdict:
    """``faster`` or ``slower`` than the reference; ``no speed-up`` where the interval holds 1."""
    if interval.high < 1:
        return "faster"
    return "slower" if interval.low > 1 else "no speed-up"
