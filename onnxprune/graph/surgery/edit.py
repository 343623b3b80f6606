"""Editing a clone by names: values and nodes found, replaced, added."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import identity
from onnxprune.graph.axes import Axis


class Editor:
    """A model that may be changed, with its values and nodes by name.

    Attributes:
        model: a clone of the caller's model.
    """

    def __init__(self, model: models.Model) -> None:
        self.model = model
        self.values: dict[str, ir.Value] = {}
        self.nodes: dict[str, ir.Node] = {}
        self._graph_of: dict[str, ir.Graph] = {}
        for graph in models.graphs(model):
            for value in models.values(graph):
                self.values[value.name or ""] = value
                self._graph_of[value.name or ""] = graph
            for node in graph:
                self.nodes[identity(node)] = node
        self._used: set[str | None] = set(self.values)

    def store(
        self, near: ir.Value, name: str, array: npt.NDArray[Any] | ir.TensorProtocol
    ) -> ir.Value:
        """A new stored tensor in the graph that holds ``near``."""
        graph = self._graph_of.get(near.name or "", self.model.ir.graph)
        value = models.add_constant(graph, name, array, self._used)
        self.values[value.name or ""] = value
        self._graph_of[value.name or ""] = graph
        return value

    def insert(
        self, before: ir.Node, op: str, inputs: list[ir.Value | None], **attributes: int
    ) -> ir.Value:
        """A new node in front of ``before``; its only output."""
        attrs = [ir.AttrInt64(name, value) for name, value in attributes.items()]
        node = ir.Node("", op, inputs, attrs)
        output = node.outputs[0]
        graph = before.graph
        assert isinstance(graph, ir.Graph)
        hint = inputs[0].name if inputs[0] is not None else op
        output.name = models.fresh_name(graph, f"{hint}/{op}", self._used)
        node.name = output.name
        graph.insert_before(before, node)
        self.values[output.name] = output
        self._graph_of[output.name] = graph
        return output

    def fresh(self, name: str) -> str:
        """``name``, or one like it that no value has; nobody else gets it."""
        return models.fresh_name(self.model.ir.graph, name, self._used)

    def replace(self, old: str, new: str) -> None:
        """All readers of ``old`` read ``new`` instead; a graph output keeps its name."""
        was, now = self.values[old], self.values[new]
        if was.is_graph_output():
            node = was.producer()
            assert node is not None
            assert isinstance(node.graph, ir.Graph)
            same = ir.Node("", "Identity", [now])
            node.graph.insert_after(node, same)
            for k, value in enumerate(node.graph.outputs):
                if value is was:
                    node.graph.outputs[k] = same.outputs[0]
            same.outputs[0].type, same.outputs[0].shape = was.type, was.shape
            was.name, same.outputs[0].name = f"{old}/bypassed", old
            self._used.add(was.name)
            self.values[old] = same.outputs[0]
        for reader, position in list(was.uses()):
            reader.replace_input_with(position, now)


def kept_rows(tensor: ir.TensorProtocol, keeps: list[npt.NDArray[np.bool_]]) -> ir.TensorProtocol:
    """``tensor`` without the removed rows; large ones are cut when they are written."""
    shape = ir.Shape([int(k.sum()) for k in keeps])

    def cut() -> ir.Tensor[Any]:
        array = tensor.numpy()
        for axis, keep in enumerate(keeps):
            if not keep.all():
                array = np.compress(keep, array, axis)
        return ir.Tensor(np.ascontiguousarray(array), dtype=tensor.dtype, name=tensor.name)

    if tensor.size < _EAGER:
        return cut()
    return ir.LazyTensor(cut, tensor.dtype, shape, name=tensor.name, cache=False)


_EAGER = 1 << 20
"""Elements below which a cut is made at once: it costs less than keeping the closure."""


def everything(axis: Axis) -> npt.NDArray[np.bool_]:
    """The mask of an axis that loses nothing: what a rewrite is compared with."""
    return np.ones(axis.size or 0, np.bool_)
