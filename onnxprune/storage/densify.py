"""Packed weights made dense again; those that ONNX stores sparse are dense once they are loaded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.storage.folding import describe, evaluate, folds
from onnxprune.storage.packed import MARK, remove
from onnxprune.storage.pieces import PREFIX


def densify(model: models.Model) -> tuple[models.Model, tuple[str, ...]]:
    """A copy of a model in which every packed weight is an ordinary constant again.

    A packed weight is known by what it is made of: constants only, by operators of decoders only,
    one of them looking up or adding up stored bytes. So it is found whatever else was done to the
    file. What the constants become is what the decoder computes, bit by bit; they are computed
    when they are read.

    Args:
        model: it is left as it is, and returned itself if nothing in it is packed.

    Returns:
        The copy, and the names of the weights.
    """
    found = packed(model)
    if not found:
        return model, ()
    made = models.clone(model)
    values = {value.name: value for value in models.values(made.ir.graph)}
    decoders = [values[value.name].producer() for value in found]
    for value in found:
        _make_constant(made, values[value.name], _tensor(value))
    for decoder in decoders:
        assert decoder is not None
        _remove(made, decoder)
    made.ir.metadata_props.pop(MARK, None)
    return made, tuple(value.name or "" for value in found)


def packed(model: models.Model) -> tuple[ir.Value, ...]:
    """The values of a model that are decoded weights."""
    marked = MARK in model.ir.metadata_props
    inside: dict[ir.Value, bool] = {}  # computed as decoders compute -> from stored bytes
    roots = []
    for node in model.ir.graph:
        inputs = [value for value in node.inputs if value is not None]
        if not folds(node) or len(inputs) < len(node.inputs):
            continue
        if not all(value in inside or _is_stored(value) for value in inputs):
            continue
        known = _reads_bytes(node) or any(inside.get(value, False) for value in inputs)
        known = known or (marked and any(_is_ours(value) for value in inputs))
        if marked and known and not _is_ours(node.outputs[0]):
            roots.append(node.outputs[0])  # what follows, whatever it computes, is the model's own
        else:
            inside |= dict.fromkeys(node.outputs, known)
    if marked:
        return tuple(roots)
    return tuple(v for v, known in inside.items() if known and _is_read(v, lambda o: o in inside))


def _is_stored(value: ir.Value) -> bool:
    return models.constant(value) is not None and not value.is_graph_input()


def _is_ours(value: ir.Value) -> bool:
    return (value.name or "").startswith(PREFIX)


def _is_read(value: ir.Value, inside: Callable[[ir.Value], bool]) -> bool:
    """Whether anybody who is no decoder reads a value."""
    readers = {reader for reader, _ in value.uses()}
    return value.is_graph_output() or any(not any(map(inside, r.outputs)) for r in readers)


def _reads_bytes(node: ir.Node) -> bool:
    """Whether a node looks stored bytes up in a table, or adds them up."""
    at = {"Gather": 1, "CumSum": 0}.get(node.op_type)
    value = node.inputs[at] if at is not None else None
    cast = value.producer() if value is not None else None
    if cast is None or cast.op_type != "Cast" or cast.inputs[0] is None:
        return False
    stored = models.constant(cast.inputs[0])
    return stored is not None and stored.dtype == ir.DataType.UINT8


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    """What a decoder computes; ``value`` stays in its own graph, which nobody edits."""
    dtype, shape = describe(value)

    def decode() -> ir.TensorProtocol:
        try:
            array = np.ascontiguousarray(evaluate(value))
        except (IndexError, ValueError) as error:
            raise OnnxpruneError(
                f"the packed weight '{value.name}' is damaged: {error}",
                hint="copy the file again, or store the dense model again",
            ) from error
        return ir.Tensor(array, dtype, name=value.name)

    if shape is None:
        return decode()
    return ir.LazyTensor(
        decode,
        dtype,
        ir.Shape(shape),
        name=value.name,
    )


def _make_constant(model: models.Model, value: ir.Value, tensor: ir.TensorProtocol) -> None:
    """A constant of the same name in the place of a decoder's last value."""
    graph = model.ir.graph
    made = models.add_constant(graph, f"{value.name}/dense", tensor)
    for reader, position in list(value.uses()):
        reader.replace_input_with(position, made)
    for k, each in enumerate(graph.outputs):
        if each is value:
            graph.outputs[k] = made
    made.meta.update(value.meta)
    name, value.name = value.name, f"{PREFIX}{value.name}"
    made.name = name


def _remove(model: models.Model, node: ir.Node) -> None:
    """Remove a node nobody reads, and what then nobody reads in front of it."""
    pending = [node]
    while pending:
        current = pending.pop()
        if current.graph is None or any(v.uses() or v.is_graph_output() for v in current.outputs):
            continue
        inputs = {value for value in current.inputs if value is not None}
        model.ir.graph.remove(current, safe=True)
        for value in inputs:
            producer = value.producer()
            if value.uses() or value.is_graph_output():
                continue
            if producer is not None:
                pending.append(producer)
            elif value.is_initializer():
                remove(value)
