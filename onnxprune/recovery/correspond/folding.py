"""Folding BatchNormalizations into the layers before them, as exporters and simplifiers do.

A pruned model without any is not node for node what a dense model with some was cut to; the dense
model folded the same way is, and computes the same but for rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from onnxprune import model as models
from onnxprune.graph.layers.linear import LinearLayer, find_layers, refittable
from onnxprune.graph.layers.sources import source
from onnxprune.graph.surgery.edit import Editor

Float = npt.NDArray[np.float64]
_EPSILON = 1e-5  # the default of the operator


def normalisations(model: models.Model) -> int:
    """How many BatchNormalizations a model has."""
    return sum(n.op_type == "BatchNormalization" for g in models.graphs(model) for n in g)


def fold_normalisations(model: models.Model) -> models.Model:
    """A copy in which every BatchNormalization right behind a convolution or a Gemm is part of it.

    Others stay, and so do those whose layer has another reader or shares its weight.
    """
    editor = Editor(models.clone(model))
    layers = {id(each.operator): each for each in refittable(find_layers(editor.model))}
    for node in list(editor.nodes.values()):
        if node.op_type == "BatchNormalization":
            x = node.inputs[0]
            layer = None if x is None else layers.get(id(x.producer()))
            if x is not None and layer is not None and layer.bias_slot == (x.name, 2):
                _fold(editor, node, x, layer)
    common.RemoveUnusedNodesPass()(editor.model.ir)
    return editor.model


def _fold(editor: Editor, norm: ir.Node, x: ir.Value, layer: LinearLayer) -> None:
    training, operator = norm.attributes.get("training_mode"), layer.operator
    public = x.is_graph_output() or norm.outputs[0].is_graph_output()
    if public or len(x.uses()) != 1 or (training is not None and training.as_int()):
        return
    params = [_array(v) for v in norm.inputs[1:5]]
    held, bias = layer.tensor.value, operator.inputs[2] if len(operator.inputs) > 2 else None
    old = _array(bias)
    if layer.tensor.through or len(held.uses()) != 1 or (bias is not None and old is None):
        return
    if any(p is None for p in params):
        return
    scale, shift, mean, variance = (p for p in params if p is not None)
    epsilon = norm.attributes.get("epsilon")
    gain = scale / np.sqrt(variance + (_EPSILON if epsilon is None else epsilon.as_float()))
    moved = gain * ((0.0 if old is None else old) - mean) + shift
    weight = layer.tensor.read()
    matrix = layer.matrix(weight.astype(np.float64)) * gain.reshape(layer.groups, 1, -1)
    models.set_constant(held, layer.stored(matrix).astype(weight.dtype))
    stored = editor.store(x, f"{layer.node}/bias", moved.astype(weight.dtype))
    if len(operator.inputs) < 3:
        operator.resize_inputs(3)
    operator.replace_input_with(2, stored)
    editor.replace(norm.outputs[0].name or "", x.name or "")


def _array(value: ir.Value | None) -> Float | None:
    """What a value stores, in float64."""
    tensor: Any = None if value is None else models.constant(source(value))
    if tensor is None or not tensor.dtype.is_floating_point():
        return None
    array: Float = tensor.numpy().astype(np.float64)
    return array
