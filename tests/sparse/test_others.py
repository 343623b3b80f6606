"""Shares of zeros in weights that no layer has to itself, or that no least squares fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper as oh
from onnx import numpy_helper as nh

import onnxprune
from onnxprune import model as models
from onnxprune.quantities import Sparsity
from onnxprune.sparse.sparsify import sparsify

Node = oh.make_node


def network(kind: str) -> onnx.ModelProto:
    """One layer of a kind whose weight is called W, on inputs [n, 16]."""
    rng = np.random.default_rng(0)
    stored: dict[str, Any] = {"W": rng.standard_normal((16, 16)).astype(np.float32)}
    if kind == "shared":
        nodes = [Node("MatMul", ["x", "W"], ["a"]), Node("Relu", ["a"], ["b"]),
                 Node("MatMul", ["b", "W"], ["y"])]  # fmt: skip
    elif kind == "transposed":
        nodes = [Node("MatMul", ["x", "W"], ["a"]), Node("Relu", ["a"], ["b"]),
                 Node("Gemm", ["b", "W"], ["y"], transB=1)]  # fmt: skip
    elif kind == "einsum":
        nodes = [Node("Einsum", ["x", "W"], ["y"], equation="nk,ko->no")]
    elif kind == "experts":
        stored["W"] = rng.standard_normal((3, 16, 16)).astype(np.float32)
        stored["axes"] = np.array([0], np.int64)
        nodes = [Node("MatMul", ["x", "W"], ["a"]),
                 Node("ReduceSum", ["a", "axes"], ["y"], keepdims=0)]  # fmt: skip
    elif kind == "quantized":
        stored["W"] = rng.integers(-100, 100, (16, 16)).astype(np.int8)
        stored["s"] = np.geomspace(0.001, 0.1, 16).astype(np.float32)
        nodes = [Node("DequantizeLinear", ["W", "s"], ["w"], axis=1),
                 Node("MatMul", ["x", "w"], ["y"])]  # fmt: skip
    elif kind == "LSTM":
        stored["W"] = rng.standard_normal((1, 64, 16)).astype(np.float32)
        stored["R"] = rng.standard_normal((1, 64, 16)).astype(np.float32)
        stored["axes"] = np.array([0], np.int64)
        nodes = [Node("Unsqueeze", ["x", "axes"], ["t"]),
                 Node("LSTM", ["t", "W", "R"], ["", "h"], hidden_size=16),
                 Node("Squeeze", ["h", "axes"], ["y"])]  # fmt: skip
    else:
        value = oh.make_tensor_value_info
        stored |= {"trips": np.array(2), "yes": np.array(True)}
        body = oh.make_graph(
            [Node("MatMul", ["s", "W"], ["next"]), Node("Identity", ["go"], ["on"])],
            "body",
            [value("i", 7, []), value("go", 9, []), value("s", 1, ["n", 16])],
            [value("on", 9, []), value("next", 1, ["n", 16])],
        )
        nodes = [Node("Loop", ["trips", "yes", "x"], ["y"], body=body)]
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info("x", 1, ["n", 16])],
        [oh.make_tensor_value_info("y", 1, ["n", 16])],
        [nh.from_array(array, name) for name, array in stored.items()],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


KINDS = ("shared", "transposed", "einsum", "experts", "quantized", "LSTM", "loop")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_the_smallest_elements_go_and_the_others_stay(kind: str, share: float) -> None:
    proto = network(kind)
    before = {t.name: nh.to_array(t) for t in proto.graph.initializer}["W"]
    sparse = sparsify(models.load(proto), Sparsity(share))
    values = models.constants(sparse.model)
    after = models.array_of(values["W"])
    gone = after != before
    assert gone.sum() == pytest.approx(share * before.size, abs=1 + int((before == 0).sum()))
    assert not after[gone].any()
    if kind != "quantized":
        assert np.abs(before[gone]).max() <= np.abs(before[~gone]).min()
    else:  # what counts is the product with the scale of the column
        size = np.abs(before.astype(float)) * np.geomspace(0.001, 0.1, 16)
        assert size[gone].max() <= size[~gone & (before != 0)].min() * (1 + 1e-6)
    assert (sparse.masks["W"].unpack() == ~gone)[before != 0].all()


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_the_weights_go_with_data_too(kind: str) -> None:
    rng = np.random.default_rng(1)
    batches = [{"x": rng.standard_normal((8, 16)).astype(np.float32)} for _ in range(4)]
    result = onnxprune.prune(network(kind), sparsity="50%", calib=batches)
    assert "W" in result.plan.zeroed
    after = models.array_of(models.constants(result.model)["W"])
    assert (after == 0).mean() >= 0.5 - 1 / after.size
