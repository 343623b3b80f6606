"""Inputs that declare no shape get the rank of the data, else one that the runtime accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx import helper as oh
from onnx import numpy_helper as nh

import onnxprune
from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.data.ranks import unranked, with_ranks, with_ranks_of, without_ranks
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.protocol import Settings
from onnxprune.jobs.store import check_stored, store
from onnxprune.model.seal import content_hash
from onnxprune.runtime import open_session

RNG = np.random.default_rng(0)
OPS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "MatMul": ((16, 32), (32, 4), {}),
    "Gemm": ((16, 32), (32, 4), {}),
    "Conv": ((32, 3, 3, 3), (4, 32, 3, 3), {"pads": [1] * 4}),
}


def network(op: str, second: bool = False) -> models.Model:
    first, last, attributes = OPS[op]
    weights = [
        nh.from_array(RNG.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("A", first), ("B", last))
    ]
    nodes = [
        oh.make_node(op, ["x", "A"], ["a"], **attributes),
        oh.make_node("Relu", ["a"], ["r"]),
        oh.make_node(op, ["r", "B"], ["b"], **attributes),
        oh.make_node("Mul", ["b", "z"], ["y"]) if second else oh.make_node("Tanh", ["b"], ["y"]),
    ]
    inputs = [onnx.ValueInfoProto(name=name) for name in ("x", *(["z"] * second))]
    output = onnx.ValueInfoProto(name="y")
    for value in (*inputs, output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    graph = oh.make_graph(nodes, "g", inputs, [output], weights)
    return models.load(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8))


def rank(model: models.Model, name: str = "x") -> int | None:
    value = next(v for v in model.ir.graph.inputs if v.name == name)
    return None if value.shape is None else len(value.shape)


@pytest.mark.parametrize(
    ("op", "shape", "expected"),
    [
        ("MatMul", (8, 16), 2),
        ("MatMul", (8, 5, 16), 3),
        ("Gemm", (8, 16), 2),
        ("Conv", (6, 3, 5, 5), 4),
    ],
)
def test_the_rank_is_that_of_the_data(op: str, shape: tuple[int, ...], expected: int) -> None:
    model = network(op)
    assert unranked(model) == ["x"]
    data = {"x": RNG.standard_normal(shape).astype(np.float32)}
    declared = with_ranks(model, Options(calib=data))
    assert rank(declared) == expected
    assert rank(model) is None
    assert rank(without_ranks(declared)) is None


@pytest.mark.parametrize(("op", "shape"), [("MatMul", (16,)), ("Conv", (3, 5, 5))])
def test_samples_in_files_of_their_own_lack_the_batch_axis(
    op: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    for k in range(3):
        np.save(tmp_path / f"{k}.npy", RNG.standard_normal(shape).astype(np.float32))
    declared = with_ranks(network(op), Options(calib=str(tmp_path)))
    assert rank(declared) == len(shape) + 1


@pytest.mark.parametrize(("op", "expected"), [("MatMul", 2), ("Gemm", 2), ("Conv", 4)])
def test_without_data_the_runtime_tells(op: str, expected: int) -> None:
    assert rank(with_ranks(network(op), Options())) == expected


def test_several_inputs_may_have_several_ranks() -> None:
    model = network("Conv", second=True)
    data = {
        "x": RNG.standard_normal((6, 3, 5, 5)).astype(np.float32),
        "z": RNG.standard_normal((6, 1, 1, 5)).astype(np.float32),
    }
    declared = with_ranks(model, Options(calib=data))
    assert (rank(declared), rank(declared, "z")) == (4, 4)
    shapes = {"x": (2, 3, 5, 5), "z": (5,)}
    declared = with_ranks(model, Options(shapes=shapes))
    assert (rank(declared), rank(declared, "z")) == (4, 1)


def test_a_pruned_model_takes_what_the_original_takes() -> None:
    model = network("MatMul")
    data = {"x": RNG.standard_normal((40, 16)).astype(np.float32)}
    result = onnxprune.prune(model, ratio=0.5, calib=data, cache=False)
    assert result.plan.removed
    assert unranked(result.model) == ["x"]
    recovered = onnxprune.recover(model, result.model, calib=data)
    for small in (result.model, recovered.model):
        for shape in ((3, 16), (2, 5, 16)):
            x = RNG.standard_normal(shape).astype(np.float32)
            assert open_session(small).run({"x": x})["y"].shape == (*shape[:-1], 4)


def test_a_rank_that_was_added_is_no_structure() -> None:
    model = network("MatMul")
    declared = with_ranks(model, Options())
    assert models.structure_hash(declared) == models.structure_hash(model)
    assert content_hash(declared) == content_hash(model)
    assert rank(with_ranks_of(model, declared)) == rank(declared)
    assert with_ranks_of(declared, model) is declared


@pytest.fixture(scope="module")
def unshaped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("unshaped") / "dense.onnx"
    models.save(network("MatMul"), path)
    return path


CALIB = {"x": np.random.default_rng(1).standard_normal((40, 16)).astype(np.float32)}


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.1},
        {"ratio": 0.1, "calib": CALIB},
        {"target": "macs=90%", "shapes": {"x": (8, 16)}},
        {"sparsity": "20%"},
    ],
)
def test_a_written_model_passes_verify(
    options: dict[str, Any], unshaped: Path, tmp_path: Path
) -> None:
    path = tmp_path / "small.onnx"
    onnxprune.prune(unshaped, **options, cache=False).save(path)
    for more in ({}, {"calib": CALIB}, {"shapes": {"x": (8, 16)}}):
        result = onnxprune.verify(path, unshaped, **more)
        assert result.ok
        assert result.structure == "verified"


def test_an_int8_model_passes_verify(unshaped: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    onnxprune.quantize(unshaped, calib=CALIB).save(path)
    assert onnxprune.verify(path, unshaped).ok


@pytest.mark.parametrize("shapes", [{}, {"x": (8, 16)}])
def test_eval_takes_the_data_that_prune_takes(
    shapes: dict[str, tuple[int, ...]], unshaped: Path
) -> None:
    small = onnxprune.prune(unshaped, ratio=0.25, calib=CALIB, cache=False).model
    result = onnxprune.eval(small, unshaped, data=CALIB, shapes=shapes)
    assert result.structure.status == "verified"
    assert result.evaluation.samples == 40


@pytest.mark.parametrize("more", [{"calib": CALIB}, {"shapes": {"x": (8, 16)}}, {}])
def test_bench_feeds_inputs_of_that_rank(more: dict[str, Any], unshaped: Path) -> None:
    quick = Settings(processes=1, rounds=1, slice_s=0.01, warm_s=0.1)
    result = onnxprune.bench([unshaped], protocol=quick, **more)
    assert result.rows
    assert result.models[0].macs


def test_a_stored_file_is_run(unshaped: Path, tmp_path: Path) -> None:
    sparse = onnxprune.prune(unshaped, sparsity="80%", cache=False).model
    stored = store(sparse, store="packed")
    check = check_stored(stored, stored.save(tmp_path / "packed.onnx"))
    assert check.ok
    assert not check.notes
    assert len(check.checks) == 2


def test_what_fits_at_no_rank_is_refused() -> None:
    wrong = {"x": RNG.standard_normal((8, 7)).astype(np.float32)}
    with pytest.raises(OnnxpruneError, match=r"'x' declares no shape, and the samples fit at no"):
        with_ranks(network("Conv"), Options(calib=wrong))


def test_sizes_of_inputs_that_broadcast_are_those_given(tmp_path: Path) -> None:
    """Other sizes than the given ones do not fit each other, so none are tried."""
    rng = np.random.default_rng(0)
    weights = [
        nh.from_array(rng.standard_normal(size).astype(np.float32), name)
        for name, size in (("W", (16, 32)), ("V", (32, 8)))
    ]
    values = []
    for name in ("x", "mask", "bias", "y"):
        value = onnx.ValueInfoProto(name=name)
        value.type.tensor_type.elem_type = TensorProto.FLOAT
        values.append(value)
    nodes = [
        oh.make_node("MatMul", ["x", "W"], ["a"]),
        oh.make_node("Relu", ["a"], ["b"]),
        oh.make_node("Mul", ["b", "mask"], ["c"]),
        oh.make_node("MatMul", ["c", "V"], ["d"]),
        oh.make_node("Add", ["d", "bias"], ["y"]),
    ]
    graph = oh.make_graph(nodes, "g", values[:3], values[3:], weights)
    proto = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    dense = tmp_path / "dense.onnx"
    onnx.save(proto, dense)
    shapes = {"x": (4, 7, 16), "mask": (7, 1), "bias": (8,)}
    result = onnxprune.prune(dense, ratio=0.3, round_to=1, shapes=shapes)
    assert sum(map(len, result.plan.removed.values())) > 0
    small = result.save(tmp_path / "small.onnx")
    assert onnxprune.verify(small, dense, shapes=shapes).ok
