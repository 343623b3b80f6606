"""Convolutional networks as torchvision writes them, and ShuffleNet V1, which it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bench.zoo.network import Network, vision


def resnet(size: int, divide: int, unit: str, **config: Any) -> Network:
    """ResNet and ResNeXt; every stage's width divided by `divide` (1 = as published)."""
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    class Narrow(ResNet):
        def _make_layer(self, block: Any, planes: int, *rest: Any, **more: Any) -> nn.Sequential:
            return super()._make_layer(block, planes // divide, *rest, **more)

    block = {"basic": BasicBlock, "bottleneck": Bottleneck}[unit]
    module = Narrow(block, **config)
    module.fc = nn.Linear(512 // divide * block.expansion, module.fc.out_features)
    return vision(module, size)


def densenet(size: int, **config: Any) -> Network:
    from torchvision.models import DenseNet

    return vision(DenseNet(**config), size)


def googlenet(size: int, divide: int, num_classes: int) -> Network:
    from torchvision.models.googlenet import BasicConv2d, GoogLeNet, Inception

    def conv(inputs: int, outputs: int, **more: Any) -> nn.Module:
        return BasicConv2d(inputs if inputs == 3 else inputs // divide, outputs // divide, **more)

    def inception(*widths: int) -> nn.Module:
        return Inception(*(w // divide for w in widths))

    module = GoogLeNet(
        num_classes, aux_logits=False, init_weights=False, blocks=[conv, inception, nn.Identity]
    )
    module.fc = nn.Linear(1024 // divide, num_classes)
    return vision(module, size)


def mobilenet_v2(size: int, **config: Any) -> Network:
    from torchvision.models import MobileNetV2

    return vision(MobileNetV2(**config), size)


def mobilenet_v3(size: int, rows: Sequence[tuple[Any, ...]], last: int, **more: Any) -> Network:
    """`rows`: torchvision's InvertedResidualConfig, positionally, without the width multiplier."""
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    rows = [InvertedResidualConfig(*row, 1.0) for row in rows]
    return vision(MobileNetV3(rows, last, **more), size)


def efficientnet(size: int, rows: Sequence[tuple[int, ...]], last: int, **more: Any) -> Network:
    """`rows`: expansion, kernel, stride, input channels, output channels, layers."""
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    module = EfficientNet([MBConvConfig(*r) for r in rows], 0.0, last_channel=last, **more)
    return vision(module, size)


def regnet(size: int, stem: int, num_classes: int, **params: Any) -> Network:
    """RegNetX, or RegNetY where `se_ratio` is given."""
    from torchvision.models.regnet import BlockParams, RegNet

    blocks = BlockParams.from_init_params(**params)
    return vision(RegNet(blocks, num_classes, stem_width=stem), size)


def convnext(size: int, rows: Sequence[tuple[int, int | None, int]], **more: Any) -> Network:
    """`rows`: input channels, output channels, layers of each stage."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return vision(ConvNeXt([CNBlockConfig(*row) for row in rows], **more), size)


def shufflenet_v2(size: int, **config: Any) -> Network:
    from torchvision.models import ShuffleNetV2

    return vision(ShuffleNetV2(**config), size)


class _ShuffleUnit(nn.Module):
    """ShuffleNet V1's unit (Zhang et al. 2018, figure 2b and 2c)."""

    def __init__(self, inputs: int, outputs: int, groups: int, stride: int) -> None:
        super().__init__()
        self.groups, self.stride = groups, stride
        outputs -= inputs if stride == 2 else 0
        middle = outputs // 4 // groups * groups
        self.reduce = nn.Conv2d(inputs, middle, 1, groups=groups, bias=False)
        self.depthwise = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False)
        self.expand = nn.Conv2d(middle, outputs, 1, groups=groups, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (middle, middle, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norms[0](self.reduce(x)))
        n, c, h, w = y.shape
        y = y.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        y = self.norms[2](self.expand(self.norms[1](self.depthwise(y))))
        if self.stride == 1:
            return torch.relu(x + y)
        skip = nn.functional.avg_pool2d(x, 3, stride=2, padding=1)
        return torch.relu(torch.cat((skip, y), 1))


def shufflenet_v1(
    size: int, groups: int, repeats: Sequence[int], widths: Sequence[int], num_classes: int
) -> Network:
    stem = nn.Sequential(
        nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    )
    units, inputs = [], 24
    for repeat, width in zip(repeats, widths, strict=True):
        for i in range(repeat):
            units.append(_ShuffleUnit(inputs, width, groups, 2 if i == 0 else 1))
            inputs = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes)]
    return vision(nn.Sequential(stem, *units, *head), size)
