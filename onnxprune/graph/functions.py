"""Operators as functions of simpler ones, from the bodies that onnx defines for them.

onnx gives a body to an operator from some opset on. The operators in a body mostly mean the same in
earlier opsets (an Elu is one whenever it was exported), so a body serves wherever the operator set
of the model has every node of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from onnxprune.graph.facts import Fact, to_type
from onnxprune.graph.ops.call import MICROSOFT
from onnxprune.graph.shapes.program import find_schema


def function_body(
    node: ir.Node, version: int, facts: Sequence[Fact | None]
) -> onnx.GraphProto | None:
    """The computation of a node, in other operators of the standard domain.

    Args:
        node: of the standard domain, or onnxruntime's Gelu, which is the same.
        version: the opset of the model.
        facts: one per input, None where left out.

    Returns:
        A graph with the inputs and outputs of the node, those that are left out included; None
        where onnx has no function, or one of operators that this opset lacks.
    """
    standard = not node.domain or (node.domain, node.op_type) == (MICROSOFT, "Gelu")
    proto = ir.serde.serialize_node(node)
    schema = _schema_with_function(proto, version)
    if schema is None or not standard:
        return None
    types = [to_type(f.shape, f.dtype) if f is not None else onnx.TypeProto() for f in facts]
    function = _function(schema, proto, version, types)
    if function is None:
        return None
    types += [onnx.TypeProto()] * (len(function.input) - len(types))  # left out at the end
    inputs = [
        helper.make_value_info(name, type_)
        for name, type_ in zip(function.input, types, strict=True)
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in function.output]
    types_of = {value.name: value.type.tensor_type.elem_type for value in inputs}
    default = next((kind for kind in types_of.values() if kind), onnx.TensorProto.FLOAT)
    nodes = []
    for each in function.node:
        plain = _bound(each, proto, schema)
        if plain.op_type == "CastLike":  # which is younger than most bodies
            kind = types_of.get(plain.input[1], default)
            plain = helper.make_node("Cast", plain.input[:1], plain.output, to=kind)
        if not _exists(plain, version):
            return None
        nodes.append(plain)
    return helper.make_graph(nodes, node.op_type, inputs, outputs)


def _schema_with_function(proto: onnx.NodeProto, version: int) -> Any:  # noqa: ANN401  # has no stubs
    """The first schema of an operator, from an opset on, that has a body and takes this node."""
    for opset in range(version, onnx.defs.onnx_opset_version() + 1):
        schema: Any = find_schema(proto.op_type, opset, "")
        if schema is None:
            continue
        if any(a.name not in schema.attributes for a in proto.attribute):
            return None
        if schema.has_function or schema.has_context_dependent_function:
            return schema
    return None


def _function(
    schema: Any,  # noqa: ANN401
    proto: onnx.NodeProto,
    version: int,
    types: Sequence[onnx.TypeProto],
) -> onnx.FunctionProto | None:
    """The latest body that a model of this opset can have, or the first of all."""
    if schema.has_function:
        opsets = schema.function_opset_versions
    else:
        opsets = schema.context_dependent_function_opset_versions
    opset = max([v for v in opsets if v <= version], default=min(opsets))
    if schema.has_function:
        data = schema.get_function_with_opset_version(opset)
    else:
        data = schema.get_context_dependent_function_with_opset_version(
            opset, proto.SerializeToString(), [t.SerializeToString() for t in types]
        )
    return onnx.FunctionProto.FromString(data) if data else None


def _bound(
    each: onnx.NodeProto,
    caller: onnx.NodeProto,
    schema: Any,  # noqa: ANN401
) -> onnx.NodeProto:
    """A node of a body with the attributes of the caller, or their defaults."""
    values = {a.name: a for a in caller.attribute}
    dtypes = {"value_float": np.float32, "value_int": np.int64}
    result = onnx.NodeProto()
    result.CopyFrom(each)
    del result.attribute[:]
    for attribute in each.attribute:
        source = attribute.ref_attr_name
        value = values.get(source) or (
            schema.attributes[source].default_value if source in schema.attributes else None
        )
        if not source:
            result.attribute.append(attribute)
        elif value is not None and value.type:
            bound = result.attribute.add()
            bound.CopyFrom(value)
            bound.name = attribute.name
    for attribute in result.attribute:
        if attribute.name in dtypes and result.op_type == "Constant":  # which opset 12 brought
            array = np.array(helper.get_attribute_value(attribute), dtypes[attribute.name])
            attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(array)))
    return result


def _exists(node: onnx.NodeProto, version: int) -> bool:
    """Whether an operator set has such a node; one that has a body itself does not count."""
    schema = find_schema(node.op_type, version, node.domain)
    return (
        schema is not None
        and all(a.name in schema.attributes and not a.HasField("g") for a in node.attribute)
        and schema.min_input <= len(node.input) <= schema.max_input
    )
