"""Shapes of onnxruntime's fused attention (``com.microsoft``).

Source: onnxruntime ``docs/ContribOperators.md`` and ``core/graph/contrib_ops/bert_defs.cc``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxprune.graph.shapes.call import Call, Rule, plus, share, times
from onnxprune.graph.shapes.facts import Fact, Shape

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def _attention(past_at: int) -> Rule:
    """Attention and QAttention: input [batch, seq, in], one packed projection [in, q + k + v].

    The second output is the cache, keys then values: [2, batch, heads, past + seq, depth].
    """

    def rule(call: Call) -> list[Fact]:
        shape, weight = call.shape(0, 3), call.shape(1, 2)
        dtype = call.fact(0).dtype
        if dtype not in _FLOATS:
            dtype = call.fact(3).dtype  # quantized: the type of the scales
        if shape is None or weight is None:
            return [Fact(None, dtype)]
        sizes = [int(size) for size in call.attributes.get("qkv_hidden_sizes", ())]
        hidden = sizes[2] if sizes else share(weight[-1], 3)
        heads = call.integer("num_heads")
        past = call.shape(past_at, 5)
        length = shape[1] if past is None else plus(shape[1], past[3])
        cache: Shape = (2, shape[0], heads, length, share(hidden, heads))
        return [Fact((*shape[:2], hidden), dtype), Fact(cache, dtype)]

    return rule


def _multi_head(call: Call) -> list[Fact]:
    """MultiHeadAttention: query, key, value each [batch, seq, width], or packed, or per head.

    The caches are [batch, heads, past + key length, depth].
    """
    query, key, value = (call.shape(index) for index in range(3))
    dtype, heads = call.fact(0).dtype, call.integer("num_heads")
    if query is None or len(query) not in (3, 5):
        return [Fact(None, dtype)]
    width: int | None
    if len(query) == 5:  # packed: [batch, seq, heads, 3, depth]
        width, depth, length = times(query[2], query[4]), query[4], query[1]
        keys_depth = depth
    elif key is not None and len(key) == 5:  # packed: [batch, seq, heads, 2, depth]
        width, depth, length = times(key[2], key[4]), key[4], key[1]
        keys_depth = depth
    elif value is not None and len(value) == 4:  # [batch, heads, seq, depth]
        width, depth, length = times(value[1], value[3]), value[3], value[2]
        keys_depth = share(query[2], heads)
    elif value is not None and len(value) == 3:
        width, depth, length = value[2], share(value[2], heads), value[1]
        keys_depth = share(query[2], heads)
    else:
        return [Fact((*query[:2], None), dtype)]
    past = call.shape(6, 4)
    total = length if past is None else plus(length, past[2])
    caches = [Fact((query[0], heads, total, d), dtype) for d in (keys_depth, depth)]
    return [Fact((*query[:2], width), dtype), *caches]


def _group_query(call: Call) -> list[Fact]:
    """GroupQueryAttention: query [batch, seq, heads * depth], or packed with key and value.

    The caches are [batch, kv heads, length, depth]; length is the longer of the cache passed in
    and the total the caller states (input 6).
    """
    query, key, past = call.shape(0, 3), call.shape(1), call.shape(3, 4)
    dtype = call.fact(0).dtype
    heads, shared = call.integer("num_heads"), call.integer("kv_num_heads")
    if query is None:
        return [Fact(None, dtype)]
    depth = share(query[2], heads if key is not None else heads + 2 * shared)
    stated = call.fact(6).value
    length: int | None = None
    if stated is not None:
        length = int(np.max(stated))
        if past is not None:
            length = None if past[2] is None else max(length, past[2])
    cache = Fact((query[0], shared, length, depth), dtype)
    return [Fact((*query[:2], times(heads, depth)), dtype), cache, cache]


ATTENTION_RULES: Mapping[str, Rule] = {
    "Attention": _attention(4),
    "GroupQueryAttention": _group_query,
    "MultiHeadAttention": _multi_head,
    "QAttention": _attention(8),
}
