"""A model and its tokenizer lose the same ids, and still belong together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from onnxprune import prune
from onnxprune.data.tokens import encode, read_tokenizer
from onnxprune.errors import OnnxpruneError

CORPUS = [
    "the cat sat on the mat",
    "kočka seděla на ковре",
    "naïve café 東京 😀",
    "unable, able",
] * 3


def _encoder(size: int) -> onnx.ModelProto:
    """The mean of the embeddings of ids, ``[batch, length] -> [batch, 6]``."""
    generator = np.random.default_rng(0)
    table = numpy_helper.from_array(generator.normal(size=(size, 6)).astype(np.float32), "table")
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows"], ["y"], axes=[1], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n", "length"])]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 6])]
    graph = helper.make_graph(nodes, "encoder", inputs, outputs, [table])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _bytes_tokenizer(folder: Path) -> Path:
    """A byte-level tokenizer of merges, trained on `CORPUS`."""
    library = pytest.importorskip("tokenizers", reason="tokenizers (extra 'text') is not installed")
    tokenizer = library.ByteLevelBPETokenizer()
    special = ["<pad>", "<s>", "<unk>"]
    tokenizer.train_from_iterator(
        CORPUS, vocab_size=330, min_frequency=1, special_tokens=special, show_progress=False
    )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"vocab_size": 340, "pad_token_id": 0}))
    return folder


def _run(model: Any, ids: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model)
    return np.asarray(session.run(None, {"ids": ids[None]})[0])


def test_texts_of_kept_tokens_give_the_same_outputs(tmp_path: Path) -> None:
    folder, out = _bytes_tokenizer(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    onnx.save(_encoder(340), folder / "dense.onnx")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps(["the", "Ġmat", "able"]))
    original = read_tokenizer(folder)
    result = prune(
        folder / "dense.onnx", vocab=f"tokens:{tokens}", tokenizer=folder, unknown="Ġcat"
    )
    result.save(out / "small.onnx")
    small = read_tokenizer(out)
    kept = result.interface.inputs[0].kept
    assert len(kept) < 330
    assert {original.ids[each] for each in ("the", "Ġmat", "able", "Ġcat")} <= {*kept}
    assert json.loads((out / "config.json").read_text()) == {
        "vocab_size": len(kept),
        "pad_token_id": 0,
    }
    words = ["the", " mat", "able", "x", "é", "東", "😀", "\u0378", " cat", "\n", "mats", "unable"]
    generator = np.random.default_rng(0)
    texts = ["the mat", "", *("".join(generator.choice(words, 4)) for _ in range(60))]
    count = 0
    for text, old, new in zip(texts, encode(original, texts), encode(small, texts), strict=True):
        assert (new < len(kept)).all()
        if text and np.isin(old, kept).all():
            count += 1
            expected = _run(folder / "dense.onnx", old)
            assert np.array_equal(_run(out / "small.onnx", new), expected), text
    assert count > 10
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_result_is_not_saved_over_its_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\na\nb\nc\n")
    result = prune(_encoder(5), vocab=[2], tokenizer=path)
    assert result.interface.inputs[0].kept == (0, 1, 2)
    assert result.interface.inputs[0].unknown == 1
    with pytest.raises(OnnxpruneError, match="would replace"):
        result.save(tmp_path / "small.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["vocab.txt"]
    with pytest.raises(OnnxpruneError, match=r"^unknown: .* names 1 token .* 'd'"):
        prune(_encoder(5), vocab=[2], tokenizer=path, unknown="d")
    path.write_text("a\nb\nc\nd\n[UNK]\n")
    with pytest.raises(OnnxpruneError, match=r"needs the id 4 \('\[UNK\]'\)"):
        prune(_encoder(4), vocab=[0], tokenizer=path)
