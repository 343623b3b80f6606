"""Files of tokenizers: read in every form, refused in words, written anew with all their ids."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune.data.tokens import (
    Tokenizer,
    close_ids,
    encode,
    encoding,
    read_tokenizer,
    write_tokenizer,
)
from onnxprune.data.tokens.model_proto import _model_class
from onnxprune.errors import OnnxpruneError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "##b", "ab", "##ab", "\u2028", "c"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _document() -> dict[str, Any]:
    """A ``tokenizer.json`` with an id in every place that can hold one."""

    def token(number: int, content: str) -> dict[str, Any]:
        return {"id": number, "content": content, "special": True, "normalized": False}

    template = {
        "type": "TemplateProcessing",
        "single": [],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
    }
    processors = [
        template,
        {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        {"type": "RobertaProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2], "trim": True},
        {"type": "ByteLevel"},
    ]
    return {
        "version": "1.0",
        "truncation": {"max_length": 5},
        "padding": {"pad_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [token(2, "[CLS]"), token(3, "[SEP]"), token(11, "<late>")],
        "post_processor": {"type": "Sequence", "processors": processors},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "vocab": {piece: i for i, piece in enumerate(PIECES)},
        },
        "later": {"key": [1, 2.5, None]},
    }


def _bpe() -> dict[str, Any]:
    vocab = {piece: i for i, piece in enumerate(["<unk>", "a", "b", "c", "ab", "abc", *BYTES])}
    model = {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "vocab": vocab}
    return {"added_tokens": [], "model": model | {"merges": ["a b", ["ab", "c"]]}}


def _unigram() -> dict[str, Any]:
    vocab = [["<unk>", 0], ["a", -1.5], ["b", -2.25], ["ab", -1e-05]]
    return {"added_tokens": [], "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab}}


def _write(folder: Path, document: Any, name: str = "tokenizer.json") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def _spiece(folder: Path, name: str = "spiece.model") -> Path:
    model = _model_class()()
    model.trainer_spec.model_type, model.trainer_spec.vocab_size = 1, 6
    for key, value in (("unk_id", 0), ("bos_id", 1), ("eos_id", 2), ("pad_id", -1)):
        setattr(model.trainer_spec, key, value)
    entries = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("a", 1), ("b", 1), ("ab", 1), ("c", 1)]
    for i, (piece, form) in enumerate(entries):
        model.pieces.add(piece=piece, score=-float(i), type=form)
    model.self_test_data.samples.add(input="ab", expected="ab")
    model.self_test_data.samples.add(input="a b", expected="a b")
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(model.SerializeToString() + b"\x1a\x04\x0a\x02id")  # a normaliser, unread
    return path


def _cut(tokenizer: Tokenizer, ids: list[int], folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return write_tokenizer(tokenizer, sorted(close_ids(tokenizer, ids)), folder)


# --- forms -----------------------------------------------------------------------------------


def test_every_id_of_a_tokenizer_json_moves(tmp_path: Path) -> None:
    original = read_tokenizer(_write(tmp_path / "in", _document()))
    assert (original.kind, original.unknown, original.size) == ("wordpiece", 1, 12)
    assert original.special == {0, 1, 2, 3, 11}
    (path,) = _cut(original, [7, 9], tmp_path / "out")
    new = json.loads(path.read_text())
    assert new["model"]["vocab"] == {
        "[PAD]": 0,
        "[UNK]": 1,
        "[CLS]": 2,
        "[SEP]": 3,
        "ab": 4,
        "\u2028": 5,
    }
    assert [token["id"] for token in new["added_tokens"]] == [2, 3, 6]
    expected = _document()
    expected["model"]["vocab"] = new["model"]["vocab"]
    expected["added_tokens"][2]["id"] = 6
    assert json.dumps(new) == json.dumps(expected)  # all else stays, in its order


def test_ids_of_postprocessors_move(tmp_path: Path) -> None:
    document = _document()
    order = [*PIECES[4:], *PIECES[:4]]
    document["model"]["vocab"] = {piece: i for i, piece in enumerate(order)}
    shift = {old: order.index(PIECES[old]) for old in range(4)}
    for processor in document["post_processor"]["processors"][1:3]:
        processor["sep"][1], processor["cls"][1] = shift[3], shift[2]
    template = document["post_processor"]["processors"][0]["special_tokens"]["[CLS]"]
    template["ids"] = [shift[2]]
    document["padding"]["pad_id"] = shift[0]
    original = read_tokenizer(_write(tmp_path / "in", document))
    (path,) = _cut(original, [0, 3], tmp_path / "out")
    new = json.loads(path.read_text())
    assert new["model"]["vocab"] == {
        "a": 0,
        "ab": 1,
        "[PAD]": 2,
        "[UNK]": 3,
        "[CLS]": 4,
        "[SEP]": 5,
    }
    first, *pairs, _ = new["post_processor"]["processors"]
    assert first["special_tokens"]["[CLS]"]["ids"] == [4]
    assert [pair[key] for pair in pairs for key in ("sep", "cls")] == [
        ["[SEP]", 5],
        ["[CLS]", 4],
    ] * 2
    assert new["padding"]["pad_id"] == 2


def test_merges_keep_their_form_and_byte_pieces_stay(tmp_path: Path) -> None:
    original = read_tokenizer(_write(tmp_path / "in", _bpe()))
    (path,) = _cut(original, [5], tmp_path / "out")
    model = json.loads(path.read_text())["model"]
    assert model["merges"] == ["a b", ["ab", "c"]]
    assert set(BYTES) <= set(model["vocab"])
    (path,) = _cut(original, [1], tmp_path / "out")
    model = json.loads(path.read_text())["model"]
    assert model["merges"] == []
    assert [piece for piece in model["vocab"] if piece not in BYTES] == ["<unk>", "a"]


def test_scores_stay_as_they_are_written(tmp_path: Path) -> None:
    original = read_tokenizer(_write(tmp_path / "in", _unigram()))
    (path,) = _cut(original, [3], tmp_path / "out")
    model = json.loads(path.read_text())["model"]
    assert model["vocab"] == [["<unk>", 0], ["b", -2.25], ["ab", -1e-05]]
    assert '["<unk>", 0]' in path.read_text()


@pytest.mark.parametrize("ending", ["\n", "", "\r\n"])
def test_lines_keep_their_order_and_ends(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "vocab.txt"
    line = "\r\n" if ending == "\r\n" else "\n"
    path.write_bytes((line.join(PIECES) + ending).encode())
    original = read_tokenizer(path)
    assert dict(original.pieces) == dict(enumerate(p if p != "\u2028" else "" for p in PIECES))
    (new,) = _cut(original, [7, 9], tmp_path / "out")
    kept = [*PIECES[:4], "ab", "\u2028"]
    assert new.read_bytes() == (line.join(kept) + (line if ending else "")).encode()


def test_a_vocabulary_and_its_merges_are_two_files(tmp_path: Path) -> None:
    vocab = {piece: i for i, piece in enumerate(["<|endoftext|>", "a", "b", "Ġ", "ab", "Ġa", "!"])}
    _write(tmp_path, vocab, "vocab.json")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\nĠ a\n", encoding="utf-8")
    for path in (tmp_path, tmp_path / "vocab.json", tmp_path / "merges.txt"):
        original = read_tokenizer(path)
        assert (original.kind, original.special) == ("bpe", {0})
        assert original.base == {1, 2, 3, 6}  # single bytes
        new = _cut(original, [5], tmp_path / "out")
        assert [each.name for each in new] == ["vocab.json", "merges.txt"]
        assert new[1].read_text(encoding="utf-8") == "#version: 0.2\nĠ a\n"
        assert json.loads(new[0].read_text()) == {
            "<|endoftext|>": 0,
            "a": 1,
            "b": 2,
            "Ġ": 3,
            "Ġa": 4,
            "!": 5,
        }
    (tmp_path / "merges.txt").unlink()
    assert read_tokenizer(tmp_path).kind == "wordlevel"


def test_a_sentencepiece_model_keeps_all_else(tmp_path: Path) -> None:
    original = read_tokenizer(_spiece(tmp_path))
    assert (original.kind, original.special, original.unknown) == ("unigram", {0, 1, 2}, 0)
    assert original.base == {3, 6}  # the lowest and the highest score
    (path,) = _cut(original, [5], tmp_path / "out")
    new = _model_class().FromString(path.read_bytes())
    assert [each.piece for each in new.pieces] == ["<unk>", "<s>", "</s>", "a", "ab", "c"]
    assert [each.score for each in new.pieces] == [0, -1, -2, -3, -5, -6]
    assert (new.trainer_spec.vocab_size, new.trainer_spec.pad_id) == (6, -1)
    assert [each.input for each in new.self_test_data.samples] == ["ab"]
    assert b"\x1a\x04\x0a\x02id" in path.read_bytes()


# --- folders ---------------------------------------------------------------------------------


def _beside(folder: Path) -> None:
    decoder = {"4": {"content": "a"}, "0": {"content": "[PAD]"}}
    _write(folder, {"added_tokens_decoder": decoder, "mask_token": "c"}, "tokenizer_config.json")
    _write(folder, {"unk_token": {"content": "[UNK]"}, "x": 1}, "special_tokens_map.json")
    _write(folder, {"<late>": 11}, "added_tokens.json")
    config = {
        "vocab_size": 12,
        "type_vocab_size": 2,
        "pad_token_id": 0,
        "bos_token_id": None,
        "text_config": {"eos_token_id": [3, 8], "vocab_size": 12, "sep_token_id": -1},
        "id2label": {"0": "no"},
    }
    _write(folder, config, "config.json")
    generation = {
        "suppress_tokens": [5, 7, -1],
        "bad_words_ids": [[5], [7, 4]],
        "forced_decoder_ids": [[1, 7], [2, 5], [3, None]],
    }
    _write(folder, generation, "generation_config.json")


def test_files_beside_a_tokenizer_follow(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    _write(folder, _document())
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES), encoding="utf-8")
    _beside(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    original = read_tokenizer(folder)
    assert original.special == {0, 1, 2, 3, 4, 8, 10, 11}
    paths = _cut(original, [7], out)
    kept = [0, 1, 2, 3, 4, 7, 8, 10, 11]
    place = {old: new for new, old in enumerate(kept)}
    new = {path.name: json.loads(path.read_text()) for path in paths if path.suffix == ".json"}
    assert len(paths) == 7
    assert list(new["tokenizer_config.json"]["added_tokens_decoder"]) == [str(place[4]), "0"]
    assert new["special_tokens_map.json"] == {"unk_token": {"content": "[UNK]"}, "x": 1}
    assert new["added_tokens.json"] == {"<late>": place[11]}
    assert new["config.json"] == {
        "vocab_size": 9,
        "type_vocab_size": 2,
        "pad_token_id": 0,
        "bos_token_id": None,
        "text_config": {"eos_token_id": [3, place[8]], "vocab_size": 9, "sep_token_id": -1},
        "id2label": {"0": "no"},
    }
    assert new["generation_config.json"] == {
        "suppress_tokens": [place[7], -1],
        "bad_words_ids": [[place[7], place[4]]],
        "forced_decoder_ids": [[1, place[7]], [3, None]],
    }
    assert (out / "vocab.txt").read_text().split("\n")[5] == "ab"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert read_tokenizer(out).pieces == {new: original.pieces[old] for old, new in place.items()}


def test_files_of_one_vocabulary_may_number_it_differently(tmp_path: Path) -> None:
    """As XLM-R's do: the ids are those of ``tokenizer.json``, the SentencePiece model follows."""
    folder = tmp_path / "in"
    vocab = [["<s>", 0], ["<pad>", 0], ["</s>", 0], ["<unk>", 0]]
    vocab += [["a", -3.0], ["b", -4.0], ["ab", -5.0], ["c", -6.0]]
    model = {"type": "Unigram", "unk_id": 3, "vocab": vocab}
    _write(folder, {"added_tokens": [], "model": model})
    _spiece(folder, "sentencepiece.bpe.model")
    original = read_tokenizer(folder)
    assert [each.form for each in original.siblings] == ["sentencepiece"]
    paths = _cut(original, [6], tmp_path / "out")
    first, second = (read_tokenizer(path) for path in paths)
    assert [first.pieces[i] for i in range(4, 7)] == [second.pieces[i] for i in range(3, 6)]
    assert sorted(second.pieces.values()) == ["</s>", "<s>", "<unk>", "a", "ab", "c"]


