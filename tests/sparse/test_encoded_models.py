"""Whole models in every form: the same outputs, the sizes promised, and what cannot be stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from bench.storage import make_sparse
from onnxprune import model as models
from onnxprune import quantities as amount
from onnxprune.config import StoreOptions
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.jobs.results.weights import stored_rows
from onnxprune.jobs.store import (
    OTHER_ORDER,
    Stored,
    check_stored,
    read_back,
    same,
    store,
)
from onnxprune.model import sparse as sparse_reading
from onnxprune.model.decode import densify
from onnxprune.runtime import open_session
from onnxprune.solve.masks import keep_n_of_m
from onnxprune.sparse.encodings.choose import bytes_of
from onnxprune.sparse.encodings.graph_builder import GraphBuilder, Stream
from onnxprune.sparse.encodings.sparsity_stats import SparsityStats, count
from onnxprune.sparse.encodings.table import ENCODINGS, PACKED, Packed
from onnxprune.sparse.sparsify import sparsify

Array = npt.NDArray[Any]

REAL = (
    "resnet20_cifar10_proj_bn.onnx",
    "mobilenetv1_0.75_imagenet_bn.onnx",
    "minilm_l6_sts_sst2.onnx",
)

MORE = ("fp32", "fp16")
"""Kinds of values that are much like others."""
SLOW = {("digits_encoder", values) for values in MORE} | {
    ("chars_decoder", values) for values in ("exact", *MORE, "int8")
}
"""Networks of many weights."""


def feeds(path: Path) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    made = {}
    for spec in open_session(path, threads=1).inputs:
        shape = [size if isinstance(size, int) else 2 for size in spec.shape]
        floats = spec.dtype.kind == "f"
        made[spec.name] = rng.standard_normal(shape) if floats else np.ones(shape)
        made[spec.name] = made[spec.name].astype(spec.dtype)
    return made


def ran(path: Path, given: dict[str, Array]) -> list[Array]:
    return list(open_session(path, threads=1).run(given).values())


def in_openvino(path: Path, given: dict[str, Array]) -> list[Array]:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    return [np.array(value) for value in compiled(given).values()]


@pytest.mark.parametrize(
    "name", [REAL[0], *(pytest.param(name, marks=pytest.mark.heavy) for name in REAL[1:])]
)
def test_real_models_take_what_the_formulas_say(shared: Path, tmp_path: Path, name: str) -> None:
    for sparsity in (0.5, 0.8, 0.9):
        dense = tmp_path / "dense.onnx"
        size = make_sparse(shared / "models" / name, sparsity, dense)
        rest = dense.stat().st_size - 4 * size  # the graph, and what was not thinned
        left = 1 - sparsity
        far = left * sparsity**14 / (1 - sparsity**14)  # distances of more than 14
        wanted = {
            ("sparse", "exact"): left * (4 + 8),
            ("packed", "exact"): min(1 / 8 + 4 * left, 5 * left, 4 * left + (left + far) / 2),
            ("packed", "fp16"): min(1 / 8 + 2 * left, 3 * left, 2 * left + (left + far) / 2),
            ("packed", "int8"): min(1 / 8 + left, 2 * left, left + (left + far) / 2),
        }
        for (form, values), per_weight in wanted.items():
            asked = StoreOptions(form, values=values, always=True)  # type: ignore[arg-type]
            stored = store(dense, asked)
            path = stored.save(tmp_path / "stored.onnx")
            scales = [weight.coding.scale for weight in stored.weights]
            scale = sum(each.nbytes for each in scales if each is not None)
            others = [each for each in stored.weights if each.form == "dense" and each.narrowed]
            saved = sum(each.tensor.nbytes - each.stored().nbytes for each in others)
            tables = sum(kind.table_bytes for kind in {each.encoding for each in stored.weights})
            nodes = sum(each.encoding.graph_bytes for each in stored.weights)
            predicted = rest - saved + per_weight * size + scale + tables + nodes
            near = 0.03 if values == "exact" else 0.05  # what converts them is in the graph too
            assert path.stat().st_size == pytest.approx(predicted, rel=near), (sparsity, form)
            if sparsity == 0.9 and form == "packed":
                share = (path.stat().st_size - rest - scale) / (4 * size)
                assert share < {"exact": 0.15, "fp16": 0.08, "int8": 0.06}[values]
                # ResNet-20's graph, which no form makes smaller, is 0.02 of its dense file.
                whole = {"exact": 0.15, "fp16": 0.095 if "resnet20" in name else 0.08, "int8": 0.08}
                assert path.stat().st_size < whole[values] * dense.stat().st_size


@pytest.mark.parametrize(
    ("name", "sparsity"),
    [(REAL[0], 0.5), (REAL[1], 0.8), pytest.param(REAL[2], 0.9, marks=pytest.mark.heavy)],
)
def test_real_models_say_the_same(shared: Path, tmp_path: Path, name: str, sparsity: float) -> None:
    dense = tmp_path / "dense.onnx"
    make_sparse(shared / "models" / name, sparsity, dense)
    given = feeds(dense)
    wanted = ran(dense, given)
    for form in ("sparse", "packed"):
        stored = store(dense, StoreOptions(form, always=True))  # type: ignore[arg-type]
        path = stored.save(tmp_path / f"{form}.onnx")
        assert all(map(same, ran(path, given), wanted))
        assert read_back(stored, path).ok
        onnx.checker.check_model(path, full_check=form == "packed")


@pytest.mark.parametrize("name", [*REAL[:2], pytest.param(REAL[2], marks=pytest.mark.heavy)])
def test_openvino_says_the_same(shared: Path, tmp_path: Path, name: str) -> None:
    dense = tmp_path / "dense.onnx"
    make_sparse(shared / "models" / name, 0.9, dense)
    given = feeds(dense)
    wanted = in_openvino(dense, given)
    for form in ("sparse", "packed"):
        asked = StoreOptions(form, backend=("cpu", "openvino"))  # type: ignore[arg-type]
        path = store(dense, asked).save(tmp_path / f"{form}.onnx")
        for one, other in zip(in_openvino(path, given), wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        pytest.param(name, values, marks=[pytest.mark.heavy] * ((name, values) in SLOW))
        for name in zoo.names()
        for values in ("exact", *MORE, "int8")
    ],
)
def test_every_network_reads_back_in_every_form(tmp_path: Path, name: str, values: Any) -> None:
    thinned = sparsify(models.load(zoo.get(name).model), amount.sparsity("80%")).model
    for form in ("auto", "packed", *(("sparse", "external") if values == "exact" else ())):
        stored = store(thinned, StoreOptions(form, values=values))  # type: ignore[arg-type]
        path = stored.save(tmp_path / f"{form}.onnx")
        assert read_back(stored, path).ok
        back = models.constants(densify(models.load(path))[0])
        assert back.keys() == models.constants(thinned).keys()


def placed(weight: Array, where: str, opset: int) -> onnx.ModelProto:
    """y = x W, where W is stored in a place: as an initializer or a Constant, in a body or not."""
    version = 3 if opset < 9 else 6
    tensor = numpy_helper.from_array(weight, "W")
    constant = helper.make_node("Constant", [], ["W"], value=tensor)
    if where == "initializer":
        return product(weight, opset=opset, ir_version=version)
    if where == "node":
        return product(weight, initializer=[], first=[constant], opset=opset, ir_version=version)
    branches = {
        name: helper.make_graph(
            [*([constant] if where == "node of a body" else []),
             helper.make_node("MatMul", ["x", "W"], ["out"])],
            name,
            [],
            [helper.make_tensor_value_info("out", T.FLOAT, None)],
            initializer=[] if where == "node of a body" else [tensor],
        )
        for name in ("then_branch", "else_branch")
    }  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("If", ["yes"], ["y"], **branches)],
        "g",
        [helper.make_tensor_value_info("x", T.FLOAT, [1, weight.shape[0]]),
         helper.make_tensor_value_info("yes", T.BOOL, [])],
        [helper.make_tensor_value_info("y", T.FLOAT, [1, weight.shape[1]])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, ir_version=version, opset_imports=opsets)


@pytest.mark.parametrize(
    "where", ["initializer", "node", "initializer of a body", "node of a body"]
)
@pytest.mark.parametrize("opset", [7, 9, 10, 11, 12, 13, 17])
def test_openvino_loads_whatever_is_written_for_it(tmp_path: Path, opset: int, where: str) -> None:
    if opset < 9 and where != "node":
        pytest.skip("below IR version 4 initializers are graph inputs, which stay dense")
    weight = holey((64, 48), 0.1)
    given = {"x": np.ones((1, 64), np.float32), "yes": np.array(True)}
    if "body" not in where:
        del given["yes"]
    for form in ("auto", "sparse", "packed"):
        for backend in (("cpu", "openvino"), ("cpu",)):
            proto = placed(weight, where, opset)
            stored = store(proto, StoreOptions(form, backend=backend))  # type: ignore[arg-type]
            path = stored.save(tmp_path / "m.onnx")
            assert read_back(stored, path).ok
            onnx.checker.check_model(path)
            forms = {each.form for each in stored.weights}
            (remark,) = {each.remark for each in stored.weights}
            assert (forms == {"dense"}) == bool(remark)
            runs = [ran(path, given)]
            if "openvino" in backend:
                runs.append(in_openvino(path, given))
                if form != "packed" and opset < (13 if form == "sparse" else 11):
                    assert "OpenVINO reads sparse weights from opset 13 on" in remark
            for (output,) in runs:
                np.testing.assert_allclose(output, given["x"] @ weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("values", ["exact", "fp16", "int8"])
def test_openvino_loads_recurrent_layers_that_are_written_for_it(
    tmp_path: Path, op: str, values: Any
) -> None:
    """Its CPU plug-in compiles them only with constants, also if something moves them first."""
    gates, size = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 32
    bias = holey((1, 2 * gates * size), 0.1)
    parts = {
        "W": np.ascontiguousarray(holey((1, gates * size, 24)).transpose(0, 2, 1)),
        "R": holey((1, gates * size, size), seed=1),
        "B": bias,
        "V": holey((size, 64), seed=2),
    }
    nodes = [
        helper.make_node("Transpose", ["W"], ["turned"], perm=[0, 2, 1]),
        helper.make_node(op, ["x", "turned", "R", "B"], ["", "h"], hidden_size=size),
        helper.make_node("MatMul", ["h", "V"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", T.FLOAT, [5, 1, 24])],
        [helper.make_tensor_value_info("y", T.FLOAT, [1, 1, 64])],
        [numpy_helper.from_array(array, name) for name, array in parts.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    dense = tmp_path / "dense.onnx"
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), dense)
    given = feeds(dense)
    for form in ("auto", "packed"):
        asked = StoreOptions(form, values=values, backend=("cpu", "openvino"))
        stored = store(dense, asked)
        path = stored.save(tmp_path / "m.onnx")
        outputs = in_openvino(path, given)
        assert form_of(stored, "V") in PACKED
        assert not PACKED & {each.form for each in stored.weights if each.name in "WRB"}
        if form == "packed":
            remarks = {each.name: each.remark for each in stored.weights}
            assert "recurrent layers" in remarks["W"]
            assert not remarks["V"]
        if values == "exact":
            np.testing.assert_allclose(outputs[0], ran(dense, given)[0], rtol=1e-4, atol=1e-5)
        assert form_of(store(dense, StoreOptions(form)), "W") in PACKED  # onnxruntime takes them


def test_it_is_said_where_openvino_folds_normalisation_otherwise() -> None:
    def notes(entry: zoo.Entry, *providers: str) -> tuple[str, ...]:
        thinned = sparsify(models.load(entry.model), amount.sparsity("80%")).model
        return store(thinned, StoreOptions("packed", backend=providers)).notes

    with_it, without = zoo.get("digits_rescnn"), zoo.get("digits_mlp")
    assert OTHER_ORDER in notes(with_it, "cpu", "openvino")
    assert OTHER_ORDER not in notes(with_it, "cpu")
    assert OTHER_ORDER not in notes(without, "cpu", "openvino")


def test_openvino_computes_with_the_very_weights(tmp_path: Path) -> None:
    """Where a model only says its weights, nothing is rounded on the way."""
    weight = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    weight *= np.random.default_rng(1).random((64, 32)) < 0.3
    dense = tmp_path / "dense.onnx"
    onnx.save(product(weight), dense)
    given = {"x": np.eye(64, dtype=np.float32)}
    for form in ("sparse", "packed"):
        asked = StoreOptions(form, backend=("openvino",), always=True)  # type: ignore[arg-type]
        path = store(dense, asked).save(tmp_path / "stored.onnx")
        assert np.array_equal(in_openvino(path, given)[0], weight)


def product(weight: Array, **changes: Any) -> onnx.ModelProto:
    """y = x W."""
    made = {"initializer": [numpy_helper.from_array(weight, "W")]} | changes
    extra = made.pop("inputs", [])
    opset, version = made.pop("opset", 17), made.pop("ir_version", 9)
    kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
    graph = helper.make_graph(
        [*made.pop("first", []), helper.make_node("MatMul", ["x", "W"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, [None, weight.shape[0]]), *extra],
        [helper.make_tensor_value_info("y", kind, [None, weight.shape[1]])],
        **made,
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, ir_version=version, opset_imports=opsets)


def holey(shape: tuple[int, ...] = (64, 32), density: float = 0.1, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    kept = rng.random(shape) < density
    return np.where(kept, rng.standard_normal(shape), 0).astype(np.float32)


def form_of(stored: Stored, name: str = "W") -> str:
    return next(weight.form for weight in stored.weights if weight.name == name)


def test_weights_of_bodies_and_constant_nodes_are_stored_too(tmp_path: Path) -> None:
    here, there, node = (holey(seed=k) for k in range(3))
    branches = {}
    for name, array in (("then_branch", here), ("else_branch", there)):
        branches[name] = helper.make_graph(
            [helper.make_node("MatMul", ["h", "V"], ["out"])],
            name,
            [],
            [helper.make_tensor_value_info("out", T.FLOAT, None)],
            initializer=[numpy_helper.from_array(array, "V")],
        )
    nodes = [
        helper.make_node("Constant", [], ["W"], value=numpy_helper.from_array(node.T.copy(), "c")),
        helper.make_node("MatMul", ["x", "W"], ["h"]),
        helper.make_node("If", ["yes"], ["y"], **branches),
    ]
    inputs = [
        helper.make_tensor_value_info("x", T.FLOAT, [None, 32]),
        helper.make_tensor_value_info("yes", T.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info("y", T.FLOAT, [None, 32])]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    proto = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
    dense = tmp_path / "dense.onnx"
    onnx.save(proto, dense)
    x = np.random.default_rng(5).standard_normal((3, 32)).astype(np.float32)
    for form in ("sparse", "packed"):
        stored = store(dense, StoreOptions(form, always=True))  # type: ignore[arg-type]
        assert len([weight for weight in stored.weights if weight.changed]) == 3
        path = stored.save(tmp_path / f"{form}.onnx")
        assert (len(sparse_reading.names(path)) == 3) == (form == "sparse")
        for yes in (True, False):
            given = {"x": x, "yes": np.array(yes)}
            assert all(map(same, ran(path, given), ran(dense, given)))
        assert read_back(stored, path).ok
        again = densify(models.load(path))[0]
        assert all(
            node.op_type in ("Constant", "MatMul", "If")
            for graph in models.graphs(again)
            for node in graph
        )


@pytest.mark.parametrize("form", ["sparse", "packed"])
def test_quantized_weights_are_stored_too(tmp_path: Path, form: Any) -> None:
    weight = (holey() * 40).astype(np.int8)
    first = [helper.make_node("DequantizeLinear", ["Q", "s"], ["W"])]
    initializer = [
        numpy_helper.from_array(weight, "Q"),
        numpy_helper.from_array(np.array(0.01, np.float32), "s"),
    ]
    dense = tmp_path / "dense.onnx"
    onnx.save(product(holey(), initializer=initializer, first=first), dense)
    stored = store(dense, StoreOptions(form, always=True))
    assert form_of(stored, "Q") != "dense"
    path = stored.save(tmp_path / "stored.onnx")
    given = feeds(dense)
    assert all(map(same, ran(path, given), ran(dense, given)))


def test_what_whoever_runs_the_model_may_replace_stays_dense() -> None:
    weight = holey()
    inputs = [helper.make_tensor_value_info("W", T.FLOAT, list(weight.shape))]
    for version in (3, 9):
        stored = store(
            product(weight, inputs=inputs, ir_version=version), StoreOptions(always=True)
        )
        (only,) = stored.weights
        assert only.form == "dense"
        assert "graph input" in only.excluded
        assert not stored.changed


def test_weights_of_a_very_old_model_lie_in_its_nodes(tmp_path: Path) -> None:
    """Below IR version 4 every stored tensor is an input; decoders need some that are not."""
    held = numpy_helper.from_array(holey(), "c")
    first = [helper.make_node("Constant", [], ["W"], value=held)]
    dense = tmp_path / "dense.onnx"
    onnx.save(product(holey(), initializer=[], first=first, opset=11, ir_version=3), dense)
    for form in ("packed", "sparse"):
        stored = store(dense, StoreOptions(form, always=True))  # type: ignore[arg-type]
        path = stored.save(tmp_path / "stored.onnx")
        assert form_of(stored) != "dense"
        onnx.checker.check_model(path)
        assert len(onnx.load(path).graph.input) == 1
        given = feeds(dense)
        assert all(map(same, ran(path, given), ran(dense, given)))


def test_an_old_operator_set_has_no_decoder_but_sparse_weights() -> None:
    stored = store(product(holey(), opset=9), StoreOptions("auto"))
    assert form_of(stored) == "sparse"
    assert any("opset" in note for note in stored.notes)
    assert form_of(store(product(holey(), opset=9), StoreOptions("packed"))) == "dense"


def test_a_weight_that_is_an_output_stays_dense() -> None:
    """Onnxruntime would return a sparse tensor object for a sparse one."""
    proto = product(holey())
    proto.graph.output.append(helper.make_tensor_value_info("W", T.FLOAT, [64, 32]))
    for form in ("packed", "sparse"):
        (only,) = store(proto, StoreOptions(form, always=True)).weights  # type: ignore[arg-type]
        assert only.form == "dense"
        assert "output" in only.excluded


def test_a_weight_that_many_read_is_decoded_once(tmp_path: Path) -> None:
    proto = product(holey((32, 32)))
    proto.graph.node[0].output[0] = "h"
    proto.graph.node.append(helper.make_node("MatMul", ["h", "W"], ["y"]))
    stored = store(proto, StoreOptions("packed", always=True))
    assert [node.op_type for node in stored.model.ir.graph].count("ScatterElements") == 1
    dense, path = tmp_path / "dense.onnx", stored.save(tmp_path / "stored.onnx")
    onnx.save(proto, dense)
    given = feeds(dense)
    assert all(map(same, ran(path, given), ran(dense, given)))


def test_what_reads_a_packed_weight_stays_as_it_was() -> None:
    """A Transpose of the model's own behind a decoder is none of the decoder's."""
    first = [helper.make_node("Transpose", ["V"], ["W"], perm=[1, 0])]
    proto = product(
        holey(), first=first, initializer=[numpy_helper.from_array(holey().T.copy(), "V")]
    )
    stored = store(proto, StoreOptions("packed", always=True))
    back, names = densify(stored.model)
    assert names == ("V",)
    assert [node.op_type for node in back.ir.graph] == ["Transpose", "MatMul"]
    assert models.structure_hash(back) == models.structure_hash(models.load(proto))


def test_a_decoder_is_known_without_its_mark_and_names(tmp_path: Path) -> None:
    for density, form in ((0.5, "bitmask"), (0.1, "delta4"), (0.02, "delta"), (1.0, "nibble")):
        weight = holey((64, 64), density)
        if form == "nibble":
            weight = np.where(keep_n_of_m(np.abs(weight), 2, 4, 0), weight, np.float32(0))
        stored = store(product(weight), StoreOptions("packed", always=True))
        assert form_of(stored) == form
        proto = onnx.load(stored.save(tmp_path / "m.onnx"))
        del proto.metadata_props[:]
        text = proto.SerializeToString().replace(b"packed/", b"pruned.")
        back, names = densify(models.load(onnx.ModelProto.FromString(text)))
        assert names == ("W",)
        (value,) = models.constants(back).values()
        tensor = models.constant(value)
        assert tensor is not None
        assert same(tensor.numpy(), weight)
        assert [node.op_type for node in back.ir.graph] == ["MatMul"]


def test_auto_takes_the_smallest_form() -> None:
    rng = np.random.default_rng(0)
    paired = rng.standard_normal((512, 64)).astype(np.float32)
    paired = np.where(keep_n_of_m(np.abs(paired), 2, 4, 0), paired, np.float32(0))
    weights = {
        "dense": rng.standard_normal((512, 64)).astype(np.float32),
        "bitmask": holey((512, 64), 0.45),
        "delta4": holey((512, 64), 0.15),
        "delta": holey((512, 64), 0.02),
        "nibble": paired,
    }
    for form, weight in weights.items():
        stored = store(product(weight))
        assert form_of(stored) == form
        (only,) = stored.weights
        sizes = [bytes_of(only, each) for each in ENCODINGS.values()]
        chosen = bytes_of(only, only.encoding)
        assert chosen is not None
        assert all(size is None or chosen <= size for size in sizes)


class Prefix(Packed):
    """The first 16 values; the rest is zeros that are made at load."""

    name = "prefix"
    load_memory = 8

    def size(self, stats: SparsityStats, itemsize: int) -> int | None:
        return 16 * itemsize if stats.nonzeros == 16 else None

    def values(self, slabs: Iterator[Array]) -> Iterator[Array]:
        yield next(slabs)[:16]

    def decode(self, builder: GraphBuilder, stream: Stream) -> Any:
        values = builder.part(stream, "values", self.values, stream.stored, (16,))
        zeros = builder.zeros((stream.stats.size - 16,), stream.work)
        return builder.node("Concat", builder.cast(values, stream.work), zeros, axis=0)


def test_a_new_encoding_is_a_class_and_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = np.zeros((64, 32), np.float32)
    weight[0, :16] = 3
    monkeypatch.setitem(ENCODINGS, "prefix", Prefix())  # type: ignore[arg-type]
    stored = store(product(weight))
    assert form_of(stored) == "prefix"
    path = stored.save(tmp_path / "stored.onnx")
    assert check_stored(stored, path).ok
    assert [row.form for row in stored_rows(stored)] == ["prefix"]


def test_auto_writes_only_what_all_providers_read() -> None:
    proto = product(holey())
    assert form_of(store(proto, StoreOptions(backend=("cpu", "openvino"), always=True))) in PACKED
    for other in ("tensorrt", "cuda"):
        stored = store(proto, StoreOptions(backend=("cpu", other)))
        assert not stored.changed
        assert stored.notes


def test_sparse_is_written_where_openvino_reads_it(tmp_path: Path) -> None:
    proto = product(holey((256, 64)))
    plain = store(proto, StoreOptions("sparse"))
    node = store(proto, StoreOptions("sparse", backend=("openvino",)))
    first, second = (onnx.load(one.save(tmp_path / "m.onnx")) for one in (plain, node))
    assert [each.values.name for each in first.graph.sparse_initializer] == ["W"]
    assert [each.op_type for each in second.graph.node] == ["Constant", "MatMul"]
    assert not second.graph.sparse_initializer
    assert plain.unread != node.unread
    assert any("OpenVINO" in tool for tool in plain.unread)
    assert not any("OpenVINO" in tool for tool in node.unread)


def test_sparse_is_only_written_where_it_is_smaller() -> None:
    for density, form in ((0.5, "dense"), (0.3, "sparse")):
        weight = holey((256, 64), density)
        assert form_of(store(product(weight), StoreOptions("sparse"))) == form
        assert form_of(store(product(weight), StoreOptions("sparse", always=True))) == "sparse"


def test_sparse_values_stay_exact_where_others_are_narrowed(tmp_path: Path) -> None:
    """Values that int8 would round to zero are among those a sparse tensor holds."""
    weight = holey((64, 64), 0.05)
    weight[0, 0] = 1e4
    assert count(np.rint(weight / 80)).nonzeros < count(weight).nonzeros
    stored = store(product(weight), StoreOptions("auto", values="int8", ram_limit=0, always=True))
    assert form_of(stored) == "sparse"
    path = stored.save(tmp_path / "m.onnx")
    assert read_back(stored, path).ok
    assert same(ran(path, {"x": np.eye(64, dtype=np.float32)})[0], weight)


def test_sparse_tensors_are_as_the_standard_wants_them(tmp_path: Path) -> None:
    weight = holey((64, 48))
    path = store(product(weight), StoreOptions("sparse")).save(tmp_path / "m.onnx")
    (held,) = onnx.load(path).graph.sparse_initializer
    assert held.values.name == "W"
    assert held.indices.data_type == T.INT64
    assert list(held.dims) == [64, 48]
    indices = numpy_helper.to_array(held.indices)
    assert indices.ndim == 1
    assert (np.diff(indices) > 0).all()
    assert np.array_equal(indices, np.flatnonzero(weight))
    assert np.array_equal(numpy_helper.to_array(held.values), weight[weight != 0])


def test_memory_for_decoding_is_bounded() -> None:
    proto = product(holey((256, 64), 0.1))
    extra = numpy_helper.from_array(holey((256, 16), 0.1, seed=1), "V")
    proto.graph.initializer.append(extra)
    proto.graph.node.append(helper.make_node("MatMul", ["x", "V"], ["z"]))
    proto.graph.output.append(helper.make_tensor_value_info("z", T.FLOAT, [None, 16]))
    enough = ENCODINGS["delta"].load_memory * 256 * 16
    for form, other in (("packed", "dense"), ("auto", "sparse")):
        stored = store(proto, StoreOptions(form, ram_limit=enough))  # type: ignore[arg-type]
        assert form_of(stored, "V") == "delta"
        assert form_of(stored, "W") == other
        (left,) = [weight for weight in stored.weights if weight.name == "W"]
        assert "memory" in left.remark
    assert not store(proto, StoreOptions("packed", ram_limit=0)).changed


def test_a_decoded_weight_holds_no_other_in_memory(tmp_path: Path) -> None:
    """Vectors are narrowed together, in one stored tensor that a Split divides."""
    path = store(zoo.get("digits_encoder").model, StoreOptions("packed", values="fp16")).save(
        tmp_path / "stored.onnx"
    )
    back, names = densify(models.load(path))
    assert len(names) > 10
    for value in models.constants(back).values():
        tensor = models.constant(value)
        assert tensor is not None
        array = owner = tensor.numpy()
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        assert value.name not in names or owner.nbytes <= array.nbytes


def test_a_table_that_takes_what_it_saves_is_not_written() -> None:
    small = store(product(holey((32, 16), 0.5)))
    assert form_of(small) != "bitmask"
    assert form_of(store(product(holey((512, 64), 0.5)))) == "bitmask"


def test_values_are_only_narrowed_where_something_decodes_them() -> None:
    with pytest.raises(OnnxpruneError, match="values='fp16'"):
        StoreOptions("sparse", values="fp16")
    stored = store(product(holey((64, 64), 1.0)), StoreOptions("packed", values="fp16"))
    (only,) = stored.weights
    assert (only.form, only.narrowed) == ("dense", True)
    assert [node.op_type for node in stored.model.ir.graph] == ["Cast", "MatMul"]
    back, names = densify(stored.model)
    assert names == ("W",)
    assert [node.op_type for node in back.ir.graph] == ["MatMul"]


def test_the_model_given_is_left_as_it_is() -> None:
    proto = product(holey())
    model = models.load(proto)
    before = models.to_proto(model)
    for form in ("sparse", "packed"):
        store(model, StoreOptions(form, always=True))  # type: ignore[arg-type]
        assert models.to_proto(model) == before


def test_storing_again_starts_from_dense(tmp_path: Path) -> None:
    dense = product(holey((256, 64)))
    packed, sparse = (StoreOptions(form, certificate=False) for form in ("packed", "sparse"))
    once = store(dense, packed).save(tmp_path / "once.onnx")
    twice = store(once, packed).save(tmp_path / "twice.onnx")
    assert once.read_bytes() == twice.read_bytes()
    other = store(twice, sparse).save(tmp_path / "sparse.onnx")
    assert other.read_bytes() == store(dense, sparse).save(tmp_path / "s.onnx").read_bytes()


def test_weights_beside_the_model(tmp_path: Path) -> None:
    """Packed and dense weights go beside it; sparse ones stay in it, where readers find them."""
    weight = holey((256, 64), 0.2)
    given = {"x": np.random.default_rng(0).standard_normal((2, 256)).astype(np.float32)}
    dense = tmp_path / "dense.onnx"
    onnx.save(product(weight), dense)
    for form in ("external", "packed", "sparse"):
        stored = store(dense, StoreOptions(form))  # type: ignore[arg-type]
        path = models.save(stored.model, tmp_path / f"{form}.onnx", external=True)
        beside = list(tmp_path.glob(f"{path.name}.*.data"))
        assert len(beside) == (form != "sparse")
        onnx.checker.check_model(path)
        assert all(map(same, ran(path, given), ran(dense, given)))
        assert read_back(stored, path).ok


def test_a_damaged_file_is_noticed(tmp_path: Path) -> None:
    """The check fails when one value, or one bit of a mask, is not what was written."""
    stored = store(product(holey((256, 64), 0.3)), StoreOptions("packed"))
    path = stored.save(tmp_path / "m.onnx")
    assert check_stored(stored, path).ok
    proto = onnx.load(path)
    for part in ("packed/values0", "packed/codes0"):
        damaged = onnx.ModelProto()
        damaged.CopyFrom(proto)
        (tensor,) = [t for t in damaged.graph.initializer if t.name == part]
        array = numpy_helper.to_array(tensor).copy()
        array.view(np.uint8)[77] ^= 4
        tensor.CopyFrom(numpy_helper.from_array(array, part))
        onnx.save(damaged, path)
        assert not read_back(stored, path).ok


def test_counts_see_the_axis_of_two_of_four() -> None:
    weight = np.random.default_rng(0).standard_normal((16, 8, 3, 3)).astype(np.float32)
    for axis in (0, 1):
        kept = np.where(keep_n_of_m(np.abs(weight), 2, 4, axis), weight, np.float32(0))
        content = count(kept)
        assert content.paired == axis
        assert ENCODINGS["nibble"].size(content, 4) == weight.size // 8 + weight.size * 2
    assert count(weight).paired is None


@pytest.mark.heavy
def test_models_above_two_gib(tmp_path: Path) -> None:
    """A dense weight of 2.5 GiB becomes a file of some MB, and comes back."""
    rows, columns = 40_000, 16_384
    data = tmp_path / "dense.bin"
    # Few pages are touched, so that the file takes little room on the disk.
    places = np.random.default_rng(0).integers(0, 1 << 20, 200_000)
    places[::2] += rows * columns - (1 << 20)
    with data.open("wb") as file:
        file.truncate(rows * columns * 4)
    flat = np.memmap(data, np.float32, "r+", shape=(rows * columns,))
    flat[places] = 1.5
    flat.flush()
    proto = product(np.zeros((1, 1), np.float32))
    (tensor,) = proto.graph.initializer
    tensor.CopyFrom(onnx.TensorProto(name="W", data_type=T.FLOAT, dims=[rows, columns]))
    tensor.data_location = T.EXTERNAL
    tensor.external_data.add(key="location", value="dense.bin")
    dense = tmp_path / "dense.onnx"
    dense.write_bytes(proto.SerializeToString())
    for form in ("sparse", "packed"):
        stored = store(dense, StoreOptions(form, ram_limit=1 << 40))  # type: ignore[arg-type]
        path = models.save(stored.model, tmp_path / f"{form}.onnx", external=False)
        assert path.stat().st_size < 20 << 20
        back = models.constants(densify(models.load(path))[0])["W"]
        held = models.constant(back)
        assert held is not None
        assert np.array_equal(np.flatnonzero(held.numpy()), np.unique(places))
