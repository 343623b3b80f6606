"""Smaller tokenizers split texts as before: the libraries, on random vocabularies and texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.data.tokens import Tokenizer, close_ids, encode, read_tokenizer, write_tokenizer
from onnxprune.data.tokens.merges import Merges, Scores, close, derive
from onnxprune.data.tokens.model_proto import _model_class
from onnxprune.data.vocabulary import keep_ids

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers (extra 'text') is not installed")

CORPUS = [
    "the cat sat on the mat, and the other cat sat there",
    "pruning a vocabulary keeps what the texts hold",
    "Ein Kater saß auf der Matte und las über Größe",
    "кошка сидела на ковре и читала",
    "naïve café — résumé, 東京 and 京都 😀 😀",
    "unaffable, unaffordable, affable, affordable; under, understand, undertake",
] * 4
WORDS = sorted({word for line in CORPUS for word in line.split()})
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(WORDS),
        st.text(max_size=6),
        st.text("abcdehinrtu", max_size=8),
        st.sampled_from(["[SEP]", "<s>", " ", "\n", "\u0378", "ё̈"]),
    ),
    max_size=8,
).map(" ".join)


def _train(kind: str) -> Any:
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["<pad>", "[UNK]", "<s>", "[SEP]"]
    options: dict[str, Any] = {"special_tokens": special, "show_progress": False}
    small = {"vocab_size": 190, "min_frequency": 1}
    match kind:
        case "wordpiece":
            made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
            made.normalizer = normalizers.BertNormalizer()
            made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            trainer = trainers.WordPieceTrainer(**small, **options)
        case "bpe":
            made = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]"))
            made.pre_tokenizer = pre_tokenizers.Whitespace()
            trainer = trainers.BpeTrainer(**small, **options)
        case "affixes":
            affixes = {"continuing_subword_prefix": "##", "end_of_word_suffix": "</w>"}
            made = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]", **affixes))
            made.pre_tokenizer = pre_tokenizers.Whitespace()
            trainer = trainers.BpeTrainer(**small | {"vocab_size": 260}, **affixes, **options)
        case "fallback":
            made = tokenizers.Tokenizer(
                models.BPE(unk_token="[UNK]", byte_fallback=True, fuse_unk=True)
            )
            made.normalizer = normalizers.Sequence(
                [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            )
            bytes_ = [f"<0x{i:02X}>" for i in range(256)]
            options["special_tokens"] = special + bytes_
            trainer = trainers.BpeTrainer(
                vocab_size=400, limit_alphabet=30, max_token_length=8, **options
            )
        case "byte-level" | "ignore-merges":
            made = tokenizers.Tokenizer(models.BPE(ignore_merges=kind == "ignore-merges"))
            made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            made.decoder = decoders.ByteLevel()
            alphabet = pre_tokenizers.ByteLevel.alphabet()
            trainer = trainers.BpeTrainer(
                vocab_size=420, min_frequency=1, initial_alphabet=alphabet, **options
            )
        case "unigram":
            made = tokenizers.Tokenizer(models.Unigram())
            made.pre_tokenizer = pre_tokenizers.Metaspace()
            trainer = trainers.UnigramTrainer(vocab_size=150, unk_token="[UNK]", **options)
        case _:
            made = tokenizers.Tokenizer(models.WordLevel(unk_token="[UNK]"))
            made.pre_tokenizer = pre_tokenizers.Whitespace()
            trainer = trainers.WordLevelTrainer(**options)
    made.train_from_iterator(CORPUS, trainer)
    if kind == "fallback":  # trained as whole tokens; in use they stand for single bytes
        document = json.loads(made.to_str())
        document["added_tokens"] = document["added_tokens"][: len(special)]
        made = tokenizers.Tokenizer.from_str(json.dumps(document))
    made.add_tokens(["Matte"])
    made.add_special_tokens(["<late>"])
    ids = [(name, made.token_to_id(name)) for name in ("<s>", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A [SEP]", pair="<s> $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    made.enable_padding(pad_id=made.token_to_id("<pad>"), pad_token="<pad>")
    return made


KINDS = "wordpiece bpe affixes fallback byte-level ignore-merges unigram wordlevel".split()


@cache
def _folder(kind: str) -> Path:
    folder = Path(_HOLDER.name) / kind
    folder.mkdir()
    _train(kind).save(str(folder / "tokenizer.json"))
    return folder


_HOLDER = TemporaryDirectory()


def _check_same(original: Tokenizer, ids: Iterable[int], texts: Sequence[str]) -> int:
    """Cut a tokenizer, and compare what both make of texts whose tokens are all kept."""
    kept = np.array(sorted(close_ids(original, ids)))
    with TemporaryDirectory() as folder:
        (path, *_) = write_tokenizer(original, kept, folder)
        smaller = read_tokenizer(path)
        assert smaller.pieces == {
            new: original.pieces[old] for new, old in enumerate(kept) if old in original.pieces
        }
        before, after = list(encode(original, texts)), list(encode(smaller, texts))
    count = 0
    for text, old, new in zip(texts, before, after, strict=True):
        if np.isin(old, kept).all():
            count += 1
            assert kept[new].tolist() == old.tolist(), text
    return count


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12)
@given(texts=st.lists(TEXTS, min_size=1, max_size=8), data=st.data())
def test_texts_of_kept_tokens_keep_their_tokens(
    kind: str, texts: list[str], data: st.DataObject
) -> None:
    original = read_tokenizer(_folder(kind))
    used = sorted({int(i) for ids in encode(original, texts) for i in ids})
    kept = data.draw(st.sets(st.sampled_from(used))) if data.draw(st.booleans()) else set(used)
    count = _check_same(original, kept, [*texts, "", "\u0378\u0379"])
    if kept == set(used):
        assert count >= len(texts)


@pytest.mark.parametrize("kind", ["byte-level", "ignore-merges", "fallback"])
@settings(max_examples=12)
@given(text=TEXTS)
def test_bytes_make_every_text_encodable(kind: str, text: str) -> None:
    original = read_tokenizer(_folder(kind))
    kept = np.array(sorted(close_ids(original, ())))
    with TemporaryDirectory() as folder:
        (path,) = write_tokenizer(original, kept, folder)
        smaller = tokenizers.Tokenizer.from_file(str(path))
    ids = smaller.encode(text, add_special_tokens=False).ids
    if kind == "fallback":
        assert smaller.token_to_id("[UNK]") not in ids
        return
    assert smaller.decode(ids, skip_special_tokens=False) == text


def test_the_library_agrees_on_every_id(tmp_path: Path) -> None:
    for kind in KINDS:
        original = read_tokenizer(_folder(kind))
        theirs = tokenizers.Tokenizer.from_file(str(original.path)).get_vocab()
        assert {piece: i for i, piece in original.pieces.items()} == theirs
        kept = np.array(sorted(close_ids(original, range(0, original.size, 3))))
        (path,) = write_tokenizer(original, kept, tmp_path)
        new = tokenizers.Tokenizer.from_file(str(path))
        assert new.get_vocab() == {original.pieces[old]: i for i, old in enumerate(kept)}
        assert new.padding["pad_id"] == new.token_to_id("<pad>")
        assert new.encode("").ids == [new.token_to_id("<s>"), new.token_to_id("[SEP]")]


# --- vocabularies that no trainer would make -------------------------------------------------

PIECES = ["".join(p) for n in (2, 3, 4) for p in combinations("abcabcabc", n)]
ALPHABET = "abc"
SHORT = st.lists(st.text("abcd ", max_size=9), min_size=1, max_size=10)


def _some_ids(original: Tokenizer, texts: list[str], data: st.DataObject) -> set[int]:
    """Any ids, or those of one text, so that it is surely a text of kept tokens."""
    if data.draw(st.booleans()):
        return data.draw(st.sets(st.sampled_from(range(original.size))))
    (ids,) = encode(original, texts[:1])
    return {int(each) for each in ids}


def _save(folder: str, model: dict[str, Any]) -> Tokenizer:
    path = Path(folder) / "tokenizer.json"
    document = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": model,
    }
    path.write_text(json.dumps(document))
    return read_tokenizer(path)


@st.composite
def _bpe(draw: Callable[..., Any]) -> dict[str, Any]:
    known = ["[UNK]", *ALPHABET]
    merges: list[list[str]] = []
    for _ in range(draw(st.integers(1, 12))):
        left, right = (draw(st.sampled_from(known[1:])) for _ in range(2))
        if len(left + right) <= 5:
            merges.append([left, right])
            if left + right not in known:
                known.append(left + right)
    ids = {piece: i for i, piece in enumerate(known)}
    model = {"type": "BPE", "vocab": ids, "merges": draw(st.permutations(merges))}
    return model | {"unk_token": "[UNK]", "ignore_merges": draw(st.booleans())}


@settings(max_examples=30)
@given(model=_bpe(), texts=SHORT, data=st.data())
def test_any_table_of_merges(model: dict[str, Any], texts: list[str], data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        original = _save(folder, model)
        ids = _some_ids(original, texts, data)
        _check_same(original, ids, texts)


@settings(max_examples=30)
@given(
    entries=st.lists(st.tuples(st.sampled_from(PIECES), st.integers(1, 30)), max_size=14),
    chars=st.lists(st.integers(1, 30), min_size=3, max_size=3),
    texts=SHORT,
    data=st.data(),
)
def test_any_scores(
    entries: list[tuple[str, int]], chars: list[int], texts: list[str], data: st.DataObject
) -> None:
    scores = dict(zip(ALPHABET, chars, strict=True)) | dict(entries)
    if data.draw(st.booleans()):  # a character that is part of pieces alone
        del scores["c"]
    vocab = [["[UNK]", 0.0], *([piece, -float(score)] for piece, score in scores.items())]
    with TemporaryDirectory() as folder:
        original = _save(folder, {"type": "Unigram", "unk_id": 0, "vocab": vocab})
        ids = _some_ids(original, texts, data)
        _check_same(original, ids, texts)


@settings(max_examples=30)
@given(
    words=st.sets(st.sampled_from(PIECES)), tails=st.sets(st.sampled_from(PIECES)), data=st.data()
)
def test_any_words(words: set[str], tails: set[str], data: st.DataObject) -> None:
    texts = data.draw(SHORT)
    pieces = ["[UNK]", *ALPHABET, *(f"##{char}" for char in ALPHABET)]
    pieces += [*sorted(words), *(f"##{tail}" for tail in sorted(tails))]
    model = {
        "type": "WordPiece",
        "vocab": {piece: i for i, piece in enumerate(pieces)},
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 8,
    }
    with TemporaryDirectory() as folder:
        original = _save(folder, model)
        ids = _some_ids(original, texts, data)
        _check_same(original, ids, texts)


def _sentencepiece(folder: str, kind: int, entries: list[tuple[str, float, int]]) -> Tokenizer:
    model = _model_class()()
    model.trainer_spec.model_type = kind
    for piece, score, form in [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *entries]:
        model.pieces.add(piece=piece, score=score, type=form)
    path = Path(folder) / "spiece.model"
    path.write_bytes(model.SerializeToString())
    return read_tokenizer(path)


@pytest.mark.parametrize("kind", [1, 2])
@settings(max_examples=30)
@given(
    entries=st.dictionaries(
        st.sampled_from([*PIECES, "▁", "▁a", "▁ab"]),
        st.tuples(st.integers(1, 20), st.sampled_from([1, 1, 1, 4, 5])),
        max_size=14,
    ),
    texts=SHORT,
    data=st.data(),
)
def test_any_sentencepiece_model(
    kind: int, entries: dict[str, tuple[int, int]], texts: list[str], data: st.DataObject
) -> None:
    pytest.importorskip("sentencepiece", reason="sentencepiece (extra 'text') is not installed")
    letters = [(char, -30.0 - i, 1) for i, char in enumerate("abc")]
    pieces = [(piece, -float(score), form) for piece, (score, form) in entries.items()]
    with TemporaryDirectory() as folder:
        original = _sentencepiece(folder, kind, letters + pieces)
        ids = _some_ids(original, texts, data)
        _check_same(original, ids, texts)


@cache
def _trained(kind: str) -> Path:
    import io

    library = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    data = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=data,
        model_type=kind.removesuffix("-bytes"),
        vocab_size=110 if kind in ("char", "word") else 400 if kind.endswith("-bytes") else 150,
        hard_vocab_limit=False,
        byte_fallback=kind.endswith("-bytes"),
        user_defined_symbols=["<x>", "able"],
        self_test_sample_size=20,
        minloglevel=2,
    )
    path = Path(_HOLDER.name) / f"{kind}.model"
    path.write_bytes(data.getvalue())
    return path


@pytest.mark.parametrize("kind", "unigram bpe char word unigram-bytes bpe-bytes".split())
@settings(max_examples=8)
@given(texts=st.lists(TEXTS, min_size=1, max_size=8), data=st.data())
def test_trained_sentencepiece_models(kind: str, texts: list[str], data: st.DataObject) -> None:
    original = read_tokenizer(_trained(kind))
    used = sorted({int(i) for ids in encode(original, texts) for i in ids} | {0})
    kept = data.draw(st.sets(st.sampled_from(used))) if data.draw(st.booleans()) else set(used)
    count = _check_same(original, kept, [*texts, "", "\u0378\u0379", "<x>able"])
    if kept == set(used):
        assert count >= len(texts)


NORMAL, UNUSED = 1, 5


@pytest.mark.parametrize(
    ("kind", "entries", "removed", "text", "tokens"),
    [
        # Without the unused piece, which is joined first and parted again, "bc" would be joined.
        (2, [("ab", -1.0, UNUSED), ("bc", -2.0, NORMAL)], "ab", "abc", ["a", "b", "c"]),
        # The lowest score sets that of unknown text.
        (
            1,
            [("da", -12.0, NORMAL), ("ab", -2.0, NORMAL), ("bb", -40.0, NORMAL)],
            "bb",
            "dab",
            ["da", "b"],
        ),
    ],
)
def test_pieces_that_decide_without_being_there(
    kind: int, entries: list[tuple[str, float, int]], removed: str, text: str, tokens: list[str]
) -> None:
    library = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    letters = [(char, score, NORMAL) for char, score in (("a", -9.0), ("b", -12.0), ("c", -2.0))]
    with TemporaryDirectory() as folder:
        original = _sentencepiece(folder, kind, letters + entries)
        loaded = library.SentencePieceProcessor(model_file=str(original.path))
        assert loaded.encode(text, out_type=str) == ["▁", *tokens]
        (ids,) = encode(original, [text])
        others = set(range(original.size)) - {original.ids[removed]}
        assert others >= set(ids.tolist())
        assert _check_same(original, others, [text]) == 1


def test_the_lowest_score_sets_that_of_unknown_text() -> None:
    scores = {"a": -9.0, "b": -12.0, "da": -12.0, "ab": -2.0, "bb": -40.0}
    vocab = [["[UNK]", 0.0], *([piece, score] for piece, score in scores.items())]
    with TemporaryDirectory() as folder:
        original = _save(folder, {"type": "Unigram", "unk_id": 0, "vocab": vocab})
        (ids,) = encode(original, ["dab"])
        assert [original.pieces[i] for i in ids] == ["da", "b"]
        assert _check_same(original, [*ids.tolist(), original.ids["ab"]], ["dab"]) == 1


# --- merges ----------------------------------------------------------------------------------


def test_derivations_follow_ranks_and_not_the_last_merge_alone() -> None:
    ranks = {("b", "c"): (0, "bc"), ("a", "b"): (1, "ab"), ("ab", "c"): (2, "abc")}
    ranks |= {("a", "bc"): (3, "abc")}
    rule = Merges(ranks)
    assert derive(rule, "abc") == {"a", "b", "c", "bc", "abc"}
    assert close(rule, ["abc"], set("abc") | {"ab", "bc", "abc"}) == {"a", "b", "c", "bc", "abc"}


def test_a_piece_out_of_reach_keeps_every_merge_that_gives_it() -> None:
    rule = Merges({("b", "c"): (0, "bc"), ("ab", "c"): (1, "abc"), ("a", "b"): (2, "ab")})
    assert derive(rule, "abc") is None
    assert close(rule, ["abc"], {"a", "b", "c", "ab", "bc", "abc"}) == {"a", "b", "c", "ab", "abc"}


def test_scores_join_the_highest_first_and_long_pieces_are_quick() -> None:
    rule = Scores({"ab": -2.0, "bc": -1.0, "abc": -3.0})
    assert derive(rule, "abc") == {"a", "b", "c", "bc", "abc"}
    doubling = Scores({"a" * 2**k: -float(k) for k in range(14)})
    assert derive(doubling, "a" * 2**13) == {"a" * 2**k for k in range(14)}


def test_keep_ids_says_what_stays_and_why() -> None:
    original = read_tokenizer(_folder("bpe"))
    number = (
        original.ids["understand"] if "understand" in original.ids else max(original.ids.values())
    )
    kept = keep_ids([number], original.size, original)
    assert len(kept) == kept.requested + kept.special + kept.needed
    assert kept.requested == 1
    assert kept.special == len(original.special | original.base)
    assert kept.needed >= 1
