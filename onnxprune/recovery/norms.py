"""The normalisations of a graph, seen as ``gain * normalised + bias`` per channel.

A :class:`Norm` is a fused node (LayerNormalization, RMSNormalization, GroupNormalization, their
relatives of com.microsoft, BatchNormalization), or the Mul with a stored gain, and the Add with a
stored bias behind it, at the end of one that exporters write out
(``x / sqrt(mean(x ** 2) + e) * gain``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import identity
from onnxprune.graph.layers.linear import Slot
from onnxprune.graph.shapes import Fact
from onnxprune.solve.im2col import Index, token_rows

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]
Kind = Literal["layer", "rms", "group", "batch", "written out"]

_FUSED: dict[str, tuple[Kind, int, int, int, tuple[int, ...]]] = {
    # op: kind, inputs of gain and bias (0: there is none), default axis, inputs that are summed
    "LayerNormalization": ("layer", 1, 2, -1, (0,)),
    "RMSNormalization": ("rms", 1, 0, -1, (0,)),
    "SimplifiedLayerNormalization": ("rms", 1, 0, -1, (0,)),
    "SkipLayerNormalization": ("layer", 2, 3, -1, (0, 1, 4)),
    "SkipSimplifiedLayerNormalization": ("rms", 2, 0, -1, (0, 1, 3)),
    "GroupNormalization": ("group", 1, 2, 1, (0,)),
    "BatchNormalization": ("batch", 1, 2, 1, (0,)),
}
_EPSILON = {"SkipLayerNormalization": 1e-12, "SkipSimplifiedLayerNormalization": 1e-12}
_WITHOUT_GAIN = {
    "LRN": 1,
    "LogSoftmax": -1,
    "LpNormalization": -1,
    "MeanVarianceNormalization": 1,
    "Softmax": -1,
}
"""Operators that divide by a statistic of an axis and have nothing to refit: the default axis."""
_STATISTICS = {"ReduceL1", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"}
_ON_THE_WAY = {"Add", "Cast", "Clip", "Div", "Identity", "Max", "Mul", "Pow", "Reciprocal", "Sqrt"}


@dataclass(frozen=True, eq=False)
class Norm:
    """One normalisation with a stored gain.

    Attributes:
        node: the identity of the node that multiplies with the gain.
        kind: what is computed; of one that is written out, the graph computes it.
        reads: inputs of that node: their sum is normalised, or has been.
        y: the value that comes out, bias included.
        axis: of ``y``, along which gain and bias run.
        gain: where the gain is read.
        bias: where a bias is or may be read, None where no node takes one.
        epsilon: what is added to variances.
        parts: number of groups of channels that are normalised on their own.
    """

    node: str
    kind: Kind
    reads: tuple[int, ...]
    y: str
    axis: int
    gain: Slot
    bias: Slot | None
    epsilon: float = 0.0
    parts: int = 1

    def rows(self, values: Sequence[Array], positions: Index) -> Float:
        """What gain and bias are applied to, ``[rows, C]``; of a BatchNormalization, its input.

        Args:
            values: what it reads.
            positions: rows of ``y`` that are wanted, see ``solve.patches.sample_positions``.
        """
        x = values[0] if len(values) == 1 else np.asarray(sum(values))
        if self.kind == "group":
            split = x.astype(np.float64).reshape(len(x), self.parts, -1)
            split -= split.mean(axis=2, keepdims=True)
            split /= np.sqrt((split**2).mean(axis=2, keepdims=True) + self.epsilon)
            x = split.reshape(x.shape)
        rows: npt.NDArray[np.float64] = token_rows(x, self.axis, positions)[0].astype(np.float64)
        if self.kind == "layer":
            rows -= rows.mean(axis=1, keepdims=True)
        if self.kind in ("layer", "rms"):
            rows /= np.sqrt((rows**2).mean(axis=1, keepdims=True) + self.epsilon)
        return rows


def find_norms(
    graph: ir.Graph, facts: Mapping[str, Fact]
) -> tuple[list[Norm], list[tuple[str, str, int, str]]]:
    """All normalisations of a graph, in its order, and those whose gain cannot be refitted.

    Args:
        graph: it is only read.
        facts: shapes of its values.

    Returns:
        The normalisations; and node, output, axis and reason of each of the others.
    """
    found: list[Norm] = []
    others: list[tuple[str, str, int, str]] = []
    for node in graph:
        shape = _shape(node, facts)
        if shape is None:
            continue
        seen = _fused(node, shape) or _written_out(node, facts, shape)
        if isinstance(seen, Norm):
            found.append(seen)
        elif seen is not None:
            others.append((identity(node), identity(node), *seen))
    return found, others


def _shape(node: ir.Node, facts: Mapping[str, Fact]) -> tuple[int, ...] | None:
    fact = facts.get(identity(node))
    if fact is None or fact.shape is None or None in fact.shape:
        return None
    return tuple(int(size) for size in fact.shape if size is not None)


def _fused(node: ir.Node, shape: tuple[int, ...]) -> Norm | tuple[int, str] | None:
    """A normalisation that is one node; or its axis and why it is none; None for other nodes."""
    if node.op_type in _WITHOUT_GAIN and node.domain in ("", "ai.onnx"):
        at = int(_number(node, "axis", _WITHOUT_GAIN[node.op_type]))
        return at % len(shape), f"{node.op_type} has no gain or bias that could be refitted"
    if node.op_type not in _FUSED:
        return None
    kind, gain, bias, default, summed = _FUSED[node.op_type]
    if kind == "batch" and (len(node.outputs) > 1 or _number(node, "training_mode", 0)):
        return default, "it normalises over the batch while it runs"
    axis = int(_number(node, "axis", default)) % len(shape)
    channels = shape[axis]
    if axis != (1 if kind in ("batch", "group") else len(shape) - 1):
        return axis, "it normalises over more than one axis"
    name = identity(node)
    slots = ([gain] if kind != "batch" else [1, 2, 3, 4]) + (
        [bias] if len(node.inputs) > bias > 0 and node.inputs[bias] is not None else []
    )
    for position in slots:
        tensor = _stored(node, position)
        if tensor is None:
            return axis, "its gain or bias is computed"
        if tensor.size == 1 < channels or len(tensor.shape) != 1 or _per_group(node, tensor):
            return axis, "its gain or bias is not one number per channel"
    reads = (k for k in summed if k < len(node.inputs) and node.inputs[k] is not None)
    return Norm(
        name,
        kind,
        tuple(reads),
        name,
        axis,
        (name, gain),
        (name, bias) if bias else None,
        _number(node, "epsilon", _EPSILON.get(node.op_type, 1e-5)),
        int(_number(node, "num_groups", 1)),
    )


def _per_group(node: ir.Node, tensor: ir.TensorProtocol) -> bool:
    """Whether a GroupNormalization has one gain per group: until opset 20."""
    if node.op_type != "GroupNormalization":
        return False
    graph = node.graph
    opsets = {} if graph is None else graph.opset_imports
    version = node.version if node.version is not None else opsets.get("", 21)
    return version < 21 or tensor.size == _number(node, "num_groups", 1)


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)


def _written_out(node: ir.Node, facts: Mapping[str, Fact], shape: tuple[int, ...]) -> Norm | None:
    """A Mul with a stored gain of something that was divided by a statistic of the same axis."""
    if node.op_type != "Mul" or node.domain not in ("", "ai.onnx"):
        return None
    for position, held in enumerate(node.inputs):
        other = node.inputs[1 - position]
        axis = None if held is None else _channels(held, shape)
        if axis is None or other is None or not _normalised(other):
            continue
        fact = facts.get(other.name or "")
        if fact is None or fact.shape != shape:
            continue
        name = identity(node)
        y, bias = name, None
        uses = list(node.outputs[0].uses())
        if len(uses) == 1 and uses[0][0].op_type == "Add" and not node.outputs[0].is_graph_output():
            reader, at = uses[0]
            added = reader.inputs[1 - at]
            if added is not None and _channels(added, shape) == axis:
                y, bias = identity(reader), (identity(reader), 1 - at)
        return Norm(name, "written out", (1 - position,), y, axis, (name, position), bias)
    return None


def _channels(value: ir.Value, shape: tuple[int, ...]) -> int | None:
    """The axis of a tensor of that shape along which alone a stored operand runs."""
    tensor = models.constant(value)
    if tensor is None or tensor.size < 2 or len(tensor.shape) > len(shape):
        return None
    sizes = (1,) * (len(shape) - len(tensor.shape)) + tuple(tensor.shape.numpy())
    along = [k for k, n in enumerate(sizes) if n > 1]
    return along[0] if len(along) == 1 and sizes[along[0]] == shape[along[0]] else None


def _normalised(value: ir.Value) -> bool:
    """Whether a value is a quotient, or product, with a statistic."""
    node = value.producer()
    while node is not None and node.op_type in ("Cast", "Identity") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type not in ("Div", "Mul"):
        return False
    return any(map(_statistic, node.inputs[1:] if node.op_type == "Div" else node.inputs))


def _statistic(value: ir.Value | None) -> bool:
    """Whether a value is a reduction, seen through elementwise functions with constants."""
    while value is not None:
        node = value.producer()
        if node is None:
            return False
        if node.op_type in _STATISTICS:
            return _number(node, "keepdims", 1) != 0
        if node.op_type not in _ON_THE_WAY:
            return False
        computed = [v for v in node.inputs if v is not None and models.constant(v) is None]
        if len(computed) != 1:
            return False
        value = computed[0]
    return False


def _stored(node: ir.Node, position: int) -> ir.TensorProtocol | None:
    """What an input holds; exporters put an Identity in front of vectors that are alike."""
    value = node.inputs[position] if len(node.inputs) > position else None
    while value is not None and models.constant(value) is None:
        producer = value.producer()
        same = producer is not None and producer.op_type == "Identity"
        value = producer.inputs[0] if same and producer is not None else None
    return None if value is None else models.constant(value)


def vector(node: ir.Node, position: int, channels: int, default: float) -> Float:
    """The gain or bias read at an input, ``[channels]``; the default where there is none."""
    tensor = _stored(node, position)
    if tensor is None:
        return np.full(channels, default)
    found = tensor.numpy().astype(np.float64).reshape(-1)
    assert found.size == channels
    return found


def write(node: ir.Node, position: int, found: Float, name: str) -> None:
    """Store a vector that a node reads, apart from the old one where that has other readers."""
    held = node.inputs[position] if len(node.inputs) > position else None
    gain = _FUSED[node.op_type][1] if node.op_type in _FUSED else position
    like = _stored(node, position) or _stored(node, gain)
    assert like is not None
    array = found.astype(like.numpy().dtype).reshape(tuple(like.shape.numpy()))
    alone = held is not None and len(held.uses()) == 1 and not held.is_graph_output()
    if held is not None and alone and models.constant(held) is not None:
        models.set_constant(held, array)
        return
    assert isinstance(node.graph, ir.Graph)
    added = models.add_constant(node.graph, f"{identity(node)}/{name}", array)
    if len(node.inputs) <= position:
        node.resize_inputs(position + 1)
    node.replace_input_with(position, added)
