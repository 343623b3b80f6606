"""The ids that a smaller vocabulary keeps, and what texts lose."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxprune.data.tokens import Tokenizer, close_ids, read_tokenizer
from onnxprune.data.vocabulary import (
    Coverage,
    count_ids,
    coverage,
    keep_ids,
    most_frequent,
    read_ids,
    read_tokens,
)
from onnxprune.errors import OnnxpruneError

SIZE = 12
PIECES = ["[PAD]", "[UNK]", "a", "b", "##b", "Ġx", "##y", "z", "z", "ab", " "]
ARRAYS = st.lists(
    hnp.arrays(
        st.sampled_from([np.int32, np.int64]),
        hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
        elements=st.integers(-SIZE, SIZE - 1),
    ),
    max_size=4,
)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES))
    return read_tokenizer(path)


@pytest.fixture
def merging(tmp_path: Path) -> Tokenizer:
    vocab = {piece: i for i, piece in enumerate(["<unk>", "a", "b", "c", "ab", "bc", "abc", "d"])}
    model = {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": ["a b", "b c", "ab c"]}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": model}))
    return read_tokenizer(path)


@given(arrays=ARRAYS, count=st.integers(1, SIZE + 2))
def test_the_most_frequent_ids_are_kept(arrays: list[Any], count: int) -> None:
    counts = Counter(int(each) % SIZE for array in arrays for each in array.ravel())
    if not counts:
        with pytest.raises(OnnxpruneError, match="would remain"):
            keep_ids(most_frequent(count_ids(arrays, SIZE)), SIZE)
        return
    every = keep_ids(most_frequent(count_ids(iter(arrays), SIZE)), SIZE)
    assert every.ids.tolist() == sorted(counts)
    order = sorted(counts, key=lambda each: (-counts[each], each))
    ids = most_frequent(count_ids(arrays, SIZE), count)
    assert ids.tolist() == order[:count]
    kept = keep_ids(ids, SIZE)
    assert kept.ids.tolist() == sorted(order[:count])
    assert (kept.requested, kept.special, kept.needed) == (len(kept), 0, 0)
    assert np.flatnonzero(kept.mask).tolist() == kept.ids.tolist()
    lost = coverage(kept, arrays)
    assert lost.tokens == sum(counts.values())
    assert lost.lost_tokens == sum(counts[each] for each in order[count:])
    assert 0 <= lost.text_share <= 1
    assert coverage(every, arrays).text_share == coverage(every, arrays).token_share == 0


def test_a_text_is_a_row() -> None:
    kept = keep_ids([3], SIZE)
    batches = [np.array([[3, 3], [3, 4]]), np.array([3, 3, 3]), np.array([[[3], [-9]]])]
    assert coverage(kept, batches) == Coverage(4, 1, 9, 1)
    assert coverage(kept, []).text_share == 0


def test_special_tokens_stay_and_do_not_count(tokenizer: Tokenizer) -> None:
    data = [np.array([[2, 9, 0, 0], [3, 2, 2, 0]])]
    kept = keep_ids([2], SIZE, tokenizer)
    assert kept.ids.tolist() == [0, 1, 2]
    assert (kept.requested, kept.special, kept.needed) == (1, 2, 0)
    assert coverage(kept, data, tokenizer) == Coverage(2, 2, 5, 2)


def test_what_merges_need_is_counted_apart(merging: Tokenizer) -> None:
    kept = keep_ids([6], 8, merging)
    assert kept.ids.tolist() == [0, 1, 2, 3, 4, 6]
    assert (kept.requested, kept.special, kept.needed) == (1, 1, 4)
    assert set(kept.ids.tolist()) == close_ids(merging, kept.ids.tolist())


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "b.npz", "a.txt", "a.json"])
def test_ids_are_read_from_every_kind_of_file(tmp_path: Path, name: str) -> None:
    ids, path = [7, 0, 3, 3], tmp_path / name
    match name:
        case "a.npy":
            np.save(path, np.array(ids, np.uint16))
        case "a.npz":
            np.savez(path, ids=np.array(ids), counts=np.array([1.5]))
        case "b.npz":
            np.savez(path, only=np.array([ids]))
        case "a.txt":
            path.write_text("7\r\n0\n\n 3\n3")
        case _:
            path.write_text(json.dumps(ids))
    assert sorted({*read_ids(path, SIZE).tolist()}) == [0, 3, 7]


def test_tokens_are_written_as_in_the_vocabulary(tmp_path: Path, tokenizer: Tokenizer) -> None:
    text, listed = tmp_path / "t.txt", tmp_path / "t.json"
    text.write_text("##b\nz\n \n", encoding="utf-8")
    listed.write_text(json.dumps(["##b", "z"]))
    # A line of vocab.txt ends before its spaces, so the last piece is the empty one.
    with pytest.raises(OnnxpruneError, match="names 1 token that"):
        read_tokens(text, tokenizer)
    assert read_tokens(listed, tokenizer).tolist() == [4, 7, 8]


@pytest.mark.parametrize(
    ("token", "hint"),
    [("x", "'Ġx'"), ("y", "'##y'"), ("abc", "'ab'"), ("q", "as in the tokenizer")],
)
def test_unknown_tokens_are_refused(
    tmp_path: Path, tokenizer: Tokenizer, token: str, hint: str
) -> None:
    path = tmp_path / "t.txt"
    path.write_text(f"a\n{token}\n", encoding="utf-8")
    with pytest.raises(OnnxpruneError, match="does not have") as error:
        read_tokens(path, tokenizer)
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "1\ntwo\n", "line 2: 'two' is no id"),
        ("a.txt", "1" * 400, "line 1"),
        ("a.txt", "12\n", "the id 12, and the vocabulary has 12"),
        ("a.txt", "-1\n", "the id -1"),
        ("a.txt", "\xb2\n", "no id"),
        ("a.json", '{"a": 1}', "no list"),
        ("a.json", "[1, 2.0]", "entry 1: '2.0' is no id"),
        ("a.json", "[1, true]", "entry 1"),
        ("a.json", f"[{10**30}]", "entry 0"),
        ("a.npy", "nothing", "not an .npy file"),
        ("b.txt", None, "cannot be read"),
    ],
)
def test_malformed_files_of_ids_are_refused(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(OnnxpruneError, match=message) as error:
        read_ids(path, SIZE)
    assert error.value.hint


def test_arrays_and_tokenizers_of_other_models_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(OnnxpruneError, match="the data holds the id 12"):
        count_ids([np.array([12])], SIZE)
    with pytest.raises(OnnxpruneError, match="float32, not ids"):
        count_ids([np.ones(2, np.float32)], SIZE)
    with pytest.raises(OnnxpruneError, match="the id -1"):
        keep_ids([-1], SIZE)
    with pytest.raises(OnnxpruneError, match=r"needs the id 1 \('\[UNK\]'\), and the model has 1"):
        keep_ids([0], 1, tokenizer)
    with pytest.raises(OnnxpruneError, match="would remain"):
        keep_ids([], SIZE)
