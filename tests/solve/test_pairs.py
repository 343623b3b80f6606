from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.solve import im2col as patches
from onnxprune.solve import patch_sampling as crops
from onnxprune.solve.im2col import Window
from onnxprune.solve.pairs import refit_pair
from onnxprune.solve.two_layer import Pair, Rows, Side, computed, relu

seeds = st.integers(0, 10_000)


@st.composite
def windows(draw: st.DrawFn) -> tuple[Window, tuple[int, ...]]:
    rank = draw(st.integers(1, 2))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    window = Window(each(1, 3), each(1, 2), each(1, 2), each(0, 2) + each(0, 2))
    return window, each(5, 9)


@given(windows(), seeds, st.integers(1, 5))
@settings(max_examples=60)
def test_features_of_crops_are_the_rows_of_the_convolution(
    case: tuple[Window, tuple[int, ...]], seed: int, block: int
) -> None:
    window, sizes = case
    x = np.random.default_rng(seed).standard_normal((3, 2, *sizes))
    drawn = crops.sample_crops(window, 3, sizes, 20, seed, block)
    hidden = patches.token_rows(x, 1, drawn.hidden)[0]
    got = drawn.features(hidden)[:, np.argsort(drawn.order(2))]
    np.testing.assert_array_equal(got, patches.window_rows(x, window, drawn.outputs)[0])


@given(windows(), seeds)
@settings(max_examples=60)
def test_spreading_is_the_transpose_of_gathering(
    case: tuple[Window, tuple[int, ...]], seed: int
) -> None:
    window, sizes = case
    rng = np.random.default_rng(seed)
    drawn = crops.sample_crops(window, 2, sizes, 10, seed)
    hidden = rng.standard_normal((len(drawn.hidden), 3))
    made = drawn.features(hidden)
    other = rng.standard_normal(made.shape)
    assert (made * other).sum() == pytest.approx((hidden * drawn.spread(other)).sum())


def problem(
    seed: int, *, clip: tuple[float, float] = (-np.inf, np.inf), tokens: bool = False
) -> tuple[Rows, Rows, Pair]:
    """A dense pair of layers that lost a third of its hidden units: what was wanted, what is left.

    Inputs are smooth pictures, so that hidden units can stand in for one another.
    """
    rng = np.random.default_rng(seed)
    channels, hidden, outputs = 4, 12, 6
    maker = Window((1, 1)) if tokens else Window((3, 3), pads=(1, 1, 1, 1))
    reader = Window((1, 1)) if tokens else maker
    x = np.cumsum(np.cumsum(rng.standard_normal((60, channels, 8, 8)), 2), 3).astype(np.float32)
    x /= x.std()
    K = channels * (1 if tokens else 9)
    first = rng.standard_normal((K, hidden)) / np.sqrt(K)
    second = rng.standard_normal((hidden * (1 if tokens else 9), outputs))
    skip = rng.standard_normal((60, outputs, 8, 8)).astype(np.float32)

    def rows(images: np.ndarray, at: int) -> Rows:
        if tokens:
            drawn = crops.sample_tokens(len(images) * 64, 1500, at)
        else:
            drawn = crops.sample_crops(reader, len(images), (8, 8), 1500, at)
        seen = patches.window_rows(x[images], maker, drawn.hidden)
        made = drawn.features(np.maximum(seen[0] @ first, 0))[:, np.argsort(drawn.order(hidden))]
        offset = patches.token_rows(skip[images], 1, drawn.outputs)[0]
        return Rows(drawn, seen, made @ second + 0.5 + offset, offset, clip)

    kept = np.arange(8)
    taps = 1 if tokens else 9
    left = second.reshape(hidden, taps, -1)[kept].reshape(-1, outputs)
    pair = Pair(
        np.concatenate([first[:, kept], np.zeros((1, 8))])[None],
        np.concatenate([left, np.full((1, outputs), 0.5)]),
    )
    return rows(np.arange(45), 0), rows(np.arange(45, 60), 1), pair


