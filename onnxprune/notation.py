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
from functools import lru_cache

from onnxprune.dims import Axis, Space
from onnxprune.units import Role

Tensor = tuple[Axis, ...]
Slot = tuple[int, int]
"""(input position, axis)."""

SPATIAL = "a spatial axis"
"""Why an axis under ``*`` stays: nobody expects otherwise, so reports leave it out."""


class MismatchError(Exception):
    """The operands do not look as the notation says; the caller pins them."""


@dataclass(frozen=True)
class Term:
    """One axis of the notation: its factors, those marked ``~``, and whether it is marked ``!``."""

    factors: tuple[str, ...]
    inexact: frozenset[str] = frozenset()
    contracted: bool = False


@dataclass
class Result:
    """What a line says about one node.

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


@lru_cache(maxsize=None)
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


def read(
    space: Space,
    line: str,
    inputs: Sequence[Tensor | None],
    out_shapes: Sequence[tuple[int | None, ...] | None],
    sizes: Mapping[str, int] | None = None,
    why: str = "",
) -> Result:
    """Apply ``line`` to operands: unify what it couples, pin what it pins.

    Args:
        inputs: axes per input; ``None`` for an input that is absent.
        out_shapes: shapes of the outputs, for the axes that the line does not name.
        sizes: sizes of factors that only attributes tell (``group``).
        why: the reason given to axes that the line pins.

    Raises:
        MismatchError: ranks or sizes are not those of the line.
    """
    ins, outs = parse(line)
    named: dict[str, Axis] = {}
    known = dict(sizes or {})
    leading: list[list[Axis]] = []
    stars: dict[int, list[Axis]] = {}
    where: dict[str, list[Slot]] = {}
    slots: dict[Slot, Term] = {}
    marked: set[Slot] = set()

    def bind(name: str, axis: Axis, slot: Slot) -> None:
        where.setdefault(name, []).append(slot)
        seen = named.get(name)
        if seen is None or seen.size == 1:
            named[name] = axis
        elif axis.size != 1:
            if axis.size != seen.size or axis.size is None:
                raise MismatchError(f"{name} is {seen.size} and {axis.size}")
            space.unify(seen, axis)
        known[name] = named[name].size or 0

    for i, (terms, tensor) in enumerate(zip(ins, inputs, strict=False)):
        if tensor is None:
            continue
        for term, at in _spread(terms, tensor):
            head = term.factors[0]
            if head == "...":
                leading.append([tensor[k] for k in at])
            elif head in ("*", "_"):
                say = SPATIAL if head == "*" else why
                stars.setdefault(i, []).extend(space.pin(tensor[k], say) for k in at)
            else:
                slot = (i, at[0])
                slots[slot] = term
                axis = tensor[at[0]]
                if term.contracted:
                    marked.add(slot)
                parts = [axis]
                if len(term.factors) > 1:
                    parts = space.split(axis, _factor_sizes(term, axis.size, known))
                for factor, part in zip(term.factors, parts, strict=True):
                    if factor.isdigit():
                        space.pin(part, why)
                    else:
                        bind(factor, part, slot)
                    if factor in term.inexact:
                        space.inexact(part, why)

    lead = broadcast(space, leading)
    outputs = []
    for terms, shape in zip(outs, out_shapes, strict=False):
        axes: list[Axis] = []
        for k, term in enumerate(terms):
            head = term.factors[0]
            if head == "...":
                axes += lead
            elif head == "*":
                n = len(shape) - len(axes) - (len(terms) - k - 1) if shape is not None else 0
                axes += [Axis((shape or ())[len(axes) + j], why=why) for j in range(n)]
            elif head == "_":
                axes.append(Axis(shape[len(axes)] if shape is not None else None, why=why))
            else:
                parts = [Axis(int(f), why=why) if f.isdigit() else named[f] for f in term.factors]
                axes.append(parts[0] if len(parts) == 1 else space.merge(parts))
        outputs.append(tuple(axes))

    result = Result(outputs)
    kept = {f for terms in outs for t in terms for f in t.factors}
    gone = [f for f in where if f not in kept]
    result.contracted = [where[f] for f in gone] + [[s] for s in sorted(marked)]
    for slot, term in slots.items():
        result.roles[slot] = _role(slot, term, gone, marked, where, known)
    if gone and outputs:
        result.work = [list(outputs[0]) + [named[f] for f in gone] + stars.get(1, [])]
    return result


def _role(
    slot: Slot,
    term: Term,
    gone: list[str],
    marked: set[Slot],
    where: Mapping[str, list[Slot]],
    known: Mapping[str, int],
) -> Role:
    """*reads* what is contracted, *writes* what only this operand brings, else *scales*."""
    if slot in marked or any(f in gone for f in term.factors):
        return "reads"
    if not gone or slot[0] > 1:
        return "scales"
    other = 1 - slot[0]
    own = [f for f in term.factors if f.isdigit() or all(i != other for i, _ in where[f])]
    return "writes" if any(f.isdigit() or known.get(f, 0) > 1 for f in own) else "scales"
