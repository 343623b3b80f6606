"""Packed weights made dense again; those that ONNX stores sparse are dense once they are loaded.

Decoding subgraphs are evaluated with numpy: the operators that `onnxprune store` writes, and no
others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.model.constants import names_of

MARK = "onnxprune.packed"
"""Key of the model's metadata that marks weights decoded in front of the graph."""
PREFIX = "packed/"
"""Prefix of all names that belong to a decoder."""


def densify(model: models.Model) -> tuple[models.Model, tuple[str, ...]]:
    """A copy of a model in which every packed weight is an ordinary constant again.

    A packed weight is recognised by its computation: from constants only, by operators of decoders
    only, one of them looking up or adding up stored bytes. So it is found whatever else was done
    to the file. The constants are what the decoder computes, bit by bit, and are computed when
    they are read.

    Args:
        model: it is left as it is, and returned itself if nothing in it is packed.

    Returns:
        The copy, and the names of the weights.
    """
    weights = packed(model)
    if not weights:
        return model, ()
    copy = models.clone(model)
    values = {value.name: value for value in models.values(copy.ir.graph)}
    decoders = [values[value.name].producer() for value in weights]
    used = names_of(copy.ir.graph)
    for value in weights:
        _make_constant(copy, values[value.name], _tensor(value), used)
    for decoder in decoders:
        assert decoder is not None
        _remove(copy, decoder)
    copy.ir.metadata_props.pop(MARK, None)
    return copy, tuple(value.name or "" for value in weights)


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
        for output in node.outputs:  # of a Split, some may be weights and others parts of them
            if marked and known and not _is_ours(output):
                roots.append(output)  # what follows, whatever it computes, is the model's own
            else:
                inside[output] = known
    if marked:
        return tuple(roots)
    return tuple(v for v, known in inside.items() if known and _is_read(v, lambda o: o in inside))


def _is_stored(value: ir.Value) -> bool:
    return models.constant(value) is not None and not value.is_graph_input()


def _is_ours(value: ir.Value) -> bool:
    return (value.name or "").startswith(PREFIX)


def _is_read(value: ir.Value, inside: Callable[[ir.Value], bool]) -> bool:
    """Whether anything but a decoder reads a value."""
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
    """The result of a decoder; ``value`` stays in its own graph, which is not edited."""
    dtype, shape = describe(value)

    def decode() -> ir.TensorProtocol:
        try:
            array = np.ascontiguousarray(evaluate(value))
            if array.base is not None:  # a part of many weights, which would stay in memory
                array = array.copy()
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


def _make_constant(
    model: models.Model, value: ir.Value, tensor: ir.TensorProtocol, used: set[str | None]
) -> None:
    """A constant of the same name in the place of a decoder's last value."""
    graph = model.ir.graph
    dense = models.add_constant(graph, f"{value.name}/dense", tensor, used)
    for reader, position in list(value.uses()):
        reader.replace_input_with(position, dense)
    for k, each in enumerate(graph.outputs):
        if each is value:
            graph.outputs[k] = dense
    dense.meta.update(value.meta)
    name, value.name = value.name, f"{PREFIX}{value.name}"
    dense.name = name


def _remove(model: models.Model, node: ir.Node) -> None:
    """Remove an unused node, and what is unused in front of it then."""
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


def remove(value: ir.Value) -> None:
    """Take an unused constant out of its graph."""
    node = value.producer()
    if node is not None:
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        graph.remove(node, safe=True)
        return
    graph = value.graph
    assert graph is not None
    graph.initializers.pop(value.name or "")


Array = npt.NDArray[Any]


def _gather(node: ir.Node, data: Array, at: Array) -> Array:
    return np.take(data, at, axis=node.attributes.get_int("axis", 0))


def _scatter(node: ir.Node, data: Array, at: Array, updates: Array) -> Array:
    result = data.copy()
    np.put_along_axis(result, at.astype(np.int64), updates, axis=node.attributes.get_int("axis", 0))
    return result


def _split(node: ir.Node, data: Array, *sizes: Array) -> list[Array]:
    lengths = sizes[0].tolist() if sizes else list(node.attributes["split"].as_ints())
    return np.split(data, np.cumsum(lengths)[:-1], axis=node.attributes.get_int("axis", 0))


