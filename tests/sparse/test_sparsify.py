"""Single weights set to zero: as many as asked, where hardware wants them, and refitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.data.activations.runner import Segments
from onnxprune.data.memory import MemoryBudget
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.equivalence import difference
from onnxprune.evaluate.output_comparison import compare
from onnxprune.graph.analysis import analyse
from onnxprune.graph.layers.epilogue import Weights
from onnxprune.graph.layers.linear import LinearLayer, find_layers
from onnxprune.quantities import Spread, sparsity
from onnxprune.runtime import open_session
from onnxprune.solve import masks
from onnxprune.solve.moments import moments
from onnxprune.solve.obs import Pattern
from onnxprune.sparse import zeros
from onnxprune.sparse.fisher import divergence_of, information
from onnxprune.sparse.layer_sparsity import by_error
from onnxprune.sparse.probe import GRID
from onnxprune.sparse.select import select
from onnxprune.sparse.sparsify import Recovery, Settings, Sparse, sparsify
from onnxprune.sparse.targets import find_targets

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)

# One weight each: name -> (node, attributes, weight shape, its place, input shape, axis of inputs)
KINDS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], int, tuple[int, ...], int]] = {
    "conv": ("Conv", {"pads": [1] * 4}, (8, 12, 3, 3), 1, (6, 12, 7, 7), 1),
    "grouped": ("Conv", {"group": 2}, (8, 8, 2, 2), 1, (6, 16, 6, 6), 1),
    "transposed": ("ConvTranspose", {"strides": [2, 2]}, (8, 6, 2, 2), 1, (6, 8, 4, 4), 0),
    "gemm": ("Gemm", {}, (16, 10), 1, (64, 16), 0),
    "gemm-b": ("Gemm", {"transB": 1}, (10, 16), 1, (64, 16), 1),
    "matmul": ("MatMul", {}, (16, 10), 1, (6, 9, 16), 0),
    "matmul-left": ("MatMul", {}, (10, 16), 0, (6, 16, 9), 1),
    "behind-transpose": ("Transpose", {}, (10, 16), 1, (6, 9, 16), 1),
}


def one_layer(kind: str) -> tuple[models.Model, list[dict[str, Array]], int]:
    """A model of one layer, correlated inputs for it, and the axis along which its inputs lie."""
    op, attributes, shape, place, x, axis = KINDS[kind]
    weight = RNG.standard_normal(shape).astype(np.float32)
    nodes = []
    if op == "Transpose":
        nodes, op = [helper.make_node("Transpose", ["w"], ["wt"])], "MatMul"
        inputs = ["x", "wt"]
    else:
        inputs = ["x", "w"] if place else ["w", "x"]
    nodes.append(helper.make_node(op, inputs, ["y"], **attributes))
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    read = 2 if kind in ("matmul", "behind-transpose") else 1  # the axis of x that is contracted
    mix = RNG.standard_normal((x[read], x[read])).astype(np.float32)
    feeds = []
    for _ in range(8):
        source = RNG.standard_normal(x).astype(np.float32)
        feeds.append({"x": np.moveaxis(np.tensordot(source, mix, (read, 0)), -1, read).copy()})
    return models.load(proto), feeds, axis


def stored(model: models.Model, name: str) -> Array:
    tensor = models.constant(models.constants(model)[name])
    assert tensor is not None
    return tensor.numpy()


def zoo_case(name: str, samples: int = 96) -> tuple[models.Model, list[dict[str, Array]]]:
    entry = zoo.get(name)
    with np.load(entry.calibration) as z:
        arrays = {key: z[key][:samples] for key in z.files}
    feeds = [{k: v[i : i + 32] for k, v in arrays.items()} for i in range(0, samples, 32)]
    return models.load(entry.model), feeds


def contents(model: models.Model) -> Mapping[str, bytes]:
    return {name: stored(model, name).tobytes() for name in models.constants(model)}


def assert_masked(made: Sparse) -> None:
    for name, mask in made.masks.items():
        keep, weight = mask.unpack(), stored(made.model, name)
        assert weight.shape == keep.shape
        assert (weight[~keep] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["magnitude", "sparsegpt", "admm"])
def test_groups_lie_along_the_inputs_of_every_kind_of_layer(kind: str, method: Any) -> None:
    model, feeds, axis = one_layer(kind)
    made = sparsify(model, sparsity("2:4"), feeds, settings=Settings(method=method))
    weight = stored(made.model, "w")
    assert masks.is_n_of_m(weight, 2, 4, axis)
    assert not masks.is_n_of_m(stored(model, "w"), 2, 4, axis)
    assert np.count_nonzero(weight) == weight.size // 2
    assert all(check.ok for check in zeros.checks(made.model, made.targets, sparsity("2:4")))


@pytest.mark.parametrize("kind", KINDS)
def test_other_patterns_are_not_taken_for_it(kind: str) -> None:
    model, _, _ = one_layer(kind)
    (target,), _ = find_targets(model, sparsity("2:4"))
    (check,) = zeros.checks(model, [target], sparsity("2:4"))
    assert not check.ok
    assert check.value == 4
    (check,) = zeros.checks(model, [target], sparsity("50%"))
    assert not check.ok


@pytest.mark.parametrize("kind", KINDS)
def test_refitted_weights_serve_inputs_nobody_saw_better(kind: str) -> None:
    model, feeds, _ = one_layer(kind)
    fit, unseen = feeds[:6], feeds[6:]
    dense = open_session(model)
    errors = {}
    refits: tuple[Recovery, ...] = ("none", "lstsq", "pcg")
    for refit in refits:
        made = sparsify(model, sparsity("50%"), fit, settings=Settings(method="wanda", refit=refit))
        assert_masked(made)
        session = open_session(made.model)
        errors[refit] = np.mean(
            [difference(session.run(f)["y"], dense.run(f)["y"]) for f in unseen]
        )
    assert errors["lstsq"] < errors["none"]
    assert errors["pcg"] < errors["none"]


@pytest.mark.parametrize(
    "name",
    ["digits_rescnn", "digits_encoder", pytest.param("chars_decoder", marks=pytest.mark.heavy)],
)
@pytest.mark.parametrize("asked", ["60%", "2:4"])
def test_trained_networks_get_what_was_asked_and_keep_their_originals(
    name: str, asked: str
) -> None:
    model, feeds = zoo_case(name)
    before = contents(model)
    made = sparsify(model, sparsity(asked), feeds)
    assert contents(model) == before
    assert_masked(made)
    assert all(check.ok for check in zeros.checks(made.model, made.targets, sparsity(asked)))
    for each in made.outcomes:
        assert bool(each.reason) != bool(each.method)
        if each.method:
            assert each.after is not None
            assert each.before is not None
            assert each.after <= each.before
    # Of what was not thinned, only biases may have changed.
    changed = {n for n, b in contents(made.model).items() if before.get(n) != b}
    for name_ in changed - made.masks.keys():
        assert stored(made.model, name_).ndim == 1
    refitted = [e for e in made.outcomes if e.refit == "pcg"]
    assert len(refitted) > len(made.masks) / 2


@pytest.mark.parametrize("allocation", ["per-tensor", "per-row", "global", "curves", "sensitivity"])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "ria", "sparsegpt", "admm"])
def test_every_method_and_allocation_removes_the_exact_number(allocation: Any, method: Any) -> None:
    model, feeds = zoo_case("digits_mlp")
    made = sparsify(
        model,
        sparsity(0.7),
        feeds,
        settings=Settings(method=method, allocation=allocation, refit="none"),
    )
    assert_masked(made)
    sizes = [t.size for t in made.targets]
    gone = [m.size - m.kept for m in made.masks.values()]
    if allocation == "per-tensor":
        assert gone == [masks.removed_count(size, 0.7) for size in sizes]
    elif allocation == "per-row":
        for target in made.targets:
            keep = target.matrix(made.masks[target.weight].unpack())
            per_output = target.shape[1] - masks.removed_count(target.shape[1], 0.7)
            assert (keep.sum(axis=1) == per_output).all()
    else:
        assert sum(gone) == masks.removed_count(sum(sizes), 0.7)
        assert len({round(g / s, 3) for g, s in zip(gone, sizes, strict=True)}) > 1


def test_without_data_magnitude_decides_and_values_stay() -> None:
    model, _ = zoo_case("digits_mlp")
    made = sparsify(model, sparsity(0.5))
    for name, mask in made.masks.items():
        old, new, keep = stored(model, name), stored(made.model, name), mask.unpack()
        np.testing.assert_array_equal(new, np.where(keep, old, 0))
        assert np.abs(old[~keep]).max() <= np.abs(old[keep]).min()
    assert {(e.method, e.before) for e in made.outcomes} == {("magnitude", None)}
    with pytest.raises(OnnxpruneError, match="sparse_method='wanda'"):
        sparsify(model, sparsity(0.5), settings=Settings(method="wanda"))
    with pytest.raises(OnnxpruneError, match="curves"):
        sparsify(model, sparsity(0.5), settings=Settings(allocation="curves"))


def test_what_is_left_says_why() -> None:
    model, _ = zoo_case("chars_decoder")
    made = sparsify(model, sparsity("2:4"), settings=Settings(skip=("*w2*", "*.w2.*")))
    left = {e.weight: e.reason for e in made.outcomes if e.reason}
    tied = [w for w, reason in left.items() if "too" in reason]
    assert tied  # the embedding is the output layer
    before, after = contents(model), contents(made.model)
    for weight in left:
        assert before[weight] == after[weight]
        assert weight not in made.masks
    model, _ = zoo_case("digits_rescnn")
    reasons = {e.reason for e in sparsify(model, sparsity("2:4")).outcomes if e.reason}
    assert "its inputs (1 per group) are no multiple of 4" in reasons
    with pytest.raises(OnnxpruneError, match="no weight of the model can be made sparse"):
        sparsify(model, sparsity("3:61"))


def products(op: str, inputs: int) -> models.Model:
    """One product with a stored weight, in floats or in integers."""
    integers = op == "MatMulInteger"
    weight = RNG.integers(1, 9, (inputs, 8)).astype(np.int8 if integers else np.float32)
    kinds = (TensorProto.UINT8, TensorProto.INT32) if integers else (TensorProto.FLOAT,) * 2
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], name="product")],
        "one",
        [helper.make_tensor_value_info("x", kinds[0], ["n", inputs])],
        [helper.make_tensor_value_info("y", kinds[1], ["n", 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    return models.load(helper.make_model(graph, opset_imports=opsets, ir_version=8))


@pytest.mark.parametrize(
    ("op", "inputs", "amount", "skip", "hint"),
    [
        ("MatMul", 7, "2:4", (), "take a share of the weights instead, as in sparsity='50%'"),
        ("MatMul", 8, "2:4", ("w",), "skip fewer layers"),
        ("MatMul", 7, "50%", ("w",), "skip fewer layers"),
        ("MatMulInteger", 8, "2:4", (), "quantize after pruning"),
        ("MatMulInteger", 8, "50%", ("w",), "quantize after pruning"),
    ],
)
def test_a_refusal_names_what_helps(
    op: str, inputs: int, amount: str, skip: tuple[str, ...], hint: str
) -> None:
    model = products(op, inputs)
    with pytest.raises(OnnxpruneError, match="no weight of the model can be made sparse") as error:
        sparsify(model, sparsity(amount), settings=Settings(skip=skip))
    assert hint in error.value.hint
    if "share" in hint:
        assert sparsify(model, sparsity("50%"), settings=Settings(skip=skip)).masks
    elif "fewer" in hint:
        assert sparsify(model, sparsity(amount)).masks
    else:
        assert "MatMulInteger" in error.value.message


def test_a_skipped_weight_is_left_and_named() -> None:
    model, _ = zoo_case("digits_mlp")
    names = list(sparsify(model, sparsity(0.5)).masks)
    made = sparsify(model, sparsity(0.5), settings=Settings(skip=(names[0],)))
    assert list(made.masks) == names[1:]
    assert [(e.weight, e.reason) for e in made.outcomes if e.reason] == [
        (names[0], f"skip='{names[0]}'")
    ]


def test_half_precision_weights_keep_their_type() -> None:
    model, feeds, _ = one_layer("conv")
    proto = models.to_proto(model)
    weight = stored(model, "w").astype(np.float16)
    del proto.graph.initializer[:]
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    half = [{"x": feed["x"].astype(np.float16)} for feed in feeds]
    made = sparsify(models.load(onnx.ModelProto.FromString(proto.SerializeToString())),
                    sparsity("2:4"), half)  # fmt: skip
    found = stored(made.model, "w")
    assert found.dtype == np.float16
    assert masks.is_n_of_m(found, 2, 4, 1)
    assert open_session(made.model).run(half[0])["y"].dtype == np.float16


def test_inputs_that_never_vary_do_no_harm() -> None:
    model, feeds, _ = one_layer("gemm")
    for feed in feeds:
        feed["x"][:, 3] = 0.0
        feed["x"][:, 5] *= 1e-20
        feed["x"][:, 7] = 2.0
    for method in ("sparsegpt", "admm", "wanda"):
        made = sparsify(model, sparsity("2:4"), feeds, settings=Settings(method=method))
        assert np.abs(stored(made.model, "w")).max() < 1e3
        outcome = made.outcomes[0]
        assert outcome.after is not None
        assert outcome.after < 0.5


def test_convex_curves_are_spent_where_they_cost_least() -> None:
    grid = np.array(GRID)
    cheap, dear = 0.01 * grid**2, grid**2
    counts = by_error([1000, 1000], [cheap, dear], 0.5)
    assert sum(counts) == 1000
    assert counts[0] == 950  # the most a layer can lose
    assert by_error([1000, 1000], [dear, dear], 0.5) == [500, 500]


@pytest.mark.parametrize("classes", [6, 1])
def test_gradients_know_what_errors_of_layers_cost(classes: int) -> None:
    """Noise in one layer's weights moves outputs as far as the Fisher information says."""
    rng = np.random.default_rng(0)
    stored_ = {"v": (12, 16), "w": (16, classes)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "v"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "w"], ["y"]),
        ],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", classes])],
        [
            numpy_helper.from_array((0.3 * rng.standard_normal(s)).astype(np.float32), n)
            for n, s in stored_.items()
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = models.load(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    feeds = [{"x": rng.standard_normal((512, 12)).astype(np.float32)} for _ in range(4)]
    targets, _ = find_targets(model, sparsity(0.5))
    assert information(model, targets, feeds, memory=MemoryBudget(100)) is None
    found = information(model, targets, feeds * 4, seed=1)
    assert found is not None
    dense = [open_session(model).run(each) for each in feeds]
    allocation = np.square(np.concatenate([each["y"] for each in dense])).mean()
    for target in targets:
        run = Segments(model, feeds)
        run.advance([target.x])
        rows = np.concatenate([run.value(target.x, k) for k in range(len(feeds))])
        work = models.clone(model)
        weights = Weights(work)
        matrix, _ = weights.read(target)
        noise = 0.03 * rng.standard_normal(matrix.shape)
        wrong = np.square(rows @ noise).mean(axis=1)
        said = divergence_of(wrong[None], found[target.node], np.ones(wrong.shape))[0]
        weights.write(target, matrix + noise)
        session = open_session(work)
        moved = [session.run(each) for each in feeds]
        if classes > 1:
            kl = compare(dense, moved)["y"].kl
            assert kl is not None
            assert said == pytest.approx(kl, rel=0.5)
        else:
            lost = [np.square(a["y"] - b["y"]).mean() for a, b in zip(dense, moved, strict=True)]
            assert said == pytest.approx(float(np.mean(lost)) / allocation, rel=0.5)


def layer_of(op: str, shape: tuple[int, ...]) -> LinearLayer:
    """A layer with a weight of some shape."""
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [None] * len(shape))],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(np.ones(shape, np.float32), "w")],
    )
    (layer,) = find_layers(models.load(helper.make_model(graph)))
    return layer


