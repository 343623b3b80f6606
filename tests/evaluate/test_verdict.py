"""The verdicts: what is broken is called broken, and what is good is not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import verdicts as bench
from onnxprune import types
from onnxprune.evaluate.evaluation import Evaluation, Task, chance_of
from onnxprune.evaluate.metrics import find_metric, score
from onnxprune.evaluate.output_comparison import Comparison, Meaning, OutputComparison, compare
from onnxprune.evaluate.verdict import (
    AGREEMENT,
    BROKEN,
    NATS,
    POINT,
    Quality,
    QualityStatus,
    judge,
    judge_structure,
)
from onnxprune.types import NOTHING_REMOVED, Check

Array = npt.NDArray[Any]
SEEDS = st.integers(0, 10_000)


def quality_of(reference: Array, other: Array, pieces: int = 1) -> Quality:
    """The verdict on one output, without labels."""
    comparison = Comparison()
    for x, y in zip(np.array_split(reference, pieces), np.array_split(other, pieces), strict=True):
        comparison.add({"y": x}, {"y": y}, len(x))
    return judge(Evaluation(comparison.result(), samples=len(reference)), data="samples")


def labelled(metric: str, dense: Array, other: Array, labels: Array) -> Evaluation:
    """The evaluation of one output with labels."""
    from onnxprune.evaluate.evaluation import compare_answers

    task = Task(find_metric(metric), labels)
    feeds = [{"x": np.zeros((len(dense), 1), np.float32)}]
    before = score(task.metric, [{"y": dense}], labels)
    return compare_answers(lambda _: {"y": other}, feeds, [{"y": dense}], task, before)


def classes(n: int, k: int, rng: np.random.Generator, margin: float = 5.0) -> tuple[Array, Array]:
    """Scores of ``k`` classes with their labels, all of them right."""
    labels = rng.integers(0, k, n)
    scores = rng.standard_normal((n, k)) * 0.3
    scores[np.arange(n), labels] += margin
    return scores.astype(np.float32), labels


# -- the squared error -------------------------------------------------------------------------


@given(
    n=st.integers(2, 30),
    shape=st.sampled_from([(1,), (7,), (3, 2, 2, 2)]),
    noise=st.floats(0.01, 3),
    offset=st.floats(-100, 100),
    pieces=st.integers(1, 4),
    seed=SEEDS,
)
def test_the_error_is_relative_to_the_variance_from_sample_to_sample(
    n: int, shape: tuple[int, ...], noise: float, offset: float, pieces: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, *shape))
    y = x + noise * rng.standard_normal(x.shape)
    comparison = Comparison()
    for one, two in zip(np.array_split(x, pieces), np.array_split(y, pieces), strict=True):
        if len(one):
            comparison.add({"y": one + offset}, {"y": two + offset}, len(one))
    output = comparison.result()["y"]
    if output.kind != "numbers":  # centred by row
        assert shape == (7,)
        x, y = (each - each.mean(1, keepdims=True) for each in (x, y))
    variance = ((x - x.mean(0)) ** 2).sum() * n / (n - 1)
    assert output.unexplained == pytest.approx(((y - x) ** 2).sum() / variance, rel=1e-4)
    assert not output.constant


@given(seed=SEEDS, offset=st.floats(10, 1e3))
def test_an_offset_hides_no_damage(seed: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    x = offset + rng.standard_normal((40, 1))
    assert quality_of(x, np.full_like(x, x.mean())).status == "broken"
    assert quality_of(x, offset + rng.standard_normal((40, 1))).status == "broken"
    assert quality_of(x, x + 0.01 * rng.standard_normal(x.shape)).status == "good"


@given(seed=SEEDS)
def test_a_constant_per_row_changes_no_answer_and_no_verdict(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, _ = classes(50, 6, rng)
    shift = 100 * rng.standard_normal((50, 1))
    assert quality_of(x, x + shift).status == "good"
    assert quality_of(x + shift, rng.permutation(x) + shift).status == "broken"


def test_samples_are_told_apart_on_whichever_axis_they_are() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 12, 5, 8, 3))
    first, second = Comparison(), Comparison()
    first.add({"y": x}, {"y": y}, 12)
    second.add({"y": np.moveaxis(x, 0, 2)}, {"y": np.moveaxis(y, 0, 2)}, 12)
    one, two = first.result()["y"], second.result()["y"]
    assert one.unexplained == pytest.approx(two.unexplained)
    assert one.unexplained_error == pytest.approx(two.unexplained_error)


def test_large_samples_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune.evaluate import output_comparison

    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 6, 50, 9))
    whole = compare({"y": x}, {"y": y})["y"]
    monkeypatch.setattr(output_comparison, "_CHUNK", 40)
    parts = compare({"y": x}, {"y": y})["y"]
    for name in ("unexplained", "unexplained_error", "top1", "top1_error", "kl", "kl_error"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name)), name
    assert parts.chance == pytest.approx(whole.chance)


def test_the_number_of_classes_may_depend_on_the_sample() -> None:
    rng = np.random.default_rng(2)
    comparison = Comparison()
    for size in (5, 9, 7, 9, 5):
        x = rng.standard_normal((1, size, size))
        comparison.add({"logits": x}, {"logits": x}, 1)
    output = comparison.result()["logits"]
    assert (output.kind, output.unexplained, output.top1) == ("tokens", 0, 1)


def test_scores_that_hardly_vary_tell_nothing() -> None:
    rng = np.random.default_rng(3)
    x = np.tile(rng.standard_normal((1, 8)), (30, 1)) + 1e-4 * rng.standard_normal((30, 8))
    assert quality_of(x, x + 1e-3 * rng.standard_normal(x.shape)).status == "not measured"
    assert quality_of(x, rng.standard_normal(x.shape)).status == "broken"


# -- verdicts without labels -------------------------------------------------------------------


@given(seed=SEEDS, k=st.integers(2, 12))
def test_answers_by_chance_are_broken_and_equal_ones_good(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    x, _ = classes(200, k, rng)
    y, _ = classes(200, k, rng)
    assert quality_of(x, x).status == "good"
    assert quality_of(x, y).status == "broken"
    assert quality_of(x, x.astype(np.float16).astype(np.float32)).status == "good"


@given(seed=SEEDS, k=st.integers(3, 8), share=st.floats(0.06, 0.2))
def test_fewer_equal_answers_than_the_limit_degrade(seed: int, k: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    x, labels = classes(400, k, rng)
    y, wrong = x.copy(), rng.permutation(400)[: round(400 * share)]
    y[wrong, labels[wrong]] = -1
    quality = quality_of(x, y)
    assert quality.status == "degraded"
    assert quality.measure == "agreement"
    assert quality.after is not None
    assert quality.after < AGREEMENT
    assert "99 %" in quality.reasons[0]


def test_changed_answers_of_few_samples_degrade() -> None:
    """Shares whose standard error is large, and that a change of 1 % makes too unlikely."""
    rng = np.random.default_rng(0)
    for n, changed, status in (
        *((8, 1, "good"), (8, 2, "degraded"), (20, 1, "good"), (20, 3, "degraded")),
        *((30, 2, "good"), (30, 4, "degraded")),
    ):
        x, labels = classes(n, 8, rng)
        y = x.copy()
        y[np.arange(changed), labels[:changed]] = 0.95 * np.sort(x[:changed])[:, -2]
        assert quality_of(x, y).status == status, (n, changed)
        evaluation = labelled("accuracy", x, y, labels)
        assert evaluation.pairs == (changed, 0, n)
        lost = "degraded" if changed > 2 else "good"
        assert judge(evaluation).status == lost, (n, changed)
        if lost == "degraded":
            assert f"{changed} of {n} answers lost and 0 gained" in judge(evaluation).reasons[0]
        other = replace(evaluation, pairs=(changed, changed, n), after=evaluation.before)
        assert judge(other).status == "good"


def test_alike_answers_within_samples_count_once() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 1, 6)) + np.zeros((20, 50, 1))
    y = x.copy()
    y[0] = -x[0]
    for dense, other in ((x, y), (x[:, :, None], y[:, :, None])):
        output = compare({"y": dense.reshape(20, 50, 6)}, {"y": other.reshape(20, 50, 6)})["y"]
        assert output.answers == pytest.approx(20, rel=0.1)
    scattered = x.copy()
    scattered[np.arange(20), rng.integers(0, 50, 20)] *= -1
    assert compare({"y": x}, {"y": scattered})["y"].answers == 1000


@given(seed=SEEDS, n=st.integers(2, 12))
def test_a_few_samples_prove_no_loss(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x, labels = classes(n, 5, rng)
    y = x.copy()
    y[0, labels[0]] = 0.95 * np.sort(x[0])[-2]
    quality = quality_of(x, y)
    assert quality.status == "good" or "cannot tell" in quality.reasons[0]  # half of two is chance
    assert quality_of(x, x).status == "good"


def test_values_that_became_nan_break_even_on_synthetic_inputs() -> None:
    x = np.random.default_rng(0).standard_normal((8, 4))
    y = x.copy()
    y[3, 1] = np.inf
    evaluation = Evaluation(compare({"y": x}, {"y": y}), samples=8)
    for synthetic in (True, False):
        quality = judge(evaluation, synthetic=synthetic)
        assert quality.status == "broken"
        assert "1 value of 'y'" in quality.reasons[0]
    other = Evaluation(compare({"y": x}, {"y": x[::-1]}), samples=8)
    assert judge(other, synthetic=True).status == "not measured"
    assert judge(Evaluation(), unmeasured="no inputs").reasons == ("no inputs",)
    masked = np.where(x > 0, x, -np.inf)
    assert quality_of(masked, masked).status == "good", "a mask of the dense model is no fault"


def test_a_dense_model_that_gives_nan_is_named() -> None:
    x = np.full((8, 4), np.nan)
    quality = quality_of(x, x)
    assert quality.status == "broken"
    assert "the dense model itself" in quality.reasons[0]


def test_outputs_that_do_not_vary_tell_nothing() -> None:
    x = np.full((20, 1, 5, 5), 3.0)
    assert quality_of(x, x * 1.001).status == "not measured"
    assert quality_of(x, x * 0).status == "broken"
    rng = np.random.default_rng(0)
    flat = np.abs(1e-5 * rng.standard_normal((20, 1, 8, 8)))  # a map of probabilities
    assert quality_of(flat, np.abs(1e-3 * rng.standard_normal(flat.shape))).status == "not measured"
    assert quality_of(flat, np.full_like(flat, 0.5)).status == "broken"


@given(seed=SEEDS)
def test_whole_numbers_and_text_are_answers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids, others = rng.integers(0, 50, (2, 100, 4))
    assert quality_of(ids, ids).status == "good"
    assert quality_of(ids, others).status == "broken"
    names, chosen = np.array(["cat", "dog", "cow"]), rng.integers(0, 3, 100)
    assert quality_of(names[chosen], names[chosen]).status == "good"
    assert quality_of(names[chosen], names[chosen - 1]).status == "broken"
    picture = rng.integers(0, 256, (10, 3, 8, 8)).astype(np.uint8)
    shifted = np.clip(picture.astype(int) + rng.integers(-2, 3, picture.shape), 0, 255)
    assert quality_of(picture, shifted.astype(np.uint8)).status == "good"


def test_an_output_that_became_empty_is_broken() -> None:
    rows = np.zeros((30, 6), np.float32)
    for own, status in ((0, "broken"), (10, "degraded"), (25, "not measured")):
        evaluation = Evaluation(compare({"y": rows}, {"y": rows[:own]}), samples=4)
        assert judge(evaluation).status == status, own


# -- verdicts with labels ----------------------------------------------------------------------


@given(seed=SEEDS, k=st.integers(2, 8), metric=st.sampled_from(["accuracy", "nats", "perplexity"]))
def test_a_model_at_chance_is_broken(seed: int, k: int, metric: str) -> None:
    rng = np.random.default_rng(seed)
    x, labels = classes(300, k, rng)
    y, _ = classes(300, k, rng)
    quality = judge(labelled(metric, x, y, labels))
    assert quality.status == "broken"
    assert quality.drop is not None
    assert quality.drop > 0
    same = judge(labelled(metric, x, x, labels))
    assert (same.status, same.drop) == ("good", 0)


@given(seed=SEEDS, n=st.integers(5, 60))
def test_a_dense_model_at_chance_condemns_nobody(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x, _ = classes(n, 4, rng)
    labels = rng.integers(0, 4, n)
    assert judge(labelled("accuracy", x, x, labels)).status == "good"
    rare = np.zeros(n, np.int64)
    rare[0] = 1
    scores = np.eye(4)[rare].astype(np.float32)
    assert judge(labelled("accuracy", scores, scores, rare)).status == "good"


@given(seed=SEEDS, share=st.floats(0.05, 0.15))
def test_a_sure_loss_of_accuracy_degrades_and_an_unsure_one_does_not(
    seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    x, labels = classes(1000, 5, rng)
    y, wrong = x.copy(), rng.permutation(1000)[: round(1000 * share)]
    y[wrong, labels[wrong]] = -1
    quality = judge(labelled("accuracy", x, y, labels))
    assert quality.status == "degraded"
    assert quality.drop is not None
    assert quality.drop > POINT
    assert quality.error is not None
    few = slice(0, 8)
    unsure = x[few].copy()
    unsure[0, labels[0]] = 0
    assert judge(labelled("accuracy", x[few], unsure, labels[few])).status == "good"


@given(seed=SEEDS)
def test_chance_is_what_a_model_without_input_reaches(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 200) * rng.integers(0, 2, 200)
    shares = np.bincount(labels, minlength=5) / 200
    for metric, blind in (
        ("accuracy", np.log(shares + 1e-12)),
        ("nats", np.log(shares + 1e-12)),
        ("top2", np.log(shares + 1e-12)),
    ):
        task = Task(find_metric(metric), labels)
        value = score(task.metric, [{"y": np.tile(blind, (200, 1))}], labels)
        chance, error = chance_of(task, value)
        assert chance == pytest.approx(value.value, abs=1e-6), metric
        assert error is not None
    numbers = rng.standard_normal((50, 3))
    task = Task(find_metric("mse"), numbers)
    value = score(task.metric, [{"y": np.tile(numbers.mean(0), (50, 1))}], numbers)
    assert chance_of(task, value)[0] == pytest.approx(value.value)


# -- scales ------------------------------------------------------------------------------------


def named(name: str, reference: Array, other: Array, meaning: Meaning) -> Quality:
    """The verdict on an output whose meaning is known."""
    comparison = Comparison(meaning=lambda *_: meaning)
    comparison.add({name: reference}, {name: other}, len(reference))
    return judge(Evaluation(comparison.result(), samples=len(reference)))


@given(seed=SEEDS, factor=st.floats(0.05, 50), k=st.integers(2, 20), n=st.integers(10, 100))
def test_scores_of_another_scale_give_the_same_answers(
    seed: int, factor: float, k: int, n: int
) -> None:
    rng = np.random.default_rng(seed)
    x, labels = classes(n, k, rng)
    assert quality_of(x, factor * x).status == "good"
    assert judge(labelled("accuracy", x, factor * x, labels)).status == "good"
    assert quality_of(x, -factor * x).status != "good"
    assert NATS < BROKEN


@given(seed=SEEDS, factor=st.floats(0.05, 50), n=st.integers(5, 60))
def test_embeddings_have_no_scale_and_other_numbers_do(seed: int, factor: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 64)) + 3
    near = factor * (x + 0.1 * rng.standard_normal(x.shape))
    assert named("embedding", x, near, "embedding").status == "good"
    stranger = factor * (3 + rng.standard_normal(x.shape))
    assert named("embedding", x, stranger, "embedding").status == "broken"
    constant = np.tile(factor * x.mean(0), (n, 1))
    assert named("embedding", x, constant, "embedding").status == "broken"
    assert named("boxes", x, 3 * x, "numbers").status == "broken"


@given(seed=SEEDS)
def test_sharper_probabilities_of_tokens_are_named(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((30, 12, 20))
    quality = quality_of(x, 3 * x)
    assert quality.status == "degraded"
    assert "3 times as large" in quality.reasons[0]
    assert quality_of(x, 1.01 * x).status == "good"


@given(seed=SEEDS, k=st.integers(30, 80), penalty=st.sampled_from([-100.0, 100.0, -1e4]))
def test_a_class_that_vanishes_is_named_and_the_others_count(
    seed: int, k: int, penalty: float
) -> None:
    rng = np.random.default_rng(seed)
    x, labels = classes(10 * k, k, rng)
    y, lost = x.copy(), int(labels[0])
    y[:, lost] += penalty
    quality = quality_of(x, y)
    if penalty > 0:
        assert quality.status == "broken", "one answer to everything"
        return
    assert quality.status == "degraded"
    assert any(f"in class {lost}" in reason for reason in quality.reasons)


@given(seed=SEEDS)
def test_answers_that_something_else_decides_hide_no_damage(seed: int) -> None:
    """As where classes are masked by the input: any scores then have the same largest entry."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, 100, 6))
    mask = 50.0 * np.eye(6)[rng.integers(0, 6, 100)]
    y[:, 1] += 5
    comparison = Comparison(meaning=lambda *_: "scores")
    comparison.add(
        {"y": x + np.where(mask > 0, np.nan, 0)}, {"y": y + np.where(mask > 0, np.nan, 0)}
    )
    output = comparison.result()["y"]
    assert output.furthest == 1
    assert output.top1 is not None
    assert output.top1 > 0.9
    assert judge(Evaluation({"y": output}, samples=100)).status == "broken"


