"""What is read, what is refused, and what a loaded model guarantees."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto as T
from onnx import helper

from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.model import (
    clone,
    constant,
    graphs,
    load,
    save,
    structure_hash,
    to_graphsurgeon,
    to_proto,
    values,
)

Array = npt.NDArray[Any]


def run(model: onnx.ModelProto | Path, **feeds: Array) -> list[Array]:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    results: list[Array] = ort.InferenceSession(
        source, options, providers=["CPUExecutionProvider"]
    ).run(None, feeds)
    return results


def linear(weight: Array, **more: Any) -> onnx.ModelProto:
    """y = x @ W with W stored once, inline."""
    rows, columns = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["y"], name="mm")],
        "linear",
        [helper.make_tensor_value_info("x", T.FLOAT, ["n", rows])],
        [helper.make_tensor_value_info("y", T.FLOAT, ["n", columns])],
        [onnx.numpy_helper.from_array(weight, "W")],
    )
    return helper.make_model(
        graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)], **more
    )


@pytest.fixture
def weight() -> Array:
    return np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)


@pytest.fixture
def external(tmp_path: Path, weight: Array) -> Path:
    path = tmp_path / "model" / "m.onnx"
    path.parent.mkdir()
    onnx.save(linear(weight), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


# What is refused ------------------------------------------------------------------------------


def _tensor_file(path: Path) -> None:
    path.write_bytes(onnx.numpy_helper.from_array(np.ones(3000, np.float32)).SerializeToString())


def _truncated(path: Path) -> None:
    data = linear(np.ones((64, 64), np.float32)).SerializeToString()
    path.write_bytes(data[: len(data) // 2])


def _no_graph(path: Path) -> None:
    path.write_bytes(onnx.ModelProto(ir_version=9, producer_name="x").SerializeToString())


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.absolute, "there is no file"),
    "folder": (Path.mkdir, "is a folder"),
    "empty": (Path.touch, "is empty"),
    "text": (lambda path: path.write_text("model: resnet50\nopset: 17\n"), "is not an ONNX model"),
    "noise": (lambda path: path.write_bytes(os.urandom(5000)), "not an ONNX model|holds no graph"),
    "tensor": (_tensor_file, "not an ONNX model|holds no graph"),
    "truncated": (_truncated, "ends in the middle"),
    "no graph": (_no_graph, "holds no graph"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_that_is_no_model_is_refused(
    make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    make(path)
    with pytest.raises(OnnxpruneError, match=message) as caught:
        load(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("keep", range(1, 60, 7))
def test_every_truncation_is_refused(keep: int, tmp_path: Path, weight: Array) -> None:
    data = linear(weight, producer_name="p").SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data[: len(data) * keep // 60])
    with pytest.raises(OnnxpruneError):
        load(path)


@pytest.mark.parametrize("name", ["n" * 300, "a\0b", "none/m.onnx", "file/m.onnx"])
def test_an_impossible_path_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OnnxpruneError, match=r"cannot be read|there is no file"):
        load(tmp_path / name)


def test_something_else_is_refused() -> None:
    with pytest.raises(OnnxpruneError, match="int is not a model"):
        load(3)


def test_missing_external_data_is_refused(external: Path) -> None:
    (external.parent / "w.bin").unlink()
    with pytest.raises(OnnxpruneError, match=r"weight 'W' is stored in 'w\.bin', which is not in"):
        load(external)


@pytest.mark.parametrize("size", [0, 8000])
def test_short_external_data_is_refused(external: Path, size: int) -> None:
    os.truncate(external.parent / "w.bin", size)
    with pytest.raises(OnnxpruneError, match=rf"'W' ends at byte 8192 in w\.bin.*{size} bytes"):
        load(external)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("length", "8191", "needs 8192 bytes, but 8191 are stored"),
        ("offset", "1", "ends at byte 8193"),
        ("offset", "-1", "not a valid ONNX model"),
        ("location", "../w.bin", "outside the folder"),
        ("location", "sub/../../w.bin", "outside the folder"),
        ("location", "/etc/passwd", "outside the folder"),
        ("location", "C:\\w.bin", "outside the folder"),
        ("location", "..\\w.bin", "outside the folder"),
    ],
)
def test_external_data_that_cannot_be_right_is_refused(
    external: Path, field: str, value: str, message: str
) -> None:
    proto = onnx.load(external, load_external_data=False)
    (external.parent.parent / "w.bin").write_bytes(bytes(8192))
    entries = proto.graph.initializer[0].external_data
    kept = {entry.key: entry.value for entry in entries} | {field: value}
    del entries[:]
    for key, content in kept.items():
        entries.add(key=key, value=content)
    external.write_bytes(proto.SerializeToString())
    with pytest.raises(OnnxpruneError, match=message):
        load(external)


def test_a_link_out_of_the_folder_is_refused(external: Path) -> None:
    data = external.parent / "w.bin"
    data.rename(external.parent.parent / "w.bin")
    data.symlink_to(external.parent.parent / "w.bin")
    with pytest.raises(OnnxpruneError, match="outside the folder"):
        load(external)


def test_links_into_one_folder_are_followed(external: Path, weight: Array, tmp_path: Path) -> None:
    """How download caches lay models out: both names link to files elsewhere."""
    named = tmp_path / "snapshot"
    named.mkdir()
    for name in ("m.onnx", "w.bin"):
        (named / name).symlink_to(external.parent / name)
    held = load(named / "m.onnx").ir.graph.initializers["W"].const_value
    assert held is not None
    assert np.array_equal(held.numpy(), weight)
    os.link(external.parent / "w.bin", tmp_path / "hard")
    assert load(named / "m.onnx").path == named / "m.onnx"


def test_external_data_needs_a_folder(external: Path) -> None:
    with pytest.raises(OnnxpruneError, match="passed in memory") as caught:
        load(onnx.load(external, load_external_data=False))
    assert "path" in caught.value.hint


def test_weights_that_do_not_fill_their_shape_are_refused(weight: Array) -> None:
    stripped, raw, typed = linear(weight), linear(weight), linear(weight)
    stripped.graph.initializer[0].ClearField("raw_data")
    raw.graph.initializer[0].raw_data += b"1234"
    typed.graph.initializer[0].ClearField("raw_data")
    typed.graph.initializer[0].float_data.extend([0.5] * 100)
    for proto, message in ((stripped, "but 0 are stored"), (raw, "8196"), (typed, "100")):
        with pytest.raises(OnnxpruneError, match=f"weight 'W'.*{message}"):
            load(proto)


def test_values_from_nowhere_and_cycles_are_refused(weight: Array) -> None:
    dangling, unproduced, cyclic = linear(weight), linear(weight), linear(weight)
    dangling.graph.node[0].input[1] = "V"
    unproduced.graph.output[0].name = "z"
    cyclic.graph.node[0].input[0] = "loop"
    cyclic.graph.node.add(op_type="Neg", input=["y"], output=["loop"])
    for proto, message in (
        (dangling, "node 'mm' reads 'V', which nothing produces"),
        (unproduced, "output 'z' of graph 'linear' is produced by nothing"),
        (cyclic, "cycle"),
    ):
        with pytest.raises(OnnxpruneError, match=message):
            load(proto)


def test_names_used_twice_are_refused(weight: Array) -> None:
    inputs, outputs = linear(weight), linear(weight)
    inputs.graph.input.append(inputs.graph.input[0])
    outputs.graph.node.append(outputs.graph.node[0])
    with pytest.raises(OnnxpruneError, match="two inputs named 'x'"):
        load(inputs)
    with pytest.raises(OnnxpruneError, match="redeclared"):
        load(outputs)


# What is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    [
        *("float64", "float32", "float16", "bfloat16", "complex64", "bool"),
        *("int8", "uint8", "int32", "int64", "int4", "uint4"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz"),
    ],
)
@pytest.mark.parametrize("size", [4, 5, 20_001])
@pytest.mark.parametrize("outside", [False, True])
def test_every_element_type_survives(dtype: str, size: int, outside: bool, tmp_path: Path) -> None:
    held = np.random.default_rng(1).integers(-4, 4, size).astype(getattr(ml_dtypes, dtype, dtype))
    graph = helper.make_graph(
        [helper.make_node("Identity", ["W"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(held.dtype), [size])],
        [onnx.numpy_helper.from_array(held, "W")],
    )
    proto = helper.make_model(graph, ir_version=11, opset_imports=[helper.make_opsetid("", 23)])
    saved = save(load(proto), tmp_path / "m.onnx", external=outside)
    beside = len(list(tmp_path.glob("m.onnx.*.data")))
    assert beside == (outside and size > 5 and held.nbytes >= 8192)
    again = load(saved).ir.graph.initializers["W"].const_value
    assert again is not None
    assert again.numpy().dtype == held.dtype
    assert again.numpy().tobytes() == held.tobytes()
    theirs = onnx.numpy_helper.to_array(onnx.load(saved).graph.initializer[0])
    assert theirs.tobytes() == held.tobytes()


def test_typed_fields_are_read(weight: Array) -> None:
    proto = linear(weight)
    proto.graph.initializer[0].CopyFrom(
        helper.make_tensor("W", T.FLOAT, weight.shape, weight.ravel())
    )
    assert proto.graph.initializer[0].float_data
    held = load(proto).ir.graph.initializers["W"].const_value
    assert held is not None
    assert np.array_equal(held.numpy(), weight)


def test_the_caller_s_objects_stay_as_they_were(weight: Array) -> None:
    proto = linear(weight)
    before = proto.SerializeToString(deterministic=True)
    as_ir = ir.from_proto(proto)
    as_gs = gs.import_onnx(proto)
    for one in (proto, as_ir, as_gs):
        model = clone(load(one))
        for graph in graphs(model):
            for value in list(values(graph)):
                value.name = f"{value.name}!"
        to_proto(model)
    assert proto.SerializeToString(deterministic=True) == before
    assert ir.to_proto(as_ir).graph.node[0].output[0] == "y"
    assert [node.outputs[0].name for node in as_gs.nodes] == ["y"]
    model = load(proto)
    assert load(model) is model


def test_initializers_that_are_inputs_stay_inputs(weight: Array) -> None:
    proto = linear(weight)
    proto.ir_version = 3
    proto.graph.input.append(helper.make_tensor_value_info("W", T.FLOAT, weight.shape))
    model = load(proto)
    value = model.ir.graph.initializers["W"]
    assert value.is_graph_input()
    assert constant(value) is not None
    saved = to_proto(model)
    assert [one.name for one in saved.graph.input] == ["x", "W"]
    assert [one.name for one in saved.graph.initializer] == ["W"]


def test_what_onnx_ir_drops_is_kept(weight: Array) -> None:
    proto = linear(weight, producer_name="p", producer_version="1", domain="d", model_version=3)
    proto.doc_string = "about"
    proto.metadata_props.add(key="k", value="v")
    proto.opset_import.add(domain="com.example.unused", version=7)
    training = proto.training_info.add()
    training.algorithm.name = "sgd"
    training.update_binding.add(key="W", value="W2")
    proto.graph.node.add(op_type="ZipMap", domain="ai.onnx.ml", input=["y"], output=["probability"])
    proto.opset_import.add(domain="ai.onnx.ml", version=3)
    proto.graph.output.add(name="probability").type.CopyFrom(
        helper.make_sequence_type_proto(
            helper.make_map_type_proto(T.INT64, helper.make_tensor_type_proto(T.FLOAT, None))
        )
    )
    proto.graph.node[0].doc_string = "node doc"
    proto.graph.node[0].metadata_props.add(key="nk", value="nv")
    proto.graph.quantization_annotation.add(tensor_name="W").quant_parameter_tensor_names.add(
        key="SCALE_TENSOR", value="W"
    )
    again = to_proto(clone(load(proto)))
    for field in proto.DESCRIPTOR.fields:
        if field.name != "graph":
            assert str(getattr(again, field.name)) == str(getattr(proto, field.name)), field.name
    assert again.graph.node == proto.graph.node
    assert again.graph.input == proto.graph.input
    assert again.graph.output == proto.graph.output
    assert again.graph.quantization_annotation == proto.graph.quantization_annotation


def test_unordered_nodes_are_put_in_order_and_ordered_ones_left_alone(weight: Array) -> None:
    proto = linear(weight)
    proto.graph.node[0].output[0] = "h"
    proto.graph.node.add(op_type="Relu", input=["h"], output=["y"])
    proto.graph.node.add(op_type="Neg", input=["x"], output=["unused"])
    ordered = [node.op_type for node in load(proto).ir.graph]
    assert ordered == ["MatMul", "Relu", "Neg"]
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(proto)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(reversed(proto.graph.node))
    onnx.checker.check_model(to_proto(load(shuffled)))


TWO_BODIES = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[2] x, bool c) => (float[2] y)
{
  h = Neg(x)
  y = If (c) <
    then_branch = a () => (float[2] r) { t = Neg(h) r = Relu(t) },
    else_branch = b () => (float[2] r) {
      t = Abs(h)
      r = If (c) <
        then_branch = d () => (float[2] r2) { t2 = Neg(t) r2 = Relu(t2) },
        else_branch = e () => (float[2] r2) { t2 = Abs(t) r2 = Neg(t2) } >
    } >
}
"""


