"""Reading and writing the weights of layers, in the units of where their outputs count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.layers.epilogue import Merge
from onnxprune.graph.layers.linear import Layer

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]

_NOTHING = 1e-6
"""Outputs that are multiplied by less than this share of the largest gain are not changed."""


class Weights:
    """The weights of one model's layers; writing edits that model."""

    def __init__(self, model: models.Model) -> None:
        self._values = {v.name or "": v for v in models.values(model.ir.graph)}

    def read(self, layer: Layer, merge: Merge) -> tuple[Float, Float]:
        """``[g, K, N]`` and ``[g, N]``: matrix and bias (zero where there is none)."""
        matrix, bias = self._stored(layer)
        gain = merge.gain.reshape(bias.shape)
        return matrix * gain[:, None, :], bias * gain

    def write(self, layer: Layer, merge: Merge, matrix: Float, bias: Float) -> None:
        """The inverse of :meth:`read`; a bias is written only where the layer takes one."""
        value = self._values[layer.weight]
        tensor = models.constant(value)
        assert tensor is not None
        old, old_bias = self._stored(layer)
        gain = merge.gain.reshape(old_bias.shape)
        alive = np.abs(gain) > _NOTHING * np.abs(gain).max()
        scale = np.where(alive, gain, 1.0)
        matrix = np.where(alive[:, None, :], matrix / scale[:, None, :], old)
        models.set_constant(value, layer.stored(matrix).astype(tensor.numpy().dtype))
        if layer.bias_slot is not None:
            self.write_bias(layer, merge, bias)

    def write_bias(self, layer: Layer, merge: Merge, bias: Float) -> None:
        """The same for the bias alone, of a layer that takes one."""
        weight = models.constant(self._values[layer.weight])
        assert weight is not None
        held = bias_of(self._values, layer)
        old = None if held is None else models.constant(held)
        stored = np.zeros(bias.shape) if old is None else old.numpy().astype(np.float64)
        gain = merge.gain.reshape(bias.shape)
        alive = np.abs(gain) > _NOTHING * np.abs(gain).max()
        moved = np.where(alive, bias / np.where(alive, gain, 1.0), stored.reshape(bias.shape))
        store_bias(self._values, layer, moved.reshape(-1).astype(weight.numpy().dtype))

    def _stored(self, layer: Layer) -> tuple[Float, Float]:
        tensor = models.constant(self._values[layer.weight])
        assert tensor is not None
        matrix = layer.matrix(tensor.numpy().astype(np.float64))
        bias = np.zeros((matrix.shape[0], matrix.shape[2]))
        held = bias_of(self._values, layer)
        if held is not None:
            vector = models.constant(held)
            assert vector is not None
            bias = vector.numpy().astype(np.float64).reshape(bias.shape)
        return matrix, bias


def bias_of(values: Mapping[str, ir.Value], layer: Layer) -> ir.Value | None:
    """Where the bias of a layer is now: it may have got one since it was found."""
    if layer.bias_slot is None:
        return None
    name, position = layer.bias_slot
    node = values[name].producer()
    assert node is not None
    return node.inputs[position] if len(node.inputs) > position else None


def store_bias(values: Mapping[str, ir.Value], layer: Layer, bias: Array) -> None:
    """Store a bias, in a vector of its own where the old one has other readers.

    Args:
        values: of the layer's graph, by name.
        layer: it takes a bias.
        bias: ``[N]``, of the type of the weights.
    """
    held = bias_of(values, layer)
    if held is not None and len(held.uses()) == 1 and not held.is_graph_output():
        models.set_constant(held, bias)
        return
    assert layer.bias_slot is not None
    name, position = layer.bias_slot
    node = values[name].producer()
    assert node is not None
    assert isinstance(node.graph, ir.Graph)
    added = models.add_constant(node.graph, f"{name}/bias", bias)
    if len(node.inputs) <= position:
        node.resize_inputs(position + 1)
    node.replace_input_with(position, added)
