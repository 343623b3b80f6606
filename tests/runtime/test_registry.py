"""Backends by name: their contract, what is said of those that are missing, and plug-ins."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.runtime import registry, tensorrt, trtexec
from onnxprune.runtime.interface import Availability, Backend, Feeds, Request, Session, Source
from onnxprune.runtime.registry import backend, backends, parse
from onnxprune.testing import check_backend

Cli = Callable[..., Any]
NAMES = [each.name for each in backends()]


def usable(name: str) -> Backend:
    found = backend(name)
    state = found.available()
    if not state.ok:
        pytest.skip(f"{name}: {state.reason}")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_backend_that_is_here_keeps_the_contract(name: str) -> None:
    small = ("digits_rescnn", "chars_decoder")
    check_backend(usable(name), models=zoo.names() if name in ("cpu", "openvino") else small)


@pytest.mark.parametrize("name", NAMES)
def test_a_backend_that_is_not_here_says_why_and_how_to_get_it(name: str) -> None:
    found = backend(name)
    state = found.available()
    assert state.ok == (not state.reason)
    if state.ok:
        return
    with pytest.raises(OnnxpruneError) as caught:
        found.open(zoo.get("digits_mlp").model)
    assert state.reason in caught.value.message
    assert found.install in caught.value.hint


class Wrapped:
    """A cpu runner that breaks one rule."""

    def __init__(self, inner: Session, how: str) -> None:
        self.inner, self.how = inner, how
        self.inputs, self.outputs, self.precision = inner.inputs, inner.outputs, inner.precision
        self.calls = 0

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> dict[str, Any]:
        self.calls += 1
        if outputs is not None and self.how != "does not tap":
            return self.inner.run(feeds, outputs)
        if self.how == "casts":
            feeds = {k: np.asarray(a, "f4") for k, a in feeds.items()}
        found = {k: v.copy() for k, v in self.inner.run(feeds).items()}
        if self.how == "wrong":
            return {k: v * np.float32(1.01) for k, v in found.items()}
        if self.how == "drifts":
            return {k: v + np.float32(1e-6 * self.calls) for k, v in found.items()}
        if self.how == "batch":
            return {k: v[:1] for k, v in found.items()}
        return found

    def close(self) -> None:
        if self.how != "stays open":
            self.inner.close()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("wrong", "is off by"),
        ("drifts", "two runs on the same feeds differ"),
        ("batch", r"is \(1, 10\), not \(3, 10\)"),
        ("casts", "another element type"),
        ("stays open", "after it was closed"),
        ("does not tap", "it puts out"),
        ("has no profile", "claims a profile"),
    ],
)
def test_the_conformance_check_finds_what_it_is_for(how: str, message: str) -> None:
    def opener(model: Source, request: Request) -> Session:
        settings = {"threads": request.threads, "outputs": request.outputs}
        return Wrapped(backend("cpu").open(model, **settings), how)

    bad = dataclasses.replace(backend("cpu"), name="bad", opener=opener)
    with pytest.raises(AssertionError, match=message):
        check_backend(bad, models=("digits_mlp",))


def test_names_are_looked_up_with_a_suggestion() -> None:
    assert backend("ORT-CPU") is backend("cpu")
    assert backend("openvino:f32") is backend("openvino")
    assert [each.name for each in parse("cpu, openvino,cpu")] == ["cpu", "openvino"]
    with pytest.raises(OnnxpruneError) as caught:
        backend("opnvino")
    assert "'openvino'" in caught.value.hint
    with pytest.raises(OnnxpruneError, match="names no backend"):
        parse(" , ")


def made_elsewhere() -> Backend:
    return dataclasses.replace(backend("cpu"), name="elsewhere")


def test_a_plug_in_is_found_by_entry_point_and_a_broken_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def points(values: dict[str, str]) -> None:
        found = [EntryPoint(n, v, registry.ENTRY_POINTS) for n, v in values.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: found)  # noqa: ARG005

    points({"elsewhere": "test_registry:made_elsewhere"})
    assert "elsewhere" in {each.name for each in backends()}
    check_backend("elsewhere", models=("digits_mlp",))
    points({"other": "test_registry:made_elsewhere"})
    with pytest.raises(OnnxpruneError, match="is none of that name"):
        backend("other")
    points({"broken": "no_such_module:BACKEND"})
    with pytest.raises(OnnxpruneError, match=r"'broken' of .* cannot be imported"):
        backend("broken")


@pytest.mark.parametrize("name", ["cpu", "openvino", "ort-openvino"])
def test_a_loaded_model_and_its_file_give_the_same(name: str) -> None:
    chosen, entry = usable(name), zoo.get("digits_encoder")
    feeds = {key: array[:2] for key, array in zoo.calibration(entry).items()}
    found = [
        chosen.open(each, threads=1).run(feeds)["logits"]
        for each in (entry.model, models.load(entry.model))
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


@pytest.mark.parametrize("name", [n for n in NAMES if "openvino" in n and "default" not in n])
def test_the_stated_precision_is_the_one_computed_in(name: str) -> None:
    """A product of 512 terms is off by what the mantissa of the stated type lets it be."""
    chosen = usable(name)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((512, 64)).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["n", 512])],
        [value("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    runner = chosen.open(models.load(proto))
    x = rng.standard_normal((8, 512)).astype(np.float32)
    want = x.astype(np.float64) @ weight
    error = np.linalg.norm(runner.run({"x": x})["y"] - want) / np.linalg.norm(want)
    low, high = {"f32": (0, 1e-5), "f16": (1e-5, 2e-3), "bf16": (1e-3, 2e-2)}[runner.precision]
    assert low <= error <= high


def test_openvino_refuses_what_it_would_read_wrongly(tmp_path: Path) -> None:
    chosen = usable("openvino")
    value = helper.make_tensor_value_info
    values = numpy_helper.from_array(np.ones(2, np.float32), "w")
    indices = numpy_helper.from_array(np.array([0, 3]), "w_at")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [1, 2])],
        [value("y", TensorProto.FLOAT, [1, 2])],
    )
    graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 2]))
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "sparse.onnx"
    onnx.save(proto, path)
    with pytest.raises(OnnxpruneError, match="no sparse initializers") as caught:
        chosen.open(path)
    assert "densify" in caught.value.hint
    x = np.array([[2.0, 3.0]], np.float32)
    np.testing.assert_array_equal(chosen.open(models.load(path)).run({"x": x})["y"], x)


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"garbage")
    for name in ("cpu", "openvino"):
        with pytest.raises(OnnxpruneError, match="no model file"):
            usable(name).open(tmp_path / "none.onnx")
        with pytest.raises(OnnxpruneError):
            usable(name).open(tmp_path / "bad.onnx")
    with pytest.raises(OnnxpruneError, match="cannot be turned off"):
        usable("openvino").open(zoo.get("digits_mlp").model, optimise=False)
    with pytest.raises(OnnxpruneError, match="openvino does not return values inside"):
        usable("openvino").open(zoo.get("digits_mlp").model, outputs=["logits"])
    with pytest.raises(OnnxpruneError, match="trtexec does not tell where it spends"):
        backend("trtexec").open(zoo.get("digits_mlp").model, profile=True)


def test_an_engine_is_built_to_take_every_shape_and_tuned_for_the_first() -> None:
    shapes = ({"x": (1, 8), "y": (4,)}, {"x": (8, 2), "y": (1,)})
    asked = tensorrt.engine_request(Request(shapes=shapes), "tensorrt_rtx", "fp16")
    assert asked.shapes == shapes[0]
    assert asked.min_shapes == {"x": (1, 2), "y": (1,)}
    assert asked.max_shapes == {"x": (8, 8), "y": (4,)}
    assert not asked.sparse_weights


def test_what_trtexec_exports_is_read() -> None:
    """The forms of TensorRT's samples/common/sampleReporting.cpp."""
    times = '[\n  { "startH2dMs" : 1, "h2dMs" : 0.01, "computeMs" : 7.14, "latencyMs" : 7.16 }\n]'
    assert trtexec.read_times(times) == pytest.approx((7.16e-3,))
    specs = backend("cpu").open(zoo.get("digits_mlp").model).outputs
    text = json.dumps([{"name": "logits", "dimensions": "2x10", "values": list(range(20))}])
    found = trtexec.read_outputs(text, specs)
    assert found["logits"].shape == (2, 10)
    assert found["logits"].dtype == np.float32
    for bad in ("[]", "{", '[{"computeMs": 1}]'):
        with pytest.raises(OnnxpruneError):
            trtexec.read_times(bad)
    with pytest.raises(OnnxpruneError):
        trtexec.read_outputs("[]", specs)


def test_the_list_names_everything_with_a_line_to_install_it(cli: Cli) -> None:
    done = cli("bench", "--list", "--json")
    assert done.code == 0
    told = json.loads(done.out)
    assert (told["schema"], told["version"]) == ("onnxprune.backends", 1)
    rows = {each["name"]: each for each in told["backends"]}
    assert set(rows) == set(NAMES)
    assert rows["cpu"]["ok"]
    for row in rows.values():
        assert row["install"]
        assert row["ok"] or row["reason"]
        assert Availability(row["ok"], row["version"], row["reason"]) is not None
    text = cli("bench", "--list").out
    assert all(name in text for name in NAMES)
