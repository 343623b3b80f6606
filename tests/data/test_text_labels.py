"""Labels that are text or belong to pairs, and vocabularies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnxprune.data import open_calibration
from onnxprune.data.calibration import split
from onnxprune.data.labels import form_of, open_labels, read_vocabulary
from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import TensorSpec
from onnxprune.types import METRICS

TEXTS = ["hello you", "", "a, b"]


def test_texts_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello you\n\na, b\n")
    (tmp_path / "a.csv").write_text('file,text\n1,hello you\n2,\n3,"a, b"\n')
    np.savez(tmp_path / "a.npz", text=np.array(TEXTS))
    np.save(tmp_path / "a.npy", np.array(TEXTS))
    for spec in (*(tmp_path / f"a.{end}" for end in ("txt", "csv", "npz", "npy")), TEXTS):
        assert open_labels(spec, metric="cer").tolist() == TEXTS
    assert open_labels(TEXTS, np.array([2, 0]), metric="wer@y").tolist() == ["a, b", "hello you"]
    assert open_labels([[1, 2], [3, -1]], metric="cer").shape == (2, 2)


def test_text_is_refused_where_numbers_are_needed() -> None:
    with pytest.raises(OnnxpruneError, match="not numbers") as error:
        open_labels(TEXTS)
    assert "cer" in error.value.hint


@pytest.mark.parametrize("metric", [*METRICS, "top3", "map75", "f.py:map", len])
def test_every_metric_has_labels_of_a_form(metric: object) -> None:
    special = {"cer": "text", "wer": "text", "map": "boxes", "map50": "boxes", "map75": "boxes"}
    special["spearman-pairs"] = "pairs"
    wanted = special.get(metric, "numbers") if isinstance(metric, str) else "numbers"
    assert form_of(metric) == wanted


def test_pairs_stay_together() -> None:
    spec = TensorSpec("x", np.dtype(np.float32), ("batch", 2))
    data = np.arange(80, dtype=np.float32).reshape(40, 2)
    whole = open_calibration(data, (spec,), together=2)
    parts = [*split(whole, 0.3), open_calibration(data, (spec,), samples=10, together=2)]
    scores = np.arange(20.0)
    for part in parts:
        assert part.indices is not None
        pairs = part.indices.reshape(-1, 2)
        assert (pairs[:, 0] % 2 == 0).all()
        assert (pairs[:, 1] == pairs[:, 0] + 1).all()
        labels = open_labels(scores, part.indices, metric="spearman-pairs")
        assert labels.tolist() == (part.indices // 2).tolist()


def test_vocabularies_of_every_kind(tmp_path: Path) -> None:
    tokens = ("<pad>", " ", "a", "ß")
    (tmp_path / "v.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    (tmp_path / "list.json").write_text(json.dumps(tokens))
    (tmp_path / "map.json").write_text(json.dumps({t: k for k, t in enumerate(tokens)}))
    for spec in (*(tmp_path / name for name in ("v.txt", "list.json", "map.json")), tokens):
        assert read_vocabulary(spec) == tokens


@pytest.mark.parametrize("content", ['{"a": 0, "b": 2}', '{"a": "0"}', "3", "[1]", "{"])
def test_damaged_vocabularies_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "v.json"
    path.write_text(content)
    with pytest.raises(OnnxpruneError, match=r"v\.json") as error:
        read_vocabulary(path)
    assert error.value.hint
