"""Sizes after convolutions, pools and resizing, where inference and onnxruntime round apart."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from onnxprune.graph.shapes import propagate
from onnxprune.model import load
from shape_oracle import Oracle, contradictions

Array = npt.NDArray[Any] | None


def agrees_with_onnxruntime(
    op: str,
    opset: int,
    shape: tuple[int, ...],
    stored: tuple[Array, ...] = (),
    *,
    outputs: int = 1,
    **attributes: Any,
) -> bool:
    """Build the node, hold its facts against a run; False where onnxruntime refuses it."""
    names = ["" if array is None else f"c{index}" for index, array in enumerate(stored)]
    results = [f"y{index}" for index in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names], results, **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=name) for name in results],
        [
            numpy_helper.from_array(a, n)
            for n, a in zip(names, stored, strict=True)
            if a is not None
        ],
    )
    proto = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])
    try:
        oracle = Oracle(proto)
        computed = oracle.run(oracle.feeds({"x": shape}))
    except (
        ort_errors.InvalidArgument,
        ort_errors.InvalidGraph,
        ort_errors.NotImplemented,
        ort_errors.RuntimeException,
    ):
        return False
    facts = propagate(load(proto), {})
    assert contradictions(facts, computed) == [], (op, opset, attributes)
    assert all(facts[name].sizes is not None for name in computed)
    return True


@pytest.mark.parametrize("opset", [10, 12, 22])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pools_round_up_as_onnxruntime_does(op: str, opset: int) -> None:
    ran = 0
    for size, kernel, stride, pads in product((8, 9, 10), (2, 3), (2, 3), ([0, 0], [1, 1], [0, 1])):
        ran += agrees_with_onnxruntime(
            op,
            opset,
            (1, 2, size),
            outputs=2 if op == "MaxPool" else 1,
            kernel_shape=[kernel],
            strides=[stride],
            pads=pads,
            ceil_mode=1,
        )
    assert ran > 20


@pytest.mark.parametrize("pad", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "MaxPool", "AveragePool"])
def test_windows_are_padded_as_onnxruntime_does(op: str, pad: str) -> None:
    ran = 0
    for size, kernel, stride in product((7, 8, 9), (2, 3), (1, 2, 3)):
        weight = np.ones((2, 2, kernel, kernel), np.float32)
        shared: dict[str, Any] = {"auto_pad": pad, "strides": [stride, stride]}
        if op.startswith("Conv"):
            ran += agrees_with_onnxruntime(op, 11, (1, 2, size, size + 1), (weight,), **shared)
        else:
            ran += agrees_with_onnxruntime(
                op, 11, (1, 2, size, size + 1), kernel_shape=[kernel, kernel], **shared
            )
    assert ran > 9


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 19])
def test_scaled_sizes_round_as_onnxruntime_does(opset: int) -> None:
    ran = 0
    for size, scale in product((5, 9, 10, 13), (0.3, 0.6, 0.7, 1.1, 2.0, 3.3)):
        shape = (1, 2, size, size + 1)
        scales = np.array([1, 1, scale, scale], np.float32)
        if opset == 7:
            ran += scale >= 1 and agrees_with_onnxruntime(
                "Upsample", opset, shape, scales=scales.tolist()
            )
        elif opset <= 10:
            op = "Upsample" if opset == 9 else "Resize"
            if op == "Resize" or scale >= 1:
                ran += agrees_with_onnxruntime(op, opset, shape, (scales,))
        else:
            region = np.zeros(0, np.float32)  # may be left out from opset 13 on
            ran += agrees_with_onnxruntime("Resize", opset, shape, (region, scales))
    assert ran > 9


def test_resizing_some_axes_leaves_the_others() -> None:
    scales = np.array([0.7], np.float32)
    sizes = np.array([5, 9], np.int64)
    assert agrees_with_onnxruntime("Resize", 18, (1, 2, 10, 11), (None, scales), axes=[-2])
    assert agrees_with_onnxruntime(
        "Resize",
        18,
        (1, 2, 10, 11),
        (None, None, sizes),
        axes=[2, 3],
        keep_aspect_ratio_policy="not_larger",
    )
