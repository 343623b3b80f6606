"""Metrics against their reference libraries, on random and on awkward sets, in any batching."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.metrics import Reading, chance_level, evaluate, find_metric, score
from onnxprune.evaluate.metrics.text import ctc_decode, edit_distance
from onnxprune.evaluate.standard_error import paired_error, score_error
from onnxprune.types import is_fraction

Array = npt.NDArray[Any]

seeds = st.integers(0, 10_000)
CUTS = st.lists(st.integers(0, 100), max_size=3)


def pieces(array: Array, cuts: list[int]) -> list[dict[str, Array]]:
    parts = np.split(array, sorted(cut % len(array) for cut in cuts))
    return [{"y": part} for part in parts if len(part)]


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


@given(rows=st.integers(1, 40), classes=st.integers(2, 7), cuts=CUTS, seed=seeds)
def test_class_metrics_equal_scikit_learn(
    rows: int, classes: int, cuts: list[int], seed: int
) -> None:
    reference = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(seed)
    scores = softmax(rng.normal(size=(rows, classes)))
    labels = rng.integers(0, classes, rows)
    every = range(classes)

    def ours(name: str) -> float:
        return evaluate(find_metric(name), pieces(scores, cuts), labels)

    assert ours("accuracy") == pytest.approx(
        reference.accuracy_score(labels, scores.argmax(1)), abs=1e-9
    )
    if classes > 2:
        assert ours("top2") == pytest.approx(
            reference.top_k_accuracy_score(labels, scores, k=2, labels=every), abs=1e-9
        )
    loss = reference.log_loss(labels, scores, labels=every)
    assert ours("cross-entropy") == ours("nats") == pytest.approx(loss, abs=1e-6)
    assert ours("perplexity") == pytest.approx(math.exp(loss), rel=1e-6)
    for average in ("macro", "micro"):
        wanted = reference.f1_score(labels, scores.argmax(1), average=average, zero_division=0)
        assert ours(f"f1-{average}") == pytest.approx(wanted, abs=1e-9)
    if classes == 2:
        wanted = reference.f1_score(labels, scores.argmax(1), zero_division=0)
        assert ours("f1") == pytest.approx(wanted, abs=1e-9)


@given(
    rows=st.integers(1, 30),
    classes=st.integers(1, 5),
    threshold=st.sampled_from([0.2, 0.5, 0.8]),
    logits=st.booleans(),
    cuts=CUTS,
    seed=seeds,
)
def test_f1_of_classes_that_coincide_equals_scikit_learn(
    rows: int, classes: int, threshold: float, logits: bool, cuts: list[int], seed: int
) -> None:
    reference = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(seed)
    raw = 3 * rng.normal(size=(rows, classes))
    raw.flat[0] = 5.0  # surely a logit
    probabilities = 1 / (1 + np.exp(-raw))
    labels = rng.integers(0, 2, (rows, classes))
    answers = probabilities > threshold
    outputs = pieces(raw if logits else probabilities, cuts)
    reading = Reading(threshold=threshold)
    for average in ("macro", "micro"):
        wanted = reference.f1_score(labels, answers, average=average, zero_division=0)
        if classes == 1:  # one column is no set of labels to scikit-learn
            wanted = reference.f1_score(labels[:, 0], answers[:, 0], zero_division=0)
        metric = find_metric(f"f1-{average}", reading)
        assert evaluate(metric, outputs, labels) == pytest.approx(wanted, abs=1e-9)
    if classes == 1:
        assert evaluate(find_metric("f1", reading), outputs, labels) == pytest.approx(wanted)
        assert evaluate(find_metric("f1", reading), outputs, labels[:, 0]) == pytest.approx(wanted)


def test_one_f1_needs_two_classes() -> None:
    with pytest.raises(OnnxpruneError, match="3 classes to take one F1 of") as error:
        evaluate(find_metric("f1"), [{"y": np.eye(3)}], np.arange(3))
    assert "f1-macro" in error.value.hint


@given(rows=st.integers(1, 20), cuts=CUTS, seed=seeds)
def test_mse_equals_scikit_learn(rows: int, cuts: list[int], seed: int) -> None:
    reference = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, rows, 3))
    wanted = reference.mean_squared_error(b, a)
    assert evaluate(find_metric("mse"), pieces(a, cuts), b) == pytest.approx(wanted, abs=1e-9)


@given(rows=st.integers(2, 40), values=st.integers(2, 12), cuts=CUTS, seed=seeds)
def test_spearman_equals_scipy_with_ties(
    rows: int, values: int, cuts: list[int], seed: int
) -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(seed)
    answers = rng.integers(0, values, rows).astype(float)
    labels = rng.integers(0, values, rows)
    labels[:2] = 0, 1
    metric = find_metric("spearman")
    for shape in ((rows,), (rows, 1)):
        found = evaluate(metric, pieces(answers.reshape(shape), cuts), labels)
        if (answers == answers[0]).all():
            assert found == 0
        else:
            assert found == pytest.approx(spearmanr(answers, labels).statistic, abs=1e-9)


@given(pairs=st.integers(2, 15), cuts=CUTS, seed=seeds)
def test_pairs_are_ranked_by_their_cosine(pairs: int, cuts: list[int], seed: int) -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(2 * pairs, 4))
    labels = rng.integers(0, 5, pairs).astype(float)
    labels[:2] = 0, 1
    a, b = rows[::2], rows[1::2]
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    found = evaluate(find_metric("spearman-pairs"), pieces(rows, cuts), labels.repeat(2))
    assert found == pytest.approx(spearmanr(cosine, labels).statistic, abs=1e-9)


def test_what_cannot_be_ranked_is_refused() -> None:
    metric = find_metric("spearman")
    with pytest.raises(OnnxpruneError, match="nothing to measure"):
        evaluate(metric, [{"y": np.ones(1)}], np.ones(1))
    with pytest.raises(OnnxpruneError, match="all labels are 1"):
        evaluate(metric, [{"y": np.arange(3.0)}], np.ones(3))
    with pytest.raises(OnnxpruneError, match="no other to be compared with"):
        evaluate(find_metric("spearman-pairs"), [{"y": np.ones((3, 2))}], np.array([0, 0, 1]))
    assert evaluate(metric, [{"y": np.full(3, np.nan)}], np.arange(3)) == 0


# --- text ------------------------------------------------------------------------------------

LETTERS = "abc "
TEXT = st.text(LETTERS, max_size=12)


@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6), cuts=CUTS)
def test_error_rates_equal_jiwer(pairs: list[tuple[str, str]], cuts: list[int]) -> None:
    jiwer = pytest.importorskip("jiwer", reason="jiwer is not installed")
    answers = [answer for answer, _ in pairs]
    labels = np.array([label for _, label in pairs])
    rows = np.full((len(pairs), 12), -1)
    for row, answer in zip(rows, answers, strict=True):
        row[: len(answer)] = [LETTERS.index(letter) for letter in answer]
    reading = Reading(vocabulary=tuple(LETTERS), blank=-1)
    texts = [label for label in labels.tolist() if label.strip()]
    for name, reference in (("cer", jiwer.cer), ("wer", jiwer.wer)):
        metric = find_metric(name, reading)
        if not texts:
            with pytest.raises(OnnxpruneError, match="nothing to measure"):
                evaluate(metric, pieces(rows, cuts), labels)
            continue
        wanted = reference(labels.tolist(), answers)
        assert evaluate(metric, pieces(rows, cuts), labels) == pytest.approx(wanted, abs=1e-9)


@given(one=st.text("ab", max_size=9), other=st.text("ab", max_size=9))
def test_the_distance_is_the_least_number_of_edits(one: str, other: str) -> None:
    table = np.zeros((len(one) + 1, len(other) + 1), int)
    for i in range(len(one) + 1):
        for j in range(len(other) + 1):
            table[i, j] = (
                max(i, j)
                if not (i and j)
                else min(
                    table[i - 1, j] + 1,
                    table[i, j - 1] + 1,
                    table[i - 1, j - 1] + (one[i - 1] != other[j - 1]),
                )
            )
    assert edit_distance(one, other) == table[-1, -1]


@given(steps=st.integers(1, 12), blank=st.sampled_from([0, 2, -1]), seed=seeds)
def test_ctc_joins_repetitions_and_leaves_out_blanks(steps: int, blank: int, seed: int) -> None:
    path = np.random.default_rng(seed).integers(0, 4, steps)
    wanted = [
        int(token)
        for k, token in enumerate(path)
        if token != blank % 4 and (k == 0 or token != path[k - 1])
    ]
    assert ctc_decode(np.eye(4)[path][None], blank)[0].tolist() == wanted


@pytest.mark.parametrize("form", ["samples first", "steps first"])
@pytest.mark.parametrize("words", ["all", "no blank", "no blank, no space"])
def test_vocabularies_with_and_without_the_blank(form: str, words: str) -> None:
    tokens = ["<blank>", "a", "b", " "]
    vocabulary = {"all": tokens, "no blank": tokens[1:], "no blank, no space": tokens[1:3]}[words]
    paths = np.array([[1, 1, 0, 1, 3, 2], [2, 0, 0, 0, 0, 0]])  # "aa b" and "b"
    scores = np.eye(4)[paths]
    output = scores if form == "samples first" else scores.swapaxes(0, 1)
    metric = find_metric("cer", Reading(vocabulary=tuple(vocabulary)))
    found = score(metric, [{"y": output}], np.array(["aa b", "bb"]), [2])
    assert found.value == pytest.approx(1 / 6)
    assert found.sums is not None
    assert found.counts is not None
    assert (found.sums.tolist(), found.counts.tolist()) == ([0, 1], [4, 2])


def test_tokens_are_compared_without_a_vocabulary() -> None:
    paths = np.array([[1, 1, 0, 1], [2, 0, 0, 3]])
    labels = np.array([[1, 1, -1], [2, 2, -1]])
    assert evaluate(find_metric("cer"), [{"y": np.eye(4)[paths]}], labels) == pytest.approx(1 / 4)
    with pytest.raises(OnnxpruneError, match="words cannot be told"):
        evaluate(find_metric("wer"), [{"y": np.eye(4)[paths]}], labels)
    with pytest.raises(OnnxpruneError, match="which text a token stands for"):
        evaluate(find_metric("cer"), [{"y": np.eye(4)[paths]}], np.array(["a", "b"]))
    metric = find_metric("cer", Reading(vocabulary=tuple("abcdefg")))
    with pytest.raises(OnnxpruneError, match="7 tokens, and the output 4 classes"):
        evaluate(metric, [{"y": np.eye(4)[paths]}], np.array(["a", "b"]))


def test_marks_of_words_are_spaces() -> None:
    metric = find_metric("wer", Reading(vocabulary=("<blank>", "▁he", "llo", "▁you"), blank=0))
    rows = np.array([[1, 2, 3]])
    assert evaluate(metric, [{"y": rows}], np.array(["hello you"])) == 0
    metric = find_metric("wer", Reading(vocabulary=("", "a", "|", "b")))
    assert evaluate(metric, [{"y": np.array([[1, 2, 3]])}], np.array(["a b"])) == 0


# --- chance ----------------------------------------------------------------------------------


@given(rows=st.integers(2, 40), classes=st.integers(2, 5), seed=seeds)
def test_chance_is_what_a_constant_answer_reaches(rows: int, classes: int, seed: int) -> None:
    reference = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    labels[:2] = 0, 1
    most = np.bincount(labels).argmax()
    for average in ("macro", "micro"):
        constant = np.full(rows, most)
        wanted = reference.f1_score(labels, constant, average=average, zero_division=0)
        assert chance_level(find_metric(f"f1-{average}"), labels) == pytest.approx(wanted)
    flags = labels % 2
    wanted = reference.f1_score(flags, np.ones(rows), zero_division=0)
    assert chance_level(find_metric("f1"), flags) == pytest.approx(wanted)
    together = rng.integers(0, 2, (rows, classes))
    for average in ("macro", "micro"):
        every = np.ones_like(together)
        wanted = reference.f1_score(together, every, average=average, zero_division=0)
        assert chance_level(find_metric(f"f1-{average}"), together) == pytest.approx(wanted)


def test_nothing_is_read_or_found_by_chance() -> None:
    wanted = {"map": 0.0, "spearman": 0.0, "spearman-pairs": 0.0, "cer": 1.0, "wer": 1.0}
    for name, level in wanted.items():
        assert chance_level(find_metric(name), np.zeros(3)) == level
    assert chance_level(find_metric(len), np.zeros(3)) is None


def test_shares_are_known_by_name() -> None:
    shares = ("accuracy", "top5", "f1", "f1-macro@y", "cer", "wer", "map", "map50@boxes")
    numbers = ("mse", "nats", "spearman", "mapping", "f.py:map", "topology", "perplexity")
    assert all(map(is_fraction, shares))
    assert not any(map(is_fraction, numbers))


# --- standard errors -------------------------------------------------------------------------


def classifier(rng: np.random.Generator, labels: Array) -> Array:
    return np.asarray(np.eye(3)[labels] + rng.normal(size=(len(labels), 3)))


def number(rng: np.random.Generator, labels: Array) -> Array:
    return np.asarray(labels + rng.normal(size=len(labels)))


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("accuracy", classifier),
        ("f1-macro", classifier),
        ("nats", classifier),
        ("spearman", number),
    ],
)
def test_errors_are_the_spread_over_sets(
    name: str, model: Callable[[np.random.Generator, Array], Array]
) -> None:
    metric, rng = find_metric(name), np.random.default_rng(0)
    values, gaps, errors, gap_errors = [], [], [], []
    for _ in range(60):
        labels = rng.integers(0, 3, 200)
        one = score(metric, [{"y": model(rng, labels)}], labels)
        other = score(metric, [{"y": model(rng, labels)}], labels)
        values.append(one.value)
        gaps.append(other.value - one.value)
        errors.append(score_error(metric, one))
        gap_errors.append(paired_error(metric, one, other))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.35)
    assert np.mean(gap_errors) == pytest.approx(np.std(gaps), rel=0.35)


@pytest.mark.parametrize("name", ["f1-macro", "spearman"])
def test_errors_are_the_same_each_time_and_never_nothing(name: str) -> None:
    rng, metric = np.random.default_rng(0), find_metric(name)
    labels = rng.integers(0, 3, 50)
    output = {"f1-macro": classifier, "spearman": number}[name](rng, labels)
    one = score(metric, [{"y": output}], labels)
    first, second = (paired_error(metric, one, one) for _ in range(2))
    assert first == second
    assert first is not None
    assert first > 0


def test_weights_are_repetitions() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 40)
    weights = rng.integers(0, 4, 40)
    scores, numbers = classifier(rng, labels), number(rng, labels).round()
    for name, output in (("f1-macro", scores), ("f1-micro", scores), ("spearman", numbers)):
        metric = find_metric(name)
        statistics = score(metric, [{"y": output}], labels).statistics
        assert statistics is not None
        repeated = evaluate(metric, [{"y": output.repeat(weights, 0)}], labels.repeat(weights))
        assert statistics.figure(weights.astype(float)) == pytest.approx(repeated, abs=1e-12)
