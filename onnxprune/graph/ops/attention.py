"""Fused attention: heads (kv-groups and their replicas), query-key dims and value dims."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxprune.graph.axes import Axis, concat
from onnxprune.graph.facts import Fact, Shape
from onnxprune.graph.notation import MismatchError, Tensor
from onnxprune.graph.ops.call import HEAD, HEAD_DIM, Call, Contraction, count, linear, rule
from onnxprune.graph.ops.call import MICROSOFT as _MS
from onnxprune.graph.ops.shape_call import (
    ShapeCall,
    ShapeRule,
    like_first,
    plus,
    shape_rule,
    share,
    times,
)

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def _explicit_scale(call: Call, dims: Axis) -> None:
    """The default scale is 1/sqrt(head size): write it out, so that it survives a cut."""
    if not call.attr("scale", 0.0):
        old = 1.0 / math.sqrt(dims.size or 1)
        call.settings["scale"] = lambda keep: old if not keep(dims).all() else None


def _tag(call: Call, heads: Axis, *dims: Axis) -> None:
    call.space.tag(heads, HEAD)
    for axis in dims:
        call.space.tag(axis, HEAD_DIM)


linear("Attention", domain=_MS, line="b s i, i n, n -> b s n", kind="fused")


@rule("Attention", domain=_MS)
def attention(call: Call) -> list[Tensor]:
    """Fused projection: input ``[b s i]``, weight ``[i (3 h d)]``, bias ``[(3 h d)]``."""
    if call.attr("qkv_hidden_sizes") or call.has(4) or len(call.out_shapes) > 1:
        raise MismatchError("uneven q, k, v sizes or a past state")
    heads = int(call.attr("num_heads"))
    out = call.einsum("_ _ i, i (3 h d), (3 h d) -> _ _ (h d)", {"h": heads}, first=3)
    h, d = call.space.split(out[0][2], (heads, call.out_shape()[2] // heads))
    call.contractions += [Contraction(((1, 1),))] + [Contraction(((2, 0),))] * call.has(2)
    call.settings["num_heads"] = count(h)
    _explicit_scale(call, d)
    _tag(call, h, d)
    _bias_over_heads(call, 5, h)
    return out


def _bias_over_heads(call: Call, i: int, heads: Axis) -> None:
    """A bias ``[b or 1, h or 1, s, l]`` on the scores."""
    if not call.has(i):
        return
    bias = call.tensor(i)
    if len(bias) == 4 and bias[1].size == heads.size:
        call.space.unify(bias[1], heads)
    call.pin(i, [k for k in range(len(bias)) if k != 1 or bias[k].size != heads.size])


@rule("MultiHeadAttention", domain=_MS)
def multi_head(call: Call) -> list[Tensor]:
    """Takes query ``[b s (h d)]``, key ``[b l (h d)]``, value ``[b l (h v)]``, one bias."""
    if not (call.has(1) and call.has(2)) or any(len(call.tensor(i)) != 3 for i in (0, 1, 2)):
        raise MismatchError("packed or cached keys and values")
    if call.has(6) or call.has(7) or len(call.out_shapes) > 1:
        raise MismatchError("a past state or a second output")
    heads = int(call.attr("num_heads"))
    space = call.space
    out = call.einsum("_ _ (h d), _ _ (h d), _ _ (h v) -> _ _ (h v)", {"h": heads}, first=3)
    query, _, value = (call.tensor(i)[2] for i in range(3))
    h, d = space.split(query, (heads, (query.size or 0) // heads))
    _, v = space.split(value, (heads, (value.size or 0) // heads))
    if call.has(3):
        bias = concat(space, [query, call.tensor(1)[2], value])
        space.unify(call.tensor(3)[0], bias)
        call.roles[3, 0] = "scales"
        call.contractions.append(Contraction(((3, 0),)))  # added before queries meet keys
    call.pin(4)
    _bias_over_heads(call, 5, h)
    call.settings["num_heads"] = count(h)
    _explicit_scale(call, d)
    _tag(call, h, d, v)
    return out


@rule("GroupQueryAttention", domain=_MS)
def group_query(call: Call) -> list[Tensor]:
    """Takes query ``[b s (k r d)]``, key and value ``[b l (k d)]``, caches ``[b k l d]``."""
    if not (call.has(1) and call.has(2)):
        raise MismatchError("packed queries, keys and values")
    n, kv = int(call.attr("num_heads")), int(call.attr("kv_num_heads"))
    caches = ", _ k _ _, _ k _ _" * call.has(3)
    size = call.out_shape()[-1] // n
    line = f"_ _ (k r {size}), _ _ (k {size}), _ _ (k {size}){caches}"
    line += f" -> _ _ (k r {size}), _ k _ _, _ k _ _"
    out = call.einsum(line, {"k": kv, "r": n // kv}, first=5 if caches else 3)
    for i in range(5, len(call.inputs)):
        call.pin(i)
    k, r, _ = call.space.split(out[0][2], (kv, n // kv, size))
    call.contractions = []
    call.settings["kv_num_heads"] = count(k)
    call.settings["num_heads"] = lambda keep: int(keep(k).sum() * keep(r).sum())
    _tag(call, k)
    _tag(call, r)
    return out


@rule("RotaryEmbedding", domain=_MS)
@rule("RotaryEmbedding")
def rotary(call: Call) -> list[Tensor]:
    """Takes x ``[b s (h d)]`` or ``[b h s d]``; d rotates in pairs against the caches and stays."""
    x, heads = call.tensor(0), int(call.attr("num_heads", 0))
    for i in range(1, len(call.inputs)):
        call.pin(i)
    call.pin(0, [0, 2, 3] if len(x) == 4 else [0, 1])
    if len(x) == 4:
        if heads:
            call.settings["num_heads"] = count(x[1])
        return [x]
    size = (x[2].size or 0) // heads if heads else 2 * call.shape(2)[-1]
    h, d = call.space.split(x[2], ((x[2].size or 0) // size, size))
    call.space.pin(d, f"rotates in pairs in `{call.name}`")
    if heads:
        call.settings["num_heads"] = count(h)
    return [(x[0], x[1], call.space.merge([h, d]))]


@rule("Attention")
def attention_onnx(call: Call) -> list[Tensor]:
    """ai.onnx, opset 23: q, k, v of rank 4 ``[b h s d]`` or rank 3 ``[b s (h d)]``."""
    if any(call.has(i) for i in (4, 5)) or len(call.out_shapes) > 1:
        raise MismatchError("a past state or a second output")
    flat = len(call.tensor(0)) == 3
    query, key = call.tensor(0), call.tensor(1)
    n = int(call.attr("q_num_heads")) if flat else query[1].size or 0
    kv = int(call.attr("kv_num_heads")) if flat else key[1].size or 0
    line = (
        "_ _ (k r d), _ _ (k d), _ _ (k v) -> _ _ (k r v)"
        if flat
        else "_ (k r) _ d, _ k _ d, _ k _ v -> _ (k r) _ v"
    )
    out = call.einsum(line, {"k": kv, "r": n // kv}, first=3)
    space = call.space
    if flat:
        k, r, d = space.split(query[2], (kv, n // kv, (query[2].size or 0) // n))
        _, v = space.split(call.tensor(2)[2], (kv, (call.tensor(2)[2].size or 0) // kv))
        call.settings["kv_num_heads"] = count(k)
        call.settings["q_num_heads"] = lambda keep: int(keep(k).sum() * keep(r).sum())
    else:
        (k, r), d, v = space.split(query[1], (kv, n // kv)), query[3], call.tensor(2)[3]
    if call.has(3):
        mask = call.tensor(3)
        if len(mask) >= 3 and mask[-3].size == n and n > 1:
            space.unify(mask[-3], space.merge([k, r]))
        call.pin(3, [i for i in range(len(mask)) if i != len(mask) - 3 or mask[i].size != n])
    _explicit_scale(call, d)
    _tag(call, k, d, v)
    _tag(call, r)
    return out


@rule(
    "PackedAttention",
    "PackedMultiHeadAttention",
    "QAttention",
    "SparseAttention",
    "PagedAttention",
    "DecoderMaskedMultiHeadAttention",
    "LongformerAttention",
    domain=_MS,
)
def packed(_: Call) -> list[Tensor]:
    """Known, and kept whole: their tensors are packed in ways that single heads cannot leave."""
    raise MismatchError("packed attention keeps its heads")


@rule("MoE", "QMoE", domain=_MS)
def experts(_: Call) -> list[Tensor]:
    """Experts are chosen by a router that normalises over them, and their tensors are stacked."""
    raise MismatchError("a router chooses among its experts")


# -- shapes; source: onnxruntime core/graph/contrib_ops/bert_defs.cc -------------------------------


def _attention_shape(past_at: int) -> ShapeRule:
    """Attention and QAttention: input [batch, seq, in], one packed projection [in, q + k + v].

    The second output is the cache, keys then values: [2, batch, heads, past + seq, depth].
    """

    def projected(call: ShapeCall) -> list[Fact]:
        shape, weight = call.shape(0, 3), call.shape(1, 2)
        dtype = call.fact(0).dtype
        if dtype not in _FLOATS:
            dtype = call.fact(3).dtype  # quantized: the type of the scales
        if shape is None or weight is None:
            return [Fact(None, dtype)]
        sizes = [int(size) for size in call.attr("qkv_hidden_sizes", ())]
        hidden = sizes[2] if sizes else share(weight[-1], 3)
        heads = call.integer("num_heads")
        past = call.shape(past_at, 5)
        length = shape[1] if past is None else plus(shape[1], past[3])
        cache: Shape = (2, shape[0], heads, length, share(hidden, heads))
        return [Fact((*shape[:2], hidden), dtype), Fact(cache, dtype)]

    return projected


shape_rule("Attention", domain=_MS)(_attention_shape(4))
shape_rule("QAttention", domain=_MS)(_attention_shape(8))
shape_rule("LongformerAttention", "RotaryEmbedding", domain=_MS)(like_first)


@shape_rule("MultiHeadAttention", domain=_MS)
def _multi_head_shape(call: ShapeCall) -> list[Fact]:
    """Query, key, value each [batch, seq, width], or packed, or per head.

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


@shape_rule("GroupQueryAttention", domain=_MS)
def _group_query_shape(call: ShapeCall) -> list[Fact]:
    """Query [batch, seq, heads * depth], or packed with key and value.

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
