"""Propagated shapes and contents against what onnxruntime computes."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from conftest import SHARED
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.shapes import probe_shapes, propagate
from onnxprune.model import graphs, load, values
from shape_oracle import Oracle, agrees, contradictions

# Refused at load (an IR 1 model), and operators that no onnxruntime wheel has.
NOT_RUNNABLE = {"onnx_tutorial_super_resolution", "superres_prepost_op18"}
GRAPHS = sorted(
    path for path in SHARED.glob("[mw]*/*.onnx") if path.stem not in NOT_RUNNABLE
)  # models/ and wild/
SLOW = {"dnsmos_sig_bak_ovr"}
"""Runs for seconds on the sizes that fit it."""
WHEEL = Path(onnx.__file__).parent / "backend" / "test" / "data"
OLD_MODELS = sorted(
    path for kind in ("pytorch-*", "simple") for path in WHEEL.glob(f"{kind}/*/model.onnx")
)


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.heavy] * (path.stem in SLOW))
        for path in GRAPHS
    ],
)
def test_real_graphs_have_the_shapes_and_contents_that_run(path: Path, shared: Path) -> None:
    model = load(path)
    oracle = Oracle(onnx.load(path))
    first, second = probe_shapes(model)
    for shapes in (first,) if first == second else (first, second):
        facts = propagate(model, shapes)
        feeds = oracle.feeds(shapes)
        computed = oracle.run(feeds)
        assert contradictions(facts, computed) == []
        assert [name for name in computed if facts[name].sizes is None] == []
        # What is true of all input shapes is true of these.
        assert contradictions(propagate(model, {}), computed) == []
        defined = {value.name for graph in graphs(model) for value in values(graph)}
        assert defined == set(facts)


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("wild/onnx_light_densenet121", 0.5),
        ("models/minilm_l6_sts_sst2", 0.25),
        ("models/shufflenetv2_x0_5_cifar10_fused", 0.25),
        ("models/stories260k_llama_legacy", 0.25),
    ],
)
def test_a_walk_is_quick(shared: Path, name: str, seconds: float) -> None:
    # Processor time, and the better of two: other work on the machine is not measured. The limits
    # are twice what it takes, so that they fail on a walk that became quadratic.
    model = load(shared / f"{name}.onnx")
    shapes, _ = probe_shapes(model)
    took = []
    for _ in range(2):
        start = time.process_time()
        propagate(model, shapes)
        took.append(time.process_time() - start)
    assert min(took) < seconds


@pytest.mark.parametrize("path", OLD_MODELS, ids=lambda path: path.parent.name)
def test_models_of_old_opsets_have_the_shapes_of_their_recorded_outputs(path: Path) -> None:
    # Opset 6 and IR 3 mostly: onnxruntime has no kernels for half of them.
    model = load(path)
    stored = set(model.ir.graph.initializers)
    names = [value.name or "" for value in model.ir.graph.inputs if value.name not in stored]
    inputs, outputs = (recorded(path.parent, kind) for kind in ("input", "output"))
    shapes = {names[index]: value.shape for index, value in inputs.items()}
    for output in model.ir.graph.outputs:
        output.shape = None  # what is declared must not stand in for what is inferred
    facts = propagate(model, shapes)
    for index, value in outputs.items():
        fact = facts[model.ir.graph.outputs[index].name or ""]
        assert agrees(fact, value), f"{fact} but {value.dtype}{value.shape}"


def recorded(folder: Path, kind: str) -> dict[int, npt.NDArray[Any]]:
    found = {}
    for path in (folder / "test_data_set_0").glob(f"{kind}_*.pb"):
        tensor = onnx.load_tensor(path)
        if tensor.data_type not in (TensorProto.UNDEFINED, TensorProto.STRING):
            found[int(path.stem.rpartition("_")[2])] = numpy_helper.to_array(tensor)
    return found


@pytest.mark.heavy
def test_every_operator_of_the_standard_has_the_shapes_of_its_conformance_tests() -> None:
    from onnx.backend.test.case.node import collect_testcases  # computes them all: seconds

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    checked = 0
    for case in cases:
        assert case.data_sets is not None
        inputs, outputs = case.data_sets[0]
        if not all(isinstance(value, np.ndarray) for value in (*inputs, *outputs)):
            continue
        proto = onnx.ModelProto()
        proto.CopyFrom(case.model)
        for output in proto.graph.output:
            output.type.tensor_type.ClearField("shape")
        names = [value.name for value in proto.graph.input]
        shapes = {name: value.shape for name, value in zip(names, inputs, strict=True)}
        told = [propagate(load(proto), shapes)]
        if inputs and all(value.dtype.kind in "iufb" for value in inputs):
            stored = [numpy_helper.from_array(v, n) for v, n in zip(inputs, names, strict=True)]
            del proto.graph.input[:]
            proto.graph.initializer.extend(stored)
            told.append(propagate(load(proto), {}))
        for facts in told:
            for output, value in zip(proto.graph.output, outputs, strict=True):
                fact = facts[output.name]
                assert agrees(fact, value), f"{case.name}: {fact} but {value.dtype}{value.shape}"
                checked += fact.sizes is not None
    assert checked > 1000


def test_a_reshape_follows_the_batch() -> None:
    model = load(
        parse("""
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[n, 4, 6] x) => (float[n, 24] y) {
            shape = Shape(x)
            zero = Constant<value = int64[1] {0}>()
            batch = Gather(shape, zero)
            rest = Constant<value = int64[1] {-1}>()
            target = Concat<axis = 0>(batch, rest)
            y = Reshape(x, target)
        }""")
    )
    facts = propagate(model, {"x": (5, 4, 6)})
    assert facts["y"].shape == (5, 24)
    target = facts["target"].value
    assert target is not None
    assert target.tolist() == [5, -1]
    with pytest.raises(ValueError, match="read-only"):
        target[0] = 1


def test_content_is_followed_only_while_it_is_small() -> None:
    model = load(
        parse("""
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[n] x) => (float[a] small, float[b] large) {
            size = Shape(x)
            small = ConstantOfShape(size)
            twice = Constant<value = int64 {2}>()
            more = Mul(size, twice)
            large = ConstantOfShape(more)
        }""")
    )
    facts = propagate(model, {"x": (4096,)})
    assert facts["small"].value is not None
    assert facts["large"].sizes == (8192,)
    assert facts["large"].value is None


def test_what_depends_on_data_says_so() -> None:
    model = load(
        parse("""
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[n, 3] x) => (float[a, 3] y, float[b, 3] z) {
            places = NonZero(x)
            axis = Constant<value = int64 {0}>()
            rows = Gather<axis = 0>(places, axis)
            y = Gather<axis = 0>(x, rows)
            z = Relu(y)
        }""")
    )
    facts = propagate(model, {"x": (5, 3)})
    assert facts["places"].shape == (2, None)
    assert facts["z"].shape == (None, 3)
    assert "NonZero" in facts["z"].reason
    assert facts["axis"].reason == ""


def test_an_unknown_operator_falls_back_to_what_is_declared() -> None:
    proto = parse("""
        <ir_version: 8, opset_import: ["" : 13, "some.body" : 1]>
        g (float[2, 3] x) => (float[a, b] z) <float[2, 7] y> {
            y = some.body.Magic(x)
            z = Relu(y)
        }""")
    assert propagate(load(proto), {})["z"].shape == (2, 7)
    del proto.graph.value_info[:]
    unknown = propagate(load(proto), {})["z"]
    assert unknown.shape == (None, None)  # the rank that the output is declared with
    assert "some.body::Magic" in unknown.reason


def test_inputs_that_are_not_the_models_are_refused() -> None:
    model = load(
        parse("""
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }""")
    )
    with pytest.raises(OnnxpruneError, match="no input named 'q'"):
        propagate(model, {"q": (2, 3)})
    with pytest.raises(OnnxpruneError, match="cannot have shape"):
        propagate(model, {"x": (2, 4)})
    with pytest.raises(OnnxpruneError, match="cannot have shape"):
        propagate(model, {"x": (2, 3, 1)})


def test_propagating_leaves_the_model_alone(shared: Path) -> None:
    model = load(shared / "models" / "resnet8_cifar10_mlperftiny_fused.onnx")
    before = {
        value.name: (value.shape, value.dtype) for node in model.ir.graph for value in node.outputs
    }
    propagate(model, {"input": (2, 3, 32, 32)})
    after = {
        value.name: (value.shape, value.dtype) for node in model.ir.graph for value in node.outputs
    }
    assert before == after
