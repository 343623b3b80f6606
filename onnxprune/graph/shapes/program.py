"""A graph made ready to be walked several times: nodes, schemas, stored contents looked up once."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from onnxprune.graph.facts import SMALL, Fact, declared, of_value
from onnxprune.graph.ops import SHAPES
from onnxprune.graph.ops.call import MICROSOFT
from onnxprune.graph.ops.shape_call import ShapeRule
from onnxprune.model import bodies

_LEFT_OUT = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS, ir.AttributeType.UNDEFINED)
_SCALARS = {
    "value_float": ir.DataType.FLOAT,
    "value_floats": ir.DataType.FLOAT,
    "value_int": ir.DataType.INT64,
    "value_ints": ir.DataType.INT64,
}


_OWN_DOMAINS = (MICROSOFT, f"{MICROSOFT}.nchwc")

# Operators that are a standard one under another name: (standard name, inputs they share).
_STANDARD = {
    "Conv": ("Conv", 3),  # nchwc: a fourth input is added to the result
    "FusedConv": ("Conv", 3),
    "FusedGemm": ("Gemm", 3),
    "MatMulInteger16": ("MatMulInteger", 2),
    "ReduceSumInteger": ("ReduceSum", 1),
}


@dataclass(frozen=True, eq=False)
class Step:
    """One node.

    Attributes:
        node: the node itself, for its attributes.
        version: the opset its domain is imported at.
        inputs: value names, "" for an input that is left out.
        outputs: value names, "" for an output that is left out.
        proto: what schema inference and evaluation are given: the node without its bodies; an
            operator of another domain that is a standard one there is written as the standard one.
        schema: the schema of ``proto``, if there is one.
        bodies: the node's subgraphs by attribute name.
    """

    node: ir.Node
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    proto: onnx.NodeProto
    schema: onnx.defs.OpSchema | None
    bodies: Mapping[str, Program] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name of the node in messages."""
        return f"{self.node.op_type} {next(filter(None, self.outputs), self.node.name or '')!r}"


@dataclass(frozen=True, eq=False)
class Program:
    """One graph, or one subgraph body.

    Attributes:
        inputs, outputs: value names.
        stored: what is known of every initializer and Constant before any input is.
        declared: the graph's declarations of the values it computes.
        steps: the nodes in order, Constants left out.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    stored: Mapping[str, Fact]
    declared: Mapping[str, Fact]
    steps: tuple[Step, ...]

    @property
    def needed(self) -> tuple[str, ...]:
        """The inputs a caller must feed: those that no initializer gives a default."""
        return tuple(name for name in self.inputs if name not in self.stored)


@functools.lru_cache(maxsize=4096)
def find_schema(op_type: str, version: int, domain: str) -> onnx.defs.OpSchema | None:
    """The schema of an operator at an opset, or None when onnx has none (or disowns it)."""
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    return None if schema.deprecated else schema


def standard_form(proto: onnx.NodeProto) -> onnx.NodeProto | None:
    """The same node as a standard operator of the newest opset, or None when it is not one."""
    if proto.domain not in _OWN_DOMAINS or find_rule(proto.domain, proto.op_type) is not None:
        return None
    name, count = _STANDARD.get(proto.op_type, (proto.op_type, len(proto.input)))
    try:
        schema = onnx.defs.get_schema(name, onnx.defs.onnx_opset_version(), "")
    except onnx.defs.SchemaError:
        return None
    standard = onnx.NodeProto(op_type=name, input=proto.input[:count], output=proto.output)
    standard.attribute.extend(a for a in proto.attribute if a.name in schema.attributes)
    return standard


def find_rule(domain: str, op_type: str) -> ShapeRule | None:
    """The shape rule for an operator without a schema.

    It is the one registered for its domain. A rule for an operator of onnx only mends what its
    schema infers, and says nothing without one. onnxruntime's fusions write some of its operators
    into the standard domain, so its rules count there too. In any other domain a name says nothing
    about the operator.
    """
    rule = None if domain == "" and onnx.defs.has(op_type) else SHAPES.get((domain, op_type))
    if rule is None and domain in ("", *_OWN_DOMAINS):
        rule = SHAPES.get((MICROSOFT, op_type))
    return rule


def opsets_of(model: ir.Model) -> dict[str, int]:
    """Opset versions by domain, the standard domain spelled ``""``."""
    return {"" if d == "ai.onnx" else d: v for d, v in model.opset_imports.items()}


def compile_graph(graph: ir.Graph, opsets: Mapping[str, int]) -> Program:
    """Look up everything about a graph that no input shape changes."""
    stored = {
        name: _stored(value.const_value)
        for name, value in graph.initializers.items()
        if value.const_value is not None
    }
    steps = []
    declarations: dict[str, Fact] = {}
    for value in graph.inputs:
        declarations[value.name or ""] = declared(value)
    for node in graph:
        for output in node.outputs:
            if output.name:
                declarations[output.name] = declared(output)
        if node.op_type == "Constant" and node.domain == "":
            stored[node.outputs[0].name or ""] = _constant(node)
        else:
            steps.append(_step(node, opsets))
    return Program(
        tuple(value.name or "" for value in graph.inputs),
        tuple(value.name or "" for value in graph.outputs),
        stored,
        declarations,
        tuple(steps),
    )


def _step(node: ir.Node, opsets: Mapping[str, int]) -> Step:
    inputs = tuple("" if value is None else value.name or "" for value in node.inputs)
    outputs = tuple(value.name or "" for value in node.outputs)
    proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain, input=inputs, output=outputs)
    proto.attribute.extend(
        ir.serde.serialize_attribute(attribute)
        for attribute in node.attributes.values()
        if attribute.type not in _LEFT_OUT
    )
    version = opsets.get(node.domain, 1)
    schema = find_schema(node.op_type, version, node.domain)
    if schema is None and (standard := standard_form(proto)) is not None:
        proto = standard
        version = onnx.defs.onnx_opset_version()
        schema = find_schema(proto.op_type, version, "")
    return Step(
        node,
        version,
        inputs,
        outputs,
        proto,
        schema,
        {name: compile_graph(body, opsets) for name, body in bodies(node)},
    )


def _stored(tensor: ir.TensorProtocol) -> Fact:
    """Shape and type always, content only if it is small: big weights are never read."""
    shape = tuple(tensor.shape.numpy())
    if math.prod(shape) > SMALL or tensor.dtype == ir.DataType.STRING:
        return Fact(shape, tensor.dtype)
    return of_value(tensor.numpy().view(), tensor.dtype)


def _constant(node: ir.Node) -> Fact:
    """The fact of a Constant node, whichever of its attributes holds the content."""
    attribute = node.attributes.get("value")
    if attribute is not None and attribute.type == ir.AttributeType.TENSOR:
        tensor: ir.TensorProtocol = attribute.value  # as_tensor() takes 20 us to check what it is
        return _stored(tensor)
    for name, dtype in _SCALARS.items():
        if (attribute := node.attributes.get(name)) is not None and not attribute.is_ref():
            return of_value(np.array(attribute.value, dtype.numpy()), dtype)
    return Fact(None, None, reason="a Constant that holds no dense tensor of numbers")
