"""Two sets of input shapes a graph can be walked with, so that what varies can be told apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxprune.shapes.facts import Fact
from onnxprune.shapes.infer import InconsistentError
from onnxprune.shapes.program import Program, compile_graph, opsets_of
from onnxprune.shapes.walk import Walk, feed

if TYPE_CHECKING:
    from onnxprune.model import Model

Sizes = dict[str, int]
"""A size for every symbolic dimension."""

_PRIMES = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)
_BATCH = (2, 3, 5)
# What images, spectrograms and fixed windows are made for; distinct heights and widths first.
_LADDER = (
    (64, 96), (128, 160), (224, 256), (320, 512), (32, 32), (64, 64), (96, 96), (128, 128),
    (160, 160), (224, 224), (256, 256), (320, 320), (512, 512), (16, 16),
)  # fmt: skip
_ALONE = (32, 64, 16, 96, 128, 160, 224, 256, 320, 512, 4, 8, 10, 100, 1)
_WALKS = 60  # most candidates tried for one probe; most stop at their first conflict


@dataclass(frozen=True)
class _Axis:
    """A symbolic axis of a graph input; axes of the same ``name`` have the same size."""

    source: str
    axis: int
    name: str
    leading: bool


class _Search:
    """Tries sizes on one model until a walk meets no conflict."""

    def __init__(self, model: Model) -> None:
        opsets = opsets_of(model.ir)
        self.graph: ir.Graph = model.ir.graph
        self.program: Program = compile_graph(self.graph, opsets)
        self.axes = list(_symbolic_axes(self.graph, self.program))
        self.names = list(dict.fromkeys(axis.name for axis in self.axes))
        self._opsets = opsets
        self._outputs = [
            (value.name or "", value.shape) for value in self.graph.outputs if value.shape
        ]

    def shapes(self, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """The input shapes these sizes amount to."""
        shapes: dict[str, tuple[int, ...]] = {}
        at = {(axis.source, axis.axis): sizes[axis.name] for axis in self.axes}
        for value in self.graph.inputs:
            name = value.name or ""
            if name in self.program.needed and value.shape is not None:
                shapes[name] = tuple(
                    dim if isinstance(dim, int) else at[name, axis]
                    for axis, dim in enumerate(value.shape)
                )
        return shapes

    def reach(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Nodes walked before the first conflict; infinity if there is none."""
        walk = Walk(self._opsets, strict=True)
        feed(walk, self.program, self.graph, shapes)
        try:
            walk.run(self.program)
        except InconsistentError:
            return walk.steps
        return float("inf") if self._as_declared(walk.facts) else walk.steps

    def _as_declared(self, facts: Mapping[str, Fact]) -> bool:
        """Whether the outputs have the sizes the model declares as fixed."""
        for name, said in self._outputs:
            found = facts[name].shape
            if found is None or said is None:
                continue
            if len(found) != len(said) or any(
                isinstance(b, int) and a not in (None, b) for a, b in zip(found, said, strict=True)
            ):
                return False
        return True

    def first_that_fits(self, starts: Sequence[Sizes], avoid: Mapping[str, int]) -> Sizes:
        """The first of ``starts`` without a conflict, or the best that can be reached from them.

        Args:
            starts: whole assignments, best first.
            avoid: sizes each name should not have.
        """
        best, reached = starts[0], -1.0
        tried = 0
        for sizes in starts:
            got = self.reach(self.shapes(sizes))
            tried += 1
            if got > reached:
                best, reached = sizes, got
            if reached == float("inf"):
                return best
        for _ in range(2):
            for name in self.names:
                for size in self._alternatives(name, best, avoid):
                    if tried >= _WALKS:
                        return best
                    got = self.reach(self.shapes(best | {name: size}))
                    tried += 1
                    if got > reached:
                        best, reached = best | {name: size}, got
                    if reached == float("inf"):
                        return best
        return best

    def _alternatives(
        self, name: str, sizes: Mapping[str, int], avoid: Mapping[str, int]
    ) -> list[int]:
        """Sizes worth trying for one name, best first.

        Sums of the others (a cache and what is added), then common sizes, and the size to be
        avoided only when nothing else fits.
        """
        others = [size for other, size in sizes.items() if other != name]
        sums = [a + b for i, a in enumerate(others) for b in others[i + 1 :]]
        plus = [size + 1 for size in others]
        offered = dict.fromkeys([*others, *sums, *plus, *_ALONE])
        offered.pop(sizes[name], None)
        hidden = avoid.get(name)
        ranked = [size for size in offered if size != hidden]
        return ranked if hidden is None else [*ranked, hidden]


