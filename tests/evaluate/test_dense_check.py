"""A dense model that is no reference is said to be none, and a sound one raises no alarm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.data import zoo
from onnxprune.data.dataset import Part
from onnxprune.evaluate.dense_check import (
    DenseCheck,
    announced_errors,
    label_notes,
    overscaled_input,
    samples_needed,
    training_notes,
)
from onnxprune.evaluate.evaluation import compare_models
from onnxprune.evaluate.metrics import Score, find_metric
from onnxprune.evaluate.sample_statistics import agreement_error
from onnxprune.evaluate.verdict import judge
from onnxprune.jobs.verdicts import remedy

CONFIG = Options(ratio=0.5)


def checked(outputs: np.ndarray[Any, Any], cuts: int = 3) -> DenseCheck:
    check = DenseCheck()
    for part in np.array_split(outputs, cuts):
        if len(part):
            check.add({"y": part}, len(part))
    return check


@given(
    count=st.integers(2, 40),
    broken=st.integers(0, 40),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    seed=st.integers(0, 99),
)
def test_samples_that_are_not_finite_are_counted(
    count: int, broken: int, value: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    outputs, broken = rng.standard_normal((count, 5)), min(broken, count)
    outputs[rng.permutation(count)[:broken]] = value
    check = checked(outputs)
    assert check.broken == ({"y": broken} if broken else {})
    notes = check.notes()
    assert bool(notes) == (broken > 0)
    if notes:
        assert f"for {broken} of {count} samples" in notes[0]


def test_masked_scores_are_sound() -> None:
    outputs = np.random.default_rng(0).standard_normal((6, 5))
    outputs[:, 2] = -np.inf
    assert not checked(outputs).notes()


def test_constant_outputs_are_said_and_one_that_varies_is_enough() -> None:
    same = np.ones((9, 4))
    (note,) = checked(same).notes()
    assert "the same for all 9 samples" in note
    check = DenseCheck()
    check.add({"anchors": same, "y": np.arange(9.0)[:, None]}, 9)
    assert not check.notes()
    assert not checked(same[:1], 1).notes()


@given(right=st.floats(0, 1), classes=st.integers(2, 20), count=st.integers(1, 500))
def test_only_clear_guessing_is_said(right: float, classes: int, count: int) -> None:
    hits = (np.arange(count) < right * count).astype(np.float64)
    score = Score(float(hits.mean()), hits, np.ones(count))
    notes = label_notes(find_metric("accuracy"), score, 1 / classes)
    if hits.mean() > (1 + 1 / classes) / 2 or count < 20:
        assert not notes
    if hits.mean() <= 1 / classes and count > 100:
        assert notes
        assert "no better than chance" in notes[0]
    assert not label_notes(find_metric("top5"), score, 1 / classes)


@given(
    samples=st.integers(10, 2000),
    spread=st.floats(0.05, 2),
    limit=st.floats(0.001, 0.2),
)
def test_as_many_samples_as_are_said_to_be_needed_tell(
    samples: int, spread: float, limit: float
) -> None:
    error = spread / math.sqrt(samples)
    needed = samples_needed(error, samples, limit, share=False)
    if not needed:
        assert 2 * error <= limit
        return
    assert needed > samples * 0.99
    assert 2 * spread / math.sqrt(needed) <= limit * (1 + 1e-9)
    assert 2 * spread / math.sqrt(0.85 * needed) > limit


@pytest.mark.parametrize("samples", [20, 40, 100])
def test_equal_answers_need_some_hundred_samples_for_one_percent(samples: int) -> None:
    needed = samples_needed(agreement_error(1.0, samples), samples, 0.01, share=True)
    assert 200 <= needed <= 400
    assert 2 * agreement_error(1.0, 300) <= 0.01


def test_announced_errors_are_those_of_the_probabilities() -> None:
    p = np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])
    assert announced_errors(p, np.array([0, 1, 1])) == pytest.approx(1.0)
    assert announced_errors(np.log(p), np.array([0, 1, -1])) == pytest.approx(0.5)


@pytest.mark.parametrize("name", [n for n in zoo.names() if n.startswith("digits")])
def test_honest_labels_raise_no_alarm(name: str) -> None:
    entry = zoo.get(name)
    feeds, labels = zoo.evaluation(entry)
    assert not training_notes(models.load(entry.model), [(feeds, labels)], CONFIG)


@pytest.mark.parametrize(("file", "said"), [("cifar10_calib", True), ("cifar10_test", False)])
def test_training_pictures_are_noticed(shared: Path, file: str, said: bool) -> None:
    with np.load(shared / "data" / f"{file}.npz") as archive:
        raw, labels = archive["x"][:1000].astype(np.float32), archive["y"][:1000]
    mean = np.array([0.4914, 0.4822, 0.4465], np.float32).reshape(3, 1, 1)
    deviation = np.array([0.2023, 0.1994, 0.2010], np.float32).reshape(3, 1, 1)
    pictures = (raw / 255 - mean) / deviation
    batches = [({"input": pictures[k : k + 100]}, labels[k : k + 100]) for k in range(0, 1000, 100)]
    model = models.load(shared / "models" / "resnet20_cifar10_proj_fused.onnx")
    notes = training_notes(model, batches, CONFIG)
    assert bool(notes) == said
    assert all("999 of 1,000 labels" in note for note in notes)


def test_inputs_on_which_a_sound_model_overflows_are_named() -> None:
    sound = models.load(zoo.get("digits_mlp").model)
    data, _ = zoo.evaluation(zoo.get("digits_mlp"))
    ((name, array),) = data.items()
    few = array[:4].astype(np.float32)
    huge = [{name: few}, {name: np.full_like(few, 1e38)}]
    note = overscaled_input(sound, huge, "cpu")
    assert note == f"the input '{name}' reaches 1e+38"
    assert overscaled_input(sound, [{name: few}], "cpu") == ""
    damaged = models.clone(sound)
    for value in models.constants(damaged).values():
        weight = models.array_of(value)
        if weight.ndim == 2:
            models.set_constant(value, np.full_like(weight, np.nan))
    assert overscaled_input(damaged, huge, "cpu") == "", "the model itself is broken"
    part = Part(tuple(huge[1:]))
    evaluation = compare_models(sound, sound, part, Options())
    quality = judge(evaluation)
    assert quality.status == "broken"
    assert quality.reasons[0].startswith(f"{note}, too large for the dense model")
    assert remedy(quality).startswith("check the units of the data")
    assert any(each.startswith(note) for each in evaluation.notes)
