"""Whether TensorRT may run the layers of a finished model with its sparse kernels, or why not.

The rule, from TensorRT's developer guide ("Structured Sparsity"): for each output channel and each
kernel position, every four consecutive input channels have at least two zeros, and the channels
are a multiple of four. What is eligible is only tried: TensorRT takes a sparse kernel where it
times faster, and says which in its log (``onnxprune.runtime.engines.sparsity`` reads that).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import identity
from onnxprune.graph.layers.linear import LinearLayer, find_layers, rule_of, walk
from onnxprune.graph.ops import Linear
from onnxprune.model.decode import packed
from onnxprune.quantities import percent
from onnxprune.sparse.nm import counts
from onnxprune.sparse.targets import is_small

Array = npt.NDArray[Any]
State = Literal["eligible", "dense", "never"]
"""``dense``: the layer could be sparse, its weights are not."""

_KEPT, _OF = 2, 4

_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}

_PACKED = "its weight is packed, and TensorRT finds zeros in stored ones (`onnxprune densify`)"

_OTHERS = {
    "recurrent": "recurrent layers have no sparse kernels",
    "sum": "only convolutions and matrix products have sparse kernels; write it as a MatMul",
}


@dataclass(frozen=True)
class Layer:
    """One layer, and whether TensorRT may run it sparsely.

    Attributes:
        node: the identity of the node that multiplies.
        op: its operator.
        state: ``eligible``; ``dense``, where only the zeros are missing; or ``never``.
        reason: why it is not eligible; empty where it is.
        notes: what else is worth knowing, clause by clause.
        weight: name of the stored tensor; empty where there is none.
        dtype: as it is stored.
        shape: as it is stored.
        through: operators between the store and the node.
        axis: the axis of the stored tensor that is contracted; None where it is no axis of its own.
        inputs: channels, or ``K``, that are contracted; per group of a grouped convolution.
        outputs: channels, or ``N``.
        elements: weights in the tensor.
        zeros: the share of them that is zero.
        good: the share of groups of four that have two zeros.
    """

    node: str
    op: str
    state: State
    reason: str = ""
    notes: tuple[str, ...] = ()
    weight: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()
    through: tuple[str, ...] = ()
    axis: int | None = None
    inputs: int = 0
    outputs: int = 0
    elements: int = 0
    zeros: float = 0.0
    good: float = 0.0


def layers(model: models.Model) -> tuple[Layer, ...]:
    """Every layer that multiplies with a stored weight, in the order of the graph.

    Local functions are inlined when a model is loaded, and bodies of If, Loop and Scan are walked.
    """
    decoded = {value.name for value in packed(model)}
    result: dict[int, Layer] = {}
    for each in find_layers(model):
        if each.kind != "plain":
            continue
        if each.source is not None:
            result[id(each.operator)] = _judge(each)
            continue
        inputs = each.operator.inputs
        is_packed = any(value is not None and value.name in decoded for value in inputs)
        reason = _PACKED if is_packed else each.declined
        result[id(each.operator)] = Layer(each.node, each.operator.op_type, "never", reason)
    for node, _ in walk(model):
        if id(node) not in result and (other := _other(node)) is not None:
            result[id(node)] = other
    return tuple(result[id(node)] for node, _ in walk(model) if id(node) in result)


def _judge(layer: LinearLayer) -> Layer:
    stored = layer.tensor
    array = stored.read()
    nonzeros = counts(layer, array, _OF)
    good = float((nonzeros <= _KEPT).mean()) if nonzeros.size else 0.0
    reason = _never(layer)
    state: State = "never"
    if not reason:
        state = "eligible" if good == 1.0 else "dense"
        reason = "" if good == 1.0 else _why_dense(layer, array, good)
    return Layer(
        node=layer.node,
        op=layer.operator.op_type,
        state=state,
        reason=reason,
        notes=tuple(_notes(layer)) if state != "never" else (),
        weight=stored.name,
        dtype=stored.dtype.name.lower(),
        shape=stored.shape,
        through=stored.through,
        axis=layer.stored_axis,
        inputs=layer.channels,
        outputs=layer.outputs,
        elements=array.size,
        zeros=1 - np.count_nonzero(array) / max(array.size, 1),
        good=good,
    )


def _never(layer: LinearLayer) -> str:
    """What keeps a layer from sparse kernels whatever its weights are."""
    stored = layer.tensor
    if layer.window is not None and layer.window.transposed:
        return "TensorRT documents sparse kernels for convolutions and products, not for this"
    if layer.channels % _OF:
        per = " per group" if layer.groups > 1 else ""
        return f"its inputs ({layer.channels}{per}) are no multiple of {_OF}"
    scaling = stored.scaling
    if scaling is None and stored.dtype not in _FLOATS:
        return f"its weight is stored as {stored.dtype.name.lower()} without DequantizeLinear"
    if scaling is not None and stored.dtype not in _FLOATS | {ir.DataType.INT8}:
        return (
            f"its weight is quantized to {stored.dtype.name.lower()}, and sparse kernels are int8"
        )
    if scaling is not None and scaling.zero is not None and scaling.zero.astype(np.float32).any():
        return "its weight has a zero point other than 0, so its zeros are not zeros"
    if stored.seen_dtype is not None and stored.seen_dtype not in _FLOATS:
        return f"it computes in {stored.seen_dtype.name.lower()}"
    return ""


def _why_dense(layer: LinearLayer, array: Array, good: float) -> str:
    """Where the zeros are instead: other tools group along other axes."""
    share = f"{percent(good)} of its groups of {_OF} along {_axis(layer)} have two zeros"
    shape = layer.tensor.seen_shape
    for axis, size in enumerate(shape):
        if axis == layer.weight_axis or size < _OF or size % _OF:
            continue
        if (counts(layer, array, _OF, axis) <= _KEPT).all():
            return f"{share}; they are along axis {axis} of what the node sees, the wrong one"
    if layer.taps > 1 and layer.window is not None and not layer.window.transposed:
        rows = layer.tensor.seen(array != 0).reshape(shape[0], -1)
        if not rows.shape[1] % _OF:
            flat = rows.reshape(shape[0], -1, _OF).sum(axis=2)
            if (flat <= _KEPT).all():
                return f"{share}; they run over channels and kernel positions flattened"
    return share


def _axis(layer: LinearLayer) -> str:
    return "its inputs" if layer.stored_axis is None else f"axis {layer.stored_axis}"


def _notes(layer: LinearLayer) -> Iterator[str]:
    stored = layer.tensor
    if is_small(layer):
        yield "small: below 256 inputs or outputs a sparse kernel rarely times faster"
    if stored.scaling is None and stored.seen_dtype is ir.DataType.FLOAT:
        yield "fp32: sparse kernels are documented for fp16 and int8 (`build --fp16`)"
    if stored.scaling is not None:
        yield "Q/DQ: TensorRT 8.6 has been seen to pick no sparse kernel here (its issue 4694)"
    rule = rule_of(layer.operator)
    only_multiplies = layer.window is None and rule is not None and not rule.bias_scale
    if only_multiplies:
        yield "MatMul: some TensorRT 8 versions list only Gemm (its issues 2169, 2271)"
    stack = math.prod(stored.seen_shape[:-2])
    if only_multiplies and stack > 1:
        yield f"a stack of {stack} matrices: see whether the log lists it"
    if layer.groups > 1:
        yield "grouped: sparse kernels are documented for whole convolutions"
    if layer.inside:
        yield f"inside the body of {layer.inside}"


def _other(node: ir.Node) -> Layer | None:
    """A node that is no Conv, Gemm or MatMul but multiplies with a stored matrix."""
    standard, rule = node.domain in ("", "ai.onnx"), rule_of(node)
    if standard and (rule is None or rule.kind not in ("quantized", *_OTHERS)):
        return None
    value = next((each for each in node.inputs if _is_matrix(each)), None)
    tensor = None if value is None else models.constant(value)
    if value is None or tensor is None:
        return None
    reason = _reason(rule) if standard and rule is not None else ""
    return Layer(
        node=identity(node),
        op=node.op_type if standard else f"{node.domain}.{node.op_type}",
        state="never",
        reason=reason or f"TensorRT's parser knows no operators of {node.domain}",
        weight=value.name or "",
        dtype=tensor.dtype.name.lower(),
        shape=tuple(int(n) for n in tensor.shape.numpy()),
        elements=tensor.size,
    )


def _reason(rule: Linear) -> str:
    if rule.kind != "quantized":
        return _OTHERS[rule.kind]
    if "*" in str(rule.line):
        return "TensorRT takes quantized weights as a DequantizeLinear before a Conv"
    return "TensorRT takes quantized weights as a DequantizeLinear before a MatMul"


def _is_matrix(value: ir.Value | None) -> bool:
    tensor = None if value is None else models.constant(value)
    return tensor is not None and len(tensor.shape) > 1 and tensor.dtype != ir.DataType.STRING
