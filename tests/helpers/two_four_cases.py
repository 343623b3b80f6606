"""Models whose one weight reaches its node in every way that exports have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune import model as models
from onnxprune.graph.layers.linear import find_layers, plain

Array = np.ndarray[Any, Any]


def floats(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def tensor(array: Array, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name)


def build(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, Array],
    x: Sequence[int | str],
    *,
    functions: Sequence[onnx.FunctionProto] = (),
    dtype: int = TensorProto.FLOAT,
    outputs: Sequence[str] = ("y",),
    opset: int = 21,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", dtype, list(x))],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [tensor(array, name) for name, array in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    imports.append(helper.make_opsetid("com.microsoft", 1))
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10)


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


@dataclass(frozen=True)
class Case:
    """A model, and its weight ``w`` seen with what is contracted last.

    Attributes:
        make: the model.
        rows: the stored weight as ``[anything, contracted]``.
        polygraphy: whether `polygraphy inspect sparsity` looks along the right axis.
        notes: words that the checker says beside its verdict.
    """

    make: Callable[[], onnx.ModelProto]
    rows: Callable[[Array], Array]
    polygraphy: bool = True
    notes: tuple[str, ...] = field(default=())


def last(axis: int) -> Callable[[Array], Array]:
    return lambda w: np.moveaxis(w, axis, -1)


def conv() -> onnx.ModelProto:
    return build([node("Conv", "x w", "y")], {"w": floats(8, 16, 3, 3)}, [1, 16, 8, 8])


def grouped() -> onnx.ModelProto:
    return build([node("Conv", "x w", "y", group=2)], {"w": floats(8, 8, 3)}, [1, 16, 8])


def gemm() -> onnx.ModelProto:
    return build([node("Gemm", "x w", "y", transB=1)], {"w": floats(8, 16)}, [3, 16])


def gemm_left() -> onnx.ModelProto:
    return build([node("Gemm", "w x", "y", transA=1)], {"w": floats(16, 8)}, [16, 3])


def matmul() -> onnx.ModelProto:
    return build([node("MatMul", "x w", "y")], {"w": floats(16, 8)}, [2, 3, 16])


def matmul_left() -> onnx.ModelProto:
    return build([node("MatMul", "w x", "y")], {"w": floats(8, 16)}, [16, 3])


def rank_three() -> onnx.ModelProto:
    return build([node("MatMul", "x w", "y")], {"w": floats(4, 16, 8)}, [4, 3, 16])


def rank_three_of_one() -> onnx.ModelProto:
    return build([node("MatMul", "x w", "y")], {"w": floats(1, 16, 8)}, [4, 3, 16])


def transposed() -> onnx.ModelProto:
    nodes = [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")]
    return build(nodes, {"w": floats(8, 16)}, [3, 16])


def cast() -> onnx.ModelProto:
    nodes = [node("Cast", "w", "t", to=TensorProto.FLOAT), node("MatMul", "x t", "y")]
    return build(nodes, {"w": floats(16, 8, dtype=np.float16)}, [3, 16])


def bfloat16() -> onnx.ModelProto:
    weights = {"w": floats(16, 8).astype(ml_dtypes.bfloat16)}
    nodes = [node("Cast", "w", "t", to=TensorProto.FLOAT), node("MatMul", "x t", "y")]
    return build(nodes, weights, [3, 16])


def reshaped() -> onnx.ModelProto:
    nodes = [node("Reshape", "w shape", "t"), node("Conv", "x t", "y")]
    weights = {"w": floats(8, 16), "shape": np.array([8, -1, 1, 1])}
    return build(nodes, weights, [1, 16, 4, 4])


def merged() -> onnx.ModelProto:
    nodes = [node("Reshape", "w shape", "t"), node("MatMul", "x t", "y")]
    weights = {"w": floats(8, 4, 6), "shape": np.array([32, 6])}
    return build(nodes, weights, [3, 32])


def scaled() -> dict[str, Array]:
    levels = np.random.default_rng(0).integers(-127, 128, (8, 16, 3, 3)).astype(np.int8)
    return {
        "w": levels,
        "s": np.linspace(0.01, 0.1, 8, dtype=np.float32),
        "z": np.zeros(8, np.int8),
    }


def dequantized() -> onnx.ModelProto:
    nodes = [node("DequantizeLinear", "w s z", "t", axis=0), node("Conv", "x t", "y")]
    return build(nodes, scaled(), [1, 16, 8, 8])


def dequantized_transposed() -> onnx.ModelProto:
    nodes = [
        node("DequantizeLinear", "w s z", "d", axis=0),
        node("Transpose", "d", "t"),
        node("MatMul", "x t", "y"),
    ]
    weights = scaled()
    weights["w"] = np.ascontiguousarray(weights["w"][:, :, 0, 0])
    return build(nodes, weights, [3, 16])


def quantized_float() -> onnx.ModelProto:
    nodes = [
        node("QuantizeLinear", "w s z", "q", axis=0),
        node("DequantizeLinear", "q s z", "t", axis=0),
        node("Conv", "x t", "y"),
    ]
    weights = scaled() | {"w": floats(8, 16, 3, 3)}
    return build(nodes, weights, [1, 16, 8, 8])


def in_function() -> onnx.ModelProto:
    inner = [node("Identity", "b", "c"), node("MatMul", "a c", "d")]
    function = helper.make_function(
        "local", "Linear", ["a", "b"], ["d"], inner, [helper.make_opsetid("", 21)]
    )
    call = helper.make_node("Linear", ["x", "w"], ["y"], domain="local")
    return build([call], {"w": floats(16, 8)}, [3, 16], functions=[function])


def in_body() -> onnx.ModelProto:
    def body(name: str, scale: float) -> onnx.GraphProto:
        nodes = [
            node("MatMul", "x w", f"{name}_p"),
            node("Mul", f"{name}_p {name}_s", f"{name}_y"),
        ]
        outputs = [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)]
        held = [tensor(np.float32(scale), f"{name}_s")]
        return helper.make_graph(nodes, name, [], outputs, held)

    nodes = [
        node("ReduceSum", "x", "sum", keepdims=0),
        node("Greater", "sum zero", "positive"),
        node("If", "positive", "y", then_branch=body("then", 1.0), else_branch=body("else", 2.0)),
    ]
    weights = {"w": floats(16, 8), "zero": np.float32(0)}
    return build(nodes, weights, [3, 16])


CASES = {
    "conv": Case(conv, last(1)),
    "grouped": Case(grouped, last(1), notes=("grouped",)),
    "gemm": Case(gemm, last(1)),
    "gemm_left": Case(gemm_left, last(0)),
    "matmul": Case(matmul, last(0), notes=("MatMul",)),
    "matmul_left": Case(matmul_left, last(1)),
    "rank_three": Case(rank_three, last(1), polygraphy=False, notes=("stack of 4",)),
    "rank_three_of_one": Case(rank_three_of_one, last(1), polygraphy=False),
    "transposed": Case(transposed, last(1)),
    "cast": Case(cast, last(0)),
    "bfloat16": Case(bfloat16, last(0), polygraphy=False),
    "reshaped": Case(reshaped, last(1), polygraphy=False),
    "merged": Case(merged, lambda w: w.reshape(32, 6).T, polygraphy=False),
    "dequantized": Case(dequantized, last(1), polygraphy=False, notes=("Q/DQ",)),
    "dequantized_transposed": Case(dequantized_transposed, last(1), polygraphy=False),
    "quantized_float": Case(quantized_float, last(1), notes=("Q/DQ",)),
    "in_function": Case(in_function, last(0), polygraphy=False),
    "in_body": Case(in_body, last(0), polygraphy=False, notes=("inside the body of If",)),
}
"""Every way, by what is special about it."""


def held(model: models.Model, name: str = "w") -> Array:
    """What a model stores for the weight of its case."""
    return next(each.tensor.read() for each in plain(find_layers(model)) if each.weight == name)


def groups(rows: Array) -> Array:
    """``[anything, contracted]`` as groups of four, in float64."""
    return np.ascontiguousarray(rows).astype(np.float64).reshape(-1, 4)
