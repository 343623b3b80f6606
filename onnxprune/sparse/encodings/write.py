"""Weights put into a model in their encodings: sparse tensors, and decoders that run at load.

``sparse_initializer`` is what the standard provides and onnxruntime reads. OpenVINO does not, but
reads the same tensor as the ``sparse_value`` of a Constant node from opset 13 on. Both were tried
on many tools, each in a process of its own; the lists are of what was measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.ops import LINEAR
from onnxprune.model.coo import FIRST_IR, SparseTensor
from onnxprune.model.decode import MARK, remove
from onnxprune.model.origin import QUANTIZATION
from onnxprune.sparse.encodings.graph_builder import OLDEST, GraphBuilder, Stream
from onnxprune.sparse.encodings.sparsity_stats import count
from onnxprune.sparse.encodings.table import DENSE, ENCODINGS, SPARSE, Encoding, Packed, Sparse
from onnxprune.sparse.encodings.weights import Array, Weight

_SMALL = 1 << 18
"""Weights below this many values share a stream: each further node costs more than it saves."""

_LONGEST = 1 << 20
"""Values of a shared stream."""

_FREE_INITIALIZERS = 4  # the IR version from which stored tensors need not be inputs too
_RECURRENT = frozenset(key for key, layer in LINEAR.items() if layer.kind == "recurrent")
_NODE_OPSET = 11  # the operator set that brought Constant.sparse_value
_OPENVINO_NODE_OPSET = 13  # the first one in which OpenVINO reads it; measured with 2026.4

OPENVINO_RECURRENT = (
    "OpenVINO takes weights of recurrent layers only as constants, and decodes packed ones too late"
)
"""Measured: its CPU plug-in refuses to compile the layer; it folds what only narrows values."""

REFUSED_BY = (
    "TensorRT and TensorRT-RTX (the parser stops; a weight that is also an input becomes one)",
    "OpenVINO's own reader (it stops; --backend openvino writes a form it reads)",
    "onnx.checker with full_check, and strict shape inference (they type it as a sparse tensor)",
    "onnxruntime's symbolic_shape_infer and onnx.reference (they stop)",
    "onnx.utils.extract_model and onnx.version_converter (they stop)",
    "onnx-graphsurgeon and Polygraphy (they keep it, but see zeros, or no weights at all)",
    "onnx-ir and onnxscript (they drop it, and write an invalid model)",
)
"""What cannot read ``sparse_initializer``, and what happens."""

NODE_REFUSED_BY = (
    "TensorRT and TensorRT-RTX (the parser stops)",
    "onnx-graphsurgeon, Polygraphy and onnxslim (they drop it, and write an invalid model)",
    "onnxruntime's symbolic_shape_infer, onnx.reference and onnx.version_converter (they stop)",
    "onnxsim, onnx-ir and onnxscript (they stop)",
)
"""What cannot read ``Constant.sparse_value``, and what happens."""


def unusable_encodings(model: models.Model, providers: Sequence[str] = ()) -> dict[Encoding, str]:
    """Encodings that no weight of a model can have, each with the reason.

    Args:
        model: the dense model.
        providers: what will run the model.
    """
    opset = model.ir.opset_imports.get("", 0)
    has = f"and the model has {opset}"
    reasons: dict[Encoding, str] = {}
    if opset < OLDEST:
        reason = f"packed weights are decoded by operators of opset {OLDEST}, {has}"
        reasons |= {each: reason for each in ENCODINGS.values() if isinstance(each, Packed)}
    if "openvino" in providers and opset < _OPENVINO_NODE_OPSET:
        first = _OPENVINO_NODE_OPSET
        reasons[SPARSE] = f"OpenVINO reads sparse weights from opset {first} on, {has}"
    return reasons


def restrict(
    model: models.Model, weights: Iterable[Weight], providers: Sequence[str] = ()
) -> Iterator[Weight]:
    """The weights of a model, each with the encodings that it cannot have.

    Args:
        model: the dense model.
        weights: of it.
        providers: what will run the model.
    """
    everywhere = unusable_encodings(model, providers)
    recurrent = _recurrent(model) if "openvino" in providers else frozenset()
    packed: list[Encoding] = [e for e in ENCODINGS.values() if isinstance(e, Packed)]
    for weight in weights:
        own = dict.fromkeys(packed, OPENVINO_RECURRENT) if weight.value in recurrent else {}
        yield replace(weight, unusable={**own, **everywhere})


def _recurrent(model: models.Model) -> frozenset[ir.Value]:
    """Everything that the weights and biases of recurrent layers are computed from."""
    nodes = (node for graph in models.graphs(model) for node in graph)
    layers = [node for node in nodes if (node.domain, node.op_type) in _RECURRENT]
    pending = [value for node in layers for value in node.inputs[1:4]]
    reached: set[ir.Value] = set()
    while pending:
        value = pending.pop()
        if value is None or value in reached:
            continue
        reached.add(value)
        producer = value.producer()
        pending += producer.inputs if producer is not None else ()
    return frozenset(reached)


def write(
    model: models.Model, weights: Sequence[Weight], providers: Sequence[str] = ()
) -> tuple[str, ...]:
    """Write weights in their encodings, in place.

    Args:
        model: is edited.
        weights: of it, with their encodings; those that are dense are only touched if they are
            narrowed.
        providers: what will run the model; for OpenVINO sparse tensors go into Constant nodes.

    Returns:
        Tools that cannot read what is written, and what they do; empty for packed weights, which
        are standard operators.
    """
    refused = _write_sparse(model, weights, providers)
    _write_packed(model, weights)
    return refused


def _write_sparse(
    model: models.Model, weights: Sequence[Weight], providers: Sequence[str]
) -> tuple[str, ...]:
    has_nodes = model.ir.opset_imports.get("", 0) >= _NODE_OPSET
    as_nodes = "openvino" in providers and has_nodes
    refused: tuple[str, ...] = ()
    for weight in weights:
        if not isinstance(weight.encoding, Sparse):
            continue
        value = weight.value
        tensor = weight.encoding.tensor(weight.name, weight.tensor, weight.stats)
        node = value.producer()
        if node is not None and has_nodes:  # a Constant node stays one if it can
            node.attributes.clear()
            node.attributes.add(ir.AttrTensor("value", tensor))
        elif node is not None:
            _to_initializer(value, tensor)
        elif as_nodes:
            _to_node(value, tensor)
        else:
            value.const_value = tensor
        model.ir.ir_version = max(model.ir.ir_version, FIRST_IR)
        refused = NODE_REFUSED_BY if as_nodes else REFUSED_BY
    return refused


def _to_initializer(value: ir.Value, tensor: SparseTensor) -> None:
    graph = value.graph
    assert graph is not None
    stored = ir.Value(name=value.name, shape=value.shape, type=value.type, const_value=tensor)
    for reader, position in list(value.uses()):
        reader.replace_input_with(position, stored)
    stored.meta.update(value.meta)
    remove(value)
    graph.register_initializer(stored)


def _to_node(value: ir.Value, tensor: SparseTensor) -> None:
    graph, name = value.graph, value.name
    assert graph is not None
    output = ir.Value(name=name)
    node = ir.Node(
        "",
        "Constant",
        [],
        [ir.AttrTensor("value", tensor)],
        outputs=[output],
        name=f"{name}/sparse",
    )
    for reader, position in list(value.uses()):
        reader.replace_input_with(position, output)
    output.meta.update(value.meta)
    remove(value)
    if len(graph):
        graph.insert_before(graph[0], node)
    else:
        graph.append(node)


def _write_packed(model: models.Model, weights: Sequence[Weight]) -> None:
    """Replace weights by what decodes them, in place."""
    builder = GraphBuilder(model)
    decoded: list[tuple[Weight, ir.Value]] = []
    for number, members in enumerate(_streams(weights)):
        decoded += zip(members, _decoded(builder, number, members), strict=True)
    narrowed = [weight for weight in weights if weight.encoding is DENSE and weight.changed]
    together = [w for w in narrowed if w.coding.scale is None and w.stats.size < _SMALL]
    decoded += _converted_together(builder, together)
    decoded += [(w, _converted(builder, w)) for w in narrowed if w not in together]
    if not decoded:
        return
    builder.finish()
    model.ir.ir_version = max(model.ir.ir_version, _FREE_INITIALIZERS)
    for weight, value in decoded:
        _take_place(weight.value, value)
    forms = dict.fromkeys(weight.form for weight, _ in decoded)
    codes = dict.fromkeys(w.coding.dtype.name.lower() for w, _ in decoded if w.narrowed)
    model.ir.metadata_props[MARK] = " ".join((*forms, *codes))


def _streams(weights: Sequence[Weight]) -> Iterator[list[Weight]]:
    """Weights that are packed, those of one kind together as long as they are small."""
    kinds: dict[tuple[object, ...], list[Weight]] = defaultdict(list)
    for weight in (w for w in weights if isinstance(w.encoding, Packed)):
        kind = (weight.form, weight.coding.dtype, weight.work)
        if weight.stats.size >= _SMALL:
            yield [weight]
            continue
        if sum(w.stats.size for w in (*kinds[kind], weight)) > _LONGEST:
            yield kinds.pop(kind)
        kinds[kind].append(weight)
    yield from kinds.values()


def _stream(number: int, weights: Sequence[Weight]) -> Stream:
    """Weights that have one encoding and one type, one after the other."""
    first = weights[0]

    def flat() -> Array:
        parts = [weight.stored().reshape(-1) for weight in weights]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    as_counted = len(weights) == 1 and first.moved is None
    stats = first.stats if as_counted else count(flat())
    return Stream(number, stats, first.coding.dtype, first.work, flat)


def _decoded(builder: GraphBuilder, number: int, weights: Sequence[Weight]) -> list[ir.Value]:
    """What stands for each weight of a stream."""
    encoding = weights[0].encoding
    assert isinstance(encoding, Packed)
    whole = encoding.decode(builder, _stream(number, weights))
    parts = builder.split(whole, [weight.stats.size // encoding.row for weight in weights])
    return [_shaped(builder, w, part) for w, part in zip(weights, parts, strict=True)]


def _shaped(builder: GraphBuilder, weight: Weight, part: ir.Value) -> ir.Value:
    """A part of a stream in the weight's shape, axis order, scale and type."""
    shape = list(weight.shape)
    axis = weight.moved
    if axis is None:
        return _scaled(builder, weight, builder.reshape(part, shape))
    shape.append(shape.pop(axis))
    order = list(range(len(shape) - 1))
    order.insert(axis, len(shape) - 1)
    return _scaled(builder, weight, builder.transpose(builder.reshape(part, shape), order))


