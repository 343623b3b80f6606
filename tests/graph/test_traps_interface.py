"""What a caller sees: outputs, names, declared shapes, layouts, graphs a runtime has rewritten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from models.skeletons import bert, resnet
from models.skeletons.net import FLOAT, INT64, Net
from onnxprune import model as models
from onnxprune.graph.analysis import analyse
from onnxprune.graph.surgery import cut
from verified_cuts import choose, verified_cut

MS = "com.microsoft"
PICTURE = ("batch", 3, "height", "width")


def picture(seed: int = 61, opset: int = 17) -> tuple[Net, str]:
    net = Net(seed, opset=opset, microsoft=True)
    return net, net.input("image", PICTURE, width=3)


def finish(net: Net, x: str) -> onnx.ModelProto:
    return net.build(net.head(x, 5), ("batch", 5))


# -- outputs ---------------------------------------------------------------------------------------


def test_every_axis_of_every_output_stays_and_says_which_output() -> None:
    net, x = picture()
    inner = net.conv(x, 8, 3)
    features = net.node("Relu", net.conv(inner, 10, 3))
    model = finish(net, net.conv(features, 6, 3))
    shape = ("batch", 10, "height", "width")
    model.graph.output.insert(0, helper.make_tensor_value_info(features, FLOAT, shape))
    result = verified_cut(model)
    assert result.kinds == {"channel": 3 + 2}
    assert result.why("Conv", 1, 0) == f"reaches graph output `{features}`"
    assert result.why("Gemm", 0, 0) == "reaches graph output `output`"


def test_a_detection_head_keeps_anchors_boxes_and_classes() -> None:
    """[b, anchors * (5 + classes), h, w] to [b, boxes, 5 + classes], over two scales."""
    net, x = picture()
    flat = []
    for _ in range(2):
        x = net.node("MaxPool", net.conv_norm(x, 8, 3), kernel_shape=[2, 2], strides=[2, 2])
        y = net.conv(net.conv_norm(x, 10, 3), 3 * 7, 1)
        batch, high, wide = (
            net.node("Gather", net.node("Shape", y), net.constant([a])) for a in (0, 2, 3)
        )
        anchors, values = net.constant([3]), net.constant([7])
        shape = net.node("Concat", batch, anchors, values, high, wide, axis=0)
        y = net.node("Transpose", net.node("Reshape", y, shape), perm=[0, 1, 3, 4, 2])
        flat.append(net.node("Reshape", net.node("Sigmoid", y), net.constant([0, -1, 7])))
    model = net.build(net.node("Concat", *flat, axis=1), ("batch", "boxes", 7))
    result = verified_cut(model)
    assert result.kinds == {"channel": 2 * (3 + 4)}
    for which in (2, 5):
        assert "graph output" in result.why("Conv", which, 0)


def test_a_weight_that_is_an_output_stays_for_whoever_reads_it() -> None:
    net, x = picture()
    x = net.conv(x, 10, 3)
    scale = net.constant(np.linspace(0.5, 1.5, 10, dtype=np.float32).reshape(10, 1, 1))
    model = finish(net, net.conv(net.node("Mul", x, scale), 6, 3))
    model.graph.output.append(helper.make_tensor_value_info(scale, FLOAT, (10, 1, 1)))
    result = verified_cut(model)
    assert result.kinds == {"channel": 4 + 2}
    stored = {t.name: list(t.dims) for t in models.to_proto(result.small).graph.initializer}
    assert stored[scale] == [10, 1, 1]


def test_an_input_that_is_an_output_and_one_that_nobody_reads() -> None:
    net, x = picture()
    net.input("unread", ("batch", 4))
    model = finish(net, net.conv(net.node("Relu", net.conv(x, 10, 3)), 6, 3))
    model.graph.output.append(helper.make_tensor_value_info("image", FLOAT, PICTURE))
    result = verified_cut(model)
    assert result.kinds == {"channel": 4 + 2}
    assert [v.name for v in result.small.ir.graph.inputs] == ["image", "unread"]


def test_a_model_with_nothing_to_remove_is_cut_into_itself() -> None:
    net = Net(62)
    model = net.build(net.node("Relu", net.input("x", ("batch", 4))), ("batch", 4))
    result = verified_cut(model)
    assert result.analysis.groups == ()
    assert [n.op_type for n in result.small.ir.graph] == ["Relu", "Identity"]


# -- what is written beside the graph --------------------------------------------------------------


def described(model: onnx.ModelProto) -> dict[str, list[int]]:
    values = model.graph.value_info
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def test_declared_shapes_are_those_of_the_cut() -> None:
    model = onnx.shape_inference.infer_shapes(bert(), data_prop=True)
    for info in model.graph.value_info[::2]:  # a stale half: nobody may believe it afterwards
        dims = info.type.tensor_type.shape.dim
        if len(dims) == 3 and dims[2].dim_value:
            dims[2].dim_param = "wrong"
    result = verified_cut(model, high=50)
    small = models.to_proto(result.small)
    fresh = models.to_proto(result.small)
    del fresh.graph.value_info[:]
    fresh = onnx.shape_inference.infer_shapes(fresh, strict_mode=True, data_prop=True)
    true = described(fresh) | {t.name: list(t.dims) for t in fresh.graph.initializer}
    assert described(small)
    for name, dims in described(small).items():
        assert all(a in (0, b) for a, b in zip(dims, true[name], strict=True)), name


def test_versions_names_and_notes_are_kept() -> None:
    model = resnet()
    model.doc_string, model.producer_version = "a note", "7"
    model.domain, model.model_version = "some.where", 3
    helper.set_model_props(model, {"classes": "cat dog"})
    model.graph.doc_string = "a graph"
    for k, node in enumerate(model.graph.node):
        node.name, node.doc_string = f"layer {k}", f"line {k}"
    result = verified_cut(model)
    small = models.to_proto(result.small)
    for field in (
        "doc_string",
        "producer_name",
        "producer_version",
        "domain",
        "model_version",
        "ir_version",
        "opset_import",
        "metadata_props",
    ):
        assert getattr(small, field) == getattr(model, field), field
    assert small.graph.doc_string == "a graph"
    told = {n.name: n.doc_string for n in model.graph.node}
    assert {n.name: n.doc_string for n in small.graph.node} == told


# -- layouts ---------------------------------------------------------------------------------------


def test_channels_last_between_transposes() -> None:
    """As by tf2onnx: joins and means in [b, h, w, c], convolutions in [b, c, h, w]."""
    net = Net(63)
    x = net.input("image", ("batch", 12, 16, 3), width=3)

    def conv(x: str, outputs: int) -> str:
        y = net.conv(net.node("Transpose", x, perm=[0, 3, 1, 2]), outputs, 3, bias=False)
        y = net.node("Transpose", y, perm=[0, 2, 3, 1])
        return net.node("Relu", net.node("Add", y, net.vector(outputs, -0.2, 0.2)))

    x = conv(x, 10)
    x = net.concat(conv(x, 6), conv(x, 8), axis=3)
    padded = net.node("Pad", x, net.constant([0, 1, 1, 0, 0, 0, 0, 0]))
    x = conv(padded, 6)
    y = net.node("ReduceMean", x, axes=[1, 2], keepdims=0)
    result = verified_cut(net.build(net.gemm(y, 5), ("batch", 5)))
    assert result.kinds == {"channel": 4 + 2 + 3 + 2}


def test_flattened_channels_last_before_a_matrix() -> None:
    net = Net(64)
    x = net.conv(net.input("image", ("batch", 3, 4, 6), width=3), 10, 3)
    x = net.node("Transpose", net.node("Relu", x), perm=[0, 2, 3, 1])
    x = net.node("Reshape", x, net.constant([-1, 4 * 6 * 10]), width=240)
    result = verified_cut(net.build(net.gemm(x, 5), ("batch", 5)))
    assert result.kinds == {"channel": 4}
    assert result.stored(result.nodes("Reshape")[0], 1).tolist() == [-1, 4 * 6 * 6]
    assert result.stored(result.nodes("Gemm")[0], 1).shape == (5, 144)


# -- graphs that onnxruntime has rewritten ---------------------------------------------------------


@pytest.mark.parametrize("summand", [False, True])
def test_a_convolution_fused_with_its_activation_and_summand(summand: bool) -> None:
    net = Net(65, microsoft=True)
    x = net.conv(net.input("image", ("batch", 3, 8, 8), width=3), 10, 3)
    other = [net.conv(x, 10, 1)] if summand else []
    weight, bias = net.weight(10, 10, 3, 3, fan=90), net.vector(10, -0.2, 0.2)
    y = net.node(
        "FusedConv", x, weight, bias, *other, domain=MS, activation="Relu", pads=[1, 1, 1, 1]
    )
    result = verified_cut(finish(net, net.conv(y, 6, 3)))
    assert result.kinds == {"channel": 4 + 4 + 2}


def test_fused_products_and_activations() -> None:
    net = Net(66, microsoft=True)
    x = net.input("x", ("batch", "length", 8), width=8)
    y = net.node("BiasGelu", net.dense(x, 12, bias=False), net.vector(12, -1, 1), domain=MS)
    y = net.node("FastGelu", net.dense(y, 10, bias=False), net.vector(10, -1, 1), domain=MS)
    y = net.node("QuickGelu", net.dense(y, 12), domain=MS, alpha=1.702)
    y = net.node(
        "FusedMatMul", y, net.weight(14, 12, fan=12), domain=MS, transB=1, alpha=0.5, width=14
    )
    result = verified_cut(net.build(net.dense(y, 5), ("batch", "length", 5)))
    assert result.units == 4 + 4 + 4 + 5


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED"])
@pytest.mark.parametrize("source", [resnet, bert])
def test_graphs_that_onnxruntime_saved_can_be_cut(
    source: object, level: str, tmp_path: Path
) -> None:
    assert callable(source)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    proto = source().SerializeToString()
    ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    result = verified_cut(models.load(tmp_path / "optimised.onnx"), high=50)
    assert result.units > 20


def test_blocked_layouts_stay_and_say_so(tmp_path: Path) -> None:
    """ORT_ENABLE_ALL writes convolutions of another layout, for one processor."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    proto = resnet().SerializeToString()
    ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    dense = models.load(tmp_path / "optimised.onnx")
    if not any(n.domain == "com.microsoft.nchwc" for n in dense.ir.graph):
        pytest.skip("this processor has no blocked layout")
    analysis = analyse(dense)
    assert any("nchwc" in p.reason for p in analysis.pinned)
    cut(analysis, choose(analysis, 0.4, 0))


def test_integers_that_look_like_channels_are_positions() -> None:
    """A stored int64 table that is gathered from, by computed positions, is no weight."""
    net = Net(67)
    x = net.input("codes", ("batch", "length"), INT64)
    table = net.constant(np.arange(8, dtype=np.int64)[::-1].copy())
    y = net.node("Gather", net.weight(8, 12, fan=1), net.node("Gather", table, x), width=12)
    result = verified_cut(net.build(net.dense(net.node("Relu", y), 5), ("batch", "length", 5)))
    assert result.units == 4
    held = [result.stored(n, 0) for n in result.nodes("Gather")]
    assert sorted(a.shape for a in held) == [(8,), (8, 8)]
