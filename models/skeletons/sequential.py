"""Skeletons of transformers and recurrent networks."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx

from models.skeletons.net import INT64, Net


def glu_ffn(width: int = 16, hidden: int = 24, layers: int = 2) -> onnx.ModelProto:
    """Gated feed-forward layers whose gate and value come out of one MatMul, then are split."""
    net = Net(20)
    x = net.input("x", ("batch", "length", width), width=width)
    for _ in range(layers):
        both = net.dense(net.layer_norm(x), 2 * hidden)
        sizes = net.constant([hidden, hidden])
        gate, value = net.nodes_with("Split", [both, sizes], 2, width=hidden, axis=-1)
        y = net.node("Mul", net.node("Mul", gate, net.node("Sigmoid", gate)), value)
        x = net.node("Add", x, net.dense(y, width))
    return net.build(net.dense(x, 5), ("batch", "length", 5))


def gelu(net: Net, x: str) -> str:
    """The five nodes that exporters write for the exact GELU below opset 20."""
    y = net.node("Erf", net.node("Div", x, net.scalar(2**0.5)))
    y = net.node("Mul", x, net.node("Add", y, net.scalar(1.0)))
    return net.node("Mul", y, net.scalar(0.5))


def attention(net: Net, x: str, mask: str, heads: int) -> str:
    """Separate query, key and value projections with an additive mask; all shapes literal."""
    width = net.width[x]
    head = width // heads

    def project(perm: list[int]) -> str:
        y = net.node("Reshape", net.dense(x, width), net.constant([0, 0, heads, head]))
        return net.node("Transpose", y, perm=perm)

    query, key, value = (project(perm) for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
    scores = net.node("Div", net.node("MatMul", query, key), net.scalar(head**0.5))
    weights = net.node("Softmax", net.node("Add", scores, mask), axis=-1)
    mixed = net.node("Transpose", net.node("MatMul", weights, value), perm=[0, 2, 1, 3])
    mixed = net.node("Reshape", mixed, net.constant([0, 0, width]), width=width)
    return net.dense(mixed, width)


def bert(
    layers: int = 2,
    width: int = 16,
    heads: int = 4,
    hidden: int = 32,
    *,
    vocabulary: int = 50,
    positions: int = 32,
    classes: int = 3,
) -> onnx.ModelProto:
    """A post-norm encoder with a pooler (Devlin et al. 2019); masked positions get -10,000.

    ``bert(12, 768, 12, 3072, vocabulary=30522, positions=512)`` is shaped as BERT-base.
    """
    net = Net(21)
    tokens = net.input("input_ids", ("batch", "length"), INT64)
    mask = net.input("attention_mask", ("batch", "length"), INT64)
    mask = net.node("Cast", net.node("Unsqueeze", mask, net.constant([1, 2])), to=1)
    mask = net.node("Mul", net.node("Sub", net.scalar(1.0), mask), net.scalar(-1e4))
    length = net.node("Slice", net.node("Shape", tokens), net.constant([1]), net.constant([2]))
    words = net.node("Gather", net.weight(vocabulary, width, fan=1), tokens, width=width)
    table = net.weight(positions, width, fan=1)
    start, axis = net.constant([0]), net.constant([0])
    place = net.node("Slice", table, start, length, axis, width=width)
    x = net.layer_norm(net.node("Add", words, place))
    for _ in range(layers):
        x = net.layer_norm(net.node("Add", attention(net, x, mask, heads), x))
        y = net.dense(gelu(net, net.dense(x, hidden)), width)
        x = net.layer_norm(net.node("Add", y, x))
    first = net.node("Gather", x, net.constant([0]), axis=1)
    pooled = net.node("Tanh", net.gemm(net.node("Squeeze", first, net.constant([1])), width))
    return net.build(net.gemm(pooled, classes), ("batch", classes))


def microsoft_attention(width: int = 16, heads: int = 4, layers: int = 2) -> onnx.ModelProto:
    """What onnxruntime's transformer optimiser makes of BERT: Attention, SkipLayerNormalization."""
    net = Net(22, microsoft=True)
    x = net.input("x", ("batch", "length", width), width=width)

    def skip_norm(x: str, skip: str) -> str:
        vectors = net.vector(width, 0.7, 1.3, "gamma"), net.vector(width, -0.2, 0.2, "beta")
        bias = net.vector(width, -0.2, 0.2, "bias")
        inputs = (x, skip, *vectors, bias)
        return net.node("SkipLayerNormalization", *inputs, domain="com.microsoft", epsilon=1e-5)

    for _ in range(layers):
        weight = net.weight(width, 3 * width, fan=width)
        bias = net.vector(3 * width, -0.2, 0.2, "bias")
        mixed = net.node("Attention", x, weight, bias, domain="com.microsoft", num_heads=heads)
        x = skip_norm(net.dense(mixed, width, bias=False), x)
        bias = net.vector(2 * width, -0.2, 0.2, "bias")
        y = net.node("BiasGelu", net.dense(x, 2 * width, bias=False), bias, domain="com.microsoft")
        x = skip_norm(net.dense(y, width, bias=False), x)
    return net.build(net.dense(x, 5), ("batch", "length", 5))


