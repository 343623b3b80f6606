"""One node as an axis rule sees it, and the rule's answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxprune.graph.axes import Axis, Space
from onnxprune.graph.notation import MismatchError, Shape, Slot, Tensor, broadcast, parse, read
from onnxprune.graph.units import Role

Value = npt.NDArray[Any]
Keep = Callable[[Axis], npt.NDArray[np.bool_]]
"""Which indices of an axis stay; the argument of every rewrite."""

MICROSOFT, CLASSIC = "com.microsoft", "ai.onnx.ml"
"""The domains of onnxruntime's own operators, and of classical machine learning."""

CHANNEL, HEAD, HEAD_DIM, HIDDEN, FFN, EXPERT, VOCABULARY, INPUT, OUTPUT = (1 << k for k in range(9))
"""Tags of atoms by their use in an operator, or by what of the interface they reach."""

LOWEST = -1
"""The `Contraction.fill` of an operator that compares: the lowest value of its type."""


@dataclass(frozen=True)
class Contraction:
    """A sum over an axis. Zeroing what is removed at any one of ``slots`` masks the node.

    ``fill`` is the input that holds the value that stands for zero (a zero point), if any, or
    `LOWEST`.
    """

    slots: tuple[Slot, ...]
    fill: int | None = None


@dataclass
class Node:
    """The view of a node that rules for axes, shapes and gradients share.

    Attributes:
        version: opset of its domain.
        attributes: plain values by name; text is str.
    """

    op: str
    domain: str
    version: int
    attributes: Mapping[str, Any]

    def attr(self, name: str, default: Any = None) -> Any:  # noqa: ANN401  # as the model has it
        """An attribute, or ``default`` when it is absent."""
        return self.attributes.get(name, default)

    def axis(self, default: int, rank: int, name: str = "axis") -> int:
        """Attribute ``axis``, counted from the front."""
        return int(self.attr(name, default)) % max(rank, 1)


