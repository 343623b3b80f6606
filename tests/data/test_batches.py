"""Batches: samples are found where the signature has them, taken out and put together again."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.data import open_calibration, split
from onnxprune.data.batches import InputFormat, collate, hold_out, input_format, rebatch
from onnxprune.errors import OnnxpruneError
from onnxprune.runtime import TensorSpec

Array = npt.NDArray[Any]


def spec(name: str, *shape: int | str | None, dtype: Any = np.float32) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), shape)


GRAPH = (
    spec("feat", "num_nodes", 8),
    spec("edge", 2, "num_edges", dtype=np.int64),
    spec("attr", "num_edges", 5),
)


@pytest.mark.parametrize(
    ("signature", "axes"),
    [
        ((spec("x", "batch", 3), spec("t")), [0, None]),
        ((spec("x", "time", "batch", 2), spec("h", 1, "batch", 3)), [1, 1]),
        ((spec("a", "unk__1", 2), spec("b", "unk__2", 3)), [0, 0]),
        ((spec("x", "?", 3, "?", "?"),), [0]),
        ((spec("x", "-1", 3, "-1", "-1"),), [0]),
        ((spec("ids", "batch", "seq"), spec("pos", "seq")), [0, None]),
        ((spec("x", None, 80, None), spec("pos", 1, None)), [0, None]),
        ((spec("x", 1, 3, "width"), spec("mask", 1, "width")), [None, None]),
        (GRAPH, [None, None, None]),
        (GRAPH[::-1], [None, None, None]),
        ((spec("x", "N", 8), spec("edge", 2, "E")), [None, None]),
        ((spec("x", "num_nodes", 8), spec("edge", "num_edges", 2)), [None, None]),
        ((spec("ids", "text_batch", 7), spec("pixels", "image_batch", 3)), [0, 0]),
        ((spec("a", "s0", 2), spec("b", "s1", 3), spec("c", 1, "s2")), [0, 0, None]),
        ((spec("x", "N", 3, "H", "W"), spec("grid", "H", "W")), [0, None]),
    ],
)
def test_the_batch_axis_of_every_input(
    signature: tuple[TensorSpec, ...], axes: list[int | None]
) -> None:
    assert list(input_format(signature).axes.values()) == axes


SHARED = input_format((spec("t"), spec("x", "time", "batch", 2), spec("m", "batch", "time")))


def samples_of(counts: list[int], lengths: list[int]) -> list[dict[str, Array]]:
    """Batches whose samples are numbered through; one length each."""
    ends = np.cumsum([0, *counts])
    return [
        {
            "t": np.float32(0.5),
            "x": np.broadcast_to(np.arange(a, b, dtype=np.float32)[:, None], (length, b - a, 2)),
            "m": np.broadcast_to(np.arange(a, b, dtype=np.float32)[:, None], (b - a, length)),
        }
        for a, b, length in zip(ends, ends[1:], lengths, strict=False)
    ]


def numbers(batches: Any, inputs: InputFormat = SHARED) -> list[int]:
    result = []
    for batch in batches:
        assert batch["t"] == 0.5
        assert inputs.count(batch) == batch["x"].shape[1] == batch["m"].shape[0]
        assert np.array_equal(batch["x"][0, :, 0], batch["m"][:, 0])
        result += [int(number) for number in batch["m"][:, 0]]
    return result


@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    lengths=st.lists(st.integers(1, 2), min_size=6, max_size=6),
    size=st.integers(1, 5),
    every=st.integers(2, 5),
)
def test_batches_along_any_axis_come_apart_and_together(
    counts: list[int], lengths: list[int], size: int, every: int
) -> None:
    batches = samples_of(counts, lengths)
    total = list(range(sum(counts)))
    again = list(rebatch(batches, SHARED, size))
    assert numbers(again) == total
    assert all(SHARED.count(batch) <= size for batch in again)

    fit, holdout = hold_out(batches, SHARED, every)
    assert numbers(holdout) == total[every - 1 :: every]
    assert sorted(numbers(fit) + numbers(holdout)) == total
    assert all(SHARED.count(sample) == 1 for sample in fit)
    together = collate(fit, SHARED, size)
    assert sorted(numbers(together)) == numbers(fit)
    shapes = {sample["m"].shape[1] for sample in fit}
    assert len(together) <= len(fit) // size + len(shapes)


def graphs(count: int) -> list[dict[str, Array]]:
    rng = np.random.default_rng(0)
    return [
        {
            "feat": np.full((4 + k % 3, 8), k, np.float32),
            "edge": rng.integers(0, 4, (2, 5 + k % 2)),
            "attr": np.full((5 + k % 2, 5), k, np.float32),
        }
        for k in range(count)
    ]


@given(count=st.integers(2, 20), fraction=st.floats(0.1, 0.9), samples=st.integers(2, 20))
def test_a_graph_is_a_sample(count: int, fraction: float, samples: int) -> None:
    feeds = graphs(count)
    for source in (feeds, lambda: iter(feeds)):
        whole = open_calibration(source, GRAPH, samples=samples, batch=4)
        used = [int(one["feat"][0, 0]) for one in whole]
        assert len(used) == min(count, samples)
        kept, held = split(whole, fraction)
        parts = [int(one["feat"][0, 0]) for part in (kept, held) for one in part]
        assert sorted(parts) == used
        for one in (*kept, *held):
            want = feeds[int(one["feat"][0, 0])]
            assert all(np.array_equal(one[name], want[name]) for name in want)
        assert held.indices is not None
        assert [int(one["feat"][0, 0]) for one in held] == list(held.indices)
    inputs = open_calibration(feeds, GRAPH).inputs
    assert hold_out(feeds, inputs, 2) == (feeds[::2], feeds[1::2])
    assert collate(feeds, inputs, 8) == feeds


def test_graphs_of_one_size_may_be_stacked() -> None:
    rng = np.random.default_rng(0)
    stacked = {
        "feat": rng.standard_normal((6, 4, 8)).astype(np.float32),
        "edge": rng.integers(0, 4, (6, 2, 5)),
        "attr": rng.standard_normal((6, 5, 5)).astype(np.float32),
    }
    calibration = open_calibration(stacked, GRAPH)
    assert calibration.samples == len(calibration) == 6
    for k, one in enumerate(calibration):
        assert all(np.array_equal(one[name], array[k]) for name, array in stacked.items())
    with pytest.raises(OnnxpruneError, match="'num_edges' the size 5 in 'edge' and 4 in 'attr'"):
        list(open_calibration(stacked | {"attr": stacked["attr"][:, :4]}, GRAPH))


def test_sizes_without_a_name_may_differ() -> None:
    pictures = np.arange(2 * 3 * 4 * 6, dtype=np.float32).reshape(2, 3, 4, 6)
    for signature in ((spec("x", "-1", 3, "?", "?"),), (spec("x", "?", 3, "?", "?"),)):
        (feed,) = open_calibration(pictures, signature)
        assert np.array_equal(feed["x"], pictures)
        assert next(iter(open_calibration("random:x[3]=7", signature)))["x"].shape[1:] == (3, 64, 7)
