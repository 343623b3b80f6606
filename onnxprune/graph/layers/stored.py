"""From a node back to the tensor that is stored for it.

A weight often reaches its node through operators that leave every element what it is and only
name, type, scale or move it: Identity, Cast, QuantizeLinear and DequantizeLinear, Transpose,
Reshape and its kin. Such a chain is a bijection of elements made of reshapes and transposes, so
a mask found where the weight is used can be carried back to where it is stored, and the other way
round, whatever lies between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import identity
from onnxprune.graph.facts import full
from onnxprune.graph.ops.movement import reshaped
from onnxprune.graph.ops.shape_call import InconsistentError

Array = npt.NDArray[Any]

RESHAPES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})
_SAME = {"Identity", "Cast", "CastLike", "QuantizeLinear", "DequantizeLinear"}
MOVERS = frozenset(_SAME | RESHAPES | {"Transpose"})
"""The operators that :func:`trace` sees through."""


@dataclass(frozen=True)
class Step:
    """One change of layout: the sizes of a reshape, or the order of axes of a transpose."""

    kind: str
    order: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Scaling:
    """A DequantizeLinear on the way: ``(q - zero) * scale``.

    Attributes:
        at: how many steps lie before it.
        scale, zero: what is stored for them; ``zero`` is None where there is none.
        axis: of the tensor at that point, for a scale that is a vector.
        block: how many elements of the axis share a scale; 0 where each has its own.
    """

    at: int
    scale: Array | None
    zero: Array | None
    axis: int
    block: int


@dataclass(frozen=True, eq=False)
class Stored:
    """A stored tensor, and how the node at the other end sees it.

    Attributes:
        value: what holds it.
        shape: as it is stored.
        dtype: as it is stored.
        seen_dtype: what the node computes with; None where the graph does not say.
        steps: changes of layout from the store to the node.
        through: operators on the way, from the store to the node.
        scaling: the DequantizeLinear on the way, None if there is none.
    """

    value: ir.Value
    shape: tuple[int, ...]
    dtype: ir.DataType
    seen_dtype: ir.DataType | None
    steps: tuple[Step, ...] = ()
    through: tuple[str, ...] = ()
    scaling: Scaling | None = None

    @property
    def name(self) -> str:
        """The name of the stored tensor."""
        return self.value.name or ""

    def read(self) -> Array:
        """The tensor as it is stored."""
        return models.array_of(self.value)

    def seen(self, array: Array) -> Array:
        """An array of the stored shape, laid out as the node sees it; a view where it can be."""
        return forward(array, self.steps)

    def unseen(self, array: Array) -> Array:
        """The inverse of :meth:`seen`."""
        return backward(array, self.shape, self.steps)

    @property
    def seen_shape(self) -> tuple[int, ...]:
        """The shape that the node sees."""
        return shapes_along(self.shape, self.steps)[-1]

    def stored_axis(self, axis: int) -> int | None:
        """Where an axis that the node sees lies in the store; None if it is no axis of its own."""
        return axis_before(self.shape, self.steps, axis)

    def magnitude(self, array: Array) -> Array:
        """What each stored element weighs, comparable along any axis.

        The bits of a float without its sign are ordered like its magnitude, so nothing is
        converted; scales only matter where one of them differs along the tensor.
        """
        scaling = self.scaling
        if scaling is None or scaling.scale is None or scaling.scale.size == 1:
            return _bits(array)
        size = np.abs(array.astype(np.float32))
        before = self.steps[: scaling.at]
        at = forward(size, before)
        scale = np.abs(scaling.scale.astype(np.float32))
        if scaling.block:
            scale = np.repeat(scale, scaling.block, scaling.axis)
            scale = scale.take(np.arange(at.shape[scaling.axis]), scaling.axis)
        else:
            scale = scale.reshape([-1 if a == scaling.axis else 1 for a in range(at.ndim)])
        return backward(np.ascontiguousarray(at * scale), self.shape, before)


@dataclass(frozen=True)
class Unknown:
    """Why there is no stored tensor behind a value.

    Attributes:
        reason: a clause about the weight; empty where the value is an activation.
    """

    reason: str


def trace(value: ir.Value | None) -> Stored | Unknown:
    """The stored tensor behind an input of a node."""
    chain: list[ir.Node] = []
    while value is not None and models.constant(value) is None:
        node = value.producer()
        if node is None or node.domain or node.op_type not in MOVERS:
            return _computed(value)
        chain.append(node)
        value = node.inputs[0]
    tensor = None if value is None else models.constant(value)
    if value is None or tensor is None:
        return Unknown("")
    shape = tuple(int(n) for n in tensor.shape.numpy())
    return _follow(value, shape, tensor.dtype, chain[::-1])


def _follow(
    value: ir.Value, stored: tuple[int, ...], dtype: ir.DataType, nodes: Sequence[ir.Node]
) -> Stored | Unknown:
    shape, seen = stored, dtype
    steps: list[Step] = []
    scaling: Scaling | None = None
    for node in nodes:
        if node.op_type in RESHAPES or node.op_type == "Transpose":
            step = step_of(node, shape)
            if step is None:
                return Unknown(f"its weight goes through {_called(node)} to a shape not stored")
            steps.append(step)
            shape = shapes_along(shape, [step])[-1]
        elif node.op_type == "DequantizeLinear":
            if scaling is not None:
                return Unknown("its weight is dequantized twice")
            scaling = _scaling(node, len(steps), len(shape))
            if scaling is None:
                return Unknown(f"the scale of its weight is computed, at {_called(node)}")
            scale = node.inputs[1]
            seen = (scale.dtype if scale is not None else None) or ir.DataType.FLOAT
        elif node.op_type == "Cast":
            seen = ir.DataType(node.attributes["to"].as_int())
        elif node.op_type == "CastLike":
            like = node.inputs[1]
            seen = (like.dtype if like is not None else None) or seen
    through = tuple(node.op_type for node in nodes)
    return Stored(value, stored, dtype, seen, tuple(steps), through, scaling)


def _computed(value: ir.Value) -> Unknown:
    """Stored values that something computes with, or an activation."""
    node = value.producer()
    if node is None:
        return Unknown("")
    waiting, seen = [value], set()
    while waiting:
        here = waiting.pop()
        if here in seen or models.constant(here) is not None:
            continue
        seen.add(here)
        maker = here.producer()
        if maker is None:
            return Unknown("")
        if not maker.inputs and maker.op_type != "Constant":
            return Unknown("")  # random numbers
        if any(True for _ in models.bodies(maker)):
            return Unknown("")  # what its bodies read is not looked for
        waiting += [each for each in maker.inputs if each is not None]
    return Unknown(f"its weight is computed from stored ones, by {_called(node)}")


def _called(node: ir.Node) -> str:
    return f"{node.op_type} '{identity(node)}'"


def _scaling(node: ir.Node, at: int, rank: int) -> Scaling | None:
    arrays: list[Array | None] = []
    for position in (1, 2):
        value = node.inputs[position] if len(node.inputs) > position else None
        source = None if value is None else trace(value)
        if isinstance(source, Unknown):
            return None
        arrays.append(None if source is None else source.seen(source.read()))
    return Scaling(
        at,
        arrays[0],
        arrays[1],
        node.attributes.get_int("axis", 1) % max(rank, 1),
        node.attributes.get_int("block_size", 0),
    )


def _bits(array: Array) -> Array:
    name, size = array.dtype.name, array.dtype.itemsize
    if name in ("float16", "bfloat16", "float32", "float64"):
        kind = {2: np.uint16, 4: np.uint32, 8: np.uint64}[size]
        bits: Array = np.ascontiguousarray(array).view(kind) & kind((1 << (8 * size - 1)) - 1)
        return bits
    if array.dtype.kind in "iu" and size > 1:
        return np.abs(array.astype(np.float64))  # the magnitude of the least has no int
    size_of: Array = np.abs(array.astype(np.float32 if name.startswith("float") else np.int16))
    return size_of


def step_of(node: ir.Node, shape: tuple[int, ...]) -> Step | None:
    """The step of a Transpose, Reshape, Squeeze, Unsqueeze or Flatten; None if it is computed."""
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
    place: int | None = axis
    for step, before, after in zip(
        reversed(steps), reversed(shapes[:-1]), reversed(shapes[1:]), strict=True
    ):
        if place is None:
            return None
        place = step.order[place] if step.kind == "transpose" else _same(before, after, place)
    return place


def _transpose(node: ir.Node, shape: tuple[int, ...]) -> Step | None:
    order = tuple(node.attributes.get_ints("perm", range(len(shape))[::-1]))
    return Step("transpose", order) if len(order) == len(shape) else None


def _shape(node: ir.Node, shape: tuple[int, ...]) -> Step | None:
    if node.op_type == "Flatten":
        axis = node.attributes.get_int("axis", 1) % (len(shape) + 1)
        return Step("reshape", (math.prod(shape[:axis]), math.prod(shape[axis:])))
    numbers = _numbers(node)
    if node.op_type == "Squeeze":
        squeezed = range(len(shape)) if numbers is None else [n % len(shape) for n in numbers]
        return Step("reshape", tuple(n for a, n in enumerate(shape) if a not in squeezed or n != 1))
    if numbers is None:
        return None
    if node.op_type == "Reshape":
        keep_zero = bool(node.attributes.get_int("allowzero", 0))
        try:
            sizes = full(reshaped(shape, numbers, keep_zero=keep_zero))
        except InconsistentError:
            return None
        return None if sizes is None else Step("reshape", sizes)
    rank = len(shape) + len(numbers)
    new = {n % rank for n in numbers}
    rest = iter(shape)
    return Step("reshape", tuple(1 if a in new else next(rest) for a in range(rank)))


def _numbers(node: ir.Node) -> list[int] | None:
    """The shape or axes of a node: its second input, or an attribute in old operator sets."""
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = models.constant(node.inputs[1])
        return None if tensor is None else [int(n) for n in tensor.numpy().ravel()]
    stored = node.attributes.get_ints("shape" if node.op_type == "Reshape" else "axes", None)
    return None if stored is None else list(stored)


def _same(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    """The axis before a reshape that has the same elements as one after it."""
    first = math.prod(after[:axis])
    for other, size in enumerate(before):
        if size == after[axis] and math.prod(before[:other]) == first:
            return other
    return None
