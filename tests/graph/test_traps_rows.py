"""Rows that are addressed while the model runs: features behind them leave, rows do not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models.skeletons.net import Net
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.cost import CostModel
from verified_cuts import verified_cut

UNSEEN = ({"nodes": 8, "edges": 3}, {"nodes": 17, "edges": 31})


def test_gathered_nodes_lose_features() -> None:
    """The messages of a graph network: GatherND along edges, MatMul, ScatterND into nodes."""
    net = Net(61, opset=18)
    x = net.node("Relu", net.dense(net.input("x", ("nodes", 6), width=6), 10))
    index = net.input("index", ("edges", 1), TensorProto.INT64)
    message = net.node("Relu", net.dense(net.node("GatherND", x, index), 12))
    zeros = net.node("Sub", net.dense(x, 12), net.dense(x, 12))
    total = net.node("ScatterND", zeros, index, message, reduction="add")
    result = verified_cut(net.build(net.dense(total, 5), ("nodes", 5)), unseen=UNSEEN, high=2)
    assert result.kinds == {"ffn": 4 + 4}


def test_an_index_repeated_along_features_loses_them_too() -> None:
    """As PyTorch exports scatter_add: the index is expanded to the shape of the messages."""
    net = Net(62, opset=18)
    x = net.node("Relu", net.dense(net.input("x", ("nodes", 6), width=6), 10))
    index = net.input("index", ("edges", 1), TensorProto.INT64)
    wide = net.node("Expand", index, net.constant([1, 10]))
    messages = net.node("GatherElements", x, wide, width=10, axis=0)
    total = net.node("ScatterElements", x, wide, messages, axis=0, reduction="add")
    result = verified_cut(net.build(net.dense(total, 5), ("nodes", 5)), unseen=UNSEEN, high=2)
    assert result.kinds == {"ffn": 4}


def test_an_index_of_fewer_features_keeps_all() -> None:
    net = Net(63, opset=18)
    x = net.node("Relu", net.dense(net.input("x", ("nodes", 6), width=6), 10))
    narrow = net.constant(np.zeros((3, 4), np.int64))
    picked = net.node("GatherElements", x, narrow, width=4, axis=0)
    result = verified_cut(net.build(net.dense(picked, 5), (3, 5)), unseen=UNSEEN)
    assert result.units == 0
    assert "GatherElements" in result.why("MatMul", 0, 1)


@pytest.mark.parametrize("group", [1, 2])
def test_deformed_convolutions_lose_channels(group: int) -> None:
    """Offsets are predicted from the same channels, and lose none of their own."""
    net = Net(64, opset=19)
    x = net.node("Relu", net.conv(net.input("x", ("batch", 3, 8, 8), width=3), 12, 3))
    offsets = net.conv(x, 18, 3, gain=0.3)
    weight = net.weight(10, 12 // group, 3, 3, fan=108 // group)
    pads = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3], "group": group}
    y = net.node("Relu", net.node("DeformConv", x, weight, offsets, width=10, **pads))
    result = verified_cut(net.build(net.head(y, 4), ("batch", 4)))
    assert result.units == {1: 4 + 4, 2: 5}[group]  # as in a plain convolution


def test_classic_preprocessing_has_a_shape() -> None:
    """scikit-learn's scaler in front of a network."""
    net = Net(65)
    net.opsets.append(helper.make_opsetid("ai.onnx.ml", 3))
    x = net.input("x", ("batch", 6), width=6)
    offsets = {"offset": [0.1] * 6, "scale": [1.5] * 6}
    x = net.node("Scaler", x, domain="ai.onnx.ml", **offsets)
    x = net.node("Normalizer", x, domain="ai.onnx.ml", norm="L2")
    hidden = net.node("Relu", net.dense(x, 10))
    assert verified_cut(net.build(net.dense(hidden, 3), ("batch", 3))).kinds == {"ffn": 4}


CORNERS = np.array([0, 0, 2, 2], np.float32)


def boxes(net: Net, target: str) -> tuple[onnx.ModelProto, str]:
    """A detector's second stage: boxes that survive, RoiAlign, Flatten, two dense layers."""
    picture = net.input("x", ("batch", 3, 16, 16), width=3)
    features = net.node("Relu", net.conv(picture, 12, 3))
    places = net.input("boxes", (1, "found", 4), width=4)
    scores = net.input("scores", (1, 1, "found"))
    most = net.constant(np.array([9], np.int64))
    chosen = net.node("NonMaxSuppression", places, scores, most)
    rows = net.node("Gather", chosen, net.constant([2]), axis=1)
    rows = net.node("Squeeze", rows, net.constant([1]))
    flat = net.node("Squeeze", places, net.constant([0]))
    near = net.node("Sigmoid", net.node("Gather", flat, rows))
    rois = net.node("Mul", net.node("Add", near, net.constant(CORNERS)), net.scalar(3.0))
    zeros = net.node("Mul", rows, net.constant(np.array(0, np.int64)))
    y = net.node("RoiAlign", features, rois, zeros, width=12, output_height=2, output_width=2)
    if target == "flatten":
        y = net.node("Flatten", y, width=48)
    else:
        y = net.node("Reshape", y, net.constant([0 if target == "copied" else -1, 48]), width=48)
        if target == "copied":
            net.nodes[-1].input[1] = net.constant([0, -1])
    y = net.node("Relu", net.gemm(y, 10))
    return net.build(net.gemm(y, 5), ("kept", 5)), features


@pytest.mark.parametrize("target", ["flatten", "copied", "inferred"])
def test_features_of_boxes_that_are_chosen_while_the_model_runs(target: str) -> None:
    """Their number is unknown; channels are merged with the places behind it and can leave."""
    model, _ = boxes(Net(66), target)
    result = verified_cut(model, unseen=({"batch": 1, "found": 6, "kept": 6},))
    assert result.kinds == {"channel": 4, "ffn": 4}
    with pytest.raises(OnnxpruneError, match="cannot be counted"):
        CostModel(result.analysis).require_counted("macs")
    CostModel(result.analysis).require_counted("params")
