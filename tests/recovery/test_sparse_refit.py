from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.errors import OnnxpruneError
from onnxprune.solve import masks, support
from onnxprune.solve import moments as gram
from onnxprune.solve.admm import admm
from onnxprune.solve.obs import Pattern, inverse_factor, obs

HALF, PER_OUTPUT, TWO_OF_FOUR = Pattern(0.5), Pattern(0.5, per_output=True), Pattern(n=2, m=4)
patterns = st.sampled_from([HALF, PER_OUTPUT, TWO_OF_FOUR, Pattern(0.8), Pattern(n=1, m=4)])
seeds = st.integers(0, 10_000)


def layer(K: int, N: int, seed: int = 0) -> tuple[gram.Moments, gram.Moments, np.ndarray]:
    """A layer whose inputs are correlated and of unequal size: moments of two sets of rows."""
    rng = np.random.default_rng(seed)
    source = rng.standard_normal((16 * K, K)) * np.arange(1, K + 1) ** -0.5
    mix = rng.standard_normal((K, K)) / np.sqrt(K) * np.exp(0.5 * rng.standard_normal(K))
    x = source @ mix + 0.05 * rng.standard_normal(source.shape)
    W = rng.standard_normal((K, N)) / np.sqrt(K)
    half = len(x) // 2
    train, held = (gram.with_targets(gram.moments(part[None]), W[None])
                   for part in (x[:half], x[half:]))  # fmt: skip
    return train, held, W


def error(moments: gram.Moments, weight: np.ndarray) -> float:
    bias = moments.mean_y - np.einsum("gk,gkn->gn", moments.mean_x, weight[None])
    return float(gram.squared_error(moments, weight[None], bias).sum() / moments.yy.sum())


@given(seeds, patterns, st.sampled_from([obs, admm]))
@settings(max_examples=40, deadline=None)
def test_weights_have_the_pattern_they_were_asked_for(
    seed: int, pattern: Pattern, method: object
) -> None:
    rng = np.random.default_rng(seed)
    K, N = int(rng.integers(4, 40)), int(rng.integers(1, 20))
    train, _, W = layer(K, N, seed)
    pruned, keep = method(W, train.xx[0], pattern)  # type: ignore[operator]
    assert (pruned[~keep] == 0).all()
    assert np.isfinite(pruned).all()
    if pattern.m:
        assert masks.is_n_of_m(keep, pattern.n, pattern.m, 0)
    elif pattern.per_output or method is admm:
        competing = K if pattern.per_output else K * N
        gone = (~keep).sum(axis=0) if pattern.per_output else (~keep).sum()
        assert (gone == masks.removed_count(competing, pattern.sparsity)).all()


def test_obs_on_uncorrelated_inputs_is_magnitude_and_changes_nothing_else() -> None:
    rng = np.random.default_rng(0)
    W = rng.standard_normal((32, 8)).astype(np.float32)
    pruned, keep = obs(W, np.eye(32), HALF)
    np.testing.assert_array_equal(keep, masks.keep_top(abs(W), 0.5))
    np.testing.assert_array_equal(pruned, W * keep)


def test_obs_update_of_one_removed_input_is_the_least_squares_one() -> None:
    # Only the first input may be removed (its weights are tiny), so the update is exact.
    train, _, W = layer(12, 6)
    W[0] = 1e-6
    one = Pattern(1 / 12, per_output=True)
    pruned, keep = obs(W, train.xx[0], one, damping=0.0)
    assert (~keep[0]).all()
    rest = np.linalg.solve(train.xx[0][1:, 1:], train.xx[0][1:] @ W)
    np.testing.assert_allclose(pruned[1:], rest, atol=1e-5)


def test_damping_grows_until_a_singular_matrix_can_be_factored() -> None:
    ones = np.ones((6, 6))
    factor = inverse_factor(ones, 0.0)
    np.testing.assert_array_equal(factor, np.triu(factor))
    assert np.isfinite(factor).all()
    with pytest.raises(OnnxpruneError, match="not numbers"):
        inverse_factor(np.full((3, 3), np.nan), 0.0)


@given(seeds, patterns)
@settings(max_examples=40, deadline=None)
def test_conjugate_gradients_reach_the_least_squares_solution_on_every_support(
    seed: int, pattern: Pattern
) -> None:
    rng = np.random.default_rng(seed)
    train, _, W = layer(12, 5, seed)
    xx, xy = train.xx[0], train.xy[0] + 0.1 * rng.standard_normal((12, 5))
    keep = pattern.keep(rng.random((12, 5)))
    got = support.conjugate_gradients(xx, xy, keep, W, ridge=1e-3, iterations=60)
    assert (got[~keep] == 0).all()
    penalty = 1e-3 * np.diagonal(xx)[:, None]
    metric = xx + np.diag(penalty[:, 0])
    for n in range(5):
        rows = np.flatnonzero(keep[:, n])
        want = np.linalg.solve(metric[np.ix_(rows, rows)], (xy + penalty * W)[rows, n])
        np.testing.assert_allclose(got[rows, n], want, rtol=1e-4, atol=1e-6)


