"""Small known contents against what onnxruntime computes, over the opsets that spell them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from onnxprune.graph.shapes import propagate
from onnxprune.model import load
from shape_oracle import Oracle, agrees

OPSETS = (7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 21)


def ints(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64)


def floats(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


@dataclass(frozen=True)
class Case:
    op: str
    inputs: tuple[npt.NDArray[Any] | np.generic | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    opsets: range = range(7, 22)
    outputs: int = 1

    def __str__(self) -> str:
        return f"{self.op}-{'-'.join(map(str, self.attributes))}-{self.opsets.start}"


A, B = ints(-7, 7, 0, 12), ints(2, -2, 5, 4)
X = np.arange(12, dtype=np.int64).reshape(3, 4) - 5
Y = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
OLD, NEW = range(7, 13), range(13, 22)
QDQ = range(19, 22)  # the reference has no older form

CASES = [
    *(Case(op, (A, B)) for op in ("Add", "Sub", "Mul", "Div")),
    *(Case(op, (Y, floats(2, 3, 4, 5))) for op in ("Add", "Sub", "Mul", "Div", "Pow")),
    Case("Mod", (A, B), opsets=range(10, 22)),
    Case("Mod", (A, B), {"fmod": 1}, range(10, 22)),
    Case("Mod", (Y, floats(1, -1, 2, -2)), {"fmod": 1}, range(10, 22)),
    *(Case(op, (A, B, ints(1, 1, 1, 1))) for op in ("Max", "Min")),
    *(Case(op, (Y, floats(0.5, 0, -0.5, 9)), opsets=range(8, 22)) for op in ("Max", "Min", "Sum")),
    *(Case(op, (A, B)) for op in ("Equal", "Greater", "Less")),
    *(Case(op, (Y, Y.T.reshape(3, 4))) for op in ("Greater", "Less")),
    *(Case(op, (A, B), opsets=range(12, 22)) for op in ("GreaterOrEqual", "LessOrEqual")),
    *(Case(op, (A > 0, B > 0)) for op in ("And", "Or", "Xor")),
    Case("Not", (A > 0,)),
    *(Case(op, (A,)) for op in ("Abs", "Neg")),
    *(Case(op, (A,), opsets=range(9, 22)) for op in ("Sign",)),
    *(Case(op, (Y,)) for op in ("Abs", "Neg", "Floor", "Ceil", "Exp", "Tanh", "Sigmoid", "Relu")),
    *(Case(op, (np.abs(Y) + 1,)) for op in ("Sqrt", "Log", "Reciprocal")),
    *(Case(op, (Y,)) for op in ("Sin", "Cos")),
    *(Case(op, (Y,), opsets=range(9, 22)) for op in ("Erf", "Sign")),
    Case("Round", (floats(-2.5, -1.5, 0.5, 1.5, 2.4),), opsets=range(11, 22)),
    Case("Clip", (Y,), {"min": -1.0, "max": 0.5}, range(7, 11)),
    Case("Clip", (Y, np.float32(-1), None), opsets=range(11, 22)),
    Case("Where", (A > 0, A, B), opsets=range(9, 22)),
    *(
        Case("Cast", (value,), {"to": to})
        for value in (A, floats(-1.7, 1.7, 0, 3.5), A > 0)
        for to in (TensorProto.INT32, TensorProto.FLOAT, TensorProto.BOOL, TensorProto.FLOAT16)
    ),
    Case("CastLike", (A, floats(1)), opsets=range(15, 22)),
    Case("Identity", (Y,)),
    Case("Concat", (A, B), {"axis": 0}),
    Case("Concat", (X, X), {"axis": -1}, range(11, 22)),
    Case("Gather", (X, ints(2, 0)), {"axis": 1}),
    Case("Gather", (A, np.array(-1, np.int64)), opsets=range(11, 22)),
    Case("GatherND", (X, np.array([[0, 1], [2, 2]], np.int64)), opsets=range(11, 22)),
    Case("ScatterND", (A, np.array([[1], [3]], np.int64), ints(8, 9)), opsets=range(11, 22)),
    Case("ScatterElements", (A, ints(1, 3), ints(8, 9)), opsets=range(11, 22)),
    Case("Slice", (X,), {"starts": [0, -3], "ends": [2, 2**31 - 1], "axes": [0, 1]}, range(7, 10)),
    Case("Slice", (X, ints(-1), ints(-(2**62)), ints(1), ints(-2)), opsets=range(10, 22)),
    Case("Slice", (X, ints(1), ints(2**62)), opsets=range(10, 22)),
    Case("Split", (X,), {"axis": 1, "split": [1, 3]}, OLD, 2),
    Case("Split", (X,), {"axis": 1}, range(7, 18), 2),
    Case("Split", (X, ints(1, 3)), {"axis": 1}, NEW, 2),
    Case("Split", (X,), {"axis": 0, "num_outputs": 2}, range(18, 22), 2),
    Case("Squeeze", (X[None, :, None],), {"axes": [0, 2]}, OLD),
    Case("Squeeze", (X[None, :, None], ints(0, -2)), opsets=NEW),
    Case("Squeeze", (X[None, :, None],)),
    Case("Unsqueeze", (X,), {"axes": [0, 3]}, OLD),
    Case("Unsqueeze", (X, ints(-1, 0)), opsets=NEW),
    Case("Reshape", (X, ints(0, -1, 2))),
    Case("Reshape", (X[:0], ints(0, 7)), {"allowzero": 1}, range(14, 22)),
    Case("Flatten", (X[None],), {"axis": 2}, range(9, 22)),
    Case("Transpose", (X,)),
    Case("Transpose", (X[None],), {"perm": [2, 0, 1]}),
    Case("Expand", (ints(1, 2)[:, None], ints(3, 1, 2)), opsets=range(8, 22)),
    Case("Tile", (X, ints(2, 1))),
    Case("Range", tuple(np.array(v, np.int64) for v in (7, -2, -3)), opsets=range(11, 22)),
    Case("Range", tuple(np.array(v, np.float32) for v in (0, 1, 0.3)), opsets=range(11, 22)),
    Case("ConstantOfShape", (ints(2, 3),), opsets=range(9, 22)),
    Case(
        "ConstantOfShape",
        (ints(2),),
        {"value": helper.make_tensor("v", TensorProto.INT64, [1], [7])},
        range(9, 22),
    ),
    *(
        Case(op, (value,), {"axes": [1], "keepdims": 0}, range(7, until))
        for value in (X, Y)
        for op, until in (
            ("ReduceProd", 18),
            ("ReduceSum", 13),
            ("ReduceMax", 18),
            ("ReduceMin", 18),
            ("ReduceMean", 18),
        )
    ),
    *(
        Case(op, (X, ints(-1)), opsets=range(since, 22))
        for op, since in (
            ("ReduceProd", 18),
            ("ReduceSum", 13),
            ("ReduceMax", 18),
            ("ReduceMin", 18),
        )
    ),
    Case("ReduceProd", (A,)),
    Case("ReduceSum", (X, ints()), {"noop_with_empty_axes": 1}, NEW),
    Case("ArgMax", (X,), {"axis": 1, "keepdims": 0}),
    Case("ArgMin", (Y,), {"axis": 0}),
    Case("CumSum", (X, np.array(1, np.int64)), {"exclusive": 1, "reverse": 1}, range(11, 22)),
    Case("NonZero", (X > 0,), opsets=range(9, 22)),
    Case("OneHot", (ints(0, 2), np.array(3, np.int64), ints(5, 6)), opsets=range(9, 22)),
    Case("Trilu", (X, np.array(-1, np.int64)), {"upper": 0}, range(14, 22)),
    Case("EyeLike", (Y,), {"k": 1}, range(9, 22)),
    Case("Pad", (Y,), {"pads": [0, 1, 2, 0], "value": 3.0}, range(7, 11)),
    Case("Pad", (Y, ints(0, 1, 2, 0), np.float32(3)), opsets=range(11, 22)),
    Case("Pad", (Y, ints(1, 1, 1, 1)), {"mode": "reflect"}, range(11, 22)),
    Case("Compress", (X, np.array([True, False, True])), {"axis": 0}, range(9, 22)),
    Case("MatMul", (Y, Y.T.copy())),
    Case("Size", (X,)),
    Case("Shape", (X,)),
    Case("Shape", (X,), {"start": -1, "end": 7}, range(15, 22)),
    Case("DequantizeLinear", (np.array([1, 9], np.uint8), np.float32(0.5), np.uint8(3)), {}, QDQ),
    Case("QuantizeLinear", (Y, np.float32(0.5), np.uint8(3)), {}, QDQ),
]


def build(case: Case, opset: int) -> onnx.ModelProto:
    names = ["" if value is None else f"i{index}" for index, value in enumerate(case.inputs)]
    stored = [
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in zip(names, case.inputs, strict=True)
        if value is not None
    ]
    outputs = [f"o{index}" for index in range(case.outputs)]
    node = helper.make_node(case.op, names, outputs, **case.attributes)
    graph = helper.make_graph(
        [node], "g", [], [onnx.ValueInfoProto(name=name) for name in outputs], stored
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_known_content_is_what_onnxruntime_computes(case: Case) -> None:
    tried = 0
    for opset in filter(case.opsets.__contains__, OPSETS):
        proto = build(case, opset)
        try:
            computed = Oracle(proto).run({})
        except (ort_errors.NotImplemented, ort_errors.InvalidGraph):
            continue  # opset 7 has no integer Max, say: it is no legal model
        facts = propagate(load(proto), {})
        for name, array in computed.items():
            assert facts[name].value is not None, f"opset {opset}: {facts[name]}"
            assert agrees(facts[name], array), f"opset {opset}: {facts[name]} but {array}"
        tried += 1
    assert tried
