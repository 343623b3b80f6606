"""Opening and running models: taps, weights by reference, element types, complaints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.runtime import available, open_session
from onnxprune.runtime.embed import embed, with_sizes
from onnxprune.runtime.providers import runtime

VERSION = tuple(int(part) for part in runtime().__version__.split(".")[:2])
FLOAT = TensorProto.FLOAT
FOUR_BITS = pytest.mark.skipif(VERSION < (1, 24), reason="onnxruntime 1.24 takes 4-bit tensors")
value = helper.make_tensor_value_info


def build(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, Any] | None = None,
    *,
    opset: int = 18,
    ir_version: int = 9,
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    stored = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    made = helper.make_model(graph, opset_imports=opsets)
    made.ir_version = ir_version
    return made


def mlp(*, width: int = 400, opset: int = 18, ir_version: int = 9) -> onnx.ModelProto:
    """x [N, 8] -> a = x W1 -> r = Relu(a) -> y = r W2; W1 and W2 exceed the by-reference size."""
    rng = np.random.default_rng(0)
    weights = {
        "W1": rng.standard_normal((8, width * 16)).astype(np.float32),
        "W2": rng.standard_normal((width * 16, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "W1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "W2"], ["y"]),
    ]
    return build(
        nodes,
        [value("x", FLOAT, ["N", 8])],
        [value("y", FLOAT, ["N", 4])],
        weights,
        opset=opset,
        ir_version=ir_version,
    )


def feed(rows: int = 3) -> dict[str, npt.NDArray[Any]]:
    return {"x": np.random.default_rng(1).standard_normal((rows, 8)).astype(np.float32)}


def test_the_signature_keeps_symbolic_names_and_types() -> None:
    session = open_session(models.load(mlp()))
    assert [str(spec) for spec in session.inputs] == ["x: float32 [N, 8]"]
    assert session.provider == "cpu"
    assert "cpu" in available()


@pytest.mark.parametrize("optimise", [True, False])
def test_taps_return_what_numpy_computes(optimise: bool) -> None:
    proto = mlp()
    session = open_session(
        models.load(proto), outputs=["a", "r", "x", "W1"], optimise=optimise, threads=1
    )
    feeds = feed()
    found = session.run(feeds)
    W1, W2 = (numpy_helper.to_array(one) for one in proto.graph.initializer)
    a = feeds["x"] @ W1
    assert list(found) == ["y", "a", "r", "W1", "x"]
    np.testing.assert_allclose(found["a"], a, atol=1e-4)
    np.testing.assert_allclose(found["r"], np.maximum(a, 0), atol=1e-4)
    np.testing.assert_allclose(found["y"], np.maximum(a, 0) @ W2, rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(found["x"], feeds["x"])
    np.testing.assert_array_equal(found["W1"], W1)
    assert list(session.run(feeds, outputs=["r"])) == ["r"]
    assert list(session.run(feeds, outputs=["x"])) == ["x"]


@pytest.mark.parametrize(("spin", "said"), [(None, "0"), (True, ""), (False, "0")])
def test_threads_of_a_loaded_model_sleep_unless_told(spin: bool | None, said: str) -> None:
    session = open_session(models.load(mlp()), spin=spin)
    key = "session.intra_op.allow_spinning"
    settings = session.handle.get_session_options()
    assert (settings.get_session_config_entry(key) if said else "") == said
    assert open_session(mlp().SerializeToString()).run(feed()).keys() == session.run(feed()).keys()


@pytest.mark.parametrize("arena", [True, False])
def test_results_outlive_the_session_and_later_runs(arena: bool) -> None:
    entry = zoo.get("digits_rescnn")
    x = zoo.calibration(entry)
    feeds = [{k: v[at : at + 4] for k, v in x.items()} for at in (0, 4, 8)]
    session = open_session(models.load(entry.model), arena=arena)
    assert session.handle.get_session_options().enable_cpu_mem_arena is arena
    (one, copy), *_ = [
        (found, {k: v.copy() for k, v in found.items()}) for found in map(session.run, feeds)
    ]
    del session
    assert all(np.array_equal(one[k], copy[k]) for k in copy)


def test_tapping_leaves_the_model_as_it_was() -> None:
    model = models.load(mlp())
    before = models.to_proto(model).SerializeToString(deterministic=True)
    open_session(model, outputs=["a"])
    with_sizes(model, ["a"])
    assert models.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("kind", ["path", "bytes", "model"])
def test_every_way_to_name_a_model_gives_the_same(kind: str, tmp_path: Path) -> None:
    proto = mlp()
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    source = {"path": path, "bytes": proto.SerializeToString(), "model": models.load(path)}[kind]
    want = open_session(str(path)).run(feed())["y"]
    np.testing.assert_allclose(open_session(source).run(feed())["y"], want, atol=1e-3)
    tapped = open_session(source, outputs=["r"]).run(feed())
    np.testing.assert_allclose(tapped["y"], want, atol=1e-3)
    assert tapped["r"].shape == (3, 6400)


@pytest.mark.parametrize(
    ("number", "dtype"),
    [
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
        (TensorProto.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn),
        (TensorProto.DOUBLE, np.float64),
        (TensorProto.INT32, np.int32),
        (TensorProto.UINT8, np.uint8),
        pytest.param(TensorProto.INT4, ml_dtypes.int4, marks=FOUR_BITS),
        pytest.param(TensorProto.UINT4, ml_dtypes.uint4, marks=FOUR_BITS),
        (TensorProto.BOOL, np.bool_),
    ],
)
def test_every_element_type_can_be_tapped(number: int, dtype: Any) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["t"], to=number),
        helper.make_node("Cast", ["t"], ["y"], to=FLOAT),
    ]
    proto = build(
        nodes, [value("x", FLOAT, ["N"])], [value("y", FLOAT, ["N"])], opset=21, ir_version=10
    )
    x = np.array([0, 1, 2, 7, 3], np.float32)
    found = open_session(models.load(proto), outputs=["t"], optimise=False).run({"x": x})
    assert found["t"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found["t"].astype(np.float32), x.astype(dtype).astype(np.float32))


def test_bfloat16_can_be_fed_and_stored() -> None:
    weight = np.arange(256 * 256).reshape(256, 256).astype(ml_dtypes.bfloat16)
    tensor = ir.to_proto(ir.Tensor(weight, name="W"))
    nodes = [
        helper.make_node("Cast", ["W"], ["w"], to=FLOAT),
        helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    proto = build(
        nodes, [value("x", TensorProto.BFLOAT16, ["N", 256])], [value("y", FLOAT, ["N", 256])]
    )
    proto.graph.initializer.append(tensor)
    x = np.eye(3, 256).astype(ml_dtypes.bfloat16)
    session = open_session(models.load(proto), outputs=["x"])
    assert str(session.inputs[0]) == "x: bfloat16 [N, 256]"
    found = session.run({"x": x})
    np.testing.assert_array_equal(found["y"], weight[:3].astype(np.float32))
    assert found["x"].dtype == x.dtype


def conditional(weight: npt.NDArray[np.float32]) -> onnx.ModelProto:
    """y = If(flag): then x W (W stored in the branch), else x C (C from a Constant node)."""
    tensors = [numpy_helper.from_array(weight, "W"), numpy_helper.from_array(2 * weight, "")]
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["p"], name="inside")],
        "then",
        [],
        [value("p", FLOAT, ["N", weight.shape[1]])],
        [tensors[0]],
    )
    other = helper.make_graph(
        [
            helper.make_node("Constant", [], ["C"], value=tensors[1]),
            helper.make_node("MatMul", ["x", "C"], ["q"]),
        ],
        "else",
        [],
        [value("q", FLOAT, ["N", weight.shape[1]])],
    )
    node = helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other, name="gate")
    inputs = [value("x", FLOAT, ["N", 8]), value("flag", TensorProto.BOOL, [])]
    outputs = [value("y", FLOAT, ["N", weight.shape[1]])]
    return build([node], inputs, outputs)


def test_large_weights_of_bodies_are_passed_by_reference_too() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 4096)).astype(np.float32)
    model = models.load(conditional(weight))
    embedded = embed(model)
    assert {one.name for one in embedded.weights} == {"W", "C"}
    assert len(embedded.graph) < weight.nbytes // 16
    session = open_session(model)
    for flag, factor in ((True, 1), (False, 2)):
        found = session.run(feed() | {"flag": np.array(flag)})["y"]
        np.testing.assert_allclose(found, feed()["x"] @ (factor * weight), atol=1e-4)


def test_a_body_that_puts_out_a_large_weight_keeps_it() -> None:
    weight = np.ones((8, 4096), np.float32)
    branches = [
        helper.make_graph(
            [], name, [], [value(name, FLOAT, [8, 4096])], [numpy_helper.from_array(array, name)]
        )
        for name, array in (("t", weight), ("e", 2 * weight))
    ]
    node = helper.make_node("If", ["flag"], ["w"], then_branch=branches[0], else_branch=branches[1])
    last = helper.make_node("MatMul", ["x", "w"], ["y"])
    inputs = [value("x", FLOAT, ["N", 8]), value("flag", TensorProto.BOOL, [])]
    proto = build([node, last], inputs, [value("y", FLOAT, ["N", 4096])])
    found = open_session(models.load(proto)).run(feed() | {"flag": np.array(False)})["y"]
    np.testing.assert_allclose(found, feed()["x"] @ (2 * weight), atol=1e-4)


def test_values_inside_bodies_are_refused_by_name() -> None:
    model = models.load(conditional(np.ones((8, 4), np.float32)))
    with pytest.raises(
        OnnxpruneError, match=r"'p' cannot be observed: .* body of the If node 'gate'"
    ):
        open_session(model, outputs=["p"])
    with pytest.raises(OnnxpruneError, match="no value 'nothing'"):
        open_session(model, outputs=["nothing"])


def test_ir_version_3_works_where_initializers_are_inputs() -> None:
    proto = mlp(opset=8, ir_version=3)
    for one in proto.graph.initializer:
        proto.graph.input.append(value(one.name, FLOAT, list(one.dims)))
    session = open_session(models.load(proto), outputs=["r"])
    assert [spec.name for spec in session.inputs] == ["x"]
    assert session.run(feed())["r"].shape == (3, 6400)


@pytest.mark.parametrize("external", [True, False])
def test_weights_are_handed_over_where_they_are(tmp_path: Path, external: bool) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(mlp(), path, save_as_external_data=external, location="m.data", size_threshold=0)
    want = open_session(path).run(feed())
    model = models.load(path)
    embedded = embed(model, ["r"])
    assert {one.name for one in embedded.weights} == {"W1", "W2"}
    assert len(embedded.graph) < 2048
    for one in embedded.weights:
        tensor = models.constant(models.constants(model)[one.name])
        assert tensor is not None
        assert np.shares_memory(one.data, tensor.numpy())
    session = open_session(model, outputs=["r"])
    del model, embedded  # the session alone must keep the weights alive
    np.testing.assert_allclose(session.run(feed())["y"], want["y"], atol=1e-3)


def resident() -> int | None:
    """Bytes of physical memory this process holds, where the system tells."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return None
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_model_above_two_gib_is_tapped_without_reading_its_weights(tmp_path: Path) -> None:
    rows, width = 2200, 262144  # 2.3 GB of float32 in a file that is one hole
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(rows * width * 4)
        file.seek(7 * width * 4)
        file.write(np.arange(4, dtype=np.float32).tobytes())
    nodes = [
        helper.make_node("Gather", ["W", "i"], ["row"]),
        helper.make_node("ReduceSum", ["row"], ["y"], keepdims=0),
    ]
    proto = build(nodes, [value("i", TensorProto.INT64, ["N"])], [value("y", FLOAT, [])])
    weight = proto.graph.initializer.add(name="W", data_type=FLOAT, dims=[rows, width])
    weight.data_location = TensorProto.EXTERNAL
    for key, text in (("location", "w.bin"), ("offset", "0"), ("length", str(rows * width * 4))):
        weight.external_data.add(key=key, value=text)
    onnx.save(proto, tmp_path / "m.onnx")
    session = open_session(models.load(tmp_path / "m.onnx"), outputs=["row"])
    before = resident()
    found = session.run({"i": np.array([7])})
    assert float(found["y"]) == 6.0
    np.testing.assert_array_equal(found["row"][0, :5], [0, 1, 2, 3, 0])
    if before is not None and VERSION >= (1, 31):  # measured there; 1.24 copies
        after = resident()
        assert after is not None
        assert max(before, after) < 2**30


