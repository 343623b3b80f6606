"""Adding nodes to a graph that is being differentiated."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.facts import Fact
from onnxprune.model.constants import names_of

_PADS_ARE_INPUTS = 11
"""First opset in which Pad takes its pads as an input."""
_SLICE_HAS_STEPS = 10
_GEMM_NEEDS_NO_SUMMAND = 11
_AXES_ARE_INPUTS = 13
"""First opset in which ReduceSum and Unsqueeze take their axes as an input."""
_LAST = np.iinfo(np.int64).max


class Undifferentiable(Exception):  # noqa: N818  it is an answer, not an error
    """An operator has no gradient here; the message says why."""


class Emit:
    """Appends operators to a graph.

    Args:
        graph: it is edited.
        facts: concrete shapes of its values; sizes of 1 must stay 1 for whatever is run.
        version: of the default opset.
    """

    def __init__(self, graph: ir.Graph, facts: Mapping[str, Fact], version: int) -> None:
        self._graph, self.version = graph, version
        self.facts: ChainMap[str, Fact] = ChainMap({}, dict(facts))
        self._prefix = "gradient"
        used = {name or "" for name in names_of(graph)}
        while any(name.startswith(f"{self._prefix}/") for name in used):
            self._prefix += "_"
        self._count = 0
        self._whole: dict[tuple[int, ...], ir.Value] = {}

    def op(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:  # noqa: ANN401
        """One more node with one output."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: ir.Value | None, **attributes: Any) -> tuple[ir.Value, ...]:  # noqa: ANN401, E501  # fmt: skip
        """One more node."""
        node = ir.node(kind, inputs, attributes=attributes, num_outputs=outputs)
        for value in node.outputs:
            value.name = self._name()
        self._graph.append(node)
        return tuple(node.outputs)

    def number(self, value: float) -> ir.Value:
        """A scalar."""
        return models.add_constant(self._graph, self._name(), np.array(value, np.float32), set())

    def integers(self, values: Sequence[int]) -> ir.Value:
        """A vector of int64."""
        key = tuple(int(v) for v in values)
        if key not in self._whole:
            array = np.array(key, np.int64)
            self._whole[key] = models.add_constant(self._graph, self._name(), array, set())
        return self._whole[key]

    def sizes(self, value: ir.Value) -> tuple[int, ...]:
        """The shape of a value of the model.

        Raises:
            Undifferentiable: it is not known.
        """
        tensor = models.constant(value)
        if tensor is not None:
            return tuple(int(n) for n in tensor.shape.numpy())
        fact = self.facts.get(value.name or "")
        if fact is None or fact.sizes is None:
            raise Undifferentiable(f"the shape of '{value.name}' is not known")
        return fact.sizes

    def content(self, value: ir.Value | None) -> npt.NDArray[Any]:
        """The known content of a value.

        Raises:
            Undifferentiable: it is computed from data.
        """
        tensor = None if value is None else models.constant(value)
        if tensor is not None:
            return tensor.numpy()
        fact = self.facts.get(value.name or "") if value is not None else None
        if fact is None or fact.value is None:
            raise Undifferentiable("an operand that controls how data move is not known")
        return fact.value

    def is_known(self, value: ir.Value) -> bool:
        """Whether the content is known."""
        fact = self.facts.get(value.name or "")
        return models.constant(value) is not None or (fact is not None and fact.value is not None)

    def sum(self, value: ir.Value, axes: Sequence[int], *, keep: bool = True) -> ir.Value:
        """The sum along some axes."""
        if self.version >= _AXES_ARE_INPUTS:
            return self.op("ReduceSum", value, self.integers(axes), keepdims=int(keep))
        return self.op("ReduceSum", value, axes=list(axes), keepdims=int(keep))

    def unsqueeze(self, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """With more axes of size 1."""
        if self.version >= _AXES_ARE_INPUTS:
            return self.op("Unsqueeze", value, self.integers(axes))
        return self.op("Unsqueeze", value, axes=list(axes))

    def like(self, value: ir.Value, other: ir.Value) -> ir.Value:
        """The same elements in the shape of another value."""
        return self.op("Reshape", value, self.op("Shape", other))

    def fitted(self, gradient: ir.Value, operand: ir.Value, result: ir.Value) -> ir.Value:
        """A gradient of a result, summed over what an operand of it was broadcast along.

        Args:
            gradient: in the shape of ``result``.
            operand: of an elementwise (or batched) operator.
            result: of it.
        """
        small, large = self.sizes(operand), self.sizes(result)
        extra = len(large) - len(small)
        axes = [a for a, n in enumerate(large) if a < extra or (small[a - extra] == 1 and n != 1)]
        if not axes:
            return gradient
        summed = self.sum(gradient, axes)
        return self.like(summed, operand) if extra else summed

    def part(self, value: ir.Value, start: ir.Value, stop: ir.Value, axis: int) -> ir.Value:
        """Some indices of one axis; both bounds are vectors of one element."""
        return self.op("Slice", value, start, stop, self.integers([axis]))

    def gemm(self, a: ir.Value, b: ir.Value, **attributes: Any) -> ir.Value:  # noqa: ANN401
        """A product of two matrices, either of them transposed."""
        more = [] if self.version >= _GEMM_NEEDS_NO_SUMMAND else [self.number(0.0)]
        return self.op("Gemm", a, b, *more, **attributes)

    def every(self, value: ir.Value, start: int, stop: int, step: int, axis: int) -> ir.Value:
        """Every ``step``-th index of one axis, from ``start`` up to ``stop``."""
        if self.version < _SLICE_HAS_STEPS:
            return self.op("Gather", value, self.integers(range(start, stop, step)), axis=axis)
        bounds = (self.integers([k]) for k in (start, stop, axis, step))
        return self.op("Slice", value, *bounds)

    def pad(self, value: ir.Value, pads: Sequence[int]) -> ir.Value:
        """With zeros around; beginnings first, as in ONNX."""
        if not any(pads):
            return value
        if self.version >= _PADS_ARE_INPUTS:
            return self.op("Pad", value, self.integers(pads))
        return self.op("Pad", value, pads=list(pads))

    def within(self, gradient: ir.Value, whole: ir.Value, start: ir.Value, stop: ir.Value, axis: int) -> ir.Value:  # noqa: E501  # fmt: skip
        """The gradient of :meth:`part`: zeros but for the indices that were taken."""
        zeros = self.op("Sub", whole, whole)
        first, last = self.integers([0]), self.integers([_LAST])
        before = self.part(zeros, first, start, axis)
        after = self.part(zeros, stop, last, axis)
        return self.op("Concat", before, gradient, after, axis=axis)

    def splice(self, nodes: Sequence[ir.Node], facts: Mapping[str, Fact]) -> None:
        """Nodes made elsewhere, in order; their outputs get new names, and facts under these."""
        for node in nodes:
            for value in node.outputs:
                old, value.name = value.name or "", self._name()
                if old in facts:
                    self.facts[value.name] = facts[old]
            self._graph.append(node)

    def _name(self) -> str:
        self._count += 1
        return f"{self._prefix}/{self._count}"


@dataclass(frozen=True, eq=False)
class Term:
    """A value to calculate with: ``y * (1 - y)`` adds a Sub and a Mul.

    Attributes:
        emit: adds the nodes.
        value: what has been calculated so far.
    """

    emit: Emit
    value: ir.Value

    def op(self, kind: str, *others: Term | float, **attributes: Any) -> Term:  # noqa: ANN401
        """An operator of this value and others."""
        operands = (o.value if isinstance(o, Term) else self.emit.number(o) for o in others)
        return Term(self.emit, self.emit.op(kind, self.value, *operands, **attributes))

    def __add__(self, other: Term | float) -> Term:
        return self.op("Add", other)

    def __sub__(self, other: Term | float) -> Term:
        return self.op("Sub", other)

    def __rsub__(self, other: float) -> Term:
        return Term(self.emit, self.emit.number(other)).op("Sub", self)

    def __mul__(self, other: Term | float) -> Term:
        return self.op("Mul", other)

    def __truediv__(self, other: Term | float) -> Term:
        return self.op("Div", other)

    def __rtruediv__(self, other: float) -> Term:
        return Term(self.emit, self.emit.number(other)).op("Div", self)

    def __neg__(self) -> Term:
        return self.op("Neg")

    def __gt__(self, other: float) -> Term:
        """Truth values: for :meth:`where`, or as 1 and 0 by :meth:`mask`."""
        return self.op("Greater", other)

    def where(self, yes: Term | float, no: Term | float) -> Term:
        """One of two, by this truth value."""
        return self.op("Where", yes, no)

    def mask(self) -> Term:
        """1 where this is true, else 0."""
        return self.op("Cast", to=1)