# -- few samples -------------------------------------------------------------------------------


@given(seed=SEEDS, n=st.integers(3, 60))
def test_broken_needs_the_whole_interval(seed: int, n: int) -> None:
    """Errors of 0.25 in all, most of it that of a tenth of the samples."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 8))
    errors = np.where(rng.random(n) < 0.1, 2.0, 0.05)
    quality = quality_of(x[..., None, None], (x + np.sqrt(errors)[:, None] * 1)[..., None, None])
    assert quality.status != "broken" or n < 5 or errors.mean() > 0.3


@given(seed=SEEDS, n=st.integers(8, 60), size=st.integers(8, 40))
def test_strangers_are_broken_even_on_few_samples(seed: int, n: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, n, size, 1, 1))
    assert quality_of(x, 0.01 * y).status == "broken"
    assert quality_of(x, 10 * y).status == "broken"


# -- verdicts as such --------------------------------------------------------------------------

STATUSES: tuple[QualityStatus, ...] = ("not measured", "good", "degraded", "broken")


@given(st.sampled_from(STATUSES), st.lists(st.sampled_from(STATUSES[1:]), max_size=4))
def test_the_worst_finding_counts_and_comes_first(
    status: QualityStatus, more: list[QualityStatus]
) -> None:
    quality = Quality(status, ("earlier",)).with_findings((each, f"is {each}") for each in more)
    worst = max([status, *more], key=STATUSES.index)
    assert quality.status == worst
    if worst != status:
        assert quality.reasons[0] == f"is {worst}"
    assert len(quality.reasons) >= len(more)


def test_structure_knows_nothing_of_quality() -> None:
    passed, failed = Check("macs", ok=True, value=1, limit=2), Check("zeros", False, 3, 0)
    drop, nothing = Check("drop", False, 1, 0), Check(NOTHING_REMOVED, False, 1, 0)
    assert judge_structure([passed, drop], cut=True).status == "verified"
    structure = judge_structure([passed, failed, drop], cut=True)
    assert structure.status == "failed"
    assert structure.reasons == ("zeros is 3, and at most 0 passes",)
    assert judge_structure([nothing], cut=False).status == "nothing cut"
    assert judge_structure([], cut=False) == types.Structure("nothing cut")
    assert judge_structure([passed], cut=True, exact=False).status == "not checked"


def test_every_output_has_its_kind() -> None:
    rng = np.random.default_rng(0)
    outputs: dict[str, Array] = {
        "classes": rng.standard_normal((6, 5)),
        "tokens": rng.standard_normal((6, 4, 7)),
        "numbers": rng.standard_normal((6, 3, 4, 4)),
        "integers": np.arange(12).reshape(6, 2),
        "text": np.array(list("abcdef")),
    }
    kinds = {name: each.kind for name, each in compare(outputs, outputs).items()}
    assert kinds == {name: name for name in outputs}
    assert OutputComparison("y").kind == ""
    assert math.isclose(POINT, 1 - AGREEMENT)


# -- networks ----------------------------------------------------------------------------------


def wrong(network: bench.Network, samples: int) -> list[tuple[object, ...]]:
    """The changes of a network whose verdict is false."""
    rows = bench.rows_of(network, samples)
    keys = ("change", "expected", "status", "value", "reason")
    return [tuple(row[k] for k in keys) for row in rows if bench.is_false(row)]


@pytest.mark.parametrize("name", ["digits_mlp", "spectrum"])
def test_damaged_networks_are_broken_and_others_good(name: str) -> None:
    network = next(each for each in bench.networks() if each.name == name)
    assert wrong(network, 64) == []


@pytest.mark.parametrize("with_labels", [True, False])
def test_sixteen_samples_are_enough_for_damage(with_labels: bool) -> None:
    network = next(each for each in bench.networks() if each.name == "digits_mlp")
    labels = network.labels if with_labels else None
    assert wrong(replace(network, jobs={}, labels=labels), 16) == []


@pytest.mark.heavy
@pytest.mark.parametrize("network", bench.networks(), ids=lambda each: each.name)
def test_all_networks_get_the_verdict_that_they_deserve(network: bench.Network) -> None:
    assert wrong(network, bench.SAMPLES) == []