@FOUR_BITS
def test_four_bit_weights_are_handed_over_packed(tmp_path: Path) -> None:
    codes = np.arange(512 * 512).reshape(512, 512) % 16 - 8
    weight = ir.Tensor(codes.astype(ml_dtypes.int4), name="W")
    nodes = [
        helper.make_node("DequantizeLinear", ["W", "s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    inputs, outputs = [value("x", FLOAT, ["N", 512])], [value("y", FLOAT, ["N", 512])]
    proto = build(nodes, inputs, outputs, {"s": np.float32(0.5)}, opset=21, ir_version=10)
    proto.graph.initializer.append(ir.to_proto(weight))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.data", size_threshold=1024)
    model = models.load(path)
    assert len(embed(model).graph) < 1024
    x = np.eye(2, 512, dtype=np.float32)
    found = open_session(model, outputs=["w"]).run({"x": x})
    np.testing.assert_allclose(found["y"], codes[:2] * 0.5)


def test_sizes_count_the_elements_of_each_value() -> None:
    model, sizes = with_sizes(models.load(mlp()), ["a", "y", "x"])
    found = open_session(model).run(feed(5))
    assert {name: int(found[out]) for name, out in sizes.items()} == {
        "a": 5 * 6400,
        "y": 20,
        "x": 40,
    }


def test_missing_operators_are_named() -> None:
    for domain, known in (("my.domain", ("my.domain",)), ("", ())):
        node = helper.make_node("Frobnicate", ["x"], ["y"], name="odd", domain=domain)
        proto = build([node], [value("x", FLOAT, [2])], [value("y", FLOAT, [2])], domains=known)
        with pytest.raises(OnnxpruneError, match=f"{domain or 'ai.onnx'}.Frobnicate") as caught:
            open_session(models.load(proto))
        assert caught.value.hint
        assert "ONNXRuntimeError" not in caught.value.message


def test_missing_kernels_are_named() -> None:
    node = helper.make_node("Identity", ["x"], ["y"], name="odd")
    four = TensorProto.INT4
    io = [value("x", four, [2])], [value("y", four, [2])]
    proto = build([node], *io, opset=21, ir_version=10)
    with pytest.raises(OnnxpruneError, match=r"implements no operator .*Identity.*'odd'"):
        open_session(models.load(proto))


def test_feeds_that_do_not_fit_are_answered_with_the_signature() -> None:
    session = open_session(models.load(mlp()))
    for feeds in ({}, {"x": np.ones((3, 9), np.float32)}, {"x": np.ones((3, 8))}):
        with pytest.raises(OnnxpruneError) as caught:
            session.run(feeds)
        assert "x: float32 [N, 8]" in caught.value.hint
    with pytest.raises(OnnxpruneError, match="nothing is fed to 'x'"):
        open_session(models.load(mlp()), outputs=["x"]).run({}, ["x"])


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OnnxpruneError, match="no model file"):
        open_session(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"garbage")
    with pytest.raises(OnnxpruneError, match=r"cannot load .*bad\.onnx"):
        open_session(tmp_path / "bad.onnx")
    old = mlp()
    del old.opset_import[:]
    with pytest.raises(OnnxpruneError, match="Missing opset") as complaint:
        open_session(old.SerializeToString())
    assert ".cc:" not in complaint.value.message
    assert "Logger" not in complaint.value.message
    with pytest.raises(OnnxpruneError, match="'gpu3000' is not an execution provider"):
        open_session(models.load(mlp()), provider="gpu3000")
    absent = next(name for name in ("coreml", "dml", "cann") if name not in available())
    with pytest.raises(OnnxpruneError, match=f"'{absent}' is not available here") as caught:
        open_session(models.load(mlp()), provider=absent)
    assert "cpu" in caught.value.hint


def test_without_onnxruntime_the_hint_is_a_pip_line() -> None:
    program = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from onnxprune.runtime import available, open_session\n"
        "from onnxprune.errors import OnnxpruneError\n"
        "assert available() == ()\n"
        "try: open_session(b'')\n"
        "except OnnxpruneError as error: print(error.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert "pip install 'onnxprune[cpu]'" in done.stdout


def test_openvino_agrees_with_the_cpu_provider() -> None:
    if "openvino" not in available():
        pytest.skip("onnxruntime-ep-openvino is not installed")
    model, options = (
        models.load(mlp()),
        {"load_config": '{"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}'},
    )
    want = open_session(model, outputs=["r"]).run(feed())
    for _ in range(2):  # a plug-in may only be registered once per process
        session = open_session(model, provider="openvino", outputs=["r"], options=options)
        assert session.provider == "openvino"
        np.testing.assert_allclose(session.run(feed())["r"], want["r"], atol=1e-3)
