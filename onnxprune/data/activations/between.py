"""The layer before a layer, where nothing but an elementwise function lies between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.layers.epilogue import Epilogue, find_epilogue
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.graph.ops.elementwise import POINTWISE
from onnxprune.graph.shapes import Fact
from onnxprune.runtime import open_session
from onnxprune.solve.two_layer import IDENTITY, Activation, computed, relu

_PROBES = np.sinh(np.linspace(-5, 5, 101))
"""Where a function is tried before it is trusted."""


@dataclass(frozen=True, eq=False)
class Maker:
    """The layer whose output, through an elementwise function, is another layer's input.

    Attributes:
        layer: that layer.
        epilogue: per-channel scale and shift of its output before the function.
        activation: the function.
        filters: a depthwise convolution after the function, as a maker with the function that is
            between it and the other layer.
    """

    layer: LinearLayer
    epilogue: Epilogue
    activation: Activation
    filters: Maker | None = None


def find_maker(
    values: Mapping[str, ir.Value],
    facts: Mapping[str, Fact],
    layers: Sequence[LinearLayer],
    reader: LinearLayer,
) -> Maker | None:
    """The maker of the input of ``reader``, if there is one and nothing else reads it.

    Args:
        values: the values of the main graph by name.
        facts: shapes.
        layers: of that graph.
        reader: one of them.
    """
    if reader.is_depthwise:
        return None
    last = _nearest(values, facts, layers, reader)
    if last is not None and _reads_points(reader) and last.layer.is_depthwise:
        before = _nearest(values, facts, layers, last.layer)
        if before is not None and not before.layer.is_depthwise:
            last = replace(before, filters=last)
    if last is None:
        return None
    between = {each.activation for each in (last, last.filters) if each is not None}
    # With no function between there are not two layers, but one in two parts.
    return None if between == {IDENTITY} else last


def _reads_points(reader: LinearLayer) -> bool:
    """Whether a layer is a convolution whose outputs read one position each."""
    window = reader.window
    if window is None or window.transposed or window.group > 1:
        return False
    still = {*window.kernel, *window.strides} == {1}
    return still and (window.auto_pad != "NOTSET" or not any(window.pads))


def _nearest(
    values: Mapping[str, ir.Value],
    facts: Mapping[str, Fact],
    layers: Sequence[LinearLayer],
    reader: LinearLayer,
) -> Maker | None:
    """The layer before ``reader``; the function between may be none at all."""
    function = _function(values[reader.x])
    if function is None:
        return None
    start, nodes = function
    for layer in layers:
        fact = facts.get(layer.y)
        if fact is None or fact.shape is None or not _fits(layer, reader, len(fact.shape)):
            continue
        epilogue = find_epilogue(values, facts, layer).alone
        if layer.y == start.name:
            epilogue = Epilogue(
                layer.y, None, np.ones_like(epilogue.gain), np.zeros_like(epilogue.shift)
            )
        if epilogue.value != start.name:
            continue
        activation = _activation(values[reader.x], start, nodes)
        return None if activation is None else Maker(layer, epilogue, activation)
    return None


def _fits(maker: LinearLayer, reader: LinearLayer, rank: int) -> bool:
    """Whether hidden positions of the two correspond: two convolutions, or two products."""
    if maker.node == reader.node or maker.stack is not None or reader.stack is not None:
        return False
    if maker.window and reader.window:
        alone = reader.window.group == 1 and not reader.window.transposed
        return alone or reader.is_depthwise
    if maker.window or reader.window:
        return False
    return maker.out_axis % rank == reader.axis % rank == rank - 1


def _function(end: ir.Value) -> tuple[ir.Value, list[ir.Node]] | None:
    """Where the elementwise function that ends in ``end`` starts, and its nodes.

    No nodes where there is no function; None where there is more than one start, or something else
    reads what is inside.
    """
    nodes: list[ir.Node] = []
    starts: set[ir.Value] = set()
    queue = [end]
    while queue:
        value = queue.pop()
        node = value.producer()
        if node in nodes or value in starts:
            continue
        if node is None or not _elementwise(node):
            starts.add(value)
            continue
        nodes.append(node)
        queue += [v for v in node.inputs if v is not None and models.constant(v) is None]
    if len(starts) != 1:
        return None
    (start,) = starts
    if not nodes:
        return (start, []) if len(end.uses()) == 1 and not end.is_graph_output() else None
    outside = [u for n in nodes for v in n.outputs if v is not end for u, _ in v.uses()]
    read = [u for u, _ in start.uses()]
    graph_outputs = [v for n in nodes for v in n.outputs if v.is_graph_output()]
    alone = all(u in nodes for u in (*outside, *read)) and len(end.uses()) == 1
    return (start, nodes) if alone and not graph_outputs and not start.is_graph_output() else None


def _elementwise(node: ir.Node) -> bool:
    """Whether a node treats every element alike: its operands are computed or single numbers."""
    if (node.domain, node.op_type) not in POINTWISE or len(node.outputs) != 1:
        return False
    tensors = [models.constant(v) for v in node.inputs if v is not None]
    return all(t is None or t.size == 1 for t in tensors)


def _activation(end: ir.Value, start: ir.Value, nodes: Sequence[ir.Node]) -> Activation | None:
    if not nodes:
        return IDENTITY
    if len(nodes) == 1:
        bounds = clip_of(nodes[0])
        if bounds is not None:
            return relu(*bounds)
    try:
        function, dtype = _by_runtime(end, start)
        finite = np.isfinite(function(_PROBES.astype(dtype)))
    except OnnxpruneError:
        return None
    return computed(function, dtype) if finite.sum() > 2 else None


def _by_runtime(
    end: ir.Value, start: ir.Value
) -> tuple[Callable[[npt.NDArray[Any]], npt.NDArray[Any]], npt.DTypeLike]:
    """The function from ``start`` to ``end``, for a vector of any length, and the type it takes."""
    graph = start.graph
    assert isinstance(graph, ir.Graph)
    piece = ir.convenience.extract(graph, [start], [end])
    value = piece.inputs[0]
    dtype = value.type.dtype if value.type is not None else ir.DataType.FLOAT
    value.shape, value.type = ir.Shape(["elements"]), ir.TensorType(dtype)
    for inner in piece:
        for output in inner.outputs:
            output.shape = None
    session = open_session(models.Model(ir.Model(piece, ir_version=8)))
    name = value.name or ""
    return lambda x: next(iter(session.run({name: x}).values())).reshape(-1), dtype.numpy()


def clip_of(node: ir.Node) -> tuple[float, float] | None:
    """The bounds of a ReLU or Clip, None for anything else or where they are computed."""
    if node.op_type == "Relu" and not node.domain:
        return 0.0, np.inf
    if node.op_type != "Clip" or node.domain:
        return None
    bounds = [-np.inf, np.inf]
    for at, name in enumerate(("min", "max")):
        stored = node.attributes.get_float(name, None)
        value = node.inputs[at + 1] if len(node.inputs) > at + 1 else None
        if stored is not None:
            bounds[at] = stored
        elif value is not None:
            tensor = models.constant(value)
            if tensor is None:
                return None
            bounds[at] = float(tensor.numpy())
    return bounds[0], bounds[1]
