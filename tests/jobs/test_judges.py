"""Judges of their own, end to end: every job takes them, and says what makes them worth little."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune import apply, prune, quantize, recover
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError

ENTRY = zoo.get("digits_mlp")
FEEDS, LABELS = zoo.evaluation(ENTRY)
((NAME, PICTURES),) = FEEDS.items()
CALIB = {NAME: zoo.calibration(ENTRY)[NAME][:200]}
EVAL = {NAME: PICTURES[:300]}
JUDGES = {"eval": EVAL, "eval_labels": LABELS[:300]}


@pytest.fixture(scope="module")
def small() -> Any:
    return prune(ENTRY.model, ratio=0.25, calib=CALIB, recover="bias", **JUDGES)


def test_every_job_takes_judges_of_their_own(small: Any) -> None:
    results = [
        small,
        apply(ENTRY.model, small.plan, calib=CALIB, recover="bias", **JUDGES),
        recover(ENTRY.model, small.model, calib=CALIB, recover="bias", **JUDGES),
        quantize(ENTRY.model, calib=CALIB, **JUDGES),
        quantize(ENTRY.model, dynamic=True, **JUDGES),
    ]
    for result in results:
        evaluation = result.evaluation
        assert evaluation.samples == 300
        assert evaluation.before == pytest.approx(0.98, abs=0.02)
        assert result.quality.status in ("good", "degraded")
        assert "labelled samples of --eval" in result.quality.data
        assert evaluation.tails.by == "labels"
        assert len(evaluation.tails.classes) == 10
        assert not [note for note in result.notes if "judge" in note or "duplicates" in note]


def test_judges_that_are_arrays_are_named_in_the_certificate(small: Any, tmp_path: Path) -> None:
    small.save(tmp_path / "small.onnx")
    document = json.loads((tmp_path / "small.certificate.json").read_text())
    roles = {each["role"]: each["sha256"] for each in document["files"]}
    assert len(roles) >= 3
    assert all(roles.values())


def test_judges_alone_judge_what_nothing_was_fitted_to() -> None:
    alone = prune(ENTRY.model, ratio=0.25, **JUDGES)
    without = prune(ENTRY.model, ratio=0.25)
    assert alone.plan.removed == without.plan.removed
    assert alone.evaluation.samples == 300
    assert alone.quality.status != "not measured"
    assert not alone.outcomes.get("refit")
    assert without.quality.status == "not measured"
    blocks = zoo.get("digits_rescnn")
    feeds, _ = zoo.evaluation(blocks)
    judged, plain = (
        prune(blocks.model, blocks=1, **some)
        for some in ({"eval": feeds}, {})  # type: ignore[arg-type]
    )
    assert judged.plan.bypassed == plain.plan.bypassed


def test_a_drop_is_searched_for_by_judges_alone() -> None:
    """One half of the judges chooses, the other gives the verdict, and nothing is fitted."""
    result = prune(ENTRY.model, max_drop=0.05, eval=FEEDS, eval_labels=LABELS)
    assert len(result.history) > 1
    assert not result.outcomes.get("refit")
    assert result.plan.removed
    chosen, judged = result.history[0].evaluation.samples, result.evaluation.samples
    assert chosen + judged == len(LABELS)
    (drop,) = [check for check in result.checks if check.name == "drop"]
    assert drop.ok == (result.evaluation.drop <= 0.05)
    with pytest.raises(OnnxpruneError, match="judged on inputs, and there are none") as error:
        prune(ENTRY.model, max_drop=0.05)
    assert "--eval" in error.value.written[1]


@pytest.mark.parametrize("limit", [0.2, 0.0001])
def test_recover_accepts_a_drop(small: Any, limit: float) -> None:
    result = recover(
        ENTRY.model, small.model, calib=CALIB, recover="bias", max_drop=limit, **JUDGES
    )
    (drop,) = [check for check in result.checks if check.name == "drop"]
    assert (drop.value, drop.limit) == (result.evaluation.drop, limit)
    assert drop.ok == result.ok == (result.evaluation.drop <= limit)


@pytest.mark.parametrize(
    ("calib", "words"),
    [
        (np.zeros((200, *PICTURES.shape[1:]), np.float32), ["all 200 samples are identical"]),
        (PICTURES[:1], ["only one sample", "fitted to"]),
        (np.repeat(PICTURES[:4], 50, 0), ["196 of 200 samples are duplicates", "held-out"]),
        (PICTURES[:200] * 0 + np.float32(0.5), ["identical", "constant"]),
    ],
)
def test_samples_that_judge_little_are_said_to(calib: Any, words: list[str]) -> None:
    result = prune(ENTRY.model, ratio=0.25, calib={NAME: calib}, recover="bias")
    notes = " | ".join(result.notes)
    assert all(word in notes for word in words), notes


def test_a_leak_is_counted(small: Any) -> None:
    both = {NAME: np.concatenate([CALIB[NAME][:30], PICTURES[:70]])}
    result = prune(ENTRY.model, ratio=0.25, calib=CALIB, eval=both, recover="bias")
    assert any(note.startswith("30 of 100 samples of --eval are in") for note in result.notes)
    assert not any("--eval are in" in note for note in small.notes)


def test_too_few_samples_say_how_many_are_needed() -> None:
    few = {"eval": {NAME: PICTURES[:40]}, "eval_labels": LABELS[:40]}
    result = prune(
        ENTRY.model,
        ratio=0.25,
        calib=CALIB,
        recover="bias",
        max_drop=0.01,
        **few,  # type: ignore[arg-type]
    )
    (note,) = [note for note in result.notes if "are needed" in note]
    needed = int(note.split("about ")[1].split(" ")[0].replace(",", ""))
    assert 150 < needed < 5000
    enough = prune(
        ENTRY.model,
        ratio=0.25,
        calib=CALIB,
        recover="bias",
        max_drop=0.2,
        **few,  # type: ignore[arg-type]
    )
    assert not [note for note in enough.notes if "are needed" in note]


def test_wrong_labels_make_the_dense_model_no_better_than_chance() -> None:
    rng = np.random.default_rng(0)
    wrong = {"eval": EVAL, "eval_labels": rng.permutation(LABELS[:300])}
    result = prune(ENTRY.model, ratio=0.25, calib=CALIB, recover="bias", **wrong)
    assert any("no better than chance" in note for note in result.notes)


def test_the_command_line_shows_tails_and_writes_them(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    np.savez(tmp_path / "eval.npz", **EVAL, y=LABELS[:300])
    np.savez(tmp_path / "calib.npz", **CALIB)
    names = ["even" if k % 2 == 0 else "odd" for k in LABELS[:300]]
    (tmp_path / "groups.txt").write_text("\n".join(names))
    flags = ["--eval", tmp_path / "eval.npz", "--eval-labels", tmp_path / "eval.npz"]
    flags += ["--slices", tmp_path / "groups.txt", "--calib", tmp_path / "calib.npz"]
    run = cli("prune", ENTRY.model, "--ratio", "0.25", "--recover", "bias", *flags)
    assert run.code == 0
    for words in ("Tails", "the worst of 10 by", "worst 5 % of samples", "group even"):
        assert words in run.out
    page = tmp_path / "page.html"
    run = cli(
        "prune", ENTRY.model, "--ratio", "0.25", "--recover", "bias", *flags, "--json",
        "--report", page,
    )  # fmt: skip
    tails = json.loads(run.out)["tails"]
    assert tails["by"] == "labels"
    assert [each["name"] for each in tails["groups"]] == ["even", "odd"]
    assert sum(each["samples"] for each in tails["classes"]) == 300
    assert tails["worst"]["samples"] == 15
    assert "worst 5 % of samples" in page.read_text(encoding="utf-8")
    short = tmp_path / "short.npy"
    np.save(short, LABELS[:7])
    run = cli("prune", ENTRY.model, "--ratio", "0.25", "--eval", tmp_path / "eval.npz",
              "--eval-labels", short)  # fmt: skip
    assert run.code == 2
    assert "--eval-labels" in run.err or "labels, 7," in run.err