def _converted(builder: GraphBuilder, weight: Weight) -> ir.Value:
    """What stands for a weight that stays dense but is written in fewer bits."""
    dtype = weight.coding.dtype
    tensor = ir.LazyTensor(lambda: ir.Tensor(weight.stored(), dtype), dtype, ir.Shape(weight.shape))
    stored = builder.constant(dtype.name.lower(), tensor)
    return _scaled(builder, weight, builder.cast(stored, weight.work))


def _converted_together(
    builder: GraphBuilder, weights: Sequence[Weight]
) -> Iterator[tuple[Weight, ir.Value]]:
    """The same for small weights, many of which share a tensor and its conversion."""
    kinds: dict[tuple[ir.DataType, ir.DataType], list[Weight]] = defaultdict(list)
    for weight in weights:
        kinds[weight.coding.dtype, weight.work].append(weight)
    for number, ((dtype, work), members) in enumerate(kinds.items()):
        if len(members) == 1:
            yield members[0], _converted(builder, members[0])
            continue
        stream = _stream(number, members)
        size = (stream.stats.size,)
        stored = builder.part(stream, dtype.name.lower(), iter, dtype, size)
        parts = builder.split(builder.cast(stored, work), [w.stats.size for w in members])
        for weight, part in zip(members, parts, strict=True):
            flat = len(weight.shape) == 1
            yield weight, part if flat else builder.reshape(part, weight.shape)


def _scaled(builder: GraphBuilder, weight: Weight, value: ir.Value) -> ir.Value:
    scale = weight.coding.scale
    if scale is None:
        return value
    scaled = builder.node("Mul", value, builder.constant("scale", ir.Tensor(scale)))
    dtype = weight.tensor.dtype
    return scaled if dtype == ir.DataType.FLOAT else builder.cast(scaled, dtype)


def _take_place(old: ir.Value, new: ir.Value) -> None:
    """``new`` becomes what ``old`` was, name included, for everybody in any graph."""
    for reader, position in list(old.uses()):
        reader.replace_input_with(position, new)
    if QUANTIZATION in old.meta:
        new.meta[QUANTIZATION] = old.meta[QUANTIZATION]
    remove(old)
    new.name = old.name
