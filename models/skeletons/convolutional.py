"""Convolutional skeletons: what couples channels in published networks, at any size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx

from models.skeletons.net import Net

PICTURE = ("batch", 3, 16, 16)


def resnext(width: int = 16, groups: int = 4, blocks: int = 2) -> onnx.ModelProto:
    """Bottlenecks whose 3x3 convolution is grouped (Xie et al. 2017)."""
    net = Net(1)
    x = net.conv_norm(net.input("image", PICTURE, width=3), width, 3)
    for _ in range(blocks):
        y = net.conv_norm(net.conv_norm(x, width), width, 3, groups=groups)
        x = net.node("Relu", net.node("Add", net.norm(net.conv(y, width, bias=False), 0.5), x))
    return net.build(net.head(x, 10), ("batch", 10))


def densenet(growth: int = 8, layers: int = 3, stages: int = 2) -> onnx.ModelProto:
    """Pre-activation layers that all read every earlier one (Huang et al. 2017)."""
    net = Net(2)
    x = net.conv(net.input("image", PICTURE, width=3), 2 * growth, 3)
    for stage in range(stages):
        for _ in range(layers):
            y = net.conv(net.node("Relu", net.norm(x)), 4 * growth, bias=False)
            x = net.concat(x, net.conv(net.node("Relu", net.norm(y)), growth, 3, bias=False))
        x = net.node("Relu", net.norm(x))
        if stage < stages - 1:
            x = net.conv(x, net.width[x] // 2, bias=False)
            x = net.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    return net.build(net.head(x, 10), ("batch", 10))


def shufflenet_v2(width: int = 16, units: int = 2) -> onnx.ModelProto:
    """Halves that are split, worked on, concatenated and shuffled (Ma et al. 2018)."""
    net = Net(3)
    x = net.conv_norm(net.input("image", PICTURE, width=3), width, 3)

    def depthwise(x: str, stride: int = 1) -> str:
        size = net.width[x]
        return net.norm(net.conv(x, size, 3, stride=stride, groups=size, bias=False))

    def shuffle(x: str, side: int) -> str:
        size = net.width[x]
        y = net.node("Reshape", x, net.constant([-1, 2, size // 2, side, side]))
        y = net.node("Transpose", y, perm=[0, 2, 1, 3, 4])
        return net.node("Reshape", y, net.constant([-1, size, side, side]))

    left = net.conv_norm(depthwise(x, 2), width)
    right = net.conv_norm(depthwise(net.conv_norm(x, width), 2), width)
    x = shuffle(net.concat(left, right), 8)
    for _ in range(units):
        half = net.width[x] // 2
        sizes = net.constant([half, half])
        left, right = net.nodes_with("Split", [x, sizes], 2, width=half, axis=1)
        right = net.conv_norm(depthwise(net.conv_norm(right, half)), half)
        x = shuffle(net.concat(left, right), 8)
    return net.build(net.head(net.conv_norm(x, 2 * width), 10), ("batch", 10))


def inception(width: int = 8, blocks: int = 2) -> onnx.ModelProto:
    """Four branches, one with factorised kernels, one of pooling (Szegedy et al. 2016); no bias."""
    net = Net(4)
    x = net.conv_norm(net.input("image", PICTURE, width=3), 2 * width, 3)
    for _ in range(blocks):
        tall = net.conv(net.conv_norm(x, width), width, (1, 5), bias=False)
        pooled = net.node("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        x = net.concat(
            net.conv_norm(x, width),
            net.conv_norm(net.conv_norm(x, width), width + 4, 3),
            net.node("Relu", net.norm(net.conv(tall, width, (5, 1), bias=False))),
            net.conv_norm(pooled, width - 2),
        )
    return net.build(net.head(x, 10), ("batch", 10))


def mobilenet_v3(width: int = 16, expand: int = 3, blocks: int = 2) -> onnx.ModelProto:
    """Inverted residuals with HardSwish and a HardSigmoid channel gate (Howard et al. 2019)."""
    net = Net(5)
    x = net.conv(net.input("image", PICTURE, width=3), width, 3, stride=2, bias=False)
    x = net.node("HardSwish", net.norm(x))
    for _ in range(blocks):
        size = expand * width
        y = net.node("HardSwish", net.norm(net.conv(x, size, bias=False)))
        y = net.node("HardSwish", net.norm(net.conv(y, size, 3, groups=size, bias=False)))
        y = net.gate(y, size // 4, "HardSigmoid")
        x = net.node("Add", net.norm(net.conv(y, width, bias=False)), x)
    x = net.node("Flatten", net.node("GlobalAveragePool", net.conv_norm(x, 2 * width)))
    x = net.node("HardSwish", net.gemm(x, 2 * width))
    return net.build(net.gemm(x, 10), ("batch", 10))


def vgg(width: int = 8) -> onnx.ModelProto:
    """Plain convolutions, then Flatten of channels and pixels together into a Gemm."""
    net = Net(6)
    x = net.input("image", PICTURE, width=3)
    for size in (width, 2 * width):
        for _ in range(2):
            x = net.node("Relu", net.conv(x, size, 3))
        x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Relu", net.gemm(net.node("Flatten", x), 4 * width, inputs=2 * width * 16))
    return net.build(net.gemm(x, 10), ("batch", 10))


def unet(width: int = 8) -> onnx.ModelProto:
    """Two levels down, one up by ConvTranspose and one by Resize, with concatenated skips."""
    net = Net(7)
    pool = partial(net.node, "MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    fine = net.conv_norm(net.input("image", PICTURE, width=3), width, 3)
    middle = net.conv_norm(pool(fine), 2 * width, 3)
    x = net.conv_norm(pool(middle), 4 * width, 3)
    up = net.weight(4 * width, 2 * width, 2, 2, fan=4 * width, gain=1.4)
    bias = net.vector(2 * width, -0.2, 0.2, "bias")
    x = net.node("ConvTranspose", x, up, bias, width=2 * width, kernel_shape=[2, 2], strides=[2, 2])
    x = net.conv_norm(net.concat(middle, x), 2 * width, 3)
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    x = net.node("Resize", x, "", scales, mode="nearest")
    x = net.conv_norm(net.concat(x, fine), width, 3)
    return net.build(net.conv(x, 2), ("batch", 2, 16, 16))


def channels_last(width: int = 12) -> onnx.ModelProto:
    """An NHWC network as tf2onnx writes it: Transpose before and after every convolution."""
    net = Net(8)
    x = net.input("image", ("batch", 16, 16, 3), width=3)
    for size in (width, 2 * width):
        y = net.conv(net.node("Transpose", x, perm=[0, 3, 1, 2]), size, 3, stride=2, bias=False)
        y = net.node("Transpose", y, perm=[0, 2, 3, 1])
        x = net.node("Relu", net.node("Add", y, net.vector(size, -0.2, 0.2, "bias")))
    x = net.node("ReduceMean", x, axes=[1, 2], keepdims=0)
    return net.build(net.dense(x, 10), ("batch", 10))


def resnet(
    depths: Sequence[int] = (1, 1),
    width: int = 8,
    *,
    side: int = 32,
    classes: int = 10,
    folded: bool = False,
) -> onnx.ModelProto:
    """Bottleneck ResNet (He et al. 2016, the stride in the 3x3).

    Args:
        depths: blocks per stage; (3, 4, 6, 3) with ``width=64, side=224`` is shaped as ResNet-50.
        width: inner channels of the first stage.
        side: pixels per side of the picture.
        classes: outputs.
        folded: convolutions with bias instead of batch normalisation.
    """
    net = Net(9)

    def conv(x: str, outputs: int, kernel: int = 1, stride: int = 1, gain: float = 1.0) -> str:
        if folded:
            return net.conv(x, outputs, kernel, stride=stride, gain=1.4 * gain)
        return net.norm(net.conv(x, outputs, kernel, stride=stride, bias=False), gain)

    x = net.input("image", ("batch", 3, side, side), width=3)
    x = net.node("Relu", conv(x, width, 7, 2))
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage, depth in enumerate(depths):
        inner = width << stage
        for block in range(depth):
            stride = 2 if stage and not block else 1
            y = net.node("Relu", conv(x, inner))
            y = net.node("Relu", conv(y, inner, 3, stride))
            y = conv(y, 4 * inner, gain=0.4)
            x = net.node("Relu", net.node("Add", y, x if block else conv(x, 4 * inner, 1, stride)))
    return net.build(net.head(x, classes), ("batch", classes))