@given(seeds, st.integers(0, 12))
@settings(max_examples=30, deadline=None)
def test_more_iterations_never_fit_worse(seed: int, iterations: int) -> None:
    train, _, W = layer(16, 8, seed)
    keep = HALF.keep(np.abs(W))
    fewer, more = (
        support.conjugate_gradients(train.xx[0], train.xy[0], keep, W, ridge=0.0, iterations=n)
        for n in (iterations, iterations + 1)
    )
    assert error(train, more) <= error(train, fewer) * (1 + 1e-9)


def test_dead_inputs_keep_their_weights_finite() -> None:
    train, held, W = layer(16, 8)
    for moments in (train, held):
        moments.xx[0, 3] = moments.xx[0, :, 3] = moments.xy[0, 3] = 0
    keep = HALF.keep(np.abs(W))
    keep[3] = True
    got = support.conjugate_gradients(train.xx[0], train.xy[0], keep, W, ridge=0.0)
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(got[3], W[3])


@given(seeds, patterns, st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_refit_never_raises_the_held_out_error(
    seed: int, pattern: Pattern, free_bias: bool
) -> None:
    train, held, W = layer(12, 6, seed)
    keep = pattern.keep(np.abs(W))
    bias = np.random.default_rng(seed).standard_normal((1, 6))
    got = support.refit_support(train, held, W[None], keep[None], bias, free_bias=free_bias)
    assert got.after <= got.before
    assert got.accepted == (got.after < got.before)
    assert (got.weight[0][~keep] == 0).all()
    if not free_bias:
        np.testing.assert_array_equal(got.bias, bias)


def test_a_refit_that_would_hurt_is_declined() -> None:
    # Nothing is removed and the weights are the truth: twelve noisy rows can only make it worse.
    rng = np.random.default_rng(0)
    W = rng.standard_normal((1, 6, 3))
    x, u = rng.standard_normal((1, 12, 6)), rng.standard_normal((1, 500, 6))
    train = gram.moments(x, x @ W + rng.standard_normal((1, 12, 3)))
    keep = np.ones(W.shape, dtype=bool)
    got = support.refit_support(train, gram.moments(u, u @ W), W, keep, np.zeros((1, 3)))
    assert not got.accepted
    np.testing.assert_array_equal(got.weight, W)


@pytest.mark.parametrize("pattern", [HALF, TWO_OF_FOUR, Pattern(0.7)])
def test_refits_beat_the_methods_they_start_from_on_rows_they_never_saw(pattern: Pattern) -> None:
    train, held, W = layer(256, 256)
    G = train.xx[0]
    norm = np.sqrt(np.diagonal(G))[:, None]
    per_output = Pattern(pattern.sparsity, pattern.n, pattern.m, per_output=True)

    def refit(start: np.ndarray, keep: np.ndarray) -> np.ndarray:
        return support.conjugate_gradients(G, train.xy[0], keep, W, start, ridge=0.1)

    by_magnitude = W * pattern.keep(np.abs(W))
    kept = per_output.keep(masks.wanda(W, norm))
    sparsegpt, sparsegpt_kept = obs(W, G, pattern)
    alternating, alternating_kept = admm(W, G, pattern)
    wanda_refitted = error(held, refit(W, kept))
    sparsegpt_refitted = error(held, refit(sparsegpt, sparsegpt_kept))
    alternating_refitted = error(held, refit(alternating, alternating_kept))
    assert error(held, W * kept) < error(held, by_magnitude)
    assert wanda_refitted < 0.7 * error(held, W * kept)
    assert sparsegpt_refitted < 0.9 * error(held, sparsegpt)
    assert sparsegpt_refitted < wanda_refitted
    assert alternating_refitted < sparsegpt_refitted


def test_of_many_outputs_some_decide_and_all_are_refitted() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3000, 160)) @ (rng.standard_normal((160, 160)) / 9 + np.eye(160))
    W = rng.standard_normal((1, 160, 150))
    train, held = (gram.moments(part[None], part[None] @ W) for part in (x[:2000], x[2000:]))
    keep = rng.random(W.shape) < 0.5
    got = support.refit_support(train, held, W, keep, np.zeros((1, 150)), free_bias=False)
    assert got.methods == ("pcg",)
    assert not got.weight[~keep].any()
    masked = gram.squared_error(held, W * keep, np.zeros((1, 150)))
    assert got.before == pytest.approx(masked.sum() / held.yy.sum(), rel=1e-9)
    refitted = gram.squared_error(held, got.weight, got.bias)
    assert (refitted < masked).all()
    # It is an estimate: from some of the outputs, of weights that had not seen these rows.
    assert got.after == pytest.approx(refitted.sum() / held.yy.sum(), rel=0.25)