def test_a_model_whose_class_shifts_its_ids_is_refused(tmp_path: Path) -> None:
    _spiece(tmp_path)
    _write(tmp_path, {"tokenizer_class": "XLMRobertaTokenizer"}, "tokenizer_config.json")
    with pytest.raises(OnnxpruneError, match="XLMRobertaTokenizer has other ids"):
        read_tokenizer(tmp_path)


# --- refusals --------------------------------------------------------------------------------


def test_the_original_is_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    path = _write(folder, _document())
    _write(folder, {"vocab_size": 12}, "config.json")
    before = {each.name: each.read_bytes() for each in folder.iterdir()}
    original = read_tokenizer(path)
    kept = sorted(close_ids(original, [7]))
    (tmp_path / "link").symlink_to(folder)
    third = tmp_path / "third"
    third.mkdir()
    os.link(folder / "config.json", third / "config.json")
    for target in (folder, tmp_path / "link", third):
        with pytest.raises(OnnxpruneError, match="would replace") as error:
            write_tokenizer(original, kept, target)
        assert "folder of its own" in error.value.hint
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == before
    assert [each.name for each in third.iterdir()] == ["config.json"]


def test_ids_that_a_tokenizer_needs_may_not_be_missing(tmp_path: Path) -> None:
    original = read_tokenizer(_write(tmp_path / "in", _bpe()))
    with pytest.raises(OnnxpruneError, match=r"cannot do without .* 0 \('<unk>'\)"):
        write_tokenizer(original, [1, 2], tmp_path)
    with pytest.raises(OnnxpruneError, match="ascend"):
        write_tokenizer(original, [2, 1], tmp_path)


