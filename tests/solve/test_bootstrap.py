"""The interval of a ratio: what it must do whatever the machine does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.solve.bootstrap import ratio, verdict

F64 = npt.NDArray[np.float64]
PAIRS, ROUNDS = 6, 10


def times(
    rng: np.random.Generator, *, factor: float = 1.0, layout: float = 0.01, noise: float = 0.02
) -> tuple[F64, F64]:
    """Two models: shared drift, an effect of each process, noise that lasts, some disturbances."""
    drift = np.exp(0.1 * rng.standard_normal((PAIRS, ROUNDS)).cumsum(axis=1))
    made = []
    for scale in (1.0, factor):
        process = np.exp(layout * rng.standard_normal((PAIRS, 1)))
        wander = rng.standard_normal((PAIRS, ROUNDS))
        for k in range(1, ROUNDS):  # noise that resembles that of the round before
            wander[:, k] = 0.5 * wander[:, k - 1] + np.sqrt(0.75) * wander[:, k]
        hit = np.where(rng.random((PAIRS, ROUNDS)) < 0.1, 1 + rng.random((PAIRS, ROUNDS)), 1)
        made.append(scale * drift * process * np.exp(noise * wander) * hit)
    return made[0], made[1]


@pytest.mark.parametrize(
    ("factor", "layout", "noise"),
    [(1.0, 0.0, 0.02), (1.0, 0.02, 0.0), (1.0, 0.02, 0.02), (0.8, 0.02, 0.02)],
)
def test_the_interval_holds_the_truth_in_95_of_100_experiments(
    factor: float, layout: float, noise: float
) -> None:
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        found = ratio(*times(rng, factor=factor, layout=layout, noise=noise), seed=seed)
        held += found.low <= factor <= found.high
    assert held >= 185  # a true 95 % falls below that in one of 25 experiments of this size


def test_a_real_difference_is_seen() -> None:
    rng = np.random.default_rng(2)
    seen = sum(verdict(ratio(*times(rng, factor=0.9))) == "faster" for _ in range(50))
    assert seen >= 45


@given(st.integers(0, 1000), st.floats(0.2, 5))
def test_what_both_suffer_cancels(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    one, other = times(rng)
    both = np.exp(rng.standard_normal(one.shape))
    first, second = ratio(one, other), ratio(one * both * scale, other * both * scale)
    assert first.value == pytest.approx(second.value)
    assert first.low == pytest.approx(second.low)
    assert first.high == pytest.approx(second.high)


@given(st.integers(0, 1000))
def test_the_other_way_round_it_is_the_inverse(seed: int) -> None:
    one, other = times(np.random.default_rng(seed), factor=0.8)
    there, back = ratio(one, other), ratio(other, one)
    assert there.low < there.value < there.high
    assert there.value == pytest.approx(1 / back.value)
    assert there.low == pytest.approx(1 / back.high)


def test_one_round_of_one_process_says_nothing() -> None:
    found = ratio(np.array([[1.0]]), np.array([[0.5]]))
    assert verdict(found) == "no speed-up"


@pytest.mark.parametrize(
    ("scale", "said"), [(1.0, "no speed-up"), (0.5, "faster"), (2.0, "slower")]
)
def test_the_verdict_is_about_the_whole_interval(scale: float, said: str) -> None:
    one, other = times(np.random.default_rng(3))
    assert verdict(ratio(one, other * scale)) == said
