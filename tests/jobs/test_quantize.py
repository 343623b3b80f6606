"""INT8 after pruning: zeros and patterns stay, checks can fail, layouts and purposes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from conftest import Ran
from onnxprune import model as models
from onnxprune.config import Options, QuantizeOptions, StoreOptions
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.layers.linear import find_layers, plain
from onnxprune.jobs.quantize import preparation, quantize, quantizer, zeros
from onnxprune.jobs.quantize.preparation import prepared
from onnxprune.jobs.quantize.rows import as_read, by_rows
from onnxprune.jobs.store import store
from onnxprune.quantities import sparsity
from onnxprune.runtime import open_session
from onnxprune.sparse.eligibility import layers
from onnxprune.sparse.sparsify import sparsify
from onnxprune.types import FORMATS
from two_four_cases import build, floats, node

Array = np.ndarray[Any, Any]
Cli = Callable[..., Ran]
CNN, ENCODER = zoo.get("digits_rescnn"), zoo.get("digits_encoder")


def thinned(path: Path, amount: str = "2:4") -> models.Model:
    return sparsify(models.load(path), sparsity(amount)).model


def data(entry: zoo.Entry, samples: int = 48) -> Options:
    return Options(calib=str(entry.calibration), calib_samples=samples, batch=16)


def mlp(k: int = 64, hidden: int = 128) -> onnx.ModelProto:
    nodes = [
        node("MatMul", "x a", "p"),
        node("Relu", "p", "r"),
        node("MatMul", "r b", "y"),
    ]
    weights = {"a": floats(k, hidden), "b": floats(hidden, 32, seed=1)}
    return build(nodes, weights, ["n", k], opset=17)


def batches(k: int = 64) -> list[dict[str, Array]]:
    return [{"x": floats(16, k, seed=seed)} for seed in range(2, 6)]


def zero_points(model: models.Model, op: str) -> list[Array]:
    """What the nodes of an operator take for zero."""
    found = []
    for graph in models.graphs(model):
        for each in graph:
            if each.op_type == op and len(each.inputs) > 2 and each.inputs[2] is not None:
                tensor = models.constant(each.inputs[2])
                assert tensor is not None
                found.append(tensor.numpy())
    return found


@pytest.mark.parametrize("purpose", FORMATS)
def test_zeros_and_two_of_four_survive_for_every_purpose(purpose: Any) -> None:
    made = quantize(thinned(CNN.model), QuantizeOptions(backend=purpose), data(CNN))
    assert made.ok
    assert [c.name for c in made.checks] == [
        "zeros that are no longer zero",
        "weights that lost their N:M pattern",
    ]
    assert all(each.quantized and not each.lost for each in made.weights)
    patterned = [each for each in made.weights if each.pattern == "2:4"]
    assert len(patterned) > 8
    assert all(each.zeros_after >= 0.5 for each in patterned)
    states = {each.state for each in layers(made.model)}
    assert states == {"eligible", "never"}, "what can be sparse still is, in int8"
    for layer in plain(find_layers(made.model)):
        scaling = layer.tensor.scaling
        assert layer.tensor.dtype is ir.DataType.INT8
        assert scaling is not None
        assert scaling.zero is None or not scaling.zero.any()
    assert made.bytes[1] < 0.32 * made.bytes[0]
    assert (made.evaluation.main.cosine or 0) > 0.99


def test_tensorrt_gets_symmetric_activations_and_float_biases() -> None:
    made = quantize(models.load(CNN.model), QuantizeOptions(backend="tensorrt"), data(CNN, 16))
    points = zero_points(made.model, "QuantizeLinear")
    assert points
    assert all(p.dtype == np.int8 and not p.any() for p in points)
    dequantized = zero_points(made.model, "DequantizeLinear")
    assert not [p for p in dequantized if p.dtype == np.int32]
    other = quantize(models.load(CNN.model), QuantizeOptions(), data(CNN, 16))
    assert any(p.dtype == np.uint8 for p in zero_points(other.model, "QuantizeLinear"))


@pytest.mark.parametrize("name", ["digits_encoder", "digits_lstm", "digits_mlp"])
def test_dynamic_needs_no_inputs_and_keeps_zeros(name: str) -> None:
    entry = zoo.get(name)
    made = quantize(thinned(entry.model), QuantizeOptions(dynamic=True))
    assert made.ok
    assert any(each.quantized and each.pattern == "2:4" for each in made.weights)
    assert any("synthetic" in note for note in made.notes)
    assert (made.evaluation.main.cosine or 0) > 0.98


def test_a_gemm_that_becomes_a_transposed_product_is_still_followed() -> None:
    """A square matrix looks the same turned: it is known by its operator, not by its shape."""
    proto = build([node("Gemm", "x w", "y", transB=1)], {"w": floats(16, 16)}, ["n", 16], opset=17)
    dense = sparsify(models.load(proto), sparsity("2:4")).model
    (weight,) = quantize(dense, QuantizeOptions(dynamic=True)).weights
    assert (weight.pattern, weight.kept, weight.lost) == ("2:4", True, 0)
    assert weight.quantized


def test_a_zero_that_is_none_any_more_is_caught() -> None:
    made = quantize(sparsify(models.load(mlp()), sparsity("2:4")).model, None,
                    Options(calib=batches()))  # fmt: skip
    ready, _ = prepared(sparsify(models.load(mlp()), sparsity("2:4")).model)
    broken = models.clone(made.model)
    value = models.constants(broken)["a_quantized"]
    tensor = models.constant(value)
    assert tensor is not None
    models.set_constant(value, np.where(tensor.numpy() == 0, np.int8(1), tensor.numpy()))
    checks = zeros.checks(zeros.compare(ready, broken))
    assert [c.ok for c in checks] == [False, False]
    assert checks[0].value == 64 * 128 / 2
    assert all(c.ok for c in zeros.checks(zeros.compare(ready, made.model)))


def test_unstructured_zeros_survive_too() -> None:
    dense = sparsify(models.load(mlp()), sparsity("90%")).model
    made = quantize(dense, None, Options(calib=batches()))
    assert made.ok
    assert all(each.zeros == pytest.approx(0.9, abs=0.01) for each in made.weights)
    assert all(each.zeros_after >= each.zeros for each in made.weights)


def test_rows_are_laid_out_anew_and_nothing_else_changes() -> None:
    made = quantize(models.load(mlp()), QuantizeOptions(per_tensor=False), Options(calib=batches()))
    turned, names = by_rows(made.model, least=4096)
    assert names == ("a_quantized", "b_quantized")
    before = {each.weight: each.tensor for each in plain(find_layers(made.model))}
    for layer in plain(find_layers(turned)):
        new, old = layer.tensor, before[layer.weight]
        assert new.shape == old.shape[::-1]
        assert new.through == ("DequantizeLinear", "Transpose")
        np.testing.assert_array_equal(new.seen(new.read()), old.seen(old.read()))
    for feeds in batches():
        wanted = open_session(made.model, optimise=False).run(feeds)["y"]
        np.testing.assert_allclose(
            open_session(turned, optimise=False).run(feeds)["y"], wanted, atol=1e-6
        )
    assert by_rows(made.model)[1] == (), "small weights stay as they are"


def test_openvino_computes_the_same_from_rows() -> None:
    openvino = pytest.importorskip("openvino")
    made = quantize(models.load(mlp()), None, Options(calib=batches()))
    turned, _ = by_rows(made.model, least=4096)
    core = openvino.Core()
    ran = []
    for each in (made.model, turned):
        proto = models.to_proto(each)
        compiled = core.compile_model(
            core.read_model(proto.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        ran.append(compiled(batches()[0])[0])
    np.testing.assert_allclose(ran[0], ran[1], atol=1e-5)


@pytest.mark.parametrize("large", [False, True])
def test_models_with_external_data(
    tmp_path: Path, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:  # as if two gigabytes were a few kilobytes
        for module in (preparation, quantizer):
            monkeypatch.setattr(module, "LARGEST", 4096)
    proto = mlp()
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data",
              size_threshold=0)  # fmt: skip
    made = quantize(thinned(tmp_path / "m.onnx"), None, Options(calib=batches()))
    made.save(tmp_path / "int8.onnx")
    again = models.load(tmp_path / "int8.onnx")
    feeds = batches()[0]
    wanted = open_session(made.model).run(feeds)["y"]
    np.testing.assert_array_equal(open_session(again).run(feeds)["y"], wanted)


def test_weights_stored_sparse_are_made_dense_first(tmp_path: Path) -> None:
    proto = models.to_proto(sparsify(models.load(mlp()), sparsity("80%")).model)
    array = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    where = np.flatnonzero(array)
    values = onnx.numpy_helper.from_array(array.ravel()[where], "a")
    indices = onnx.numpy_helper.from_array(where.astype(np.int64), "a_indices")
    assert proto.graph.initializer[0].name == "a"
    del proto.graph.initializer[0]
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, indices, list(array.shape))
    )
    onnx.save(proto, tmp_path / "sparse.onnx")
    made = quantize(tmp_path / "sparse.onnx", None, Options(calib=batches()))
    assert made.ok
    assert made.weights[0].zeros == pytest.approx(0.8, abs=0.01)


def test_packed_weights_are_made_dense_first(tmp_path: Path) -> None:
    packed = store(sparsify(models.load(mlp()), sparsity("80%")).model, StoreOptions("packed"))
    models.save(packed.model, tmp_path / "packed.onnx")
    made = quantize(tmp_path / "packed.onnx", None, Options(calib=batches()))
    assert made.notes[0] == "2 packed weights were made dense first"
    assert made.ok
    assert all(each.zeros == pytest.approx(0.8, abs=0.01) for each in made.weights)


def test_an_old_operator_set_is_converted_and_said() -> None:
    proto = build([node("MatMul", "x a", "y")], {"a": floats(64, 32)}, ["n", 64], opset=11)
    made = quantize(proto, None, Options(calib=batches()))
    assert any("operator set 11 was converted to 13" in note for note in made.notes)
    assert made.weights[0].quantized


def test_what_is_skipped_stays_float() -> None:
    made = quantize(mlp(), QuantizeOptions(skip=("b",)), Options(calib=batches()))
    assert [bool(each.quantized) for each in made.weights] == [True, False]
    with pytest.raises(OnnxpruneError, match="matches no node and no weight"):
        quantize(mlp(), QuantizeOptions(skip=("nothing*",)), Options(calib=batches()))


@pytest.mark.parametrize(
    ("source", "settings", "options", "message"),
    [
        (mlp, QuantizeOptions(), Options(), "measured on inputs"),
        (mlp, QuantizeOptions(backend="openvino-sparse", dynamic=True), Options(), "sparse kernel"),
        (
            lambda: build([node("Softmax", "x", "y")], {}, ["n", 64], opset=17),
            QuantizeOptions(dynamic=True),
            Options(),
            "found no weight",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(
    source: Callable[[], onnx.ModelProto], settings: QuantizeOptions, options: Options, message: str
) -> None:
    with pytest.raises(OnnxpruneError, match=message):
        quantize(source(), settings, options)


def test_a_table_that_is_looked_up_gets_smaller_too() -> None:
    weights = {"t": floats(500, 32), "a": floats(32, 64)}
    nodes = [
        node("Cast", "x", "i", to=onnx.TensorProto.INT64),
        node("Gather", "t i", "e"),
        node("MatMul", "e a", "y"),
    ]
    calib = [{"x": np.arange(8, dtype=np.float32).reshape(2, 4) + k} for k in range(4)]
    made = quantize(build(nodes, weights, ["n", 4], opset=17), None, Options(calib=calib))
    assert made.bytes[1] < 0.3 * made.bytes[0]
    assert (made.evaluation.main.cosine or 0) > 0.999


def test_weights_behind_a_transpose_are_quantized_and_a_tied_table_stays_one() -> None:
    entry = zoo.get("chars_decoder")  # nn.Linear as the dynamo exporter writes it, tied embedding
    made = quantize(thinned(entry.model), QuantizeOptions(), data(entry, 32))
    assert made.ok
    assert all(each.quantized for each in made.weights)
    assert sum(each.pattern == "2:4" for each in made.weights) >= 21
    assert made.bytes[1] < 0.32 * made.bytes[0]
    assert (made.evaluation.main.cosine or 0) > 0.99
    assert any("laid out anew" in note for note in made.notes)


def test_readers_that_see_a_weight_alike_share_what_is_laid_out_anew() -> None:
    nodes = [
        node("Transpose", "w", "t", perm=[1, 0]),
        node("MatMul", "x t", "p"),
        node("Transpose", "w", "u", perm=[1, 0]),
        node("MatMul", "p u", "y"),
    ]
    model = models.load(build(nodes, {"w": floats(64, 64)}, ["n", 64], opset=17))
    wanted = open_session(model).run({"x": floats(4, 64, seed=3)})["y"]
    work = models.clone(model)
    assert as_read(work) == 1
    assert [each.op_type for each in work.ir.graph] == ["MatMul", "MatMul"]
    assert models.size_bytes(work) == models.size_bytes(model)
    np.testing.assert_array_equal(open_session(work).run({"x": floats(4, 64, seed=3)})["y"], wanted)


@pytest.mark.parametrize("ranges", ["minmax", "percentile", "entropy"])
def test_ranges_are_found_on_inputs_of_any_sizes_and_stdout_stays_data(
    tmp_path: Path, cli: Cli, ranges: str
) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=floats(37, 64, seed=5))  # the last batch is shorter
    done = cli("quantize", tmp_path / "m.onnx", "--calib", tmp_path / "x.npz", "--batch", 16,
               "--ranges", ranges, "-o", tmp_path / "q.onnx", "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["ok"]


def test_tables_are_quantized_while_the_model_runs_too() -> None:
    nodes = [node("Gather", "t i", "x"), node("MatMul", "x w", "y")]
    proto = build(nodes, {"t": floats(500, 64), "w": floats(64, 64)}, ["n"], opset=17)
    proto.graph.input[0].name = "i"
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    made = quantize(proto, QuantizeOptions(dynamic=True))
    assert made.bytes[1] < 0.27 * made.bytes[0]


def test_the_float_model_is_left_as_it_is() -> None:
    model = models.load(CNN.model)
    before = models.structure_hash(model)
    quantize(model, None, data(CNN, 16))
    assert models.structure_hash(model) == before


def test_a_drop_that_is_too_large_writes_nothing(tmp_path: Path, cli: Cli) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=floats(4096, 64, seed=9))
    arguments = ["quantize", tmp_path / "m.onnx", "--calib", tmp_path / "x.npz"]
    arguments += ["--calib-samples", "4096", "-o", tmp_path / "int8.onnx"]
    bad = cli(*arguments, "--max-drop", "0")
    assert bad.code == 1
    assert not (tmp_path / "int8.onnx").exists()
    good = cli(*arguments, "--json")
    assert good.code == 0, good.err
    told = json.loads(good.out)
    assert (told["schema"], told["ok"]) == ("onnxprune.quantize", True)
    assert told["bytes"]["after"] < told["bytes"]["before"]
    assert (tmp_path / "int8.onnx").exists()


def test_the_metric_is_stated_where_labels_are(tmp_path: Path, cli: Cli) -> None:
    held = np.load(CNN.evaluation)
    np.savez(tmp_path / "x.npz", image=held["image"][:200])
    np.save(tmp_path / "y.npy", held["label"][:200])
    done = cli("quantize", CNN.model, "--calib", tmp_path / "x.npz", "--labels",
               tmp_path / "y.npy", "-o", tmp_path / "q.onnx")  # fmt: skip
    assert done.code == 0, done.err
    assert "accuracy" in done.out
    assert "unseen input" in done.out


@pytest.mark.parametrize("name", ["resnet20_cifar10_optA_fused", "resnet20_cifar10_proj_bn"])
def test_real_pruned_models_keep_their_zeros(shared: Path, name: str) -> None:
    path = shared / "models" / f"{name}.onnx"
    calib = [{"input": floats(8, 3, 32, 32, seed=k)} for k in range(2)]
    made = quantize(thinned(path), QuantizeOptions(), Options(calib=calib))
    assert made.ok
    assert all(each.quantized for each in made.weights)


def test_pruning_two_of_four_and_int8_are_one_command(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "ratio: 0.25\nsparsity: 2:4\nskip-last: 1\nsparse-method: magnitude\nrecover: none\n"
    )
    held = np.load(CNN.evaluation)
    np.savez(tmp_path / "x.npz", image=held["image"][:120])
    np.save(tmp_path / "y.npy", held["label"][:120])
    done = cli("quantize", CNN.model, "--prune", tmp_path / "recipe.yaml", "--calib",
               tmp_path / "x.npz", "--labels", tmp_path / "y.npy", "-o", tmp_path / "q.onnx",
               "--json", "--force")  # fmt: skip
    told = json.loads(done.out)
    assert (done.code, told["quality"]["status"]) == (1, "broken"), "nothing was refitted"
    assert told["structure"]["status"] == "verified"
    names = [check["name"] for check in told["checks"]]
    assert "pruned = masked (logits)" in names
    assert "weights in a group of 4" in names
    assert "weights that lost their N:M pattern" in names
    assert told["bytes"]["after"] < 0.25 * told["bytes"]["before"], "less than int8 alone"
    assert told["metric"]["before"] > 0.9
    states = {each.weight: each.state for each in layers(models.load(tmp_path / "q.onnx"))}
    assert list(states.values()).count("dense") == 1, "the last layer was left"


def test_a_weight_that_stays_float_says_why() -> None:
    result = quantize(CNN.model, dynamic=True)
    floats = [each for each in result.weights if not each.quantized]
    assert {each.op for each in floats} == {"Conv"}
    assert all("Conv becomes int8 too with calib=" in each.reason for each in floats)
    assert not any(each.reason for each in result.weights if each.quantized)
    assert any(note.startswith("inputs were synthetic (random inputs, 8") for note in result.notes)


def test_the_command_begins_with_the_verdict(tmp_path: Path, cli: Cli) -> None:
    done = cli("quantize", CNN.model, "--dynamic", "-o", tmp_path / "q.onnx")
    assert done.out.startswith("Structure: verified, ")
    assert "quantized" in done.out
    assert "Weights that stayed float" in done.out


def test_integer_sums_that_saturate_on_this_processor_are_said() -> None:
    """Equal large weights and inputs fill 16 bits at once; without VNNI that changes outputs."""
    weight = np.where(np.arange(64 * 32).reshape(64, 32) % 3, 1.0, -1.0).astype(np.float32)
    model = build([node("MatMul", "x a", "y")], {"a": weight}, ["n", 64], opset=17)
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.uniform(0.5, 1, (16, 64)).astype(np.float32)} for _ in range(8)]

    def notes(*, reduce_range: bool) -> list[str]:
        result = quantize(model, calib=feeds, reduce_range=reduce_range)
        return [each for each in result.notes if "saturate" in each]

    result = quantize(model, calib=feeds)
    exact, narrow = (
        open_session(result.model, saturate=each).run(feeds[0])["y"] for each in (False, True)
    )
    saturates = not np.allclose(exact, narrow, rtol=1e-3)
    assert bool(notes(reduce_range=False)) == saturates
    assert not notes(reduce_range=True)
