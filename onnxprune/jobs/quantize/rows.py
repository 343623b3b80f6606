"""Weights laid out as quantizers and kernels want them.

onnxruntime's quantizer only sees a stored weight right at the node that reads it, so what a
Transpose or Reshape lies behind (``nn.Linear`` as the exporters of PyTorch write it) is stored the
way it is read first.

OpenVINO decompresses sparse INT8 weights only in fully connected layers whose weight is stored
with one row per output; the ``[K, N]`` of an ONNX MatMul never gets there. So the stored matrix is
transposed and a Transpose is put behind its DequantizeLinear, which every runtime folds away.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from onnxprune import model as models
from onnxprune.graph.layers.linear import LinearLayer, find_layers, plain
from onnxprune.graph.layers.stored import RESHAPES, Step

LARGE = 1 << 18
"""Elements from which a weight is laid out anew: smaller ones live in the cache anyway."""


_MOVES = frozenset({"Identity", "Transpose", *RESHAPES})
"""What leaves the elements of a weight as they are."""


def as_read(model: models.Model) -> int:
    """Store weights as the nodes that contract them see them, in place of moving them at run time.

    Args:
        model: changed in place; weights with other readers keep a copy for them.

    Returns:
        How many tensors were stored anew; readers that see one weight alike share one.
    """
    tensors: dict[tuple[ir.Value, tuple[Step, ...]], ir.Value] = {}
    for layer in plain(find_layers(model)):
        stored = layer.tensor
        if not stored.through or not _MOVES.issuperset(stored.through):
            continue
        key = (stored.value, stored.steps)
        if key not in tensors:
            array = np.ascontiguousarray(stored.seen(stored.read()))
            name = models.fresh_name(model.ir.graph, f"{stored.name}/as_read")
            tensor = ir.Tensor(array, dtype=stored.dtype)
            tensors[key] = models.add_constant(model.ir.graph, name, tensor)
        layer.operator.replace_input_with(layer.slot, tensors[key])
    if tensors:
        common.RemoveUnusedNodesPass()(model.ir)
    return len(tensors)


def by_rows(model: models.Model, least: int = LARGE) -> tuple[models.Model, tuple[str, ...]]:
    """A copy of a model with large quantized ``[K, N]`` weights of MatMul stored as ``[N, K]``.

    Args:
        model: quantized, with DequantizeLinear before its products; it is not changed.
        least: smaller weights stay as they are.

    Returns:
        The copy, and the names of the weights that were laid out anew.
    """
    copy = models.clone(model)
    names = []
    for layer in plain(find_layers(copy)):
        if _fits(layer) and layer.size >= least:
            _transpose(layer)
            names.append(layer.weight)
    return copy, tuple(names)


def _fits(layer: LinearLayer) -> bool:
    """``stored [K, N] -> DequantizeLinear -> MatMul``, without other readers of either."""
    stored = layer.tensor
    if layer.operator.op_type != "MatMul" or layer.slot != 1 or len(stored.shape) != 2:
        return False
    if stored.through != ("DequantizeLinear",) or len(stored.value.uses()) != 1:
        return False
    operand = layer.operator.inputs[1]
    return operand is not None and len(operand.uses()) == 1 and not operand.is_graph_output()


def _transpose(layer: LinearLayer) -> None:
    operand = layer.operator.inputs[1]
    assert operand is not None
    dequantize = operand.producer()
    assert dequantize is not None
    graph = dequantize.graph
    assert graph is not None
    stored = layer.tensor
    array = np.ascontiguousarray(stored.read().T)
    models.set_constant(stored.value, ir.Tensor(array, dtype=stored.dtype))
    scaling = stored.scaling
    assert scaling is not None
    if scaling.scale is not None and scaling.scale.size > 1:
        dequantize.attributes.add(ir.AttrInt64("axis", 1 - scaling.axis))
    kind = ir.TensorType(stored.seen_dtype or ir.DataType.FLOAT)
    operand.type, operand.shape = kind, ir.Shape(array.shape)
    node = ir.Node("", "Transpose", [operand], [ir.AttrInt64s("perm", [1, 0])], num_outputs=1)
    output = node.outputs[0]
    assert isinstance(graph, ir.Graph)
    output.name = models.fresh_name(graph, f"{operand.name}/by_rows")
    output.type, output.shape = kind, ir.Shape(array.T.shape)
    graph.insert_after(dequantize, node)
    layer.operator.replace_input_with(1, output)
