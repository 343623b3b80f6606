"""Patterns of zeros are told apart, and chance is not taken for a pattern."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.solve.masks import keep_n_of_m
from onnxprune.sparse.encodings.sparsity_stats import find_pattern

Array = npt.NDArray[Any]


def weight(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def kept(array: Array, keep: Array) -> Array:
    return np.where(keep, array, np.float32(0))


def n_of_m(array: Array, n: int, m: int, axis: int) -> Array:
    return kept(array, keep_n_of_m(np.abs(array), n, m, axis))


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (weight(8, 8), "none"),
        (np.zeros((8, 8)), "empty"),
        (kept(weight(9), weight(9) > 0), "unstructured"),
    ],
)  # fmt: skip
def test_what_needs_no_looking(array: Array, kind: str) -> None:
    assert find_pattern(array).kind == kind


@given(
    shape=st.sampled_from([(64, 64), (32, 48, 3, 3), (4, 32, 32)]),
    sparsity=st.sampled_from([0.02, 0.3, 0.5, 0.75, 0.9, 0.97]),
    seed=st.integers(0, 20),
)
def test_random_places_are_no_pattern(shape: tuple[int, ...], sparsity: float, seed: int) -> None:
    array = weight(*shape, seed=seed)
    keep = np.random.default_rng(seed).random(shape) >= sparsity
    assert find_pattern(kept(array, keep)).kind == "unstructured"


@given(
    shape=st.sampled_from([(64, 64), (32, 64, 3, 3), (4, 32, 32)]),
    pattern=st.sampled_from([(2, 4), (1, 4), (4, 8), (2, 8), (1, 2), (3, 16)]),
    data=st.data(),
)
def test_n_of_m_is_found_along_its_axis(
    shape: tuple[int, ...], pattern: tuple[int, int], data: st.DataObject
) -> None:
    n, m = pattern
    axes = [axis for axis, size in enumerate(shape) if size % m == 0]
    axis = data.draw(st.sampled_from(axes))
    found = find_pattern(n_of_m(weight(*shape), n, m, axis))
    assert found.kind == "n:m"
    assert found.axes == (axis,)
    found_n, found_m = map(int, found.detail.split(":"))
    # 4:8 holds where 2:4 does; 1:2 is also the stricter form of 2:4.
    assert found_n / found_m == n / m


def test_two_of_four_survives_further_zeros() -> None:
    array = n_of_m(weight(64, 64), 2, 4, 0)
    array[np.random.default_rng(0).random(array.shape) < 0.05] = 0
    assert str(find_pattern(array)) == "2:4 along axis 0"


@given(
    shape=st.sampled_from([(64, 32), (32, 16, 3, 3)]),
    axes=st.sampled_from([(0,), (1,), (0, 1)]),
    seed=st.integers(0, 9),
)
def test_whole_channels_are_counted(
    shape: tuple[int, ...], axes: tuple[int, ...], seed: int
) -> None:
    array = weight(*shape)
    counts = []
    for axis in axes:
        dead = np.random.default_rng(seed + axis).permutation(shape[axis])[: shape[axis] // 4]
        array[(slice(None),) * axis + (dead,)] = 0
        counts.append(f"{len(dead)} of {shape[axis]}")
    found = find_pattern(array)
    assert (found.kind, found.axes, found.detail) == ("channels", axes, ", ".join(counts))


@given(side=st.sampled_from([(4, 4), (1, 8), (8, 1), (16, 16), (2, 4)]), seed=st.integers(0, 9))
def test_blocks_are_found_in_their_size(side: tuple[int, int], seed: int) -> None:
    high, wide = side
    keep = np.random.default_rng(seed).random((64 // high, 64 // wide)) < 0.5
    whole = np.repeat(np.repeat(keep, high, axis=0), wide, axis=1)
    found = find_pattern(kept(weight(64, 64), whole))
    assert (found.kind, found.detail) == ("block", f"{high}x{wide}")


def test_kernels_of_a_convolution_are_blocks() -> None:
    keep = np.random.default_rng(0).random((32, 16, 1, 1)) < 0.5
    found = find_pattern(kept(weight(32, 16, 3, 3), np.broadcast_to(keep, (32, 16, 3, 3))))
    assert str(found) == "blocks of 1x9"


def test_zeros_with_a_sign_count_and_nan_does_not() -> None:
    array = n_of_m(weight(32, 32), 2, 4, 1)
    array[array == 0] = -0.0
    array[0, np.flatnonzero(array[0])[0]] = np.nan
    assert str(find_pattern(array)) == "2:4 along axis 1"
