"""Ranks that only a run can tell: layers behind them are cut, and the cut model knows them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxprune import model as models
from onnxprune import prune
from onnxprune.graph.analysis import analyse
from onnxprune.jobs.observe import Shape, analyse_by_runs, declare, unknown_values


def behind() -> onnx.ModelProto:
    """Two layers behind a Reshape: how long its target is depends on data, as far as one can see.

    The flags that select sizes are ``|x| >= 0``, which holds for all data.
    """
    rng = np.random.default_rng(0)
    stored = {
        "w": rng.standard_normal((16, 64)).astype(np.float32),
        "v": rng.standard_normal((64, 5)).astype(np.float32),
        "sizes": np.array([-1, 16], np.int64),
        "minus": np.array([-1], np.int64),
        "zero": np.array(0, np.float32),
        "from": np.array([0, 0], np.int64),
        "to": np.array([1, 2], np.int64),
    }
    nodes = [
        ("Slice", ["x", "from", "to"], ["two"]),
        ("Reshape", ["two", "minus"], ["flat"]),
        ("Abs", ["flat"], ["size"]),
        ("GreaterOrEqual", ["size", "zero"], ["flags"]),
        ("NonZero", ["flags"], ["at"]),
        ("Reshape", ["at", "minus"], ["places"]),
        ("Gather", ["sizes", "places"], ["target"]),
        ("Reshape", ["x", "target"], ["r"]),
        ("MatMul", ["r", "w"], ["a"]),
        ("Relu", ["a"], ["b"]),
        ("MatMul", ["b", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        [helper.make_node(*node) for node in nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("calibrated", [False, True])
def test_layers_behind_an_unknown_rank_are_cut(calibrated: bool) -> None:
    model = behind()
    static = analyse(model)
    assert not static.groups
    assert "r" in unknown_values(static)
    rng = np.random.default_rng(1)
    calib = rng.standard_normal((64, 32)).astype(np.float32)
    options = {"target": "params=60%", "calib": calib} if calibrated else {"ratio": 0.4}
    result = prune(model, **options, round_to=1)
    assert result.ok
    assert result.plan.removed
    assert not unknown_values(analyse(result.model, inputs=result.analysis.inputs[0]))


def test_nothing_is_run_where_all_ranks_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = behind().graph
    del graph.node[:8]
    graph.input[0].CopyFrom(helper.make_tensor_value_info("r", TensorProto.FLOAT, ["n", 16]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    monkeypatch.setattr("onnxprune.jobs.observe.observed_types", None)
    assert analyse_by_runs(models.load(model)).groups


SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@given(st.lists(SHAPES, min_size=1, max_size=3))
def test_only_what_all_runs_agree_on_is_declared(shapes: list[Shape]) -> None:
    model = models.load(behind())
    result = declare(model, [{"r": ("float32", shape)} for shape in shapes])
    value = next(v for v in models.values(result.ir.graph) if v.name == "r")
    if len({len(shape) for shape in shapes}) > 1:
        assert result is model
        return
    assert value.shape is not None
    for axis, size in enumerate(value.shape):
        sizes = {shape[axis] for shape in shapes}
        known = len(shapes) > 1 and len(sizes) == 1 and 0 not in sizes
        assert (size == sizes.pop()) if known else not isinstance(size, int)
