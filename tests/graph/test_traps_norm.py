"""Normalisations: whatever counts channels is inexact or goes by whole groups, the rest is free."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models.skeletons.net import FLOAT, Net
from norm_cases import NORMS, WIDTH
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.surgery import cut
from onnxprune.model import load
from onnxprune.runtime import open_session
from verified_cuts import VerifiedCut, verified_cut

TOKENS = ("batch", "length", 8)


def residual(norm: str) -> onnx.ModelProto:
    """A residual stream of WIDTH, one gated layer inside, normalised before it."""
    net = Net(1, microsoft=True)
    x = net.dense(net.input("x", TOKENS, width=8), WIDTH)
    y = net.dense(net.node("Relu", net.dense(NORMS[norm](net, x), 20)), WIDTH)
    model = net.build(net.dense(net.node("Add", x, y), 5), ("batch", "length", 5))
    for node in model.graph.node:
        if norm == "native rms" and node.op_type == "LayerNormalization":
            node.op_type = "SimplifiedLayerNormalization"
    return model


def width(analysis: Analysis) -> list[str]:
    return [g.reason for g in analysis.groups if g.kind == "width"]


@pytest.mark.parametrize("norm", NORMS)
def test_the_normalised_width_is_inexact_and_off_by_default(norm: str) -> None:
    result = verified_cut(residual(norm))
    assert result.kinds == {"ffn": 8}
    (why,) = width(result.analysis)
    assert "Norm" in why or "ReduceMean" in why


@pytest.mark.parametrize("norm", NORMS)
def test_the_width_can_be_cut_on_demand_and_the_model_still_runs(norm: str) -> None:
    analysis = analyse(load(residual(norm)))
    (group,) = [g for g in analysis.groups if g.kind == "width"]
    assert len(group) == WIDTH
    small = cut(analysis, {group.name: [0, 3, 4]})
    x = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)
    assert np.isfinite(open_session(small).run({"x": x})["output"]).all()


@pytest.mark.parametrize("count", ["literal", "computed", "both literal"])
def test_a_mean_written_as_a_sum_divides_by_the_dense_count(count: str) -> None:
    """1/N stays: the masked original divides by N too."""
    net = Net(2)
    x = net.dense(net.input("x", TOKENS, width=8), WIDTH)
    total = net.node("ReduceSum", x, net.constant([-1]))
    if count == "computed":
        size = net.node("Gather", net.node("Shape", x), net.constant(np.array(2, np.int64)))
        y = net.node("Div", total, net.node("Cast", size, to=FLOAT))
    elif count == "literal":
        y = net.node("Mul", total, net.scalar(1 / WIDTH))
    else:
        y = net.node("Div", total, net.constant(np.full((1, 1, 1), WIDTH, np.float32)))
    y = net.dense(net.node("Relu", net.node("Sub", x, y)), 5)
    assert verified_cut(net.build(y, ("batch", "length", 5))).kinds == {"ffn": 4}


@pytest.mark.parametrize("used", [False, True])
def test_mean_and_deviation_outputs_of_a_layer_norm(used: bool) -> None:
    net = Net(3)
    x = net.dense(net.input("x", TOKENS, width=8), WIDTH)
    vectors = net.vector(WIDTH, 0.7, 1.3), net.vector(WIDTH, -0.2, 0.2)
    y, centre, spread = net.nodes_with("LayerNormalization", [x, *vectors], 3, axis=-1)
    if used:
        y = net.node("Add", y, net.node("Mul", centre, spread))
    y = net.dense(net.node("Relu", net.dense(y, 20)), 5)
    result = verified_cut(net.build(y, ("batch", "length", 5)))
    assert result.kinds == {"ffn": 8}
    assert "LayerNormalization" in width(result.analysis)[0]


def picture(seed: int = 4, opset: int = 17) -> tuple[Net, str]:
    net = Net(seed, opset=opset)
    return net, net.input("image", ("batch", 3, "height", "width"), width=3)


def finish(net: Net, x: str) -> onnx.ModelProto:
    return net.build(net.head(x, 5), ("batch", 5))


@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalisation_loses_whole_groups(opset: int) -> None:
    net, x = picture(opset=21)
    x = net.conv(x, 12, 3)
    n = 4 if opset == 18 else 12  # per group, then per channel
    y = net.node(
        "GroupNormalization", x, net.vector(n, 0.7, 1.3), net.vector(n, -0.2, 0.2), num_groups=4
    )
    model = finish(net, net.conv(y, 6, 3))
    model.opset_import[0].version = opset
    result = verified_cut(model)
    assert [len(g) for g in result.analysis.groups if g.exact] == [4, 6]
    assert result.nodes("GroupNormalization")[0].attributes["num_groups"].as_int() == 3
    assert result.stored(result.nodes("Conv")[0], 1).shape == (9, 3, 3, 3)


@pytest.mark.parametrize("target", [[0, 4, -1], [0, 4, 3 * 64]])
def test_group_normalisation_as_torch_exports_it(target: list[int]) -> None:
    """Reshape to [n, groups, -1], InstanceNormalization, Reshape back, Mul, Add."""
    net = Net(5)
    x = net.conv(net.input("image", ("batch", 3, 8, 8), width=3), 12, 3)
    y = net.node("Reshape", x, net.constant(target))
    ones = net.constant(np.ones(4, np.float32)), net.constant(np.zeros(4, np.float32))
    y = net.node("InstanceNormalization", y, *ones)
    y = net.node("Reshape", y, net.constant([0, 12, 8, 8]))
    y = net.node("Mul", y, net.constant(net.rng.uniform(0.7, 1.3, (12, 1, 1)).astype(np.float32)))
    y = net.node("Add", y, net.constant(net.rng.uniform(-1, 1, (12, 1, 1)).astype(np.float32)))
    result = verified_cut(finish(net, net.conv(net.node("Relu", y, width=12), 6, 3)))
    assert [len(g) for g in result.analysis.groups if g.exact] == [4, 6]
    assert result.stored(result.nodes("Reshape")[0], 1).tolist() == [
        3 if n == 4 else n for n in target
    ]
    assert result.stored(result.nodes("Reshape")[1], 1).tolist() == [0, 9, 8, 8]


def test_channels_inside_the_groups_can_be_cut_on_demand() -> None:
    """One of each group: InstanceNormalization then has fewer values to its mean."""
    net = Net(48)
    x = net.conv(net.input("x", ("batch", 3, "height", "width"), width=3), 12, 3)
    groups = net.node("Reshape", x, net.constant([0, 4, -1]))
    ones = [net.constant(np.full(4, value, np.float32)) for value in (1, 0)]
    y = net.node("InstanceNormalization", groups, *ones)
    y = net.node("Reshape", y, net.node("Shape", x), width=12)
    y = net.node("Mul", y, net.constant(net.rng.uniform(0.7, 1.3, (12, 1, 1)).astype(np.float32)))
    analysis = analyse(load(net.build(net.head(net.node("Relu", y), 5), ("batch", 5))))
    inside = {len(g): g for g in analysis.groups if not g.exact}
    assert "InstanceNormalization" in inside[3].reason
    small = cut(analysis, {inside[3].name: [1]})
    (y,) = open_session(small).run({"x": np.ones((2, 3, 8, 8), np.float32)}).values()
    assert y.shape == (2, 5)
    assert [n.inputs[1].shape[0] for n in small.ir.graph if n.op_type == "Conv"] == [8]


def test_group_normalisation_at_open_image_sizes() -> None:
    net, x = picture(6)
    x = net.conv(x, 12, 3)
    y = net.node("Reshape", x, net.constant([0, 4, -1]))
    ones = net.constant(np.ones(4, np.float32)), net.constant(np.zeros(4, np.float32))
    y = net.node("Reshape", net.node("InstanceNormalization", y, *ones), net.node("Shape", x))
    result = verified_cut(finish(net, net.conv(net.node("Relu", y, width=12), 6, 3)))
    assert [len(g) for g in result.analysis.groups if g.exact] == [4, 6]


def test_instance_normalisation_is_free() -> None:
    net, x = picture()
    x = net.conv(x, 10, 3)
    y = net.node("InstanceNormalization", x, net.vector(10, 0.7, 1.3), net.vector(10, -0.2, 0.2))
    result = verified_cut(finish(net, net.conv(net.node("Relu", y), 6, 3)))
    assert result.kinds == {"channel": 4 + 2}


@pytest.mark.parametrize(
    ("op", "attributes"),
    [("LRN", {"size": 3}), ("Softmax", {"axis": 1}), ("LogSoftmax", {"axis": 1})],
)
def test_what_mixes_channels_is_inexact(op: str, attributes: dict[str, int]) -> None:
    net, x = picture()
    y = net.node(op, net.conv(x, 10, 3), **attributes)
    result = verified_cut(finish(net, net.conv(y, 6, 3)))
    assert result.kinds == {"channel": 2}
    assert op in width(result.analysis)[0]


@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_over_positions_keeps_them_and_frees_channels(opset: int) -> None:
    """Below opset 13 the axis is where flattening begins, so channels behind it are mixed too."""
    net = Net(7, opset=opset)
    x = net.conv(net.input("image", ("batch", 3, 8, 8), width=3), 10, 3)
    y = net.node("Softmax", x, axis=3 if opset == 13 else 1)
    result = verified_cut(finish(net, net.conv(y, 6, 3)))
    assert result.kinds["channel"] == (2 if opset == 11 else 4 + 2)


@pytest.mark.parametrize("op", ["ArgMax", "TopK", "CumSum"])
def test_positions_along_the_channels_pin_them(op: str) -> None:
    net, x = picture()
    x = net.node("Relu", net.conv(net.conv(x, 8, 3), 10, 3))
    if op == "ArgMax":
        y = net.node("Cast", net.node("ArgMax", x, axis=1), to=FLOAT, width=1)
    elif op == "TopK":
        y = net.nodes_with("TopK", [x, net.constant([4])], 2, axis=1, width=4)[0]
    else:
        y = net.node("CumSum", x, net.constant(np.array(1, np.int64)))
    result = verified_cut(finish(net, net.conv(y, 6, 3)))
    assert result.kinds == {"channel": 3 + 2}
    assert op in result.why("Conv", 1, 0)


def test_batch_normalisation_between_concat_and_convolution() -> None:
    """DenseNet: the vectors lose what either branch lost."""
    net, x = picture()
    a, b = net.conv(x, 8, 3), net.conv(x, 6, 3)
    y = net.node("Relu", net.norm(net.concat(a, b)))
    result = verified_cut(finish(net, net.conv(y, 6, 3)))
    assert result.kinds == {"channel": 3 + 2 + 2}
    bn = result.nodes("BatchNormalization")[0]
    assert {result.stored(bn, k).shape for k in range(1, 5)} == {(14 - 5,)}


@pytest.mark.parametrize("folded", [False, True])
def test_convolution_with_and_without_batch_normalisation(folded: bool) -> None:
    net, x = picture()
    x = net.conv(x, 10, 3, bias=folded)
    x = x if folded else net.norm(x)
    result = verified_cut(finish(net, net.conv(net.node("Relu", x), 6, 3)))
    assert result.kinds == {"channel": 4 + 2}


def training_mode(observed: bool) -> onnx.ModelProto:
    """A BatchNormalization of opset 15 that also gives its running statistics."""
    net = Net(8, opset=15)
    x = net.conv(net.input("image", ("batch", 3, 8, 8), width=3), 10, 3)
    vectors = [net.vector(10, 0.5, 1.5) for _ in range(4)]
    y, running, _ = net.nodes_with("BatchNormalization", [x, *vectors], 3, training_mode=1)
    model = finish(net, net.conv(net.node("Relu", y), 6, 3))
    if observed:
        model.graph.output.append(helper.make_tensor_value_info(running, TensorProto.FLOAT, [10]))
    return model


@pytest.mark.parametrize("observed", [False, True])
def test_running_statistics_that_are_outputs_pin_their_channels(observed: bool) -> None:
    result: VerifiedCut = verified_cut(training_mode(observed))
    assert result.kinds == {"channel": 2 if observed else 4 + 2}
    if observed:
        assert "graph output" in result.why("Conv", 0, 0)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_padding_before_a_convolution(mode: str) -> None:
    """Positions are padded, channels are not; a non-zero constant is masked like the rest."""
    net, x = picture()
    x = net.conv(x, 10, 3)
    fill = [net.scalar(0.7)] if mode == "constant" else []
    y = net.node("Pad", x, net.constant([0, 0, 1, 1, 0, 0, 2, 1]), *fill, mode=mode)
    result = verified_cut(finish(net, net.conv(net.node("Relu", y), 6, 3)))
    assert result.kinds == {"channel": 4 + 2}


def test_channels_that_padding_adds_leave_like_any_other() -> None:
    """The padded shortcut of small ResNets: added zero channels meet those of the other branch."""
    net, x = picture()
    x = net.conv(x, 6, 3)
    y = net.node("Pad", x, net.constant([0, 2, 0, 0, 0, 4, 0, 0]), width=12)
    y = net.node("Relu", net.node("Add", y, net.conv(x, 12, 3)))
    result = verified_cut(finish(net, net.conv(y, 6, 3)))
    before, after = (int(result.stored(result.nodes("Pad")[0], 1)[k]) for k in (1, 5))
    inner, outer, _ = (len(result.stored(n, 1)) for n in result.nodes("Conv"))
    assert before + inner + after == outer < 12
