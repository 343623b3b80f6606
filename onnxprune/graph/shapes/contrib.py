"""Shapes of operators onnx has no schema for: onnxruntime's own (``com.microsoft``, ``nchwc``).

Two ways: an operator that is a standard one under another name is rewritten as that one
(:func:`standard_form`), the others have a rule (:data:`RULES`). Source: onnxruntime
``docs/ContribOperators.md`` and its shape inference in ``core/graph/contrib_ops``.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir

from onnxprune.graph.shapes.attention import ATTENTION_RULES
from onnxprune.graph.shapes.call import Call, Rule, broadcast, multiply, plus, share
from onnxprune.graph.shapes.facts import Fact, Shape
from onnxprune.graph.shapes.layouts import LAYOUT_RULES

_OWN_DOMAINS = ("com.microsoft", "com.microsoft.nchwc")

# Operators that are a standard one under another name: (standard name, inputs they share).
_STANDARD = {
    "Conv": ("Conv", 3),  # nchwc: a fourth input is added to the result
    "DynamicQuantizeLSTM": ("LSTM", 8),
    "FusedConv": ("Conv", 3),
    "FusedGemm": ("Gemm", 3),
    "MatMulInteger16": ("MatMulInteger", 2),
    "ReduceSumInteger": ("ReduceSum", 1),
}


def standard_form(proto: onnx.NodeProto) -> onnx.NodeProto | None:
    """The same node as a standard operator of the newest opset, or None when it is not one."""
    if proto.op_type in RULES or proto.domain not in _OWN_DOMAINS:
        return None
    name, count = _STANDARD.get(proto.op_type, (proto.op_type, len(proto.input)))
    try:
        schema = onnx.defs.get_schema(name, onnx.defs.onnx_opset_version(), "")
    except onnx.defs.SchemaError:
        return None
    standard = onnx.NodeProto(op_type=name, input=proto.input[:count], output=proto.output)
    standard.attribute.extend(a for a in proto.attribute if a.name in schema.attributes)
    return standard


def find_rule(domain: str, op_type: str) -> Rule | None:
    """The rule for an operator without a schema.

    onnxruntime's fusions write some of its operators into the standard domain; operators of other
    people's domains are theirs, whatever they are called.
    """
    return RULES.get(op_type) if domain in ("", *_OWN_DOMAINS) else None


def _like_first(call: Call) -> list[Fact]:
    """Output 0 is like input 0."""
    first = call.fact(0)
    return [Fact(first.shape, first.dtype)]


def _normalisation(call: Call) -> list[Fact]:
    """(Skip)(Simplified)LayerNormalization: output, two moments, sum with the skip.

    SimplifiedLayerNormalization has one moment, its second output.
    """
    first = Fact(call.shape(0), call.fact(0).dtype)
    if not first.shape:
        return [first]
    axis = call.integer("axis", -1) % len(first.shape)
    moment: Shape = first.shape[:axis] + (1,) * (len(first.shape) - axis)
    moments = Fact(moment, ir.DataType.FLOAT)
    return [first, moments, moments, first]


def _embed_layer_normalization(call: Call) -> list[Fact]:
    """EmbedLayerNormalization: ids [batch, seq] and a table [vocabulary, hidden]."""
    ids, table = call.shape(0, 2), call.shape(2, 2)
    dtype = call.fact(2).dtype
    if ids is None or table is None:
        return [Fact(None, dtype)]
    hidden: Shape = (*ids, table[-1])
    return [Fact(hidden, dtype), Fact(ids[:1], ir.DataType.INT32), Fact(hidden, dtype)]


def _fused_matmul(call: Call) -> list[Fact]:
    """FusedMatMul: transA/transB swap the last two axes, transBatchA/B rotate the leading ones."""
    operands = []
    for index, letter in enumerate("AB"):
        shape = call.shape(index)
        if shape is not None and len(shape) > 1:
            if call.integer(f"transBatch{letter}"):
                shape = (*shape[1:-1], shape[0], shape[-1])
            if call.integer(f"trans{letter}"):
                shape = (*shape[:-2], shape[-1], shape[-2])
        operands.append(shape)
    return [Fact(multiply(*operands), call.fact(0).dtype)]


def _scaled_matmul(scale_at: int) -> Rule:
    """DynamicQuantizeMatMul, MatMulIntegerToFloat: integer product, the type of the scale."""

    def rule(call: Call) -> list[Fact]:
        return [Fact(multiply(call.shape(0), call.shape(1)), call.fact(scale_at).dtype)]

    return rule


def _packed_matmul(call: Call) -> list[Fact]:
    """MatMulNBits, MatMulBnb4: the weight is packed, its columns N are an attribute."""
    shape, columns = call.shape(0), call.integer("N") or None
    if shape and shape[-1] not in (None, call.integer("K", shape[-1] or 0)):
        raise ValueError(f"{shape[-1]} columns meet {call.integer('K')} rows")
    return [Fact((*shape[:-1], columns) if shape else None, call.fact(0).dtype)]


def _quantized_gemm(call: Call) -> list[Fact]:
    """QGemm: (A, scale, zero, B, scale, zero, C, Y scale, Y zero); a float result without them."""
    a, b = call.shape(0, 2), call.shape(3, 2)
    if a is not None and call.integer("transA"):
        a = a[::-1]
    if b is not None and call.integer("transB"):
        b = b[::-1]
    return [Fact(multiply(a, b), call.fact(8).dtype or ir.DataType.FLOAT)]


def _quantized_binary(call: Call) -> list[Fact]:
    """QLinearAdd, QLinearMul: (A, scale, zero, B, scale, zero, C scale, C zero)."""
    return [Fact(broadcast(call.shape(0), call.shape(3)), call.fact(0).dtype)]


def _quantized_concat(call: Call) -> list[Fact]:
    """QLinearConcat: (Y scale, Y zero, then tensor, scale, zero of each)."""
    parts = [call.shape(index) for index in range(2, len(call.inputs), 3)]
    dtype = call.fact(2).dtype
    first = parts[0] if parts else None
    if not first:
        return [Fact(None, dtype)]
    axis = call.integer("axis") % len(first)
    total: int | None = 0
    for part in parts:
        total = plus(total, None if part is None else part[axis])
    return [Fact((*first[:axis], total, *first[axis + 1 :]), dtype)]


def _expand_dims(call: Call) -> list[Fact]:
    """ExpandDims: Unsqueeze of one axis, given as an int32 scalar."""
    shape, axis = call.shape(0), call.fact(1).value
    if shape is None or axis is None:
        return [Fact(None, call.fact(0).dtype)]
    at = int(axis.reshape(-1)[0]) % (len(shape) + 1)
    return [Fact((*shape[:at], 1, *shape[at:]), call.fact(0).dtype)]


def _split_gelu(call: Call) -> list[Fact]:
    """BiasSplitGelu: half the last axis gates the other half."""
    shape = call.shape(0)
    halved = (*shape[:-1], share(shape[-1], 2)) if shape else None
    return [Fact(halved, call.fact(0).dtype)]


_LIKE_FIRST = """
BiasAdd BiasDropout BiasGelu BiasSoftmax BitmaskDropout FastGelu Gelu GemmFastGelu GroupNorm
GroupNormalization Inverse LongformerAttention MoE QLinearLeakyRelu QLinearSigmoid QLinearSoftmax
QMoE QuickGelu RotaryEmbedding SkipGroupNorm
"""

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_LIKE_FIRST.split(), _like_first),
    **ATTENTION_RULES,
    **LAYOUT_RULES,
    "BiasSplitGelu": _split_gelu,
    "DynamicQuantizeMatMul": _scaled_matmul(2),
    "EmbedLayerNormalization": _embed_layer_normalization,
    "ExpandDims": _expand_dims,
    "FusedMatMul": _fused_matmul,
    "FusedMatMulActivation": _fused_matmul,
    "MatMulBnb4": _packed_matmul,
    "MatMulIntegerToFloat": _scaled_matmul(2),
    "MatMulNBits": _packed_matmul,
    "QGemm": _quantized_gemm,
    "QLinearAdd": _quantized_binary,
    "QLinearConcat": _quantized_concat,
    "QLinearMul": _quantized_binary,
    "SimplifiedLayerNormalization": _normalisation,
    "SkipLayerNormalization": _normalisation,
    "SkipSimplifiedLayerNormalization": _normalisation,
}
