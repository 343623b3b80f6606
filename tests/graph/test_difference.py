"""Two graphs of the same names are compared node by node and weight by weight."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.graph.difference import changes, pair
from onnxprune.model import load


def _model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in (("w", (4, 3)), ("b", (4,)))
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1),
        helper.make_node("Softmax", ["y"], ["z"]),
    ]
    x, z = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, size])
        for name, size in (("x", 3), ("z", 4))
    )
    graph = helper.make_graph(nodes, "g", [x], [z], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def _edited(edit: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    proto = _model()
    edit(proto)
    return proto


def test_a_model_is_itself() -> None:
    pairing = pair(load(_model()), load(_model()))
    assert not pairing.problem
    assert {change.kind for _, change in changes(pairing)} == {"equal"}


def test_an_attribute_may_be_left_out_where_it_says_the_same() -> None:
    explicit = _edited(
        lambda p: p.graph.node[1].attribute.append(helper.make_attribute("axis", -1))
    )
    for one, two in ((_model(), explicit), (explicit, _model())):
        assert not pair(load(one), load(two)).problem
    other = _edited(lambda p: p.graph.node[1].attribute.append(helper.make_attribute("axis", 0)))
    for one, two in ((_model(), other), (other, _model())):
        assert "'axis'" in pair(load(one), load(two)).problem
    plain = _edited(lambda p: p.graph.node[0].attribute.pop())
    assert "'transB'" in pair(load(_model()), load(plain)).problem


def test_outputs_that_nobody_reads_may_be_left_out() -> None:
    def split(*names: str) -> onnx.ModelProto:
        proto = _model()
        node = helper.make_node("TopK", ["x", "k"], list(names), axis=-1)
        proto.graph.node.append(node)
        proto.graph.initializer.append(numpy_helper.from_array(np.array([2]), "k"))
        proto.graph.output.append(
            helper.make_tensor_value_info("at", onnx.TensorProto.INT64, [None, 2])
        )
        return proto

    both, one = load(split("top", "at")), load(split("", "at"))
    assert not pair(both, one).problem
    assert not pair(one, both).problem


EDITS: dict[str, Callable[[onnx.ModelProto], object]] = {
    "another operator": lambda p: setattr(p.graph.node[1], "op_type", "LogSoftmax"),
    "another input": lambda p: p.graph.node[1].input.__setitem__(0, "x"),
    "a node more": lambda p: p.graph.node.add(op_type="Relu", input=["x"], output=["idle"]),
    "a tensor more": lambda p: p.graph.initializer.append(
        numpy_helper.from_array(np.ones(2, np.float32), "more")
    ),
    "another operator set": lambda p: setattr(p.opset_import[0], "version", 18),
}


@pytest.mark.parametrize("name", EDITS)
def test_every_difference_is_named(name: str) -> None:
    assert pair(load(_model()), load(_edited(EDITS[name]))).problem


def test_zeros_are_told_from_other_values() -> None:
    def zero(proto: onnx.ModelProto) -> None:
        array = numpy_helper.to_array(proto.graph.initializer[0]).copy()
        array[0] = 0
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
        other = numpy_helper.to_array(proto.graph.initializer[1]) * np.float32(1.02)
        proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(other, "b"))

    kinds = dict(changes(pair(load(_model()), load(_edited(zero)))))
    assert kinds["w"].kind == "zeroed"
    assert kinds["w"].zeros == 3
    assert kinds["b"].kind == "changed"
