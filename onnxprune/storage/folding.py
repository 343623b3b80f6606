"""Decoding subgraphs evaluated with numpy: the operators that `packed` writes, and no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models

Array = npt.NDArray[Any]


def _gather(node: ir.Node, data: Array, at: Array) -> Array:
    return np.take(data, at, axis=_int(node, "axis", 0))


def _scatter(node: ir.Node, data: Array, at: Array, updates: Array) -> Array:
    made = data.copy()
    np.put_along_axis(made, at.astype(np.int64), updates, axis=_int(node, "axis", 0))
    return made


def _split(node: ir.Node, data: Array, *sizes: Array) -> list[Array]:
    given = sizes[0].tolist() if sizes else list(node.attributes["split"].as_ints())
    return np.split(data, np.cumsum(given)[:-1], axis=_int(node, "axis", 0))


def _slice(_: ir.Node, data: Array, start: Array, end: Array) -> Array:
    return data[int(start[0]) : int(end[0])]


def _filled(node: ir.Node, sizes: Array) -> Array:
    value = node.attributes["value"].as_tensor().numpy()
    return np.full(sizes.tolist(), value.reshape(-1)[0], value.dtype)


def _cast(node: ir.Node, data: Array) -> Array:
    return data.astype(ir.DataType(_int(node, "to", 0)).numpy())


_OPERATORS: Mapping[str, Callable[..., Array | list[Array]]] = {
    "Cast": _cast,
    "Concat": lambda node, *parts: np.concatenate(parts, axis=_int(node, "axis", 0)),
    "ConstantOfShape": _filled,
    "CumSum": lambda _, data, axis: np.cumsum(data, axis=int(axis), dtype=data.dtype),
    "Gather": _gather,
    "GatherElements": lambda node, data, at: np.take_along_axis(
        data, at.astype(np.int64), axis=_int(node, "axis", 0)
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
    return node.domain in ("", "ai.onnx") and node.op_type in _OPERATORS


def evaluate(value: ir.Value) -> Array:
    """What a value holds that is computed from constants by operators that `folds` knows."""
    done: dict[ir.Value, Array] = {}
    pending = [value]
    while pending:
        current = pending[-1]
        if current in done:
            pending.pop()
            continue
        held = models.constant(current)
        if held is not None:
            done[current] = held.numpy()
            continue
        node = current.producer()
        assert node is not None
        missing = [each for each in node.inputs if each is not None and each not in done]
        if missing:
            pending += missing
            continue
        inputs = [done[each] for each in node.inputs if each is not None]
        made = _OPERATORS[node.op_type](node, *inputs)
        outputs = made if isinstance(made, list) else [made]
        done.update(zip(node.outputs, outputs, strict=True))
    return done[value]


def describe(value: ir.Value) -> tuple[ir.DataType, tuple[int, ...] | None]:
    """Element type and, where it can be told without computing it, shape of such a value."""
    held = models.constant(value)
    if held is not None:
        return held.dtype, tuple(int(size) for size in held.shape.numpy())
    node = value.producer()
    assert node is not None
    if node.op_type == "ConstantOfShape":
        return node.attributes["value"].as_tensor().dtype, None
    first = node.inputs[1 if node.op_type == "Concat" else 0]
    assert first is not None
    return _behind(node, *describe(first))


def _behind(
    node: ir.Node, dtype: ir.DataType, shape: tuple[int, ...] | None
) -> tuple[ir.DataType, tuple[int, ...] | None]:
    """Type and shape of a node's output, given those of the input that decides them."""
    match node.op_type:
        case "Cast":
            return ir.DataType(_int(node, "to", 0)), shape
        case "Mul":
            return dtype, shape
        case "Reshape":
            sizes = models.constant(node.inputs[1]) if node.inputs[1] is not None else None
            found = [] if sizes is None else [int(size) for size in sizes.numpy()]
            return dtype, tuple(found) if found and min(found) > 0 else None
        case "Transpose":
            order = node.attributes["perm"].as_ints()
            return dtype, None if shape is None else tuple(shape[axis] for axis in order)
    return dtype, None  # a stream: only its type is needed, for the Reshape behind it


def _int(node: ir.Node, name: str, default: int) -> int:
    found = node.attributes.get(name)
    return default if found is None else found.as_int()
