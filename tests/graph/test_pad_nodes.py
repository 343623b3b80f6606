"""Zeros that a Pad adds count as the padding of the convolution that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune import model as models
from onnxprune.graph.analysis import analyse
from onnxprune.graph.layers.linear import find_layers
from onnxprune.graph.layers.pad_nodes import unpadded_layers
from onnxprune.runtime import open_session

Array = npt.NDArray[Any]
EVEN = (0, 0, 1, 1, 0, 0, 1, 1)
UNEVEN = (0, 0, 0, 2, 0, 0, 1, 3)


def padded(
    pads: Sequence[int],
    *,
    opset: int = 17,
    computed: bool = False,
    level: float | None = None,
    twice: bool = False,
    shown: bool = False,
    pad: dict[str, Any] | None = None,
    conv: dict[str, Any] | None = None,
    axes: Sequence[int] = (),
) -> onnx.ModelProto:
    """A Pad and a convolution behind it."""
    rng = np.random.default_rng(0)
    stored = {"w": rng.standard_normal((5, 3, 3, 2)), "b": rng.standard_normal(5)}
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in stored.items()]
    nodes, inputs = [], ["x"]
    attributes: dict[str, Any] = dict(pad or {})
    if opset < 11:
        attributes |= {"pads": list(pads)} | ({} if level is None else {"value": level})
    else:
        halves = np.split(np.array(pads, np.int64), 2)
        for at, half in enumerate(halves):
            tensors.append(numpy_helper.from_array(half, f"half{at}"))
        tensors.append(numpy_helper.from_array(np.array(pads, np.int64), "pads"))
        nodes.append(helper.make_node("Concat", ["half0", "half1"], ["both"], axis=0))
        inputs += ["both" if computed else "pads", "" if level is None else "level"]
        tensors.append(numpy_helper.from_array(np.array(level or 0.0, np.float32), "level"))
        if axes:
            inputs.append("axes")
            tensors.append(numpy_helper.from_array(np.array(axes, np.int64), "axes"))
    while inputs[-1] == "":
        inputs.pop()
    nodes.append(helper.make_node("Pad", inputs, ["p"], **attributes))
    nodes.append(helper.make_node("Conv", ["p", "w", "b"], ["y"], **(conv or {})))
    outputs = ["y"] + (["p"] if shown else [])
    if twice:
        nodes.append(helper.make_node("Relu", ["p"], ["z"]))
        outputs.append("z")
    used = {name for node in nodes for name in node.input}
    return helper.make_model(
        helper.make_graph(
            nodes,
            "padded",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 6, 7])],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4)
                for name in outputs
            ],
            [tensor for tensor in tensors if tensor.name in used],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )


@pytest.mark.parametrize(
    "case",
    [
        {"pads": EVEN},
        {"pads": UNEVEN},
        {"pads": UNEVEN, "opset": 10},
        {"pads": UNEVEN, "opset": 10, "level": 0.0},
        {"pads": UNEVEN, "computed": True},
        {"pads": UNEVEN, "level": 0.0},
        {"pads": UNEVEN, "pad": {"mode": "constant"}},
        {"pads": UNEVEN, "conv": {"pads": [2, 0, 1, 1], "strides": [2, 1]}},
        {"pads": UNEVEN, "conv": {"auto_pad": "VALID", "dilations": [1, 2]}},
        {"pads": (1, 2, 0, 3), "opset": 18, "axes": (-1, 2), "level": 0.0},
    ],
)
def test_rows_before_the_pad_are_what_the_convolution_multiplies(case: dict[str, Any]) -> None:
    analysis = analyse(models.load(padded(**case)))
    (layer,) = unpadded_layers(analysis.model, analysis.facts)
    assert layer.x == "x"
    x = np.random.default_rng(1).standard_normal((2, 3, 6, 7)).astype(np.float32)
    wanted = open_session(analysis.model).run({"x": x})["y"]
    weight, bias = (models.constant(models.constants(analysis.model)[name]) for name in "wb")
    assert weight is not None
    assert bias is not None
    made = layer.rows(x)[0] @ layer.matrix(weight.numpy())[0] + bias.numpy()
    assert layer.out_sizes(x.shape) == wanted.shape[2:]
    np.testing.assert_allclose(made, np.moveaxis(wanted, 1, -1).reshape(-1, 5), atol=1e-5)


@pytest.mark.parametrize(
    "case",
    [
        {"pads": EVEN, "pad": {"mode": "reflect"}},
        {"pads": EVEN, "pad": {"mode": "edge"}},
        {"pads": EVEN, "level": 1.0},
        {"pads": EVEN, "opset": 10, "level": 1.0},
        {"pads": (1, 0, 1, 1, 0, 0, 1, 1)},
        {"pads": (0, 0, 1, -1, 0, 0, 1, 1)},
        {"pads": EVEN, "twice": True},
        {"pads": EVEN, "shown": True},
        {"pads": EVEN, "conv": {"auto_pad": "SAME_UPPER"}},
    ],
)
def test_other_pads_are_left_in_the_way(case: dict[str, Any]) -> None:
    analysis = analyse(models.load(padded(**case)))
    assert unpadded_layers(analysis.model, analysis.facts) == find_layers(analysis.model)


def test_a_chain_of_pads_is_seen_through() -> None:
    proto = padded(UNEVEN)
    proto.graph.node.insert(
        len(proto.graph.node) - 1, helper.make_node("Pad", ["p", "pads"], ["q"])
    )
    proto.graph.node[-1].input[0] = "q"
    analysis = analyse(models.load(proto))
    (layer,) = unpadded_layers(analysis.model, analysis.facts)
    assert layer.x == "x"
    assert layer.window is not None
    assert layer.window.pads == (0, 4, 2, 6)