@dataclass
class Call(Node):
    """One node, with the axes of its inputs, for its rule to read and to write to.

    A rule returns the axes of the outputs. On the way it records what masking means
    (``contractions``), what the node costs (``work``) and which sizes it stores (``sizes``,
    ``settings``), as functions of what is kept. Inputs it does not look at are pinned.

    Attributes:
        inputs: axes per input; None for one that is absent or of unknown rank.
        values: content per input, where it is statically known.
        literal: whether the input is itself a stored tensor.
        static: whether the input depends on stored tensors only.
        is_constant: whether the content of input ``i`` is known, and is the same at other sizes of
            the graph inputs: computed, as exporters do, from an axis of fixed size.
        opened: whether graph outputs may lose indices: what normalises or compares then does so
            over those that remain.
        looks_up: says that the elements of input ``i`` are indices of an axis. False where they
            cannot be renumbered, because no graph input or comparison gives them.
        indices: output position -> the axis that its elements are indices of.
        sizes: input position -> what it must hold after the cut.
        settings: attribute -> what it must be after the cut (None: leave it).
    """

    inputs: list[Tensor | None]
    values: list[Value | None]
    literal: list[bool]
    static: list[bool]
    out_shapes: list[Shape | None]
    space: Space
    name: str = ""
    is_constant: Callable[[int], bool] = field(default=lambda _: False)
    opened: bool = False
    looks_up: Callable[[int, Axis], bool] = field(default=lambda _, __: False)
    indices: dict[int, Axis] = field(default_factory=dict)
    touched: set[int] = field(default_factory=set)
    contractions: list[Contraction] = field(default_factory=list)
    roles: dict[Slot, Role] = field(default_factory=dict)
    work: list[list[Axis]] = field(default_factory=list)
    sizes: dict[int, Callable[[Keep], Any]] = field(default_factory=dict)
    settings: dict[str, Callable[[Keep], Any]] = field(default_factory=dict)
    outputs: list[Tensor] = field(default_factory=list)

    @property
    def why(self) -> str:
        """The words for "this node keeps it"."""
        return f"{self.op} `{self.name}` needs it whole"

    def has(self, i: int) -> bool:
        """Whether optional input ``i`` is given."""
        return i < len(self.inputs) and self.inputs[i] is not None

    def tensor(self, i: int) -> Tensor:
        """Axes of input ``i``; a rule without it does not apply."""
        tensor = self.inputs[i] if i < len(self.inputs) else None
        if tensor is None:
            raise MismatchError(f"input {i} is missing or of unknown rank")
        self.touched.add(i)
        return tensor

    def shape(self, i: int) -> list[int]:
        """Concrete sizes of input ``i``."""
        sizes = [a.size for a in self.tensor(i)]
        if any(n is None for n in sizes):
            raise MismatchError(f"input {i} has a size that is not known")
        return [n for n in sizes if n is not None]

    def out_shape(self, i: int = 0) -> list[int]:
        """Concrete sizes of output ``i``."""
        shape = self.out_shapes[i]
        if shape is None or any(n is None for n in shape):
            raise MismatchError(f"output {i} has a size that is not known")
        return [n for n in shape if n is not None]

    def value(self, i: int) -> list[int] | None:
        """Integers held by input ``i`` when they are known, else None."""
        value = self.values[i] if i < len(self.values) else None
        return None if value is None else [int(v) for v in np.ravel(value)]

    def ints(self, name: str, i: int) -> list[int] | None:
        """A list that older opsets keep in attribute ``name`` and newer ones in input ``i``.

        None when it is not given at all.

        Raises:
            MismatchError: it is given but computed from what is not known.
        """
        if name in self.attributes:
            return [int(v) for v in np.atleast_1d(self.attributes[name])]
        if not self.has(i):
            return None
        value = self.value(i)
        if value is None:
            raise MismatchError(f"{name} is computed while the model runs")
        return value

    def einsum(
        self,
        line: str,
        sizes: Mapping[str, int] | None = None,
        *,
        tags: int = 0,
        first: int | None = None,
    ) -> list[Tensor]:
        """Read the node as ``line`` says; remember contractions, roles and work.

        Args:
            line: of notation.
            sizes: of names that the shapes do not settle.
            tags: of the atoms that stored operands write.
            first: how many inputs the line is about; all by default.
        """
        self.touched.update(range(len(parse(line)[0])))
        inputs = self.inputs[:first]
        result = read(self.space, line, inputs, self.out_shapes, sizes=sizes, why=self.why)
        self.contractions += [Contraction(tuple(slots)) for slots in result.contracted]
        self.roles |= result.roles
        self.work += result.work
        if tags:
            for slot, role in result.roles.items():
                if role == "writes":
                    self.space.tag(self.tensor(slot[0])[slot[1]], tags)
        return result.outputs

    def broadcast(self, tensors: Sequence[Tensor]) -> Tensor:
        """Numpy broadcasting of several operands."""
        return tuple(broadcast(self.space, tensors))

    def pin(self, i: int, axes: Sequence[int] | None = None, why: str = "") -> None:
        """Keep whole the given axes (all of them by default) of input ``i``."""
        tensor = self.inputs[i] if i < len(self.inputs) else None
        for k, axis in enumerate(tensor or ()):
            if axes is None or k in axes:
                self.space.pin(axis, why or self.why)

    def all_but(self, axes: Sequence[int], why: str = "") -> Tensor:
        """Output 0 of a node that needs some axes of input 0 whole and passes on the others."""
        self.pin(0, axes, why)
        plain = self.plain()
        return tuple(plain[k] if k in axes else a for k, a in enumerate(self.tensor(0)))

    def plain(self, i: int = 0) -> Tensor:
        """Output ``i`` with axes that never lose an index."""
        shape = self.out_shapes[i] if i < len(self.out_shapes) else None
        return tuple(Axis(n, why=self.why) for n in shape or ())


Rule = str | Callable[[Call], list[Tensor]]
RULES: dict[tuple[str, str], Rule] = {}
"""(domain, operator) -> its rule: a line of notation, or a function."""


def rule(
    *ops: str, domain: str = ""
) -> Callable[[Callable[[Call], list[Tensor]]], Callable[[Call], list[Tensor]]]:
    """Register a function as the rule of one or more operators."""

    def register(function: Callable[[Call], list[Tensor]]) -> Callable[[Call], list[Tensor]]:
        for op in ops:
            RULES[domain, op] = function
        return function

    return register


def lines(table: Mapping[str, str], domain: str = "") -> None:
    """Register operators whose rule is one line each: ``{"Conv Other": line}``."""
    for ops, line in table.items():
        for op in ops.split():
            RULES[domain, op] = line