def modern_decoder(
    width: int = 16, heads: int = 4, kv_heads: int = 2, head: int = 8, layers: int = 2
) -> onnx.ModelProto:
    """The operators of opset 23: Attention (grouped-query, causal), RotaryEmbedding, RMSNorm."""
    net = Net(24, opset=23)
    x = net.input("x", ("batch", "length", width), width=width)
    angle = np.outer(np.arange(64), 100.0 ** (-np.arange(head // 2) / (head // 2)))
    cos, sin = (net.constant(f(angle).astype(np.float32)) for f in (np.cos, np.sin))
    shape = net.node("Shape", x)
    rows = net.node("Slice", shape, net.constant([0]), net.constant([2]))
    stop = net.node("Slice", shape, net.constant([1]), net.constant([2]))
    scalar = net.node("Squeeze", stop, net.constant([0]))
    zero, one = (net.constant(np.array(value, np.int64)) for value in (0, 1))
    places = net.node("Expand", net.node("Range", zero, scalar, one), rows)

    def rms(x: str) -> str:
        return net.node("RMSNormalization", x, net.vector(width, 0.7, 1.3, "gamma"), axis=-1)

    def rotated(x: str, heads: int) -> str:
        y = net.dense(x, heads * head, bias=False)
        return net.node("RotaryEmbedding", y, cos, sin, places, num_heads=heads)

    for _ in range(layers):
        y = rms(x)
        value = net.dense(y, kv_heads * head, bias=False)
        inputs = rotated(y, heads), rotated(y, kv_heads), value
        counts = {"q_num_heads": heads, "kv_num_heads": kv_heads}
        y = net.node("Attention", *inputs, width=heads * head, is_causal=1, **counts)
        x = net.node("Add", x, net.dense(y, width, bias=False))
        y = rms(x)
        gate, up = net.dense(y, 2 * width, bias=False), net.dense(y, 2 * width, bias=False)
        y = net.node("Mul", net.node("Mul", gate, net.node("Sigmoid", gate)), up)
        x = net.node("Add", x, net.dense(y, width, bias=False))
    return net.build(net.dense(x, 5), ("batch", "length", 5))


def recurrent(
    cell: Literal["LSTM", "GRU", "RNN"] = "LSTM",
    inputs: int = 8,
    hidden: int = 12,
    *,
    bidirectional: bool = True,
) -> onnx.ModelProto:
    """Two stacked recurrent layers, time first, and a Gemm on the last hidden state."""
    net = Net(23)
    gates, directions = {"LSTM": 4, "GRU": 3, "RNN": 1}[cell], 1 + bidirectional
    x = net.input("x", ("length", "batch", inputs), width=inputs)
    options = {"linear_before_reset": 1} if cell == "GRU" else {}

    def layer(x: str) -> list[str]:
        weight = net.weight(directions, gates * hidden, net.width[x], fan=net.width[x])
        again = net.weight(directions, gates * hidden, hidden, fan=hidden)
        bias = net.weight(directions, 2 * gates * hidden, fan=20, stem="bias")
        way = "bidirectional" if bidirectional else "forward"
        values = [x, weight, again, bias]
        return net.nodes_with(cell, values, 2, hidden_size=hidden, direction=way, **options)

    every, _ = layer(x)
    merged = net.node("Transpose", every, perm=[0, 2, 1, 3])  # length, batch, direction, hidden
    merged = net.node("Reshape", merged, net.constant([0, 0, -1]), width=directions * hidden)
    state = net.node("Transpose", layer(merged)[1], perm=[1, 0, 2])
    state = net.node("Reshape", state, net.constant([0, -1]), width=directions * hidden)
    return net.build(net.gemm(state, 5), ("batch", 5))
