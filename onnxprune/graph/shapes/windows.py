"""Convolutions, pools and resizing: whether a window fits, and how many places it has.

onnx infers a shape for a window larger than what it looks at, keeps a last window that onnxruntime
drops, and rounds scaled sizes in another precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.shapes.call import (
    Check,
    InconsistentError,
    Inputs,
    attributes_of,
    require,
    sizes_of,
)
from onnxprune.graph.shapes.facts import Fact


def _convolution(weight_at: int) -> Check:
    """Conv and its quantized forms: input channels, and at least one place for the window."""

    def check(node: onnx.NodeProto, inputs: Inputs, fact: Fact) -> Fact:
        x, weight = sizes_of(inputs, 0), sizes_of(inputs, weight_at)
        if x is not None and weight is not None and len(x) > 2 and len(weight) == len(x):
            attributes = attributes_of(node)
            require(x[1], weight[1] * attributes.get("group", 1), "channels")
            _window(x[2:], weight[2:], attributes, fact)
        return fact

    return check


def _pool(node: onnx.NodeProto, inputs: Inputs, fact: Fact) -> Fact:
    """Pools: at least one place for the window.

    Rounding up, a last window that would start in the padding is left out by onnxruntime (and
    PyTorch), which onnx's inference forgets.
    """
    x = sizes_of(inputs, 0)
    if x is None or len(x) < 3:
        return fact
    attributes = attributes_of(node)
    _window(x[2:], attributes.get("kernel_shape", ()), attributes, fact)
    if not attributes.get("ceil_mode", 0) or fact.sizes is None:
        return fact
    rank = len(x) - 2
    strides = attributes.get("strides", [1] * rank)
    before = attributes.get("pads", [0] * rank)
    places = [
        out - ((out - 1) * strides[axis] >= x[axis + 2] + before[axis])
        for axis, out in enumerate(fact.sizes[2:])
    ]
    return Fact((*fact.sizes[:2], *places), fact.dtype)


def _window(
    x: Sequence[int], kernel: Sequence[int], attributes: Mapping[str, Any], fact: Fact
) -> None:
    """Refuse a window that does not fit once, and outputs without elements."""
    rank = len(x)
    pads = attributes.get("pads", [0] * 2 * rank)
    dilations = attributes.get("dilations", [1] * rank)
    fixed = attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID", b"")
    if fixed and not attributes.get("ceil_mode", 0) and len(kernel) == rank:
        for axis in range(rank):
            reach = dilations[axis] * (kernel[axis] - 1) + 1
            room = x[axis] + pads[axis] + pads[axis + rank]
            if room < reach:
                raise InconsistentError(f"a window of {reach} does not fit into {room}")
    if 0 not in x and fact.shape is not None and 0 in fact.shape:
        raise InconsistentError(f"nothing is left of an input of {tuple(x)}")


def _transposed(_: onnx.NodeProto, inputs: Inputs, fact: Fact) -> Fact:
    x, weight = sizes_of(inputs, 0), sizes_of(inputs, 1)
    if x is not None and weight is not None and len(x) > 1 and weight:
        require(x[1], weight[0], "channels")
    return fact


def _resize(node: onnx.NodeProto, inputs: Inputs, fact: Fact) -> Fact:
    """Resize and Upsample by scales: sizes are rounded down in single precision.

    onnx's inference multiplies in double precision, where 10 times 0.7 is less than 7.
    """
    x, attributes = sizes_of(inputs, 0), attributes_of(node)
    scales = attributes.get("scales")
    for stated in inputs[1:3]:  # the second is the region where the third is the scales
        if stated is not None and stated.value is not None and stated.value.size:
            scales = stated.value
    axes = attributes.get("axes", range(len(x or ())))
    by_region = attributes.get("coordinate_transformation_mode") == b"tf_crop_and_resize"
    sized = len(inputs) > 3 and inputs[3] is not None
    if x is None or fact.sizes is None or scales is None or by_region or sized:
        return fact
    if len(scales) != len(axes):
        return fact
    sizes = list(x)
    for axis, scale in zip(axes, scales, strict=True):
        sizes[axis] = int(np.float32(x[axis]) * np.float32(scale))
    return Fact(tuple(sizes), fact.dtype)


WINDOW_CHECKS: Mapping[str, Check] = {
    "AveragePool": _pool,
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "ConvTranspose": _transposed,
    "LpPool": _pool,
    "MaxPool": _pool,
    "QLinearConv": _convolution(3),
    "Resize": _resize,
    "Upsample": _resize,
}
