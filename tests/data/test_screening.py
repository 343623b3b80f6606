"""Samples that judge little are said to: repeats, constants, and those that were fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.data import zoo
from onnxprune.data.batches import InputFormat, input_format
from onnxprune.data.screening import Screen, notes_on, samples_of
from onnxprune.model.signature import TensorSpec

Array = npt.NDArray[Any]

FLOAT, TOKEN = np.dtype(np.float32), np.dtype(np.int64)
VECTORS = input_format([TensorSpec("x", FLOAT, ("n", 4))])
TOKENS = input_format([TensorSpec(n, TOKEN, ("batch", "seq")) for n in ("ids", "mask")])


def screen(data: Mapping[str, Array], inputs: InputFormat = VECTORS, batch: int = 8) -> Screen:
    """What is known of some samples after they passed in batches."""
    result, count = Screen(inputs), inputs.count(data)
    parts = [slice(k, k + batch) for k in range(0, count, batch)]
    batches = [inputs.take(data, part) for part in parts]
    passed = list(result.watch(batches))
    assert all(a is b for a, b in zip(passed, batches, strict=True))
    return result


def vectors(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


@given(
    distinct=st.integers(1, 40),
    copies=st.integers(0, 40),
    batch=st.integers(1, 50),
    seed=st.integers(0, 99),
)
def test_copies_are_counted_in_any_order_and_any_batching(
    distinct: int, copies: int, batch: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    some = vectors(distinct, seed)
    every = np.concatenate([some, some[rng.integers(0, distinct, copies)]])
    rng.shuffle(every)
    seen = screen({"x": every}, batch=batch)
    assert len(seen.hashes) == distinct + copies
    assert len(set(seen.hashes)) == distinct
    notes = " ".join(notes_on(seen, []))
    assert ("identical" in notes) == (distinct == 1 and copies > 0)
    few = copies <= 0.01 * (distinct + copies)
    assert ("are duplicates" in notes) == (distinct > 1 and not few)
    if "duplicates" in notes:
        assert f"{copies} of {distinct + copies} samples" in notes
        assert f"only {distinct} are distinct" in notes


@given(shared=st.integers(0, 20), own=st.integers(1, 20), seed=st.integers(0, 99))
def test_samples_of_eval_that_were_fitted_to_are_counted(shared: int, own: int, seed: int) -> None:
    fit, other = vectors(20, seed), vectors(own, seed + 1000)
    judges = screen({"x": np.concatenate([fit[:shared], other])})
    notes = notes_on(screen({"x": fit}), [judges], "--eval")
    assert bool(notes) == (shared > 0)
    if notes:
        assert notes[0].startswith(f"{shared} of {shared + own} samples of --eval are in --calib")


def test_held_out_copies_are_said_beside_the_duplicates() -> None:
    repeated = np.repeat(vectors(4), 32, 0)
    notes = notes_on(screen({"x": repeated}), [screen({"x": repeated[::8]})])
    assert notes[1] == "16 of 16 held-out samples were also fitted to"
    assert not notes_on(screen({"x": vectors(64)}), [screen({"x": vectors(8, 1)})])


@given(blank=st.integers(0, 30), seed=st.integers(0, 99))
def test_samples_without_variation_are_counted(blank: int, seed: int) -> None:
    level = np.broadcast_to(np.arange(blank, dtype=np.float32)[:, None], (blank, 4))
    data = np.concatenate([level, vectors(30, seed)])
    notes = [n for n in notes_on(screen({"x": data}), []) if "constant" in n]
    assert bool(notes) == (blank > 0.1 * len(data))
    if notes:
        assert notes[0].startswith(f"{blank} of {len(data)} samples are constant")


def test_masks_and_states_may_be_constant_but_not_the_data() -> None:
    ids = np.random.default_rng(0).integers(0, 50, (32, 6))
    mask = np.ones_like(ids)
    assert not notes_on(screen({"ids": ids, "mask": mask}, TOKENS), [])
    both = input_format([TensorSpec("x", FLOAT, ("n", 8)), TensorSpec("state", FLOAT, ("n", 2))])
    state = np.zeros((32, 2), np.float32)
    varied = np.random.default_rng(0).standard_normal((32, 8)).astype(np.float32)
    assert not notes_on(screen({"x": varied, "state": state}, both), [])
    same = np.broadcast_to(varied[:1], varied.shape)
    (note,) = notes_on(screen({"x": same, "state": varied[:, :2]}, both), [])
    assert note == "the input 'x' is constant: it is the same in all 32 samples"
    wide = input_format([TensorSpec("h0", FLOAT, ("n", 8)), TensorSpec("x", FLOAT, ("n", 2))])
    assert not notes_on(screen({"h0": same * 0, "x": varied[:, :2]}, wide), [])


def test_samples_are_told_apart_in_every_layout() -> None:
    middle = input_format([TensorSpec("x", FLOAT, ("time", "batch", 2))])
    data = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    rows = samples_of({"x": data}, middle)["x"]
    np.testing.assert_array_equal(rows[1], data[:, 1].ravel())
    fixed = input_format([TensorSpec("x", FLOAT, (4, 3)), TensorSpec("scale", FLOAT, (1,))])
    whole = {"x": np.arange(12, dtype=np.float32).reshape(4, 3), "scale": np.ones(1, np.float32)}
    rows = samples_of(whole, fixed)
    assert rows["x"].shape == (4, 3)
    assert rows["scale"].shape == (4, 1)
    words = input_format([TensorSpec("text", np.dtype(object), ("n",))])
    seen = screen({"text": np.array(["a", "b", "a"], object)}, words)
    assert len(set(seen.hashes)) == 2


@pytest.mark.parametrize("name", zoo.names())
def test_honest_data_raise_no_alarm(name: str) -> None:
    entry = zoo.get(name)
    data = zoo.calibration(entry)
    symbols = [TensorSpec(n, a.dtype, ("batch", *a.shape[1:])) for n, a in data.items()]
    inputs = input_format(symbols)
    first, rest = (inputs.take(data, part) for part in (slice(0, 51), slice(51, None)))
    assert not notes_on(screen(rest, inputs), [screen(first, inputs)])


@pytest.mark.parametrize(
    "file", ["cifar10_calib", "cifar10_test", "cifar10_more", "mnist_test3000"]
)
def test_real_pictures_raise_no_alarm(shared: Any, file: str) -> None:
    with np.load(shared / "data" / f"{file}.npz") as archive:
        pictures = archive["x"]
    inputs = input_format([TensorSpec("x", pictures.dtype, ("n", *pictures.shape[1:]))])
    rest, held = ({"x": part} for part in (pictures[100:], pictures[:100]))
    assert not notes_on(screen(rest, inputs), [screen(held, inputs)])


@pytest.mark.parametrize("key", ["calib", "sst2_test", "sst2_dev", "stsb_a"])
def test_real_texts_raise_no_alarm(shared: Any, key: str) -> None:
    with np.load(shared / "data" / "minilm_stsb_sst2_tokens.npz") as archive:
        ids = archive[f"{key}_ids"].astype(np.int64)
    mask = (ids != 0).astype(np.int64)
    data = {"ids": ids, "mask": mask}
    notes = notes_on(screen(data, TOKENS), [])
    distinct = len(np.unique(ids, axis=0))
    assert bool(notes) == (len(ids) - distinct > 0.01 * len(ids)), notes
