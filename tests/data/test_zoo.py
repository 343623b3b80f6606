"""The zoo: every model that ships loads and reaches its stated metric on data it never saw."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from models.fold import fold_batchnorm
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError

VARIANTS = Path(__file__).parents[2] / "models" / "variants"
GOOD = {  # what a well trained model of each kind must reach at least (at most, for nats/char)
    "digits_rescnn": 0.98,
    "digits_mlp": 0.95,
    "digits_encoder": 0.96,
    "digits_lstm": 0.97,
    "chars_decoder": 1.4,
}


def runner(entry: zoo.Entry) -> zoo.Run:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(entry.model, options, providers=["CPUExecutionProvider"])

    def run(feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        return {zoo.OUTPUT: session.run([zoo.OUTPUT], dict(feeds))[0]}

    return run


def test_every_name_is_tested() -> None:
    assert set(zoo.names()) == set(GOOD)


@pytest.mark.parametrize("name", zoo.names())
def test_reaches_its_stated_metric(name: str) -> None:
    entry = zoo.get(name)
    value = zoo.measure(entry, runner(entry))
    assert value == pytest.approx(entry.measured, abs=0.002)
    assert value >= GOOD[name] if entry.metric == "accuracy" else value <= GOOD[name]


@pytest.mark.parametrize("name", zoo.names())
def test_is_small_valid_and_takes_any_batch(name: str) -> None:
    entry = zoo.get(name)
    onnx.checker.check_model(str(entry.model), full_check=True)
    assert entry.model.stat().st_size < 1_000_000
    feeds, run = zoo.calibration(entry), runner(entry)
    one = run({key: value[:1] for key, value in feeds.items()})[zoo.OUTPUT]
    five = run({key: value[:5] for key, value in feeds.items()})[zoo.OUTPUT]
    np.testing.assert_allclose(one, five[:1], atol=1e-4)
    assert np.abs(five - five[:1]).max() > 0.1, "the output does not depend on the input"


@pytest.mark.parametrize("name", ["digits_encoder_dynamo", "chars_decoder_dynamo"])
def test_variant_of_the_other_exporter_reaches_its_stated_metric(name: str) -> None:
    path = VARIANTS / f"{name}.onnx"
    assert path.stat().st_size < 200_000
    entry = replace(zoo.get(name.removesuffix("_dynamo")), model=path)
    value = zoo.measure(entry, runner(entry))
    stated = json.loads((VARIANTS / "measured.json").read_text(encoding="utf-8"))[name]
    assert value == pytest.approx(stated, abs=0.002)
    assert value > 0.95 if entry.metric == "accuracy" else value < 1.8


def test_folding_batchnorm_keeps_the_function(tmp_path: Path) -> None:
    entry = zoo.get("digits_rescnn")
    model = onnx.load(entry.model)
    folded = fold_batchnorm(model)
    before, after = ({node.op_type for node in m.graph.node} for m in (model, folded))
    assert before - after == {"BatchNormalization"}
    path = tmp_path / "folded.onnx"
    onnx.save(folded, path)
    feeds = zoo.calibration(entry)
    expected = runner(entry)(feeds)[zoo.OUTPUT]
    np.testing.assert_allclose(
        runner(replace(entry, model=path))(feeds)[zoo.OUTPUT], expected, atol=1e-4
    )


def test_decoder_reads_no_future_and_any_length() -> None:
    entry = zoo.get("chars_decoder")
    tokens, run = zoo.calibration(entry)["tokens"][:4], runner(entry)
    changed = tokens.copy()
    changed[:, 50:] = 0
    logits = run({"tokens": tokens})[zoo.OUTPUT]
    np.testing.assert_allclose(
        run({"tokens": tokens[:, :50]})[zoo.OUTPUT], logits[:, :50], atol=1e-4
    )
    other = run({"tokens": changed})[zoo.OUTPUT]
    np.testing.assert_allclose(other[:, :50], logits[:, :50], atol=1e-4)
    assert np.abs(other[:, 51:] - logits[:, 51:]).max() > 0.1


def test_decoder_ties_embedding_and_output() -> None:
    graph = onnx.load(zoo.get("chars_decoder").model).graph
    readers = [node.op_type for node in graph.node if "embedding.weight" in node.input]
    assert sorted(readers) == ["Gather", "Transpose"]


def test_readme_states_what_was_measured() -> None:
    readme = (VARIANTS.parent / "README.md").read_text(encoding="utf-8")
    for folder in (zoo.FOLDER, VARIANTS):
        for name, value in json.loads((folder / "measured.json").read_text("utf-8")).items():
            row = next(line for line in readme.splitlines() if line.startswith(f"| `{name}` "))
            shown = f"{value:.3f} nats/char" if "chars" in name else f"{100 * value:.1f} %"
            assert shown in row


@pytest.mark.parametrize("name", zoo.names())
def test_data_fit_the_model(name: str) -> None:
    entry = zoo.get(name)
    session = ort.InferenceSession(entry.model, providers=["CPUExecutionProvider"])
    dtypes = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    calibration, (evaluation, labels) = zoo.calibration(entry), zoo.evaluation(entry)
    expected = {value.name: dtypes[value.type] for value in session.get_inputs()}
    for feeds in (calibration, evaluation):
        assert {key: value.dtype for key, value in feeds.items()} == expected
    assert all(256 <= len(value) <= 512 for value in calibration.values())
    assert all(len(value) == len(labels) for value in evaluation.values())


@pytest.mark.parametrize("name", zoo.names())
def test_calibration_and_evaluation_share_no_sample(name: str) -> None:
    def digests(feeds: zoo.Feeds) -> set[bytes]:
        return {hashlib.sha256(row.tobytes()).digest() for value in feeds.values() for row in value}

    entry = zoo.get(name)
    feeds, _ = zoo.evaluation(entry)
    evaluated = digests(feeds)
    assert len(evaluated) > 0.99 * sum(map(len, feeds.values())), "repeated evaluation samples"
    assert not digests(zoo.calibration(entry)) & evaluated


def test_files_name_no_path_of_the_machine_that_made_them() -> None:
    paths = [*zoo.FOLDER.glob("*.onnx"), *VARIANTS.glob("*.onnx")]
    assert len(paths) == len(zoo.names()) + 2
    for path in paths:
        content = path.read_bytes()
        assert not any(word in content for word in (b"site-packages", b"/models/", b"stack_trace"))


def test_digit_files_come_from_disjoint_scans() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn, which ships the digits, is not installed")
    from models import digits

    splits = digits.splits()
    indices = np.concatenate([split.indices for split in splits.values()])
    assert len(indices) == 1797 == len(np.unique(indices))
    scans = {name: {row.tobytes() for row in split.raw} for name, split in splits.items()}
    assert not scans["evaluation"] & (scans["train"] | scans["calibration"])
    entry = zoo.get("digits_rescnn")
    committed, labels = zoo.evaluation(entry)
    image, label = digits.arrays("evaluation")
    np.testing.assert_allclose(committed["image"], image, atol=1e-6)
    np.testing.assert_array_equal(labels, label)
    image, _ = digits.arrays("calibration")
    np.testing.assert_allclose(zoo.calibration(entry)["image"], image, atol=1e-6)


def test_text_files_share_no_passage() -> None:
    """No run of 40 characters of the evaluation text occurs in the calibration text."""
    entry = zoo.get("chars_decoder")
    feeds, labels = zoo.evaluation(entry)
    np.testing.assert_array_equal(feeds["tokens"][:, 1:], labels[:, :-1])

    def passages(tokens: NDArray[np.int64]) -> set[bytes]:
        line = tokens.astype(np.uint8).tobytes()
        return {line[start : start + 40] for start in range(len(line) - 39)}

    calibration = passages(zoo.calibration(entry)["tokens"])
    shared = passages(feeds["tokens"]) & calibration
    assert not shared


@pytest.mark.heavy
def test_text_files_come_from_disjoint_paragraphs() -> None:
    """Nor does any occur in the training text, which is not committed."""
    sklearn = pytest.importorskip("sklearn", reason="scikit-learn, the source, is not installed")
    if sklearn.__version__ != "1.9.1":
        pytest.skip(f"the text is that of scikit-learn 1.9.1, not {sklearn.__version__}")
    from models import chars

    text = chars.splits()
    entry = zoo.get("chars_decoder")
    committed, labels = zoo.evaluation(entry)
    tokens, following = chars.windows("evaluation")
    np.testing.assert_array_equal(committed["tokens"], tokens)
    np.testing.assert_array_equal(labels, following)
    np.testing.assert_array_equal(zoo.calibration(entry)["tokens"], chars.windows("calibration")[0])
    paragraphs = text["evaluation"].split("\n\n")
    passages = {p[i : i + 40] for p in paragraphs for i in range(len(p) - 39)}
    train = text["train"]
    assert not passages & {train[i : i + 40] for i in range(len(train) - 39)}


def test_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(OnnxpruneError, match="no model 'digits_cnn'") as caught:
        zoo.get("digits_cnn")
    assert "digits_rescnn" in caught.value.hint


def test_missing_file_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    with pytest.raises(OnnxpruneError, match="is missing from this install"):
        zoo.get("digits_mlp")


def test_score_matches_its_definition() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 3, 7)) * 50, rng.integers(0, 7, (4, 3))
    hits = [logits[i, j].argmax() == labels[i, j] for i in range(4) for j in range(3)]
    assert zoo.score("accuracy", logits, labels) == np.mean(hits)
    wide = logits - logits.max(-1, keepdims=True)
    likelihood = np.exp(wide) / np.exp(wide).sum(-1, keepdims=True)
    picked = [-np.log(likelihood[i, j, labels[i, j]]) for i in range(4) for j in range(3)]
    assert zoo.score("nats/char", logits, labels) == pytest.approx(np.mean(picked))
    with pytest.raises(OnnxpruneError, match="do not fit labels"):
        zoo.score("accuracy", logits[:, 0], labels)
