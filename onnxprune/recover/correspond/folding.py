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
from onnxprune.graph.analysis import identity
from onnxprune.graph.layers.slots import source
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
    for node in list(editor.nodes.values()):
        if node.op_type == "BatchNormalization":
            _fold(editor, node)
    common.RemoveUnusedNodesPass()(editor.model.ir)
    return editor.model


def _fold(editor: Editor, norm: ir.Node) -> None:
    x, training = norm.inputs[0], norm.attributes.get("training_mode")
    layer = None if x is None else x.producer()
    if x is None or layer is None or layer.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return
    public = x.is_graph_output() or norm.outputs[0].is_graph_output()
    if public or len(x.uses()) != 1 or (training is not None and training.as_int()):
        return
    params = [_array(v) for v in norm.inputs[1:5]]
    held, bias = layer.inputs[1], layer.inputs[2] if len(layer.inputs) > 2 else None
    weight, old = _array(held), _array(bias)
    own = held is not None and models.constant(held) is not None and len(held.uses()) == 1
    if weight is None or held is None or not own or (bias is not None and old is None):
        return
    if any(p is None for p in params) or not _is_plain(layer):
        return
    scale, shift, mean, variance = (p for p in params if p is not None)
    epsilon = norm.attributes.get("epsilon")
    gain = scale / np.sqrt(variance + (_EPSILON if epsilon is None else epsilon.as_float()))
    moved = gain * ((0.0 if old is None else old) - mean) + shift
    dtype = models.constant(held).numpy().dtype  # type: ignore[union-attr]  # read above
    models.set_constant(held, _scaled(layer, weight, gain).astype(dtype))
    stored = editor.store(x, f"{identity(layer)}/bias", moved.astype(dtype))
    if len(layer.inputs) < 3:
        layer.resize_inputs(3)
    layer.replace_input_with(2, stored)
    editor.replace(norm.outputs[0].name or "", x.name or "")


def _scaled(layer: ir.Node, weight: Float, gain: Float) -> Float:
    """A weight whose outputs are multiplied by ``gain``."""
    if layer.op_type == "Gemm":
        flipped = layer.attributes.get("transB")
        return weight * (gain[:, None] if flipped is not None and flipped.as_int() else gain)
    tail = (1,) * (weight.ndim - 2)
    if layer.op_type == "Conv":
        return weight * gain.reshape(-1, 1, *tail)
    group = layer.attributes.get("group")
    groups = 1 if group is None else group.as_int()
    parts = weight.reshape(groups, -1, *weight.shape[1:])
    whole: Float = (parts * gain.reshape(groups, 1, -1, *tail)).reshape(weight.shape)
    return whole


def _is_plain(layer: ir.Node) -> bool:
    """Whether a Gemm multiplies and adds and does nothing else."""
    factors = [layer.attributes.get(name) for name in ("alpha", "beta")]
    return all(f is None or f.as_float() == 1.0 for f in factors)


def _array(value: ir.Value | None) -> Float | None:
    """What a value stores, in float64."""
    tensor: Any = None if value is None else models.constant(source(value))
    if tensor is None or not tensor.dtype.is_floating_point():
        return None
    array: Float = tensor.numpy().astype(np.float64)
    return array
