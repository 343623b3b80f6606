"""The four digit classifiers, in torch.

All take pictures [batch, 1, 16, 16] and give logits [batch, 10].
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.digits import SIDE

CLASSES = 10


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """A same-padded convolution without bias, followed by batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class SqueezeExcite(nn.Module):
    """Channel gate (Hu et al. 2018, section 3): global mean, bottleneck, sigmoid, multiply."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] to the same shape."""
        y: Tensor = x * self.gate(x)
        return y


class Residual(nn.Module):
    """Two 3x3 convolutions (and a channel gate) beside an identity or 1x1-projected shortcut."""

    def __init__(
        self, inputs: int, inner: int, outputs: int, stride: int = 1, gate: int = 0
    ) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *conv_bn(inputs, inner, 3, stride),
            nn.ReLU(),
            *conv_bn(inner, outputs, 3),
            *([SqueezeExcite(outputs, gate)] if gate else []),
        )
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else nn.Sequential(*conv_bn(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] to [n, outputs, h / stride, w / stride]."""
        return torch.relu(self.branch(x) + self.skip(x))


class Inverted(nn.Module):
    """MobileNetV2 block: 1x1 expansion, depthwise 3x3, linear 1x1 projection, identity shortcut."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *conv_bn(channels, inner, 1),
            nn.ReLU6(),
            *conv_bn(inner, inner, 3, groups=inner),
            nn.ReLU6(),
            *conv_bn(inner, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] to the same shape."""
        y: Tensor = x + self.branch(x)
        return y


class Fork(nn.Module):
    """A depthwise-separable branch and a 1x1 branch, concatenated."""

    def __init__(self, inputs: int, each: int) -> None:
        super().__init__()
        self.separable = nn.Sequential(
            *conv_bn(inputs, inputs, 3, groups=inputs), nn.ReLU(), *conv_bn(inputs, each, 1)
        )
        self.point = nn.Sequential(*conv_bn(inputs, each, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] to [n, 2 * each, h, w]."""
        return torch.relu(torch.cat([self.separable(x), self.point(x)], 1))


class ResCnn(nn.Module):
    """Residual CNN: plain and projected shortcuts, gate, concat, inverted block, separable."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn(1, 32, 3),
            nn.ReLU(),
            Residual(32, 32, 32),
            Residual(32, 64, 64, stride=2, gate=16),
            Fork(64, 32),
            Inverted(64, 128),
            *conv_bn(64, 64, 3, stride=2, groups=64),
            nn.ReLU(),
            *conv_bn(64, 96, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(96, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Pictures to logits."""
        logits: Tensor = self.head(self.body(image))
        return logits


class Mlp(nn.Module):
    """Flatten and three hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        widths = (SIDE * SIDE, 256, 192, 128)
        hidden = [
            layer
            for inputs, outputs in pairwise(widths)
            for layer in (nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(0.1))
        ]
        self.body = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(widths[-1], CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        """Pictures to logits."""
        logits: Tensor = self.body(image)
        return logits


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer with one fused query-key-value projection."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """[n, length, width] to the same shape."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5
        mixed = (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(mixed)
        y: Tensor = x + self.ffn(self.norm2(x))
        return y


class Encoder(nn.Module):
    """A small ViT: 4x4 patches by a strided convolution, class token, learned positions."""

    def __init__(self, width: int = 64, heads: int = 4, hidden: int = 256, layers: int = 3) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 4, 4)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, (SIDE // 4) ** 2 + 1, width))
        self.layers = nn.ModuleList(EncoderLayer(width, heads, hidden) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Pictures to logits."""
        patches = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(image.shape[0], -1, -1), patches], 1) + self.position
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits


class RowLstm(nn.Module):
    """Two bidirectional LSTM layers that read a picture row by row, then the mean over rows."""

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.lstm = nn.LSTM(SIDE, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Pictures to logits."""
        rows, _ = self.lstm(image.squeeze(1))
        logits: Tensor = self.head(rows.mean(1))
        return logits
