"""Every rule is tested by one square, over random removals, dtypes and opsets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxprune.graph.ops import RULES
from square import ML, MS, Case, check


def f(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def pos(*shape: int, seed: int = 0) -> np.ndarray:
    return np.abs(f(*shape, seed=seed)) + 0.5


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def i32(values: list[Any]) -> np.ndarray:
    """Indices that another node may compute, with axes of their own."""
    return np.array(values, np.int32)


def rows(n: int, width: int) -> np.ndarray:
    """Indices of rows, repeated along their features, as exporters write a scatter."""
    return np.repeat(np.arange(n)[::-1, None], width, 1).astype(np.int32)


UNARY = """
Abs Acos Asin Atan Ceil Celu Cos Elu Erf Exp Floor HardSigmoid HardSwish Identity IsInf
IsNaN LeakyRelu Neg Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Cosh Asinh
Softplus Softsign Tan Tanh ThresholdedRelu
""".split()

CASES = [
    *[Case(op, (f(3, 6, 2) * 0.3,)) for op in UNARY],
    *[Case(op, (pos(3, 6),)) for op in ("Log", "Sqrt")],
    Case("Acosh", (pos(3, 4) + 1,)),
    Case("Atanh", (f(3, 4) * 0.1,)),
    Case("Gelu", (f(3, 4),), opset=20),
    Case("Cast", (f(3, 4),), {"to": 11}),
    *[Case(op, (f(2, 5, 3), f(5, 1))) for op in ("Add", "Sub", "Mul", "Max", "Min", "Mean", "Sum")],
    *[Case(op, (f(4, 5), f(5), f(4, 1))) for op in ("Max", "Sum")],
    *[Case(op, (f(2, 5, 3), pos(2, 1, 3))) for op in ("Div", "Mod") for _ in [0]][:1],
    Case("Mod", (f(2, 5), pos(5)), {"fmod": 1}),
    Case("Pow", (pos(2, 5), f(5))),
    *[Case(op, (f(2, 5), f(5))) for op in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual")],
    Case("Equal", (f(2, 5), f(2, 5))),
    Case("PRelu", (f(2, 6, 4), f(6, 1))),
    Case("Clip", (f(2, 6), np.array(-0.1, np.float32), np.array(0.4, np.float32))),
    Case("Conv", (f(2, 5, 6, 6), f(7, 5, 3, 3), f(7)), {"pads": [1, 1, 1, 1]}),
    Case("Conv", (f(1, 5, 9), f(4, 5, 3)), {"dilations": [2], "strides": [2]}),
    Case("Conv", (f(1, 6, 5, 5), f(6, 1, 3, 3), f(6)), {"group": 6}),
    Case("Conv", (f(1, 6, 5, 5), f(12, 1, 3, 3)), {"group": 6}),
    Case("Conv", (f(1, 12, 5, 5), f(8, 3, 1, 1), f(8)), {"group": 4}),
    Case("Conv", (f(1, 4, 3, 4, 4), f(5, 4, 2, 2, 2)), opset=11),
    Case("ConvTranspose", (f(1, 5, 4, 4), f(5, 3, 2, 2), f(3)), {"strides": [2, 2]}),
    Case("ConvTranspose", (f(1, 6, 4), f(6, 2, 3), f(4)), {"group": 2}),
    Case("FusedConv", (f(1, 4, 5, 5), f(3, 4, 1, 1), f(3)), {"activation": "Relu"}, domain=MS),
    Case("Gemm", (f(3, 5), f(5, 4), f(4)), {"alpha": 0.5, "beta": 2.0}),
    Case("Gemm", (f(5, 3), f(4, 5), f(3, 1)), {"transA": 1, "transB": 1}),
    Case("Gemm", (f(3, 5), f(4, 5)), {"transB": 1}),
    Case("Gemm", (f(3, 5), f(5, 4), f(3, 4)), opset=11),
    Case("MatMul", (f(3, 5), f(5, 4))),
    Case("MatMul", (f(2, 3, 5), f(5, 4))),
    Case("MatMul", (f(5), f(2, 5, 4))),
    Case("MatMul", (f(2, 3, 5), f(5))),
    Case("MatMul", (f(4, 1, 3, 5), f(2, 5, 6))),
    Case("FusedMatMul", (f(2, 5, 3), f(2, 4, 5)), {"transA": 1, "transB": 1}, domain=MS),
    Case("Einsum", (f(2, 4, 3, 5), f(2, 4, 6, 5)), {"equation": "bhid,bhjd->bhij"}),
    Case("Einsum", (f(2, 3, 4), f(4, 5)), {"equation": "...ij,jk->...ik"}),
    Case("Einsum", (f(3, 4), f(4, 5)), {"equation": "ab,bc"}),
    Case("BatchNormalization", (f(2, 5, 3), f(5), f(5), f(5), pos(5))),
    Case("InstanceNormalization", (f(2, 5, 6), f(5), f(5))),
    Case("LayerNormalization", (f(4, 3, 5), f(5), f(5)), tolerance=1e-4),
    Case("LayerNormalization", (f(4, 3, 5), f(3, 5)), {"axis": 1}, outputs=3, tolerance=1e-4),
    Case(
        "GroupNormalization", (f(2, 8, 3), f(8), f(8)), {"num_groups": 4}, opset=21, tolerance=1e-4
    ),
    Case("RMSNormalization", (f(4, 3, 5), f(5)), opset=23, tolerance=1e-4),
    Case("SimplifiedLayerNormalization", (f(4, 3, 5), f(5)), tolerance=1e-4),
    Case(
        "SkipLayerNormalization",
        (f(2, 3, 8), f(2, 3, 8), f(8), f(8), f(8)),
        domain=MS,
        tolerance=1e-4,
    ),
    Case(
        "SkipSimplifiedLayerNormalization",
        (f(2, 3, 8), f(2, 3, 8), f(8)),
        domain=MS,
        tolerance=1e-4,
    ),
    Case("LRN", (f(2, 6, 4, 4),), {"size": 3}),
    Case("Softmax", (f(2, 5, 4),), {"axis": 1}),
    Case("Softmax", (f(2, 5, 4),), {"axis": 1}, opset=11),
    Case("LogSoftmax", (f(2, 5, 4),)),
    Case("Hardmax", (f(2, 5, 4),)),
    Case("LpNormalization", (f(2, 5, 4),), {"axis": 1, "p": 2}),
    Case("MeanVarianceNormalization", (f(2, 5, 4, 4),)),
    *[Case(op, (f(2, 5, 6, 6),), {"kernel_shape": [2, 2]}) for op in ("MaxPool", "AveragePool")],
    Case("LpPool", (f(2, 5, 6, 6),), {"kernel_shape": [2, 2]}),
    *[Case(op, (f(2, 5, 6, 6),)) for op in ("GlobalAveragePool", "GlobalMaxPool")],
    *[
        Case(op, (pos(3, 5, 4),), {"axes": [1], "keepdims": k})
        for op in (
            "ReduceSumSquare",
            "ReduceL1",
            "ReduceL2",
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceLogSum",
            "ReduceLogSumExp",
        )
        for k in (0, 1)
    ],
    Case("ReduceSum", (f(3, 5, 4), i64(1, -1)), {"keepdims": 0}),
    Case("ReduceMean", (f(3, 5, 4), i64(2)), opset=18),
    Case("ArgMax", (f(3, 5, 4),), {"axis": 1, "keepdims": 0}),
    Case("ArgMin", (f(3, 5, 4),), {"axis": -1}),
    Case("TopK", (f(3, 5, 4), i64(2)), {"axis": 1}, outputs=2),
    Case("CumSum", (f(3, 5, 4), np.array(1, np.int64))),
    Case("Reshape", (f(3, 12), i64(3, 4, 3))),
    Case("Reshape", (f(3, 4, 3), i64(0, -1))),
    Case("Reshape", (f(6, 4), i64(2, 3, 4))),
    Case("Reshape", (f(4, 6), i64(8, 3))),
    Case("Flatten", (f(3, 4, 5),)),
    Case("Flatten", (f(3, 4, 5),), {"axis": 2}),
    Case("Squeeze", (f(3, 1, 4), i64(1))),
    Case("Squeeze", (f(3, 1, 4),), {"axes": [1]}, opset=11),
    Case("Unsqueeze", (f(3, 4), i64(0, 3))),
    Case("Transpose", (f(3, 4, 5),), {"perm": [2, 0, 1]}),
    Case("Transpose", (f(3, 4),)),
    Case("Concat", (f(3, 4), f(3, 5), f(3, 2)), {"axis": 1}),
    Case("Concat", (f(3, 4), f(2, 4)), {"axis": 0}),
    Case("Split", (f(3, 8), i64(3, 5)), {"axis": 1}, outputs=2),
    Case("Split", (f(3, 8),), {"axis": 1}, outputs=2),
    Case("Split", (f(3, 8),), {"axis": 1, "num_outputs": 4}, outputs=4, opset=18),
    Case("Split", (f(3, 8),), {"axis": 1, "split": [2, 6]}, outputs=2, opset=11),
    Case("Slice", (f(3, 8), i64(2), i64(7), i64(1))),
    Case("Slice", (f(3, 8), i64(0, 1), i64(2**62, -2), i64(0, 1))),
    Case("Slice", (f(3, 8), i64(-5), i64(2**62), i64(-1), i64(1))),
    Case("Slice", (f(3, 8), i64(0), i64(8), i64(1), i64(2))),
    Case("Slice", (f(3, 8), i64(-1), i64(-(2**62)), i64(1), i64(-1))),
    Case("Slice", (f(3, 8),), {"starts": [3], "ends": [2**31 - 1], "axes": [1]}, opset=9),
    Case("Gather", (f(3, 8), i64(5, 0, 5, 2)), {"axis": 1}),
    Case("Gather", (f(3, 8), i64(-1, -8)), {"axis": 1}),
    Case("Gather", (f(3, 8), np.array(2, np.int64)), {"axis": 1}),
    Case("Gather", (f(6, 4), np.array([[1, 2], [0, 5]], np.int64))),
    Case("Expand", (f(3, 1, 4), i64(2, 3, 5, 4))),
    Case("Expand", (f(3, 4), i64(1, 1))),
    Case("ConstantOfShape", (i64(3, 4),)),
    Case("Tile", (f(3, 1), i64(2, 4))),
    Case("Pad", (f(3, 5), i64(0, 2, 0, 1))),
    Case("Pad", (f(3, 5),), {"pads": [0, 2, 0, 0]}, opset=10),
    Case("Pad", (f(3, 5), i64(0, 2, 0, 1)), {"mode": "reflect"}),
    Case("Pad", (f(3, 5, 4), i64(1, 1), None, i64(-1)), opset=18),
    Case("Resize", (f(1, 5, 4, 4), None, np.array([1, 1, 2, 2], np.float32))),
    Case("Resize", (f(1, 5, 4, 4), None, None, i64(1, 5, 6, 6)), {"mode": "nearest"}),
    Case("Upsample", (f(1, 5, 4, 4), np.array([1, 1, 2, 2], np.float32)), opset=9),
    Case("DepthToSpace", (f(1, 12, 2, 3),), {"blocksize": 2, "mode": "DCR"}),
    Case("DepthToSpace", (f(1, 12, 2, 3),), {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", (f(1, 3, 4, 6),), {"blocksize": 2}),
    Case("Trilu", (f(5, 3, 3),)),
    Case("Where", (np.array([[True], [False], [True]]), f(3, 5), f(5))),
    Case("GridSample", (f(2, 4, 3, 3), f(2, 2, 2, 2) * 0.3), opset=16),
    Case("Dropout", (f(3, 5),), opset=11),
    Case("DequantizeLinear", (np.arange(15, dtype=np.int8).reshape(3, 5), pos(5)), {"axis": 1}),
    Case(
        "DequantizeLinear", (np.arange(15, dtype=np.int8).reshape(3, 5), np.array(0.1, np.float32))
    ),
    Case("QuantizeLinear", (f(3, 5), pos(3), np.zeros(3, np.int8)), {"axis": 0}),
    *[
        Case(
            op,
            (f(4, 2, 3), f(1, g * 5, 3), f(1, g * 5, 5), f(1, 2 * g * 5)),
            {"hidden_size": 5},
            outputs=2,
        )
        for op, g in (("LSTM", 4), ("GRU", 3), ("RNN", 1))
    ],
    Case(
        "LSTM",
        (f(4, 2, 3), f(2, 20, 3), f(2, 20, 5), f(2, 40), None, f(2, 2, 5), f(2, 2, 5), f(2, 15)),
        {"hidden_size": 5, "direction": "bidirectional"},
        outputs=3,
    ),
    Case(
        "GRU", (f(4, 2, 3), f(1, 15, 3), f(1, 15, 5)), {"hidden_size": 5, "linear_before_reset": 1}
    ),
    Case("Attention", (f(2, 3, 8), f(8, 24), f(24)), {"num_heads": 2}, domain=MS),
    Case("MultiHeadAttention", (f(2, 3, 8), f(2, 4, 8), f(2, 4, 8)), {"num_heads": 4}, domain=MS),
    Case(
        "MultiHeadAttention",
        (f(2, 3, 8), f(2, 4, 8), f(2, 4, 8), f(24)),
        {"num_heads": 2},
        domain=MS,
    ),
    Case("Attention", (f(2, 4, 3, 5), f(2, 2, 6, 5), f(2, 2, 6, 5)), opset=23),
    Case(
        "Attention",
        (f(2, 3, 20), f(2, 6, 10), f(2, 6, 10)),
        {"q_num_heads": 4, "kv_num_heads": 2},
        opset=23,
    ),
    Case(
        "RotaryEmbedding",
        (f(2, 4, 3, 6), f(5, 3), f(5, 3), np.array([[0, 1, 2]] * 2, np.int64)),
        opset=23,
    ),
    *[Case(op, (f(3, 4),), domain=MS) for op in ("QuickGelu", "Gelu")],
    Case("BiasGelu", (f(3, 4), f(4)), domain=MS),
    Case("FastGelu", (f(3, 4), f(4)), domain=MS),
    Case(
        "MatMulInteger",
        (
            np.arange(12, dtype=np.uint8).reshape(3, 4),
            np.arange(-8, 12, dtype=np.int8).reshape(4, 5),
        ),
    ),
    Case(
        "ConvInteger",
        (
            np.arange(45, dtype=np.uint8).reshape(1, 5, 3, 3),
            np.arange(40, dtype=np.uint8).reshape(4, 5, 2, 1),
            np.array(3, np.uint8),
            np.array(7, np.uint8),
        ),
    ),
    *[Case("Mish", (f(3, 4),), opset=18), Case("Swish", (f(3, 4),), {"alpha": 1.3}, opset=24)],
    Case("DeformConv", (f(1, 4, 5, 5), f(6, 4, 3, 3), f(1, 18, 3, 3), f(6)), opset=19),
    Case(
        "DeformConv",
        (f(1, 4, 5, 5), f(6, 2, 3, 3), f(1, 18, 3, 3), f(6), pos(1, 9, 3, 3)),
        {"group": 2},
        opset=19,
    ),
    Case("DeformConv", (f(1, 4, 5, 5), f(4, 1, 3, 3), f(1, 18, 3, 3)), {"group": 4}, opset=19),
    Case("GatherND", (f(6, 4, 5), np.array([[1], [5], [0]]))),
    Case("GatherND", (f(6, 4, 5), np.array([[[1, 2], [5, 0]], [[0, 3], [2, 2]]]))),
    Case("GatherND", (f(2, 4, 5), np.array([[[1], [3]], [[0], [2]]])), {"batch_dims": 1}),
    Case("ScatterND", (f(6, 4, 5), np.array([[1], [5], [0]]), f(3, 4, 5))),
    Case(
        "ScatterND", (f(6, 5), np.array([[1], [1], [0]]), f(3, 5)), {"reduction": "add"}, opset=16
    ),
    *[Case("GatherElements", (f(6, 5), rows(n, 5)), {"axis": 0}) for n in (3, 6)],
    Case("GatherElements", (f(6, 5), rows(3, 4)), {"axis": 0}),
    Case("ScatterElements", (f(6, 5), rows(3, 5), f(3, 5)), {"axis": 0}),
    Case("ScatterElements", (f(6, 5), rows(3, 4), f(3, 4)), {"axis": 0}),
    Case("ScatterElements", (f(6, 5), rows(4, 5), f(4, 5)), {"reduction": "add"}, opset=16),
    Case("Scatter", (f(6, 5), rows(3, 5), f(3, 5)), {"axis": 0}, opset=10),
    Case("Compress", (f(4, 5), np.array([True, False, True, True])), {"axis": 0}),
    Case("OneHot", (i32([[0, 4, 1], [2, 3, 0]]), np.float32([5]), f(2)), {"axis": 1}),
    Case("ReverseSequence", (f(4, 3, 5), i64(2, 4, 1)), {"batch_axis": 1, "time_axis": 0}),
    Case("CenterCropPad", (f(3, 4, 6), i64(5, 6)), {"axes": [1, 2]}, opset=18),
    Case("DFT", (f(2, 4, 3, 2),), {"axis": 1}, opset=17),
    Case("TensorScatter", (f(2, 3, 6, 5), f(2, 3, 2, 5), i64(0, 3)), opset=24),
    Case("RandomNormalLike", (f(3, 4),), {"seed": 3.0}),
    Case("ExpandDims", (f(3, 4), np.array(1, np.int32)), domain=MS),
    Case(
        "EmbedLayerNormalization",
        (i32([[1, 0, 2]]), i32([[0, 1, 1]]), f(3, 8), f(4, 8), f(2, 8), f(8), f(8)),
        outputs=2,
        domain=MS,
        tolerance=1e-4,
    ),
    Case("Scaler", (f(3, 4),), {"offset": [0.5] * 4, "scale": [2.0] * 4}, domain=ML),
    Case("Scaler", (f(3, 4),), {"offset": [0.5], "scale": [2.0]}, domain=ML),
    Case("Normalizer", (f(3, 4),), {"norm": "L2"}, domain=ML),
    Case("Imputer", (f(3, 4),), {"imputed_value_floats": [0.5] * 4}, domain=ML),
    Case("Binarizer", (f(3, 4),), {"threshold": 0.2}, domain=ML),
    # half and double precision
    Case("Gemm", (f(5, 6, dtype=np.float64), f(6, 3, dtype=np.float64)), tolerance=1e-12),
    Case("MatMul", (f(2, 3, 5, dtype=np.float64), f(5, 4, dtype=np.float64)), tolerance=1e-12),
    Case("Add", (f(2, 5, dtype=np.float16), f(5, dtype=np.float16)), tolerance=1e-2),
    Case("Relu", (f(2, 5, dtype=np.float16),), tolerance=1e-2),
]

KEEPS_EVERYTHING = {"Hardmax"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_slicing_commutes_with_the_operator(case: Case) -> None:
    for seed in range(4):
        check(case, seed)


def test_most_rules_are_tried_and_can_remove_something() -> None:
    tried = {(c.domain, c.op) for c in CASES}
    assert len(tried) >= 110
    rules = {key for key in RULES if key[0] == ""}
    assert len(rules & tried) / len(rules) > 0.7


MUTANTS = [
    ("Conv", "n (g i) *, (g o) i *, (g o) -> n (g o) *".replace("(g i)", "_"), 0),
    ("BatchNormalization", "n c *, c, c, c -> n c *", 0),
    ("InstanceNormalization", "n c *, c -> n c *", 0),
    ("GlobalAveragePool", "n c * -> c n *", 0),
    ("Sigmoid", "a b c -> b a c", 0),
]


@pytest.mark.parametrize(("op", "line", "which"), MUTANTS, ids=[m[0] for m in MUTANTS])
def test_a_wrong_rule_is_caught(
    op: str, line: str, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = [c for c in CASES if c.op == op][which]
    monkeypatch.setitem(RULES, ("", op), line)
    caught = 0
    for seed in range(8):
        try:
            removable = check(case, seed)
            caught += removable == 0  # a rule that removes nothing is safe, and useless
        except Exception:  # noqa: BLE001  # any failure of the square is the point
            caught += 1
    assert caught > 0
