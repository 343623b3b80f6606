"""One node as its shape rule sees it, and arithmetic on sizes that may not be known.

Where onnx has a schema for an operator its own inference comes first, and a rule mends the result:
onnx infers a shape for a convolution whose channels do not match its weights, for a window
larger than what it looks at, for a recurrence whose initial state has another batch. Input shapes
are only worth probing with when onnxruntime would run them, so rules refuse these. Where onnx has
no schema (onnxruntime's ``com.microsoft``, a custom domain), a rule is all there is. Source of
onnxruntime's: its ``docs/ContribOperators.md`` and shape inference in ``core/graph/contrib_ops``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxprune.graph.facts import Fact, Shape
from onnxprune.graph.ops.call import Node


class InconsistentError(ValueError):
    """These input shapes do not fit this node: onnxruntime would refuse to run it."""


@dataclass
class ShapeCall(Node):
    """One node, with a fact per input (None where left out).

    Attributes:
        inferred: onnx's inference for the outputs; empty where it has no schema.
    """

    inputs: Sequence[Fact | None]
    inferred: Sequence[Fact] = ()

    @property
    def result(self) -> Fact:
        """Onnx's inference for the first output."""
        return self.inferred[0] if self.inferred else Fact(None, None)

    def fact(self, index: int) -> Fact:
        """An input's fact; an unknown one where it is left out."""
        fact = self.inputs[index] if index < len(self.inputs) else None
        return fact if fact is not None else Fact(None, None)

    def shape(self, index: int, rank: int | None = None) -> Shape | None:
        """An input's shape: None where left out, unknown, or of another rank."""
        shape = self.fact(index).shape
        return None if shape is None or rank not in (None, len(shape)) else shape

    def sizes(self, index: int) -> tuple[int, ...] | None:
        """An input's shape, if every size is known."""
        return self.fact(index).sizes

    def integer(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        return int(self.attr(name, default))


ShapeRule = Callable[[ShapeCall], Fact | list[Fact]]
"""Facts of the outputs, or of the first; a ValueError where the inputs do not fit together.

Outputs that it does not mention are as onnx infers them.
"""

SHAPES: dict[tuple[str, str], ShapeRule] = {}
"""(domain, operator) -> its rule. Those of operators that have a schema mend what onnx infers."""


def shape_rule(*ops: str, domain: str = "") -> Callable[[ShapeRule], ShapeRule]:
    """Register a function as the shape rule of one or more operators.

    Args:
        ops: operator names.
        domain: their domain, as nodes spell it; ``""`` is the standard one.
    """

    def register(function: ShapeRule) -> ShapeRule:
        SHAPES.update({(domain, op): function for op in ops})
        return function

    return register


def like_first(call: ShapeCall) -> Fact:
    """The first output has the shape of the first input."""
    first = call.fact(0)
    return Fact(first.shape, call.result.dtype or first.dtype)


def require(a: int, b: int, what: str) -> None:
    """Refuse two sizes that have to be equal and are not.

    Raises:
        InconsistentError: they differ.
    """
    if a != b:
        raise InconsistentError(f"{a} {what} meet {b}")


def plus(a: int | None, b: int | None) -> int | None:
    """The sum, if both are known."""
    return None if a is None or b is None else a + b


def times(a: int | None, b: int | None) -> int | None:
    """The product, if both are known."""
    return None if a is None or b is None else a * b


def share(total: int | None, parts: int) -> int | None:
    """The size of one of ``parts`` equal parts, if known."""
    return None if total is None or parts == 0 else total // parts


def broadcast(a: Shape | None, b: Shape | None) -> Shape | None:
    """The shape two operands broadcast to; an unknown size against a larger one takes that.

    Raises:
        ValueError: they do not broadcast.
    """
    if a is None or b is None:
        return None
    rank = max(len(a), len(b))
    sizes: list[int | None] = []
    for p, q in zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True):
        if p in (1, q):
            sizes.append(q)
        elif q == 1:
            sizes.append(p)
        elif p is None or q is None:
            sizes.append(p or q)
        else:
            raise ValueError(f"{p} and {q} do not broadcast")
    return tuple(sizes)


def multiply(a: Shape | None, b: Shape | None) -> Shape | None:
    """The shape of a matrix product, numpy's rules.

    Raises:
        ValueError: rows and columns differ, or the leading axes do not broadcast.
    """
    if not a or not b:
        return None
    left = (1, *a) if len(a) == 1 else a
    right = (*b, 1) if len(b) == 1 else b
    if None not in (left[-1], right[-2]) and left[-1] != right[-2]:
        raise ValueError(f"{left[-1]} columns meet {right[-2]} rows")
    batch = broadcast(left[:-2], right[:-2]) or ()
    return batch + (left[-2:-1] if len(a) > 1 else ()) + (right[-1:] if len(b) > 1 else ())


def check_window(call: ShapeCall, x: Sequence[int], kernel: Sequence[int]) -> None:
    """Refuse a window that does not fit once, and outputs without elements.

    Args:
        call: a convolution or a pool of the standard domain.
        x: spatial sizes of its data.
        kernel: sizes of its window.

    Raises:
        InconsistentError: onnxruntime would refuse it.
    """
    rank = len(x)
    pads = call.attr("pads", [0] * 2 * rank)
    dilations = call.attr("dilations", [1] * rank)
    fixed = call.attr("auto_pad", "NOTSET") in ("NOTSET", "VALID", "")
    if fixed and not call.attr("ceil_mode", 0) and len(kernel) == rank:
        for axis in range(rank):
            reach = dilations[axis] * (kernel[axis] - 1) + 1
            room = x[axis] + pads[axis] + pads[axis + rank]
            if room < reach:
                raise InconsistentError(f"a window of {reach} does not fit into {room}")
    shape = call.result.shape
    if 0 not in x and shape is not None and 0 in shape:
        raise InconsistentError(f"nothing is left of an input of {tuple(x)}")


def window_places(call: ShapeCall, sizes: Shape, kernel: Sequence[int | None]) -> Shape:
    """How many places a window has along each spatial axis.

    Raises:
        ValueError: it does not fit once.
    """
    rank = len(sizes)
    strides = call.attr("strides", (1,) * rank)
    dilations = call.attr("dilations", (1,) * rank)
    pads = call.attr("pads", (0,) * 2 * rank)
    auto = str(call.attr("auto_pad", "NOTSET"))
    places: list[int | None] = []
    for axis, (size, width) in enumerate(zip(sizes, kernel, strict=True)):
        if size is None or width is None:
            places.append(None)
            continue
        if auto.startswith("SAME"):
            places.append(-(-size // strides[axis]))
            continue
        around = 0 if auto == "VALID" else pads[axis] + pads[axis + rank]
        room = size + around - dilations[axis] * (width - 1) - 1
        if room < 0:
            raise ValueError(f"a window of {width} does not fit into {size + around}")
        steps = room // strides[axis]
        if call.integer("ceil_mode"):
            steps = -(-room // strides[axis])
            # A last window must not start in the padding behind.
            before = 0 if auto == "VALID" else pads[axis]
            steps -= steps * strides[axis] >= size + before
        places.append(steps + 1)
    return tuple(places)
