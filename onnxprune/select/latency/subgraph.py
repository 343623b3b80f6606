"""A segment as a small model of its own, and the text that says what its time depends on.

The small model holds several copies of the segment behind one set of inputs, so that what a run
costs besides (the call, handing arrays over, turning them into the runtime's layout) is paid once
for all of them; what each copy computes is reduced to almost nothing, in a way that lets a
convolution keep its channels in blocks. Each copy of a large weight has other numbers: equal nodes
would be merged, and weights that are shared would stay in the cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from onnxprune import model as models
from onnxprune.graph.shapes import Fact
from onnxprune.select.latency.segments import Segment

Shapes = dict[str, tuple[int, ...]]

_SMALL = 4096
"""Elements of a stored tensor that is taken as it is: scales, variances, sizes, tables of codes."""
_DECIDING = 64
"""Elements of a stored integer that is part of what the time depends on: sizes and axes."""
_SPATIAL = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "BatchNormalization"}
MOVED = 10
"""Multiply-accumulates that take about as long as reading one number."""
_POOL = 1 << 22
"""Random numbers that are drawn once; weights are cut from them."""
_LARGEST = 1 << 30
"""Bytes of stored tensors that a small model may have: a file holds at most twice as many."""


@dataclass(frozen=True, eq=False)
class Subgraph:
    """A segment with everything known about it that its time depends on.

    Attributes:
        segment: the nodes.
        key: hexadecimal; equal for segments that take equally long.
        work: about how many multiply-accumulates it is.
        facts: of the model it comes from.
        model: that model.
    """

    segment: Segment
    key: str
    work: float
    facts: Mapping[str, Fact]
    model: models.Model


def extract_subgraph(
    model: models.Model, facts: Mapping[str, Fact], segment: Segment
) -> Subgraph | None:
    """What is needed to time a segment; None where it cannot be taken out of its model.

    That is so where a node has bodies, a size depends on what is fed, or weights are too large.
    """
    if any(True for node in segment.nodes for _ in models.bodies(node)):
        return None
    if any(_fact(v, facts) is None for v in (*segment.inputs, *segment.outputs)):
        return None
    if sum(held.size * held.dtype.itemsize for held in _all_held(segment, facts)) > _LARGEST:
        return None
    return Subgraph(segment, _key(model, facts, segment), _work(segment, facts), facts, model)


def _all_held(segment: Segment, facts: Mapping[str, Fact]) -> list[_Held]:
    return [_held(value, facts) for value in segment.stored]


def _fact(value: ir.Value, facts: Mapping[str, Fact]) -> tuple[tuple[int, ...], int] | None:
    fact = facts.get(value.name or "")
    if fact is None or fact.sizes is None or fact.dtype is None:
        return None
    if fact.dtype == ir.DataType.STRING or 0 in fact.sizes:
        return None
    return fact.sizes, int(fact.dtype)


def _work(segment: Segment, facts: Mapping[str, Fact]) -> float:
    """A product of what the first node makes and the weights it sums over, and all that is read."""
    first = segment.nodes[0]
    held = {v: _held(v, facts).size for v in segment.stored}
    weights = max((held.get(v, 0) for v in first.inputs if v is not None), default=0)
    output = _fact(first.outputs[0], facts) or ((1,), 0)
    across = (*output[0], 1)[1 if first.op_type in _SPATIAL else len(output[0]) - 1]
    read = sum(prod(_checked(v, facts)[0]) for v in (*segment.inputs, *segment.outputs))
    return prod(output[0]) * weights / across + MOVED * read


def _key(model: models.Model, facts: Mapping[str, Fact], segment: Segment) -> str:
    digest = hashlib.blake2b(digest_size=16)
    number: dict[ir.Value, int] = {}

    def say(*parts: object) -> None:
        digest.update(repr(parts).encode())

    def at(value: ir.Value | None) -> int:
        return -1 if value is None or not value.name else number.setdefault(value, len(number))

    say(sorted(model.ir.opset_imports.items()))
    for value in segment.inputs:
        say("reads", at(value), _fact(value, facts))
    for value in segment.stored:
        array = _held(value, facts)
        say("holds", at(value), str(array.dtype), array.shape)
        if array.dtype.kind in "iub" and array.size <= _DECIDING:
            digest.update(np.ascontiguousarray(array.numpy()).tobytes())
    for node in segment.nodes:
        say(node.domain, node.op_type, [at(v) for v in node.inputs], [at(v) for v in node.outputs])
        for name in sorted(node.attributes):
            proto = ir.serde.serialize_attribute(node.attributes[name])
            digest.update(proto.SerializeToString(deterministic=True))
    say([at(v) for v in segment.outputs])
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class _Held:
    """A stored tensor that is not read before its numbers are needed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    tensor: ir.TensorProtocol | None
    array: npt.NDArray[Any] | None

    @property
    def size(self) -> int:
        return prod(self.shape)

    def numpy(self) -> npt.NDArray[Any]:
        if self.array is not None:
            return self.array
        assert self.tensor is not None
        return self.tensor.numpy()


def _held(value: ir.Value, facts: Mapping[str, Fact]) -> _Held:
    tensor = models.constant(value)
    if tensor is not None:
        shape = tuple(int(n) for n in tensor.shape.numpy())
        return _Held(shape, np.dtype(tensor.dtype.numpy()), tensor, None)
    array = facts[value.name or ""].value
    assert array is not None
    return _Held(array.shape, array.dtype, None, array)


