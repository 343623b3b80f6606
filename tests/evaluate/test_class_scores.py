"""Answers are read from class scores alone: not from embeddings, boxes, features or grades."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper as h
from onnx import numpy_helper as nh

from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.evaluate.class_scores import graph_evidence, holds_scores, meaning_test, undecided
from onnxprune.model import Model

Array = npt.NDArray[Any]
Node = onnx.NodeProto


def ending(
    nodes: Sequence[Node], *, width: int = 10, rank: int = 2, output: str = "y", **stored: Any
) -> Model:
    """A layer from 16 features to ``width`` values ``z``, and the nodes behind it."""
    rng = np.random.default_rng(0)
    shape = ["n", *["s"] * (rank - 2), 16]
    arrays = {"w": rng.standard_normal((16, width)) / 4, **stored}
    graph = h.make_graph(
        [h.make_node("MatMul", ["x", "w"], ["z"]), *nodes],
        "g",
        [h.make_tensor_value_info("x", 1, shape)],
        [h.make_tensor_value_info(output, 1, ["n", *["s"] * (rank - 2), width])],
        [
            nh.from_array(array if array.dtype.kind == "i" else array.astype(np.float32), name)
            for name, each in arrays.items()
            for array in [np.asarray(each)]
        ],
    )
    opset = [h.make_opsetid("", 17)]
    return models.load(h.make_model(graph, opset_imports=opset, ir_version=8))


def bias(output: str = "y", width: int = 10) -> tuple[list[Node], dict[str, Array]]:
    return [h.make_node("Add", ["z", "b"], [output])], {"b": np.ones(width, np.float32)}


NORM = {"g": np.ones(10), "b": np.zeros(10)}
ENDS: dict[str, tuple[list[Node], dict[str, Any], str]] = {
    "softmax": ([h.make_node("Softmax", ["z"], ["y"])], {}, "scores"),
    "log-softmax": ([h.make_node("LogSoftmax", ["z"], ["y"])], {}, "scores"),
    "bias": (*bias(), "linear"),
    "sigmoid": ([h.make_node("Sigmoid", ["z"], ["y"])], {}, "linear"),
    "temperature": ([h.make_node("Div", ["z", "t"], ["y"])], {"t": 0.5}, "linear"),
    "layer norm": ([h.make_node("LayerNormalization", ["z", "g", "b"], ["y"])], NORM, "other"),
    "unit norm": (
        [
            h.make_node("ReduceL2", ["z"], ["r"], axes=[-1]),
            h.make_node("Div", ["z", "r"], ["y"]),
        ],
        {},
        "other",
    ),
    "unit norm, clipped": (
        [
            h.make_node("ReduceL2", ["z"], ["r"], axes=[-1]),
            h.make_node("Clip", ["r", "least"], ["c"]),
            h.make_node("Div", ["z", "c"], ["y"]),
        ],
        {"least": 1e-12},
        "other",
    ),
    "softmax in parts": (
        [
            h.make_node("Exp", ["z"], ["e"]),
            h.make_node("ReduceSum", ["e", "axes"], ["r"]),
            h.make_node("Div", ["e", "r"], ["y"]),
        ],
        {"axes": np.array([-1])},
        "scores",
    ),
    "residual": (
        [h.make_node("Relu", ["z"], ["r"]), h.make_node("Add", ["z", "r"], ["y"])],
        {},
        "other",
    ),
    "tanh": ([h.make_node("Tanh", ["z"], ["y"])], {}, "other"),
    "spectrum": (
        [h.make_node("Abs", ["z"], ["a"]), h.make_node("Log", ["a"], ["y"])],
        {},
        "other",
    ),
    "logarithm of a softmax": (
        [h.make_node("Softmax", ["z"], ["p"]), h.make_node("Log", ["p"], ["y"])],
        {},
        "scores",
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_a_graph_says_what_an_output_is(end: str) -> None:
    nodes, stored, evidence = ENDS[end]
    assert graph_evidence(ending(nodes, **stored)) == {"y": evidence}


@pytest.mark.parametrize(
    ("name", "evidence"),
    [
        ("logits", "scores"),
        ("class_probabilities", "scores"),
        ("sentence_embedding", "other"),
        ("pred_boxes", "other"),
        ("landmarks", "other"),
        ("location", "other"),
        ("allocation", "linear"),
        ("output", "linear"),
    ],
)
def test_where_the_end_does_not_say_the_name_does(name: str, evidence: str) -> None:
    nodes, stored = bias(name)
    assert graph_evidence(ending(nodes, output=name, **stored)) == {name: evidence}


def test_a_softmax_outweighs_any_name_and_a_norm_too() -> None:
    soft = ending([h.make_node("Softmax", ["z"], ["embedding"])], output="embedding")
    assert graph_evidence(soft) == {"embedding": "scores"}
    norm = [h.make_node("LayerNormalization", ["z", "g", "b"], ["logits"])]
    assert graph_evidence(ending(norm, output="logits", **NORM)) == {"logits": "other"}


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


@given(
    rows=st.integers(8, 40),
    classes=st.integers(2, 300),
    seed=st.integers(0, 99),
    form=st.sampled_from(["logits", "probabilities"]),
)
def test_trained_logits_of_any_width_are_scores(
    rows: int, classes: int, seed: int, form: str
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((rows, classes))
    logits[np.arange(rows), rng.integers(0, classes, rows)] += 8
    logits -= logits.mean(1, keepdims=True)
    array = (softmax(logits) if form == "probabilities" else logits).astype(np.float32)
    assert holds_scores(array, "linear", known=True)


@given(width=st.sampled_from([64, 128, 192, 256, 384, 512, 768]), seed=st.integers(0, 99))
def test_embeddings_are_not_scores(width: int, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((20, width)).astype(np.float32)
    assert not holds_scores(rows, "linear", known=True)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert not holds_scores(unit, known=True)
    rectified = np.maximum(rows, 0)
    assert not holds_scores(rectified, "unknown", known=True)


@pytest.mark.parametrize(
    ("name", "width", "pooled", "meaning"),
    [
        ("sentence_embedding", 384, False, "embedding"),
        ("features", 100, False, "embedding"),
        ("y", 384, True, "embedding"),
        ("y", 384, False, "numbers"),
        ("forecast", 96, False, "numbers"),
        ("embedding", 16, False, "numbers"),
    ],
)
def test_only_what_is_named_or_pooled_is_an_embedding(
    name: str, width: int, pooled: bool, meaning: str
) -> None:
    stored: dict[str, Any] = {}
    nodes = [h.make_node("Tanh", ["z"], [name])]
    if pooled:
        stored["axes"] = np.array([1])
        nodes = [
            h.make_node("Unsqueeze", ["z", "axes"], ["u"]),
            h.make_node("ReduceMean", ["u"], [name], axes=[1], keepdims=0),
        ]
    model = ending(nodes, width=width, output=name, **stored)
    rows = np.random.default_rng(0).standard_normal((9, width)).astype(np.float32)
    assert meaning_test(model)(name, rows) == meaning


@given(count=st.integers(5, 40), seed=st.integers(0, 99))
def test_boxes_and_grades_are_not_scores(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4) * 640
    assert not holds_scores(corners.astype(np.float32), "linear", known=True)
    assert not holds_scores(rng.random((3, count, 4), np.float32), "linear", known=True)
    quality = rng.random((40, 1))
    grades = 1 + 4 * np.clip(quality + 0.1 * rng.standard_normal((40, 3)), 0, 1)
    assert not holds_scores(grades.astype(np.float32), "linear", known=True)


def test_what_the_user_gave_labels_for_is_scores() -> None:
    model = ending([h.make_node("Identity", ["z"], ["y"])], width=128)
    rows = np.random.default_rng(0).standard_normal((9, 128)).astype(np.float32)
    assert meaning_test(model)("y", rows) == "numbers"
    assert meaning_test(model, "accuracy")("y", rows) == "scores"
    assert meaning_test(model, "mse")("y", rows) == "numbers"
    assert undecided(model, "y", rows)
    assert not undecided(model, "y", rows[:, :1])


@pytest.mark.parametrize("name", zoo.names())
def test_models_of_the_zoo_give_scores(name: str) -> None:
    assert graph_evidence(models.load(zoo.get(name).model)) == {"logits": "scores"}


def test_real_models_are_told_apart(shared: Path) -> None:
    known = {
        "models/minilm_l6_sts_sst2": {"embedding": "other", "sst2_logits": "scores"},
        "models/stories260k_llama_legacy": {"logits": "scores"},
        "wild/magika_standard_v3_3": {"target_label": "scores"},
        "wild/ultraface_rfb320": {"scores": "scores", "boxes": "other"},
        "wild/onnx_light_inception_v1": {"prob_1": "scores"},
        "wild/cntk_mnist": {"Plus214_Output_0": "linear"},
    }
    for file, evidence in known.items():
        assert graph_evidence(models.load(shared / f"{file}.onnx")) == evidence, file


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 8, 300])
def test_the_number_of_samples_does_not_change_what_two_columns_mean(count: int) -> None:
    first = np.random.default_rng(0).standard_normal((300, 1)).astype(np.float32)
    pairs = np.concatenate([first, 0.8 * first + 0.1], 1)  # grow together, as no scores do
    logits = np.concatenate([first, -first], 1)
    assert not holds_scores(pairs[:count], "linear", known=True)
    assert holds_scores(logits[:count], "linear", known=True) == (count > 2)
