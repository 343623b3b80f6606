"""Reading, replacing and adding what a model stores, and telling models apart by structure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from onnxprune.model import (
    add_constant,
    clone,
    constant,
    constants,
    graphs,
    load,
    set_constant,
    size_bytes,
    structure_hash,
    to_proto,
)

Array = npt.NDArray[Any]


def network(version: int = 9) -> onnx.ModelProto:
    """Weights as an initializer with metadata, in Constant nodes, and inside a body."""
    proto = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 17]>
        g (float[2, 3] x, bool c) => (float[2, 4] y)
        {
          h = MatMul (x, W)
          two = Constant <value_float = 2.0> ()
          k = Constant <value = float[4] {1.0, 2.0, 3.0, 4.0}> ()
          m = Mul (h, two)
          y = If (c) <
            then_branch = a () => (float[2, 4] r) { v = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> ()
                                                   r = Add (m, v) },
            else_branch = b () => (float[2, 4] r) { r = Add (m, k) } >
        }
    """)  # noqa: E501
    proto.ir_version = version
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "W"))
    proto.graph.initializer[0].doc_string = "the weight"
    if version < 4:
        proto.graph.input.append(helper.make_tensor_value_info("W", T.FLOAT, [3, 4]))
    return proto


def run(proto: onnx.ModelProto, *, c: bool = True) -> Array:
    runner = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.ones((2, 3), np.float32)
    result: Array = runner.run(None, {"x": x, "c": np.array(c)})[0]
    return result


def named(model: Any, name: str) -> ir.Value:
    return constants(model)[name]


def test_constants_are_found_wherever_they_are() -> None:
    model = load(network())
    found = {name: constant(value) for name, value in constants(model).items()}
    assert {name: t.numpy().tolist() for name, t in found.items() if t is not None} == {
        "W": np.arange(12).reshape(3, 4).tolist(),
        "two": 2.0,
        "k": [1.0, 2.0, 3.0, 4.0],
        "v": [1.0, 2.0, 3.0, 4.0],
    }
    assert size_bytes(model) == 4 * (12 + 1 + 4 + 4)
    for value in (*model.ir.graph.inputs, *model.ir.graph.outputs):
        assert constant(value) is None


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ({"value_float": 1.5}, np.array(1.5, np.float32)),
        ({"value_floats": [1.5, 2.5]}, np.array([1.5, 2.5], np.float32)),
        ({"value_int": 7}, np.array(7)),
        ({"value_ints": [7, 8]}, np.array([7, 8])),
        ({"value_string": "a"}, np.array(b"a")),
        ({"value_strings": ["a", "bc"]}, np.array([b"a", b"bc"])),
        ({"value": numpy_helper.from_array(np.ones((0, 3)))}, np.ones((0, 3))),
    ],
)
def test_every_form_of_constant_node_is_read(attribute: dict[str, Any], expected: Array) -> None:
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["y"], **attribute)],
        "g",
        [],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(expected.dtype), None)]
        if expected.dtype.kind != "S"
        else [helper.make_tensor_value_info("y", T.STRING, None)],
    )
    proto = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
    tensor = constant(load(proto).ir.graph.outputs[0])
    assert tensor is not None
    held = tensor.numpy()
    assert held.shape == expected.shape
    assert held.tolist() == expected.tolist()
    assert expected.dtype.kind == "S" or held.dtype == expected.dtype


@pytest.mark.parametrize("version", [3, 9])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_constant_is_replaced_with_its_type_and_shape(version: int, lazy: bool) -> None:
    model = clone(load(network(version)))
    for name, shape in (("W", (3, 1)), ("two", (1, 1)), ("k", (1,)), ("v", (4,))):
        array = np.full(shape, 5, np.float32)
        given = (
            ir.LazyTensor(partial(ir.Tensor, array), ir.DataType.FLOAT, ir.Shape(shape))
            if lazy
            else array
        )
        value = named(model, name)
        set_constant(value, given)
        held = constant(value)
        assert held is not None
        assert held.numpy().tolist() == array.tolist()
        assert value.shape == ir.Shape(shape)
        assert value.type == ir.TensorType(ir.DataType.FLOAT)
        assert value.name == name
    proto = to_proto(model)
    assert proto.graph.initializer[0].doc_string == "the weight"
    assert proto.graph.initializer[0].name == "W"
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.shape.dim.add(dim_param="a")
    proto.graph.output[0].type.tensor_type.shape.dim.add(dim_param="b")
    if version < 4:
        (entry,) = [one for one in proto.graph.input if one.name == "W"]
        assert [dim.dim_value for dim in entry.type.tensor_type.shape.dim] == [3, 1]


def test_element_types_change_with_the_content() -> None:
    model = clone(load(network()))
    for dtype in (ml_dtypes.bfloat16, ml_dtypes.int4, np.float16, np.int8, ml_dtypes.float8_e5m2):
        array = np.arange(-4, 8).reshape(3, 4).astype(dtype)
        set_constant(named(model, "W"), array)
        stored = to_proto(model).graph.initializer[0]
        assert numpy_helper.to_array(stored).tobytes() == array.tobytes()
        assert named(model, "W").type == ir.TensorType(ir.DataType.from_numpy(array.dtype))


def test_only_constants_can_be_replaced() -> None:
    model = clone(load(network()))
    with pytest.raises(ValueError, match="'x' is not a constant"):
        set_constant(model.ir.graph.inputs[0], np.zeros(3))


