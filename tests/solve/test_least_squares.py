from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.errors import OnnxpruneError
from onnxprune.solve import least_squares
from onnxprune.solve import moments as gram
from onnxprune.solve.least_squares import correct_bias, ridge_regression, solve_symmetric
from onnxprune.solve.refit import refit

seeds = st.integers(0, 10_000)
Pair = tuple[np.ndarray, np.ndarray]


def rows(seed: int, g: int, count: int, K: int, N: int, noise: float = 0.1) -> tuple[Pair, Pair]:
    """Correlated rows with an offset and a linear target: training and held-out parts."""
    rng = np.random.default_rng(seed)
    mix, W = rng.standard_normal((g, K, K)), rng.standard_normal((g, K, N))
    x = rng.standard_normal((g, 2 * count, K)) @ mix + rng.standard_normal((g, 1, K))
    y = x @ W + 3 + noise * rng.standard_normal((g, 2 * count, N))
    return (x[:, :count], y[:, :count]), (x[:, count:], y[:, count:])


@given(seeds, st.sampled_from([1, 3, 30]), st.sampled_from([0.0, 1e-3, 1.0]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_ridge_regression_is_where_the_gradient_vanishes(
    seed: int, g: int, ridge: float, free: bool
) -> None:
    (x, y), _ = rows(seed, g, 40, 5, 3)
    rng = np.random.default_rng(seed)
    old, given_bias = rng.standard_normal((g, 5, 3)), rng.standard_normal((g, 3))
    W, b = ridge_regression(gram.moments(x, y), old, ridge, None if free else given_bias)
    left = y - x @ W - b[:, None]
    centred = x - x.mean(1, keepdims=True) if free else x
    penalty = ridge * (centred**2).mean(axis=(1, 2))
    slope = centred.transpose(0, 2, 1) @ left / x.shape[1] - penalty[:, None, None] * (W - old)
    assert abs(slope).max() < 1e-9 * max(1, abs(old).max() * penalty.max() + abs(y).max() ** 2)
    if free:
        assert abs(left.mean(1)).max() < 1e-9
    else:
        np.testing.assert_array_equal(b, given_bias)


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_every_group_is_its_own_problem(seed: int) -> None:
    (x, y), (u, v) = rows(seed, 70, 30, 2, 1)
    old, bias = np.ones((70, 2, 1)), np.zeros((70, 1))
    together, _ = refit(gram.moments(x, y), gram.moments(u, v), old, bias)
    for at in (0, 33, 69):
        one = slice(at, at + 1)
        alone, _ = refit(gram.moments(x[one], y[one]), gram.moments(u[one], v[one]), old[one],
                      bias[one])  # fmt: skip
        np.testing.assert_allclose(together.weight[one], alone.weight, rtol=1e-7)
        assert together.methods[at] == alone.methods[0]


@given(seeds, st.integers(6, 60), st.floats(0, 5), st.booleans())
@settings(max_examples=80, deadline=None)
def test_held_out_error_never_rises_and_is_the_one_reported(
    seed: int, count: int, noise: float, free: bool
) -> None:
    (x, y), (u, v) = rows(seed, 2, count, 8, 3, noise)
    rng = np.random.default_rng(seed)
    old, bias = rng.standard_normal((2, 8, 3)), rng.standard_normal((2, 3))
    got, _ = refit(gram.moments(x, y), gram.moments(u, v), old, bias, free_bias=free)
    before = ((v - u @ old - bias[:, None]) ** 2).mean(1).sum() / v.var(1).sum()
    assert got.before == pytest.approx(before)
    assert got.after <= got.before
    assert got.accepted == (got.after < got.before) == (set(got.methods) != {"none"})
    if not free:
        np.testing.assert_array_equal(got.bias, bias)


def test_a_refit_that_would_hurt_is_declined() -> None:
    # The old weights are the truth; six noisy rows cannot do better on a thousand others.
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((1, 5, 2))
    x, u = rng.standard_normal((1, 6, 5)), rng.standard_normal((1, 1000, 5))
    y = x @ truth + rng.standard_normal((1, 6, 2))
    got, _ = refit(gram.moments(x, y), gram.moments(u, u @ truth), truth, np.zeros((1, 2)))
    assert not got.accepted
    assert got.methods == ("none",)
    np.testing.assert_array_equal(got.weight, truth)
    assert got.after == got.before


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_what_judges_is_left_out_of_one_of_the_two_fits(seed: int) -> None:
    (x, y), (u, v) = rows(seed, 1, 12, 8, 3, noise=2.0)
    train, held = gram.moments(x, y), gram.moments(u, v)
    old, bias = np.zeros((1, 8, 3)), np.zeros((1, 3))
    both, apart = refit(train, held, old, bias)
    assert (both.methods, both.after, both.ridge) == (apart.methods, apart.after, apart.ridge)
    off = ((v - u @ apart.weight - apart.bias[:, None]) ** 2).mean(1).sum() / v.var(1).sum()
    assert off == pytest.approx(apart.after)  # so these rows can go on to judge


def test_a_layer_with_hardly_any_rows_stays_close_to_what_it_was() -> None:
    rng = np.random.default_rng(0)
    old = rng.standard_normal((1, 60, 4))
    x, u = rng.standard_normal((1, 40, 60)), rng.standard_normal((1, 400, 60))
    truth = old + 0.3 * rng.standard_normal(old.shape)
    y, v = (each @ truth + 8 * rng.standard_normal((1, each.shape[1], 4)) for each in (x, u))
    got, _ = refit(gram.moments(x, y), gram.moments(u, v), old, np.zeros((1, 4)))
    assert got.ridge >= 1
    assert np.linalg.norm(got.weight - old) < np.linalg.norm(old) / 2


def test_a_removed_input_is_made_up_for_by_its_neighbours() -> None:
    # Input 5 is the sum of 0 and 1, so without it nothing need be lost.
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 500, 6)) + 2
    x[..., 5] = x[..., 0] + x[..., 1]
    W = rng.standard_normal((1, 6, 4))
    y = x @ W + 1
    kept = np.arange(5)
    train = gram.restrict(gram.moments(x[:, :400], y[:, :400]), kept)
    held = gram.restrict(gram.moments(x[:, 400:], y[:, 400:]), kept)
    got, _ = refit(train, held, W[:, kept], np.ones((1, 4)))
    assert got.before > 1e-2
    assert got.after < 1e-8
    expected = W[:, kept].copy()
    expected[:, :2] += W[:, 5:]
    np.testing.assert_allclose(got.weight, expected, atol=1e-3)


