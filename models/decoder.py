"""The character language model, in torch: a small Llama.

Grouped-query attention (Ainslie et al. 2023), rotary positions (Su et al. 2021), RMSNorm, SwiGLU
(Shazeer 2020), a causal mask, and one matrix for the embedding and the output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

LONGEST = 256  # characters that the rotary tables cover


@dataclass(frozen=True)
class Size:
    """Widths of a decoder; ``heads`` is a multiple of ``kv_heads``, ``head`` is even."""

    layers: int = 3
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    head: int = 16
    hidden: int = 256
    vocabulary: int = 96


class RmsNorm(nn.Module):
    """x / rms(x) * weight, over the last axis (Zhang and Sennrich 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to the same shape."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the halves of [batch, heads, length, head] by angles given as [length, head]."""
    half = x.shape[3] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * cos + turned * sin


class DecoderLayer(nn.Module):
    """Pre-norm attention and gated feed-forward, each on a residual stream."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size, width, head = size, size.width, size.head
        self.norm1, self.norm2 = RmsNorm(width), RmsNorm(width)
        self.query = nn.Linear(width, size.heads * head, bias=False)
        self.key = nn.Linear(width, size.kv_heads * head, bias=False)
        self.value = nn.Linear(width, size.kv_heads * head, bias=False)
        self.out = nn.Linear(size.heads * head, width, bias=False)
        self.gate = nn.Linear(width, size.hidden, bias=False)
        self.up = nn.Linear(width, size.hidden, bias=False)
        self.down = nn.Linear(size.hidden, width, bias=False)

    def split(self, x: Tensor, heads: int) -> Tensor:
        """[batch, length, heads * head] to [batch, heads, length, head]."""
        return x.view(x.shape[0], x.shape[1], heads, self.size.head).transpose(1, 2)

    def repeat(self, x: Tensor) -> Tensor:
        """[batch, kv_heads, length, head] to [batch, heads, length, head]."""
        batch, kv_heads, length, head = x.shape
        copies = self.size.heads // self.size.kv_heads
        wide = x[:, :, None].expand(batch, kv_heads, copies, length, head)
        return wide.reshape(batch, self.size.heads, length, head)

    def forward(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[batch, length, width] to the same shape; the mask [length, length] is added."""
        size, y = self.size, self.norm1(x)
        q = rotate(self.split(self.query(y), size.heads), cos, sin)
        k = self.repeat(rotate(self.split(self.key(y), size.kv_heads), cos, sin))
        v = self.repeat(self.split(self.value(y), size.kv_heads))
        weights = torch.softmax(q @ k.transpose(2, 3) * size.head**-0.5 + mask, -1)
        mixed = (
            (weights @ v).transpose(1, 2).reshape(x.shape[0], x.shape[1], size.heads * size.head)
        )
        x = x + self.out(mixed)
        y = self.norm2(x)
        z: Tensor = x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))
        return z


class Decoder(nn.Module):
    """Codes [batch, length] to logits [batch, length, vocabulary], length at most ``LONGEST``."""

    cos: Tensor
    sin: Tensor

    def __init__(self, size: Size | None = None) -> None:
        super().__init__()
        size = size or Size()
        self.embedding = nn.Embedding(size.vocabulary, size.width)
        self.layers = nn.ModuleList(DecoderLayer(size) for _ in range(size.layers))
        self.norm = RmsNorm(size.width)
        rate = 10000.0 ** (-torch.arange(0, size.head, 2) / size.head)
        angle = torch.outer(torch.arange(LONGEST), rate).repeat(1, 2)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())
        for weight in self.parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=0.05)

    def forward(self, tokens: Tensor) -> Tensor:
        """Codes to logits."""
        x = self.embedding(tokens)
        length = tokens.shape[1]
        mask = torch.triu(torch.full((length, length), -1e9, device=x.device), 1)
        for layer in self.layers:
            x = layer(x, mask, self.cos[:length], self.sin[:length])
        return nn.functional.linear(self.norm(x), self.embedding.weight)
