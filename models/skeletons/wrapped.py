"""Skeletons whose weights or layers are not plain initializers and nodes of the main graph."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from models.skeletons.net import BOOL, FLOAT, Net

PICTURE = ("batch", 3, 16, 16)


def quantized(width: int = 16) -> onnx.ModelProto:
    """QDQ format: int8 weights with a scale per output channel, uint8 activations, int32 biases."""
    net = Net(40)
    step = net.scalar(0.05)
    zero = net.constant(np.array(128, np.uint8))

    def activation(x: str) -> str:
        return net.node("DequantizeLinear", net.node("QuantizeLinear", x, step, zero), step, zero)

    def conv(x: str, outputs: int, kernel: int, groups: int = 1) -> str:
        inputs = net.width[x] // groups
        shape = (outputs, inputs, kernel, kernel)
        dense = net.rng.standard_normal(shape, np.float32) * (2 / (inputs * kernel**2)) ** 0.5
        scale = np.abs(dense).max((1, 2, 3)) / 127
        codes = np.rint(dense / scale[:, None, None, None]).astype(np.int8)
        scales = net.constant(scale.astype(np.float32), "scale")
        zeros = net.constant(np.zeros(outputs, np.int8), "zero")
        weight = net.node("DequantizeLinear", net.constant(codes, "codes"), scales, zeros, axis=0)
        offset = net.constant(net.rng.integers(-400, 400, outputs, np.int32), "bias")
        sizes = net.constant((scale * 0.05).astype(np.float32), "scale")
        bias = net.node("DequantizeLinear", offset, sizes, axis=0)
        pads = [kernel // 2] * 4
        return net.node("Conv", x, weight, bias, width=outputs, pads=pads, group=groups)

    x = activation(net.input("image", PICTURE, width=3))
    x = activation(net.node("Relu", conv(x, width, 3)))
    y = activation(net.node("Relu", conv(x, width, 3, groups=width)))
    y = activation(conv(y, width, 1))
    x = activation(net.node("Relu", net.node("Add", x, y)))
    return net.build(net.head(x, 10), ("batch", 10))


def branched(width: int = 12) -> onnx.ModelProto:
    """An If whose branches read an activation and a weight of the outer graph.

    The input "deep" (a bool of rank 0) chooses between a convolution and a scaling.
    """
    net = Net(41)
    deep = net.input("deep", (), BOOL)
    x = net.conv_norm(net.input("image", PICTURE, width=3), width, 3)
    shared = net.vector(width, 0.5, 1.5, "shared")
    scale = net.node("Reshape", shared, net.constant([1, width, 1, 1]))

    def branch(name: str, inner: Net, y: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(y, FLOAT, ("batch", width, 16, 16))
        return helper.make_graph(inner.nodes, name, [], [output], inner.initializers)

    yes, no = Net(42), Net(43)
    for inner in (yes, no):
        inner.width[x] = width
        inner.count = 1000 if inner is yes else 2000  # names must not shadow the outer graph's
    inside = yes.conv(yes.conv_norm(x, 2 * width, 3), width)
    then_branch = branch("then", yes, yes.node("Mul", inside, scale))
    else_branch = branch("else", no, no.node("Mul", x, scale))
    y = net.node("If", deep, width=width, then_branch=then_branch, else_branch=else_branch)
    y = net.node("Relu", net.node("Add", y, x))
    return net.build(net.head(y, 10), ("batch", 10))
