"""A strongly typed fp16 or bf16 graph from a float one.

TensorRT computes in the types of the graph, so precision is a matter of the graph: every float32
value becomes a half one, in bodies too; inputs and outputs keep their type behind a Cast, and so do
operators that ONNX only defines for float32 where it matters.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError

Half = Literal["fp16", "bf16"]

_TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
_LARGEST = {ir.DataType.FLOAT16: 65504.0, ir.DataType.BFLOAT16: 3.3895313892515355e38}

_FLOAT_ONLY: dict[str, tuple[int, ...]] = {
    "Resize": (1, 2),
    "Upsample": (1,),
    "NonMaxSuppression": (0, 1, 3, 4),
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
}
"""Inputs that the operator set wants in float32 (or is safest with), by position."""

_TYPED = ("to", "dtype")


def convert(model: models.Model, to: Half) -> models.Model:
    """A copy of a float32 model that computes in fp16 or bf16.

    Constants beyond the range of the type (masks of -3e38) become its largest numbers.

    Args:
        model: it is left as it is.
        to: the type.

    Raises:
        OnnxpruneError: the model is quantized, so its types are chosen already.
    """
    copy = with_types(model)
    half = _TYPES[to]
    for graph in models.graphs(copy):
        for node in graph:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                raise OnnxpruneError(
                    "the model is quantized, so its types are chosen already",
                    hint=f"convert it before it is quantized, or build without --{to}",
                )
    kept = {id(v) for v in (*copy.ir.graph.inputs, *copy.ir.graph.outputs) if _is_float(v)}
    floats = [
        value
        for graph in models.graphs(copy)
        for value in models.values(graph)
        if _is_float(value) and id(value) not in kept
    ]
    stay = _float_only(copy)
    for value in floats:
        if id(value) in stay:
            continue
        if models.constant(value) is not None:
            tensor = models.constant(value)
            assert tensor is not None
            models.set_constant(value, _narrowed(tensor, half))
        value.type = ir.TensorType(half)
    for graph in models.graphs(copy):
        for node in list(graph):
            _retype(node, half)
            _widen(graph, node, half, stay)
    _cast_borders(copy, half)
    return copy


def with_types(model: models.Model) -> models.Model:
    """A copy in which every value of the main graph has the element type that inference finds."""
    copy = models.clone(model)
    skeleton = onnx.shape_inference.infer_shapes(models.to_proto(copy))
    inferred = (*skeleton.graph.value_info, *skeleton.graph.output)
    known = {v.name: v.type.tensor_type.elem_type for v in inferred}
    for value in models.values(copy.ir.graph):
        if value.dtype is None and known.get(value.name or ""):
            value.type = ir.TensorType(ir.DataType(known[value.name or ""]))
    return copy


def _is_float(value: ir.Value) -> bool:
    return value.dtype is ir.DataType.FLOAT


def _float_only(model: models.Model) -> set[int]:
    """Stored values that only operators read which want them in float32."""
    result = set()
    for graph in models.graphs(model):
        for value in models.values(graph):
            uses = list(value.uses())
            if models.constant(value) is None or not uses or value.is_graph_output():
                continue
            if all(slot in _FLOAT_ONLY.get(node.op_type, ()) for node, slot in uses):
                result.add(id(value))
    return result


def _narrowed(tensor: ir.TensorProtocol, half: ir.DataType) -> ir.TensorProtocol:
    limit = _LARGEST[half]
    array = tensor.numpy()
    small = np.where(np.isfinite(array), np.clip(array, -limit, limit), array)
    return ir.Tensor(small.astype(half.numpy()), dtype=half)


def _retype(node: ir.Node, half: ir.DataType) -> None:
    """Attributes that name a type, and the literal of ConstantOfShape."""
    for name in _TYPED:
        attribute = node.attributes.get(name)
        is_number = attribute is not None and attribute.type == ir.AttributeType.INT
        if is_number and node.attributes.get_int(name) == ir.DataType.FLOAT.value:
            node.attributes.add(ir.AttrInt64(name, half.value))
    literal = node.attributes.get("value")
    if node.op_type == "ConstantOfShape":
        if literal is None:
            zero = ir.Tensor(np.zeros(1, half.numpy()), dtype=half)
            node.attributes.add(ir.AttrTensor("value", zero))
        elif literal.as_tensor().dtype is ir.DataType.FLOAT:
            node.attributes.add(ir.AttrTensor("value", _narrowed(literal.as_tensor(), half)))


def _widen(graph: ir.Graph, node: ir.Node, half: ir.DataType, stay: set[int]) -> None:
    """Put a Cast to float32 before inputs that must be it, where they are half now."""
    for slot in _FLOAT_ONLY.get(node.op_type, ()):
        value = node.inputs[slot] if len(node.inputs) > slot else None
        if value is None or id(value) in stay or value.dtype is not half:
            continue
        cast, output = _cast(graph, value, ir.DataType.FLOAT, "float")
        graph.insert_before(node, cast)
        node.replace_input_with(slot, output)


def _cast_borders(model: models.Model, half: ir.DataType) -> None:
    """Inputs and outputs of the model keep their names and their float32."""
    graph = model.ir.graph
    for value in list(graph.inputs):
        if not _is_float(value) or not value.uses():
            continue
        uses = list(value.uses())
        cast, output = _cast(graph, value, half, "half")
        for node, slot in uses:
            node.replace_input_with(slot, output)
        if len(graph):
            graph.insert_before(graph[0], cast)
    for index, value in enumerate(list(graph.outputs)):
        if not _is_float(value) or value.producer() is None:
            continue
        name = value.name
        value.name = models.fresh_name(graph, f"{name}/half")
        value.type = ir.TensorType(half)
        cast, output = _cast(graph, value, ir.DataType.FLOAT, "float")
        output.name = name
        graph.append(cast)
        graph.outputs[index] = output


def _cast(
    graph: ir.Graph, value: ir.Value, to: ir.DataType, label: str
) -> tuple[ir.Node, ir.Value]:
    node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", to.value)], num_outputs=1)
    output = node.outputs[0]
    output.name = models.fresh_name(graph, f"{value.name}/{label}")
    output.type, output.shape = ir.TensorType(to), value.shape
    return node, output