def test_rescaling_undoes_a_scale() -> None:
    (x, y), _ = rows(3, 1, 400, 4, 3, noise=0.0)
    W, b = ridge_regression(gram.moments(x, y), np.zeros((1, 4, 3)), 0.0)
    scaled, offset = least_squares.rescale(gram.moments(x, y), W * np.array([2.0, 0.1, -3.0]))
    np.testing.assert_allclose(scaled, W, rtol=1e-6)
    np.testing.assert_allclose(offset, b, rtol=1e-6)


@pytest.mark.parametrize(("g", "K"), [(1, 80), (5, 3), (40, 3)])
def test_singular_problems_are_solved_in_the_least_squares_sense(g: int, K: int) -> None:
    rng = np.random.default_rng(0)
    thin = rng.standard_normal((g, K, K - 1))
    A = thin @ thin.transpose(0, 2, 1)
    A[0, :, 0] = A[0, 0, :] = 0
    B = A @ rng.standard_normal((g, K, 2))
    got = solve_symmetric(A, B)
    np.testing.assert_allclose(A @ got, B, atol=1e-7 * abs(B).max())
    assert abs(got).max() < 1e4


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_rows_of_the_dense_model_help_where_samples_are_few(seed: int) -> None:
    # Few rows with errors of the layers before in their inputs; without these, the same rows.
    rng = np.random.default_rng(seed)
    truth, old = rng.standard_normal((2, 1, 40, 4))
    x, u = rng.standard_normal((1, 60, 40)), rng.standard_normal((1, 600, 40))
    noisy = [gram.moments(e + 0.7 * rng.standard_normal(e.shape), e @ truth) for e in (x, u)]
    clean = gram.moments(x, x @ truth), gram.moments(u, u @ truth)
    bias = np.zeros((1, 4))
    without, _ = refit(*noisy, old, bias)
    both, apart = refit(*noisy, old, bias, dense=clean)
    assert both.after < 0.9 * without.after
    assert gram.squared_error(noisy[1], apart.weight, apart.bias).sum() == pytest.approx(
        both.after * noisy[1].variance
    )


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_mixing_lies_between_its_parts_and_biases_stay_those_of_the_rows(seed: int) -> None:
    (x, y), (u, v) = rows(seed, 1, 50, 6, 3, noise=0.5)
    rows_, others = gram.moments(x, y), gram.moments(u + 9, v)
    old = np.zeros((1, 6, 3))
    much, _ = ridge_regression(gram.mixed(rows_, others, 1e9), old, 0.0)
    np.testing.assert_allclose(much, ridge_regression(others, old, 0.0)[0], rtol=1e-5, atol=1e-7)
    mixed = gram.mixed(rows_, others, 1.0)
    weight, bias = ridge_regression(mixed, old, 1e-3)
    np.testing.assert_allclose(bias, correct_bias(rows_, weight))
    np.testing.assert_allclose(2 * mixed.xx, rows_.xx + others.xx)


@pytest.mark.parametrize("size", [3, 400])
def test_products_that_overflowed_are_refused_in_words(size: int) -> None:
    products = np.full((1, size, 2), np.nan)
    with pytest.raises(OnnxpruneError, match="too large on these inputs"):
        solve_symmetric(np.eye(size)[None], products)
