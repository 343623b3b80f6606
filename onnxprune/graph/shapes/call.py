"""One node as shape rules and checks see it, and arithmetic on sizes that may not be known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from onnxprune.graph.shapes.facts import Fact, Shape


@dataclass(frozen=True, eq=False)
class Call:
    """A fact per input (None where left out), and the attributes."""

    inputs: Sequence[Fact | None]
    attributes: Mapping[str, Any]

    def fact(self, index: int) -> Fact:
        """An input's fact; an unknown one where it is left out."""
        found = self.inputs[index] if index < len(self.inputs) else None
        return found if found is not None else Fact(None, None)

    def shape(self, index: int, rank: int | None = None) -> Shape | None:
        """An input's shape: None where left out, unknown, or not of the rank asked for."""
        shape = self.fact(index).shape
        return None if shape is None or rank not in (None, len(shape)) else shape

    def integer(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        return int(self.attributes.get(name, default))


Rule = Callable[[Call], list[Fact]]
"""Facts of the outputs; a ValueError says that the inputs do not fit together."""

Inputs = Sequence[Fact | None]
"""A fact per input, None where left out."""

Check = Callable[[onnx.NodeProto, Inputs, Fact], Fact]
"""The fact of the first output, corrected; an InconsistentError says that inputs do not fit."""


class InconsistentError(ValueError):
    """These input shapes do not fit this node: onnxruntime would refuse to run it."""


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Attribute values by name; strings are bytes."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def sizes_of(inputs: Inputs, index: int) -> tuple[int, ...] | None:
    """The shape of an input, if every size is known."""
    fact = inputs[index] if index < len(inputs) else None
    return None if fact is None else fact.sizes


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
