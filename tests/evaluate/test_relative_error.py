"""Relative squared errors batch by batch: the value, its jackknife, and what scale leaves of it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.evaluate import relative_error
from onnxprune.evaluate.jackknife import jackknife
from onnxprune.evaluate.relative_error import RelativeError, Variation

F64 = npt.NDArray[np.float64]
SEEDS = st.integers(0, 999)


def measured(x: F64, y: F64, batches: int = 1, parts: int = 1) -> RelativeError:
    """The error of ``[samples, elements]``, in batches and parts of samples."""
    variation, size = Variation(), x.shape[1]
    step = -(-size // parts)
    for one, two in zip(np.array_split(x, batches), np.array_split(y, batches), strict=True):
        for at in range(0, size, step):
            part = slice(at, at + step)
            variation.add(one[:, part], two[:, part], size, one[:, part].shape[1], at)
        variation.close()
    return variation.error(bounded=False)


def quotient(x: F64, y: F64) -> float:
    return float(((y - x) ** 2).sum() / (x.var(0, ddof=1).sum() * len(x)))


@given(n=st.integers(3, 25), size=st.integers(1, 40), batches=st.integers(1, 3), seed=SEEDS)
def test_leaving_a_sample_out_is_computed_exactly(
    n: int, size: int, batches: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, size)) + 100
    y = x + rng.exponential(size=(n, 1)) * rng.standard_normal((n, size))
    result = measured(x, y, batches)
    assert result.own.value == pytest.approx(quotient(x, y))
    without = [quotient(np.delete(x, k, 0), np.delete(y, k, 0)) for k in range(n)]
    expected = jackknife(quotient(x, y), np.array(without))
    assert result.own.error == pytest.approx(expected.error, rel=1e-4)
    assert result.own.high == pytest.approx(expected.high, rel=1e-4)
    assert result.own.low >= expected.low * (1 - 1e-4)


@settings(max_examples=8)
@given(seed=SEEDS)
def test_large_samples_are_sketched(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes, errors = rng.uniform(0.5, 1.5, (2, 30, 1))
    x = sizes * rng.standard_normal((30, 5000))
    y = x + errors * rng.standard_normal(x.shape)
    result = measured(x, y, batches=3, parts=4)
    without = [quotient(np.delete(x, k, 0), np.delete(y, k, 0)) for k in range(30)]
    expected = jackknife(quotient(x, y), np.array(without))
    assert result.own.value == pytest.approx(expected.value)
    assert result.own.error == pytest.approx(expected.error, rel=0.15)
    assert result.own.high == pytest.approx(expected.high, rel=0.15)


def test_sketches_that_are_not_kept_change_little(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 8)) * rng.exponential(size=(200, 1))
    y = x + rng.standard_normal(x.shape)
    whole = measured(x, y, batches=20)
    monkeypatch.setattr(relative_error, "_MOST_KEPT", 500)
    some = measured(x, y, batches=20)
    assert some.own.value == whole.own.value
    assert some.own.error == pytest.approx(whole.own.error, rel=0.05)


@given(factor=st.floats(0.01, 100), seed=SEEDS)
def test_a_factor_is_found_and_taken_off(factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((12, 6))
    result = measured(x, factor * x)
    assert result.factor == pytest.approx(factor)
    assert result.scaled.value == pytest.approx(0, abs=1e-9)
    noisy = measured(x, factor * (x + 0.1 * rng.standard_normal(x.shape)))
    assert noisy.scaled.value <= noisy.own.value + 1e-9
    assert noisy.scaled.value < 0.05
    negative = measured(x, -factor * x)
    assert math.isinf(negative.factor)
    assert negative.scaled.value > 0.5


@given(seed=SEEDS, size=st.integers(1, 12), offset=st.floats(-50, 50))
def test_what_has_nothing_to_do_with_the_reference_is_surely_far_off(
    seed: int, size: int, offset: float
) -> None:
    """Whatever the sizes, errors of a constant and of strangers are known to be about 1."""
    rng = np.random.default_rng(seed)
    x = offset + rng.standard_normal((60, size))
    constant = measured(x, np.tile(x.mean(0), (60, 1)))
    assert constant.own.low > 0.9
    assert constant.scaled.low > 0.9
    stranger = measured(x, offset + rng.standard_normal(x.shape))
    assert stranger.own.low > 0.5


@given(seed=SEEDS, n=st.integers(4, 20))
def test_rows_of_samples_of_different_sizes_have_an_interval(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    variation, rows = Variation(), []
    for _ in range(n):
        x = 3 + rng.standard_normal((int(rng.integers(2, 9)), 5))
        y = x + 0.5 * rng.standard_normal(x.shape)
        rows.append((x, y))
        variation.add(x.reshape(1, -1), y.reshape(1, -1), x.size, 5)
        variation.close()

    def of(parts: list[tuple[F64, F64]]) -> float:
        one, two = (np.concatenate(each) for each in zip(*parts, strict=True))
        return quotient(one, two)

    result = variation.error(bounded=False)
    if len({x.size for x, _ in rows}) == 1:
        return
    assert result.own.value == pytest.approx(of(rows))
    without = [of(rows[:k] + rows[k + 1 :]) for k in range(n)]
    expected = jackknife(of(rows), np.array(without))
    assert result.own.error == pytest.approx(expected.error, rel=1e-4)
