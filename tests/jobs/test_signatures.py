"""Models of unusual signatures are pruned with data of theirs, from reading to the last check."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.data import open_calibration
from onnxprune.runtime import open_session

Feeds = dict[str, Any]
RNG = np.random.default_rng(0)


def weight(name: str, *shape: int) -> onnx.TensorProto:
    values = np.random.default_rng(len(name) + sum(shape)).standard_normal(shape)
    return numpy_helper.from_array((values * 0.2).astype(np.float32), name)


def parse(text: str, *weights: onnx.TensorProto) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    proto.graph.initializer.extend(weights)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def scalar_input(first: bool) -> tuple[onnx.ModelProto, Any]:
    inputs = "float t, float[n, 16] x" if first else "float[n, 16] x, float t"
    proto = parse(
        f"g ({inputs}) => (float[n, 8] y) "
        "{ a = MatMul(x, W) b = Relu(a) c = Mul(b, t) y = MatMul(c, V) }",
        weight("W", 16, 64),
        weight("V", 64, 8),
    )
    return proto, {"x": RNG.standard_normal((32, 16)).astype(np.float32), "t": np.float32(0.5)}


def time_major() -> tuple[onnx.ModelProto, Any]:
    proto = parse(
        "g (float[time, batch, 8] x, float[1, batch, 8] h) => (float[time, batch, 4] y) "
        "{ s = Add(x, h) a = MatMul(s, W) b = Relu(a) y = MatMul(b, V) }",
        weight("W", 8, 32),
        weight("V", 32, 4),
    )
    x = RNG.standard_normal((5, 40, 8)).astype(np.float32)
    return proto, {"x": x, "h": RNG.standard_normal((1, 40, 8)).astype(np.float32)}


def unnamed_sizes() -> tuple[onnx.ModelProto, Any]:
    proto = parse(
        "g (float[N, 3, H, W] x) => (float[N, 4] y) { a = Conv<pads = [1, 1, 1, 1]>(x, K) "
        "b = Relu(a) p = GlobalAveragePool(b) f = Flatten(p) y = Gemm<transB = 1>(f, F) }",
        weight("K", 32, 3, 3, 3),
        weight("F", 4, 32),
    )
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:  # as older Paddle2ONNX writes them
                dim.dim_param = "-1" if dim.dim_param == "N" else "?"
    return proto, RNG.standard_normal((16, 3, 8, 12)).astype(np.float32)


def graph_network() -> tuple[onnx.ModelProto, Any]:
    proto = parse(
        "g (float[num_nodes, 8] feat, int64[2, num_edges] edge, float[num_edges, 5] attr) "
        "=> (float[1, 4] y) <int64 zero = {0}, int64 one = {1}, int64[1] last = {1}, "
        "float[1] none = {0.0}> { "
        "a = MatMul(feat, W) b = Relu(a) source = Gather<axis = 0>(edge, zero) "
        "target = Gather<axis = 0>(edge, one) m = Gather<axis = 0>(b, source) "
        "e = MatMul(attr, E) er = Relu(e) message = Mul(m, er) "
        "t2 = Unsqueeze(target, last) shape = Shape(message) index = Expand(t2, shape) "
        'empty = Mul(b, none) s = ScatterElements<axis = 0, reduction = "add">'
        "(empty, index, message) "
        "c = MatMul(s, V) d = Relu(c) p = ReduceMean<axes = [0], keepdims = 1>(d) "
        "y = MatMul(p, O) }",
        weight("W", 8, 32),
        weight("E", 5, 32),
        weight("V", 32, 64),
        weight("O", 64, 4),
    )
    feeds = []
    for k in range(24):
        nodes, edges = 10 + k % 3, 30 + k
        feeds.append(
            {
                "feat": RNG.standard_normal((nodes, 8)).astype(np.float32),
                "edge": RNG.integers(0, nodes, (2, edges)),
                "attr": RNG.standard_normal((edges, 5)).astype(np.float32),
            }
        )
    return proto, feeds


CASES = {
    "scalar": lambda: scalar_input(first=False),
    "scalar-first": lambda: scalar_input(first=True),
    "time-major": time_major,
    "unnamed": unnamed_sizes,
    "graph": graph_network,
}


@pytest.mark.parametrize("flags", [{"target": "macs=60%"}, {"ratio": 0.3}, {"sparsity": "50%"}])
@pytest.mark.parametrize("case", CASES)
def test_unusual_signatures_are_pruned(case: str, flags: dict[str, Any]) -> None:
    proto, data = CASES[case]()
    result = onnxprune.prune(proto, calib=data, **flags)
    if "target" in flags:
        assert result.remaining.macs <= 0.6 * result.dense.macs
    dense, pruned = (
        open_session(onnxprune.load(proto), threads=1),
        open_session(result.model, threads=1),
    )
    for feeds in open_calibration(data, dense.inputs, batch=4, samples=8):
        (want,), (have,) = dense.run(feeds).values(), pruned.run(feeds).values()
        assert have.shape == want.shape
        assert np.isfinite(have).all()


BODY = "a = MatMul(x, W) b = Relu(a) y = MatMul(b, V)"
PASSED: dict[str, tuple[str, str, str, Any]] = {
    "strings": ("string[n] t", "string[n] u", "u = Identity(t)", np.array(["a", "b"] * 16, object)),
    "string": ("string t", "string u", "u = Identity(t)", np.array("a", object)),
    "empty": ("float[m, 4] t", "float[m, 4] u", "u = Identity(t)", np.zeros((0, 4), np.float32)),
    "optional": ("optional(float[k]) t", "bool u", "u = OptionalHasElement(t)", None),
    "sequence": ("seq(float[k]) t", "int64 u", "u = SequenceLength(t)", None),
}


@pytest.mark.parametrize("job", ["macs", "half", "alone", "quantize"])
@pytest.mark.parametrize("case", PASSED)
def test_inputs_that_only_pass_through(case: str, job: str) -> None:
    given, returned, node, values = PASSED[case]
    proto = parse(
        f"g (float[n, 16] x, {given}) => (float[n, 8] y, {returned}) {{ {BODY} {node} }}",
        weight("W", 16, 64),
        weight("V", 64, 8),
    )
    data = {"x": RNG.standard_normal((32, 16)).astype(np.float32)}
    data |= {} if values is None else {"t": values}
    if job == "quantize":
        assert onnxprune.quantize(proto, calib=data).ok
    elif job == "alone":  # without data, strings have no values
        if "string" not in case:
            assert onnxprune.prune(proto, ratio=0.3).ok
    else:
        flags = {"target": "macs=60%"} if job == "macs" else {"sparsity": "50%"}
        assert onnxprune.prune(proto, calib=data, **flags).ok


@pytest.mark.parametrize("flags", [{"target": "macs=60%"}, {"sparsity": "50%"}])
def test_sequences_are_compared_by_what_is_in_them(flags: dict[str, Any]) -> None:
    proto = parse(
        "g (float[n, 16] x) => (float[n, 8] y, seq(float[n]) u) "
        f"{{ {BODY} u = SplitToSequence<axis = 1, keepdims = 0>(y) }}",
        weight("W", 16, 64),
        weight("V", 64, 8),
    )
    data = RNG.standard_normal((32, 16)).astype(np.float32)
    outputs = onnxprune.prune(proto, calib=data, **flags).evaluation.outputs
    assert outputs["u"].relative_error is not None
    assert outputs["u"].relative_error == pytest.approx(outputs["y"].relative_error)