def test_names_shared_by_bodies_are_told_apart() -> None:
    proto = onnx.parser.parse_model(TWO_BODIES)
    model = load(proto)
    names = [value.name for graph in graphs(model) for value in values(graph)]
    assert len(names) == len(set(names))
    assert {"x", "c", "h", "y"} <= set(names)
    assert [graph.name for graph in graphs(model)] == ["g", "a", "b", "d", "e"]
    x = np.array([1.0, -2.0], np.float32)
    for c in (True, False):
        ours, theirs = (run(one, x=x, c=np.array(c)) for one in (to_proto(model), proto))
        assert np.array_equal(ours[0], theirs[0])


def test_annotations_follow_renamed_values() -> None:
    proto = onnx.parser.parse_model(TWO_BODIES)
    for attribute in proto.graph.node[1].attribute:
        note = attribute.g.quantization_annotation.add(tensor_name="t")
        note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="t")
        note.quant_parameter_tensor_names.add(key="ZERO_POINT_TENSOR", value="h")
    for attribute in to_proto(load(proto)).graph.node[1].attribute:
        (note,) = attribute.g.quantization_annotation
        roles = {entry.key: entry.value for entry in note.quant_parameter_tensor_names}
        assert roles == {"SCALE_TENSOR": note.tensor_name, "ZERO_POINT_TENSOR": "h"}
        assert note.tensor_name in {name for node in attribute.g.node for name in node.output}


