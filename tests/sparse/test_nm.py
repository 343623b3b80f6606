"""2:4 by size alone: the right axis whatever lies between, kept bit-equal, sharing, skips."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Ran
from onnxprune import model as models
from onnxprune.config import from_flags
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.layers.linear import find_layers
from onnxprune.graph.layers.stored import Stored, trace
from onnxprune.quantities import sparsity
from onnxprune.runtime import open_session
from onnxprune.solve import masks
from onnxprune.sparse.eligibility import layers
from onnxprune.sparse.nm import sparsify_nm
from onnxprune.sparse.sparsify import sparsify
from onnxprune.sparse.targets import excluded_weights
from two_four_cases import CASES, build, conv, floats, groups, held, node

Array = np.ndarray[Any, Any]


@pytest.mark.parametrize("name", CASES)
def test_the_two_largest_of_four_stay_bit_equal(name: str) -> None:
    case = CASES[name]
    model = models.clone(models.load(case.make()))
    before = held(model).copy()
    done = sparsify_nm(model, 2, 4)
    after = held(model)
    assert [each.weight for each in done.outcomes if not each.reason] == ["w"]
    assert after.dtype == before.dtype
    kept = done.masks["w"].unpack()
    assert kept.mean() == 0.5
    assert (after[kept].view(np.uint8) == before[kept].view(np.uint8)).all()
    assert not after[~kept].any()
    old, new = groups(case.rows(before)), groups(case.rows(after))
    assert ((new != 0).sum(axis=1) <= 2).all()
    largest = np.sort(np.abs(old), axis=1)[:, 2:].sum(axis=1)
    np.testing.assert_array_equal(np.abs(new).sum(axis=1), largest)


@pytest.mark.parametrize("name", ["conv", "merged", "dequantized", "in_function", "in_body"])
def test_thinned_models_run_and_differ_only_by_what_went(name: str) -> None:
    model = models.load(CASES[name].make())
    made = sparsify(model, sparsity("2:4"))
    masked = models.clone(model)
    value = models.constants(masked)["w"]
    models.set_constant(value, np.where(made.masks["w"].unpack(), held(model), 0))
    x = floats(*(int(d) for d in model.ir.graph.inputs[0].shape or ()), seed=5)
    wanted = open_session(masked).run({"x": x})["y"]
    np.testing.assert_array_equal(open_session(made.model).run({"x": x})["y"], wanted)
    assert made.check is not None
    assert made.check.ok


def test_blocks_of_scales_along_the_inputs_decide_what_is_large() -> None:
    """An int8 level of 3 weighs more than one of 100 where its scale is a hundred times larger."""
    levels = np.tile(np.array([[100], [100], [3], [3]], np.int8), (1, 8))
    scales = np.repeat(np.array([[0.01], [1.0]], np.float32), 8, axis=1)
    nodes = [
        node("DequantizeLinear", "w s", "t", axis=0, block_size=2),
        node("MatMul", "x t", "y"),
    ]
    model = models.clone(models.load(build(nodes, {"w": levels, "s": scales}, [3, 4])))
    sparsify_nm(model, 2, 4)
    assert not held(model)[:2].any()
    assert (held(model)[2:] == 3).all()


def test_types_without_numpy_are_compared_by_their_values() -> None:
    for dtype in (ml_dtypes.float8_e4m3fn, ml_dtypes.bfloat16):
        weight = np.array([[0.5], [-2.0], [1.0], [0.25]]).astype(dtype).repeat(4, axis=1)
        nodes = [node("Cast", "w", "t", to=onnx.TensorProto.FLOAT), node("MatMul", "x t", "y")]
        model = models.clone(models.load(build(nodes, {"w": weight}, [2, 4])))
        sparsify_nm(model, 2, 4)
        assert held(model)[:, 0].astype(float).tolist() == [0, -2, 1, 0]


def test_a_weight_read_twice_the_same_way_is_thinned_once() -> None:
    nodes = [
        node("MatMul", "x w", "a"),
        node("Transpose", "w", "t"),
        node("Gemm", "x t", "b", transB=1),
    ]
    proto = build(nodes, {"w": floats(16, 8)}, [3, 16], outputs=("a", "b"))
    model = models.clone(models.load(proto))
    done = sparsify_nm(model, 2, 4)
    assert [(each.weight, each.reason) for each in done.outcomes] == [("w", "")]
    assert ((groups(held(model).T) != 0).sum(axis=1) == 2).all()


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ([node("Reshape", "w f", "v"), node("MatMul", "x v", "b")], "along different axes"),
        (
            [node("Gather", "w i", "b")],
            "read by Gather 'b' too (tied=True makes it sparse for both)",
        ),
        ([node("Identity", "w", "b"), node("Mul", "b b", "c")], "read by Mul 'c' too"),
    ],
)
def test_a_weight_also_read_another_way_is_left_and_why(
    extra: list[onnx.NodeProto], reason: str
) -> None:
    nodes = [node("MatMul", "x w", "y"), *extra]
    weights = {"w": floats(16, 16), "i": np.array([0, 2]), "f": np.array([16, 4, 4])}
    outputs = ("y", extra[-1].output[0])
    model = models.clone(models.load(build(nodes, weights, [3, 16], outputs=outputs)))
    done = sparsify_nm(model, 2, 4)
    assert not done.masks
    assert reason in done.outcomes[0].reason
    np.testing.assert_array_equal(held(model), weights["w"])


@pytest.mark.parametrize(("n", "m", "least"), [(2, 4, 0.9), (1, 4, 0.8), (1, 2, 0.9)])
def test_a_weight_contracted_along_two_axes_has_the_pattern_along_both(
    n: int, m: int, least: float
) -> None:
    nodes = [node("MatMul", "x w", "y"), node("Gemm", "y w", "b", transB=1)]
    proto = build(nodes, {"w": floats(32, 16)}, [3, 32], outputs=("y", "b"))
    model = models.clone(models.load(proto))
    done = sparsify_nm(model, n, m)
    outcome = next(each for each in done.outcomes if each.weight == "w")
    assert (outcome.reason, outcome.sparsity) == ("", 1 - n / m)
    assert done.check is not None
    assert done.check.ok
    after = held(model)
    for axis in (0, 1):
        assert masks.is_n_of_m(after, n, m, axis)
    one = masks.keep_n_of_m(np.abs(floats(32, 16)), n, m, 0)
    assert np.abs(after).sum() > least * np.abs(np.where(one, floats(32, 16), 0)).sum()


def test_no_other_mask_for_both_axes_keeps_more() -> None:
    scores = np.abs(floats(4, 4, seed=9))
    keep = masks.keep_n_of_m_both(scores, 2, 4, (0, 1))
    rows = [np.array(each) for each in itertools.product((0, 1), repeat=4) if sum(each) == 2]
    best = max(
        float((np.array(grid) * scores).sum())
        for grid in itertools.product(rows, repeat=4)
        if (np.array(grid).sum(axis=0) == 2).all()
    )
    assert float(scores[keep].sum()) == pytest.approx(best)


@pytest.mark.parametrize(
    ("shape", "m", "reason"),
    [((16, 14), 4, "no multiples of 4"), ((16, 16), 8, "up to groups of 4")],
)
def test_two_axes_that_cannot_both_have_the_pattern_are_left_and_why(
    shape: tuple[int, int], m: int, reason: str
) -> None:
    nodes = [node("MatMul", "x w", "y"), node("Gemm", "y w", "b", transB=1)]
    proto = build(nodes, {"w": floats(*shape)}, [3, shape[0]], outputs=("y", "b"))
    done = sparsify_nm(models.clone(models.load(proto)), m // 2, m)
    assert reason in next(each.reason for each in done.outcomes if each.weight == "w")


def test_a_tied_embedding_is_thinned_for_both_where_that_is_asked_for(
    tmp_path: Path, cli: Callable[..., Ran]
) -> None:
    source = zoo.get("chars_decoder").model
    left = cli("prune", source, "--sparsity", "2:4", "-o", tmp_path / "left.onnx")
    assert left.code == 0, left.err
    tied = cli("prune", source, "--sparsity", "2:4", "--tied", "-o", tmp_path / "tied.onnx")
    assert tied.code == 0, tied.err
    dense = {
        name: [each.weight for each in layers(models.load(tmp_path / f"{name}.onnx"))
               if each.state == "dense"]
        for name in ("left", "tied")
    }  # fmt: skip
    assert dense == {"left": ["embedding.weight"], "tied": []}
    wrong = cli("prune", source, "--ratio", "0.2", "--tied")
    assert wrong.code == 2
    assert "--tied is about N:M" in wrong.err


def test_asking_for_the_shape_of_a_weight_is_not_reading_it() -> None:
    nodes = [node("MatMul", "x w", "y"), node("Shape", "w", "s")]
    model = models.load(build(nodes, {"w": floats(16, 8)}, [3, 16], outputs=("y", "s")))
    assert "w" in sparsify_nm(models.clone(model), 2, 4).masks


def test_stored_zeros_that_are_no_zeros_are_left() -> None:
    weights = {
        "w": np.arange(16 * 8, dtype=np.uint8).reshape(16, 8),
        "s": np.float32(0.1),
        "z": np.uint8(128),
    }
    nodes = [node("DequantizeLinear", "w s z", "t"), node("MatMul", "x t", "y")]
    model = models.clone(models.load(build(nodes, weights, [3, 16])))
    done = sparsify_nm(model, 2, 4)
    assert "zero point other than 0" in done.outcomes[0].reason
    np.testing.assert_array_equal(held(model), weights["w"])


def test_computed_weights_are_named_with_what_computes_them() -> None:
    nodes = [node("Mul", "w s", "t"), node("MatMul", "x t", "y")]
    model = models.load(build(nodes, {"w": floats(16, 8), "s": np.float32(2)}, [3, 16]))
    with pytest.raises(OnnxpruneError, match="computed from stored ones, by Mul 't'"):
        sparsify(model, sparsity("2:4"))


def test_products_of_activations_are_not_mentioned() -> None:
    nodes = [node("Transpose", "x", "t"), node("MatMul", "x t", "a"), node("MatMul", "x w", "y")]
    model = models.load(build(nodes, {"w": floats(16, 8)}, [3, 16], outputs=("a", "y")))
    (layer,) = find_layers(model)
    assert layer.node == "y"
    assert not layer.declined


def chain_of_three() -> onnx.ModelProto:
    nodes = [node("MatMul", "x a", "p"), node("MatMul", "p b", "q"), node("MatMul", "q c", "y")]
    weights = {"a": floats(16, 300), "b": floats(300, 300), "c": floats(300, 8)}
    return build(nodes, weights, [3, 16])


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({"small": 256}, {"a", "c"}),
        ({"small": 8}, set()),
        ({"first": 1}, {"a"}),
        ({"last": 2}, {"b", "c"}),
        ({"first": 1, "last": 1}, {"a", "c"}),
        ({}, set()),
    ],
)
def test_small_first_and_last_layers_can_be_left(asked: dict[str, int], left: set[str]) -> None:
    model = models.load(chain_of_three())
    exclude = excluded_weights(model, **asked)
    assert set(exclude) == left
    done = sparsify_nm(models.clone(model), 2, 4, exclude=exclude)
    assert set(done.masks) == {"a", "b", "c"} - left
    assert {each.weight: each.reason for each in done.outcomes if each.reason} == exclude


def test_leaving_layers_out_is_about_single_weights() -> None:
    with pytest.raises(OnnxpruneError, match="skip_small="):
        from_flags({"ratio": 0.5, "skip_small": 256})
    assert from_flags({"sparsity": "2:4", "skip_small": "256", "skip_last": 1}).skip_last == 1


def test_with_data_the_weights_no_refit_can_reach_are_thinned_by_size() -> None:
    nodes = [
        node("Conv", "x w", "a"),
        node("Relu", "a", "r"),
        node("DequantizeLinear", "q s", "t", axis=0),
        node("Conv", "r t", "y"),
    ]
    levels = np.random.default_rng(0).integers(-127, 128, (4, 8, 1, 1)).astype(np.int8)
    weights = {"w": floats(8, 16, 3, 3), "q": levels, "s": np.full(4, 0.01, np.float32)}
    model = models.load(build(nodes, weights, ["n", 16, 6, 6]))
    batches = [{"x": floats(8, 16, 6, 6, seed=k)} for k in range(4)]
    made = sparsify(model, sparsity("2:4"), batches)
    how = {each.weight: each.method for each in made.outcomes}
    assert how == {"w": "admm", "q": "magnitude"}
    for name, array in (("w", held(made.model)), ("q", held(made.model, "q"))):
        assert ((groups(np.moveaxis(array, 1, -1)) != 0).sum(axis=1) <= 2).all(), name


@st.composite
def chains(draw: st.DrawFn) -> onnx.ModelProto:
    """A stored tensor, moved about at random."""
    shape = [draw(st.sampled_from([1, 2, 3, 4])) for _ in range(draw(st.integers(1, 4)))]
    weights = {"w": np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)}
    nodes, now = [], "w"
    for step in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten",
                                     "Identity", "Cast"]))  # fmt: skip
        inputs, attributes = now, {}
        if kind == "Transpose":
            perm = draw(st.permutations(range(len(shape))))
            attributes, shape = {"perm": perm}, [shape[a] for a in perm]
        elif kind == "Reshape":
            size = int(np.prod(shape))
            first = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
            weights[f"r{step}"], shape = np.array([first, -1]), [first, size // first]
            inputs = f"{now} r{step}"
        elif kind == "Squeeze":
            shape = [n for n in shape if n != 1]
        elif kind == "Unsqueeze":
            axis = draw(st.integers(0, len(shape)))
            weights[f"u{step}"] = np.array([axis])
            shape = [*shape[:axis], 1, *shape[axis:]]
            inputs = f"{now} u{step}"
        elif kind == "Flatten":
            axis = draw(st.integers(0, len(shape)))
            attributes = {"axis": axis}
            shape = [int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))]
        elif kind == "Cast":
            attributes = {"to": onnx.TensorProto.FLOAT}
        nodes.append(node(kind, inputs, f"v{step}", **attributes))
        now = f"v{step}"
    nodes += [node("Identity", now, "y"), node("Identity", "x", "z")]
    return build(nodes, weights, [1], outputs=("y", "z"))


@given(chains())
def test_a_weight_is_seen_as_onnxruntime_sees_it_and_carried_back(proto: onnx.ModelProto) -> None:
    model = models.load(proto)
    stored = trace(next(v for v in model.ir.graph.outputs if v.name == "y"))
    assert isinstance(stored, Stored)
    array = stored.read()
    wanted = open_session(model, optimise=False).run({"x": np.zeros(1, np.float32)})["y"]
    np.testing.assert_array_equal(stored.seen(array), wanted)
    np.testing.assert_array_equal(stored.unseen(wanted), array)
    for axis in range(wanted.ndim):
        where = stored.stored_axis(axis)
        if where is not None:
            at = np.broadcast_to(
                np.arange(array.shape[where]).reshape([-1] + [1] * (array.ndim - where - 1)),
                array.shape,
            )
            index = np.broadcast_to(
                np.arange(wanted.shape[axis]).reshape([-1] + [1] * (wanted.ndim - axis - 1)),
                wanted.shape,
            )
            np.testing.assert_array_equal(stored.seen(at), index)


def test_no_data_and_no_layer_algebra_are_needed_for_a_large_external_model(
    tmp_path: Any,
) -> None:
    proto = conv()
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data",
              size_threshold=0)  # fmt: skip
    made = sparsify(models.load(tmp_path / "m.onnx"), sparsity("2:4"))
    models.save(made.model, tmp_path / "out.onnx")
    assert ((groups(np.moveaxis(held(models.load(tmp_path / "out.onnx")), 1, -1)) != 0)
            .sum(axis=1) == 2).all()  # fmt: skip
