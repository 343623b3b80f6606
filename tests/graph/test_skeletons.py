"""The skeleton graphs that other tests are built on are valid, alive, and react to every weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from models import skeletons

KEY_BIASES = {"bert": 2}  # they shift all scores of a query alike, which Softmax takes out again


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    return ort.InferenceSession(model.SerializeToString(), options, providers=providers)


def run(model: onnx.ModelProto, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
    result: NDArray[Any] = session(model).run(["output"], feeds)[0]
    return result


@pytest.mark.parametrize("name", skeletons.SMALL)
def test_is_valid_and_deterministic(name: str) -> None:
    model = skeletons.SMALL[name]()
    onnx.checker.check_model(model, full_check=True)
    assert model.SerializeToString() == skeletons.SMALL[name]().SerializeToString()
    assert model.ByteSize() < 1_000_000
    assert [output.name for output in model.graph.output] == ["output"]


@pytest.mark.parametrize("name", skeletons.SMALL)
def test_runs_at_any_batch_and_is_not_degenerate(name: str) -> None:
    model = skeletons.SMALL[name]()
    time_first = model.graph.input[0].type.tensor_type.shape.dim[:1]
    axis = 1 if [dim.dim_param for dim in time_first] == ["length"] else 0
    feeds = skeletons.feeds(model, batch=4)
    whole = run(model, feeds)
    part = {key: value.take([0, 1], axis) if value.ndim else value for key, value in feeds.items()}
    np.testing.assert_allclose(run(model, part), whole[:2], atol=2e-5, rtol=1e-4)
    assert np.isfinite(whole).all()
    spread = (whole - whole[:1]).std()
    assert 1e-2 < spread < 1e3
    assert np.abs(run(model, skeletons.feeds(model, seed=1, batch=4)) - whole).max() > 1e-2


@pytest.mark.parametrize("name", skeletons.SMALL)
def test_reacts_to_every_float_weight(name: str) -> None:
    """Each initializer becomes an input whose default is itself, so that one session tries all."""
    model = skeletons.SMALL[name]()
    weights = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    floats = {
        key: value
        for key, value in weights.items()
        if value.dtype == np.float32 and not key.startswith("const")
    }
    feeds = skeletons.feeds(model)
    for initializer in model.graph.initializer:
        if initializer.name in floats:
            model.graph.input.append(
                onnx.helper.make_tensor_value_info(
                    initializer.name, initializer.data_type, initializer.dims
                )
            )
    opened = session(model)
    before = opened.run(["output"], feeds)[0]
    inert = []
    for key, value in floats.items():
        after = opened.run(["output"], feeds | {key: value * np.float32(0.5)})[0]
        if np.abs(after - before).max() < 1e-5:
            inert.append(key)
    assert len(inert) == KEY_BIASES.get(name, 0), inert


def test_branches_of_the_if_differ() -> None:
    model = skeletons.branched()
    feeds = skeletons.feeds(model)
    other = feeds | {"deep": np.array(False)}
    assert np.abs(run(model, feeds) - run(model, other)).max() > 1e-2


def test_padding_of_bert_is_masked() -> None:
    model = skeletons.bert()
    feeds = skeletons.feeds(model, length=9)
    feeds["attention_mask"][:] = [1] * 6 + [0] * 3
    changed = {**feeds, "input_ids": feeds["input_ids"].copy()}
    changed["input_ids"][:, 6:] = 7
    np.testing.assert_allclose(run(model, changed), run(model, feeds), atol=1e-6)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (skeletons.resnet50, 25_557_032),
        (skeletons.bert_base, 109_482_240 - 2 * 768 + 768 * 3 + 3),  # no segments, 3 classes
    ],
)
def test_full_sizes_have_the_parameters_of_the_real_networks(
    build: Callable[[], onnx.ModelProto], parameters: int
) -> None:
    model = build()
    sizes = {i.name: math.prod(i.dims) for i in model.graph.initializer}
    inert = ("const", "mean", "variance")  # numbers that are not trained
    assert sum(size for key, size in sizes.items() if not key.startswith(inert)) == parameters
    assert np.isfinite(run(model, skeletons.feeds(model, batch=1))).all()