@given(
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1),
    which=st.sampled_from(["bodies", "functions", "weights"]),
)
@settings(max_examples=200)
def test_a_damaged_model_is_read_or_refused(edits: list[tuple[float, int]], which: str) -> None:
    """Whatever bytes are changed, the outcome is a usable model or one clear error."""
    text = {"bodies": TWO_BODIES, "functions": FUNCTIONS.replace("FOREIGN", "17")}
    proto = onnx.parser.parse_model(text[which]) if which in text else linear(np.ones((9, 9)))
    data = bytearray(proto.SerializeToString())
    for place, byte in edits:
        data[int(place * len(data))] = byte
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(data)
        try:
            model = load(path)
        except OnnxpruneError:
            return
        structure_hash(model)
        assert structure_hash(load(save(clone(model), Path(folder) / "again.onnx")))


FUNCTIONS = """
<ir_version: 9, opset_import: ["" : 17, "loc" : 1]>
g (float[2, 3] x, bool c) => (float[2, 3] y, float[2, 3] z, float[2, 3] w)
{
  y, t = loc.f <alpha = 2.0> (x)
  z = If (c) <
    then_branch = a () => (float[2, 3] r) { r, q = loc.f(t) },
    else_branch = b () => (float[2, 3] r) { r = Neg(x) } >
  w, u = loc.f(y)
}
<opset_import: ["" : FOREIGN, "loc" : 1], domain: "loc">
f <alpha: float = 3.0> (a) => (b, a)
{
  k = Constant <value_float: float = @alpha> ()
  q = loc.inner(a)
  b = Mul(q, k)
}
<opset_import: ["" : FOREIGN], domain: "loc">
inner (a) => (b) { b = LAST(a) }
"""
"""Nested, with default and given attributes, called from a body, passing an input through."""


