"""Running a model front to back, a piece at a time, while its weights are being changed.

Recovery changes one layer after the other and needs to see what the next one then gets. Running
the whole model again for every layer would cost the square of its depth. Here the values at the
border between finished and waiting nodes are kept for all batches, and only the piece that a wanted
value needs is run, once, with the weights of that moment.

Early in a network for large pictures a border may not fit into memory. There the border stays where
it was, and wanted values are computed for one batch at a time, anew for each request.

A value is held until its last reader has run. That is soon enough for layers which are run to their
own outputs, but one that is run to the residual sum behind it passes the layers of the other
branch, whose inputs are still needed. Such values are named as kept; one that was freed all the
same is computed again, from the last values before it that are held.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.data.batches import count_samples, token_masks, unpadded_rows
from onnxprune.data.memory import MemoryBudget, give_back
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.graph.layers.sources import read_by
from onnxprune.runtime import open_session

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

_SMALL = 1 << 20
"""Bytes of a value over all batches up to which it is held as it is."""
_FREE_INITIALIZERS = 4  # first IR version whose initializers need not be graph inputs


@dataclass(eq=False)
class _Piece:
    """Part of a model, ready to run.

    Attributes:
        run: computes values by name for a batch.
        outputs: names of its values.
        wanted: names that are computed together.
        batch: the latest one.
        results: values of that batch.
    """

    run: Callable[[int, Sequence[str]], Mapping[str, Array]]
    outputs: Sequence[str]
    wanted: Sequence[str]
    batch: int = -1
    results: dict[str, Array] = field(default_factory=dict)

    def value(self, name: str, batch: int) -> Array:
        """One of its outputs."""
        if batch != self.batch:
            self.batch, self.results = batch, {}
        if name not in self.results:
            self.results |= self.run(batch, self.wanted if name in self.wanted else [name])
        return self.results[name]


class Segments:
    """A model run in pieces over fixed batches.

    Args:
        model: it may be edited between pieces, as long as names and nodes stay.
        batches: feeds of all batches, held for as long as they are needed.
        kept: values that stay when all their readers have run, until they are released as many
            times as they are named here.
        provider: short name of the execution provider.
        threads: threads within an operator.
        most: bytes that may be held over all batches; by default what the default budget gives.
            A value that takes half of them is held in half precision.

    Attributes:
        samples: in every batch.
    """

    def __init__(
        self,
        model: models.Model,
        batches: Sequence[Feeds],
        *,
        kept: Iterable[str] = (),
        provider: str = "cpu",
        threads: int | None = None,
        most: int | None = None,
    ) -> None:
        self._kept = Counter(kept)
        self._most = MemoryBudget().values if most is None else most
        self._batches = batches
        self._ahead: _Piece | None = None
        self._model = model
        self._graph = model.ir.graph
        self._values = {v.name or "": v for v in models.values(self._graph)}
        self._readers: dict[ir.Value, set[ir.Node]] = defaultdict(set)
        for node in self._graph:
            for value in read_by(node):
                self._readers[value].add(node)
        self._done: set[ir.Node] = set()
        self._held: list[dict[str, Array]] = [dict(batch) for batch in batches]
        self._masks = [token_masks(batch) for batch in batches]
        self.samples = [count_samples(batch) for batch in batches]
        self._halved: set[str] = set()
        self._provider, self._threads = provider, threads

    def __len__(self) -> int:
        return len(self._held)

    @property
    def ran(self) -> int:
        """The number of nodes that have run."""
        return len(self._done)

    def value(self, name: str, batch: int) -> Array:
        """A value that was advanced to and is still needed."""
        value = self.as_held(name, batch)
        return value.astype(np.float32) if name in self._halved else value

    def as_held(self, name: str, batch: int) -> Array:
        """The same, perhaps in half precision, for readers of a part of it."""
        if name not in self._held[batch] and self._ahead is not None:
            return self._ahead.value(name, batch)
        return self._held[batch][name]

    def has(self, name: str) -> bool:
        """Whether a value is available: it is held, or has not run yet."""
        node = self._values[name].producer()
        return name in self._held[0] or (node is not None and node not in self._done)

    def _shape(self, name: str, batch: int) -> tuple[int, ...]:
        array = self._held[batch].get(name)
        return (self.value(name, batch) if array is None else array).shape

    def shown(self, name: str, axis: int, batch: int) -> npt.NDArray[np.int64] | None:
        """The rows of such a value that are not padding; None if no mask is known."""
        return unpadded_rows(self._masks[batch], self._shape(name, batch), axis)

    def shown_to(self, layer: LinearLayer, batch: int) -> npt.NDArray[np.int64] | None:
        """The same for the input of a layer."""
        return None if layer.window or layer.stack else self.shown(layer.x, layer.axis, batch)

    def advance(self, wanted: Iterable[str]) -> None:
        """Run the nodes that the wanted values need and that have not run yet.

        A value stays available for as long as something that has not run reads it, and until the
        next call if it was wanted. One that is no longer held is computed again.

        Raises:
            KeyError: the model has no value of that name.
        """
        self._ahead = None
        wanted = [name for name in wanted if models.constant(self._values[name]) is None]
        there = self._held[0] if self._held else {}
        missing = [n for n in wanted if self._held and n not in there]
        self._take_back(missing)
        nodes = self._ancestors(missing)
        after = self._done | nodes
        outputs = [v for n in self._graph if n in nodes for v in n.outputs if v.name]
        needed = [v.name or "" for v in outputs if v.name in wanted or self._read(v, after)]
        stay = {n for n in there if n in wanted or self._read(self._values[n], after)}
        if needed:
            piece = _Piece(self._piece(nodes, needed), needed, missing)
            first = piece.run(0, needed)
            if len(self) > 1 and self._size(first, stay) > self._most:
                self._ahead = piece
                give_back()
                return
            self._keep(piece, first, stay)
        else:
            for values in self._held:
                _let_go(values, stay)
        self._done = after
        give_back()

    def _size(self, values: Mapping[str, Array], stay: Iterable[str]) -> int:
        """Bytes to hold, for what stays and the new values of one batch."""
        sizes = [a.nbytes // (1 + self._halves(a)) for a in values.values()]
        return (sum(sizes) + sum(self._held[0][n].nbytes for n in stay)) * len(self)

    def _halves(self, value: Array) -> bool:
        """Whether a value is so large that it is held in half precision."""
        large = max(self._most // 2, _SMALL)
        return value.nbytes * len(self) > large and value.dtype == np.float32

    def _keep(self, piece: _Piece, first: Mapping[str, Array], stay: set[str]) -> None:
        """Hold the values of a piece for all batches; it has run for the first.

        A batch gives up what need not stay before the next one runs.
        """
        self._halved |= {name for name, array in first.items() if self._halves(array)}
        for batch, values in enumerate(self._held):
            results = piece.run(batch, piece.outputs) if batch else first
            _let_go(values, stay)
            for name, array in results.items():
                values[name] = _half(array) if name in self._halved else array

    def rewind(self, start: str, end: str) -> bool:
        """Mark for another run the nodes from one value to another, which have changed since.

        Args:
            start: a kept value.
            end: a value behind it; no node after it has run.

        Returns:
            Whether they can run again: all their other inputs are still held.
        """
        there = self._held[0] if self._held else {}
        between: set[ir.Node] = set()
        queue = [self._values[end]]
        while queue:
            value = queue.pop()
            node = value.producer()
            if node is None and value.name not in there:
                return False
            if node is None:
                continue
            between.add(node)
            read = [v for v in read_by(node) if models.constant(v) is None and v.name != start]
            queue += [v for v in read if v.producer() not in between]
        self._done -= between
        for name in (v.name for node in between for v in node.outputs):
            for values in self._held:
                values.pop(name or "", None)
        return True

    def rerun(self, nodes: Iterable[str]) -> None:
        """Mark for another run what has run behind some nodes, whose weights have changed.

        Args:
            nodes: identities of nodes of the main graph.
        """
        queue = [node for name in nodes if (node := self._values[name].producer()) in self._done]
        while queue:
            node = queue.pop()
            if node not in self._done:
                continue
            self._done.discard(node)
            for value in node.outputs:
                for held in self._held:
                    held.pop(value.name or "", None)
                queue += self._readers[value]

    def _take_back(self, names: Iterable[str]) -> None:
        """Mark for another run the ancestors of freed values, up to values that are held."""
        queue, seen = [self._values[name] for name in names], set[str]()
        while queue:
            value = queue.pop()
            name, node = value.name or "", value.producer()
            if name in self._held[0] or name in seen:
                continue
            seen.add(name)
            if node is not None:
                self._done.discard(node)
                queue += read_by(node)
            elif name in self._batches[0]:
                for values, batch in zip(self._held, self._batches, strict=True):
                    values[name] = batch[name]

    def release(self, name: str) -> None:
        """Keep a value no longer, or for one use less if it is kept for several."""
        self._kept[name] -= 1

    def _read(self, value: ir.Value, done: set[ir.Node]) -> bool:
        """Whether something that has not run reads ``value``, or it is kept."""
        return self._kept[value.name or ""] > 0 or not self._readers[value] <= done

    def _ancestors(self, names: Sequence[str]) -> set[ir.Node]:
        """The nodes that have yet to run for some values."""
        nodes: set[ir.Node] = set()
        queue = [self._values[name] for name in names]
        while queue:
            node = queue.pop().producer()
            if node is None or node in nodes or node in self._done:
                continue
            nodes.add(node)
            queue += read_by(node)
        return nodes

    def _piece(
        self, nodes: set[ir.Node], outputs: Sequence[str]
    ) -> Callable[[int, Sequence[str]], Mapping[str, Array]]:
        borders = {
            v.name or ""
            for node in nodes
            for v in read_by(node)
            if v.producer() not in nodes and models.constant(v) is None
        }
        inputs = sorted(borders)
        held = self._held[0]
        first = {name: self.value(name, 0) if name in held else None for name in inputs}
        piece = cut_out(self._model, first, outputs)
        session = open_session(
            piece, provider=self._provider, threads=self._threads, arena=False
        )  # held values must not keep the memory of the whole piece alive

        def run(batch: int, only: Sequence[str]) -> Mapping[str, Array]:
            return session.run({n: self.value(n, batch) for n in inputs}, list(only))

        return run


def cut_out(
    model: models.Model, inputs: Mapping[str, Array | None], outputs: Sequence[str]
) -> models.Model:
    """The part of a model between some values.

    Args:
        model: it is not changed.
        inputs: the values where the part begins, with one array of each, whose type and rank its
            input gets; None leaves those of the model.
        outputs: the values where it ends.
    """
    graph = ir.convenience.extract(model.ir.graph, list(inputs), list(outputs))
    for value in graph.inputs:
        array = inputs.get(value.name or "")
        if array is not None:
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            value.shape = ir.Shape([None] * array.ndim)
    piece = ir.Model(graph, ir_version=max(model.ir.ir_version, _FREE_INITIALIZERS))
    piece.opset_imports.update(model.ir.opset_imports)
    return models.Model(piece)


def _let_go(values: dict[str, Array], stay: set[str]) -> None:
    """Free all values but those that stay."""
    for name in values.keys() - stay:
        del values[name]


def _half(value: Array) -> Array:
    """A value in half precision, whose rounding (0.0005) is far below the errors to be repaired."""
    most = np.finfo(np.float16).max
    return np.clip(value, -most, most).astype(np.float16)
