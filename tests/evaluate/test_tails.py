"""Parts of the samples that a mean hides: classes, the worst samples, groups of the user."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune import model as models
from onnxprune.config import Options, from_flags
from onnxprune.data import zoo
from onnxprune.data.dataset import Part
from onnxprune.evaluate.evaluation import compare_models
from onnxprune.evaluate.metrics import Score, find_metric
from onnxprune.evaluate.output_comparison import Comparison
from onnxprune.evaluate.tails import find_tails, findings, shares
from onnxprune.evaluate.verdict import judge
from onnxprune.model import Model
from onnxprune.types import Tails

Array = npt.NDArray[Any]


def hits(values: Array) -> Score:
    values = values.astype(np.float64)
    return Score(float(values.mean()), values, np.ones(len(values)))


def labelled(before: Array, after: Array, labels: Array, **more: Any) -> Tails:
    """Tails of an accuracy alone, without any output."""
    metric = find_metric("accuracy")
    return find_tails({}, {}, scores=(metric, hits(before), hits(after)), labels=labels, **more)


@given(
    classes=st.integers(2, 20),
    each=st.integers(1, 60),
    kept=st.floats(0.9, 1),
    seed=st.integers(0, 999),
)
def test_classes_are_counted_by_their_labels(
    classes: int, each: int, kept: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    before, after = (rng.random(len(labels)) < kept for _ in range(2))
    tails = labelled(before, after, labels)
    assert tails.by == "labels"
    assert sum(part.samples for part in tails.classes) == len(labels)
    drops = []
    for part in tails.classes:
        own = labels == int(part.name)
        assert part.before == pytest.approx(before[own].mean())
        assert part.after == pytest.approx(after[own].mean())
        drops.append(part.after - part.before)
    assert drops == sorted(drops)


@given(
    classes=st.integers(5, 100),
    each=st.integers(10, 60),
    seed=st.integers(0, 999),
    loss=st.floats(0, 0.04),
)
def test_small_losses_of_chance_are_no_collapse(
    classes: int, each: int, seed: int, loss: float
) -> None:
    """However many classes there are, the worst of them is only the unluckiest."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    before = rng.random(len(labels)) < 0.95
    after = before & (rng.random(len(labels)) >= loss)
    assert not list(findings(labelled(before, after, labels)))