def test_obs_masks_of_several_blocks_are_settled_to_the_exact_count() -> None:
    rng = np.random.default_rng(3)
    K, N = 200, 5
    x = rng.standard_normal((1, 600, K)) @ rng.standard_normal((K, K))
    target = layer_of("MatMul", (K, N))
    rows = moments(x)
    for share in (0.333, 0.5, 0.777):
        weight = rng.standard_normal((1, K, N))
        _, keep = select(target, "sparsegpt", weight, rows.xx, Pattern(share))
        assert keep.size - keep.sum() == masks.removed_count(K * N, share)
        _, keep = select(target, "sparsegpt", weight, rows.xx, Pattern(share, per_output=True))
        assert ((~keep[0]).sum(axis=0) == masks.removed_count(K, share)).all()


def test_channels_of_one_kernel_position_are_side_by_side() -> None:
    target = layer_of("Conv", (4, 8, 3, 3))
    weight = np.arange(4 * 8 * 9).reshape(4, 8, 3, 3)
    ordered = target.matrix(weight)[:, target.order]
    np.testing.assert_array_equal(ordered[0, :8, 0], weight[0, :, 0, 0])
    np.testing.assert_array_equal(ordered[0, 8:16, 1], weight[1, :, 0, 1])


def residual() -> models.Model:
    """A block whose shortcut is a layer of its own, which comes after the layers it goes around."""
    shapes = {"stem": (6, 3, 3, 3), "one": (8, 6, 3, 3), "two": (8, 8, 3, 3), "short": (8, 6, 1, 1)}
    reads = {"stem": "x", "one": "stem_r", "two": "one_r", "short": "stem_r"}
    nodes, stored = [], []
    for name, shape in shapes.items():
        for suffix, size in (("_w", shape), ("_b", shape[:1])):
            value = RNG.standard_normal(size).astype(np.float32) * 0.3
            stored.append(numpy_helper.from_array(value, name + suffix))
        read, pads = [reads[name], name + "_w", name + "_b"], [shape[2] // 2] * 4
        nodes.append(helper.make_node("Conv", read, [name], pads=pads))
        nodes.append(helper.make_node("Relu", [name], [name + "_r"]))
    nodes.append(helper.make_node("Add", ["two", "short"], ["sum"]))
    nodes.append(helper.make_node("Relu", ["sum"], ["y"]))
    graph = helper.make_graph(
        [node for node in nodes if node.output[0] not in ("two_r", "short_r")],
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 8, 8])],
        stored,
    )
    opset = [helper.make_opsetid("", 17)]
    return models.load(helper.make_model(graph, opset_imports=opset, ir_version=8))


@pytest.mark.parametrize("allocation", ["sensitivity", "global", "per-tensor"])
def test_a_shortcut_that_is_a_layer_is_thinned_like_any_other(allocation: Spread) -> None:
    model = residual()
    feeds = [{"x": RNG.standard_normal((8, 3, 8, 8)).astype(np.float32)} for _ in range(4)]
    made = sparsify(
        model, sparsity(0.5), feeds, analyse(model).facts, Settings(allocation=allocation)
    )
    assert {each.weight for each in made.outcomes if not each.reason} == {
        "stem_w", "one_w", "two_w", "short_w",
    }  # fmt: skip
    masked = sum(mask.size - mask.kept for mask in made.masks.values())
    assert masked == pytest.approx(0.5 * sum(mask.size for mask in made.masks.values()), abs=4)
    assert all(each.after <= each.before for each in made.outcomes)  # type: ignore[operator]


def test_a_model_without_stored_weights_is_refused_with_the_reason() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "bare",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )
    opset = [helper.make_opsetid("", 17)]
    model = models.load(helper.make_model(graph, opset_imports=opset, ir_version=8))
    with pytest.raises(OnnxpruneError, match="no layer multiplies with a stored weight"):
        sparsify(model, sparsity(0.5))
