"""Weights written as ONNX has sparse ones: values, and where they are in the flattened tensor.

``sparse_initializer`` is what the standard provides and onnxruntime reads. OpenVINO does not, but
reads the same tensor as the ``sparse_value`` of a Constant node. Both were tried on many tools,
each in a process of its own; the lists are of what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.model.coo import FIRST_IR, SparseTensor
from onnxprune.model.decode import remove
from onnxprune.sparse.encodings.sparsity_stats import nonzero, places, slabs
from onnxprune.sparse.encodings.weights import Weight

_NODE_OPSET = 11  # the operator set that brought Constant.sparse_value

REFUSED_BY = (
    "TensorRT and TensorRT-RTX (the parser stops; a weight that is also an input becomes one)",
    "OpenVINO's own reader (it stops; --for openvino writes a form it reads)",
    "onnx.checker with full_check, and strict shape inference (they type it as a sparse tensor)",
    "onnxruntime's symbolic_shape_infer and onnx.reference (they stop)",
    "onnx.utils.extract_model and onnx.version_converter (they stop)",
    "onnx-graphsurgeon and Polygraphy (they keep it, but see zeros, or no weights at all)",
    "onnx-ir and onnxscript (they drop it, and write an invalid model)",
)
"""What cannot read ``sparse_initializer``, and what happens."""

NODE_REFUSED_BY = (
    "TensorRT and TensorRT-RTX (the parser stops)",
    "onnx-graphsurgeon, Polygraphy and onnxslim (they drop it, and write an invalid model)",
    "onnxruntime's symbolic_shape_infer, onnx.reference and onnx.version_converter (they stop)",
    "onnxsim, onnx-ir and onnxscript (they stop)",
)
"""What cannot read ``Constant.sparse_value``, and what happens."""


def in_nodes(model: models.Model, providers: Sequence[str]) -> bool:
    """Whether sparse weights go into Constant nodes, which OpenVINO reads."""
    return "openvino" in providers and model.ir.opset_imports.get("", 0) >= _NODE_OPSET


def sparsify(model: models.Model, weights: Sequence[Weight], *, as_nodes: bool) -> None:
    """Make those weights whose form is sparse be written so, in place.

    Args:
        model: is edited.
        weights: of it, with their forms.
        as_nodes: write them as Constant nodes; a weight that is one stays one in any case.
    """
    chosen = [weight for weight in weights if weight.form == "sparse"]
    for weight in chosen:
        value, made = weight.value, tensor(weight)
        node = value.producer()
        if node is not None:
            node.attributes.clear()
            node.attributes.add(ir.AttrTensor("value", made))
        elif as_nodes:
            _to_node(value, made)
        else:
            value.const_value = made
    if chosen:
        model.ir.ir_version = max(model.ir.ir_version, FIRST_IR)


def tensor(weight: Weight) -> SparseTensor:
    """A weight that is written sparse; its parts are only made when they are written."""
    dense, shape = weight.tensor, ir.Shape([weight.content.kept])

    def values() -> ir.TensorProtocol:
        flat = dense.numpy().reshape(-1)
        kept = [part[nonzero(part)] for _, part in slabs(flat)]
        return ir.Tensor(np.concatenate(kept), dense.dtype)

    def indices() -> ir.TensorProtocol:
        found = [at for _, at in places(dense.numpy().reshape(-1))]
        return ir.Tensor(np.concatenate(found))

    return SparseTensor(
        dense,
        ir.LazyTensor(values, dense.dtype, shape, name=weight.name),
        ir.LazyTensor(indices, ir.DataType.INT64, shape),
    )


def _to_node(value: ir.Value, made: SparseTensor) -> None:
    graph, name = value.graph, value.name
    assert graph is not None
    output = ir.Value(name=name)
    node = ir.Node(
        "", "Constant", [], [ir.AttrTensor("value", made)], outputs=[output], name=f"{name}/sparse"
    )
    for reader, position in list(value.uses()):
        reader.replace_input_with(position, output)
    output.meta.update(value.meta)
    remove(value)
    if len(graph):
        graph.insert_before(graph[0], node)
    else:
        graph.append(node)
