"""Intervals that hold on few samples, some of which are far off."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.evaluate.jackknife import Estimate, jackknife
from onnxprune.evaluate.relative_error import Variation

F64 = npt.NDArray[np.float64]
POPULATION = 5000
"""Samples whose relative error an interval on few of them should hold."""

TAILS = {
    "pruned classifiers": (0.5, 0.2, 0.3),
    "recurrent networks": (0.9, 0.1, 0.0),
    "quiet and loud samples": (0.4, 0.6, 0.8),
    "a few samples far off": (1.0, 0.0, 0.0),
    "a few samples of all the variance": (0.3, 0.7, 0.0),
}
"""Deviations of the logarithms of errors and of sizes, and their correlation.

The first three are those of networks of the benchmarks: coefficients of variation of 0.5 to 1.2 of
errors, and 0.2 to 0.7 of squared distances from the mean.
"""


def population(of_errors: float, of_sizes: float, together: float) -> tuple[F64, F64]:
    """Outputs of a dense and of a pruned model."""
    rng = np.random.default_rng(7)
    normal = rng.standard_normal((3, POPULATION))
    sizes = np.exp(of_sizes * normal[0])[:, None]
    errors = np.exp(of_errors * (together * normal[0] + math.sqrt(1 - together**2) * normal[1]))
    x = sizes * rng.standard_normal((POPULATION, 10))
    way = rng.standard_normal((POPULATION, 10))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    return x, x + np.sqrt(5 * errors)[:, None] * way


def estimate(x: F64, y: F64) -> Estimate:
    """The relative squared error of some samples."""
    variation = Variation()
    variation.add(x, y, x.shape[1], x.shape[1])
    variation.close()
    return variation.error(bounded=False).own


@pytest.mark.parametrize("samples", [10, 20, 50])
@pytest.mark.parametrize("tails", TAILS)
def test_an_interval_of_95_percent_holds_the_error_of_all_samples(tails: str, samples: int) -> None:
    """Measured: 0.91 to 0.97; with the variance as a certain number it was 0.2 to 0.95."""
    x, y = population(*TAILS[tails])
    truth = estimate(x, y).value
    rng = np.random.default_rng(samples)
    drawn = (rng.choice(POPULATION, samples, replace=False) for _ in range(200))
    each = [estimate(x[some], y[some]) for some in drawn]
    assert np.mean([one.low <= truth <= one.high for one in each]) >= 0.9
    assert np.mean([one.low > truth for one in each]) <= 0.1
    assert all(one.low <= one.value <= one.high for one in each)


@given(n=st.integers(3, 60), scale=st.floats(1e-6, 1e6), seed=st.integers(0, 999))
def test_the_standard_error_of_a_mean_is_the_usual_one(n: int, scale: float, seed: int) -> None:
    values = scale * np.random.default_rng(seed).exponential(size=n)
    result = jackknife(values.mean(), (values.sum() - values) / (n - 1))
    assert result.error == pytest.approx(values.std(ddof=1) / math.sqrt(n))
    assert result.low < result.value < result.high
    unit = jackknife(values.mean() / scale, (values.sum() - values) / (n - 1) / scale)
    assert (result.low, result.high) == pytest.approx((unit.low * scale, unit.high * scale))


def test_nothing_is_sure_of_one_or_two_samples() -> None:
    for without in (np.zeros(0), np.ones(1), np.ones(2)):
        assert jackknife(1.0, without) == Estimate(1.0, None, 0.0, math.inf)
    assert jackknife(0.0, np.zeros(5)) == Estimate(0.0, 0.0, 0.0, 0.0)
    assert jackknife(2.0, np.full(5, 2.0)) == Estimate(2.0, 0.0, 2.0, 2.0)
    assert jackknife(math.inf, np.ones(5)).error is None
    one = np.array([5.0, 0.0, 0.0, 0.0])  # all of the error is that of one sample
    result = jackknife(1.25, (one.sum() - one) / 3)
    assert result.low < 0.01
    assert result.high > 10
