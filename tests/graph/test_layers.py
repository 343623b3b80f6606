"""Every stored tensor that a rule contracts is a linear layer, and is read and written as one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import onnxprune
from models import skeletons
from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.graph.analysis import Analysis, analyse, identity
from onnxprune.graph.layers.linear import find_layers, plain, refittable
from onnxprune.graph.layers.stored import Stored, trace
from onnxprune.graph.ops import LINEAR, RULES
from onnxprune.runtime import open_session
from random_graphs import random_graph
from two_four_cases import CASES, Case

SHARED_MODELS = (
    "resnet20_cifar10_proj_dynamo",
    "shufflenetv2_x0_5_cifar10_bn",
    "mobilenetv1_0.75_imagenet_bn",
    "stories260k_llama_legacy",
    "minilm_l6_sts_sst2",
)


def every_contraction_is_a_layer(analysis: Analysis) -> int:
    """Compare layers with what rules say of nodes that meet a stored tensor with an activation."""
    layers = [layer for layer in find_layers(analysis.model) if layer.source is not None]
    known = {(each.weight, each.node): each for each in layers}
    assert len(known) == len(layers), "a stored tensor is one layer of a node"
    looked = 0
    for node, call in analysis.walk.calls:
        names = {}
        for contraction in call.contractions:
            weights = [slot for slot in contraction.slots if call.static[slot[0]]]
            others = [slot for slot in contraction.slots if not call.static[slot[0]]]
            if len(weights) == len(others) == 1:
                names[weights[0][0]] = (weights[0][1], *others[0])
        for position, (axis, other, channel) in names.items():
            value, x = node.inputs[position], node.inputs[other]
            stored = trace(value)
            if not isinstance(stored, Stored) or len(call.tensor(position)) < 2:
                continue
            assert x is not None
            layer = known[stored.name, identity(node)]
            assert (layer.weight_axis, layer.x) == (axis, x.name)
            assert layer.axis % len(call.tensor(other)) == channel
            assert layer.declined or layer.kind in ("plain", "sum")
            looked += 1
    return looked


@given(st.integers(0, 10_000))
def test_random_graphs_have_a_layer_for_every_contraction(seed: int) -> None:
    assert every_contraction_is_a_layer(analyse(models.load(random_graph(seed)))) > 2


@pytest.mark.parametrize("name", sorted(skeletons.SMALL))
def test_skeletons_have_a_layer_for_every_contraction(name: str) -> None:
    every_contraction_is_a_layer(analyse(models.load(skeletons.SMALL[name]())))


@pytest.mark.parametrize("name", zoo.names())
def test_networks_of_the_zoo_have_a_layer_for_every_contraction(name: str) -> None:
    assert every_contraction_is_a_layer(analyse(models.load(zoo.get(name).model)))


def there_and_back(model: models.Model) -> None:
    for layer in plain(find_layers(model)):
        if layer.window is None and len(layer.tensor.seen_shape) > 2 and layer.stack is None:
            continue  # a stack of stacks
        weight = layer.tensor.read()
        matrix = layer.matrix(weight)
        assert matrix.shape == layer.shape
        np.testing.assert_array_equal(layer.stored(matrix), weight)
        axis = layer.stored_axis
        if axis is not None and layer.groups == 1:
            assert len(np.unique(layer.input_index(axis))) == weight.shape[axis]


@pytest.mark.parametrize("name", zoo.names())
def test_weights_of_the_zoo_are_written_as_they_were_read(name: str) -> None:
    there_and_back(models.load(zoo.get(name).model))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_weights_are_written_wherever_they_are_stored(case: Case) -> None:
    there_and_back(models.load(case.make()))


@pytest.mark.parametrize("name", SHARED_MODELS)
def test_weights_of_real_networks_are_written_as_they_were_read(name: str, shared: Path) -> None:
    there_and_back(models.load(shared / "models" / f"{name}.onnx"))


@pytest.mark.parametrize("name", zoo.names())
def test_rows_times_matrix_plus_bias_is_what_onnxruntime_computes(name: str) -> None:
    entry = zoo.get(name)
    model = models.load(entry.model)
    layers = refittable(find_layers(model))
    with np.load(entry.calibration) as file:
        feeds = {key: file[key][:4] for key in file.files}
    ends = {layer.y for layer in layers} | {layer.x for layer in layers} - feeds.keys()
    seen = feeds | open_session(model, outputs=sorted(ends)).run(feeds)
    stored = models.constants(model)
    for layer in layers:
        rows = layer.rows(seen[layer.x])
        assert rows.shape[1] == layer.count(seen[layer.x].shape)
        made = rows @ layer.matrix(layer.tensor.read())
        if layer.bias is not None:
            tensor = models.constant(stored[layer.bias])
            assert tensor is not None
            made = made + tensor.numpy().reshape(layer.groups, 1, -1)
        wanted = layer.targets(seen[layer.y])
        np.testing.assert_allclose(made, wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_weight_that_two_nodes_apply_alike_is_one_layer_with_two_applications() -> None:
    nodes = [("MatMul", "x w", "a"), ("Relu", "a", "b"), ("MatMul", "b w", "y")]
    layers = find_layers(one_weight(nodes, (6, 6)))
    assert [layer.applications for layer in layers] == [("a", "y"), ("a", "y")]
    turned = [("MatMul", "x w", "a"), ("Transpose", "w", "t"), ("MatMul", "a t", "y")]
    assert [x.applications for x in find_layers(one_weight(turned, (6, 6)))] == [("a",), ("y",)]
    in_bodies = find_layers(models.load(CASES["in_body"].make()))
    assert [layer.applications for layer in in_bodies] == [("else_p", "then_p")] * 2
    assert all("inside the body" in layer.declined for layer in in_bodies)


def one_weight(nodes: list[tuple[str, str, str]], shape: tuple[int, ...]) -> models.Model:
    attributes: dict[str, dict[str, Any]] = {"Cast": {"to": 1}, "Einsum": {"equation": "ij,jk->k"}}
    graph = helper.make_graph(
        [helper.make_node(o, i.split(), [out], **attributes.get(o, {})) for o, i, out in nodes],
        "g",
        [helper.make_tensor_value_info("x", 1, [2, shape[0]])],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(np.ones(shape, np.float32), "w")],
    )
    return models.load(helper.make_model(graph))


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([("Gemm", "w x", "y")], "left operand"),
        ([("MatMul", "w w", "y")], "both of its operands are stored"),
        ([("Cast", "w", "c"), ("MatMul", "x c", "y")], "another type"),
        ([("Flatten", "w", "c"), ("MatMul", "x c", "y")], "reshaped"),
        ([("Neg", "w", "c"), ("MatMul", "x c", "y")], "computed from stored ones"),
        ([("Einsum", "x w", "y")], "equation"),
    ],
)
def test_what_is_not_refitted_says_why(nodes: list[tuple[str, str, str]], reason: str) -> None:
    (layer,) = find_layers(one_weight(nodes, (6, 6)))
    assert reason in layer.declined


def test_a_layer_that_would_scale_the_bias_it_gets_is_not_refitted() -> None:
    model = one_weight([("Gemm", "x w", "y")], (6, 6))
    (layer,) = find_layers(model)
    assert not layer.declined
    layer.operator.attributes.add(ir.AttrFloat32("beta", 2.0))
    (layer,) = find_layers(model)
    assert "alpha or beta" in layer.declined


def test_what_contracts_a_weight_has_a_rule() -> None:
    assert LINEAR.keys() <= RULES.keys()


OPERATORS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN"}
ROOMS = ("graph/ops/", "graph/shapes/", "graph/gradients/", "model/", "runtime/", "jobs/quantize/")
"""Where operators are told apart by their names."""
ELSEWHERE = {
    "graph/emit.py": "writes the nodes of a gradient",
    "graph/blocks.py": "what a projection shortcut may be made of, beside pools and pads",
    "select/allocate/alignment.py": "a table of times that were measured by operator",
    "select/latency/subgraph.py": "whether a value has its channels second or last",
    "jobs/advise/job.py": "sparse kernels were measured on products of matrices alone",
    "jobs/advise/evidence.py": "profiles tell time by operator",
}


def names_in(path: Path) -> Iterator[str]:
    """Operators that a module names in strings, alone or side by side; docstrings do not count."""
    tree = ast.parse(path.read_text())
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            words = node.value.split()
            if words and all(word.isidentifier() and word[0].isupper() for word in words):
                yield from OPERATORS.intersection(words)


def test_operators_that_contract_weights_are_named_where_their_rules_are() -> None:
    package = Path(onnxprune.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if not str(path.relative_to(package)).startswith(ROOMS) and any(names_in(path))
    }
    assert found == ELSEWHERE.keys()
