"""Models that take one sample at a time although their inputs say otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

from onnxprune import load, prune
from onnxprune.config import Options
from onnxprune.data.batches import inputs_of, is_single
from onnxprune.data.dataset import open_dataset, open_source
from onnxprune.errors import OnnxpruneError
from onnxprune.jobs.quantize import quantize
from onnxprune.model import Model, clone

RNG = np.random.default_rng(0)
DATA = {"x": RNG.standard_normal((16, 3, 8, 8)).astype(np.float32)}


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return (RNG.standard_normal(shape) * 0.2).astype(np.float32)


def flattened(first: int) -> Model:
    """A convolution and two products, with ``first`` in front of the shape that lies between."""
    stored = {
        "W": floats(16, 3, 3, 3),
        "shape": np.array([first, 256]),
        "F": floats(256, 32),
        "O": floats(32, 5),
    }
    nodes = [
        h.make_node("Conv", ["x", "W"], ["c"], pads=[1] * 4, strides=[2, 2]),
        h.make_node("Relu", ["c"], ["e"]),
        h.make_node("Reshape", ["e", "shape"], ["f"]),
        h.make_node("MatMul", ["f", "F"], ["g"]),
        h.make_node("Relu", ["g"], ["i"]),
        h.make_node("MatMul", ["i", "O"], ["y"]),
    ]
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", T.FLOAT, ["batch", 3, 8, 8])],
        [h.make_tensor_value_info("y", T.FLOAT, ["batch", 5])],
        [nh.from_array(a, name) for name, a in stored.items()],
    )
    return load(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8))


@pytest.mark.parametrize("batch", [None, 4, 1])
def test_samples_come_one_by_one_and_a_note_says_so(batch: int | None) -> None:
    model = flattened(1)
    config = Options(calib=DATA, batch=batch)
    source, shapes = open_source(model, config)
    assert source is not None
    assert shapes == {"x": (1, 3, 8, 8)}
    data = open_dataset(source, config)
    feeds = [*data.fit, *data.eval]
    assert {each["x"].shape[0] for each in feeds} == {1}
    assert sum(len(each["x"]) for each in feeds) == 16
    assert any("'batch'" in note for note in data.notes) == (batch != 1)
    assert is_single(clone(model))
    assert inputs_of(model).fixed


@pytest.mark.parametrize("first", [-1, 0])
def test_models_that_take_batches_keep_them(first: int) -> None:
    model = flattened(first)
    source, _ = open_source(model, Options(calib=DATA, batch=4))
    assert source is not None
    assert [len(each["x"]) for each in source] == [4] * 4
    assert not source.notes
    assert not is_single(model)


def test_a_model_that_runs_on_no_sample_is_refused_in_its_own_words() -> None:
    with pytest.raises(OnnxpruneError, match="Reshape"):
        open_source(flattened(3), Options(calib=DATA))


@pytest.mark.parametrize("what", [{"target": "macs=70%"}, {"sparsity": "50%"}])
def test_pruning_keeps_the_name_of_the_axis(what: dict[str, str]) -> None:
    result = prune(flattened(1), calib=DATA, **what)
    assert all(check.ok for check in result.checks)  # 16 samples cannot keep random weights good
    for value in (*result.model.ir.graph.inputs, *result.model.ir.graph.outputs):
        assert value.shape is not None
        assert str(value.shape[0]) == "batch"
    assert any("one sample at a time" in note for note in result.notes)


def test_quantizing() -> None:
    result = quantize(flattened(1), None, Options(calib=DATA))
    assert result.ok
    assert any("one sample at a time" in note for note in result.notes)
