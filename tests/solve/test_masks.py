from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxprune.solve import masks

shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=9)
# Few distinct values, so that ties abound.
tied = hnp.arrays(np.float32, shapes, elements=st.integers(0, 4).map(float))


@given(tied, st.floats(0, 0.99), st.data())
@settings(max_examples=60, deadline=None)
def test_exactly_the_lowest_are_removed(
    scores: np.ndarray, sparsity: float, data: st.DataObject
) -> None:
    axes = data.draw(st.sets(st.integers(0, scores.ndim - 1)))
    within = tuple(axes) or None
    keep = masks.keep_top(scores, sparsity, within=within)
    assert keep.shape == scores.shape
    over = within or tuple(range(scores.ndim))
    competing = math.prod(scores.shape[axis] for axis in over)
    assert ((~keep).sum(axis=over) == masks.removed_count(competing, sparsity)).all()
    worst_kept = np.where(keep, scores, np.inf).min(axis=over)
    best_gone = np.where(keep, -np.inf, scores).max(axis=over)
    assert (worst_kept >= best_gone).all()


@given(st.lists(tied, min_size=1, max_size=4), st.floats(0, 0.99))
@settings(max_examples=30, deadline=None)
def test_one_threshold_serves_all_tensors(scores: list[np.ndarray], sparsity: float) -> None:
    kept = masks.keep_top_global(scores, sparsity)
    assert all(k.any() for k in kept)
    total = sum(s.size for s in scores)
    gone = sum(int((~k).sum()) for k in kept)
    # A tensor that would have lost everything keeps its best weight.
    wanted = masks.removed_count(total, sparsity)
    assert wanted - len(scores) <= gone <= wanted
    rescued = [k.sum() == 1 for k in kept]
    floor = min(
        (s[k].min() for s, k, r in zip(scores, kept, rescued, strict=True) if not r),
        default=np.inf,
    )
    assert all(s[~k].max() <= floor for s, k in zip(scores, kept, strict=True) if not k.all())


@given(tied, st.integers(1, 12), st.data())
@settings(max_examples=80, deadline=None)
def test_every_group_keeps_its_n_highest(scores: np.ndarray, m: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, m))
    axis = data.draw(st.integers(-scores.ndim, scores.ndim - 1))
    keep = masks.keep_n_of_m(scores, n, m, axis)
    assert masks.is_n_of_m(keep, n, m, axis)
    ranked, kept = np.moveaxis(scores, axis, -1), np.moveaxis(keep, axis, -1)
    for start in range(0, ranked.shape[-1], m):
        group, mine = ranked[..., start : start + m], kept[..., start : start + m]
        assert (mine.sum(-1) == min(n, group.shape[-1])).all()
        order = np.argsort(-group, axis=-1, kind="stable")[..., :n]
        assert np.take_along_axis(mine, order, axis=-1).all()


def test_a_pattern_is_told_from_its_absence() -> None:
    assert masks.is_n_of_m(np.array([[1.0, 0, 0, 2, 0, 0, 3]]), 2, 4, 1)
    assert not masks.is_n_of_m(np.array([[1.0, 1, 0, 2, 0, 0, 3]]), 2, 4, 1)
    assert not masks.is_n_of_m(np.array([[0, 0, 0, 0, 1, 2.0, 3]]), 2, 4, 1)


def test_scores_are_what_the_papers_say() -> None:
    rng = np.random.default_rng(0)
    W, norm = rng.standard_normal((3, 5)), rng.uniform(0.1, 2, (3, 1))
    np.testing.assert_allclose(masks.wanda(W, norm), abs(W) * norm)
    for i in range(3):
        for j in range(5):
            a = abs(W)
            want = (a[i, j] / a[:, j].sum() + a[i, j] / a[i].sum()) * norm[i, 0] ** 0.5
            assert masks.ria(W, norm, inputs=(0,))[i, j] == pytest.approx(want)


def test_half_precision_weights_are_scored_without_overflow() -> None:
    W = np.array([[6e4, 1.0], [3e4, 2.0]], dtype=np.float16)
    assert np.isfinite(masks.wanda(W, np.array([[1e3], [1e3]]))).all()
    assert masks.magnitude(W).dtype == np.float32


@pytest.mark.parametrize("axis", [0, 1])
def test_two_of_four_takes_a_fraction_of_a_microsecond_per_weight(axis: int) -> None:
    W = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        masks.keep_n_of_m(masks.magnitude(W), 2, 4, axis)
        best = min(best, time.perf_counter() - start)
    assert best / W.size < 0.2e-6


@pytest.mark.parametrize("within", [None, (0,), (1,)])
def test_ties_do_not_change_how_many_go(within: tuple[int, ...] | None) -> None:
    scores = np.round(np.random.default_rng(0).random((30, 40)) * 4).astype(np.float32)
    keep = masks.keep_top(scores, 0.5, within=within)
    counts = keep.sum() if within is None else keep.sum(axis=within)
    assert (counts == scores.size // 2 / (1 if within is None else np.size(counts))).all()
    if within is None:
        assert scores[keep].min() >= scores[~keep].max()
