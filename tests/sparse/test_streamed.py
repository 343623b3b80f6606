"""Weights that get their zeros while they are read: in a file, in memory and by the plain rule."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.layers.linear import LinearLayer, find_layers
from onnxprune.graph.plan import ComputedMask, Plan, load_plan, pack, save_plan
from onnxprune.jobs.prune import apply, prune
from onnxprune.quantities import sparsity
from onnxprune.solve import masks
from onnxprune.sparse import streamed
from onnxprune.sparse.layer_sparsity import by_scores
from onnxprune.sparse.streamed import MaskedTensor, StreamedCheck, global_counts

Array = np.ndarray[Any, Any]

DTYPES: dict[str, tuple[type, int]] = {
    "fp16": (np.float16, onnx.TensorProto.FLOAT16),
    "bf16": (ml_dtypes.bfloat16, onnx.TensorProto.BFLOAT16),
    "fp32": (np.float32, onnx.TensorProto.FLOAT),
    "fp64": (np.float64, onnx.TensorProto.DOUBLE),
}


def products(weights: list[Array], kind: int, *, transposed: bool = False) -> models.Model:
    """A chain of products with stored weights, each ``[K, N]``, or ``[N, K]`` of a Gemm."""
    nodes, inits, width = [], [], weights[0].shape[1 if transposed else 0]
    for number, array in enumerate(weights):
        name = f"w{number}"
        inits.append(
            onnx.TensorProto(name=name, data_type=kind, dims=array.shape, raw_data=array.tobytes())
        )
        operands, output = [f"h{number}", name], [f"h{number + 1}"]
        op, more = ("Gemm", {"transB": 1}) if transposed else ("MatMul", {})
        nodes.append(onnx.helper.make_node(op, operands, output, name=name, **more))
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("h0", kind, [2, width])],
        [onnx.helper.make_tensor_value_info(f"h{len(weights)}", kind, None)],
        inits,
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    return models.load(onnx.helper.make_model(graph, ir_version=9, opset_imports=opset))


def drawn(seed: int, shape: tuple[int, ...], dtype: type, *, ties: bool) -> Array:
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 4, shape) if ties else rng.standard_normal(shape)
    return values.astype(dtype)


def bits(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def held(model: models.Model, name: str) -> Array:
    return models.array_of(models.constants(model)[name])


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**20),
    name=st.sampled_from(sorted(DTYPES)),
    groups=st.integers(1, 6),
    outputs=st.integers(1, 9),
    ties=st.booleans(),
    transposed=st.booleans(),
    amount=st.sampled_from(["10%", "50%", "95%", "2:4", "1:4"]),
    slab=st.sampled_from([8, 64, 1 << 18]),
)
def test_file_memory_and_rule_agree_bit_by_bit(
    seed: int, name: str, groups: int, outputs: int, ties: bool, transposed: bool,
    amount: str, slab: int,
) -> None:  # fmt: skip
    dtype, kind = DTYPES[name]
    shape = (outputs, 4 * groups) if transposed else (4 * groups, outputs)
    array = drawn(seed, shape, dtype, ties=ties)
    model = products([array], kind, transposed=transposed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed, "SLAB", slab)
        patch.setattr("onnxprune.sparse.nm.SLAB", slab)
        result = prune(model, sparsity=amount)
        tensor = models.constant(models.constants(result.model)["w0"])
        assert tensor is not None
        stream = io.BytesIO()
        tensor.tofile(stream)  # type: ignore[attr-defined]
        assert result.ok or array.size < 32  # each weight keeps at least one entry
        after = tensor.numpy()
        mask = result.plan.zeroed["w0"]
    assert stream.getvalue() == after.tobytes()
    matrix = (array.T if transposed else array).astype(np.float64)
    wanted = sparsity(amount)
    keep = (
        masks.keep_n_of_m(np.abs(matrix), wanted.n, wanted.m, 0)
        if wanted.m
        else masks.keep_top(np.abs(matrix), wanted.share)
    )
    keep = np.ascontiguousarray(keep.T if transposed else keep)
    assert (bits(after) == bits(np.where(keep, array, array.dtype.type(0)))).all()
    assert mask == pack(keep)
    assert mask.kept == int(keep.sum())
    (outcome,) = result.outcomes["zeros"]
    assert outcome.sparsity == 1 - float(keep.mean())


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**20),
    kind=st.sampled_from(["u1", "u2", "u4", "u8"]),
    few=st.booleans(),
    parts=st.integers(1, 5),
    data=st.data(),
)
def test_kth_smallest_is_that_of_a_sorted_array(
    seed: int, kind: str, few: bool, parts: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    top = 5 if few else np.iinfo(kind).max
    array = rng.integers(0, top, size=200, dtype=kind, endpoint=True)
    k = data.draw(st.integers(1, array.size))
    found = masks.kth_smallest(lambda: np.array_split(array, parts), k)
    assert found == np.sort(array)[k - 1]
    assert found.dtype == array.dtype


def layers(arrays: list[Array], kind: int) -> list[LinearLayer]:
    return find_layers(products(arrays, kind))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**20), name=st.sampled_from(["fp32", "fp64"]), share=st.integers(1, 99))
def test_one_threshold_for_all_is_that_of_all_in_memory(seed: int, name: str, share: int) -> None:
    dtype, kind = DTYPES[name]
    shapes = [(8, 12), (12, 5), (5, 16)]
    scales = [1.0, 0.1, 3.0]
    arrays = [
        (drawn(seed + k, shape, dtype, ties=False) * scale).astype(dtype)
        for k, (shape, scale) in enumerate(zip(shapes, scales, strict=True))
    ]
    counts = global_counts(layers(arrays, kind), sparsity(f"{share}%"))
    assert counts == by_scores([np.abs(array) for array in arrays], share / 100)


def test_one_threshold_is_exact_and_repeatable_where_weights_are_equal() -> None:
    arrays = [np.ones((4, 4), np.float16), np.ones((4, 4), np.float16)]
    counts = global_counts(layers(arrays, DTYPES["fp16"][1]), sparsity("25%"))
    assert counts == [0, 8]  # those of earlier layers stay


def test_weights_that_did_not_get_their_zeros_are_not_written(tmp_path: Path) -> None:
    array = drawn(0, (8, 512), np.float32, ties=False)
    model = models.clone(products([array], DTYPES["fp32"][1]))
    value = models.constants(model)["w0"]
    dense = models.constant(value)
    assert dense is not None
    check = StreamedCheck("zeros", 0.0, sum)
    wrong = check.masked(
        dense, lambda a: np.ones(a.shape, np.bool_), lambda nonzero: int(nonzero.sum()), 0
    )
    models.set_constant(value, wrong)
    target = tmp_path / "out.onnx"
    target.write_bytes(b"before")
    with pytest.raises(OnnxpruneError, match="'w0' did not get its zeros"):
        models.save(model, target)
    assert target.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]


def test_a_check_reads_only_what_was_not_measured_while_writing() -> None:
    reads = {"a": 0, "b": 0}

    def mask(name: str, array: Array) -> Array:
        reads[name] += 1
        return np.ones(array.shape, np.bool_)

    check = StreamedCheck("nonzeros", 100.0, sum)
    one, two = (
        check.masked(ir.Tensor(np.ones(5, np.float32), name=n), partial(mask, n), np.sum, 10)
        for n in reads
    )
    one.tofile(io.BytesIO())
    assert (check.known, reads) == (False, {"a": 1, "b": 0})
    assert (check.value, check.ok, check.known) == (10, True, True)
    assert reads == {"a": 1, "b": 1}
    assert isinstance(two, MaskedTensor)


def test_computed_masks_are_saved_and_applied_as_packed_ones_are(tmp_path: Path) -> None:
    model = products([drawn(1, (64, 48), np.float16, ties=False)], DTYPES["fp16"][1])
    result = prune(model, sparsity="60%")
    mask = result.plan.zeroed["w0"]
    assert isinstance(mask, ComputedMask)
    plan = Plan(zeroed=result.plan.zeroed)
    back = load_plan(save_plan(plan, tmp_path / "plan.json"))
    assert back == plan
    again = apply(model, back)
    assert again.ok
    assert (bits(held(again.model, "w0")) == bits(held(result.model, "w0"))).all()


def test_nothing_runs_where_nothing_is_cut_and_no_data_are_given(tmp_path: Path) -> None:
    """A bfloat16 product is no operator of onnxruntime's CPU provider, so a run would fail."""
    model = products([drawn(2, (64, 64), ml_dtypes.bfloat16, ties=False)], DTYPES["bf16"][1])
    for amount in ("2:4", "50%"):
        result = prune(model, sparsity=amount)
        assert result.ok
        assert any("not run" in note for note in result.notes)
        back = models.load(result.save(tmp_path / "out.onnx"))
        assert (held(back, "w0") == 0).mean() == 0.5
        assert apply(model, Plan(zeroed=result.plan.zeroed)).ok