@pytest.mark.parametrize("opset", [17, 16])
def test_functions_are_written_out(opset: int) -> None:
    text = FUNCTIONS.replace("FOREIGN", str(opset)).replace("LAST", "Relu")
    model = load(onnx.parser.parse_model(text))
    assert not model.ir.functions
    assert [value.name for value in model.ir.graph.inputs] == ["x", "c"]
    assert [value.name for value in model.ir.graph.outputs] == ["y", "z", "w"]
    x = np.arange(6, dtype=np.float32).reshape(2, 3) - 2
    for c in (True, False):
        y, z, w = run(to_proto(model), x=x, c=np.array(c))
        assert np.array_equal(y, np.maximum(x, 0) * 2)
        assert np.array_equal(z, np.maximum(x, 0) * 3 if c else -x)
        assert np.array_equal(w, np.maximum(y, 0) * 3)


def test_a_function_of_another_opset_is_refused_where_it_matters() -> None:
    text = FUNCTIONS.replace("FOREIGN", "12").replace("LAST", "Relu")
    with pytest.raises(OnnxpruneError, match="function 'f' uses Constant of opset 12"):
        load(onnx.parser.parse_model(text))


def test_functions_that_call_each_other_are_refused() -> None:
    text = FUNCTIONS.replace("FOREIGN", "17").replace("LAST(a)", "loc.inner(a)")
    with pytest.raises(OnnxpruneError, match="function cannot be written out"):
        load(onnx.parser.parse_model(text))


