"""What a good verdict leaves open: losses that the samples cannot show, and other scales."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_verdict import classes, labelled

from onnxprune.evaluate.caveats import caveats, smallest_drop
from onnxprune.evaluate.evaluation import Evaluation
from onnxprune.evaluate.output_comparison import Comparison, Meaning
from onnxprune.evaluate.verdict import judge


def compared(x: np.ndarray, y: np.ndarray, meaning: Meaning = "scores") -> Evaluation:
    comparison = Comparison(meaning=lambda *_: meaning)
    comparison.add({"y": x}, {"y": y}, len(x))
    return Evaluation(comparison.result(), samples=len(x))


@given(n=st.integers(20, 400), seed=st.integers(0, 999))
def test_a_drop_is_degraded_from_the_smallest_on_that_is_said(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, labels = classes(n, 4, rng)
    smallest = smallest_drop(labelled("accuracy", x, x, labels))
    assert smallest is not None
    least = math.ceil(smallest * n - 1e-9)
    for lost, status in ((least - 1, "good"), (least, "degraded")):
        if lost / n < 0.011:
            continue
        y, wrong = x.copy(), rng.permutation(n)[:lost]
        y[wrong, labels[wrong]] -= 6.5
        evaluation = labelled("accuracy", x, y, labels)
        assert judge(evaluation).status in ({"good"} if status == "good" else {status, "broken"})


@pytest.mark.parametrize(("n", "said"), [(20, "15.00"), (51, "7.84"), (600, "")])
def test_few_labels_are_said_to_be_few(n: int, said: str) -> None:
    x, labels = classes(n, 4, np.random.default_rng(0))
    notes = caveats(labelled("accuracy", x, x, labels))
    expected = [f"{n} samples cannot show a drop below {said} points"] if said else []
    assert notes == expected
    assert caveats(labelled("accuracy", x, x, labels), limited=True) == []
    assert caveats(labelled("accuracy", x, -x, labels)) == [], "no loss is hidden"


@given(n=st.integers(5, 60), seed=st.integers(0, 999))
def test_a_few_answers_are_said_to_be_few(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, labels = classes(n, 4, rng)
    (note,) = caveats(compared(x, x))
    assert note.startswith(f"{n} samples cannot show a drop below ")
    least = float(note.split()[-2]) / 100
    lost = round(least * n)
    y = x.copy()
    y[:lost, :] = -x[:lost, :]
    assert judge(compared(x, y)).status != "good"
    assert labels.shape == (n,)


def test_an_error_that_may_be_large_is_said_to_be() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 3, 2, 2))
    y = x + 0.17 * rng.uniform(0.1, 1.9, (8, 1, 1, 1)) * rng.standard_normal(x.shape)
    (note,) = caveats(compared(x, y))
    assert note.startswith("8 samples cannot show a relative squared error below 0.")
    assert caveats(compared(x, x)) == []
    unsure = "samples cannot show how large the error of the outputs is"
    assert caveats(compared(x[:2], x[:2] + 0.01)) == [f"2 {unsure}"]
    one = x.copy()
    one[3] += 0.3
    assert caveats(compared(x, one)) == [f"8 {unsure}"]
    assert caveats(Evaluation()) == []


@pytest.mark.parametrize("meaning", ["scores", "numbers"])
def test_an_output_that_hardly_varies_is_named(meaning: Meaning) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 3, 2, 2))
    flat = rng.uniform(0.002, 0.003, (60, 1))
    for other, words in ((1.3 * flat, "'score' is nearly constant or zero"), (flat, "")):
        comparison = Comparison(meaning=lambda *_: meaning)
        comparison.add({"y": x, "score": flat}, {"y": x, "score": other}, 60)
        evaluation = Evaluation(comparison.result(), samples=60)
        assert judge(evaluation).status == "good"
        assert [note.startswith(words) for note in caveats(evaluation)] == [True] * bool(words)


def test_another_scale_is_said() -> None:
    x, labels = classes(600, 5, np.random.default_rng(0))
    (note,) = caveats(labelled("accuracy", x, 2 * x, labels))
    assert note.startswith("scores of 'y' are 2 times as large as the dense model's")
    vectors = np.random.default_rng(0).standard_normal((300, 64))
    (note,) = caveats(compared(vectors, 0.5 * vectors, "embedding"))
    assert note.startswith("vectors of 'y' are 0.5 times as large as the dense model's")
    assert caveats(compared(vectors, 1.01 * vectors, "embedding")) == []