def copies_of(subgraph: Subgraph, copies: int) -> tuple[onnx.ModelProto, Shapes]:
    """A model with so many copies of a segment, and the shapes of its inputs."""
    segment, facts = subgraph.segment, subgraph.facts
    opset = subgraph.model.ir.opset_imports.get("", 1)
    writer = _Writer(opset)
    weighty = any(_held(v, facts).size > _SMALL for v in segment.stored)
    for copy in range(copies):
        names: dict[ir.Value, str] = {}
        for k, value in enumerate(segment.inputs):
            names[value] = f"input{k}" if weighty else f"input{k}.{copy}"
            shape, dtype = _checked(value, facts)
            writer.input(names[value], shape, dtype)
        for k, value in enumerate(segment.stored):
            tensor = _held(value, facts)
            large = tensor.size > _SMALL and tensor.dtype.kind == "f"
            names[value] = f"stored{k}.{copy}" if large else f"stored{k}"
            writer.stored(names[value], tensor, random=large)
        for node in segment.nodes:
            for output in node.outputs:
                names[output] = f"made{len(names)}.{copy}" if output.name else ""
            writer.node(node, names)
        for value, end in zip(segment.outputs, ends(subgraph), strict=True):
            writer.end(names[value], end)
    return writer.model(subgraph.model.ir), dict(writer.shapes)


@dataclass(frozen=True)
class End:
    """What becomes of an output of a copy: it is pooled, or its first element is taken.

    Attributes:
        shape, dtype: of the output.
        pooled: which of the two.
    """

    shape: tuple[int, ...]
    dtype: int
    pooled: bool


def ends(subgraph: Subgraph) -> tuple[End, ...]:
    """What becomes of the outputs of a copy of a segment, so that little has to be handed back."""
    spatial = any(node.op_type in _SPATIAL for node in subgraph.segment.nodes)
    result = []
    for value in subgraph.segment.outputs:
        shape, dtype = _checked(value, subgraph.facts)
        floats = dtype in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        result.append(End(shape, dtype, spatial and floats and prod(shape[2:]) > 1))
    return tuple(result)


def copies_of_end(end: End, source: ir.Model, copies: int) -> tuple[onnx.ModelProto, Shapes]:
    """A model that does to so many inputs what is done to the outputs of segments."""
    writer = _Writer(source.opset_imports.get("", 1))
    for copy in range(copies):
        writer.input(f"input.{copy}", end.shape, end.dtype)
        writer.end(f"input.{copy}", end)
    return writer.model(source), dict(writer.shapes)


def _checked(value: ir.Value, facts: Mapping[str, Fact]) -> tuple[tuple[int, ...], int]:
    fact = _fact(value, facts)
    assert fact is not None
    return fact


class _Writer:
    """A graph in the making."""

    def __init__(self, opset: int) -> None:
        self.shapes: Shapes = {}
        self._opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._stored: dict[str, onnx.TensorProto] = {}
        self._taken = 0

    def input(self, name: str, shape: tuple[int, ...], dtype: int) -> None:
        if name not in self.shapes:
            self.shapes[name] = shape
            self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def stored(self, name: str, held: _Held, *, random: bool) -> None:
        if name in self._stored:
            return
        array = held.numpy() if not random else self._random(held)
        self._stored[name] = ir.serde.serialize_tensor(ir.Tensor(array, name=name))

    def _random(self, held: _Held) -> npt.NDArray[Any]:
        pool = _pool()[self._taken :]
        self._taken = (self._taken + held.size) % (_POOL // 2)
        flat = pool[: held.size] if held.size <= len(pool) else np.resize(pool, held.size)
        return flat.reshape(held.shape).astype(held.dtype)

    def node(self, node: ir.Node, names: Mapping[ir.Value, str]) -> None:
        proto = ir.serde.serialize_node(node)
        del proto.input[:], proto.output[:]
        proto.input.extend("" if v is None else names.get(v, "") for v in node.inputs)
        proto.output.extend(names[v] for v in node.outputs)
        proto.name = proto.doc_string = ""
        del proto.metadata_props[:]
        self._nodes.append(proto)

    def end(self, name: str, end: End) -> None:
        small, rank = f"{name}.small", len(end.shape)
        shape = (1,) * rank
        if end.pooled:
            self._nodes.append(helper.make_node("GlobalAveragePool", [name], [small]))
            shape = (*end.shape[:2], *[1] * (rank - 2))
        elif rank:
            self._slice(name, small, rank)
        else:
            self._nodes.append(helper.make_node("Identity", [name], [small]))
        self._outputs.append(helper.make_tensor_value_info(small, end.dtype, shape))

    def _slice(self, name: str, small: str, rank: int) -> None:
        """Its first element: next to nothing is copied."""
        parts: dict[str, Any] = {
            "starts": [0] * rank,
            "ends": [1] * rank,
            "axes": list(range(rank)),
        }
        if self._opset < 10:
            self._nodes.append(helper.make_node("Slice", [name], [small], **parts))
            return
        read = [name]
        for what, numbers in parts.items():
            key = f"{what}{rank}"
            self._stored[key] = numpy_helper.from_array(np.array(numbers, np.int64), key)
            read.append(key)
        self._nodes.append(helper.make_node("Slice", read, [small]))

    def model(self, source: ir.Model) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes, "segment", self._inputs, self._outputs, list(self._stored.values())
        )
        opsets = [helper.make_opsetid(d, v) for d, v in source.opset_imports.items()]
        return helper.make_model(graph, opset_imports=opsets, ir_version=max(source.ir_version, 4))


@cache
def _pool() -> npt.NDArray[np.float32]:
    """Numbers of about the size of weights."""
    return np.random.default_rng(0).standard_normal(_POOL, np.float32) * np.float32(0.05)
