"""A network in another floating type is the same network, and comes back whole."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.model.retyping import retyped, weight_type
from onnxprune.runtime import open_session
from onnxprune.runtime.engines.precision import convert


@pytest.mark.parametrize("name", zoo.names())
def test_a_wider_type_and_back_changes_nothing(name: str) -> None:
    model = models.load(zoo.get(name).model)
    assert weight_type(model) is ir.DataType.FLOAT
    wide = retyped(model, ir.DataType.FLOAT, ir.DataType.DOUBLE)
    left = [v.name for g in models.graphs(wide) for v in models.values(g) if v.dtype == 1]
    assert left == []
    assert weight_type(wide) is ir.DataType.DOUBLE
    back = retyped(wide, ir.DataType.DOUBLE, ir.DataType.FLOAT)
    assert models.structure_hash(back) == models.structure_hash(model)
    for key, value in models.constants(model).items():
        np.testing.assert_array_equal(
            models.array_of(models.constants(back)[key]), models.array_of(value)
        )
    assert weight_type(model) is ir.DataType.FLOAT, "the argument is left as it is"


@pytest.mark.parametrize("name", ["digits_mlp", "digits_rescnn"])
def test_casts_at_the_borders_of_a_half_model_go(name: str) -> None:
    entry = zoo.get(name)
    model = models.load(entry.model)
    half = convert(model, "fp16")
    back = retyped(half, ir.DataType.FLOAT16, ir.DataType.FLOAT)
    assert sum(map(len, models.graphs(back))) == sum(map(len, models.graphs(model)))
    feeds = {k: v[:8] for k, v in zoo.calibration(entry).items()}
    one, two = (open_session(each).run(feeds)[zoo.OUTPUT] for each in (model, back))
    np.testing.assert_allclose(one, two, rtol=0.05, atol=0.05)
