"""Changes of layout between a store and a node: reshapes and transposes, and their inverses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models

Array = npt.NDArray[Any]

RESHAPES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})


@dataclass(frozen=True)
class Step:
    """One change of layout: the sizes of a reshape, or the order of axes of a transpose."""

    kind: str
    order: tuple[int, ...]


def step_of(node: ir.Node, shape: tuple[int, ...]) -> Step | None:
    """What a Transpose, Reshape, Squeeze, Unsqueeze or Flatten does; None if it is not stored."""
    return _transpose(node, shape) if node.op_type == "Transpose" else _shape(node, shape)


def shapes_along(shape: tuple[int, ...], steps: Sequence[Step]) -> list[tuple[int, ...]]:
    """The shape before the first step, and after each."""
    shapes = [shape]
    for step in steps:
        last = shapes[-1]
        after = tuple(last[a] for a in step.order) if step.kind == "transpose" else step.order
        shapes.append(after)
    return shapes


def forward(array: Array, steps: Sequence[Step]) -> Array:
    """An array after the steps; a view where it can be."""
    for step in steps:
        kind = step.kind
        array = array.transpose(step.order) if kind == "transpose" else array.reshape(step.order)
    return array


def backward(array: Array, shape: tuple[int, ...], steps: Sequence[Step]) -> Array:
    """The array of ``shape`` that the steps turn into this one."""
    for step, before in zip(
        reversed(steps), reversed(shapes_along(shape, steps)[:-1]), strict=True
    ):
        if step.kind == "transpose":
            array = array.transpose(np.argsort(step.order))
        else:
            array = array.reshape(before)
    return array


def axis_before(shape: tuple[int, ...], steps: Sequence[Step], axis: int) -> int | None:
    """Where an axis after the steps lies before them; None if it is no axis of its own."""
    shapes = shapes_along(shape, steps)
    found: int | None = axis
    for step, before, after in zip(
        reversed(steps), reversed(shapes[:-1]), reversed(shapes[1:]), strict=True
    ):
        if found is None:
            return None
        found = step.order[found] if step.kind == "transpose" else _same(before, after, found)
    return found


def _transpose(node: ir.Node, shape: tuple[int, ...]) -> Step | None:
    perm = node.attributes.get("perm")
    order = tuple(perm.as_ints()) if perm is not None else tuple(reversed(range(len(shape))))
    return Step("transpose", order) if len(order) == len(shape) else None


def _shape(node: ir.Node, shape: tuple[int, ...]) -> Step | None:
    if node.op_type == "Flatten":
        attribute = node.attributes.get("axis")
        axis = 1 if attribute is None else attribute.as_int() % (len(shape) + 1)
        return Step("reshape", (math.prod(shape[:axis]), math.prod(shape[axis:])))
    numbers = _numbers(node)
    if node.op_type == "Reshape":
        return None if numbers is None else _reshape(node, shape, numbers)
    if node.op_type == "Squeeze":
        gone = range(len(shape)) if numbers is None else [n % len(shape) for n in numbers]
        return Step("reshape", tuple(n for a, n in enumerate(shape) if a not in gone or n != 1))
    if numbers is None:
        return None
    rank = len(shape) + len(numbers)
    new = {n % rank for n in numbers}
    rest = iter(shape)
    return Step("reshape", tuple(1 if a in new else next(rest) for a in range(rank)))


def _numbers(node: ir.Node) -> list[int] | None:
    """The shape or axes of a node: its second input, or an attribute in old operator sets."""
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = models.constant(node.inputs[1])
        return None if tensor is None else [int(n) for n in tensor.numpy().ravel()]
    attribute = node.attributes.get("shape" if node.op_type == "Reshape" else "axes")
    return None if attribute is None else list(attribute.as_ints())


def _reshape(node: ir.Node, shape: tuple[int, ...], wanted: Sequence[int]) -> Step | None:
    literal = node.attributes.get("allowzero")
    zeros = literal is not None and bool(literal.as_int())
    if not zeros and any(n == 0 and a >= len(shape) for a, n in enumerate(wanted)):
        return None
    sizes = [shape[a] if n == 0 and not zeros else n for a, n in enumerate(wanted)]
    known = math.prod(n for n in sizes if n >= 0)
    if -1 in sizes:
        sizes[sizes.index(-1)] = math.prod(shape) // max(known, 1)
    return Step("reshape", tuple(sizes)) if math.prod(sizes) == math.prod(shape) else None


def _same(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    """The axis before a reshape that has the same elements as one after it."""
    first = math.prod(after[:axis])
    for other, size in enumerate(before):
        if size == after[axis] and math.prod(before[:other]) == first:
            return other
    return None
