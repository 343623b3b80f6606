"""Rows and outputs of stacks of matrices are those of the products they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from onnx import helper as oh
from onnx import numpy_helper as nh

from onnxprune import model as models
from onnxprune.graph.layers.linear import find_layers
from onnxprune.runtime import open_session
from onnxprune.solve.im2col import sample_positions

CASES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], str]] = {
    # equation (empty for MatMul), shapes of x and of the weight, place of the weight
    "stack": ("", (3, 5, 4), (3, 4, 2), "right"),
    "batches of stacks": ("", (7, 3, 5, 4), (3, 4, 2), "right"),
    "one input for all": ("", (5, 4), (3, 4, 2), "right"),
    "one input for all, by size": ("", (7, 1, 5, 4), (3, 4, 2), "right"),
    "stack of one": ("", (6, 5, 4), (1, 4, 2), "right"),
    "left": ("", (3, 4, 5), (3, 2, 4), "left"),
    "matrix": ("bsd,df->bsf", (2, 5, 4), (4, 3), "right"),
    "transposed matrix": ("bsd,fd->bsf", (2, 5, 4), (3, 4), "right"),
    "experts": ("nek,ekh->neh", (6, 3, 4), (3, 4, 2), "right"),
    "experts first": ("ekn,ehk->ehn", (3, 4, 6), (3, 2, 4), "right"),
    "experts last": ("nk,khe->nhe", (6, 4), (4, 2, 3), "right"),
    "weight first": ("ekh,nek->neh", (6, 3, 4), (3, 4, 2), "left"),
}


def build(case: str) -> tuple[models.Model, dict[str, Any]]:
    equation, shape, weight, place = CASES[case]
    rng = np.random.default_rng(0)
    names = ["x", "w"] if place == "right" else ["w", "x"]
    node = oh.make_node("MatMul", names, ["y"])
    if equation:
        node = oh.make_node("Einsum", names, ["y"], equation=equation)
    graph = oh.make_graph(
        [node],
        "g",
        [oh.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [oh.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [nh.from_array(rng.standard_normal(weight).astype(np.float32), "w")],
    )
    proto = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    return models.load(proto), {"x": rng.standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("case", CASES)
def test_rows_times_matrices_are_the_outputs(case: str) -> None:
    model, feeds = build(case)
    (layer,) = find_layers(model)
    assert not layer.declined
    weight = layer.tensor.read()
    matrix = layer.matrix(weight)
    assert matrix.shape == layer.shape
    np.testing.assert_array_equal(layer.stored(matrix), weight)
    y = open_session(model).run(feeds)["y"]
    total = layer.count(feeds["x"].shape)
    for positions in (None, sample_positions(total, max(total // 2, 1), 0)):
        rows, targets = layer.rows(feeds["x"], positions), layer.targets(y, positions)
        assert rows.shape[1] == (total if positions is None else len(positions))
        np.testing.assert_allclose(rows @ matrix, targets, atol=1e-5)


@pytest.mark.parametrize(
    "equation", ["nek,ekh->nh", "nk,kh->hk", "abk,kh->bah", "nkk,kh->nh", "nk,kh->kh"]
)
def test_other_equations_are_no_products(equation: str) -> None:
    letters = dict.fromkeys("nekabh", 2)
    x, w = equation.split("->", maxsplit=1)[0].split(",")
    CASES["other"] = (equation, tuple(letters[c] for c in x), tuple(letters[c] for c in w), "right")
    model, _ = build("other")
    assert all(layer.declined for layer in find_layers(model))
