"""Tokens that are padding decide nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import model as models
from onnxprune.data.batches import token_masks, unpadded_rows
from onnxprune.evaluate.student import visible

Array = npt.NDArray[Any]


def test_masks_belong_to_values_of_their_tokens() -> None:
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    masks = token_masks(
        {"attention_mask": mask, "x": np.ones((2, 3)), "image_mask": np.ones((1, 2, 3))}
    )
    assert list(masks) == ["attention_mask"]
    for shape, axis in (((2, 3, 5), -1), ((6, 5), 1), ((2, 3, 5), 2)):
        found = unpadded_rows(masks, shape, axis)
        assert found is not None
        assert found.tolist() == [0, 1, 3]
    for shape, axis in (((2, 3, 5), 1), ((2, 5, 3), -1), ((2, 3), 1), ((3,), 0)):
        assert unpadded_rows(masks, shape, axis) is None
    inverted = unpadded_rows(token_masks({"src_key_padding_mask": mask == 0}), (2, 3, 5), 2)
    assert inverted is not None
    assert inverted.tolist() == [0, 1, 3]
    assert (
        unpadded_rows(token_masks({"mask": np.zeros((2, 3))}), (2, 3, 5), 2) is None
    )  # it would leave nothing


def test_training_and_refits_agree_on_what_is_padding() -> None:
    there = np.array([[1, 1, 0], [1, 0, 0]])
    for feeds in ({"attention_mask": there}, {"key_padding_mask": there == 0}):
        rows = visible(np.ones((2, 3, 4), np.float32), feeds)
        assert np.flatnonzero(rows).tolist() == [0, 1, 3]


def network() -> onnx.ModelProto:
    """Tokens through two products and what is between them; a mask that only says what counts."""
    rng = np.random.default_rng(0)
    weights = {
        "first": rng.standard_normal((6, 16)).astype(np.float32),
        "second": rng.standard_normal((16, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["h"], "one"),
        helper.make_node("Tanh", ["h"], ["a"], "between"),
        helper.make_node("MatMul", ["a", "second"], ["y"], "two"),
        helper.make_node("Identity", ["attention_mask"], ["m"], "three"),
    ]
    shape, masked = ["n", "t", 6], ["n", "t"]
    graph = helper.make_graph(
        nodes,
        "padded",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, masked),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "t", 4]),
            helper.make_tensor_value_info("m", TensorProto.INT64, masked),
        ],
        [numpy_helper.from_array(w, name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def batches(fill: float) -> list[dict[str, Array]]:
    """The same sentences with other padding."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(8):
        x = rng.standard_normal((8, 12, 6)).astype(np.float32)
        mask = (np.arange(12) < rng.integers(3, 9, (8, 1))).astype(np.int64)
        x[mask == 0] = fill * rng.standard_normal(((mask == 0).sum(), 6)).astype(np.float32)
        found.append({"x": x, "attention_mask": mask})
    return found


@pytest.mark.parametrize(
    "asked",
    [
        {"ratio": 0.5},
        {"target": "params=50%"},
        {"sparsity": "50%", "recover": "pcg"},  # training asks the model about mixtures, too
        {"sparsity": "2:4", "recover": "pcg"},
        {"sparsity": "50%", "recover": "lstsq", "sparse_method": "sparsegpt"},
    ],
)
def test_nothing_depends_on_what_the_padding_holds(asked: dict[str, Any]) -> None:
    made = [
        onnxprune.prune(network(), calib=batches(fill), calib_samples=64, cache=False, **asked)
        for fill in (0.0, 30.0)
    ]
    graphs = [models.to_proto(each.model).graph for each in made]
    stored = [{i.name: numpy_helper.to_array(i) for i in g.initializer} for g in graphs]
    assert stored[0].keys() == stored[1].keys()
    for name, array in stored[0].items():
        np.testing.assert_array_equal(array, stored[1][name])