def test_an_id_without_a_token_may_not_move_the_others(tmp_path: Path) -> None:
    document = _document()
    del document["model"]["vocab"]["c"]
    document["model"]["vocab"]["d"] = 12
    original = read_tokenizer(_write(tmp_path / "in", document))
    with pytest.raises(OnnxpruneError, match="no token of the id 10"):
        write_tokenizer(original, sorted(close_ids(original, [10])), tmp_path)
    (path,) = write_tokenizer(original, sorted(close_ids(original, [13, 500])), tmp_path)
    assert len(json.loads(path.read_text())["model"]["vocab"]) == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", "Expecting property name"),
        (
            "tokenizer.json",
            '{"model": {"type": "Tree"}}',
            "model.type: 'Tree' is none of WordPiece",
        ),
        (
            "tokenizer.json",
            '{"model": {"vocab": [["a", 0], ["b"]]}}',
            r"model.vocab\[1\]: .* score",
        ),
        ("tokenizer.json", '{"model": {"vocab": [["a", NaN]]}}', r"model.vocab\[0\]"),
        ("tokenizer.json", '{"model": {"vocab": {"a": -1}}}', r"model.vocab\['a'\]: '-1' is no id"),
        (
            "tokenizer.json",
            '{"model": {"vocab": {"a": 0}, "merges": ["a b"]}}',
            r"model.merges\[0\]: 'b' is not in the vocabulary",
        ),
        ("tokenizer.json", "[" * 100_000, "nested"),
        ("vocab.json", "[]", "no mapping from tokens to ids"),
        ("vocab.txt", "\n\n", "no tokens"),
        ("vocab.txt", "a\n\0", "line 2: it is no text"),
        ("spiece.model", "hello", "no SentencePiece model"),
        ("spiece.model", "", "no pieces"),
        ("spiece.model", "version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        ("tokenizer.bin", "a", "ends in '.bin'"),
    ],
)
def test_malformed_files_are_refused_with_their_place(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(OnnxpruneError, match=message) as error:
        read_tokenizer(path)
    assert str(path) in error.value.message
    assert "\n" not in error.value.message
    assert error.value.hint


def test_missing_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json", tmp_path / "none.bin", tmp_path / "none"):
        with pytest.raises(OnnxpruneError, match=r"cannot be read as a tokenizer|has no ending"):
            read_tokenizer(path)


ODD: list[Any] = [None, -1, 1 << 40, 2.5, True, "x", "", [], {}, [[]], {"a": {}}, "\ud800"]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _try(path: Path, out: Path) -> OnnxpruneError | None:
    """Read and cut whatever a file holds."""
    try:
        tokenizer = read_tokenizer(path)
        _cut(tokenizer, sorted(tokenizer.pieces)[-2:], out)
    except OnnxpruneError as error:
        return error
    return None


def _check_errors(errors: list[OnnxpruneError | None]) -> None:
    """Some files work, others are refused in one line with a hint."""
    refusals = [each for each in errors if each is not None]
    assert 0 < len(refusals) < len(errors)
    assert not [each.message for each in refusals if "\n" in each.message or not each.hint]


@pytest.mark.parametrize("name", ["wordpiece", "bpe", "unigram", "beside"])
def test_odd_values_anywhere_end_in_one_error(tmp_path: Path, name: str) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    _write(folder, _document())
    documents = {"tokenizer.json": _document()}
    match name:
        case "bpe":
            documents = {"tokenizer.json": _bpe()}
            for i in range(20, 262):  # enough to hold all kinds of entries
                del documents["tokenizer.json"]["model"]["vocab"][BYTES[i - 6]]
        case "unigram":
            documents = {"tokenizer.json": _unigram()}
        case "beside":
            _beside(folder)
            names = [each.name for each in folder.iterdir() if each.name != "tokenizer.json"]
            documents = {each: json.loads((folder / each).read_text()) for each in names}
    generator, results = random.Random(0), []
    for file, document in documents.items():
        whole = (folder / file).read_bytes() if name == "beside" else b""
        count = sum(1 for _ in _places(document))
        for i in range(count):
            for value in generator.sample(ODD, 1):
                changed = copy.deepcopy(document)
                container, key = list(_places(changed))[i]
                container[key] = value
                _write(folder, changed, file)
                results.append(_try(folder, out))
        if whole:
            (folder / file).write_bytes(whole)
    _check_errors(results)


def test_broken_bytes_end_in_one_error(tmp_path: Path) -> None:
    generator = random.Random(0)
    folder = tmp_path / "in"
    results = []
    for path in (_write(folder, _document()), _spiece(folder)):
        data = path.read_bytes()
        for _ in range(60):
            broken = bytearray(data[: generator.randrange(1, len(data) + 1)])
            for _ in range(generator.randrange(3)):
                broken[generator.randrange(len(broken))] = generator.randrange(256)
            path.write_bytes(broken)
            results.append(_try(path, tmp_path / "out"))
    _check_errors(results)


def test_texts_need_their_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = read_tokenizer(_write(tmp_path, _document()))

    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(encoding.importlib, "import_module", absent)
    with pytest.raises(OnnxpruneError, match="tokenizers is not installed") as error:
        list(encode(original, ["a"]))
    assert "onnxprune[text]" in error.value.hint


def test_lists_are_split_as_bert_and_gpt2_do(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers (extra 'text') is not installed")
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*PIECES[:9], "c"]), encoding="utf-8")
    (ids, empty) = encode(read_tokenizer(path), ["AB abb x", ""])
    assert ids.tolist() == [2, 7, 7, 6, 1, 3]
    assert empty.tolist() == [2, 3]
    folder = tmp_path / "gpt"
    _write(folder, {"a": 0, "b": 1, "Ġ": 2, "ab": 3, "Ġab": 4}, "vocab.json")
    (folder / "merges.txt").write_text("#version: 0.2\na b\nĠ ab\n", encoding="utf-8")
    (ids,) = encode(read_tokenizer(folder), ["ab ab"])
    assert ids.dtype == np.int64
    assert ids.tolist() == [3, 4]
    (folder / "merges.txt").unlink()
    with pytest.raises(OnnxpruneError, match="does not say how texts are split"):
        list(encode(read_tokenizer(folder), ["ab"]))
