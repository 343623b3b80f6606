"""Running a model front to back, a piece at a time, while its weights are being changed.

Recovery changes one layer after the other and needs to see what the next one then gets. Running
the whole model again for every layer would cost the square of its depth. Here the values at the
border between what has run and what has not are kept for all batches, and only the piece that a
wanted value needs is run, once, with the weights of that moment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.analysis import identity
from onnxprune.backends import open_session
from onnxprune.linear.find import Layer
from onnxprune.linear.padding import masks_of, shown, shown_to

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

_LARGE = 512 << 20
"""Bytes of one value over all batches from which on it is held in half precision."""
_FREE_INITIALIZERS = 4  # first IR version whose initializers need not be graph inputs


class Segments:
    """A model run in pieces over fixed batches.

    Args:
        model: it may be edited between pieces, as long as names and nodes stay.
        batches: feeds of all batches, held for as long as they are needed.
        provider: short name of the execution provider.
        threads: threads within an operator.
    """

    def __init__(
        self,
        model: models.Model,
        batches: Sequence[Feeds],
        *,
        provider: str = "cpu",
        threads: int | None = None,
    ) -> None:
        self._model = model
        self._graph = model.ir.graph
        self._values = {v.name or "": v for v in models.values(self._graph)}
        self._readers: dict[ir.Value, set[ir.Node]] = defaultdict(set)
        for node in self._graph:
            for value in read_by(node):
                self._readers[value].add(node)
        self._done: set[ir.Node] = set()
        self._held: list[dict[str, Array]] = [dict(batch) for batch in batches]
        self._masks = [masks_of(batch) for batch in batches]
        self._halved: set[str] = set()
        self._provider, self._threads = provider, threads

    def __len__(self) -> int:
        return len(self._held)

    @property
    def ran(self) -> int:
        """How many nodes have run."""
        return len(self._done)

    def value(self, name: str, batch: int) -> Array:
        """A value that was advanced to and is still needed."""
        value = self._held[batch][name]
        return value.astype(np.float32) if name in self._halved else value

    def shown(self, name: str, axis: int, batch: int) -> npt.NDArray[np.int64] | None:
        """The rows of such a value that are no padding; None if none is known to be."""
        return shown(self._masks[batch], self._held[batch][name].shape, axis)

    def shown_to(self, layer: Layer, batch: int) -> npt.NDArray[np.int64] | None:
        """The same of what a layer reads."""
        return shown_to(layer, self._masks[batch], self._held[batch][layer.x].shape)

    def advance(self, wanted: Iterable[str]) -> None:
        """Run what the wanted values need and has not run yet.

        A value stays available for as long as something that has not run reads it, and until the
        next call if it was wanted.

        Raises:
            KeyError: the model has no value of that name.
        """
        wanted = [name for name in wanted if models.constant(self._values[name]) is None]
        missing = [n for n in wanted if self._held and n not in self._held[0]]
        nodes = self._ancestors(missing)
        after = self._done | nodes
        outputs = [v for n in self._graph if n in nodes for v in n.outputs if v.name]
        kept = [v.name or "" for v in outputs if v.name in wanted or self._read(v, after)]
        if kept:
            self._run(nodes, kept)
        self._done = after
        for held in self._held:
            for name in list(held):
                if name not in wanted and not self._read(self._values[name], after):
                    del held[name]

    def _read(self, value: ir.Value, done: set[ir.Node]) -> bool:
        """Whether something that has not run reads ``value``."""
        return not self._readers[value] <= done

    def _ancestors(self, names: Sequence[str]) -> set[ir.Node]:
        """The nodes that have yet to run for some values."""
        found: set[ir.Node] = set()
        queue = [self._values[name] for name in names]
        while queue:
            node = queue.pop().producer()
            if node is None or node in found or node in self._done:
                continue
            found.add(node)
            queue += read_by(node)
        return found

    def _run(self, nodes: set[ir.Node], outputs: Sequence[str]) -> None:
        borders = {
            v.name or ""
            for node in nodes
            for v in read_by(node)
            if v.producer() not in nodes and models.constant(v) is None
        }
        inputs = sorted(borders)
        graph = ir.convenience.extract(self._graph, inputs, list(outputs))
        for value in graph.inputs:
            if value.name in self._held[0]:
                array = self.value(value.name, 0)
                value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
                value.shape = ir.Shape([None] * array.ndim)
        version = max(self._model.ir.ir_version, _FREE_INITIALIZERS)
        piece = ir.Model(graph, ir_version=version)
        piece.opset_imports.update(self._model.ir.opset_imports)
        session = open_session(models.Model(piece), provider=self._provider, threads=self._threads)
        for batch, held in enumerate(self._held):
            found = session.run({n: self.value(n, batch) for n in inputs}, only=list(outputs))
            if not batch:
                large = {n for n, a in found.items() if a.nbytes * len(self) > _LARGE}
                self._halved |= {n for n in large if found[n].dtype == np.float32}
            for name, array in found.items():
                held[name] = _half(array) if name in self._halved else array


def _half(value: Array) -> Array:
    """A value in half precision, whose rounding (0.0005) is far below the errors to be repaired."""
    most = np.finfo(np.float16).max
    return np.clip(value, -most, most).astype(np.float16)


def read_by(node: ir.Node) -> list[ir.Value]:
    """Everything a node reads, values captured by its bodies included."""
    found = [v for v in node.inputs if v is not None]
    for _, body in models.bodies(node):
        inner = set(models.values(body))
        for each in body:
            found += [v for v in read_by(each) if v not in inner]
        found += [v for v in body.outputs if v not in inner]
    return found


def ancestors(value: ir.Value) -> set[str]:
    """The identities of all nodes a value depends on, within its graph."""
    found: set[str] = set()
    queue = [value]
    while queue:
        node = queue.pop().producer()
        if node is not None and identity(node) not in found:
            found.add(identity(node))
            queue += read_by(node)
    return found
