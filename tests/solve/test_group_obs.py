from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.solve.group_obs import Consumer, eliminate

RIDGE = 1e-4
seeds = st.integers(0, 10_000)


def covariance(rng: np.random.Generator, size: int) -> np.ndarray:
    mix = rng.standard_normal((size, size)) * rng.uniform(0.1, 2, size)
    return mix @ mix.T / size


def consumer(
    rng: np.random.Generator, units: np.ndarray, *, outputs: int | None = None
) -> Consumer:
    """A layer reading ``units`` through blocks of random width, with inputs of its own besides."""
    width, own = int(rng.integers(1, 4)), int(rng.integers(0, 3))
    K = len(units) * width + own
    N = outputs or int(rng.integers(1, 7))
    blocks = rng.permutation(K)[: len(units) * width].reshape(len(units), width)
    W = rng.standard_normal((K, N))
    return Consumer(covariance(rng, K), W, units, blocks, float(rng.uniform(0.5, 3)))


def error(layer: Consumer, kept: set[int], ridge: float = RIDGE) -> float:
    """The least squared error (ridge included) any weight reaches on ``kept``: brute force."""
    gone = [b for u, b in zip(layer.units, layer.blocks, strict=True) if int(u) not in kept]
    rows = np.setdiff1d(np.arange(len(layer.xx)), np.concatenate([*gone, []]).astype(int))
    penalty = ridge * np.trace(layer.xx) / len(layer.xx)
    metric = layer.xx + penalty * np.eye(len(layer.xx))
    # 0.5 |y - X W|^2 + penalty |W - W0|^2 is the metric's norm of W - W0 when y = X W0.
    best = np.zeros_like(layer.weight)
    if len(rows):
        best[rows] = np.linalg.lstsq(
            metric[np.ix_(rows, rows)], metric[rows] @ layer.weight, rcond=None
        )[0]
    delta = best - layer.weight
    return float(np.einsum("kn,kl,ln->", delta, metric, delta)) / layer.norm


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[Consumer], int]:
    rng = np.random.default_rng(draw(seeds))
    units = draw(st.integers(1, 7))
    layers = [consumer(rng, rng.permutation(units))]
    for _ in range(draw(st.integers(0, 2))):
        some = rng.permutation(units)[: rng.integers(1, units + 1)]
        layers.append(consumer(rng, some, outputs=draw(st.sampled_from([1, 3, 40]))))
    return layers, units


@given(groups(), st.sampled_from([0.0, 0.4, 1.0]))
@settings(max_examples=80, deadline=None)
def test_damage_is_the_least_squares_error_of_every_subset_on_the_way(
    group: tuple[list[Consumer], int], at_once: float
) -> None:
    layers, units = group
    swept = eliminate(layers, units, ridge=RIDGE, at_once=at_once)
    assert sorted(swept.order) == list(range(units))
    scale = sum(error(layer, set()) for layer in layers)
    for count in range(units + 1):
        kept = {int(u) for u in swept.kept(count)}
        want = sum(error(layer, kept) for layer in layers)
        assert abs(swept.error[count] - want) <= 1e-6 * max(want, 1e-3 * scale)
    assert (np.diff(swept.error) <= 1e-12).all()


@given(groups())
@settings(max_examples=60, deadline=None)
def test_every_removal_is_the_best_single_one(group: tuple[list[Consumer], int]) -> None:
    layers, units = group
    swept = eliminate(layers, units, ridge=RIDGE)
    for step in range(units):
        left = {int(u) for u in swept.order[step:]}
        best = min(sum(error(c, left - {u}) for c in layers) for u in left)
        taken = sum(error(c, left - {int(swept.order[step])}) for c in layers)
        assert taken <= best * (1 + 1e-9) + 1e-12


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_names_of_the_units_do_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers = [consumer(rng, np.arange(6)) for _ in range(2)]
    renamed = rng.permutation(6)
    other = [Consumer(c.xx, c.weight, renamed[c.units], c.blocks, c.norm) for c in layers]
    first, second = eliminate(layers, 6), eliminate(other, 6)
    np.testing.assert_array_equal(renamed[first.order], second.order)
    np.testing.assert_allclose(first.error, second.error)


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_order_of_the_inputs_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layer = consumer(rng, np.arange(6))
    move = rng.permutation(len(layer.xx))
    back = np.argsort(move)
    xx = layer.xx[np.ix_(move, move)]
    other = Consumer(xx, layer.weight[move], layer.units, back[layer.blocks], layer.norm)
    np.testing.assert_array_equal(eliminate([layer], 6).order, eliminate([other], 6).order)


def test_dead_and_unread_units_leave_first_and_free() -> None:
    rng = np.random.default_rng(0)
    xx = covariance(rng, 8)
    xx[2:4] = xx[:, 2:4] = 0  # unit 1 never varies, whatever its weight
    layer = Consumer(xx, 10 * rng.standard_normal((8, 3)), np.arange(4), np.arange(8).reshape(4, 2),
                     1.0)  # fmt: skip
    swept = eliminate([layer], 5)  # unit 4 is read by nobody
    assert set(swept.order[:2]) == {1, 4}
    assert (swept.error[3:] == 0).all()
    assert swept.error[2] > 0


def test_a_layer_that_sees_nothing_costs_nothing() -> None:
    swept = eliminate([Consumer(np.zeros((3, 3)), np.ones((3, 2)), np.arange(3),
                                np.arange(3)[:, None], 1.0)], 3)  # fmt: skip
    assert (swept.error == 0).all()


def test_duplicate_units_are_told_apart_from_unique_ones() -> None:
    # Two copies of one signal: the first copy to go costs nothing, the second costs everything.
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4000, 3))
    x = np.column_stack([x, x[:, 0]])
    W = np.ones((4, 2))
    swept = eliminate([Consumer(np.cov(x.T, bias=True), W, np.arange(4), np.arange(4)[:, None],
                                1.0)], 4, ridge=1e-9)  # fmt: skip
    assert swept.order[0] in (0, 3)
    assert swept.error[3] < 1e-5 < swept.error[2]


@pytest.mark.parametrize("at_once", [0.0, 0.05])
def test_long_sweeps_keep_their_digits(at_once: float) -> None:
    # 300 rows: downdates are flushed many times and the problem is set up anew several times.
    rng = np.random.default_rng(2)
    low = rng.standard_normal((300, 60)) @ rng.standard_normal((60, 2000))
    xx = np.cov(low + 0.05 * rng.standard_normal(low.shape), bias=True)
    layer = Consumer(xx, rng.standard_normal((300, 20)), np.arange(100),
                     np.arange(300).reshape(100, 3), 1.0)  # fmt: skip
    swept = eliminate([layer], 100, ridge=RIDGE, at_once=at_once)
    for count in (0, 1, 10, 30, 50, 70, 99):
        want = error(layer, {int(u) for u in swept.kept(count)})
        assert swept.error[count] == pytest.approx(want, rel=1e-6)
