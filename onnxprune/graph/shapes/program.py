"""A graph made ready to be walked several times: nodes, schemas, stored contents looked up once."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from onnxprune.graph.shapes.contrib import standard_form
from onnxprune.graph.shapes.facts import SMALL, Fact, declared, of_value
from onnxprune.model import bodies

_LEFT_OUT = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS, ir.AttributeType.UNDEFINED)
_SCALARS = {
    "value_float": ir.DataType.FLOAT,
    "value_floats": ir.DataType.FLOAT,
    "value_int": ir.DataType.INT64,
    "value_ints": ir.DataType.INT64,
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
        """How messages name the node."""
        return f"{self.node.op_type} {next(filter(None, self.outputs), self.node.name or '')!r}"


@dataclass(frozen=True, eq=False)
class Program:
    """One graph, or one subgraph body.

    Attributes:
        inputs, outputs: value names.
        stored: what is known of every initializer and Constant before any input is.
        declared: what the graph says about the values it computes.
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
    said: dict[str, Fact] = {}
    for value in graph.inputs:
        said[value.name or ""] = declared(value)
    for node in graph:
        for output in node.outputs:
            if output.name:
                said[output.name] = declared(output)
        if node.op_type == "Constant" and node.domain == "":
            stored[node.outputs[0].name or ""] = _constant(node)
        else:
            steps.append(_step(node, opsets))
    return Program(
        tuple(value.name or "" for value in graph.inputs),
        tuple(value.name or "" for value in graph.outputs),
        stored,
        said,
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
