"""Layers that apply one weight: the layers that a fit of this weight has to serve together.

Siamese towers, detection heads over several maps, blocks that are repeated and steps of a loop that
was unrolled read one stored tensor in several nodes. It can be fitted for all of them at once where
each of them is seen as ``rows @ W + b`` of the same matrix, and nothing else reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.layers.epilogue import Bool, Epilogue, Float, Weights, find_epilogue
from onnxprune.graph.layers.linear import LinearLayer, other_users
from onnxprune.graph.shapes import Fact
from onnxprune.solve.joint import Biases


def find_applications(
    layers: Iterable[LinearLayer],
) -> tuple[dict[str, tuple[LinearLayer, ...]], dict[str, str]]:
    """The weights that can be fitted for all their readers, and why others cannot.

    Args:
        layers: every layer of a model, declined ones included, in the order of the graph.

    Returns:
        By the node of the first application: all applications of its weight, itself included. And
        by node: why a layer that could be refitted by itself is not.
    """
    readers: dict[str, list[LinearLayer]] = {}
    for layer in layers:
        if layer.source is not None:
            readers.setdefault(layer.weight, []).append(layer)
    joint: dict[str, tuple[LinearLayer, ...]] = {}
    declined: dict[str, str] = {}
    for applications in readers.values():
        refittable = [layer for layer in applications if not layer.declined]
        if not refittable:
            continue
        if reason := _obstacle(applications):
            declined |= {layer.node: reason for layer in refittable}
        else:
            joint[refittable[0].node] = tuple(refittable)
    return joint, declined


def _obstacle(layers: Sequence[LinearLayer]) -> str:
    """Why a weight is not fitted for all its readers; empty if it can be."""
    first = layers[0]
    other = next((layer for layer in layers if layer.declined), None)
    if other is not None:
        return f"its weight is read by {other.operator.op_type} '{other.node}' too"
    if also := other_users(first, [layer.node for layer in layers]):
        return f"its weight is read by {also} too"
    for layer in layers[1:]:
        if layer.along != first.along:
            return f"{first.node} and {layer.node} contract its weight along different axes"
        if layer.shape != first.shape or _orientation(layer) != _orientation(first):
            return f"{first.node} and {layer.node} see its weight as different matrices"
    return ""


def _orientation(layer: LinearLayer) -> tuple[object, ...]:
    window, stack = layer.window, layer.stack
    if stack is not None:
        return (stack.order,)
    return () if window is None else (window.kernel, window.transposed)


def common_epilogues(
    values: Mapping[str, ir.Value], facts: Mapping[str, Fact], layers: Sequence[LinearLayer]
) -> list[Epilogue]:
    """Where the outputs of all applications of a weight count, in the same units.

    Args:
        values: the values of the main graph by name.
        facts: shapes.
        layers: the applications.

    Returns:
        Their own epilogues; where these scale outputs differently, their bare outputs.
    """
    ends = [find_epilogue(values, facts, layer) for layer in layers]
    if all(np.array_equal(end.gain, ends[0].gain) for end in ends):
        return ends
    return [
        Epilogue(layer.y, None, np.ones(layer.width), np.zeros(layer.width)) for layer in layers
    ]


def biases_of(model: models.Model, layers: Sequence[LinearLayer]) -> Biases:
    """Which biases may change along with the weight of some applications."""
    if any(layer.bias_slot is None for layer in layers):
        return "fixed"
    names = {layer.bias for layer in layers}
    if len(layers) > 1 and len(names) == 1 and None not in names:
        (name,) = names
        value = models.constants(model).get(name or "")
        if value is not None and len(value.uses()) == len(layers) and not value.is_graph_output():
            return "common"
    return "own"


def write_applications(
    weights: Weights,
    layers: Sequence[tuple[LinearLayer, Epilogue]],
    matrix: Float,
    biases: Sequence[Float] | None = None,
    keep: Bool | None = None,
    *,
    common: bool = False,
) -> None:
    """Write the weight of some applications, and the bias of each.

    Args:
        weights: of the model.
        layers: the applications, each with its epilogue.
        matrix: ``[g, K, N]``, in the units of the first epilogue.
        biases: ``[g, N]`` of each application; None to leave them.
        keep: ``[g, K, N]``; everything else becomes zero.
        common: whether all of them read one bias, and keep doing so.
    """
    first, epilogue = layers[0]
    weights.write(first, matrix, None, epilogue, keep)
    if biases is None:
        return
    readers = len(layers) if common else 1
    for (layer, end), bias in zip(layers, biases, strict=True):
        if layer.bias_slot is not None:
            weights.write_bias(layer, bias, end, readers=readers)
