"""Shapes of onnxruntime's own operators against onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.graph.facts import Fact
from onnxprune.graph.ops import SHAPES
from onnxprune.graph.ops.shape_call import ShapeCall, like_first, shape_rule
from onnxprune.graph.shapes import propagate
from onnxprune.model import load
from shape_oracle import Oracle, agrees

F, I8, U8, I32, I64 = np.float32, np.int8, np.uint8, np.int32, np.int64


@dataclass(frozen=True)
class Case:
    """A node: inputs are (type, shape), constants, or None where left out."""

    op: str
    inputs: tuple[Any, ...]
    outputs: int = 1
    domain: str = "com.microsoft"
    attributes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.op}-{'-'.join(map(str, self.attributes))}"


def one(value: float, dtype: Any = F) -> npt.NDArray[Any]:
    return np.array(value, dtype)


S, Z = one(0.1), one(0, U8)
ROTARY = (np.ones((16, 8), F), np.zeros((16, 8), F))
CASES = [
    Case("Attention", ((F, (2, 5, 12)), (F, (12, 24)), (F, (24,))), 1, attributes={"num_heads": 2}),
    Case(
        "Attention",
        ((F, (2, 5, 12)), (F, (12, 24)), (F, (24,)), None, (F, (2, 2, 2, 3, 4))),
        2,
        attributes={"num_heads": 2},
    ),
    Case(
        "Attention",
        ((F, (2, 5, 12)), (F, (12, 22)), (F, (22,))),
        1,
        attributes={"num_heads": 2, "qkv_hidden_sizes": [8, 8, 6]},
    ),
    Case(
        "QAttention",
        ((U8, (2, 5, 12)), (U8, (12, 24)), (F, (24,)), S, S, None, Z, Z),
        1,
        attributes={"num_heads": 2},
    ),
    Case(
        "MultiHeadAttention",
        ((F, (2, 5, 8)), (F, (2, 7, 8)), (F, (2, 7, 12))),
        1,
        attributes={"num_heads": 2},
    ),
    Case(
        "MultiHeadAttention",
        ((F, (2, 5, 8)), (F, (2, 2, 7, 4)), (F, (2, 2, 7, 4))),
        1,
        attributes={"num_heads": 2},
    ),
    Case(
        "MultiHeadAttention",
        (
            (F, (2, 5, 8)),
            (F, (2, 5, 8)),
            (F, (2, 5, 8)),
            None,
            None,
            None,
            (F, (2, 2, 3, 4)),
            (F, (2, 2, 3, 4)),
        ),
        3,
        attributes={"num_heads": 2},
    ),
    Case(
        "GroupQueryAttention",
        (
            (F, (2, 1, 32)),
            (F, (2, 1, 16)),
            (F, (2, 1, 16)),
            (F, (2, 2, 3, 8)),
            (F, (2, 2, 3, 8)),
            np.array([3, 3], I32),
            one(4, I32),
        ),
        3,
        attributes={"num_heads": 4, "kv_num_heads": 2},
    ),
    Case(
        "GroupQueryAttention",
        (
            (F, (2, 1, 32)),
            (F, (2, 1, 16)),
            (F, (2, 1, 16)),
            (F, (2, 2, 9, 8)),  # a cache with room for more than the 4 tokens so far
            (F, (2, 2, 9, 8)),
            np.array([3, 3], I32),
            one(4, I32),
        ),
        3,
        attributes={"num_heads": 4, "kv_num_heads": 2},
    ),
    Case(
        "GroupQueryAttention",
        (
            (F, (2, 5, 128)),
            None,
            None,
            None,
            None,
            np.array([4, 4], I32),
            one(5, I32),
            *ROTARY,
        ),
        3,
        attributes={"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1},
    ),
    Case("RotaryEmbedding", ((F, (2, 5, 32)), np.zeros((2, 5), I64), *ROTARY)),
    Case(
        "SkipLayerNormalization",
        ((F, (2, 5, 8)), (F, (2, 5, 8)), (F, (8,)), (F, (8,)), (F, (8,))),
        4,
    ),
    Case("SkipSimplifiedLayerNormalization", ((F, (2, 5, 8)), (F, (2, 5, 8)), (F, (8,))), 4),
    Case("SimplifiedLayerNormalization", ((F, (2, 5, 8)), (F, (8,))), 2, domain=""),
    Case(
        "EmbedLayerNormalization",
        (
            np.zeros((2, 5), I32),
            np.zeros((2, 5), I32),
            np.ones((9, 8), F),
            np.ones((7, 8), F),
            np.ones((2, 8), F),
            np.ones(8, F),
            np.ones(8, F),
        ),
        2,
    ),
    Case("BiasGelu", ((F, (2, 5, 8)), (F, (8,)))),
    Case("FastGelu", ((F, (2, 5, 8)), (F, (8,)))),
    Case("QuickGelu", ((F, (2, 5, 8)),)),
    Case("Gelu", ((F, (2, 5, 8)),)),
    Case("FusedMatMul", ((F, (2, 3, 5)), (F, (2, 3, 7))), attributes={"transA": 1}),
    Case("FusedMatMul", ((F, (2, 5, 3)), (F, (7, 3))), attributes={"transB": 1, "alpha": 0.5}),
    Case("FusedMatMul", ((F, (3, 2, 5)), (F, (2, 5, 7))), attributes={"transBatchA": 1}),
    Case("FusedMatMul", ((F, (5,)), (F, (5, 7)))),
    Case(
        "FusedGemm",
        ((F, (3, 5)), (F, (7, 3)), (F, (7,))),
        attributes={"transA": 1, "activation": "Relu", "transB": 1},
    ),
    Case(
        "FusedConv",
        ((F, (2, 4, 9, 8)), (F, (6, 2, 3, 3)), (F, (6,)), (F, (2, 6, 5, 4))),
        attributes={"group": 2, "pads": [1, 1, 1, 1], "strides": [2, 2], "activation": "Relu"},
    ),
    Case(
        "NhwcMaxPool",
        ((I8, (2, 10, 9, 4)),),
        attributes={"kernel_shape": [3, 2], "strides": [2, 3], "ceil_mode": 1},
    ),
    Case(
        "QLinearConv",
        ((U8, (2, 9, 8, 4)), S, Z, (U8, (6, 4, 3, 3)), S, Z, S, Z),
        attributes={"channels_last": 1, "auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ),
    Case("QLinearAdd", ((U8, (2, 5, 1)), S, Z, (U8, (5, 8)), S, Z, S, Z)),
    Case(
        "QLinearMul", ((I8, (2, 5, 1)), S, one(0, I8), (I8, (5, 8)), S, one(0, I8), S, one(0, I8))
    ),
    Case("QLinearConcat", (S, Z, (U8, (2, 3)), S, Z, (U8, (2, 4)), S, Z), attributes={"axis": -1}),
    Case("QLinearSigmoid", ((U8, (2, 5)), S, Z, S, Z)),
    Case(
        "QLinearGlobalAveragePool",
        ((U8, (2, 5, 7, 3)), S, Z, S, Z),
        attributes={"channels_last": 1},
    ),
    Case("QLinearGlobalAveragePool", ((U8, (2, 3, 5, 7)), S, Z, S, Z)),
    Case(
        "QLinearAveragePool",
        ((U8, (2, 3, 9, 7)), S, Z, S, Z),
        attributes={"kernel_shape": [2, 3], "strides": [2, 2]},
    ),
    Case("QGemm", ((U8, (2, 5)), S, Z, (U8, (7, 5)), S, Z, None, S, Z), attributes={"transB": 1}),
    Case("QGemm", ((U8, (2, 5)), S, Z, (U8, (5, 7)), S, Z)),
    Case("DynamicQuantizeMatMul", ((F, (2, 5, 8)), (U8, (8, 7)), S, Z)),
    Case("MatMulIntegerToFloat", ((U8, (2, 5, 8)), (U8, (8, 7)), S, S, Z, Z)),
    Case(
        "MatMulNBits",
        ((F, (2, 5, 32)), np.zeros((7, 2, 8), U8), np.ones(14, F)),
        attributes={"K": 32, "N": 7, "bits": 4, "block_size": 16},
    ),
    Case("QuantizeLinear", ((F, (2, 5)), S, one(0, np.uint16))),
    Case("Trilu", ((F, (2, 5, 5)),)),
    Case("ExpandDims", ((F, (2, 5)), one(1, I32))),
    Case("Inverse", ((F, (2, 3, 3)),)),
]


def build(case: Case) -> tuple[onnx.ModelProto, dict[str, tuple[int, ...]]]:
    names, inputs, constants, shapes = [], [], [], {}
    for index, given in enumerate(case.inputs):
        name = "" if given is None else f"i{index}"
        names.append(name)
        if isinstance(given, np.ndarray):
            constants.append(numpy_helper.from_array(given, name))
        elif given is not None:
            dtype, shape = given
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            symbolic = [f"{name}_{axis}" for axis in range(len(shape))]
            inputs.append(helper.make_tensor_value_info(name, kind, symbolic))
            shapes[name] = shape
    outputs = [f"o{index}" for index in range(case.outputs)]
    node = helper.make_node(case.op, names, outputs, domain=case.domain, **case.attributes)
    graph = helper.make_graph(
        [node], "g", inputs, [onnx.ValueInfoProto(name=name) for name in outputs], constants
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, ir_version=8, opset_imports=opsets), shapes


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operator_of_onnxruntime_has_the_shapes_onnxruntime_gives(case: Case) -> None:
    proto, shapes = build(case)
    oracle = Oracle(proto)
    facts = propagate(load(proto), shapes)
    for name, array in oracle.run(oracle.feeds(shapes)).items():
        if array.size:  # kernels leave out what nobody asked for
            assert facts[name].sizes == array.shape, name
            assert agrees(facts[name], array), name


def shape_of(case: Case) -> tuple[int, ...] | None:
    proto, shapes = build(case)
    return propagate(load(proto), shapes)["o0"].sizes


WINDOWS: list[dict[str, Any]] = [
    {"pads": [1, 0, 2, 1], "strides": [2, 3]},
    {"dilations": [2, 1]},
    {"auto_pad": "SAME_LOWER", "strides": [3, 2]},
    {"auto_pad": "VALID"},
]


@pytest.mark.parametrize("attributes", WINDOWS, ids=str)
def test_channels_last_only_permutes(attributes: dict[str, Any]) -> None:
    # Its kernels exist on GPU and ARM only, so the standard Conv stands in for the runtime.
    weight = (F, (6, 4, 3, 2))
    first = shape_of(Case("FusedConv", ((F, (2, 4, 9, 8)), weight), attributes=attributes))
    last = shape_of(Case("NhwcFusedConv", ((F, (2, 9, 8, 4)), weight), attributes=attributes))
    assert first is not None
    assert last == (first[0], first[2], first[3], first[1])


def test_packed_projections_give_what_separate_ones_do() -> None:
    # Packed forms have GPU kernels only.
    apart = Case("MultiHeadAttention", ((F, (2, 5, 8)),) * 3, attributes={"num_heads": 2})
    packed = Case("MultiHeadAttention", ((F, (2, 5, 2, 3, 4)),), attributes={"num_heads": 2})
    pairs = Case(
        "MultiHeadAttention", ((F, (2, 5, 8)), (F, (2, 7, 2, 2, 4))), attributes={"num_heads": 2}
    )
    assert shape_of(apart) == shape_of(packed) == shape_of(pairs) == (2, 5, 8)


def test_an_operator_of_another_domain_is_not_taken_for_a_namesake() -> None:
    proto, shapes = build(Case("Gelu", ((F, (2, 5)),)))
    proto.graph.node[0].domain = "somebody.else"
    proto.opset_import.append(helper.make_opsetid("somebody.else", 1))
    fact = propagate(load(proto), shapes)["o0"]
    assert fact.shape is None
    assert "somebody.else::Gelu" in fact.reason


@pytest.mark.parametrize(
    ("domain", "op"),
    [
        ("acme", "Doubled"),
        ("acme", "Gelu"),  # a namesake of onnxruntime's
        ("acme", "Conv"),  # a namesake of onnx's
        ("", "Doubled"),  # as exporters write plug-ins of TensorRT
        ("com.microsoft.nchwc", "Doubled"),
        ("com.microsoft.nchwc", "GlobalMaxPool"),
    ],
)
def test_a_registered_rule_gives_the_shape_in_any_domain(
    domain: str, op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SHAPES, (domain, op), like_first)  # undone when the test ends

    @shape_rule(op, domain=domain)
    def _doubled(call: ShapeCall) -> list[Fact]:
        fact = call.fact(0)
        assert fact.shape is not None
        return [Fact((*fact.shape[:-1], 2 * (fact.shape[-1] or 0)), fact.dtype)]

    for shape in ((2, 5), (1, 3, 4, 4)):
        proto, shapes = build(Case(op, ((F, shape),), domain=domain))
        if domain not in ("", "com.microsoft"):
            proto.opset_import.append(helper.make_opsetid(domain, 1))
        stale = helper.make_tensor_value_info("o0", onnx.TensorProto.FLOAT, None)
        proto.graph.value_info.append(stale)
        fact = propagate(load(proto), shapes)["o0"]
        assert fact.sizes == (*shape[:-1], 2 * shape[-1])


def test_a_rule_that_mends_onnx_is_no_rule_without_its_schema() -> None:
    """LayerNormalization is none of opset 16; onnxruntime would refuse it there."""
    proto, shapes = build(Case("LayerNormalization", ((F, (2, 5)), (F, (5,))), domain=""))
    for each in proto.opset_import:
        each.version = 16 if each.domain == "" else each.version
    fact = propagate(load(proto), shapes)["o0"]
    assert fact.shape is None
    assert "no schema or rule" in fact.reason
