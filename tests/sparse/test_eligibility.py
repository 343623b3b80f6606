"""What TensorRT may run sparsely: verdicts, reasons, and where polygraphy looks elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from conftest import Ran
from onnxprune import model as models
from onnxprune.config import StoreOptions
from onnxprune.jobs.store import store
from onnxprune.model.decode import densify
from onnxprune.solve.masks import keep_n_of_m
from onnxprune.sparse.eligibility import Layer, layers
from onnxprune.sparse.nm import thin
from two_four_cases import (
    CASES,
    bfloat16,
    build,
    conv,
    floats,
    gemm,
    groups,
    held,
    in_function,
    node,
    rank_three,
)

Array = np.ndarray[Any, Any]
Cli = Callable[..., Ran]


def thinned(proto: onnx.ModelProto) -> models.Model:
    model = models.clone(models.load(proto))
    thin(model, 2, 4)
    return model


def only(model: models.Model) -> Layer:
    found = [each for each in layers(model) if each.weight == "w"]
    assert found
    assert len({each.state for each in found}) == 1
    return found[0]


@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_eligible_exactly_when_its_groups_have_two_zeros(name: str) -> None:
    case = CASES[name]
    dense = only(models.load(case.make()))
    assert dense.state == "dense"
    assert "two zeros" in dense.reason
    assert dense.good < 1
    layer = only(thinned(case.make()))
    assert (layer.state, layer.reason, layer.good) == ("eligible", "", 1.0)
    assert layer.zeros == pytest.approx(0.5, abs=0.02)
    for words in case.notes:
        assert any(words in note for note in layer.notes), words


def test_the_axis_is_that_of_the_store_or_none_of_its_own() -> None:
    def axis(name: str) -> int | None:
        return only(models.load(CASES[name].make())).axis

    assert axis("matmul") == 0
    assert axis("transposed") == 1
    assert axis("gemm_left") == 0
    assert axis("rank_three") == 1
    assert axis("dequantized_transposed") == 1
    assert axis("merged") is None


NEVER: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "three channels": (
        lambda: build([node("Conv", "x w", "y")], {"w": floats(8, 3, 3, 3)}, [1, 3, 8, 8]),
        "no multiple of 4",
    ),
    "depthwise": (
        lambda: build([node("Conv", "x w", "y", group=8)], {"w": floats(8, 1, 3, 3)}, [1, 8, 8, 8]),
        "1 per group",
    ),
    "deconvolution": (
        lambda: build([node("ConvTranspose", "x w", "y")], {"w": floats(8, 4, 3)}, [1, 8, 8]),
        "not for this",
    ),
    "double": (
        lambda: build(
            [node("MatMul", "x w", "y")],
            {"w": floats(16, 8, dtype=np.float64)},
            [3, 16],
            dtype=TensorProto.DOUBLE,
        ),
        "stored as double",
    ),
    "computed in double": (
        lambda: build(
            [node("Cast", "w", "t", to=TensorProto.DOUBLE), node("MatMul", "x t", "y")],
            {"w": floats(16, 8)},
            [3, 16],
            dtype=TensorProto.DOUBLE,
        ),
        "computes in double",
    ),
    "integers without scale": (
        lambda: build(
            [node("Cast", "w", "t", to=TensorProto.FLOAT), node("MatMul", "x t", "y")],
            {"w": np.ones((16, 8), np.int8)},
            [3, 16],
        ),
        "stored as int8 without DequantizeLinear",
    ),
    "four bits": (
        lambda: build(
            [node("DequantizeLinear", "w s", "t"), node("MatMul", "x t", "y")],
            {"w": np.ones((16, 8)).astype(ml_dtypes.int4), "s": np.float32(1)},
            [3, 16],
        ),
        "quantized to int4",
    ),
    "zero point": (
        lambda: build(
            [node("DequantizeLinear", "w s z", "t"), node("MatMul", "x t", "y")],
            {"w": np.ones((16, 8), np.int8), "s": np.float32(1), "z": np.int8(3)},
            [3, 16],
        ),
        "zero point other than 0",
    ),
    "recurrent": (
        lambda: build(
            [node("LSTM", "x w r", "y", hidden_size=4)],
            {"w": floats(1, 16, 8), "r": floats(1, 16, 4)},
            [5, 1, 8],
        ),
        "no sparse kernels",
    ),
    "einsum": (
        lambda: build(
            [node("Einsum", "x w", "y", equation="ab,bc->ac")], {"w": floats(16, 8)}, [3, 16]
        ),
        "write it as a MatMul",
    ),
    "contrib": (
        lambda: build(
            [node("FusedMatMul", "x w", "y", domain="com.microsoft")],
            {"w": floats(16, 8)},
            [3, 16],
        ),
        "knows no operators of com.microsoft",
    ),
    "matmulinteger": (
        lambda: build(
            [node("MatMulInteger", "x w", "y")],
            {"w": np.ones((16, 8), np.int8)},
            [3, 16],
            dtype=TensorProto.INT8,
        ),
        "as a DequantizeLinear",
    ),
}


@pytest.mark.parametrize("name", NEVER)
def test_what_no_zeros_can_help_is_said(name: str) -> None:
    make, reason = NEVER[name]
    layer = only(models.load(make()))
    assert layer.state == "never"
    assert reason in layer.reason


def test_a_computed_weight_is_named_with_its_operator() -> None:
    nodes = [node("Mul", "w s", "t"), node("MatMul", "x t", "y")]
    (layer,) = layers(models.load(build(nodes, {"w": floats(16, 8), "s": np.float32(2)}, [3, 16])))
    assert (layer.state, layer.weight) == ("never", "")
    assert "computed from stored ones, by Mul 't'" in layer.reason


def test_a_packed_weight_is_sent_to_be_made_dense() -> None:
    proto = build([node("Gemm", "x w", "y", transB=1)], {"w": floats(64, 256)}, [3, 256])
    made = store(thinned(proto), StoreOptions("packed", always=True)).model
    (layer,) = layers(made)
    assert layer.state == "never"
    assert "onnxprune densify" in layer.reason
    assert only(densify(made)[0]).state == "eligible"


def pattern(rows: Array) -> Array:
    """Zeros in the first two of every four of the last axis."""
    made = rows.copy()
    made.reshape(-1, 4)[:, :2] = 0
    return made


def test_zeros_along_the_wrong_axis_are_found_out() -> None:
    weight = np.moveaxis(pattern(floats(8, 3, 3, 16)), -1, 0)  # groups of four outputs
    proto = build([node("Conv", "x w", "y")], {"w": np.ascontiguousarray(weight)}, [1, 8, 5, 5])
    layer = only(models.load(proto))
    assert layer.state == "dense"
    assert "axis 0" in layer.reason
    assert "the wrong one" in layer.reason


def test_zeros_over_flattened_kernels_are_found_out() -> None:
    rows = floats(8, 16 * 9)
    weight = np.where(keep_n_of_m(np.abs(rows), 2, 4, 1), rows, 0).reshape(8, 16, 3, 3)
    proto = build([node("Conv", "x w", "y")], {"w": weight}, [1, 16, 5, 5])
    layer = only(models.load(proto))
    assert layer.state == "dense"
    assert "kernel positions flattened" in layer.reason


def sparse_by_polygraphy(proto: onnx.ModelProto) -> set[str]:
    """The weights that `polygraphy inspect sparsity` finds sparse."""
    sparse = pytest.importorskip("polygraphy.tools.sparse", exc_type=ImportError)
    pruner = sparse.SparsityPruner(proto)
    with np.errstate(over="ignore"):
        pruner.check()
    return set(pruner.sparse_tensors)


def pruned_by_polygraphy(proto: onnx.ModelProto) -> onnx.ModelProto:
    """What `polygraphy surgeon prune` makes of a model."""
    sparse = pytest.importorskip("polygraphy.tools.sparse", exc_type=ImportError)
    with np.errstate(over="ignore"):  # it marks what it has seen with the largest double
        return sparse.SparsityPruner(proto).prune()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.polygraphy])
def test_polygraphy_finds_our_zeros_where_it_looks_along_the_right_axis(name: str) -> None:
    assert sparse_by_polygraphy(models.to_proto(thinned(CASES[name].make()))) == {"w"}
    assert not sparse_by_polygraphy(CASES[name].make())


@pytest.mark.parametrize("make", [conv, gemm])
def test_what_polygraphy_pruned_is_eligible(make: Callable[[], onnx.ModelProto]) -> None:
    made = pruned_by_polygraphy(make())
    assert only(models.load(made)).state == "eligible"
    np.testing.assert_array_equal(held(models.load(made)), held(thinned(make())))


def test_polygraphy_takes_the_stack_of_a_batched_product_for_its_inputs() -> None:
    """It groups axis 0 of whatever MatMul reads: of ``[4, K, N]`` that is the stack."""
    made = pruned_by_polygraphy(rank_three())
    assert sparse_by_polygraphy(made) == {"w"}
    layer = only(models.load(made))
    assert layer.state == "dense"
    assert "axis 0 of what the node sees, the wrong one" in layer.reason
    ours = thinned(rank_three())
    assert only(ours).state == "eligible"
    assert not sparse_by_polygraphy(models.to_proto(ours))


def test_polygraphy_removes_the_middle_two_of_four_in_bfloat16_whatever_their_size() -> None:
    """It zeroes positions 1 and 2 of every group; ours keeps the two largest, of more worth."""
    dense = held(models.load(bfloat16())).astype(np.float32)
    theirs = held(models.load(pruned_by_polygraphy(bfloat16()))).astype(np.float32)
    ours = held(thinned(bfloat16())).astype(np.float32)
    assert not theirs.reshape(4, 4, 8)[:, 1:3].any()
    assert ((groups(theirs.T) != 0).sum(axis=1) == 2).all()
    assert np.abs(ours).sum() > 1.2 * np.abs(theirs).sum()
    assert np.abs(ours - dense).max() < np.abs(theirs - dense).max()


def test_polygraphy_looks_neither_into_functions_nor_through_identity() -> None:
    made = thinned(in_function())
    assert only(made).state == "eligible"
    assert only(made).through == ("Identity",)
    assert not sparse_by_polygraphy(models.to_proto(made))
    pruned = pruned_by_polygraphy(in_function())
    np.testing.assert_array_equal(held(models.load(pruned)), held(models.load(in_function())))


def test_the_command_prints_a_table_and_versioned_json(tmp_path: Path, cli: Cli) -> None:
    onnx.save(conv(), tmp_path / "dense.onnx")
    models.save(thinned(conv()), tmp_path / "sparse.onnx")
    dense = cli("eligible", tmp_path / "dense.onnx")
    assert dense.code == 0
    assert "1 layer could be, but dense" in dense.out
    assert cli("eligible", tmp_path / "dense.onnx", "--strict").code == 1
    assert cli("eligible", tmp_path / "sparse.onnx", "--strict").code == 0
    told = json.loads(cli("eligible", tmp_path / "sparse.onnx", "--json").out)
    assert (told["schema"], told["version"], told["ok"]) == ("onnxprune.eligible", 1, True)
    (layer,) = told["layers"]
    assert (layer["state"], layer["axis"], layer["inputs"]) == ("eligible", 1, 16)


def test_the_command_says_so_where_there_is_nothing(tmp_path: Path, cli: Cli) -> None:
    onnx.save(build([node("Relu", "x", "y")], {}, [3]), tmp_path / "m.onnx")
    assert "No layer multiplies with a stored weight." in cli("eligible", tmp_path / "m.onnx").out


def test_prune_with_a_pattern_needs_no_data_and_makes_layers_eligible(
    tmp_path: Path, cli: Cli
) -> None:
    onnx.save(CASES["dequantized"].make(), tmp_path / "m.onnx")
    done = cli("prune", tmp_path / "m.onnx", "--sparsity", "2:4", "-o", tmp_path / "o.onnx")
    assert done.code == 0, done.err
    assert cli("eligible", tmp_path / "o.onnx", "--strict").code == 0


@pytest.mark.parametrize(
    "name", ["resnet20_cifar10_proj_fused", "minilm_l6_sts_sst2", "stories260k_llama_dynamo"]
)
def test_real_models_become_eligible_wherever_the_rule_admits_it(shared: Path, name: str) -> None:
    model = models.clone(models.load(shared / "models" / f"{name}.onnx"))
    before = {each.node: each.state for each in layers(model)}
    thin(model, 2, 4)
    after = {each.node: (each.state, each.reason) for each in layers(model)}
    assert "dense" in before.values()
    left = [why for node, why in after.items() if before[node] == "dense" and why[0] != "eligible"]
    tied = {each.weight for each in layers(model)} if left else set()
    assert len(left) <= 1, tied  # the tied embedding of the language model
