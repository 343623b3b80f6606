"""Attention written out in small operators: heads and dims are found without a pattern."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from models.skeletons.net import FLOAT, INT64, Net
from verified_cuts import VerifiedCut, verified_cut

TOKENS = ("batch", "length", 16)
HEADS, HEAD = 4, 6
WIDTH = HEADS * HEAD


def tokens(fixed: bool = False) -> tuple[Net, str]:
    net = Net(31)
    return net, net.input("x", (2, 6, 16) if fixed else TOKENS, width=16)


def heads(net: Net, x: str, count: int = HEADS) -> str:
    """[b, s, width] to [b, heads, s, d]."""
    y = net.node("Reshape", net.dense(x, count * HEAD), net.constant([0, 0, count, HEAD]))
    return net.node("Transpose", y, perm=[0, 2, 1, 3])


def scores(net: Net, q: str, k: str) -> str:
    y = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
    return net.node("Mul", y, net.scalar(HEAD**-0.5))


def finish(net: Net, weights: str, v: str) -> onnx.ModelProto:
    """Softmax, values, output projection."""
    mixed = net.node("MatMul", net.node("Softmax", weights, axis=-1), v)
    mixed = net.node("Transpose", mixed, perm=[0, 2, 1, 3])
    y = net.dense(net.node("Reshape", mixed, net.constant([0, 0, WIDTH]), width=WIDTH), 16)
    shape = [d.dim_param or d.dim_value for d in net.inputs[0].type.tensor_type.shape.dim]
    return net.build(y, shape)


def weight(net: Net, *shape: int) -> str:
    return net.constant(net.rng.standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("shape", [(HEADS, 6, 6), (1, HEADS, 6, 6), (HEADS, 1, 1), (6, 6)])
def test_relative_position_bias_and_slopes_lose_heads(shape: tuple[int, ...]) -> None:
    """Swin adds [heads, s, s], alibi multiplies distances by [heads, 1, 1]."""
    net, x = tokens(fixed=True)
    q, k, v = (heads(net, x) for _ in range(3))
    added = weight(net, *shape)
    if shape[1:] == (1, 1):
        added = net.node("Mul", added, weight(net, 1, 6, 6))
    result = verified_cut(finish(net, net.node("Add", scores(net, q, k), added), v))
    assert result.kinds == {"head": 1, "head-dim": 2 + 2}
    reader = "Mul" if shape[1:] == (1, 1) else "Add"
    nodes = [n for n in result.nodes(reader) if added in [i.name for i in n.inputs]]
    kept = tuple(3 if n == HEADS else n for n in shape)
    if reader == "Add":
        assert result.stored(nodes[0], 1).shape == kept
    else:
        assert any(
            result.stored(n, 0).shape == kept
            for n in result.nodes("Mul")
            if n.inputs[0].is_initializer()
        )


@pytest.mark.parametrize("folded", [False, True])
def test_a_table_of_position_buckets_loses_columns(folded: bool) -> None:
    """T5: [buckets, heads] is looked up by computed buckets and transposed to [1, heads, q, k]."""
    net = Net(32)
    x = net.input("x", TOKENS, width=16)
    q, k, v = (heads(net, x) for _ in range(3))
    table = weight(net, 10, HEADS)
    shape = net.node("Shape", x)
    length = net.node("Gather", shape, net.constant(np.array(1, np.int64)))
    zero, one, most = (net.constant(np.array(n, np.int64)) for n in (0, 1, 9))
    row = net.node("Range", zero, length, one)
    column = net.node("Unsqueeze", row, net.constant([1]))
    buckets = net.node("Min", net.node("Abs", net.node("Sub", row, column)), most)
    y = net.node("Gather", table, buckets)
    y = net.node("Transpose", y, perm=[2, 0, 1])
    y = y if folded else net.node("Unsqueeze", y, net.constant([0]))
    result = verified_cut(finish(net, net.node("Add", scores(net, q, k), y), v))
    assert result.kinds == {"head": 1, "head-dim": 2 + 2}
    tables = [
        result.stored(n, 0).shape for n in result.nodes("Gather") if n.inputs[0].name == table
    ]
    assert tables == [(10, 3)]
    reads = [n.outputs[0].name for n in result.analysis.model.ir.graph if n.op_type == "Gather"]
    assert len(reads) == 2


@pytest.mark.parametrize("halves", ["split", "slice", "interleaved"])
def test_rotary_embedding_written_out_loses_pairs_or_keeps_dims(halves: str) -> None:
    """cos * x + sin * rotate(x): a dim leaves with its partner, and with its angle."""
    net, x = tokens()
    length = net.node("Gather", net.node("Shape", x), net.constant(np.array(1, np.int64)))
    cos, sin = weight(net, 64, HEAD), weight(net, 64, HEAD)
    stop = net.node("Unsqueeze", length, net.constant([0]))
    cos, sin = (
        net.node("Slice", t, net.constant([0]), stop, net.constant([0])) for t in (cos, sin)
    )

    def rotate(y: str) -> str:
        if halves == "split":
            a, b = net.nodes_with("Split", [y, net.constant([3, 3])], 2, axis=-1)
        elif halves == "slice":
            last = net.constant([-1])
            a = net.node("Slice", y, net.constant([0]), net.constant([3]), last)
            b = net.node("Slice", y, net.constant([3]), net.constant([2**63 - 1]), last)
        else:
            pairs = net.node("Reshape", y, net.constant([0, 0, 0, 3, 2]))
            index = [net.constant(np.array(i, np.int64)) for i in (0, 1)]
            a, b = (net.node("Gather", pairs, i, axis=-1) for i in index)
            a, b = (net.node("Unsqueeze", t, net.constant([-1])) for t in (a, b))
            both = net.node("Concat", net.node("Neg", b), a, axis=-1)
            return net.node("Reshape", both, net.constant([0, 0, 0, HEAD]))
        return net.node("Concat", net.node("Neg", b), a, axis=-1)

    def rotary(y: str) -> str:
        return net.node("Add", net.node("Mul", y, cos), net.node("Mul", rotate(y), sin))

    q, k, v = rotary(heads(net, x)), rotary(heads(net, x)), heads(net, x)
    result = verified_cut(finish(net, scores(net, q, k), v))
    assert result.kinds == {"head": 1, "head-dim": 1 + 2}
    pairs = [g for g in result.analysis.groups if g.kind == "head-dim" and len(g) == 3]
    angles = [s for s in pairs[0].slices if s.tensor.startswith("const") and s.axis == 1]
    apart = 1 if halves == "interleaved" else 3
    assert [set(np.diff(s.rows).ravel()) for s in angles] == [{apart}, {apart}]


def thirds(net: Net, packed: str) -> list[str]:
    """``chunk(3, -1)`` as TorchScript exports it: the bounds are computed from the width."""
    width = net.node("Gather", net.node("Shape", packed), net.constant([-1]), axis=0)
    rounded = net.node("Add", width, net.constant([2]))
    step = net.node("Div", rounded, net.constant([3]))
    ends = [net.node("Mul", step, net.constant([k])) for k in range(4)]
    last = net.constant([-1])
    return [net.node("Slice", packed, ends[k], ends[k + 1], last, width=WIDTH) for k in range(3)]


@pytest.mark.parametrize("sizes", ["stored", "computed"])
def test_packed_projections_in_computed_thirds_lose_heads(sizes: str) -> None:
    net, x = tokens()
    target = net.constant([0, 0, HEADS, HEAD])
    if sizes == "computed":
        shape = net.node("Shape", x)
        open_sizes = [net.node("Gather", shape, net.constant([k])) for k in (0, 1)]
        target = net.node(
            "Concat", *open_sizes, net.constant([HEADS]), net.constant([HEAD]), axis=0
        )
    q, k, v = (
        net.node("Transpose", net.node("Reshape", part, target), perm=[0, 2, 1, 3])
        for part in thirds(net, net.dense(x, 3 * WIDTH))
    )
    result = verified_cut(finish(net, scores(net, q, k), v))
    assert result.kinds == {"head": 1, "head-dim": 2 + 2}


def test_a_table_cut_to_the_length_keeps_its_rows() -> None:
    """Bounds that another length moves are no constants, though they are known at each."""
    net, x = tokens()
    length = net.node("Gather", net.node("Shape", x), net.constant([1]), axis=0)
    table = weight(net, 32, 16)
    rows = net.node("Slice", table, net.constant([0]), length, net.constant([0]))
    y = net.dense(net.node("Relu", net.dense(net.node("Add", x, rows), 24)), 16)
    result = verified_cut(net.build(y, TOKENS))
    assert result.kinds == {"ffn": 9}
    assert all(s.tensor != table for g in result.analysis.groups for s in g.slices)


def repeated(net: Net, x: str, count: int, times: int, how: str) -> str:
    """Each of ``count`` kv-heads ``times`` times in a row: [b, count * times, s, d]."""
    if times == 1:
        return heads(net, x, count)
    y = net.node("Unsqueeze", heads(net, x, count), net.constant([2]))
    sizes = [net.node("Gather", net.node("Shape", x), net.constant([axis])) for axis in (0, 1)]
    if how == "expand":
        literal = [net.constant([n]) for n in (count, times, HEAD)]
        target = [sizes[0], literal[0], literal[1], sizes[1], literal[2]]
        y = net.node("Expand", y, net.node("Concat", *target, axis=0))
    elif how == "tile":
        y = net.node("Tile", y, net.constant([1, 1, times, 1, 1]))
    else:
        y = net.node("Concat", *[y] * times, axis=2)
    many = net.constant([count * times])
    target = [sizes[0], many, sizes[1], net.constant([HEAD])]
    return net.node("Reshape", y, net.node("Concat", *target, axis=0))


@pytest.mark.parametrize("how", ["expand", "tile", "concat"])
def test_grouped_queries_with_repeated_keys(how: str) -> None:
    net, x = tokens()
    q = heads(net, x)
    k, v = (repeated(net, x, 2, 2, how) for _ in range(2))
    result = verified_cut(finish(net, scores(net, q, k), v))
    assert result.kinds["head-dim"] == 2 + 2
    assert result.kinds["kv-group"] == 1
    kept = [
        result.stored(n, 1).shape[1] for n in result.nodes("MatMul") if n.inputs[1].is_initializer()
    ]
    if how == "concat":
        assert kept[:3] == [2 * 4, 4, 4]
    else:
        assert kept[:3] == [4, 4, 4]  # one kv-head of two, and one replica of two


def einsum_attention(letters: str) -> onnx.ModelProto:
    net, x = tokens()
    shape = net.constant([0, 0, HEADS, HEAD])
    q, k, v = (net.node("Reshape", net.dense(x, WIDTH), shape) for _ in range(3))
    first, second = letters.split()
    y = net.node("Einsum", q, k, equation=first)
    y = net.node("Softmax", net.node("Mul", y, net.scalar(HEAD**-0.5)), axis=-1)
    y = net.node("Einsum", y, v, equation=second)
    y = net.node("Reshape", y, net.constant([0, 0, WIDTH]), width=WIDTH)
    return net.build(net.dense(y, 16), TOKENS)


@pytest.mark.parametrize(
    "letters",
    [
        "bshd,bthd->bhst bhst,bthd->bshd",
        "bqnc,bknc->bnqk bnqk,bknc->bqnc",
        "...shd,...thd->...hst ...hst,...thd->...shd",
    ],
)
def test_einsum_attention(letters: str) -> None:
    assert verified_cut(einsum_attention(letters)).kinds == {"head": 1, "head-dim": 2 + 2}


def test_einsum_projections_with_heads_in_the_weights() -> None:
    """Keras: weights are [width, heads, dims] and biases [heads, dims]."""
    net, x = tokens()

    def project() -> str:
        y = net.node("Einsum", x, weight(net, 16, HEADS, HEAD), equation="abc,cde->abde")
        return net.node("Add", y, weight(net, HEADS, HEAD))

    q, k, v = project(), project(), project()
    y = net.node(
        "Einsum", k, net.node("Mul", q, net.scalar(HEAD**-0.5)), equation="aecd,abcd->acbe"
    )
    y = net.node("Einsum", net.node("Softmax", y, axis=-1), v, equation="acbe,aecd->abcd")
    y = net.node("Einsum", y, weight(net, HEADS, HEAD, 16), equation="abcd,cde->abe")
    result = verified_cut(net.build(net.node("Add", y, x), TOKENS))
    assert result.kinds == {"head": 1, "head-dim": 2 + 2}
    assert result.stored(result.nodes("Einsum")[0], 1).shape == (16, 3, 4)
    assert result.stored(result.nodes("Einsum")[5], 1).shape == (3, 4, 16)


@pytest.mark.parametrize("public", ["in and out", "out", "in"])
def test_a_public_cache_keeps_its_heads_and_its_dims(public: str) -> None:
    net, x = tokens()
    q, k, v = (heads(net, x) for _ in range(3))
    if public != "out":
        past = [net.input(n, ("batch", HEADS, "keys", HEAD)) for n in ("past_key", "past_value")]
        k, v = (net.node("Concat", p, y, axis=2) for p, y in zip(past, (k, v), strict=True))
    model = finish(net, scores(net, q, k), v)
    if public != "in":
        for name in (k, v):
            shape = ("batch", HEADS, "all", HEAD)
            model.graph.output.append(helper.make_tensor_value_info(name, FLOAT, shape))
    result = verified_cut(model)
    assert result.units == 0
    said = result.why("MatMul", 1, 1)
    assert ("past_key" in said) if public == "in" else ("graph output" in said or "past" in said)


def test_a_cache_inside_the_model_is_free() -> None:
    """Keys of a prefix kept as weights: they lose what computed keys lose."""
    net, x = tokens(fixed=True)
    q, k, v = (heads(net, x) for _ in range(3))
    k, v = (net.node("Concat", weight(net, 2, HEADS, 3, HEAD), y, axis=2) for y in (k, v))
    result = verified_cut(finish(net, scores(net, q, k), v))
    assert result.kinds == {"head": 1, "head-dim": 2 + 2}
    assert result.stored(result.nodes("Concat")[0], 0).shape == (2, 3, 3, 4)


def test_a_mask_of_one_per_position_couples_nobody() -> None:
    net, x = tokens()
    mask = net.input("mask", ("batch", "length"), INT64)
    q, k, v = (heads(net, x) for _ in range(3))
    seen = net.node("Unsqueeze", net.node("Cast", mask, to=9), net.constant([1, 2]))
    y = net.node("Where", seen, scores(net, q, k), net.scalar(-1e9))
    result: VerifiedCut = verified_cut(finish(net, y, v))
    assert result.kinds == {"head": 1, "head-dim": 2 + 2}