def _slice(_: ir.Node, data: Array, start: Array, end: Array) -> Array:
    return data[int(start[0]) : int(end[0])]


def _fill(node: ir.Node) -> ir.TensorProtocol:
    tensor: ir.TensorProtocol = node.attributes["value"].value  # as_tensor() takes 20 us to check
    return tensor


def _filled(node: ir.Node, sizes: Array) -> Array:
    value = _fill(node).numpy()
    return np.full(sizes.tolist(), value.reshape(-1)[0], value.dtype)


def _cast(node: ir.Node, data: Array) -> Array:
    return data.astype(ir.DataType(node.attributes.get_int("to", 0)).numpy())


_OPERATORS: Mapping[str, Callable[..., Array | list[Array]]] = {
    "Cast": _cast,
    "Concat": lambda node, *parts: np.concatenate(parts, axis=node.attributes.get_int("axis", 0)),
    "ConstantOfShape": _filled,
    "CumSum": lambda _, data, axis: np.cumsum(data, axis=int(axis), dtype=data.dtype),
    "Gather": _gather,
    "GatherElements": lambda node, data, at: np.take_along_axis(
        data, at.astype(np.int64), axis=node.attributes.get_int("axis", 0)
    ),
    "Mul": lambda _, a, b: a * b,
    "Reshape": lambda _, data, shape: data.reshape(shape.tolist()),
    "ScatterElements": _scatter,
    "Slice": _slice,
    "Split": _split,
    "Transpose": lambda node, data: np.transpose(data, node.attributes["perm"].as_ints()),
}


def folds(node: ir.Node) -> bool:
    """Whether the operator of a node is one of those that decoders are made of."""
    return not node.domain and node.op_type in _OPERATORS


def evaluate(value: ir.Value) -> Array:
    """What a value holds that is computed from constants by operators that `folds` knows."""
    done: dict[ir.Value, Array] = {}
    pending = [value]
    while pending:
        current = pending[-1]
        if current in done:
            pending.pop()
            continue
        stored = models.constant(current)
        if stored is not None:
            done[current] = stored.numpy()
            continue
        node = current.producer()
        assert node is not None
        missing = [each for each in node.inputs if each is not None and each not in done]
        if missing:
            pending += missing
            continue
        inputs = [done[each] for each in node.inputs if each is not None]
        result = _OPERATORS[node.op_type](node, *inputs)
        outputs = result if isinstance(result, list) else [result]
        done.update(zip(node.outputs, outputs, strict=True))
    return done[value]


def describe(value: ir.Value) -> tuple[ir.DataType, tuple[int, ...] | None]:
    """Element type and, where known without computing it, shape of such a value."""
    stored = models.constant(value)
    if stored is not None:
        return stored.dtype, tuple(int(size) for size in stored.shape.numpy())
    node = value.producer()
    assert node is not None
    if node.op_type == "ConstantOfShape":
        return _fill(node).dtype, None
    first = node.inputs[1 if node.op_type == "Concat" else 0]
    assert first is not None
    return _behind(node, *describe(first))


def _behind(
    node: ir.Node, dtype: ir.DataType, shape: tuple[int, ...] | None
) -> tuple[ir.DataType, tuple[int, ...] | None]:
    """Type and shape of a node's output, given those of the input that decides them."""
    match node.op_type:
        case "Cast":
            return ir.DataType(node.attributes.get_int("to", 0)), shape
        case "Mul":
            return dtype, shape
        case "Reshape":
            sizes = models.constant(node.inputs[1]) if node.inputs[1] is not None else None
            target = [] if sizes is None else [int(size) for size in sizes.numpy()]
            return dtype, tuple(target) if target and min(target) > 0 else None
        case "Transpose":
            perm = node.attributes.get("perm")
            order = () if perm is None else tuple(perm.as_ints())
            if shape is None or sorted(order) != [*range(len(shape))]:
                return dtype, None
            return dtype, tuple(shape[axis] for axis in order)
    return dtype, None  # a stream: only its type is needed, for the Reshape behind it
