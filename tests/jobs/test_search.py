"""``--max-drop`` without an amount: the smallest model that passes, and an honest no."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from conftest import Ran
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.metrics import evaluate, find_metric, score
from onnxprune.evaluate.sample_statistics import agreement_error
from onnxprune.evaluate.standard_error import paired_error
from onnxprune.jobs.result import Result
from onnxprune.jobs.search import MILDER, MOST, NEAR, passes
from onnxprune.runtime import open_session

Cli = Callable[..., Ran]
ENTRY = zoo.get("digits_mlp")
LABELLED: dict[str, Any] = {"calib": str(ENTRY.evaluation), "labels": str(ENTRY.evaluation)}


STAGES: list[str] = []


@pytest.fixture(scope="module")
def found() -> Result:
    return onnxprune.prune(ENTRY.model, max_drop="2%", progress=STAGES.append, **LABELLED)


def test_progress_says_which_model_of_how_many(found: Result) -> None:
    form = re.compile(r"model (\d+) of about (\d+), \d+\.\d % of MACs: ")
    counts = [tuple(map(int, m.groups())) for m in map(form.match, STAGES) if m]
    assert {number for number, _ in counts} >= set(range(1, len(found.history) + 1))
    assert all(number <= total <= MOST + MILDER + 1 for number, total in counts)
    assert abs(counts[0][1] - len(found.history)) <= 3  # the first guess


def test_the_smallest_model_that_passes_is_taken(found: Result) -> None:
    assert found.ok
    chosen = [each for each in found.history if each.plan is found.plan]
    assert len(chosen) == 1
    assert found.remaining == chosen[0].remaining
    passing = [each for each in found.history if passes(each, 0.02)]
    assert all(each.evaluation.drop <= 0.02 for each in passing)
    assert all(each.evaluation.drop > 0.02 for each in found.history if not passes(each, 0.02))
    tried = next(note for note in found.notes if note.startswith("the verdict is on"))
    if "until one passed" not in tried:  # the last samples agreed at once
        assert found.remaining.macs == min(each.remaining.macs for each in passing)


def test_the_boundary_is_known_to_the_resolution_asked_for(found: Result) -> None:
    sizes = [each.remaining.macs / found.dense.macs for each in found.history if passes(each, 0.02)]
    others = [each for each in found.history if not passes(each, 0.02)]
    failed = [each.remaining.macs / found.dense.macs for each in others]
    below = [size for size in failed if size < min(sizes)]
    assert min(sizes) - max(below, default=0) <= NEAR + 0.02  # widths are whole


def test_every_visited_model_is_in_the_report(cli: Cli) -> None:
    ran = cli(
        "prune", ENTRY.model, "--max-drop", "5%", "--calib", ENTRY.calibration, "--smallest",
        "bytes", "--recover", "bias", "--json",
    )  # fmt: skip
    report = json.loads(ran.out)
    assert ran.code == 0, ran.err
    points = report["points"]
    assert len(points) >= 3
    assert sum(row["chosen"] for row in points) == 1
    assert {row["metric"] for row in points} == {"agreement"}
    assert all(row["label"].startswith("bytes=") for row in points)
    assert all(row["ok"] == (row["drop"] <= 0.05) for row in points)
    assert all(row["drop_error"] > 0 for row in points)
    weights = next(row for row in report["measures"] if row["name"] == "weights")
    assert weights["pruned"] == next(row["bytes"] for row in points if row["chosen"])
    assert any("flatters" in note for note in report["notes"])


def test_no_cut_within_the_drop_is_a_no_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    encoder = zoo.get("digits_encoder").model  # without dead units, which go for nothing
    with np.load(ENTRY.evaluation) as held:
        own = open_session(encoder).run({"image": held["image"]})["logits"]
    np.save(tmp_path / "own.npy", own)  # whatever is cut, the answers are no longer these
    out = tmp_path / "small.onnx"
    ran = cli(
        "prune", encoder, "--max-drop", "0", "--calib", ENTRY.evaluation, "--calib-samples",
        "64", "--labels", tmp_path / "own.npy", "--metric", "mse", "--recover", "none",
        "--criterion", "l2",
        "-o", out, "--json",
    )  # fmt: skip
    report = json.loads(ran.out)
    assert ran.code == 1, ran.err
    assert not out.exists()
    assert report["output"] is None
    assert not any(row["ok"] or row["chosen"] for row in report["points"])
    assert max(row["macs"] for row in report["points"]) > 0.97 * report["model"]["macs"]
    assert any("the mildest cut included" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--max-drop", "1%"), "is judged on inputs"),
        (("--max-drop", "1%", "--calib", "random"), "synthetic inputs"),
        (("--smallest", "params", "--ratio", "0.3"), "--smallest says"),
        (("--max-drop", "1%", "--smallest", "width", "--calib", "x.npz"), "--smallest width"),
        (("--sensitivity", "x.json", "--ratio", "0.3"), "only a budget asks for"),
        (
            ("--sensitivity", "x.json", "--target", "macs=50%", "--criterion", "l2"),
            "give one of them",
        ),
        ((), "or --max-drop 1%"),
    ],
)
def test_wrong_words_are_refused_with_a_hint(
    cli: Cli, flags: tuple[str, ...], complaint: str
) -> None:
    ran = cli("prune", ENTRY.model, *flags)
    assert ran.code == 2
    assert complaint in ran.err


@given(st.integers(5, 400), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**31))
def test_the_error_of_a_drop_is_that_of_its_pairs(
    samples: int, right: float, changed: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.zeros(samples, np.int64)
    dense = rng.random(samples) >= right
    pruned = np.where(rng.random(samples) < changed, ~dense, dense)
    accuracy = find_metric("accuracy")
    one, other = (
        score(accuracy, [{"logits": np.eye(2)[each.astype(int)]}], labels)
        for each in (dense, pruned)
    )
    pairs = other.value - one.value
    gap = pruned.astype(int) - dense.astype(int)
    assert pairs == pytest.approx(-gap.mean())
    error = paired_error(accuracy, one, other)
    assert error is not None
    plain = gap.std(ddof=1) / np.sqrt(samples)
    assert plain < error <= np.sqrt(plain**2 + 1 / samples**2) + 1e-12


def test_the_error_covers_the_truth_about_as_often_as_it_should() -> None:
    """A standard error around what 200 samples say holds the truth in about two cases of three."""
    rng, accuracy, hits = np.random.default_rng(0), find_metric("accuracy"), 0
    for _ in range(400):
        kind = rng.choice(4, 200, p=[0.9, 0.03, 0.01, 0.06])  # both right, lost, won, both wrong
        labels = np.zeros(200, np.int64)
        dense, pruned = ((kind > 1).astype(int), ((kind == 1) | (kind == 3)).astype(int))
        one, other = (
            score(accuracy, [{"logits": np.eye(2)[each]}], labels) for each in (dense, pruned)
        )
        error = paired_error(accuracy, one, other)
        assert error is not None
        hits += abs((other.value - one.value) - (0.01 - 0.03)) <= error
    assert 0.6 < hits / 400 < 0.82


def test_tokens_of_one_text_count_as_one_sample() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(0, 2, (50, 1)), 30, axis=1)
    scores = np.eye(2)[labels] * 3.0
    moved = scores + rng.normal(size=(50, 1, 1)) * np.array([1.0, -1.0])
    nats = find_metric("nats")
    one, other = (score(nats, [{"logits": each}], labels) for each in (scores, moved))
    error = paired_error(nats, one, other)
    assert error is not None
    assert one.sums is not None
    assert other.sums is not None
    per_text = (other.sums - one.sums) / 30
    assert error == pytest.approx(per_text.std(ddof=1) / np.sqrt(50))


def test_a_score_is_the_same_in_any_batches_and_what_evaluate_says() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(-1, 5, (40, 7))
    scores = rng.normal(size=(40, 7, 5))
    for name in ("accuracy", "top2", "nats", "perplexity"):
        metric = find_metric(name)
        whole = score(metric, [{"logits": scores}], labels)
        parts = [{"logits": scores[i : i + 9]} for i in range(0, 40, 9)]
        assert score(metric, parts, labels).value == pytest.approx(whole.value, rel=1e-12)
        assert evaluate(metric, parts, labels) == pytest.approx(whole.value, rel=1e-12)


def test_no_disagreement_is_no_certainty() -> None:
    assert 0 < agreement_error(1.0, 1000) < agreement_error(1.0, 50) < 0.05
    assert agreement_error(0.5, 10**6) == pytest.approx(0.0005, rel=1e-3)


def test_synthetic_inputs_are_refused() -> None:
    with pytest.raises(OnnxpruneError, match="synthetic"):
        onnxprune.prune(ENTRY.model, max_drop=0.01, calib="random")