@given(seeds, st.sampled_from([(-np.inf, np.inf), (0.0, np.inf), (0.0, 2.0)]), st.booleans())
@settings(max_examples=12)
def test_held_out_loss_never_rises_and_is_the_one_reported(
    seed: int, clip: tuple[float, float], tokens: bool
) -> None:
    train, held, pair = problem(seed, clip=clip, tokens=tokens)
    found = refit_pair(Side(train, relu()), Side(held, relu()), pair, steps=3)
    assert found.after <= found.before

    def loss(one: Pair) -> float:
        hidden = np.maximum(held.x[0] @ one.first[0, :-1] + one.first[0, -1], 0)
        made = held.crops.features(hidden)[:, np.argsort(held.crops.order(hidden.shape[1]))]
        out = made @ one.second[:-1] + one.second[-1] + held.offset
        error = out - held.wanted
        error = np.where(held.wanted <= clip[0], np.maximum(out - clip[0], 0), error)
        error = np.where(held.wanted >= clip[1], np.minimum(out - clip[1], 0), error)
        return float((error**2).sum(1).mean() / np.clip(held.wanted, *clip).var(axis=0).sum())

    assert found.before == pytest.approx(loss(pair), rel=1e-4)
    assert found.after == pytest.approx(loss(found.pair), rel=1e-4)


@pytest.mark.parametrize("tokens", [False, True])
def test_two_layers_together_do_better_than_the_second_alone(tokens: bool) -> None:
    better = []
    for seed in range(4):
        train, held, pair = problem(seed, tokens=tokens)
        alone = refit_pair(Side(train, relu()), Side(held, relu()), pair, steps=0)
        together = refit_pair(Side(train, relu()), Side(held, relu()), pair, steps=10)
        assert alone.after < alone.before
        better.append(together.after / alone.after)
    assert max(better) < 0.9


def test_a_pair_that_is_right_is_left_alone() -> None:
    train, held, pair = problem(0)
    hidden = np.maximum(train.x[0] @ pair.first[0, :-1], 0)
    for rows in (train, held):
        hidden = np.maximum(rows.x[0] @ pair.first[0, :-1], 0)
        made = rows.crops.features(hidden)[:, np.argsort(rows.crops.order(8))]
        rows.wanted[:] = made @ pair.second[:-1] + 0.5 + rows.offset
    found = refit_pair(Side(train, relu()), Side(held, relu()), pair)
    assert found.before < 1e-10
    np.testing.assert_allclose(found.pair.first, pair.first, atol=1e-3)


def test_biases_that_do_not_exist_stay_zero() -> None:
    train, held, pair = problem(1)
    pair.second[-1] = 0
    found = refit_pair(Side(train, relu()), Side(held, relu()), pair, free_bias=(False, False))
    assert found.steps > 0
    assert (found.pair.first[:, -1] == 0).all()
    assert (found.pair.second[-1] == 0).all()


def test_what_a_clip_hides_does_not_count() -> None:
    # What lies below zero is noise that nobody reads; a refit that knows it fits the rest better.
    train, held, pair = problem(2)
    rng = np.random.default_rng(0)
    for rows in (train, held):
        noise = 5 * rng.standard_normal(rows.wanted.shape)
        np.copyto(rows.wanted, -np.abs(noise), where=rows.wanted < 0, casting="same_kind")
    start = refit_pair(Side(train, relu()), Side(held, relu()), pair, steps=0).pair
    plain = refit_pair(Side(train, relu()), Side(held, relu()), start, steps=10).pair
    seen, judged = (replace(rows, clip=(0.0, np.inf)) for rows in (train, held))
    unaware = refit_pair(Side(seen, relu()), Side(judged, relu()), plain, steps=0).before
    aware = refit_pair(Side(seen, relu()), Side(judged, relu()), start, steps=10).after
    assert aware < 0.5 * unaware


@pytest.mark.parametrize(("dtype", "close"), [(np.float32, 1e-3), (np.float16, 3e-2)])
def test_a_computed_function_has_its_values_and_slopes(dtype: type, close: float) -> None:
    table = computed(np.tanh, dtype)
    x = np.linspace(-4, 4, 333, dtype=np.float32).reshape(3, 111)
    np.testing.assert_allclose(table.value(x), np.tanh(x), atol=close)
    np.testing.assert_allclose(table.slope(x), 1 - np.tanh(x) ** 2, atol=close)
    line = computed(lambda x: np.maximum(x, 3 * x), dtype)
    far = np.array([-3e3, 3e3, -1.0, 2.0], np.float32)
    np.testing.assert_allclose(line.slope(far), [1, 3, 1, 3], rtol=close)
    with np.errstate(all="ignore"):
        assert not computed(np.log, dtype).slope(np.float32([-1.0, -2.0])).any()  # undefined there


def test_rows_that_a_clip_hides_altogether_have_finite_losses() -> None:
    train, held, pair = problem(1, clip=(0.0, np.inf))
    dead = replace(held, wanted=np.full_like(held.wanted, -1))
    found = refit_pair(Side(train, relu()), Side(dead, relu()), pair, steps=2)
    assert 0 < found.before < np.inf
    assert found.after <= found.before
