"""Where a layer's output counts: where it meets its residual stream.

A :class:`Merge` follows a layer's output through per-channel scales and shifts, such as a
BatchNormalization, to the sum it goes into: that is where its error counts, and where the errors of
the layers before it can be made up for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import identity
from onnxprune.graph.layers.linear import Layer, number
from onnxprune.graph.shapes import Fact

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Merge:
    """Where a layer's output counts: ``value = skip + gain * y + shift``.

    Attributes:
        value: a sum with a residual stream, or the end of the scales and shifts.
        skip: the other summand, None if there is no sum.
        gain: ``[outputs]``.
        shift: ``[outputs]``.
        branch: the summand that is not the skip, where there is a sum.
    """

    value: str
    skip: str | None
    gain: Float
    shift: Float
    branch: str = ""

    @property
    def alone(self) -> Merge:
        """The same without the sum: where the branch ends."""
        return self if self.skip is None else replace(self, value=self.branch, skip=None)


def find_merge(
    values: Mapping[str, ir.Value], facts: Mapping[str, Fact], layer: Layer, outputs: int
) -> Merge:
    """Follow a layer's output to where it counts.

    Args:
        values: the values of the main graph by name.
        facts: shapes; a sum counts only where nothing is broadcast.
        layer: the layer.
        outputs: its number of outputs.
    """
    here = Merge(layer.y, None, np.ones(outputs), np.zeros(outputs))
    while True:
        value = values[here.value]
        uses = list(value.uses())
        if len(uses) != 1 or value.is_graph_output() or uses[0][0].graph is not value.graph:
            return here
        node, position = uses[0]
        following = _affine(node, position, here, layer, facts)
        if following is not None:
            here = following
            continue
        if node.op_type in ("Add", "Sum") and len(node.inputs) == 2:
            skip = node.inputs[1 - position]
            names = [here.value, skip.name if skip is not None else "", identity(node)]
            shapes = [facts[n].shape if n in facts else None for n in map(str, names)]
            equal = shapes[0] is not None and shapes.count(shapes[0]) == len(shapes)
            if equal and skip is not None and skip is not value and models.constant(skip) is None:
                return replace(here, value=identity(node), skip=skip.name, branch=here.value)
        return here


def _affine(
    node: ir.Node, position: int, here: Merge, layer: Layer, facts: Mapping[str, Fact]
) -> Merge | None:
    """One more per-channel scale or shift, if ``node`` is one."""
    if node.op_type == "Identity":
        return replace(here, value=identity(node))
    if node.op_type == "BatchNormalization":
        return _normalised(node, here) if position == 0 and layer.out_axis == 1 else None
    if node.op_type not in ("Mul", "Div", "Add", "Sub") or (
        node.op_type in ("Div", "Sub") and position
    ):
        return None
    other = node.inputs[1 - position]
    tensor = None if other is None else models.constant(other)
    fact = facts.get(here.value)
    if tensor is None or fact is None or fact.shape is None:
        return None
    vector = channel_vector(
        tensor.numpy().astype(np.float64), len(fact.shape), layer.out_axis, len(here.gain)
    )
    if vector is None:
        return None
    name = identity(node)
    if node.op_type in ("Add", "Sub"):
        shift = vector if node.op_type == "Add" else -vector
        return Merge(name, None, here.gain, here.shift + shift)
    scale = vector if node.op_type == "Mul" else 1 / vector
    return Merge(name, None, here.gain * scale, here.shift * scale)


def _normalised(node: ir.Node, here: Merge) -> Merge | None:
    tensors = [None if v is None else models.constant(v) for v in node.inputs[1:5]]
    training = node.attributes.get("training_mode")
    if any(t is None for t in tensors) or (training is not None and training.as_int()):
        return None
    scale, shift, mean, variance = (t.numpy().astype(np.float64) for t in tensors if t is not None)
    gain = scale / np.sqrt(variance + number(node, "epsilon", 1e-5))
    return Merge(identity(node), None, here.gain * gain, gain * (here.shift - mean) + shift)


def channel_vector(array: Float, rank: int, axis: int, size: int) -> Float | None:
    """A broadcast operand as ``[size]`` if it varies along ``axis`` of a tensor alone."""
    if array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    along = shape[axis]
    if array.size != along or along not in (1, size):
        return None
    return np.broadcast_to(array.reshape(-1), (size,)).copy()
