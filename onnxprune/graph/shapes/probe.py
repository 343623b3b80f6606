"""Two sets of input shapes that a graph can be walked with, to tell varying sizes apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxprune.graph.facts import Fact, declared
from onnxprune.graph.ops.shape_call import InconsistentError
from onnxprune.graph.shapes.program import compile_graph, opsets_of
from onnxprune.graph.shapes.symbols import Sizes, SymbolicAxis, symbolic_axes
from onnxprune.graph.shapes.walk import Walk, feed

if TYPE_CHECKING:
    from onnxprune.model import Model

_PRIMES = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)
_BATCH = (2, 3, 5)
# What images, spectrograms and fixed windows are made for; unequal heights and widths first.
_LADDER = (
    (64, 96), (128, 160), (224, 256), (320, 512), (32, 32), (64, 64), (96, 96), (128, 128),
    (160, 160), (224, 224), (256, 256), (320, 320), (512, 512), (16, 16), (1024, 1280),
    (16000, 32000),
)  # fmt: skip
_ALONE = (32, 64, 16, 96, 128, 160, 224, 256, 320, 512, 4, 8, 10, 100, 1024, 16000, 1)
_EFFORT = 30_000  # most nodes walked for one probe, about half a second; a conflict ends a walk

_RANK = 8
_MOST_TRACED = 2048  # larger integers are bounds and vocabularies rather than sizes

_Score = tuple[float, int]
_PERFECT: _Score = (math.inf, 0)


def probe_shapes(
    model: Model, like: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Two sets of concrete input shapes under which every node gets shapes that fit together.

    They differ in every symbolic size (the same ``dim_param`` has one size everywhere), unless only
    one size fits the graph. Sizes are primes no stored tensor has, so that equal sizes mean equal
    origin; image-like sizes where primes do not fit. A graph that nothing fits gets the sizes that
    came furthest.

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
    real = {name: tuple(shape) for name, shape in (like or {}).items()}
    search.check(real)
    if not search.names:
        shapes = search.shapes({}) | real
        return shapes, dict(shapes)
    bound = {
        axis.symbol: real[axis.source][axis.axis]
        for axis in search.axes
        if axis.source in real and axis.symbol in search.names
    }
    starts = [sizes | bound for sizes in search.starts(second=False)]
    free = [name for name in search.names if name not in bound]
    first = search.first_that_fits(starts, free, {}) if free else starts[0]
    starts = [_moved(sizes, first) for sizes in search.starts(second=True)]
    second = search.first_that_fits(starts, search.names, first)
    unranked = {name: shape for name, shape in real.items() if name not in search.ranked}
    return search.shapes(first) | real, search.shapes(second) | unranked


class _Search:
    """Tries sizes on one model until a walk meets no conflict.

    Attributes:
        axes: the symbolic axes of the inputs.
        names: the symbols to choose sizes for.
        ranked: the inputs whose rank is known.
        fixed: the sizes that inputs and outputs are declared with, and integers that the graph
            stores: an exporter that traced one size of an open axis left it in some Reshape.
    """

    def __init__(self, model: Model) -> None:
        self._opsets = opsets_of(model.ir)
        self._graph = model.ir.graph
        self._program = compile_graph(self._graph, self._opsets)
        inputs = [value for value in self._graph.inputs if value.name in self._program.needed]
        self.ranked = [value.name or "" for value in inputs if value.shape is not None]
        self.axes: Sequence[SymbolicAxis] = symbolic_axes(inputs)
        shapes = (declared(value).shape for value in (*inputs, *self._graph.outputs))
        sizes = (size for shape in shapes if shape is not None for size in shape)
        integers = [n for fact in self._program.stored.values() for n in _integers(fact)]
        traced = [n for n in integers if 1 < n < _MOST_TRACED]
        self.fixed = tuple(dict.fromkeys([*(size for size in sizes if size), *traced]))
        self.names = list(dict.fromkeys(name for axis in self.axes for name in axis.names))

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse shapes that are not this model's.

        Raises:
            OnnxpruneError: see :func:`probe_shapes`.
        """
        feed(Walk(self._opsets), self._program, self._graph, shapes)

    def shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        """The input shapes these sizes amount to."""
        at = {(axis.source, axis.axis): axis.size(sizes) for axis in self.axes}
        return {
            name: tuple(
                at[name, axis] if size is None else size
                for axis, size in enumerate(self._program.declared[name].shape or ())
            )
            for name in self.ranked
        }

    def starts(self, *, second: bool) -> list[Sizes]:
        """Whole assignments: primes, one batch for all, then the ladder for what does not lead."""
        stored = self._program.stored.values()
        taken = {size for fact in stored for size in fact.shape or ()}
        primes = [prime for prime in _PRIMES if prime not in taken] or list(_PRIMES)
        leading = {name for axis in self.axes if axis.leading for name in axis.names}
        first, *others = [name for name in self.names if name in leading] or [""]
        inner = [name for name in self.names if name not in leading]
        batch = _BATCH[second]
        pool = primes[second::2]
        apart = {name: pool[-1 - i % len(pool)] for i, name in enumerate(others)}
        alike = dict.fromkeys(others, batch)
        spread = {name: pool[i % len(pool)] for i, name in enumerate(inner)}
        lead = {first: batch} if first else {}
        starts = [lead | apart | spread, lead | alike | spread]
        if inner:
            starts.append(lead | alike | dict.fromkeys(inner, pool[0]))
            rungs = [*_LADDER[1:], _LADDER[0]] if second else _LADDER
            starts += [
                lead | alike | {name: rung[i % 2] for i, name in enumerate(inner)} for rung in rungs
            ]
        return starts if others or inner else starts[:1]

    def first_that_fits(
        self, starts: Sequence[Sizes], free: Sequence[str], avoid: Mapping[str, int]
    ) -> Sizes:
        """The first of ``starts`` without a conflict, or the best reached from them by one name.

        Args:
            starts: whole assignments, best first.
            free: the names whose size may be changed.
            avoid: sizes each name should not have.
        """
        best = _Best(self, starts[0])
        if any(best.offer(sizes) for sizes in starts):
            return best.sizes
        for name in (*free, *free):
            for size in _alternatives(name, best.sizes, self.fixed, avoid):
                if best.offer(best.sizes | {name: size}):
                    return best.sizes
        return best.sizes

    def score(self, sizes: Sizes) -> tuple[_Score, int]:
        """How far a walk gets (nodes before the first conflict, less is worse), and its cost."""
        walk = Walk(self._opsets, strict=True)
        feed(walk, self._program, self._graph, self.shapes(sizes))
        try:
            walk.run(self._program)
        except InconsistentError:
            return (walk.steps, -walk.doubts), walk.steps
        reached = math.inf if self._as_declared(walk.facts) else walk.steps
        return (reached, -walk.doubts), walk.steps

    def _as_declared(self, facts: Mapping[str, Fact]) -> bool:
        """Whether the outputs have the sizes the model declares as fixed."""
        for value in self._graph.outputs:
            declaration, shape = declared(value).shape, facts[value.name or ""].shape
            if declaration is None or shape is None:
                continue
            if len(declaration) != len(shape):
                return False
            if any(None not in (a, b) and a != b for a, b in zip(declaration, shape, strict=True)):
                return False
        return True


