"""Strongly typed fp16 and bf16 graphs: types everywhere, borders, ranges, bodies."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.runtime import open_session
from onnxprune.runtime.engines.precision import convert
from onnxprune.sparse.eligibility import layers
from onnxprune.sparse.nm import sparsify_nm
from two_four_cases import CASES, build, dequantized, floats, node


@pytest.mark.parametrize(
    "name", ["digits_rescnn", "digits_mlp", "digits_encoder", "digits_lstm", "chars_decoder"]
)
def test_a_network_in_fp16_says_almost_the_same(name: str) -> None:
    entry = zoo.get(name)
    model = models.load(entry.model)
    half = convert(model, "fp16")
    held = np.load(entry.calibration)
    feeds = {key: held[key][:8] for key in held.files}
    wanted, found = open_session(model).run(feeds), open_session(half).run(feeds)
    for key, array in wanted.items():
        assert found[key].dtype == np.float32
        assert np.abs(found[key] - array).max() < 5e-3 * np.abs(array).max()
    for value in models.constants(half).values():
        assert value.dtype is not ir.DataType.FLOAT
    assert models.size_bytes(half) < 0.52 * models.size_bytes(model)
    onnx.checker.check_model(models.to_proto(half), full_check=True)


def test_bfloat16_is_valid_and_keeps_zeros() -> None:
    model = models.clone(models.load(zoo.get("digits_mlp").model))
    sparsify_nm(model, 2, 4)
    half = convert(model, "bf16")
    onnx.checker.check_model(models.to_proto(half), full_check=True)
    kinds = {(each.state, each.dtype) for each in layers(half)}
    assert kinds == {("eligible", "bfloat16")}
    assert not any("fp32" in note for each in layers(half) for note in each.notes)


def test_masks_beyond_the_range_become_its_largest_numbers_and_infinities_stay() -> None:
    weights = {"m": np.array([-3.4e38, -np.inf, 1e-3], np.float32)}
    model = models.load(build([node("Add", "x m", "y")], weights, [2, 3]))
    half = convert(model, "fp16")
    stored = models.constant(models.constants(half)["m"])
    assert stored is not None
    assert stored.numpy().tolist()[:2] == [-65504.0, -np.inf]
    assert stored.numpy().dtype == np.float16


def test_operators_that_want_float32_get_it() -> None:
    nodes = [node("Resize", "x  s", "y", mode="nearest")]
    nodes[0].input[:] = ["x", "", "s"]
    model = models.load(build(nodes, {"s": np.array([1, 1, 2, 2], np.float32)}, [1, 2, 3, 3]))
    half = convert(model, "fp16")
    assert models.constants(half)["s"].dtype is ir.DataType.FLOAT
    x = floats(1, 2, 3, 3)
    wanted = open_session(model).run({"x": x})["y"]
    np.testing.assert_allclose(open_session(half).run({"x": x})["y"], wanted, rtol=1e-3)


def test_attributes_that_name_a_type_follow() -> None:
    shape = {"n": np.array([2, 3])}
    nodes = [
        node("ConstantOfShape", "n", "z", value=helper.make_tensor("v", 1, [1], [2.5])),
        node("Cast", "n", "c", to=TensorProto.FLOAT),
        node("ReduceSum", "c", "s", keepdims=0),
        node("Add", "z s", "t"),
        node("Mul", "x t", "y"),
    ]
    model = models.load(build(nodes, shape, [2, 3]))
    half = convert(model, "fp16")
    x = floats(2, 3)
    wanted = open_session(model).run({"x": x})["y"]
    np.testing.assert_allclose(open_session(half).run({"x": x})["y"], wanted, rtol=2e-3)


def test_bodies_are_converted_too() -> None:
    model = models.load(CASES["in_body"].make())
    half = convert(model, "fp16")
    x = floats(3, 16)
    wanted = open_session(model).run({"x": x})["y"]
    np.testing.assert_allclose(open_session(half).run({"x": x})["y"], wanted, atol=2e-2)


@pytest.mark.parametrize("to", ["fp16", "bf16"])
def test_quantized_models_keep_the_types_they_have(to: Any) -> None:
    with pytest.raises(OnnxpruneError, match="is quantized"):
        convert(models.load(dequantized()), to)


def test_the_float_model_is_left_as_it_is() -> None:
    model = models.load(zoo.get("digits_mlp").model)
    before = models.structure_hash(model)
    convert(model, "fp16")
    assert models.structure_hash(model) == before