@dataclass(frozen=True)
class Linear:
    """Which operands of an operator may be a stored weight that it contracts, and how.

    The same as its rule, without shapes: for models that are not analysed.

    Attributes:
        line: as in the rule, with the bias that the operator takes; may follow from attributes.
        weights: the inputs that may be the weight, the likeliest first.
        places: the inputs that are operands of the line, where these are not the first ones.
        scale: the attribute that the product is multiplied with; empty for none.
        bias_scale: the same of the bias.
        kind: what the weight is: ``quantized``, ``recurrent``, ``sum`` (an equation of letters),
            ``fused`` (an operator of a runtime), ``deformable`` (its taps are moved), or ``plain``:
            a matrix that rows are multiplied with.
    """

    line: str | Callable[[Mapping[str, Any]], str]
    weights: tuple[int, ...] = (1,)
    places: tuple[int, ...] = ()
    scale: str = ""
    bias_scale: str = ""
    kind: Literal["plain", "quantized", "recurrent", "sum", "fused", "deformable"] = "plain"

    @property
    def windowed(self) -> bool:
        """Whether outputs have any number of spatial axes, behind the axis of channels."""
        return isinstance(self.line, str) and "*" in self.line


LINEAR: dict[tuple[str, str], Linear] = {}
"""(domain, operator) -> how it contracts a stored weight."""


def linear(*ops: str, domain: str = "", **settings: Any) -> None:  # noqa: ANN401  # fields of Linear
    """Register operators as contracting a stored weight, by fields of :class:`Linear`."""
    for op in ops:
        LINEAR[domain, op] = Linear(**settings)


def apply_rule(call: Call, present: Sequence[bool] = ()) -> tuple[list[Tensor], str]:
    """Outputs of ``call`` by its rule, and, where everything was pinned instead, why.

    Args:
        call: the node.
        present: which inputs it has; one that is present without axes is of unknown rank.
    """
    rule_of_op = RULES.get((call.domain, call.op))
    unknown = [k for k, has in enumerate(present) if has and call.inputs[k] is None]
    if unknown:
        why = f"{call.op} `{call.name}`: input {unknown[0]} is of unknown rank"
    elif rule_of_op is None:
        why = f"no rule for operator {call.domain + '::' if call.domain else ''}{call.op}"
    else:
        try:
            outputs = call.einsum(rule_of_op) if isinstance(rule_of_op, str) else rule_of_op(call)
            _check_shapes(outputs, call.out_shapes)
            for i in range(len(call.inputs)):
                if i not in call.touched:
                    call.pin(i)
            outputs += [call.plain(k) for k in range(len(outputs), len(call.out_shapes))]
        except MismatchError as error:
            why = f"{call.op} `{call.name}`: {error}"
        except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
            # No valid node has what the rule stumbled over; its axes stay, as without a rule.
            why = f"{call.op} `{call.name}` is not as its operator demands ({error!r})"
        else:
            call.outputs = outputs
            return outputs, ""
    for i in range(len(call.inputs)):
        call.pin(i, why=why)
    call.contractions, call.roles, call.work, call.indices = [], {}, [], {}
    call.sizes, call.settings = {}, {}
    call.outputs = [tuple(Axis(n, why=why) for n in shape or ()) for shape in call.out_shapes]
    return call.outputs, why


def _check_shapes(outputs: Sequence[Tensor], shapes: Sequence[Shape | None]) -> None:
    for k, (tensor, shape) in enumerate(zip(outputs, shapes, strict=False)):
        if shape is not None and not _agrees(tensor, shape):
            sizes = [a.size for a in tensor]
            raise MismatchError(f"output {k} is {list(shape)}, the rule says {sizes}")


def _agrees(tensor: Tensor, shape: Shape) -> bool:
    return len(tensor) == len(shape) and all(
        n is None or a.size is None or a.size == n for a, n in zip(tensor, shape, strict=True)
    )


def count(axis: Axis) -> Callable[[Keep], int]:
    """What is kept of an axis: the commonest rewrite of an attribute."""
    return lambda keep: int(keep(axis).sum())


def counts(axes: Sequence[Axis]) -> Callable[[Keep], list[int]]:
    """What is kept of each axis: the commonest rewrite of a stored size."""
    return lambda keep: [int(keep(a).sum()) for a in axes]