def _integers(fact: Fact) -> list[int]:
    """What a stored tensor holds that may be the target of a Reshape, or a part of one."""
    if fact.dtype != ir.DataType.INT64 or fact.value is None or fact.value.size > _RANK:
        return []
    return [int(n) for n in np.ravel(fact.value)]


class _Best:
    """The best sizes offered so far."""

    def __init__(self, search: _Search, sizes: Sizes) -> None:
        self.sizes = sizes
        self._search = search
        self._score: _Score = (-1.0, 0)
        self._effort = 0

    def offer(self, sizes: Sizes) -> bool:
        """Try sizes; whether to stop looking."""
        score, cost = self._search.score(sizes)
        self._effort += cost
        if score > self._score:
            self.sizes, self._score = sizes, score
        return self._score == _PERFECT or self._effort > _EFFORT


def _alternatives(
    name: str, sizes: Sizes, fixed: Sequence[int], avoid: Mapping[str, int]
) -> Iterator[int]:
    """Sizes worth trying for one symbol, best first.

    Those of the others and their sums (a cache and what is added to it), those that inputs and
    outputs have as fixed, then common ones; the size to be avoided only when nothing else fits.
    """
    others = [size for other, size in sizes.items() if other != name]
    sums = [a + b for i, a in enumerate(others) for b in others[i + 1 :]]
    plus = [size + 1 for size in others]
    offered = dict.fromkeys([*others, *sums, *plus, *fixed, *_ALONE])
    offered.pop(sizes[name], None)
    hidden = avoid.get(name)
    yield from (size for size in offered if size != hidden)
    if hidden is not None:
        yield hidden


def _moved(sizes: Sizes, away: Mapping[str, int]) -> Sizes:
    """The same sizes, but none that equals the one in ``away``."""
    moved: Sizes = {}
    for name, size in sizes.items():
        used = {away[name], *sizes.values(), *moved.values()}
        other = next(p for p in (*_BATCH, *_PRIMES, 101) if p not in used)
        moved[name] = other if size == away[name] else size
    return moved
