"""Cuts are judged node by node: right ones pass, wrong ones fail, whatever the outputs show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune import model as models
from onnxprune.data.dataset import synthetic_inputs
from onnxprune.evaluate.equivalence import check_equivalence
from onnxprune.evaluate.node_check import check_cut, check_nodes
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.reference import mask_model
from onnxprune.graph.surgery import cut
from onnxprune.runtime import open_session
from random_graphs import random_graph
from verified_cuts import choose

ENDS = ("Sigmoid", "Tanh", "HardSigmoid", "Softmax", "ArgMax", "Zero")
SEEDS = range(12)


def saturating(seed: int) -> models.Model:
    """A random network whose output hides nearly everything that goes on before it."""
    proto = random_graph(seed)
    graph = proto.graph
    end = ENDS[seed % len(ENDS)]
    graph.node[-1].output[0] = "raw"
    graph.initializer.append(numpy_helper.from_array(np.float32(1e4), "steep"))
    graph.initializer.append(numpy_helper.from_array(np.float32(-1e9), "low"))
    graph.node.append(helper.make_node("Mul", ["raw", "steep"], ["scaled"]))
    kind, axes = TensorProto.FLOAT, ["n", 5]
    if end == "Zero":
        graph.node.append(helper.make_node("Add", ["scaled", "low"], ["buried"]))
        graph.node.append(helper.make_node("Relu", ["buried"], ["logits"]))
    elif end == "ArgMax":
        kind, axes = TensorProto.INT64, ["n", 1]
        graph.node.append(helper.make_node("ArgMax", ["scaled"], ["logits"], axis=1))
    else:
        graph.node.append(helper.make_node(end, ["scaled"], ["logits"]))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", kind, axes))
    return models.load(proto)


def is_read(small: models.Model, value: ir.Value) -> bool:
    return any(node.graph is small.ir.graph for node, _ in value.uses())


def spoiled(small: models.Model, rng: np.random.Generator) -> tuple[models.Model, str]:
    """One weight off by a whole unit, or one row taken from the wrong place."""
    wrong = models.clone(small)
    stored = [
        value
        for value in models.constants(wrong).values()
        if models.constant(value).dtype == ir.DataType.FLOAT
        and models.constant(value).size > 1
        and is_read(wrong, value)
    ]
    value = stored[rng.integers(len(stored))]
    array = np.array(models.constant(value).numpy())
    if rng.random() < 0.5 and len(array) > 1:
        at = rng.integers(len(array) - 1)
        array[at] = array[at + 1]
    else:
        array.reshape(-1)[rng.integers(array.size)] += 1
    models.set_constant(value, array)
    return wrong, value.name


def cut_at_random(model: models.Model, seed: int) -> tuple[Analysis, dict[str, list[int]]]:
    analysis = analyse(model)
    return analysis, choose(analysis, 0.3, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_right_cuts_pass_and_wrong_ones_fail_behind_saturated_outputs(seed: int) -> None:
    analysis, removed = cut_at_random(saturating(seed), seed)
    small, masked = cut(analysis, removed), mask_model(analysis, removed)
    feeds = synthetic_inputs(analysis)
    check, note = check_cut(analysis, removed, small, masked, feeds)
    assert check.ok, (check, note)
    rng = np.random.default_rng(seed)
    for _ in range(4):
        wrong, name = spoiled(small, rng)
        check, note = check_cut(analysis, removed, wrong, masked, feeds)
        assert not check.ok, name
        path = Path(note.split(" saved with its inputs as ")[1].split(",")[0])
        computed, expected = ort.InferenceSession(str(path)).run(None, {})
        assert not np.allclose(computed, expected, rtol=1e-4, atol=1e-5)
        path.unlink()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_node_that_differs_is_named(seed: int) -> None:
    """Whatever is spoiled, the fault is at a reader of it (unless it only meets padding)."""
    analysis, removed = cut_at_random(models.load(random_graph(seed)), seed)
    small, masked = cut(analysis, removed), mask_model(analysis, removed)
    wrong, name = spoiled(small, np.random.default_rng(seed + 100))
    feeds = synthetic_inputs(analysis)
    fault = check_nodes(analysis, removed, wrong, masked, feeds).fault
    readers = [n.outputs[0].name for n, _ in models.constants(wrong)[name].uses()]
    if fault is None:
        runs = [open_session(m, outputs=readers).run(feeds[0]) for m in (small, wrong)]
        assert all(np.array_equal(runs[0][value], runs[1][value]) for value in readers)
    else:
        assert fault.node in readers


def test_what_is_not_a_number_in_both_is_equal() -> None:
    """A mask fills with NaN; the cut keeps them where they are."""
    proto = random_graph(5)
    graph = proto.graph
    graph.node[-1].output[0] = "raw"
    graph.initializer.append(numpy_helper.from_array(np.float32(np.nan), "nan"))
    graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    graph.node.append(helper.make_node("Greater", ["raw", "zero"], ["positive"]))
    graph.node.append(helper.make_node("Where", ["positive", "raw", "nan"], ["logits"]))
    analysis, removed = cut_at_random(models.load(proto), 5)
    small, masked = cut(analysis, removed), mask_model(analysis, removed)
    feeds = synthetic_inputs(analysis)
    assert check_cut(analysis, removed, small, masked, feeds)[0].ok
    wrong, _ = spoiled(small, np.random.default_rng(1))
    assert not check_cut(analysis, removed, wrong, masked, feeds)[0].ok


def two_outputs(*, shift: float) -> models.Model:
    """A sequence of arrays, and a map of scores."""
    nodes = [
        helper.make_node("Add", ["x", "shift"], ["y"]),
        helper.make_node("SequenceConstruct", ["x", "y"], ["parts"]),
        helper.make_node(
            "ZipMap", ["y"], ["scores"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]
        ),
    ]
    outputs = [
        helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None),
        onnx.helper.make_value_info(
            "scores",
            helper.make_sequence_type_proto(
                helper.make_map_type_proto(
                    TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
                )
            ),
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        outputs,
        [numpy_helper.from_array(np.full(2, shift, np.float32), "shift")],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return models.load(helper.make_model(graph, opset_imports=imports, ir_version=8))


def test_sequences_and_maps_are_compared_by_what_is_in_them() -> None:
    feeds = [{"x": np.ones((3, 2), np.float32)}]
    same, other = two_outputs(shift=0.5), two_outputs(shift=0.75)
    assert check_equivalence(same, same, feeds).ok
    assert not check_equivalence(other, same, feeds).ok
