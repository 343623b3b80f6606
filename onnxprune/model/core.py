"""A loaded model: its graphs, copies and conversions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from onnxprune.model import exchange, origin

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True, repr=False)
class Model:
    """An ONNX graph held by onnx-ir, and the file it came from.

    After `load` every value name is unique over all graphs (the main graph and every subgraph
    body) and no local function is left, so names identify values and a node is identified by the
    name of its first non-empty output. Weights stay in their files until they are read.

    Attributes:
        ir: the graph. Treat it as read-only unless you made it with `clone`.
        path: the .onnx file, or None for a model that came from memory.
    """

    ir: ir.Model
    path: Path | None = None

    def __repr__(self) -> str:
        name = self.path.name if self.path else self.ir.graph.name or "model"
        return f"<Model {name}: {len(self.ir.graph)} nodes>"

    def to_proto(self) -> onnx.ModelProto:
        """One ``ModelProto`` with all weights inside, for onnx and what takes its messages.

        Raises:
            OnnxpruneError: the model is larger than 2 GiB, which no ``ModelProto`` can be.

        Example:
            >>> from onnxprune.data import zoo
            >>> from onnxprune.model import load
            >>> proto = load(zoo.get("digits_mlp").model).to_proto()
            >>> [value.name for value in proto.graph.output]
            ['logits']
        """
        return exchange.to_proto(self.ir)

    def to_graphsurgeon(self) -> gs.Graph:
        """An onnx-graphsurgeon graph of its own, for editing; `onnxprune.load` takes it back.

        Metadata, the doc string and the model version, which graphsurgeon has no place for, travel
        along on the graph object.

        Raises:
            OnnxpruneError: the model is larger than 2 GiB, which graphsurgeon cannot hold.

        Example:
            >>> from onnxprune.data import zoo
            >>> from onnxprune.model import load
            >>> graph = load(zoo.get("digits_mlp").model).to_graphsurgeon()
            >>> graph.outputs[0].name
            'logits'
        """
        return exchange.to_graphsurgeon(self.ir)


def graphs(model: Model) -> Iterator[ir.Graph]:
    """The main graph, then every subgraph body, depth first in node order."""
    yield from origin.walk(model.ir.graph)


def clone(model: Model) -> Model:
    """A copy of the graph that can be edited freely; weights are shared, not copied.

    Nodes, values, types, shapes, attributes, metadata and bodies are all new objects; tensors are
    immutable and shared, so a clone of a 10 GB model costs only its structure.
    """
    return Model(origin.clone(model.ir), model.path)
