"""Whatever is declared to be pointwise is an activation between two layers, as it is computed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune import model as models
from onnxprune.data.activations.between import find_maker
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import analyse
from onnxprune.graph.layers.linear import find_layers
from onnxprune.graph.ops.elementwise import POINTWISE
from onnxprune.runtime import open_session
from onnxprune.solve.two_layer import IDENTITY

TWO_OPERANDS = {"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"}


def two_products(op: str, domain: str, opset: int) -> models.Model:
    """``MatMul, op, MatMul``, with what is between as further outputs."""
    rng = np.random.default_rng(len(op))
    operands = ["a", "s"] if op in TWO_OPERANDS else ["a"]
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["a"]),
        helper.make_node(op, operands, ["h"], domain=domain),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    weights = {
        "v": rng.standard_normal((6, 5)).astype(np.float32) / 4,
        "w": rng.standard_normal((5, 3)).astype(np.float32),
        "s": np.float32(1.5) * np.ones((), np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [40, 6])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [40, 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return models.load(helper.make_model(graph, opset_imports=opsets, ir_version=10))


@pytest.mark.parametrize(("domain", "op"), sorted(POINTWISE))
def test_functions_are_what_the_runtime_computes(domain: str, op: str) -> None:
    model = two_products(op, domain, 21)
    x = np.random.default_rng(1).standard_normal((40, 6)).astype(np.float32)
    try:
        seen = open_session(model, outputs=["a", "h"]).run({"x": x})
    except OnnxpruneError:
        pytest.skip(f"onnxruntime has no {op} for these operands")
    analysis = analyse(model)
    values = {v.name or "": v for v in models.values(model.ir.graph)}
    first, last = layers = find_layers(model)
    maker = find_maker(values, analysis.facts, layers, last)
    assert maker is not None
    assert (maker.layer.node, first.node) == ("a", "a")
    assert maker.activation is not IDENTITY
    assert maker.epilogue.value == "a"
    made = maker.activation.value(seen["a"])
    np.testing.assert_allclose(made, seen["h"], rtol=1e-5, atol=1e-6)
