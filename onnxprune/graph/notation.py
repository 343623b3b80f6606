"""The one-line language in which operators say what happens to their axes.

``"n (g i) *, (g o) i *, (g o) -> n (g o) *"`` is a convolution. Tensors are separated by commas,
axes by spaces:

* a name is an axis; the same name in two tensors is unified, its absence from every output means
  that the operator contracts it;
* ``(a b)`` is one axis that is a row-major product; a number in it is a factor that stays;
* ``_`` is one pinned axis, ``*`` any number of pinned axes;
* ``...`` any number of leading axes that broadcast as numpy does;
* ``c~`` removal keeps shapes right but changes values (a normalisation over ``c``);
* ``h!`` is contracted here although an output has it (a recurrence).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from onnxprune.graph.axes import Axis, Space
from onnxprune.graph.units import Role

Tensor = tuple[Axis, ...]
Shape = tuple[int | None, ...]
Slot = tuple[int, int]
"""(input position, axis)."""

SPATIAL = "a spatial axis"
"""Why an axis under ``*`` stays; reports leave it out, since that is expected."""


class MismatchError(Exception):
    """The operands do not match the notation; the caller pins them."""


@dataclass(frozen=True)
class Term:
    """One axis of the notation: its factors, those marked ``~``, and whether it is marked ``!``."""

    factors: tuple[str, ...]
    inexact: frozenset[str] = frozenset()
    contracted: bool = False


@dataclass
class Result:
    """The reading of a line for one node.

    Attributes:
        outputs: axes of each output.
        contracted: for every contracted name, the (input, axis) slots it is read at: zeroing one
            of them is masking.
        roles: how each input axis uses its units.
        work: for each cost term, the axes whose sizes multiply to multiply-accumulates.
    """

    outputs: list[Tensor]
    contracted: list[list[Slot]] = field(default_factory=list)
    roles: dict[Slot, Role] = field(default_factory=dict)
    work: list[list[Axis]] = field(default_factory=list)


@cache
def parse(line: str) -> tuple[tuple[tuple[Term, ...], ...], tuple[tuple[Term, ...], ...]]:
    """``"a (b c) -> (b c) a"`` to terms of inputs and of outputs."""
    left, right = line.split("->")

    def tensor(text: str) -> tuple[Term, ...]:
        terms = []
        for group, single in re.findall(r"\(([^)]*)\)|(\S+)", text):
            words = (group or single).split()
            bare = tuple(w.rstrip("~!") for w in words)
            rough = frozenset(b for b, w in zip(bare, words, strict=True) if "~" in w)
            terms.append(Term(bare, rough, "!" in single))
        return tuple(terms)

    return tuple(map(tensor, left.split(","))), tuple(map(tensor, right.split(",")))


def broadcast(space: Space, tensors: Sequence[Sequence[Axis]]) -> list[Axis]:
    """Right-aligned numpy broadcasting: axes that meet lose the same indices."""
    rank = max((len(t) for t in tensors), default=0)
    out = []
    for k in range(rank, 0, -1):
        meet = [t[-k] for t in tensors if len(t) >= k]
        wide = [a for a in meet if a.size != 1]
        if any(a.size is None for a in wide):
            for axis in meet:
                space.pin(axis, "broadcast against an axis of unknown size")
            out.append(Axis(None, why="unknown size"))
            continue
        if len({a.size for a in wide}) > 1:
            raise MismatchError(f"sizes {[a.size for a in wide]} do not broadcast")
        for axis in wide[1:]:
            space.unify(wide[0], axis)
        out.append((wide or meet)[0])
    return out


def _spread(terms: tuple[Term, ...], tensor: Tensor) -> list[tuple[Term, list[int]]]:
    """Which axes each term covers; ``*`` and ``...`` take what the others leave."""
    loose = sum(t.factors[0] in ("*", "...") for t in terms)
    spare = len(tensor) - (len(terms) - loose)
    if spare < 0 or loose > 1 or (not loose and spare):
        raise MismatchError(f"rank {len(tensor)} where {len(terms)} axes are expected")
    out, at = [], 0
    for term in terms:
        n = spare if term.factors[0] in ("*", "...") else 1
        out.append((term, list(range(at, at + n))))
        at += n
    return out


def _factor_sizes(term: Term, size: int | None, known: Mapping[str, int]) -> list[int]:
    """Sizes of the factors of a product axis; at most one is not yet known."""
    if size is None:
        raise MismatchError("product axis of unknown size")
    sizes = [int(f) if f.isdigit() else known.get(f, 0) for f in term.factors]
    rest = math.prod(n for n in sizes if n)
    if sizes.count(0) > 1 or (0 in sizes and size % rest) or (0 not in sizes and rest != size):
        raise MismatchError(f"axis of {size} is not ({' '.join(term.factors)})")
    return [n or size // rest for n in sizes]


@dataclass
class _Reading:
    """One line being applied to one node."""

    space: Space
    why: str
    known: dict[str, int]
    named: dict[str, Axis] = field(default_factory=dict)
    leading: list[list[Axis]] = field(default_factory=list)
    stars: dict[int, list[Axis]] = field(default_factory=dict)
    where: dict[str, list[Slot]] = field(default_factory=dict)
    slots: dict[Slot, Term] = field(default_factory=dict)

    def take(self, i: int, terms: tuple[Term, ...], tensor: Tensor) -> None:
        """One operand: its axes get the names of the line, or are pinned."""
        for term, at in _spread(terms, tensor):
            head = term.factors[0]
            if head == "...":
                self.leading.append([tensor[k] for k in at])
            elif head in ("*", "_"):
                say = SPATIAL if head == "*" else self.why
                self.stars.setdefault(i, []).extend(self.space.pin(tensor[k], say) for k in at)
            else:
                self._factors((i, at[0]), term, tensor[at[0]])

    def _factors(self, slot: Slot, term: Term, axis: Axis) -> None:
        self.slots[slot] = term
        parts = [axis]
        if len(term.factors) > 1:
            parts = self.space.split(axis, _factor_sizes(term, axis.size, self.known))
        for factor, part in zip(term.factors, parts, strict=True):
            if factor.isdigit():
                self.space.pin(part, self.why)
            else:
                self._name(factor, part, slot)
            if factor in term.inexact:
                self.space.inexact(part, self.why)

    def _name(self, name: str, axis: Axis, slot: Slot) -> None:
        self.where.setdefault(name, []).append(slot)
        seen = self.named.get(name)
        if seen is None or seen.size == 1:
            self.named[name] = axis
        elif axis.size != 1:
            if axis.size != seen.size or axis.size is None:
                raise MismatchError(f"{name} is {seen.size} and {axis.size}")
            self.space.unify(seen, axis)
        self.known[name] = self.named[name].size or 0

    def make(self, terms: tuple[Term, ...], shape: Shape | None, lead: Sequence[Axis]) -> Tensor:
        """The axes of one output."""
        axes: list[Axis] = []
        for k, term in enumerate(terms):
            head = term.factors[0]
            if head == "...":
                axes += lead
            elif head in ("*", "_"):
                rest = len(terms) - k - 1
                n = 1 if head == "_" else len(shape or axes) - len(axes) - rest
                sizes = (shape or ())[len(axes) : len(axes) + n] or [None] * n
                axes += [Axis(size, why=self.why) for size in sizes]
            else:
                parts = [
                    Axis(int(f), why=self.why) if f.isdigit() else self.named[f]
                    for f in term.factors
                ]
                axes.append(parts[0] if len(parts) == 1 else self.space.merge(parts))
        return tuple(axes)


def read(
    space: Space,
    line: str,
    inputs: Sequence[Tensor | None],
    out_shapes: Sequence[Shape | None],
    *,
    sizes: Mapping[str, int] | None = None,
    why: str = "",
) -> Result:
    """Apply ``line`` to operands: unify what it couples, pin what it pins.

    Args:
        space: the atoms.
        line: the notation.
        inputs: axes per input; ``None`` for an input that is absent.
        out_shapes: shapes of the outputs, for the axes that the line does not name.
        sizes: sizes of factors that only attributes tell (``group``).
        why: the reason given to axes that the line pins.

    Raises:
        MismatchError: ranks or sizes are not those of the line.
    """
    ins, outs = parse(line)
    state = _Reading(space, why, dict(sizes or {}))
    for i, (terms, tensor) in enumerate(zip(ins, inputs, strict=False)):
        if tensor is not None:
            state.take(i, terms, tensor)
    lead = broadcast(space, state.leading)
    outputs = [state.make(t, s, lead) for t, s in zip(outs, out_shapes, strict=False)]

    where = state.where
    kept = {f for terms in outs for t in terms for f in t.factors}
    summed = [f for f in where if f not in kept]
    marked = {slot for slot, term in state.slots.items() if term.contracted}
    result = Result(outputs, [where[f] for f in summed] + [[s] for s in sorted(marked)])
    for slot, term in state.slots.items():
        reads = slot in marked or any(f in summed for f in term.factors)
        own = bool(summed) and slot[0] < 2 and _brings(slot[0], term, where, state.known)
        result.roles[slot] = "reads" if reads else "writes" if own else "scales"
    if summed and outputs:
        result.work = [[*outputs[0], *(state.named[f] for f in summed), *state.stars.get(1, [])]]
    return result


def _brings(
    operand: int, term: Term, where: Mapping[str, list[Slot]], known: Mapping[str, int]
) -> bool:
    """Whether an axis of one of the two operands is made of factors that the other lacks."""
    own = [f for f in term.factors if f.isdigit() or all(i != 1 - operand for i, _ in where[f])]
    return any(f.isdigit() or known.get(f, 0) > 1 for f in own)
