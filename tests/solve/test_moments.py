from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.solve import moments as gram

seeds = st.integers(0, 10_000)


def problem(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated rows far from zero, the case where uncentred sums lose their digits."""
    rng = np.random.default_rng(seed)
    g, rows, K, N = (int(n) for n in rng.integers([1, 3, 1, 1], [4, 80, 9, 5]))
    x = rng.standard_normal((g, rows, K)) @ rng.standard_normal((g, K, K)) + 100 * rng.normal(
        size=(g, 1, K)
    )
    return x, rng.standard_normal((g, rows, N)) + 50


def same(a: gram.Moments, b: gram.Moments, rtol: float = 1e-9) -> None:
    assert a.count == b.count
    for name in ("mean_x", "mean_y", "xx", "xy", "yy"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=rtol, atol=rtol * 100)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_moments_are_the_covariances(seed: int) -> None:
    x, y = problem(seed)
    got = gram.moments(x, y)
    cx, cy = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    rows = x.shape[1]
    want = gram.Moments(
        rows,
        x.mean(1),
        y.mean(1),
        np.einsum("gri,grj->gij", cx, cx) / rows,
        np.einsum("gri,grn->gin", cx, cy) / rows,
        y.var(1),
    )
    same(got, want)
    np.testing.assert_allclose(got.second, (x**2).mean(1))


@given(seeds, st.integers(0, 10_000), st.integers(16, 4096))
@settings(max_examples=60, deadline=None)
def test_batches_and_chunks_do_not_matter(seed: int, cut: int, memory: int) -> None:
    x, y = problem(seed)
    cut %= x.shape[1] - 1
    cut += 1
    streamed = gram.Accumulator(x.shape[0], x.shape[2], y.shape[2], memory=memory)
    streamed.add(x[:, :cut], y[:, :cut])
    streamed.add(x[:, cut:], y[:, cut:])
    whole = gram.moments(x, y)
    same(streamed.moments(), whole)
    same(gram.merge(gram.moments(x[:, :cut], y[:, :cut]), gram.moments(x[:, cut:], y[:, cut:])),
         whole)  # fmt: skip


@given(seeds, st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_rows_may_wait_for_each_other(seed: int, gathered: int) -> None:
    x, y = problem(seed)
    waiting = gram.Accumulator(x.shape[0], x.shape[2], y.shape[2], gathered=gathered)
    for row in range(x.shape[1]):
        waiting.add(x[:, row : row + 1], y[:, row : row + 1])
    same(waiting.moments(), gram.moments(x, y))


def test_single_precision_keeps_six_digits_of_rows_far_from_zero() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((1, 5000, 16)) + 30).astype(np.float32)
    fast = gram.Accumulator(1, 16, double=False)
    fast.add(x)
    got, want = fast.moments().xx, gram.moments(x).xx
    assert abs(got - want).max() < 1e-6 * abs(want).max()


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_squared_error_is_that_of_the_rows(seed: int) -> None:
    x, y = problem(seed)
    rng = np.random.default_rng(seed)
    W, b = rng.standard_normal((len(x), x.shape[2], y.shape[2])), rng.normal(size=(len(x), 1))
    want = ((y - x @ W - b[:, None]) ** 2).mean(1)
    got = gram.squared_error(gram.moments(x, y), W, b)
    np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-7)


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_restriction_and_targets_commute_with_measuring(seed: int) -> None:
    x, y = problem(seed)
    rng = np.random.default_rng(seed)
    rows = rng.permutation(x.shape[2])[: rng.integers(1, x.shape[2] + 1)]
    same(gram.restrict(gram.moments(x, y), rows), gram.moments(x[:, :, rows], y))
    W, b = rng.standard_normal((len(x), x.shape[2], 3)), rng.standard_normal((len(x), 3))
    same(gram.with_targets(gram.moments(x), W, b), gram.moments(x, x @ W + b[:, None]), 1e-7)


def test_rows_that_do_not_fit_are_refused() -> None:
    collected = gram.Accumulator(1, 4, 2)
    with pytest.raises(ValueError, match="no rows"):
        collected.moments()
    with pytest.raises(ValueError, match="do not fit moments"):
        collected.add(np.zeros((1, 3, 5)), np.zeros((1, 3, 2)))
    with pytest.raises(ValueError, match="do not fit rows"):
        collected.add(np.zeros((1, 3, 4)), np.zeros((1, 2, 2)))
