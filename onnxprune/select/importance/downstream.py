"""What a change does to the outputs, at the cost of what lies behind it.

Models that are compared with the dense one while units are priced differ from it in a few nodes.
What these read is the same in both, so it is computed once, by the dense model, and only the nodes
behind the change run again: on average half of the model, and little of it for late layers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from onnxprune import model as models
from onnxprune.data.activations.runner import Feeds, Segments, cut_out
from onnxprune.data.memory import MemoryBudget
from onnxprune.evaluate.output_error import OutputError
from onnxprune.graph.analysis import identity
from onnxprune.graph.layers.sources import read_by
from onnxprune.runtime import open_session


@dataclass(frozen=True, eq=False)
class _Piece:
    """The part of a model that runs again.

    Attributes:
        model: that part.
        borders: values in front of it.
        names: outputs that it computes.
        free: constants that are inputs of it.
    """

    model: models.Model
    borders: Sequence[str]
    names: Sequence[str]
    free: frozenset[str]


class DownstreamError(OutputError):
    """Compares models with a dense one on inputs that stay, running only what differs.

    It is fastest where models are compared in the order of the nodes that they differ in.

    Args:
        dense: the reference; it must not change.
        batches: feeds.
        provider: execution provider.
        worst: cap on relative errors.
        memory: the memory budget, for values in front of what differs.
    """

    def __init__(
        self,
        dense: models.Model,
        batches: Sequence[Feeds],
        *,
        provider: str = "cpu",
        worst: float = math.inf,
        memory: MemoryBudget | None = None,
    ) -> None:
        super().__init__(dense, batches, provider=provider, worst=worst)
        most = (memory or MemoryBudget()).values // 2  # two of these may be at work
        self._segments = Segments(dense, batches, provider=provider, most=most)
        self._nodes = {identity(node): node for node in dense.ir.graph}
        # A runtime fuses quantized values with their readers, so a part rounds otherwise than all.
        self._rounds = any("quantize" in node.op_type.lower() for node in dense.ir.graph)

    def of(self, model: models.Model) -> float:
        """The error of a model whose outputs have the names and sizes of the dense one's."""
        return self.opened(model, [])([])

    def opened(
        self, model: models.Model, free: Sequence[ir.Value]
    ) -> Callable[[Sequence[ir.TensorProtocol]], float]:
        """The same for a model with other contents of some of its constants, which is opened once.

        Args:
            model: it may be changed.
            free: constants of the model; only these differ from one call to the next.

        Returns:
            A function from the contents of ``free`` to the error.
        """
        piece = None if self._rounds else self._behind(model, free)
        if piece is None:
            return partial(self._whole, model, free)
        if not piece.names:
            return lambda _: 0.0
        session = open_session(piece.model, provider=self._provider, arena=False)
        names = [value.name or "" for value in free]

        def error(tensors: Sequence[ir.TensorProtocol]) -> float:
            stored = {n: t.numpy() for n, t in zip(names, tensors, strict=True) if n in piece.free}
            return self.distance(
                session.run(
                    {**stored, **{name: self._segments.value(name, k) for name in piece.borders}},
                    piece.names,
                )
                for k in range(len(self._batches))
            )

        return error

    def _whole(
        self, model: models.Model, free: Sequence[ir.Value], tensors: Sequence[ir.TensorProtocol]
    ) -> float:
        for value, tensor in zip(free, tensors, strict=True):
            models.set_constant(value, tensor)
        return super().of(model)

    def _behind(self, model: models.Model, free: Sequence[ir.Value]) -> _Piece | None:
        """The part of a model that differs; None where that cannot be run by itself."""
        graph = model.ir.graph
        behind = behind_of(graph, [n for n in graph if not _same(n, self._nodes.get(identity(n)))])
        names = [v.name for n in behind for v in n.outputs if v.name in self._names]
        borders = {
            value.name or "": value
            for node in behind
            for value in read_by(node)
            if value.producer() not in behind and models.constant(value) is None
        }
        whole = len(behind) == len(graph) or not all(map(self._is_known, borders.values()))
        main = graph.initializers.values()
        if names and (whole or any(not any(value is each for each in main) for value in free)):
            return None
        if not names:
            return _Piece(model, (), (), frozenset())
        self._segments.advance(borders)
        first = {name: self._segments.value(name, 0) for name in borders}
        stored = {value.name or "": models.array_of(value) for value in free}
        piece = cut_out(model, {**first, **stored}, [name for name in names if name])
        for value in piece.ir.graph.inputs:
            if value.name in stored:
                piece.ir.graph.initializers.pop(value.name, None)
                value.const_value = None
                value.shape = ir.Shape(stored[value.name].shape)
        inputs = frozenset(value.name or "" for value in piece.ir.graph.inputs)
        kept = tuple(name for name in borders if name in inputs)
        return _Piece(piece, kept, tuple(names), inputs & stored.keys())

    def _is_known(self, value: ir.Value) -> bool:
        """Whether the dense model has the same value, and it is a tensor."""
        node, tensor = value.producer(), value.type is None or isinstance(value.type, ir.TensorType)
        if node is None:
            return tensor and value.name in self._batches[0]
        return tensor and identity(node) in self._nodes


def _same(node: ir.Node, dense: ir.Node | None) -> bool:
    """Whether a node computes what it does in the dense model, from the same names."""
    if dense is None or (node.domain, node.op_type) != (dense.domain, dense.op_type):
        return False
    ours, theirs = (
        [(v.name, id(v.const_value) if v.is_initializer() else 0) if v else None for v in n.inputs]
        for n in (node, dense)
    )
    if ours != theirs or [v.name for v in node.outputs] != [v.name for v in dense.outputs]:
        return False
    if node.attributes.keys() != dense.attributes.keys():
        return False
    return all(
        _same_attribute(attribute, dense.attributes[name])
        for name, attribute in node.attributes.items()
    )


def _same_attribute(one: ir.Attr, other: ir.Attr) -> bool:
    """Whether attributes are equal; bodies and tensors only count as such where they are one."""
    if one.value is other.value:
        return True
    if one.type != other.type or one.type in (ir.AttributeType.TENSOR, ir.AttributeType.GRAPH):
        return False
    plain = (
        ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.FLOAT,
        ir.AttributeType.FLOATS, ir.AttributeType.STRING, ir.AttributeType.STRINGS,
    )  # fmt: skip
    return one.type in plain and one.value == other.value


def behind_of(graph: ir.Graph, changed: Iterable[ir.Node]) -> dict[ir.Node, None]:
    """Nodes and all that depend on them, each once."""
    readers: dict[ir.Value, list[ir.Node]] = defaultdict(list)
    for node in graph:
        for value in read_by(node):
            readers[value].append(node)
    behind = dict.fromkeys(changed)
    queue = list(behind)
    while queue:
        for value in queue.pop().outputs:
            for node in readers[value]:
                if node not in behind:
                    behind[node] = None
                    queue.append(node)
    return behind
