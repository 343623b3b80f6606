"""Samples of a run: divided once, so that what judges was never fitted to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.skeletons.net import Net
from onnxprune import model as models
from onnxprune.config import Options, from_flags
from onnxprune.data import zoo
from onnxprune.data.dataset import (
    ASIDE,
    ENOUGH,
    Dataset,
    open_dataset,
    open_source,
    synthetic_choices,
    synthetic_dataset,
    synthetic_inputs,
)
from onnxprune.errors import OnnxpruneError, typed_flags
from onnxprune.graph.analysis import analyse

MODEL = models.load(zoo.get("digits_mlp").model)
((NAME, _SAMPLES),) = zoo.calibration(zoo.get("digits_mlp")).items()
SHAPE = _SAMPLES.shape[1:]


def opened(count: int, *, chooses: bool = False, most: float = 1e9, **flags: Any) -> Dataset:
    """A data set whose samples, and their labels, are their own numbers."""
    numbers = np.arange(count, dtype=np.float32).reshape(-1, *[1] * len(SHAPE))
    calib = {NAME: numbers + np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)}
    config = from_flags({"calib": calib, "labels": np.arange(count), **flags})
    source, shapes = open_source(MODEL, config)
    assert source is not None
    assert shapes is not None
    assert shapes[NAME][1:] == SHAPE
    return open_dataset(source, config, chooses=chooses, most_bytes=most)


def numbers(feeds: Any) -> list[int]:
    """Which samples some batches hold."""
    return [int(x) for each in feeds for x in each[NAME].reshape(len(each[NAME]), -1)[:, 0]]


@settings(deadline=None)
@given(
    count=st.integers(2, 700),
    batch=st.integers(1, 64),
    seed=st.integers(0, 9),
    chooses=st.booleans(),
)
def test_parts_share_no_sample_and_every_sample_is_in_one(
    count: int, batch: int, seed: int, chooses: bool
) -> None:
    data = opened(count, chooses=chooses, batch=batch, seed=seed)
    parts = [data.fit, data.holdout, *([] if data.eval is data.holdout else [data.eval])]
    every = [number for part in parts for number in numbers(part)]
    assert sorted(every) == list(range(count))
    aside = round(count * ASIDE) if chooses else round(count * 0.1)
    assert sum(len(numbers(part)) for part in parts[1:]) == max(aside, 1)
    assert (len(parts) == 3) == (chooses and aside >= 2 * ENOUGH)
    if len(parts) == 3:
        assert min(len(numbers(part)) for part in parts[1:]) >= ENOUGH
    for part in (data.holdout, data.eval):
        assert part.labels is not None
        assert part.labels.tolist() == numbers(part)
    again = opened(count, chooses=chooses, batch=batch, seed=seed)
    assert numbers(again.fit) == numbers(data.fit)
    assert data.labels is data.eval.labels


def test_one_sample_is_fitted_to_and_judges_but_chooses_nothing() -> None:
    data = opened(1)
    assert data.one_batch
    assert numbers(data.fit) == numbers(data.holdout) == numbers(data.eval) == [0]
    with pytest.raises(OnnxpruneError, match="too small"):
        opened(1, chooses=True)


def test_only_what_fits_in_memory_is_fitted_to_and_that_is_said() -> None:
    each = 32 * int(np.prod(SHAPE)) * 4
    data = opened(400, most=2.5 * each, batch=32)
    assert len(numbers(data.fit)) == 64
    assert data.notes == (
        "64 of 400 calibration samples were fitted to: more do not fit in memory",
    )
    assert not opened(400).notes


def test_samples_that_judge_are_read_anew_where_they_do_not_fit_in_memory() -> None:
    small, large = opened(400), opened(400, memory="10kB")
    assert isinstance(small.holdout.feeds, tuple)
    assert not isinstance(large.holdout.feeds, tuple)
    for _ in range(2):
        assert numbers(large.holdout) == numbers(small.holdout)


def test_synthetic_samples_are_not_fitted_to() -> None:
    config = from_flags({"calib": "random", "calib_samples": 8})
    source, _ = open_source(MODEL, config)
    assert source is not None
    data = open_dataset(source, config)
    assert data.synthetic
    assert not data.fit
    assert sum(len(each[NAME]) for each in data.holdout) == 8


def test_inputs_that_follow_from_the_graph_run_and_are_the_same_each_time() -> None:
    analysis = analyse(MODEL)
    one, other = (synthetic_dataset(analysis, Options(ratio=0.5, seed=3)) for _ in range(2))
    assert one.synthetic
    assert not one.fit
    assert one.description == "random inputs, seed 3"
    assert [*one.holdout] == [*one.probe]
    for a, b in zip(one.probe, other.probe, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    assert one.whole(Options(ratio=0.5)) is one.eval


def test_the_whole_has_every_sample_and_every_label() -> None:
    data = opened(50)
    whole = data.whole(from_flags({"calib": "random", "labels": np.arange(50)}))
    assert numbers(whole) == list(range(50))
    assert whole.labels is not None
    assert whole.labels.tolist() == list(range(50))


# --- samples of --eval ------------------------------------------------------------------------


def judged(count: int, others: int, *, chooses: bool = False, **flags: Any) -> Dataset:
    """Samples to fit to, and others that judge, numbered on from the first ones."""
    values = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    numbers = np.arange(count + others, dtype=np.float32).reshape(-1, *[1] * len(SHAPE))
    samples = np.asarray(numbers + values)
    config = from_flags(
        {
            "calib": {NAME: samples[:count]},
            "eval": {NAME: samples[count:]},
            "eval-labels": np.arange(count, count + others),
            **flags,
        }
    )
    source, _ = open_source(MODEL, config)
    assert source is not None
    return open_dataset(source, config, chooses=chooses)


@settings(deadline=None, max_examples=25)
@given(
    count=st.integers(1, 100),
    others=st.integers(1, 300),
    batch=st.integers(1, 64),
    chooses=st.booleans(),
)
def test_all_samples_are_fitted_to_where_others_judge(
    count: int, others: int, batch: int, chooses: bool
) -> None:
    data = judged(count, others, chooses=chooses, batch=batch)
    assert numbers(data.fit) == list(range(count))
    two = chooses and others >= 2 * ENOUGH
    assert (data.eval is not data.holdout) == two
    parts = [data.holdout, data.eval] if two else [data.eval]
    judges = sorted(number for part in parts for number in numbers(part))
    assert judges == list(range(count, count + others))
    for part in parts:
        assert part.labels is not None
        assert part.labels.tolist() == numbers(part)
        assert part.option == "--eval"
    assert not data.one_batch
    assert not data.synthetic
    assert not data.notes


def test_judges_alone_are_never_fitted_to_nor_chosen_by() -> None:
    data = opened(40)
    config = from_flags({"eval": {NAME: np.concatenate([f[NAME] for f in data.eval])}})
    source, shapes = open_source(MODEL, config)
    assert source is not None
    assert shapes is not None
    alone = open_dataset(source, config)
    assert not alone.fit
    assert alone.source is None
    assert numbers(alone.eval) == numbers(data.eval)
    chosen = synthetic_choices(alone, analyse(MODEL), config)
    assert not set(numbers(chosen.holdout)) & set(numbers(alone.eval))
    assert chosen.eval is alone.eval


def test_samples_in_both_are_counted() -> None:
    samples = {NAME: np.random.default_rng(0).random((30, *SHAPE), np.float32)}
    config = from_flags({"calib": samples, "eval": {NAME: samples[NAME][5:20]}})
    source, _ = open_source(MODEL, config)
    assert source is not None
    (note,) = open_dataset(source, config).notes
    assert note.startswith("15 of 15 samples of --eval are in --calib too")


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({"eval": "nowhere.npz"}, "--eval: there is no evaluation data 'nowhere.npz'"),
        ({"eval": np.zeros((3, 2), np.float32)}, "--eval: .* shape"),
        ({"eval": {"z": np.zeros((3, 2), np.float32)}}, f"--eval: .* has no '{NAME}'"),
        ({"eval": "random"}, "--eval random"),
        ({"eval-labels": [1, 2]}, "--eval-labels needs the inputs"),
        ({"eval": "x.npz", "labels": [1]}, "--labels belong to --calib"),
    ],
)
def test_errors_name_the_option(flags: dict[str, Any], match: str) -> None:
    calib = {NAME: np.ones((4, *SHAPE), np.float32)}

    def read() -> Dataset:
        config = from_flags({"calib": calib, **flags})
        source, _ = open_source(MODEL, config)
        assert source is not None
        return open_dataset(source, config)

    with typed_flags(), pytest.raises(OnnxpruneError, match=match):
        read()


def test_missing_labels_of_eval_name_their_option() -> None:
    few = {"eval-labels": [0, 1, 2]}
    with typed_flags(), pytest.raises(OnnxpruneError, match=r"--eval-labels: .* 3 labels"):
        judged(4, 300, chooses=True, **few)


def test_groups_follow_the_samples_that_judge() -> None:
    names = np.array([f"g{k % 3}" for k in range(60)])
    data = opened(60, slices=names)
    assert data.eval.slices is not None
    assert data.eval.slices.tolist() == names[numbers(data.eval)].tolist()
    with pytest.raises(OnnxpruneError, match="60 groups for 61 samples"):
        opened(61, slices=names)


def test_inputs_that_would_fill_the_memory_are_not_made_up() -> None:
    """Sizes that nothing limits are primes, whose product may be anything."""
    net = Net(1)
    shape = tuple("abcdefghi")
    analysis = analyse(net.build(net.node("Relu", net.input("x", shape)), shape))
    with pytest.raises(OnnxpruneError, match="too large to be made up"):
        synthetic_inputs(analysis)