def probe_shapes(
    model: Model, like: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Two sets of concrete input shapes under which every node gets shapes that fit together.

    They differ in every symbolic size (the same ``dim_param`` has one size everywhere), unless only
    one size fits the graph. Sizes are primes no stored tensor has, so that equal sizes mean equal
    origin; image-like sizes where primes do not fit.

    Args:
        model: the model; it is only read.
        like: shapes of real feeds: the first probe, as they are.

    Returns:
        Shapes by input name. Inputs of unknown rank, or that are not tensors, are left out unless
        ``like`` names them.

    Raises:
        OnnxpruneError: ``like`` names no input or contradicts its declared shape.
    """
    search = _Search(model)
    if not search.axes and not like:
        return search.shapes({}), search.shapes({})
    taken = {size for fact in search.program.stored.values() for size in fact.shape or ()}
    if like is not None:
        search.reach(like)
        bound = {
            axis.name: like[axis.source][axis.axis] for axis in search.axes if axis.source in like
        }
    else:
        bound = {}
    firsts = [sizes | bound for sizes in _starts(search.axes, taken, second=False)]
    first = firsts[0] if bound else search.first_that_fits(firsts, {})
    seconds = [_moved(sizes, first) for sizes in _starts(search.axes, taken, second=True)]
    second = search.first_that_fits(seconds, first)
    extra = {name: tuple(shape) for name, shape in (like or {}).items()}
    free = {name: shape for name, shape in extra.items() if name not in search.shapes(first)}
    return search.shapes(first) | extra, search.shapes(second) | free


def _symbolic_axes(graph: ir.Graph, program: Program) -> Iterator[_Axis]:
    for value in graph.inputs:
        if value.name not in program.needed or value.shape is None:
            continue
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, int):
                continue
            said = dim.value or ""
            # Names such as "?" are no names: exporters write them for every unknown size.
            name = said if any(map(str.isalnum, said)) else f"{value.name}[{axis}]"
            leading = (axis == 0 and len(value.shape) > 1) or "batch" in name.lower()
            yield _Axis(value.name or "", axis, name, leading)


def _starts(axes: Sequence[_Axis], taken: set[int | None], *, second: bool) -> list[Sizes]:
    """Whole assignments: primes, then the ladder for all axes that do not lead."""
    leading = {axis.name for axis in axes if axis.leading}
    inner = list(dict.fromkeys(axis.name for axis in axes if axis.name not in leading))
    batches: Sizes = {}
    primes = [prime for prime in _PRIMES if prime not in taken] or list(_PRIMES)
    for index, name in enumerate(dict.fromkeys(a.name for a in axes if a.leading)):
        pool = _BATCH if index == 0 else primes[-2 * index :]
        batches[name] = pool[second]
    free = primes[second::2]
    starts = [batches | {name: free[i % len(free)] for i, name in enumerate(inner)}]
    if inner:
        rungs = [*_LADDER[1:], _LADDER[0]] if second else _LADDER
        starts += [batches | {n: rung[i % 2] for i, n in enumerate(inner)} for rung in rungs]
    return starts


def _moved(sizes: Sizes, away: Mapping[str, int]) -> Sizes:
    """The same sizes, but none that equals the one in ``away``."""
    pool = (*_BATCH, *_PRIMES)
    return {
        name: next(p for p in pool if p != away[name]) if size == away[name] else size
        for name, size in sizes.items()
    }
