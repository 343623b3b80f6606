"""Exact tests: rare false alarms on few samples, and losses that are seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import bdtrc

from onnxprune.evaluate.exact_tests import (
    CHANGED,
    UNLIKELY,
    least_changed,
    probability_of,
    probability_of_loss,
    surely_changed,
    surely_lost,
)
from onnxprune.evaluate.sample_statistics import agreement_error
from onnxprune.evaluate.standard_error import SURE
from onnxprune.evaluate.verdict import AGREEMENT


def degrades(changed: int, n: int) -> bool:
    """Whether the share of equal answers degrades, by either rule of the verdict."""
    share = 1 - changed / n
    usual = share + SURE * agreement_error(share, n) < AGREEMENT
    return usual or surely_changed(changed, n)


def binomial(n: int, share: float) -> np.ndarray:
    """The probability of 0 to ``n``."""
    return np.array([math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)])


@pytest.mark.parametrize("n", range(8, 201))
def test_a_change_of_one_percent_rarely_alarms(n: int) -> None:
    alarms = np.array([degrades(k, n) for k in range(n + 1)])
    assert binomial(n, CHANGED) @ alarms <= UNLIKELY


def test_fifteen_percent_of_twenty_are_seen() -> None:
    alarms = np.array([degrades(k, 20) for k in range(21)])
    assert least_changed(20) == 2
    assert binomial(20, 0.15) @ alarms == pytest.approx(bdtrc(1, 20, 0.15))
    assert binomial(20, 0.15) @ alarms > 0.8


@given(n=st.integers(1, 3000), data=st.data())
def test_probabilities_are_those_of_the_binomial(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    assert probability_of(k, n) == pytest.approx(bdtrc(k - 1, n, CHANGED), abs=1e-9)
    least = least_changed(n)
    assert (least is None) == (n < 2)
    if least is not None:
        assert surely_changed(least, n)
        assert least == 2 or not surely_changed(least - 1, n)


@given(n=st.integers(3, 400), gains=st.integers(0, 20), data=st.data())
def test_more_losses_are_less_likely_and_gains_excuse_them(
    n: int, gains: int, data: st.DataObject
) -> None:
    gains = min(gains, n // 3)
    losses = data.draw(st.integers(gains + 1, n - gains))
    own = probability_of_loss(losses, gains, n)
    assert 0 <= own <= 1 + 1e-9
    assert probability_of_loss(losses - 1, gains, n) >= own - 1e-12
    assert not surely_lost(gains, gains, n)
    if gains:
        assert probability_of_loss(losses, 0, n) <= own + 1e-12


def test_losses_without_gains_are_sure_and_balanced_ones_are_not() -> None:
    assert surely_lost(3, 0, 20)
    assert not surely_lost(2, 0, 20)
    assert not surely_lost(3, 3, 20)
    assert not surely_lost(4, 2, 20)
    assert not surely_lost(10, 0, 1000)
    assert surely_lost(20, 0, 1000)


@pytest.mark.parametrize(("gain", "most"), [(0.0, UNLIKELY), (0.02, UNLIKELY), (0.1, 0.06)])
def test_a_loss_of_one_point_rarely_alarms(gain: float, most: float) -> None:
    n, loss = 20, gain + CHANGED
    alarms = 0.0
    for losses in range(n + 1):
        for gains in range(n + 1 - losses):
            if surely_lost(losses, gains, n):
                ways = math.comb(n, losses) * math.comb(n - losses, gains)
                rest = (1 - loss - gain) ** (n - losses - gains)
                alarms += ways * loss**losses * gain**gains * rest
    assert alarms <= most
