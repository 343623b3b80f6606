"""What outputs lose when layers get other weights, at many widths of many groups.

Opening a model takes longer than running a small one, so models are not opened one by one: groups
come in stretches of neighbours, and for each stretch the part of the model from there to the
outputs is opened once, with the weights of the layers that read these groups among its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.data.activations.runner import Segments, cut_out
from onnxprune.data.memory import MemoryBudget
from onnxprune.evaluate.output_error import OutputError
from onnxprune.graph.analysis import Analysis, identity
from onnxprune.graph.layers.epilogue import Weights
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.graph.layers.sources import read_by
from onnxprune.graph.units import Group
from onnxprune.runtime import open_session
from onnxprune.runtime.interface import Session
from onnxprune.select.importance.curves import Feeds, Reader
from onnxprune.select.importance.downstream import behind_of

Array = npt.NDArray[Any]

_STRETCHES = 8
"""Parts of a model that are opened: on average half of the model runs, and little more."""


class RefitErrors:
    """Compares a model whose layers get other weights with the dense one, on inputs that stay.

    Args:
        analysis: analysis of the dense model.
        batches: feeds.
        readers: the layers that read units, by node.
        provider: what runs the models.
        worst: cap on relative errors.
        memory: the memory budget, for values in front of a stretch.
    """

    def __init__(
        self,
        analysis: Analysis,
        batches: Sequence[Feeds],
        readers: Mapping[str, Reader],
        *,
        provider: str = "cpu",
        worst: float = math.inf,
        memory: MemoryBudget | None = None,
    ) -> None:
        dense, most = analysis.model, (memory or MemoryBudget()).values
        self._readers, self._provider, self._count = readers, provider, len(batches)
        self._error = OutputError(dense, batches, provider=provider, worst=worst)
        self._segments = Segments(dense, batches, provider=provider, most=most)
        self._inputs = frozenset(batches[0])
        self._model = models.clone(dense)
        self._weights = Weights(self._model)
        self._values = {value.name or "": value for value in models.values(self._model.ir.graph)}
        self._places = {identity(node): at for at, node in enumerate(self._model.ir.graph)}
        # A runtime fuses quantized values with their readers, so a part rounds otherwise than all.
        self._rounds = any("quantize" in n.op_type.lower() for n in dense.ir.graph)
        self._session: Session | None = None
        self._borders: list[str] = []
        self._stored: list[ir.Value] = []
        self._names: list[str] = []

    def stretches(self, groups: Sequence[Group]) -> Iterator[list[Group]]:
        """The groups from front to back, in stretches of neighbours."""

        def place(group: Group) -> int:
            return min(map(self._place, self._layers([group])), default=0)

        ordered = sorted(groups, key=place)
        size = max(-(-len(ordered) // _STRETCHES), 1)
        for at in range(0, len(ordered), size):
            yield ordered[at : at + size]

    def _place(self, layer: LinearLayer) -> int:
        return self._places.get(layer.node, 0)

    def _layers(self, groups: Sequence[Group]) -> list[LinearLayer]:
        """The layers that read units of some groups, each once."""
        nodes = [n for g in groups for cut in g.slices if cut.role == "reads" for n in cut.nodes]
        readers = {id(r): r for n in nodes if (r := self._readers.get(n)) is not None}
        return [layer for reader in readers.values() for layer, _ in reader.applications]

    def open(self, groups: Sequence[Group]) -> None:
        """Open the part of the model behind the layers that read these groups."""
        self._session, layers = None, self._layers(groups)
        for layer in layers:  # from now on only what is stored changes, no node
            self._weights.write(layer, *self._weights.read(layer))
        self._stored = [value for layer in layers for value in self._stored_by(layer)]
        graph, names = self._model.ir.graph, {value.name or "" for value in self._stored}
        starts = [node for value in self._stored for node, _ in value.uses()]
        behind = behind_of(graph, starts)
        self._names = [
            value.name
            for node in behind
            for value in node.outputs
            if value.name in self._error.names
        ]  # fmt: skip
        borders = {
            value.name or "": value
            for node in behind
            for value in read_by(node)
            if value.producer() not in behind
            and models.constant(value) is None
            and value.name not in names
        }
        if self._rounds or not self._names or not all(map(self._is_known, borders.values())):
            return
        if any(node.graph is not graph for node in starts):
            return
        self._segments.advance(borders)
        self._borders = list(borders)
        first = {name: self._segments.value(name, 0) for name in borders}
        stored = {value.name or "": models.array_of(value) for value in self._stored}
        piece = cut_out(self._model, {**first, **stored}, self._names)
        for value in piece.ir.graph.inputs:
            if value.name in names:
                piece.ir.graph.initializers.pop(value.name, None)
                value.const_value = None
                value.shape = ir.Shape(stored[value.name].shape)
        self._session = open_session(piece, provider=self._provider, arena=False)

    def _stored_by(self, layer: LinearLayer) -> list[ir.Value]:
        """The weight of a layer, and its bias."""
        values: list[ir.Value | None] = [self._values[layer.weight]]
        if layer.bias_slot is not None:
            name, position = layer.bias_slot
            node = self._values[name].producer()
            assert node is not None
            values.append(node.inputs[position])
        return [value for value in values if value is not None]

    def _is_known(self, value: ir.Value) -> bool:
        """Whether a value is a tensor that the dense model computes or is fed."""
        tensor = value.type is None or isinstance(value.type, ir.TensorType)
        return tensor and (value.producer() is not None or value.name in self._inputs)

    def of(self, edit: Callable[[Weights], None]) -> float:
        """The error of the outputs with edited weights of layers of the stretch.

        Args:
            edit: writes weights; they are restored after.
        """
        before = [models.constant(value) for value in self._stored]
        edit(self._weights)
        try:
            if self._session is None:
                return self._error.of(self._model)
            feeds = {value.name or "": models.array_of(value) for value in self._stored}
            return self._error.distance(self._run(self._session, feeds))
        finally:
            for value, tensor in zip(self._stored, before, strict=True):
                assert tensor is not None
                models.set_constant(value, tensor)

    def _run(self, session: Session, weights: Feeds) -> Iterator[Mapping[str, Array]]:
        for batch in range(self._count):
            borders = {name: self._segments.value(name, batch) for name in self._borders}
            yield session.run({**borders, **weights}, self._names)
