from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.solve import masks, support
from onnxprune.solve import moments as gram
from onnxprune.solve.permute import kept_share, permute

seeds = st.integers(0, 10_000)


@given(seeds, st.sampled_from([(2, 4), (1, 4), (4, 8), (3, 4), (1, 2), (4, 4)]))
@settings(max_examples=60, deadline=None)
def test_kept_score_never_falls_and_nothing_is_lost(seed: int, pattern: tuple[int, int]) -> None:
    n, m = pattern
    rng = np.random.default_rng(seed)
    scores = rng.exponential(size=(m * int(rng.integers(1, 9)), int(rng.integers(1, 12))))
    found = permute(scores, n, m, outputs=int(rng.integers(1, 14)), seed=seed)
    np.testing.assert_array_equal(np.sort(found.order), np.arange(len(scores)))
    assert found.before == kept_share(scores, n, m)
    assert found.after == pytest.approx(kept_share(scores[found.order], n, m))
    assert found.after >= found.before


def test_small_cases_are_solved_as_well_as_by_trying_every_order() -> None:
    ratios = []
    for seed in range(10):
        scores = np.random.default_rng(seed).exponential(size=(8, 3))
        best = max(kept_share(scores[[0, *order]], 2, 4) for order in permutations(range(1, 8)))
        found = permute(scores, 2, 4, rounds=8)
        ratios.append((found.after - found.before) / max(best - found.before, 1e-12))
        assert found.after <= best + 1e-12
    assert np.mean(ratios) > 0.8


def test_clashing_channels_are_parted() -> None:
    # Half of the channels matter, and they come in runs of four: 2:4 as given loses half of them.
    scores = np.full((32, 8), 0.01)
    scores.reshape(8, 4, 8)[::2] = 1.0
    found = permute(scores, 2, 4)
    assert found.before < 0.6
    assert found.after > 0.98


def test_permuting_both_sides_of_a_layer_changes_nothing_it_computes() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(-8, 9, (6, 16)), rng.integers(-8, 9, (16, 5))
    order = permute(np.abs(second).astype(float), 2, 4).order
    assert not np.array_equal(order, np.arange(16))
    x = rng.integers(-8, 9, (10, 6))
    np.testing.assert_array_equal(
        np.maximum(x @ first, 0) @ second, np.maximum(x @ first[:, order], 0) @ second[order]
    )


def test_less_is_lost_after_the_refit_too() -> None:
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((128, 128)) / 11 * np.exp(0.5 * rng.standard_normal(128))
    spectrum = np.arange(1, 129) ** -0.5
    G = gram.moments(((rng.standard_normal((4000, 128)) * spectrum) @ mix)[None]).xx[0]
    W = rng.standard_normal((128, 96))

    def error(order: np.ndarray) -> float:
        V, H = W[order], G[np.ix_(order, order)]
        keep = masks.keep_n_of_m(masks.wanda(V, np.sqrt(np.diagonal(H))[:, None]), 2, 4, 0)
        delta = support.conjugate_gradients(H, H @ V, keep, V, ridge=0.0) - V
        return float(np.einsum("kn,kn->", delta, H @ delta))

    found = permute(masks.wanda(W, np.sqrt(np.diagonal(G))[:, None]), 2, 4)
    assert error(found.order) < 0.95 * error(np.arange(128))


def test_inputs_that_cannot_be_grouped_are_refused() -> None:
    with pytest.raises(ValueError, match="6 inputs cannot be grouped by 4"):
        permute(np.ones((6, 2)), 2, 4)
