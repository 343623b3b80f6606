"""Zeros that a Pad puts around what a convolution reads, as the convolution's own padding.

Exports from TensorFlow, and PyTorch models that follow it, pad in a node of its own wherever the
padding is uneven. To recovery that node is in the way: it stands between a layer and the one before
it, and what it writes is one more large value to hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.layers.linear import LinearLayer, find_layers
from onnxprune.graph.shapes import Fact

_SPATIAL = 2
"""The first axis of a map that is neither samples nor channels."""


def unpadded_layers(model: models.Model, facts: Mapping[str, Fact]) -> list[LinearLayer]:
    """As ``find_layers``, but convolutions read what the Pad of zeros before them reads.

    Args:
        model: any.
        facts: where the amounts are known that a graph computes.
    """
    values = {v.name or "": v for v in models.values(model.ir.graph)}
    return [
        layer if layer.declined else _through(values, facts, layer) for layer in find_layers(model)
    ]


def _through(
    values: Mapping[str, ir.Value], facts: Mapping[str, Fact], layer: LinearLayer
) -> LinearLayer:
    window, value = layer.window, values[layer.x]
    node = value.producer()
    if window is None or window.transposed or window.auto_pad not in ("NOTSET", "VALID"):
        return layer
    if node is None or node.op_type != "Pad" or len(value.uses()) > 1 or value.is_graph_output():
        return layer
    amounts, source = _zeros(node, facts, len(window.kernel)), node.inputs[0]
    if amounts is None or source is None:
        return layer
    own = window.pads if window.auto_pad == "NOTSET" else (0,) * len(amounts)
    pads = tuple(a + b for a, b in zip(amounts, own, strict=True))
    window = replace(window, pads=pads, auto_pad="NOTSET")
    return _through(values, facts, replace(layer, x=source.name or "", window=window))


def _zeros(node: ir.Node, facts: Mapping[str, Fact], rank: int) -> tuple[int, ...] | None:
    """How many zeros a Pad adds before and after each spatial axis; None if that is not all."""
    pads, value = node.attributes.get_ints("pads", None), node.attributes.get_float("value", None)
    amounts = _content(node, 1, facts) if pads is None else np.array(pads)
    level = _content(node, 2, facts) if value is None else np.array(value)
    axes = _content(node, 3, facts)
    if amounts is None or level is None or axes is None or level.any():
        return None
    if node.attributes.get_string("mode", "constant") != "constant":
        return None
    whole = rank + _SPATIAL
    ends = np.zeros((2, whole), np.int64)
    ends[:, axes if axes.size else np.arange(whole)] = amounts.reshape(2, -1)
    if ends[:, :_SPATIAL].any() or (ends < 0).any():
        return None
    return tuple(int(n) for n in ends[:, _SPATIAL:].reshape(-1))


def _content(node: ir.Node, at: int, facts: Mapping[str, Fact]) -> npt.NDArray[Any] | None:
    """The content of an input, None if unknown; empty where there is no such input."""
    value = node.inputs[at] if len(node.inputs) > at else None
    if value is None:
        return np.zeros(0, np.int64)
    tensor, fact = models.constant(value), facts.get(value.name or "")
    if tensor is not None:
        return tensor.numpy()
    return None if fact is None else fact.value