def test_replacing_in_a_clone_leaves_the_original() -> None:
    model = load(network())
    before = to_proto(model).SerializeToString(deterministic=True)
    copy = clone(model)
    for name in constants(copy):
        set_constant(named(copy, name), np.zeros(1, np.float32))
        add_constant(copy.ir.graph, name, np.zeros(1, np.float32))
    assert to_proto(model).SerializeToString(deterministic=True) == before
    shared = clone(model)
    set_constant(named(shared, "k"), named(model, "W").const_value)  # type: ignore[arg-type]
    assert to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("version", [3, 9])
def test_an_added_constant_is_usable_at_once(version: int) -> None:
    proto = network(version)
    model = clone(load(proto))
    main, body = list(graphs(model))[:2]
    for graph, node in ((main, "h"), (body, "r")):
        added = add_constant(graph, "extra", np.full((4,), 10, np.float32))
        assert constant(added) is not None
        target = next(one for one in graph if one.outputs[0].name == node)
        value = target.outputs[0]
        shifted = ir.node("Add", [value, added]).outputs[0]
        shifted.name = f"{node}_shifted"
        value.replace_all_uses_with(shifted, replace_graph_outputs=True)
        shifted.producer().replace_input_with(0, value)  # type: ignore[union-attr]
        graph.insert_after(target, shifted.producer())  # type: ignore[arg-type]
    saved = to_proto(model)
    onnx.checker.check_model(saved, full_check=True)
    assert len(saved.graph.initializer) == (1 if version < 4 else 2)
    assert np.array_equal(run(saved), run(proto) + 20 + 10)


def test_added_names_are_unique_over_all_graphs() -> None:
    model = clone(load(network()))
    body = list(graphs(model))[1]
    names = [
        add_constant(graph, name, np.zeros(1)).name
        for graph, name in ((body, "W"), (model.ir.graph, "W"), (body, "x"), (model.ir.graph, "v"))
    ]
    assert names == ["W_1", "W_2", "x_1", "v_1"]


def test_a_constant_can_be_added_to_a_graph_without_nodes() -> None:
    proto = network(3)
    del proto.graph.node[:]
    proto.graph.output[0].name = "W"
    model = clone(load(proto))
    value = add_constant(model.ir.graph, "k", np.zeros(1, np.float32))
    assert [node.outputs[0] for node in model.ir.graph] == [value]


# Structure ------------------------------------------------------------------------------------


def _scale(proto: onnx.ModelProto) -> None:
    held = numpy_helper.to_array(proto.graph.initializer[0]) * 3 + 1
    proto.graph.initializer[0].raw_data = held.astype(np.float32).tobytes()


def _float_constant(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].attribute[0].t.float_data[0] = 9


def _documentation(proto: onnx.ModelProto) -> None:
    proto.doc_string = proto.graph.doc_string = proto.producer_name = "other"
    proto.graph.node[0].doc_string = "other"
    proto.metadata_props.add(key="a", value="b")
    proto.graph.value_info.append(helper.make_tensor_value_info("h", T.FLOAT, [2, 4]))


def _unused_domain(proto: onnx.ModelProto) -> None:
    proto.opset_import.add(domain="com.example", version=1)


SAME = [_scale, _float_constant, _documentation, _unused_domain]


def _operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[3].op_type = "Div"


def _edge(proto: onnx.ModelProto) -> None:
    proto.graph.node[3].input[0], proto.graph.node[3].input[1] = "two", "h"


def _attribute(proto: onnx.ModelProto) -> None:
    proto.graph.node[3].attribute.append(helper.make_attribute("axis", 1))


def _body(proto: onnx.ModelProto) -> None:
    proto.graph.node[4].attribute[1].g.node[0].op_type = "Sub"


def _weight_shape(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].dims[:] = [4, 3]


def _weight_type(proto: onnx.ModelProto) -> None:
    held = numpy_helper.to_array(proto.graph.initializer[0]).astype(np.float16)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(held, "W"))


def _input_shape(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 5


def _extra_node(proto: onnx.ModelProto) -> None:
    proto.graph.node.add(op_type="Neg", input=["h"], output=["unused"])


def _opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 18


def _literal_shape(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].attribute[0].t.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32)))


OTHER = [
    _operator,
    _edge,
    _attribute,
    _body,
    _weight_shape,
    _weight_type,
    _input_shape,
    _extra_node,
    _opset,
    _literal_shape,
]


@pytest.mark.parametrize("change", SAME)
def test_siblings_share_their_structure(change: Callable[[onnx.ModelProto], None]) -> None:
    proto = network()
    changed = network()
    change(changed)
    assert changed != proto
    assert structure_hash(load(changed)) == structure_hash(load(proto))


@pytest.mark.parametrize("change", OTHER)
def test_another_structure_shows(change: Callable[[onnx.ModelProto], None]) -> None:
    proto = network()
    changed = network()
    change(changed)
    assert structure_hash(load(changed)) != structure_hash(load(proto))


def test_shapes_and_indices_are_structure() -> None:
    hashes = set()
    for target in ([2, 6], [6, 2], [2, 6]):
        graph = helper.make_graph(
            [helper.make_node("Reshape", ["x", "s"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", T.FLOAT, [3, 4])],
            [helper.make_tensor_value_info("y", T.FLOAT, None)],
            [numpy_helper.from_array(np.array(target), "s")],
        )
        hashes.add(structure_hash(load(helper.make_model(graph, ir_version=9))))
    assert len(hashes) == 2
