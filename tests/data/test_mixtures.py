"""Other sentences out of those given."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.data.mixtures import ENOUGH, MORE, ranges, tokens_of, with_mixtures

Feeds = dict[str, npt.NDArray[Any]]

PLACES = 7
EACH = 1000
"""Token ``EACH * sample + place`` says where it comes from."""


def sentences(samples: int, batch: int, seed: int) -> list[Feeds]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, PLACES + 1, (samples, 1))
    ids = EACH * (1 + np.arange(samples)[:, None]) + np.arange(PLACES)
    mask = (np.arange(PLACES) < lengths).astype(np.int64)
    scale = 1.0 + np.arange(samples)
    every = {"ids": ids * mask, "attention_mask": mask, "scale": scale}
    return [{k: v[at : at + batch] for k, v in every.items()} for at in range(0, samples, batch)]


def origins(feeds: Feeds) -> npt.NDArray[np.int64]:
    return np.where(feeds["ids"] > 0, feeds["ids"] // EACH, 0)


@given(st.integers(2, 60), st.integers(2, 20), st.integers(0, 7), st.integers(0, 99))
def test_tokens_keep_to_what_was_seen_and_to_their_masks(
    samples: int, batch: int, held: int, seed: int
) -> None:
    given_ = sentences(samples, batch, seed)
    found = with_mixtures(given_, most_bytes=1 << 30, holdout_every=held, seed=seed)
    kept = [f for f in found if any(f is g for g in given_)]
    assert [id(f) for f in kept] == [id(f) for f in given_]
    assert len(found) > len(given_) or len(given_[0]["ids"]) < held
    may_be = ranges(given_, ["ids"])["ids"]
    for feeds in found:
        there = feeds["attention_mask"] > 0
        assert np.array_equal(feeds["ids"] > 0, there)
        low, high = may_be
        assert (feeds["ids"][there] >= np.broadcast_to(low, there.shape)[there]).all()
        assert (feeds["ids"][there] <= np.broadcast_to(high, there.shape)[there]).all()
        assert feeds["ids"].dtype == given_[0]["ids"].dtype
        assert np.isin(feeds["scale"], 1.0 + np.arange(samples)).all()


@given(st.integers(2, 60), st.integers(2, 20), st.integers(2, 7), st.integers(0, 99))
def test_what_judges_is_in_no_sentence_that_is_fitted_to(
    samples: int, batch: int, held: int, seed: int
) -> None:
    found = with_mixtures(
        sentences(samples, batch, seed), most_bytes=1 << 30, holdout_every=held, seed=seed
    )
    of = [set(row[row > 0].tolist()) for feeds in found for row in origins(feeds)]
    judging: set[int] = set().union(*of[held - 1 :: held])
    fitted: set[int] = set().union(*(row for k, row in enumerate(of) if k % held != held - 1))
    assert not judging & fitted


def test_markers_and_columns_of_tables_stay_valid() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([1, 3, 50, 1000])
    given_ = [{"x": rng.integers(0, sizes, (32, 4))} for _ in range(4)]
    found = with_mixtures(given_, most_bytes=1 << 30, seed=0)
    made = np.concatenate([f["x"] for f in found if not any(f is g for g in given_)])
    assert (made >= 0).all()
    assert (made < sizes).all()
    assert (made[:, 0] == 0).all()
    seen = {tuple(row[2:]) for f in given_ for row in f["x"]}
    assert np.mean([tuple(row[2:]) in seen for row in made]) < 0.9


def test_sentences_are_put_together_out_of_several() -> None:
    given_ = sentences(64, 32, 0)
    found = with_mixtures(given_, most_bytes=1 << 30, seed=0)
    assert len(found) == len(given_) * (1 + MORE)
    made = [row for f in found if not any(f is g for g in given_) for row in origins(f)]
    assert np.mean([len(set(row[row > 0].tolist())) > 1 for row in made]) > 0.5


def test_more_is_made_of_few_sentences_than_of_many() -> None:
    def times(samples: int) -> float:
        given_ = sentences(samples, 32, 0)
        return len(with_mixtures(given_, most_bytes=1 << 30)) / len(given_)

    assert times(64) > times(512) == 2
    assert times(ENOUGH) == 1


def test_what_holds_no_tokens_is_not_spliced() -> None:
    ids = np.arange(12).reshape(4, 3)
    assert tokens_of([{"x": ids}]) == ["x"]
    assert tokens_of([{"x": ids.astype(np.float32)}]) == []
    assert tokens_of([{"mask": ids % 2}]) == []
    assert tokens_of([{"places": np.tile(np.arange(5), (4, 1))}]) == []
    assert tokens_of([{"x": ids, "rate": np.array(16000)}]) == []
    assert tokens_of([{"x": ids, "shared": np.ones((1, 3))}]) == []
    assert tokens_of([{"x": ids, "y": np.arange(8).reshape(4, 2)}]) == []
    assert tokens_of([]) == []
