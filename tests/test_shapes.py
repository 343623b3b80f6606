"""Propagated shapes and contents against what onnxruntime computes."""

from __future__ import annotations

import onnx

from onnxprune.model import load
from onnxprune.shapes import probe_shapes, propagate


def test_a_reshape_follows_the_batch() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[n, 4, 6] x) => (float[n, 24] y) {
            shape = Shape(x)
            zero = Constant<value = int64[1] {0}>()
            batch = Gather(shape, zero)
            rest = Constant<value = int64[1] {-1}>()
            target = Concat<axis = 0>(batch, rest)
            y = Reshape(x, target)
        }""")
    facts = propagate(load(model), {"x": (5, 4, 6)})
    assert facts["y"].shape == (5, 24)
    target = facts["target"].value
    assert target is not None
    assert target.tolist() == [5, -1]
    first, second = probe_shapes(load(model))
    assert first["x"][0] != second["x"][0]
    assert first["x"][1:] == second["x"][1:] == (4, 6)
