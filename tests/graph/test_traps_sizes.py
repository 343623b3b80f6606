"""Sizes that a graph stores or computes: they follow a cut, at any input size."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from models.skeletons.net import FLOAT, Net
from onnxprune.graph.analysis import analyse
from onnxprune.model import load
from verified_cuts import VerifiedCut, verified_cut

HEADS, HEAD = 4, 6
WIDTH = HEADS * HEAD
TOKENS = ("batch", "length", 16)


def attend(net: Net, q: str, k: str, v: str, scale: str, rank: int = 4) -> str:
    """softmax(q k^T / scale) v on the last two axes."""
    swap = [0, 1, 3, 2] if rank == 4 else [0, 2, 1]
    scores = net.node("Div", net.node("MatMul", q, net.node("Transpose", k, perm=swap)), scale)
    return net.node("MatMul", net.node("Softmax", scores, axis=-1), v)


def attention(net: Net, x: str, shape: dict[str, str], back: str, scale: str) -> str:
    """Self-attention whose three projections are viewed by ``shape[q, k, v]`` and back."""

    def view(which: str) -> str:
        y = net.node("Reshape", net.dense(x, WIDTH), shape[which])
        return net.node("Transpose", y, perm=[0, 2, 1, 3])

    mixed = attend(net, *(view(w) for w in "qkv"), scale)
    mixed = net.node("Transpose", mixed, perm=[0, 2, 1, 3])
    return net.dense(net.node("Reshape", mixed, back, width=WIDTH), 16)


def tokens() -> tuple[Net, str]:
    net = Net(1)
    return net, net.input("x", TOKENS, width=16)


def heads_went(result: VerifiedCut) -> None:
    assert result.kinds["head"] == 1
    assert result.kinds["head-dim"] == 2 * int(0.4 * HEAD)


@pytest.mark.parametrize(
    ("target", "back"),
    [
        ([0, 0, HEADS, HEAD], [0, 0, WIDTH]),
        ([0, 0, HEADS, -1], [0, 0, -1]),
        ([0, 0, -1, HEAD], [0, 0, WIDTH]),
        ([0, -1, HEADS, HEAD], [0, -1, WIDTH]),
    ],
)
def test_literal_targets_are_solved_and_what_infers_still_infers(
    target: list[int], back: list[int]
) -> None:
    net, x = tokens()
    shared = net.constant(target)
    y = attention(net, x, dict.fromkeys("qkv", shared), net.constant(back), net.scalar(HEAD**0.5))
    result = verified_cut(net.build(y, TOKENS))
    heads_went(result)
    q, k, v, out = (result.stored(n, 1).tolist() for n in result.nodes("Reshape"))
    left = {HEADS: 3, HEAD: 4, WIDTH: 12}
    assert q == k == v == [left.get(n, n) for n in target]
    assert out == [left.get(n, n) for n in back]


def test_a_shared_target_is_copied_for_whoever_needs_another_one() -> None:
    """q.k dims and v dims leave independently, so one constant becomes two."""
    net, x = tokens()
    shared = net.constant([0, 0, HEADS, HEAD])
    back = net.constant([0, 0, WIDTH])
    y = attention(net, x, dict.fromkeys("qkv", shared), back, net.scalar(HEAD**0.5))
    model = net.build(y, TOKENS)
    analysis = analyse(load(model))
    first, second = (g.name for g in analysis.groups if g.kind == "head-dim")
    result = verified_cut(model, {first: [0, 1]}, {second: [5]})
    q, k, v, out = (result.stored(n, 1).tolist() for n in result.nodes("Reshape"))
    assert [q, k, v, out] == [[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 6], [0, 0, 24]]
    assert [n.inputs[1].name for n in result.nodes("Reshape")][2:] == [shared, back]


def sizes_of(net: Net, x: str, *axes: int) -> list[str]:
    """Scalars as scripted exports compute them: Shape, then Gather."""
    return [
        net.node("Gather", net.node("Shape", x), net.constant(np.array(a, np.int64)), axis=0)
        for a in axes
    ]


def vector(net: Net, *parts: str | int) -> str:
    """A Concat of scalars and literals."""
    pieces = [
        net.constant([p]) if isinstance(p, int) else net.node("Unsqueeze", p, net.constant([0]))
        for p in parts
    ]
    return net.node("Concat", *pieces, axis=0)


def test_literals_inside_computed_targets_are_replaced() -> None:
    net, x = tokens()
    batch, length = sizes_of(net, x, 0, 1)
    shape = {w: vector(net, batch, length, HEADS, HEAD) for w in "qkv"}
    y = attention(net, x, shape, vector(net, batch, length, WIDTH), net.scalar(HEAD**0.5))
    heads_went(verified_cut(net.build(y, TOKENS)))


def test_a_size_that_is_divided_by_the_literal_number_of_heads() -> None:
    """view(b, s, heads, width // heads), with the width read from the activation."""
    net, x = tokens()
    q, k, v = (net.dense(x, WIDTH) for _ in range(3))

    def view(y: str) -> str:
        batch, length, width = sizes_of(net, y, 0, 1, 2)
        head = net.node("Div", width, net.constant(np.array(HEADS, np.int64)))
        y = net.node("Reshape", y, vector(net, batch, length, HEADS, head))
        return net.node("Transpose", y, perm=[0, 2, 1, 3])

    mixed = attend(net, view(q), view(k), view(v), net.scalar(HEAD**0.5))
    mixed = net.node("Transpose", mixed, perm=[0, 2, 1, 3])
    batch, length, heads, head = sizes_of(net, mixed, 0, 1, 2, 3)
    back = vector(net, batch, length, net.node("Mul", heads, head))
    y = net.dense(net.node("Reshape", mixed, back, width=WIDTH), 16)
    heads_went(verified_cut(net.build(y, TOKENS)))


def test_batch_times_heads_is_a_product_of_a_size_and_a_literal() -> None:
    """Attention over [b*h, s, d] with bmm, as fairseq and OPT write it."""
    net, x = tokens()
    batch, length = sizes_of(net, x, 0, 1)
    many = net.node("Mul", batch, net.constant(np.array(HEADS, np.int64)))

    def view(y: str) -> str:
        y = net.node("Reshape", y, vector(net, batch, length, HEADS, HEAD))
        y = net.node("Transpose", y, perm=[0, 2, 1, 3])
        return net.node("Reshape", y, vector(net, many, length, HEAD))

    q, k, v = (view(net.dense(x, WIDTH)) for _ in range(3))
    mixed = attend(net, q, k, v, net.scalar(HEAD**0.5), 3)
    mixed = net.node("Reshape", mixed, vector(net, batch, HEADS, length, HEAD))
    mixed = net.node("Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = net.node("Reshape", mixed, vector(net, batch, length, WIDTH), width=WIDTH)
    heads_went(verified_cut(net.build(net.dense(mixed, 16), TOKENS)))


@pytest.mark.parametrize("how", ["Sqrt", "Pow"])
def test_a_scale_computed_from_the_head_size_stays_that_of_the_dense_model(how: str) -> None:
    net, x = tokens()
    shape = net.constant([0, 0, HEADS, HEAD])
    q, k, v = (
        net.node("Transpose", net.node("Reshape", net.dense(x, WIDTH), shape), perm=[0, 2, 1, 3])
        for _ in range(3)
    )
    (head,) = sizes_of(net, q, 3)
    head = net.node("Cast", head, to=FLOAT)
    scale = net.node("Sqrt", head) if how == "Sqrt" else net.node("Pow", head, net.scalar(0.5))
    mixed = net.node("Transpose", attend(net, q, k, v, scale), perm=[0, 2, 1, 3])
    y = net.dense(net.node("Reshape", mixed, net.constant([0, 0, -1]), width=WIDTH), 16)
    heads_went(verified_cut(net.build(y, TOKENS)))


def picture(seed: int = 2, opset: int = 17) -> tuple[Net, str]:
    net = Net(seed, opset=opset)
    return net, net.input("image", ("batch", 3, "height", "width"), width=3)


def finish(net: Net, x: str) -> onnx.ModelProto:
    return net.build(net.head(x, 5), ("batch", 5))


@pytest.mark.parametrize(
    ("opset", "sizes", "attributes"),
    [
        (11, None, {"split": [8, 8]}),
        (11, None, {}),
        (13, [8, 8], {}),
        (13, None, {}),
        (18, None, {"num_outputs": 2}),
    ],
)
def test_halves_that_become_unequal_are_written_out(
    opset: int, sizes: list[int] | None, attributes: dict[str, object]
) -> None:
    net, x = picture(opset=opset)
    x = net.conv(x, 16, 3)
    inputs = [x] if sizes is None else [x, net.constant(sizes)]
    a, b = net.nodes_with("Split", inputs, 2, width=8, axis=1, **attributes)
    y = net.concat(net.conv(a, 6, 3), net.conv(b, 6, 3))
    model = finish(net, y)
    first, second, *_ = (g.name for g in analyse(load(model)).groups)
    even = verified_cut(model, {first: [0, 3], second: [1, 7]})
    result = verified_cut(model, {first: [0, 1, 5]})
    (split,) = result.nodes("Split")
    if opset == 11:
        assert list(split.attributes["split"].as_ints()) == [5, 8]
    else:
        assert result.stored(split, 1).tolist() == [5, 8]
    assert "num_outputs" not in split.attributes
    assert ("num_outputs" in even.nodes("Split")[0].attributes) == ("num_outputs" in attributes)


@pytest.mark.parametrize("end", [2**63 - 1, 2**31 - 1, 16])
def test_slices_move_and_an_end_beyond_the_axis_stays(end: int) -> None:
    net, x = picture()
    x = net.conv(x, 16, 3)
    one = net.constant([1])
    head = net.node("Slice", x, net.constant([0]), net.constant([8]), one, width=8)
    tail = net.node("Slice", x, net.constant([8]), net.constant([end]), one, width=8)
    result = verified_cut(finish(net, net.concat(net.conv(head, 6, 3), net.conv(tail, 6, 3))))
    first, second = result.nodes("Slice")
    assert result.stored(first, 1).tolist() == [0]
    assert result.stored(first, 2).tolist() == result.stored(second, 1).tolist()
    assert 0 < result.stored(second, 1)[0] < 8
    assert result.stored(second, 2).tolist() == [end]


def test_slices_counted_from_the_end() -> None:
    net, x = picture()
    x = net.conv(x, 16, 3)
    one = net.constant([1])
    head = net.node("Slice", x, net.constant([-16]), net.constant([-7]), one, width=9)
    tail = net.node("Slice", x, net.constant([-7]), net.constant([2**63 - 1]), one, width=7)
    assert (
        verified_cut(finish(net, net.concat(net.conv(head, 6), net.conv(tail, 6)))).units
        == 3 + 2 + 4
    )


def test_queries_keys_and_values_picked_by_index() -> None:
    """[b, s, 3, h, d] and Gather(axis=0, 0 | 1 | 2): an index map, not an embedding."""
    net, x = tokens()
    y = net.node("Reshape", net.dense(x, 3 * WIDTH), net.constant([0, 0, 3, HEADS, HEAD]))
    y = net.node("Transpose", y, perm=[2, 0, 3, 1, 4])
    q, k, v = (net.node("Gather", y, net.constant(np.array(i, np.int64)), axis=0) for i in range(3))
    mixed = attend(net, q, k, v, net.scalar(HEAD**0.5))
    mixed = net.node("Transpose", mixed, perm=[0, 2, 1, 3])
    y = net.dense(net.node("Reshape", mixed, net.constant([0, 0, WIDTH]), width=WIDTH), 16)
    result = verified_cut(net.build(y, TOKENS))
    assert result.kinds["head"] == 1
    assert [result.stored(n, 1) for n in result.nodes("Gather")] == [0, 1, 2]


def test_resize_by_sizes_gets_the_new_number_of_channels() -> None:
    net = Net(3)
    x = net.conv(net.input("image", ("batch", 3, 8, 8), width=3), 10, 3)
    (batch,) = sizes_of(net, x, 0)
    literal = net.node("Resize", x, "", "", vector(net, batch, 10, 16, 16), mode="nearest")
    shape = net.node("Shape", x)
    front = net.node("Slice", shape, net.constant([0]), net.constant([2]))
    sizes = net.node("Concat", front, net.constant([16, 16]), axis=0)
    computed = net.node("Resize", x, "", "", sizes, mode="linear")
    y = net.conv(net.node("Add", literal, computed), 6, 3)
    result = verified_cut(finish(net, y))
    assert result.units == 4 + 2


def test_resize_by_scales_has_nothing_to_rewrite() -> None:
    net, x = picture()
    x = net.conv(x, 10, 3)
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    y = net.node("Resize", x, "", scales, mode="nearest")
    result = verified_cut(finish(net, net.conv(y, 6, 3)))
    assert result.units == 4 + 2
    assert result.stored(result.nodes("Resize")[0], 2).tolist() == [1, 1, 2, 2]


def test_channels_that_a_resize_makes_more_of_stay() -> None:
    net = Net(3, opset=13)
    x = net.conv(net.input("image", ("batch", 3, 8, 8), width=3), 4, 3)
    scales = net.constant(np.array([1, 2, 1, 1], np.float32))
    y = net.node("Resize", x, "", scales, mode="nearest", width=8)
    result = verified_cut(finish(net, net.conv(y, 6, 3)))
    assert result.removed.keys() == {result.analysis.groups[-1].name}
    assert "Resize" in result.why("Conv", 0, 0)


@pytest.mark.parametrize("how", ["attribute", "input"])
def test_upsample_of_old_opsets(how: str) -> None:
    net, x = picture(opset=7 if how == "attribute" else 9)
    x = net.conv(x, 10, 3)
    if how == "attribute":
        y = net.node("Upsample", x, scales=[1.0, 1.0, 2.0, 2.0])
    else:
        y = net.node("Upsample", x, net.constant(np.array([1, 1, 2, 2], np.float32)))
    assert verified_cut(finish(net, net.conv(y, 6, 3))).units == 4 + 2


def test_expand_and_tile_name_the_channels_they_repeat() -> None:
    """A gate of one channel, repeated over as many as the features have."""
    net = Net(4)
    x = net.conv(net.input("image", ("batch", 3, 8, 8), width=3), 10, 3)
    gate = net.conv(x, 1, 1)
    tiled = net.node("Tile", gate, net.constant([1, 10, 1, 1]), width=10)
    spread = net.node("Expand", net.node("Sigmoid", gate), net.constant([1, 10, 1, 1]), width=10)
    y = net.node("Mul", net.node("Add", x, tiled), spread)
    result = verified_cut(finish(net, net.conv(y, 6, 3)))
    assert result.units == 4 + 2
    assert result.stored(result.nodes("Tile")[0], 1).tolist() == [1, 6, 1, 1]
    assert result.stored(result.nodes("Expand")[0], 1).tolist() == [1, 6, 1, 1]


def test_expand_to_the_computed_shape_of_another_value_follows() -> None:
    net, x = picture()
    x = net.conv(x, 10, 3)
    scale = net.constant(np.ones((10, 1, 1), np.float32) * 0.5)
    y = net.node("Add", x, net.node("Expand", scale, net.node("Shape", x)))
    assert verified_cut(finish(net, net.conv(y, 6, 3))).units == 4 + 2


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_depth_to_space_loses_blocks_along_the_stride_of_its_mode(mode: str) -> None:
    net, x = picture()
    x = net.conv(x, 20, 3)
    y = net.node("DepthToSpace", x, blocksize=2, mode=mode, width=5)
    result = verified_cut(finish(net, net.conv(y, 6, 3)))
    (group, *_) = result.analysis.groups
    rows = group.slices[0].rows
    assert rows.shape == (5, 4)
    assert set(np.diff(rows).ravel().tolist()) == {1 if mode == "CRD" else 5}


def test_space_to_depth_and_back_through_a_convolution() -> None:
    net, x = picture()
    x = net.conv(x, 6, 3)
    y = net.conv(net.node("SpaceToDepth", x, blocksize=2, width=24), 8, 3)
    assert verified_cut(finish(net, y)).units == 2 + 3


def test_pixel_shuffle_as_reshape_and_transpose() -> None:
    net = Net(5)
    x = net.conv(net.input("image", ("batch", 3, 8, 8), width=3), 20, 3)
    y = net.node("Reshape", x, net.constant([0, 5, 2, 2, 8, 8]))
    y = net.node("Transpose", y, perm=[0, 1, 4, 2, 5, 3])
    y = net.node("Reshape", y, net.constant([0, 5, 16, 16]), width=5)
    result = verified_cut(finish(net, net.conv(y, 6, 3)))
    assert result.kinds == {"channel": 2 + 2}
    assert result.stored(result.nodes("Reshape")[0], 1).tolist() == [0, 3, 2, 2, 8, 8]


@pytest.mark.parametrize("dynamic", [False, True])
def test_channel_shuffle_is_an_index_map(dynamic: bool) -> None:
    net, x = (
        picture() if dynamic else (net := Net(6), net.input("image", ("batch", 3, 8, 8), width=3))
    )
    x = net.conv(x, 12, 3)
    if dynamic:
        batch, height, width = sizes_of(net, x, 0, 2, 3)
        there, back = vector(net, batch, 2, 6, height, width), vector(net, batch, 12, height, width)
    else:
        there, back = net.constant([0, 2, 6, 8, 8]), net.constant([0, -1, 8, 8])
    y = net.node("Transpose", net.node("Reshape", x, there), perm=[0, 2, 1, 3, 4])
    y = net.node("Reshape", y, back, width=12)
    result = verified_cut(finish(net, net.conv(net.node("Relu", y), 6, 3)))
    assert result.units == 4 + 2
    assert not result.nodes("Reshape")


def test_an_axis_whose_size_is_only_known_while_the_model_runs() -> None:
    """Rows picked by NonZero: nobody knows how many, and the hidden layer leaves all the same."""
    net = Net(7)
    x = net.input("x", ("batch", 8), width=8)
    total = net.node("ReduceSum", x, net.constant([1]), keepdims=0)
    found = net.node("NonZero", net.node("Greater", total, net.scalar(0.0)))
    rows = net.node("Gather", x, net.node("Squeeze", found, net.constant([0])), axis=0, width=8)
    y = net.dense(net.node("Relu", net.dense(rows, 12)), 5)
    result = verified_cut(net.build(y, ("found", 5)), unseen=[{"batch": 40}])
    assert result.kinds == {"ffn": 4}


def test_empty_tensors_are_carried_along() -> None:
    """An empty first state of a cache, concatenated: an axis of size zero cuts nothing off."""
    net = Net(8)
    x = net.input("x", ("batch", 8), width=8)
    y = net.node("Relu", net.dense(x, 12))
    nothing = net.constant(np.zeros((0, 12), np.float32))
    y = net.node("Concat", nothing, y, axis=0, width=12)
    pads = net.constant(np.zeros(0, np.int64))
    y = net.node("Slice", y, pads, pads, pads, pads)
    result = verified_cut(net.build(net.dense(y, 5), ("batch", 5)))
    assert result.kinds == {"ffn": 4}
    assert result.stored(result.nodes("Concat")[0], 0).shape == (0, 8)


def test_an_axis_keeps_its_last_unit() -> None:
    net, x = picture()
    y = net.conv(net.node("Relu", net.conv(x, 1, 3)), 2, 3)
    result = verified_cut(finish(net, y), part=0.99)
    assert result.units == 1


def test_a_size_read_off_a_stored_vector_stays_or_follows() -> None:
    """Shape(gamma) says how far a gate is spread, or how many channels to divide by."""
    net, x = picture()
    x = net.conv(x, 10, 3)
    gamma = net.constant(np.linspace(0.5, 1.5, 10, dtype=np.float32).reshape(10, 1, 1))
    x = net.node("Mul", x, gamma)
    shape = net.node("Shape", gamma)
    spread = net.node("Expand", net.scalar(0.5), shape)
    (count,) = (net.node("Gather", shape, net.constant(np.array(0, np.int64))),)
    y = net.node("Div", net.node("Add", x, spread), net.node("Cast", count, to=FLOAT))
    assert verified_cut(finish(net, net.conv(y, 6, 3))).units == 4 + 2


def test_truths_about_channels_lose_what_the_channels_lose() -> None:
    """A comparison of constants is known at analysis, and is cut like its operands."""
    net, x = picture()
    x = net.conv(x, 10, 3)
    low = net.constant(np.arange(10, dtype=np.float32).reshape(10, 1, 1))
    size = net.node("Gather", net.node("Shape", x), net.constant(np.array(1, np.int64)))
    half = net.node("Div", net.node("Cast", size, to=FLOAT), net.scalar(2.0))
    first = net.node("Less", low, half)
    y = net.node("Where", first, x, net.node("Neg", x), width=10)
    assert verified_cut(finish(net, net.conv(y, 6, 3))).units == 4 + 2
