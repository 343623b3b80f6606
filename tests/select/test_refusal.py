"""A budget that cannot be met: what keeps it from that, and the options that would help."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper as oh
from onnx import numpy_helper as nh

import onnxprune
from onnxprune.errors import OnnxpruneError


def model(*, norm: bool, units: int = 64) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    stored = {
        "W": rng.standard_normal((32, units)),
        "V": rng.standard_normal((units, 8)),
        "g": np.ones(units),
        "b": rng.standard_normal(units),
    }
    node = ["LayerNormalization", ["a", "g", "b"]] if norm else ["Add", ["a", "b"]]
    nodes = [
        oh.make_node("MatMul", ["x", "W"], ["a"]),
        oh.make_node(node[0], node[1], ["n"]),
        oh.make_node("Relu", ["n"], ["r"]),
        oh.make_node("MatMul", ["r", "V"], ["y"]),
    ]
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info("x", 1, ["n", 32])],
        [oh.make_tensor_value_info("y", 1, ["n", 8])],
        [nh.from_array(v.astype(np.float32), k) for k, v in stored.items() if norm or k != "g"],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)


def refused(network: onnx.ModelProto, **options: Any) -> str:
    with pytest.raises(OnnxpruneError, match=r"cannot (go below|be met)|can go together") as error:
        onnxprune.prune(network, **options)
    return error.value.hint


OPTIONS = {"allow_inexact": True, "round_to": 1, "max_ratio": None}


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize(
    ("norm", "units", "options"),
    [
        (True, 64, {"target": "macs=60%"}),
        (True, 64, {"target": "macs=10%"}),
        (False, 64, {"target": "macs=10%"}),
        (False, 64, {"target": "macs=1%"}),
        (False, 12, {"target": "macs=21%", "max_ratio": 0.8}),
        (False, 64, {"target": "macs=50%", "skip": ["W*"]}),
        (False, 32, {"ratio": 0.7, "allocation": "global", "round_to": 16}),
        (False, 64, {"ratio": 0.8, "allocation": "global", "round_to": 4}),
    ],
)
def test_what_is_advised_helps_and_nothing_else_is(
    norm: bool, units: int, options: dict[str, Any], calibrated: bool
) -> None:
    network = model(norm=norm, units=units)
    if calibrated:
        rng = np.random.default_rng(1)
        batches = [{"x": rng.standard_normal((16, 32)).astype(np.float32)} for _ in range(4)]
        options = {**options, "calib": batches, "cache": False}
    hint = refused(network, **options)
    advised: dict[str, Any] = {}
    if "allow_inexact" in hint:
        advised["allow_inexact"] = True
    if "round_to" in hint:
        advised["round_to"] = 1
    if ratio := re.search(r"max_ratio=([\d.]+)", hint):
        advised["max_ratio"] = float(ratio[1])
    if "under skip" in hint:
        advised["skip"] = ()
    if "room for it" in hint:
        assert advised
        onnxprune.prune(network, **{**options, **advised})
    else:
        everything = {"allow_inexact": True, "round_to": 1, "max_ratio": 0.95, "skip": ()}
        refused(network, **{**options, **everything})


def test_reasons_of_groups_are_named() -> None:
    hint = refused(model(norm=True), target="macs=60%")
    assert "allow_inexact" in hint
    assert "max_ratio" not in hint
    assert "round_to" not in hint
    assert "1 of 1 groups are left alone: W:" in hint
    assert "LayerNormalization" in hint


def test_reasons_of_groups_are_named_where_others_are_cut() -> None:
    network = model(norm=False)
    hint = refused(network, target="params=1%", skip=["W*"])
    assert "1 of 1 groups are left alone: W" in hint
    assert "skipped, as 'W*' asks" in hint


def mixed_samples() -> onnx.ModelProto:
    """Two layers; a Reshape in between mixes samples and channels, unless there is one sample."""
    rng = np.random.default_rng(0)
    stored = {
        "W": rng.standard_normal((8, 32)).astype(np.float32),
        "V": rng.standard_normal((32, 4)).astype(np.float32),
        "rows": np.array([-1, 32], np.int64),
    }
    nodes = [
        oh.make_node("MatMul", ["x", "W"], ["a"]),
        oh.make_node("Relu", ["a"], ["r"]),
        oh.make_node("Transpose", ["r"], ["t"], perm=[1, 0]),
        oh.make_node("Reshape", ["t", "rows"], ["s"]),
        oh.make_node("MatMul", ["s", "V"], ["y"]),
    ]
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info("x", 1, ["n", 8])],
        [oh.make_tensor_value_info("y", 1, ["n", 4])],
        [nh.from_array(v, k) for k, v in stored.items()],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)


def test_one_sample_at_a_time_is_advised_where_it_helps_and_only_there() -> None:
    rng = np.random.default_rng(1)
    calib = rng.standard_normal((64, 8)).astype(np.float32)
    options = {"target": "macs=60%", "calib": calib, "cache": False, "round_to": 1}
    assert "batch=1 makes room for it" in refused(mixed_samples(), **options)
    assert onnxprune.prune(mixed_samples(), **options, batch=1).ok
    options |= {"target": "macs=1%", "max_ratio": 0.95, "calib": calib[:, :8].repeat(4, axis=1)}
    assert "batch" not in refused(model(norm=False), **options)


def test_reasons_that_differ_in_names_alone_are_one() -> None:
    rng = np.random.default_rng(0)
    stored = {f"{w}{k}": rng.standard_normal((32, 32)) for w in "WV" for k in range(3)}
    stored |= {f"{n}{k}": rng.standard_normal(32) for n in "gb" for k in range(3)}
    nodes, last = [], "x"
    for k in range(3):
        nodes += [
            oh.make_node("MatMul", [last, f"W{k}"], [f"a{k}"]),
            oh.make_node("LayerNormalization", [f"a{k}", f"g{k}", f"b{k}"], [f"n{k}"]),
            oh.make_node("MatMul", [f"n{k}", f"V{k}"], [f"s{k}"]),
            oh.make_node("Softmax", [f"s{k}"], [f"y{k}"]),
        ]
        last = f"y{k}"
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info("x", 1, ["n", 32])],
        [oh.make_tensor_value_info(last, 1, ["n", 32])],
        [nh.from_array(v.astype(np.float32), k) for k, v in stored.items()],
    )
    network = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    hint = refused(network, target="macs=50%")
    assert "allow_inexact=True makes room for it; 5 of 5 groups are left alone" in hint
    assert "W0:width and 2 more: " in hint
    assert "V0:width and 1 more: " in hint
    assert hint.count("LayerNormalization") == 1
