"""The zoo: every model that ships loads and reaches its stated metric on data it never saw."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from onnxprune import zoo
from onnxprune.errors import OnnxpruneError

GOOD = {  # what a well trained model of each kind must reach at least (at most, for nats/char)
    "digits_rescnn": 0.98,
    "digits_mlp": 0.95,
    "digits_encoder": 0.96,
    "digits_lstm": 0.97,
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
    for path in zoo.FOLDER.glob("*.onnx"):
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


def test_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(OnnxpruneError, match="no model 'digits_cnn'") as caught:
        zoo.get("digits_cnn")
    assert "digits_rescnn" in caught.value.hint


def test_missing_file_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
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
