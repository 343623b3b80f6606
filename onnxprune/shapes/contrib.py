"""Shapes of operators onnx has no schema for: onnxruntime's own (``com.microsoft``, ``nchwc``).

Two ways: an operator that is a standard one under another name is rewritten as that one
(:func:`standard_form`), the others have a rule (:data:`RULES`). Source: onnxruntime's
``docs/ContribOperators.md`` and its ``core/graph/contrib_ops`` shape inference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxprune.shapes.facts import Fact, Shape

# Operators that are a standard one under another name: (standard name, inputs they share).
_STANDARD = {
    "FusedConv": ("Conv", 3),
    "FusedGemm": ("Gemm", 3),
    "DynamicQuantizeLSTM": ("LSTM", 8),
    "QLinearReduceMean": ("ReduceMean", 1),
    "MatMulInteger16": ("MatMulInteger", 2),
    "ExpandDims": ("Unsqueeze", 2),
}
_OWN_DOMAINS = ("com.microsoft", "com.microsoft.nchwc")


@dataclass(frozen=True, eq=False)
class Call:
    """One node as a rule sees it: a fact per input (None where left out) and its attributes."""

    inputs: Sequence[Fact | None]
    attributes: Mapping[str, Any]
    outputs: int

    def fact(self, index: int) -> Fact:
        """An input's fact; an unknown one where it is left out."""
        found = self.inputs[index] if index < len(self.inputs) else None
        return found if found is not None else Fact(None, None)

    def shape(self, index: int) -> Shape | None:
        """An input's shape, None where left out or unknown."""
        return self.fact(index).shape

    def integer(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        return int(self.attributes.get(name, default))


Rule = Callable[[Call], list[Fact]]


def standard_form(proto: onnx.NodeProto) -> onnx.NodeProto | None:
    """The same node as a standard operator, or None when it is not one."""
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


def _like_first(call: Call) -> list[Fact]:
    """Output 0 is like input 0."""
    first = call.fact(0)
    return [Fact(first.shape, first.dtype)]


def _normalisation(call: Call) -> list[Fact]:
    """(Skip)(Simplified)LayerNormalization: output, mean, inverse deviation, sum with the skip.

    SimplifiedLayerNormalization has no mean: its second output is the inverse deviation.
    """
    first = Fact(call.shape(0), call.fact(0).dtype)
    if first.shape is None:
        return [first]
    axis = call.integer("axis", -1) % max(len(first.shape), 1)
    moment: Shape = first.shape[:axis] + (1,) * (len(first.shape) - axis)
    moments = Fact(moment, ir.DataType.FLOAT)
    return [first, moments, moments, first]


def broadcast(a: Shape | None, b: Shape | None) -> Shape | None:
    """The shape two operands broadcast to; an unknown size against a larger one takes that."""
    if a is None or b is None:
        return None
    rank = max(len(a), len(b))
    padded = [(1,) * (rank - len(s)) + s for s in (a, b)]
    sizes: list[int | None] = []
    for p, q in zip(*padded, strict=True):
        if p in (1, q):
            sizes.append(q)
        elif q == 1:
            sizes.append(p)
        elif p is None or q is None:
            sizes.append(p or q)
        else:
            raise ValueError(f"{p} and {q} do not broadcast")
    return tuple(sizes)


def _matmul_shape(a: Shape | None, b: Shape | None) -> Shape | None:
    if a is None or b is None or not a or not b:
        return None
    left = (1, *a) if len(a) == 1 else a
    right = (*b, 1) if len(b) == 1 else b
    if None not in (left[-1], right[-2]) and left[-1] != right[-2]:
        raise ValueError(f"{left[-1]} columns meet {right[-2]} rows")
    batch = broadcast(left[:-2], right[:-2])
    if batch is None:
        return None
    return batch + (left[-2:-1] if len(a) > 1 else ()) + (right[-1:] if len(b) > 1 else ())


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
    return [Fact(_matmul_shape(*operands), call.fact(0).dtype)]


def _float_matmul(call: Call) -> list[Fact]:
    """DynamicQuantizeMatMul, MatMulIntegerToFloat: integer product, float result."""
    dtype = call.fact(0).dtype
    dtype = dtype if dtype == ir.DataType.FLOAT16 else ir.DataType.FLOAT
    return [Fact(_matmul_shape(call.shape(0), call.shape(1)), dtype)]


def _packed_matmul(call: Call) -> list[Fact]:
    """MatMulNBits, MatMulBnb4, MatMulFpQ4: the weight is packed, N is an attribute."""
    shape = call.shape(0)
    columns = call.integer("N") or None
    return [Fact(None if shape is None else (*shape[:-1], columns), call.fact(0).dtype)]


def _qlinear_binary(call: Call) -> list[Fact]:
    """QLinearAdd, QLinearMul: (A, scale, zero, B, scale, zero, C scale, C zero)."""
    return [Fact(broadcast(call.shape(0), call.shape(3)), call.fact(0).dtype)]


def _qlinear_concat(call: Call) -> list[Fact]:
    """QLinearConcat: (Y scale, Y zero, then tensor, scale, zero of each)."""
    parts = [call.shape(index) for index in range(2, len(call.inputs), 3)]
    first = parts[0] if parts else None
    if first is None or any(part is None for part in parts):
        return [Fact(None, call.fact(2).dtype)]
    axis = call.integer("axis") % len(first)
    along = [None if part is None else part[axis] for part in parts]
    total = None if None in along else sum(size or 0 for size in along)
    return [Fact((*first[:axis], total, *first[axis + 1 :]), call.fact(2).dtype)]


def _global_pool(call: Call) -> list[Fact]:
    """QLinearGlobalAveragePool, channels first or last."""
    shape = call.shape(0)
    if shape is not None and call.integer("channels_last"):
        shape = (shape[0], *(1,) * (len(shape) - 2), shape[-1])
    elif shape is not None:
        shape = (*shape[:2], *(1,) * (len(shape) - 2))
    return [Fact(shape, call.fact(0).dtype)]


def _attention(call: Call) -> list[Fact]:
    """Attention, QAttention: one packed projection [in, q + k + v] of input [batch, seq, in]."""
    shape, weight = call.shape(0), call.shape(1)
    dtype = call.fact(0).dtype if call.fact(0).dtype in _FLOATS else call.fact(3).dtype
    if shape is None or len(shape) != 3 or weight is None:
        return [Fact(None, dtype)] * 2
    packed = weight[-1]
    sizes = [int(s) for s in call.attributes.get("qkv_hidden_sizes", ())]
    hidden = sizes[2] if sizes else None if packed is None else packed // 3
    heads = call.integer("num_heads")
    depth = None if hidden is None or not heads else hidden // heads
    past = next((call.shape(i) for i in (4, 8) if _rank(call.shape(i)) == 5), None)
    total = _plus(shape[1], past[3] if past is not None else 0)
    present: Shape = (2, shape[0], heads, total, depth)
    return [Fact((*shape[:2], hidden), dtype), Fact(present, dtype)]


def _multi_head_attention(call: Call) -> list[Fact]:
    """MultiHeadAttention: query, key, value each [batch, seq, width], or key/value per head."""
    query, key, value = (call.shape(index) for index in range(3))
    dtype = call.fact(0).dtype
    heads = call.integer("num_heads")
    if query is None:
        return [Fact(None, dtype)] * 3
    if len(query) == 5:  # packed QKV: [batch, seq, heads, 3, depth]
        width, depth, length = _times(query[2], query[4]), query[4], query[1]
    elif _rank(value) == 4 and value is not None:  # [batch, heads, seq, depth]
        width, depth, length = _times(value[1], value[3]), value[3], value[2]
    elif _rank(value) == 3 and value is not None:
        width, depth, length = value[2], _share(value[2], heads), value[1]
    elif _rank(key) == 5 and key is not None:  # packed KV: [batch, seq, heads, 2, depth]
        width, depth, length = _times(key[2], key[4]), key[4], key[1]
    else:
        return [Fact((*query[:2], None), dtype)]
    past = call.shape(6)
    total = _plus(length, past[2] if _rank(past) == 4 and past is not None else 0)
    present: Shape = (query[0], heads, total, depth)
    return [Fact((query[0], query[1], width), dtype), *[Fact(present, dtype)] * 2]


def _group_query_attention(call: Call) -> list[Fact]:
    """GroupQueryAttention: query [batch, seq, heads * depth], or packed with key and value."""
    query, key, past = call.shape(0), call.shape(1), call.shape(3)
    dtype = call.fact(0).dtype
    heads, shared = call.integer("num_heads"), call.integer("kv_num_heads")
    if query is None or len(query) != 3:
        return [Fact(None, dtype)] * 3
    depth = _share(query[2], heads if key is not None else heads + 2 * shared)
    # The cache is as long as the longer of what is passed in and the total the caller states.
    stated = call.fact(6).value
    length = None
    if stated is not None and (past is None or past[2] is not None):
        length = max(int(np.max(stated)), (past[2] or 0) if past is not None else 0)
    present: Shape = (query[0], shared, length, depth)
    return [Fact((*query[:2], _times(heads, depth)), dtype), *[Fact(present, dtype)] * 2]


def _embed_layer_normalization(call: Call) -> list[Fact]:
    """EmbedLayerNormalization: ids [batch, seq] and a table [vocabulary, hidden]."""
    ids, table = call.shape(0), call.shape(2)
    dtype = call.fact(2).dtype
    if ids is None or table is None:
        return [Fact(None, dtype)]
    hidden: Shape = (*ids, table[-1])
    return [Fact(hidden, dtype), Fact(ids[:1], ir.DataType.INT32), Fact(hidden, dtype)]


def _split_gelu(call: Call) -> list[Fact]:
    """BiasSplitGelu: half the last axis gates the other half."""
    shape = call.shape(0)
    halved = None if shape is None else (*shape[:-1], _share(shape[-1], 2))
    return [Fact(halved, call.fact(0).dtype)]


def _rank(shape: Shape | None) -> int:
    return -1 if shape is None else len(shape)


def _plus(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


def _times(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a * b


def _share(total: int | None, parts: int) -> int | None:
    return None if total is None or parts == 0 else total // parts


_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_SAME = """
BiasAdd BiasDropout BiasGelu BiasSoftmax FastGelu Gelu GemmFastGelu GroupNorm
LongformerAttention MoE QLinearLeakyRelu QLinearSigmoid QLinearSoftmax QMoE QuickGelu
RotaryEmbedding SkipGroupNorm BitmaskDropout Inverse
"""

RULES: Mapping[str, Rule] = dict.fromkeys(_SAME.split(), _like_first) | {
    "Attention": _attention,
    "BiasSplitGelu": _split_gelu,
    "DynamicQuantizeMatMul": _float_matmul,
    "EmbedLayerNormalization": _embed_layer_normalization,
    "FusedMatMul": _fused_matmul,
    "FusedMatMulActivation": _fused_matmul,
    "GroupQueryAttention": _group_query_attention,
    "MatMulBnb4": _packed_matmul,
    "MatMulFpQ4": _packed_matmul,
    "MatMulIntegerToFloat": _float_matmul,
    "MatMulNBits": _packed_matmul,
    "MultiHeadAttention": _multi_head_attention,
    "QAttention": _attention,
    "QLinearAdd": _qlinear_binary,
    "QLinearConcat": _qlinear_concat,
    "QLinearGlobalAveragePool": _global_pool,
    "QLinearMul": _qlinear_binary,
    "SimplifiedLayerNormalization": _normalisation,
    "SkipLayerNormalization": _normalisation,
    "SkipSimplifiedLayerNormalization": _normalisation,
}