@given(
    classes=st.integers(3, 100),
    each=st.integers(15, 60),
    left=st.floats(0, 0.1),
    seed=st.integers(0, 99),
)
def test_a_class_that_is_lost_is_named(classes: int, each: int, left: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    lost = int(rng.integers(classes))
    before = np.ones(len(labels), np.bool_)
    after = before.copy()
    own = np.flatnonzero(labels == lost)
    after[own[int(left * each) :]] = False
    tails = labelled(before, after, labels)
    (finding,) = findings(tails)
    assert finding[0] == "degraded"
    assert finding[1].startswith(f"class {lost} collapsed: accuracy 100.00 % -> ")
    assert finding[1].endswith(f"on {each} samples")
    assert tails.classes[0].name == str(lost)


def test_few_samples_and_classes_that_were_lost_before_do_not_collapse() -> None:
    count = np.array([4.0, 200.0])
    assert not any(part.collapsed for part in shares(count, count, count * [0, 1], count * 0))
    count = np.array([50.0, 50.0])
    poor = shares(count, count * [0.4, 1], count * [0, 1], count * 0)
    assert not any(part.collapsed for part in poor)
    assert shares(count, count, count * [0.7, 1], count * 0)[0].collapsed
    few, many = shares(np.array([4.0, 5.0]), np.ones(2), np.zeros(2), np.zeros(2))
    assert (few.error, few.samples, many.error is None) == (None, 4, False)


def test_top5_and_single_columns_of_labels_are_classes_too() -> None:
    labels, right = np.array([0, 1, 1, -1]), np.array([1, 0, 1, 0])
    metric = find_metric("top5")
    tails = find_tails({}, {}, scores=(metric, hits(right), hits(right)), labels=labels[:, None])
    assert [(part.name, part.samples) for part in tails.classes] == [("0", 1), ("1", 2)]
    assert tails.measure == "top5"


def compared(a: Array, b: Array, cuts: int = 1, **more: Any) -> Tails:
    comparison = Comparison()
    for one, two in zip(np.array_split(a, cuts), np.array_split(b, cuts), strict=True):
        if len(one):
            comparison.add({"y": one}, {"y": two})
    return find_tails(comparison.result(), comparison.samples(), **more)


@given(count=st.integers(20, 120), cuts=st.integers(1, 9), seed=st.integers(0, 99))
def test_answers_stand_in_for_labels_in_any_batching(count: int, cuts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = 4 * rng.standard_normal((count, 7))
    b = a + rng.standard_normal(a.shape)
    tails = compared(a, b, cuts)
    assert (tails.by, tails.measure) == ("answers", "agreement")
    for part in tails.classes:
        own = a.argmax(1) == int(part.name)
        assert part.samples == own.sum()
        assert part.after == pytest.approx((b.argmax(1) == a.argmax(1))[own].mean())
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (a, b))
    divergence = np.sort((p * np.log(p / q)).sum(1))[::-1]
    assert tails.error_measure == "divergence"
    assert tails.all is not None
    assert tails.worst is not None
    assert tails.all.after == pytest.approx(divergence.mean())
    worst = divergence[: int(np.ceil(0.05 * count))]
    assert (tails.worst.samples, tails.worst.after) == (len(worst), pytest.approx(worst.mean()))


def test_outputs_that_are_no_scores_have_worst_samples_and_groups() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((40, 3, 2, 2))
    b = a + 0.01 * rng.standard_normal(a.shape)
    b[7] += 1
    names = np.array(["far" if k == 7 else "near" for k in range(40)])
    tails = compared(a, b, slices=names)
    assert not tails.classes
    assert tails.error_measure == tails.group_measure == "relative squared error"
    assert tails.all is not None
    assert tails.worst is not None
    squares = ((a - a.mean(0)) ** 2).sum() * 40 / 39
    assert tails.all.after == pytest.approx(((b - a) ** 2).sum() / squares)
    assert tails.worst.after > 10 * tails.all.after
    far, near = tails.groups
    assert (far.name, far.samples, near.samples) == ("far", 1, 39)
    assert (far.error, near.error is None) == (None, False)
    assert far.after > 100 * near.after


def test_losses_are_compared_on_the_samples_that_lost_most() -> None:
    rng = np.random.default_rng(0)
    before = rng.random(100)
    after = before + 0.01
    after[[3, 50, 99]] += 2
    metric = find_metric("nats")
    scores = [Score(float(x.mean()), 5 * x, np.full(100, 5.0)) for x in (before, after)]
    groups = np.array(["a", "b"] * 50)
    tails = find_tails({}, {}, scores=(metric, *scores), slices=groups)
    assert tails.all is not None
    assert tails.worst is not None
    assert tails.all.before == pytest.approx(before.mean())
    assert tails.worst.samples == 5
    assert tails.worst.after - (tails.worst.before or 0) == pytest.approx(0.01 + 6 / 5)
    assert [part.after for part in tails.groups] == pytest.approx(
        [after[groups == name].mean() for name in "ab"]
    )
    assert all(part.error is not None and part.error > 0 for part in tails.groups)


def test_few_samples_have_no_worst_ones() -> None:
    a = np.random.default_rng(0).standard_normal((19, 4))
    tails = compared(a, a)
    assert tails.all is None
    assert tails.worst is None
    assert tails.classes


@pytest.mark.parametrize("with_labels", [True, False])
def test_a_group_that_collapses_is_named(with_labels: bool) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 200)
    a = 8 * np.eye(5)[labels] + 0.1 * rng.standard_normal((200, 5))
    groups = np.array(["night" if k % 5 == 0 else "day" for k in range(200)])
    b = a.copy()
    night = groups == "night"
    b[night] = np.roll(a[night], 1, axis=1)
    if with_labels:
        tails = labelled(np.ones(200), (b.argmax(1) == labels), labels, slices=groups)
    else:
        tails = compared(a, b, slices=groups)
    assert [part.name for part in tails.groups] == ["day", "night"]
    reasons = [reason for _, reason in findings(tails)]
    assert any(reason.startswith("group 'night' collapsed") for reason in reasons)
    assert not any("'day'" in reason for reason in reasons)


# --- in whole evaluations ---------------------------------------------------------------------


def without_class(model: Model, lost: int) -> Model:
    """The same model, that never answers one class."""
    import onnx
    from onnx import numpy_helper

    proto = model.to_proto()
    node = next(node for node in proto.graph.node if proto.graph.output[0].name in node.output)
    node.output[0] = "plain"
    penalty = np.zeros(10, np.float32)
    penalty[lost] = -100
    proto.graph.initializer.append(numpy_helper.from_array(penalty, "penalty"))
    add = onnx.helper.make_node("Add", ["plain", "penalty"], [proto.graph.output[0].name])
    proto.graph.node.append(add)
    return models.load(proto)


@pytest.mark.parametrize("with_labels", [True, False])
def test_a_model_that_lost_one_class_is_degraded_by_name(with_labels: bool) -> None:
    entry = zoo.get("digits_mlp")
    feeds, labels = zoo.evaluation(entry)
    model = models.load(entry.model)
    count = 600
    part = Part(
        [{name: array[:count] for name, array in feeds.items()}],
        labels[:count] if with_labels else None,
    )
    config = Options(ratio=0.5) if with_labels else from_flags({"ratio": 0.5})
    evaluation = compare_models(model, without_class(model, 7), part, config)
    quality = judge(evaluation)
    assert quality.status in ("degraded", "broken")
    assert any(reason.startswith("class 7 collapsed") for reason in quality.reasons)
    same = compare_models(model, model, part, config)
    assert same.tails is not None
    assert len(same.tails.classes) == 10
    assert judge(same).status == "good"
