"""Load, save, and nothing that matters has changed: over every real model, bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from conftest import SHARED
from onnxprune.errors import OnnxpruneError
from onnxprune.model import clone, graphs, load, save, structure_hash, to_proto, values

REAL = sorted(path for folder in ("models", "wild") for path in (SHARED / folder).glob("*.onnx"))
OLD = "onnx_tutorial_super_resolution.onnx"  # IR 1, no operator set
FOREIGN = "superres_prepost_op18.onnx"  # operators onnxruntime does not have
LOADABLE = [path for path in REAL if path.name != OLD]

every_real_model = pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem) for path in LOADABLE]
    or [pytest.param(None, marks=pytest.mark.skip(f"no real models in {SHARED}"))],
)


def session(model: Path | bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def feeds(runner: ort.InferenceSession) -> dict[str, npt.NDArray[np.generic]]:
    rng = np.random.default_rng(0)
    made: dict[str, npt.NDArray[np.generic]] = {}
    names = [value.name for value in runner.get_inputs()]
    for value in runner.get_inputs():
        shape = [size if isinstance(size, int) else 2 for size in value.shape]
        if "state" in names and value.name == "input":
            shape[1] = 576  # silero's audio window
        if value.type == "tensor(float)":
            made[value.name] = rng.standard_normal(shape).astype(np.float32)
        else:
            dtype = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}[value.type]
            made[value.name] = np.full(shape, 16000 if value.name == "sr" else 1, dtype)
    return made


def operators(proto: onnx.ModelProto) -> Counter[tuple[str, str]]:
    def walk(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
        for node in graph.node:
            yield node.domain, node.op_type
            for attribute in node.attribute:
                for body in (attribute.g, *attribute.graphs):
                    yield from walk(body)

    return Counter(walk(proto.graph))


@every_real_model
def test_saving_what_was_loaded_changes_nothing(path: Path, tmp_path: Path) -> None:
    saved = save(load(path), tmp_path / "again.onnx")
    before, after = onnx.load(path), onnx.load(saved)
    assert not before.functions  # else the operators below would differ by design
    assert operators(after) == operators(before)
    assert [node.output for node in after.graph.node] == [node.output for node in before.graph.node]
    for field in ("ir_version", "producer_name", "producer_version", "domain", "doc_string"):
        assert getattr(after, field) == getattr(before, field), field
    assert {(one.domain, one.version) for one in after.opset_import} == {
        (one.domain, one.version) for one in before.opset_import
    }
    assert {(one.key, one.value) for one in after.metadata_props} == {
        (one.key, one.value) for one in before.metadata_props
    }
    for field in ("input", "output"):
        assert getattr(after.graph, field) == getattr(before.graph, field), field
    assert [t.name for t in after.graph.initializer] == [t.name for t in before.graph.initializer]
    if path.name == FOREIGN:
        return
    ours, theirs = session(saved), session(path)
    inputs = feeds(theirs)
    for one, other in zip(ours.run(None, inputs), theirs.run(None, inputs), strict=True):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()


@every_real_model
def test_value_names_are_unique_over_all_graphs(path: Path) -> None:
    model = load(path)
    names = [value.name for graph in graphs(model) for value in values(graph)]
    assert len(names) == len(set(names))
    main = onnx.load(path).graph
    kept = {name for node in main.node for name in node.output if name}
    assert kept <= {value.name for value in values(model.ir.graph)}


@every_real_model
def test_a_loaded_model_holds_the_file_s_weights(path: Path) -> None:
    model = load(path)
    for tensor in onnx.load(path).graph.initializer:
        held = model.ir.graph.initializers[tensor.name].const_value
        assert held is not None
        expected = onnx.numpy_helper.to_array(tensor)
        assert held.numpy().dtype == expected.dtype
        assert np.array_equal(held.numpy(), expected)


@pytest.mark.parametrize(
    "name",
    [
        "wild/silero_vad",  # bodies within bodies
        "wild/onnx_light_densenet121",  # IR 3: weights are inputs
        "wild/ultraface_rfb320",  # weights in Constant nodes
        "models/stories260k_llama_dynamo",  # metadata everywhere
    ],
)
def test_editing_a_clone_leaves_the_original_as_it_was(name: str, shared: Path) -> None:
    model = load(shared / f"{name}.onnx")
    before = to_proto(model).SerializeToString(deterministic=True)
    fingerprint = structure_hash(model)
    copy = clone(model)
    assert to_proto(copy).SerializeToString(deterministic=True) == before
    _vandalise(copy.ir)
    assert to_proto(copy).SerializeToString(deterministic=True) != before
    assert to_proto(model).SerializeToString(deterministic=True) == before
    assert structure_hash(model) == fingerprint


def _vandalise(model: ir.Model) -> None:
    """Write to everything onnx-ir lets one write to."""
    for graph in model.graphs():
        for value in list(values(graph)):
            value.name = f"{value.name}/edited"
            value.metadata_props["edited"] = "yes"
            value.doc_string = "edited"
            if isinstance(value.type, ir.TensorType):
                value.type.dtype = ir.DataType.BOOL
            value.shape = ir.Shape([7])
        for node in graph:
            node.metadata_props["edited"] = "yes"
            node.name = f"{node.name}/edited"
            node.attributes.add(ir.AttrInt64("edited", 1))
        graph.metadata_props["edited"] = "yes"
        graph.opset_imports["edited"] = 1
        for value in list(graph.initializers.values()):
            value.const_value = ir.tensor(np.zeros(2, np.float32))
    model.metadata_props["edited"] = "yes"


def test_a_model_from_before_operator_sets_is_refused(shared: Path) -> None:
    with pytest.raises(OnnxpruneError, match="no operator set") as caught:
        load(shared / "wild" / OLD)
    assert caught.value.hint
