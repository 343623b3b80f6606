"""Stored weights that are not finite are found without any data, and each weight is read once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from conftest import Ran
from onnxprune import OnnxpruneError, prune
from onnxprune import model as models
from onnxprune.jobs.finite_weights import FiniteWeights, NotFiniteError

Array = npt.NDArray[Any]


def chain(*, weight: float | None = None, mask: bool = False, dtype: Any = np.float32) -> Any:
    """Two products with a mask between them; one weight of the first holds ``weight``."""
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((16, 64)), "v": rng.standard_normal((64, 16))}
    arrays["m"] = np.where(np.arange(64) < 2, -np.inf if mask else 0.0, 0.0)
    if weight is not None:
        arrays["w"][3, 5] = weight
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [("MatMul", ["x", "w"], ["a"]), ("Add", ["a", "m"], ["b"]), ("Relu", ["b"], ["c"])]
    nodes.append(("MatMul", ["c", "v"], ["y"]))
    graph = helper.make_graph(
        [helper.make_node(*node) for node in nodes],
        "chain",
        [helper.make_tensor_value_info("x", kind, ["n", 16])],
        [helper.make_tensor_value_info("y", kind, ["n", 16])],
        [numpy_helper.from_array(a.astype(dtype), name) for name, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def with_weights(model: models.Model, **arrays: Array) -> models.Model:
    result = models.clone(model)
    for name, array in arrays.items():
        models.set_constant(models.constants(result)[name], array)
    return result


@given(
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    at=st.lists(st.integers(0, 16 * 64 - 1), min_size=1, max_size=5, unique=True),
    dtype=st.sampled_from([np.float16, np.float32, np.float64, ml_dtypes.bfloat16]),
)
def test_every_value_is_found_in_every_type(value: float, at: list[int], dtype: Any) -> None:
    dense = models.load(chain(dtype=dtype))
    weight = models.array_of(models.constants(dense)["w"]).copy()
    weight.reshape(-1)[at] = value
    model = with_weights(dense, w=weight)
    (reason,) = FiniteWeights(model, dense).reasons()
    assert reason.startswith(f"weight 'w' holds {len(at)} {'NaN' if np.isnan(value) else 'inf'}")
    assert reason.endswith("where the dense model's is finite")
    (both,) = FiniteWeights(model, model).reasons()
    assert both.endswith("as in the dense model, which is broken itself")
    assert FiniteWeights(dense, dense).reasons() == ()


def test_infinities_that_mask_are_no_fault_unless_they_are_new() -> None:
    dense, masked = models.load(chain()), models.load(chain(mask=True))
    assert FiniteWeights(masked, masked).reasons() == ()
    (reason,) = FiniteWeights(masked, dense).reasons()
    assert reason.startswith("weight 'm' holds 2 infinite values")


def test_whole_numbers_and_text_are_passed_over() -> None:
    model = models.load(chain())
    arrays = {"w": np.ones((16, 64), np.int8)}
    assert FiniteWeights(with_weights(model, **arrays), model).reasons() == ()


@pytest.mark.parametrize("external", [False, True])
def test_weights_are_read_once_on_their_way_to_the_file(tmp_path: Path, *, external: bool) -> None:
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(chain(), source)
    dense = models.load(source)
    reads: list[str] = []

    def lazy(name: str) -> ir.LazyTensor:
        tensor = ir.Tensor(models.array_of(models.constants(dense)[name]), name=name)

        def read() -> ir.TensorProtocol:
            reads.append(name)
            return tensor

        return ir.LazyTensor(read, tensor.dtype, ir.Shape(tensor.shape.numpy()), name=name)

    model = models.clone(dense)
    for name in ("w", "v"):  # each takes a page: smaller ones are part of the graph
        models.set_constant(models.constants(model)[name], lazy(name))
    finite = FiniteWeights(model, dense)
    models.save(finite.watched(strict=True), target, external=external)
    assert sorted(reads) == ["v", "w"]
    assert finite.reasons() == ()
    assert sorted(reads) == ["v", "w"], "what was written is not read again"
    for name, value in models.constants(models.load(target)).items():
        assert np.array_equal(
            models.array_of(value), models.array_of(models.constants(dense)[name])
        )


@pytest.mark.parametrize("sparsity", ["2:4", "50%"])
def test_a_result_with_such_a_weight_is_not_written(tmp_path: Path, sparsity: str) -> None:
    result = prune(chain(weight=np.nan), sparsity=sparsity)
    path = tmp_path / "o.onnx"
    with pytest.raises(OnnxpruneError, match="weight 'w' holds 1 NaN") as refusal:
        result.save(path)
    assert isinstance(refusal.value, NotFiniteError)
    assert refusal.value.exit_code == 1
    assert "force=True" in refusal.value.hint
    assert not list(tmp_path.iterdir())
    assert not result.ok
    assert result.quality.status == "broken"
    assert result.save(path, force=True).is_file()


def test_the_command_says_that_the_dense_model_is_broken(
    cli: Callable[..., Ran], tmp_path: Path
) -> None:
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(chain(weight=np.nan), source)
    ran = cli("prune", source, "--sparsity", "2:4", "-o", target, "--json")
    assert ran.code == 1
    assert not target.exists()
    assert "the dense model, which is broken itself" in ran.err
    assert "export or download the dense model again" in ran.err
    document = json.loads(ran.out)
    assert (document["ok"], document["quality"]["status"]) == (False, "broken")
    assert document["structure"]["status"] == "verified"
    forced = cli("prune", source, "--sparsity", "2:4", "-o", target, "--force")
    assert forced.code == 1
    assert target.is_file()
    assert "written because of --force" in forced.err
    assert onnx.load(target).graph.initializer[0].data_type == TensorProto.FLOAT
