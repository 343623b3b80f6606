"""Fused attention: heads, query-key dims and value dims leave, and what counts them follows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from models.skeletons.net import FLOAT, INT64, Net
from onnxprune import model as models
from onnxprune.graph.analysis import analyse
from verified_cuts import VerifiedCut, verified_cut

MS = "com.microsoft"
TOKENS = ("batch", "length", 16)
INT32 = onnx.TensorProto.INT32
HEADS, HEAD = 4, 6
WIDTH = HEADS * HEAD


def tokens(opset: int = 17) -> tuple[Net, str]:
    net = Net(21, opset=opset, microsoft=True)
    return net, net.input("x", TOKENS, width=16)


def finish(net: Net, y: str) -> onnx.ModelProto:
    net.width[y] = WIDTH
    return net.build(net.dense(y, 16), TOKENS)


def attribute(result: VerifiedCut, op: str, name: str) -> float:
    return result.nodes(op)[0].attributes[name].value


def bias(net: Net, *shape: int) -> str:
    return net.constant(net.rng.standard_normal(shape).astype(np.float32))


def scale_is_that_of_the_dense_model(result: VerifiedCut, op: str) -> None:
    assert attribute(result, op, "scale") == pytest.approx(HEAD**-0.5)


def ms_attention(*extra: str, **attributes: object) -> onnx.ModelProto:
    net, x = tokens()
    inputs = [x, net.weight(16, 3 * WIDTH, fan=16), bias(net, 3 * WIDTH)]
    if extra:
        inputs += ["", "", bias(net, 1, HEADS if "per head" in extra else 1, 6, 6)]
    y = net.node("Attention", *inputs, domain=MS, num_heads=HEADS, **attributes)
    return finish(net, y)


def test_the_packed_projection() -> None:
    result = verified_cut(ms_attention())
    assert result.kinds == {"head": 1, "head-dim": 2}
    assert attribute(result, "Attention", "num_heads") == 3
    scale_is_that_of_the_dense_model(result, "Attention")
    assert result.stored(result.nodes("Attention")[0], 1).shape == (16, 3 * 3 * 4)
    assert result.stored(result.nodes("Attention")[0], 2).shape == (3 * 3 * 4,)


def test_a_scale_that_is_written_stays_as_it_is() -> None:
    result = verified_cut(ms_attention(scale=0.3))
    assert attribute(result, "Attention", "scale") == pytest.approx(0.3)


def test_without_a_cut_of_dims_the_default_scale_stays_unwritten() -> None:
    model = ms_attention()
    name = next(g.name for g in analyse(models.load(model)).groups if g.kind == "head")
    result = verified_cut(model, {name: [2]})
    assert "scale" not in result.nodes("Attention")[0].attributes


@pytest.mark.parametrize("kind", ["per head", "shared"])
def test_a_bias_on_the_scores_loses_its_heads(kind: str) -> None:
    model = ms_attention(kind)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 6
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6
    result = verified_cut(model)
    assert result.kinds["head"] == 1
    heads = result.stored(result.nodes("Attention")[0], 5).shape[1]
    assert heads == (3 if kind == "per head" else 1)


def test_uneven_projections_stay_and_say_so() -> None:
    net, x = tokens()
    weight, offset = net.weight(16, 2 * 16 + WIDTH, fan=16), bias(net, 2 * 16 + WIDTH)
    sizes = {"qkv_hidden_sizes": [16, 16, WIDTH]}
    y = net.node("Attention", x, weight, offset, domain=MS, num_heads=HEADS, **sizes)
    result = verified_cut(finish(net, net.dense(net.node("Relu", y, width=WIDTH), WIDTH)))
    assert result.kinds == {"ffn": 9}
    assert "uneven" in result.why("Attention", 0, 1)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("scores", ["", "per head", "shared"])
def test_multi_head_attention(with_bias: bool, scores: str) -> None:
    net, x = tokens()
    inputs = [net.dense(x, WIDTH, bias=False) for _ in range(3)]
    inputs += [bias(net, 3 * WIDTH)] if with_bias else [""]
    if scores:
        inputs += ["", bias(net, 1, HEADS if scores == "per head" else 1, 6, 6)]
    model = finish(net, net.node("MultiHeadAttention", *inputs, domain=MS, num_heads=HEADS))
    if scores:
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[1].dim_value = 6
    result = verified_cut(model)
    assert result.kinds == {"head": 1, "head-dim": 2 + 2}
    assert attribute(result, "MultiHeadAttention", "num_heads") == 3
    scale_is_that_of_the_dense_model(result, "MultiHeadAttention")
    if scores == "per head":
        assert result.stored(result.nodes("MultiHeadAttention")[0], 5).shape == (1, 3, 6, 6)


def test_multi_head_attention_with_a_padding_mask_and_keys_of_another_length() -> None:
    net, x = tokens()
    memory = net.input("memory", ("batch", "keys", 16), width=16)
    mask = net.input("mask", ("batch", "keys"), INT32)
    inputs = [net.dense(x, WIDTH), net.dense(memory, WIDTH), net.dense(memory, WIDTH)]
    y = net.node("MultiHeadAttention", *inputs, "", mask, domain=MS, num_heads=HEADS)
    result = verified_cut(finish(net, y))
    assert result.kinds == {"head": 1, "head-dim": 2 + 2}


def test_a_cache_that_is_public_keeps_its_heads_and_says_so() -> None:
    net, x = tokens()
    past = [net.input(n, ("batch", HEADS, "keys", HEAD)) for n in ("past_key", "past_value")]
    inputs = [net.dense(x, WIDTH) for _ in range(3)]
    values = net.nodes_with(
        "MultiHeadAttention",
        [*inputs, "", "", "", *past],
        3,
        domain=MS,
        num_heads=HEADS,
        width=WIDTH,
    )
    y = net.dense(net.node("Relu", net.dense(values[0], 20)), WIDTH)
    model = finish(net, y)
    for name in values[1:]:
        shape = ("batch", HEADS, "all", HEAD)
        model.graph.output.append(helper.make_tensor_value_info(name, FLOAT, shape))
    result = verified_cut(model)
    assert result.kinds == {"ffn": 8 + 9}
    assert "past state" in result.why("MatMul", 0, 1)


@pytest.mark.parametrize("kv", [1, 2, 3, 6])
def test_grouped_queries_lose_groups_or_replicas(kv: int) -> None:
    net = Net(22, microsoft=True)
    x = net.input("x", (2, 5, 16), width=16)
    q, k, v = (net.dense(x, n * 8) for n in (6, kv, kv))
    counts = net.constant(np.full((2, 1), 4, np.int32)), net.constant(np.array(5, np.int32))
    y = net.nodes_with(
        "GroupQueryAttention",
        [q, k, v, "", "", *counts],
        3,
        domain=MS,
        num_heads=6,
        kv_num_heads=kv,
        width=48,
    )[0]
    result = verified_cut(net.build(net.dense(y, 16), (2, 5, 16)))
    node = result.nodes("GroupQueryAttention")[0]
    heads, groups = (node.attributes[n].as_int() for n in ("num_heads", "kv_num_heads"))
    assert groups == max(kv - max(1, int(0.4 * kv)), 1)
    assert heads % groups == 0
    assert heads < 6
    assert len(result.kinds) == 1 + (1 < kv < 6)


@pytest.mark.parametrize("op", ["PackedAttention", "QAttention"])
def test_packed_attention_stays_and_says_so(op: str) -> None:
    net, x = tokens()
    y = net.node("Relu", net.dense(x, 12))
    model = net.build(net.dense(y, 16), TOKENS)
    node = helper.make_node(op, ["packed", "w"], ["unused"], domain=MS, num_heads=4)
    model.graph.node.append(node)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((16, 48), np.float32), "w"))
    model.graph.node.append(helper.make_node("Identity", ["x"], ["packed"]))
    analysis = analyse(models.load(model))
    assert analysis.walk.declined["unused"] == f"{op} `unused`: packed attention keeps its heads"
    assert {p.reason for p in analysis.pinned if p.tensor == "w"} == {
        f"{op} `unused`: packed attention keeps its heads"
    }
    assert [len(g) for g in analysis.groups if g.exact] == [12]


# -- ai.onnx, opset 23 -----------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("kv", [1, 2, 4])
def test_attention_of_opset_23(rank: int, kv: int) -> None:
    net, x = tokens(23)
    q, k, v = (net.dense(x, n * HEAD) for n in (HEADS, kv, kv))
    if rank == 3:
        y = net.node("Attention", q, k, v, q_num_heads=HEADS, kv_num_heads=kv, is_causal=1)
    else:
        shapes = [net.constant([0, 0, n, HEAD]) for n in (HEADS, kv)]
        q, k, v = (
            net.node("Transpose", net.node("Reshape", y, shapes[i > 0]), perm=[0, 2, 1, 3])
            for i, y in enumerate((q, k, v))
        )
        y = net.node("Transpose", net.node("Attention", q, k, v), perm=[0, 2, 1, 3])
        y = net.node("Reshape", y, net.constant([0, 0, WIDTH]))
    result = verified_cut(finish(net, y))
    assert result.kinds["head-dim"] == 2 + 2
    assert sum(n for k, n in result.kinds.items() if k != "head-dim") == 1 + (kv == 2)
    scale_is_that_of_the_dense_model(result, "Attention")


@pytest.mark.parametrize("heads", [1, HEADS])
@pytest.mark.parametrize("leading", [True, False])
def test_the_mask_of_attention_loses_its_heads(heads: int, leading: bool) -> None:
    net = Net(23, opset=23)
    x = net.input("x", (2, 6, 16), width=16)
    mask = bias(net, *([1] if leading else []), heads, 6, 6)
    q, k, v = (net.dense(x, WIDTH) for _ in range(3))
    y = net.node("Attention", q, k, v, mask, q_num_heads=HEADS, kv_num_heads=HEADS)
    net.width[y] = WIDTH
    result = verified_cut(net.build(net.dense(y, 16), (2, 6, 16)))
    assert result.kinds["head"] == 1
    shape = result.stored(result.nodes("Attention")[0], 3).shape
    assert shape[-3] == (3 if heads == HEADS else 1)


@pytest.mark.parametrize("domain", ["", MS])
@pytest.mark.parametrize("rank", [3, 4])
def test_rotary_embedding_keeps_its_dims_and_frees_its_heads(domain: str, rank: int) -> None:
    net, x = tokens(23)
    cos, sin = bias(net, 64, HEAD // 2), bias(net, 64, HEAD // 2)
    places = net.input("places", ("batch", "length"), INT64)
    inputs = [places, cos, sin] if domain else [cos, sin, places]
    counted = {"num_heads": HEADS} if rank == 3 else {}

    def rotated(y: str) -> str:
        if rank == 4:
            y = net.node("Reshape", y, net.constant([0, 0, HEADS, HEAD]))
            y = net.node("Transpose", y, perm=[0, 2, 1, 3])
        y = net.node("RotaryEmbedding", y, *inputs, domain=domain, **counted)
        if rank == 4:
            y = net.node(
                "Reshape", net.node("Transpose", y, perm=[0, 2, 1, 3]), net.constant([0, 0, WIDTH])
            )
        return y

    q, k = rotated(net.dense(x, WIDTH)), rotated(net.dense(x, WIDTH))
    y = net.node("Attention", q, k, net.dense(x, WIDTH), q_num_heads=HEADS, kv_num_heads=HEADS)
    result = verified_cut(finish(net, y))
    assert result.kinds == {"head": 1, "head-dim": 2}
    assert result.stored(result.nodes("RotaryEmbedding")[0], 1 + bool(domain)).shape == (
        64,
        HEAD // 2,
    )
    if rank == 3:
        assert attribute(result, "RotaryEmbedding", "num_heads") == 3


def test_a_state_of_attention_that_is_public_pins_it() -> None:
    net, x = tokens(23)
    past = [net.input(n, ("batch", HEADS, "keys", HEAD)) for n in ("past_key", "past_value")]
    inputs = [net.dense(x, WIDTH) for _ in range(3)]
    counts = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
    values = net.nodes_with("Attention", [*inputs, "", *past], 3, width=WIDTH, **counts)
    model = finish(net, net.dense(net.node("Relu", net.dense(values[0], 20)), WIDTH))
    for name in values[1:]:
        shape = ("batch", HEADS, "all", HEAD)
        model.graph.output.append(helper.make_tensor_value_info(name, FLOAT, shape))
    result = verified_cut(model)
    assert result.kinds == {"ffn": 8 + 9}
    assert "past state" in result.why("MatMul", 0, 1)
