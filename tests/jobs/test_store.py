"""Stored files are compared with the dense model, whatever kind its outputs are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.jobs.store import check_stored, same_outputs, store


def sequences(weight: np.ndarray) -> onnx.ModelProto:  # type: ignore[type-arg]
    """A product, and a sequence of it and its input."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"]),
            helper.make_node("SequenceConstruct", ["x", "p"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def weight() -> np.ndarray:  # type: ignore[type-arg]
    rng = np.random.default_rng(0)
    return np.where(rng.random((64, 64)) < 0.1, rng.standard_normal((64, 64)), 0).astype("f")


def test_what_a_sequence_holds_is_compared(weight: np.ndarray, tmp_path: Path) -> None:  # type: ignore[type-arg]
    stored = store(sequences(weight))
    assert stored.changed
    path = stored.save(tmp_path / "s.onnx")
    outcome = check_stored(stored, path)
    assert outcome.ok
    assert [check.name for check in outcome.checks][1:] == ["outputs = dense (y[1])"]
    feeds = [{"x": np.ones((2, 64), np.float32)}]
    onnx.save(sequences(weight + 1), path)
    assert not same_outputs(stored, path, feeds, "cpu").ok