def test_functions_keep_their_weights_outside(tmp_path: Path) -> None:
    """A Constant of a function body, stored as external data, is mapped where it is called."""
    held = np.random.default_rng(2).standard_normal(3000).astype(np.float32)
    (tmp_path / "w.bin").write_bytes(held.tobytes())
    proto = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 17, "loc" : 1]>
        g (float[3000] x) => (float[3000] y) { h = loc.f(x) y = loc.f(h) }
        <opset_import: ["" : 17], domain: "loc">
        f (a) => (b) { k = Constant <value_float = 1.0> () b = Mul(a, k) }
    """)
    attribute = proto.functions[0].node[0].attribute[0]
    attribute.Clear()
    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
    attribute.t.data_type, attribute.t.data_location = T.FLOAT, T.EXTERNAL
    attribute.t.dims.append(3000)
    attribute.t.external_data.add(key="location", value="w.bin")
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    saved = save(load(path), tmp_path / "out.onnx")
    assert len(list(tmp_path.glob("out.onnx.*.data"))) == 1
    x = np.ones(3000, np.float32)
    assert np.array_equal(run(saved, x=x)[0], x * held * held)


# Graphs of other libraries --------------------------------------------------------------------


def test_graphsurgeon_there_and_back(weight: Array) -> None:
    proto = linear(weight, producer_name="p")
    proto.metadata_props.add(key="k", value="v")
    proto.doc_string = "about"
    model = load(proto)
    graph = to_graphsurgeon(model)
    assert isinstance(graph, gs.Graph)
    again = load(graph)
    assert structure_hash(again) == structure_hash(model)
    back = to_proto(again)
    for field in ("ir_version", "producer_name", "doc_string", "opset_import", "metadata_props"):
        assert str(getattr(back, field)) == str(getattr(to_proto(model), field)), field
    x = np.random.default_rng(3).standard_normal((2, 64)).astype(np.float32)
    assert np.array_equal(run(back, x=x)[0], run(proto, x=x)[0])


def test_a_model_gives_its_message_and_graph(
    weight: Array, capfd: pytest.CaptureFixture[str]
) -> None:
    proto = linear(weight)
    model = load(proto)
    message = model.to_proto()
    onnx.checker.check_model(message)
    assert [node.op_type for node in message.graph.node] == [n.op_type for n in proto.graph.node]
    graph = model.to_graphsurgeon()
    graph.nodes[0].name = "renamed"
    assert model.ir.graph[0].name != "renamed"
    assert load(graph).ir.graph[0].name == "renamed"
    load(gs.import_onnx(proto))  # a graph that was not made here
    assert capfd.readouterr() == ("", "")


def test_graphsurgeon_edits_are_seen(weight: Array) -> None:
    graph = to_graphsurgeon(load(linear(weight)))
    graph.tensors()["W"].values = weight * 2
    held = load(graph).ir.graph.initializers["W"].const_value
    assert held is not None
    assert np.array_equal(held.numpy(), weight * 2)


def test_a_graphsurgeon_graph_that_cannot_be_exported_is_refused(weight: Array) -> None:
    graph = to_graphsurgeon(load(linear(weight)))
    graph.outputs[0].dtype = None
    with pytest.raises(OnnxpruneError, match="cannot export"):
        load(graph)


def test_onnx_ir_models_are_accepted(external: Path, weight: Array) -> None:
    rootless = ir.load(external)
    tensor = rootless.graph.initializers["W"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    rootless.graph.initializers["W"].const_value = ir.ExternalTensor(
        tensor.path, 0, tensor.length, tensor.dtype, shape=ir.Shape(weight.shape), name="W"
    )
    for given_model in (ir.load(external), rootless):
        model = load(given_model)
        held = model.ir.graph.initializers["W"].const_value
        assert held is not None
        assert np.array_equal(held.numpy(), weight)
        with pytest.raises(OnnxpruneError, match="being read"):
            save(model, external.with_name("w.bin"))
        saved = save(model, external.with_name("saved.onnx"))
        (data,) = saved.parent.glob("saved.onnx*.data")  # that of the first model is gone
        assert data.read_bytes() == weight.tobytes()
    (external.parent / "w.bin").unlink()
    with pytest.raises(OnnxpruneError, match="which is not in"):
        load(ir.load(external))


def test_the_reason_of_another_library_is_one_line(tmp_path: Path) -> None:
    proto = onnx.load(zoo.get("digits_mlp").model)
    proto.graph.node[0].op_type = "Mish"  # a function, whose body is looked up by version
    proto.opset_import[0].version = 1 << 40
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(OnnxpruneError, match="is not a valid ONNX model") as caught:
        load(path)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 600


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_regular_file_is_called_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(OnnxpruneError, match="is a named pipe"):
        load(tmp_path / "pipe.onnx")
    with pytest.raises(OnnxpruneError, match="is a device"):
        load("/dev/null")


def test_a_node_without_its_inputs_is_refused() -> None:
    """Where its operator cannot do without them; a name with a line break stays one line."""
    x, y = (helper.make_tensor_value_info(name, 1, [2]) for name in "xy")
    nodes = [
        helper.make_node("Gather", ["x"], ["a"], name="a\nb"),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(OnnxpruneError, match="has 1 inputs, and Gather takes at least 2") as error:
        load(model)
    assert error.value.message.startswith(r"node 'a\nb'")
