"""Where a layer's output counts, and its weights in the units of there.

An :class:`Epilogue` follows a layer's output through per-channel scales and shifts, such as a
BatchNormalization, to the sum it goes into: that is where its error counts, and where the errors of
the layers before it can be compensated. :class:`Weights` reads and writes stored weights as if
these scales were part of the layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import identity
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.graph.shapes import Fact

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

_NOTHING = 1e-6
"""Outputs that are multiplied by less than this share of the largest gain are not changed."""


@dataclass(frozen=True, eq=False)
class Epilogue:
    """Where a layer's output counts: ``value = skip + gain * y + shift``.

    Attributes:
        value: a sum with a residual stream, or the end of the scales and shifts.
        skip: the other summand, None if there is no sum.
        gain: ``[outputs]``, those of all matrices of a stack one after the other.
        shift: ``[outputs]``.
        branch: the summand that is not the skip, where there is a sum.
    """

    value: str
    skip: str | None
    gain: Float
    shift: Float
    branch: str = ""

    @property
    def alone(self) -> Epilogue:
        """The same without the sum: where the branch ends."""
        return self if self.skip is None else replace(self, value=self.branch, skip=None)


def find_epilogue(
    values: Mapping[str, ir.Value], facts: Mapping[str, Fact], layer: LinearLayer
) -> Epilogue:
    """Follow a layer's output to where it counts.

    Args:
        values: the values of the main graph by name.
        facts: shapes; a sum counts only where nothing is broadcast.
        layer: the layer.
    """
    here = Epilogue(layer.y, None, np.ones(layer.width), np.zeros(layer.width))
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
    node: ir.Node, position: int, here: Epilogue, layer: LinearLayer, facts: Mapping[str, Fact]
) -> Epilogue | None:
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
        return Epilogue(name, None, here.gain, here.shift + shift)
    scale = vector if node.op_type == "Mul" else 1 / vector
    return Epilogue(name, None, here.gain * scale, here.shift * scale)


def _normalised(node: ir.Node, here: Epilogue) -> Epilogue | None:
    tensors = [None if v is None else models.constant(v) for v in node.inputs[1:5]]
    if any(t is None for t in tensors) or node.attributes.get_int("training_mode", 0) != 0:
        return None
    scale, shift, mean, variance = (t.numpy().astype(np.float64) for t in tensors if t is not None)
    gain = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return Epilogue(identity(node), None, here.gain * gain, gain * (here.shift - mean) + shift)


def channel_vector(array: Float, rank: int, axis: int, size: int) -> Float | None:
    """A broadcast operand as ``[size]`` if it varies along ``axis`` of a tensor alone."""
    if array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    along = shape[axis]
    if array.size != along or along not in (1, size):
        return None
    return np.broadcast_to(array.reshape(-1), (size,)).copy()


class Weights:
    """The weights of one model's layers; writing edits that model."""

    def __init__(self, model: models.Model) -> None:
        self._values = {v.name or "": v for v in models.values(model.ir.graph)}

    def tensor(self, name: str) -> Array:
        """A stored tensor."""
        return models.array_of(self._values[name])

    def read(self, layer: LinearLayer, epilogue: Epilogue | None = None) -> tuple[Float, Float]:
        """``[g, K, N]`` and ``[g, N]``: matrix and bias (zero where there is none).

        Args:
            layer: of this model, or one with the same names.
            epilogue: scales behind it that are seen as part of it.
        """
        matrix = layer.matrix(self.tensor(layer.weight).astype(np.float64))
        bias = np.zeros((matrix.shape[0], matrix.shape[2]))
        stored = self._bias(layer)
        if stored is not None:
            bias = models.array_of(stored).astype(np.float64).reshape(bias.shape)
        if epilogue is None:
            return matrix, bias
        gain = epilogue.gain.reshape(bias.shape)
        return matrix * gain[:, None, :], bias * gain

    def write(
        self,
        layer: LinearLayer,
        matrix: Float,
        bias: Float | None = None,
        epilogue: Epilogue | None = None,
        keep: Bool | None = None,
    ) -> None:
        """The inverse of :meth:`read`; outputs that count next to nothing keep what they had.

        Args:
            layer: see :meth:`read`.
            matrix: ``[g, K, N]``.
            bias: ``[g, N]``, written only where the layer takes one; None to leave it.
            epilogue: what :meth:`read` was given.
            keep: ``[g, K, N]``; everything else becomes zero.
        """
        value = self._values[layer.weight]
        dtype = self.tensor(layer.weight).dtype
        if epilogue is not None:
            old, _ = self.read(layer)
            alive, scale = _scales(epilogue, old[:, 0].shape)
            matrix = np.where(alive[:, None, :], matrix / scale[:, None, :], old)
        if keep is not None:
            matrix = np.where(keep, matrix, 0.0)
        models.set_constant(value, layer.stored(matrix).astype(dtype))
        if bias is not None and layer.bias_slot is not None:
            self.write_bias(layer, bias, epilogue)

    def write_bias(
        self,
        layer: LinearLayer,
        bias: Float,
        epilogue: Epilogue | None = None,
        *,
        readers: int = 1,
    ) -> None:
        """The same for the bias alone, of a layer that takes one.

        Args:
            layer: see :meth:`read`.
            bias: ``[g, N]``.
            epilogue: see :meth:`write`.
            readers: layers that are given this bias: a vector that more read is not changed.
        """
        if epilogue is not None:
            stored = self._bias(layer)
            old = np.zeros(bias.shape)
            if stored is not None:
                old = models.array_of(stored).astype(np.float64).reshape(bias.shape)
            alive, scale = _scales(epilogue, bias.shape)
            bias = np.where(alive, bias / scale, old)
        dtype = self.tensor(layer.weight).dtype
        self._store_bias(layer, bias.reshape(-1).astype(dtype), readers)

    def _bias(self, layer: LinearLayer) -> ir.Value | None:
        """Where the bias of a layer is now: it may have got one since it was found."""
        if layer.bias_slot is None:
            return None
        node, position = self._bias_place(layer)
        return node.inputs[position] if len(node.inputs) > position else None

    def _bias_place(self, layer: LinearLayer) -> tuple[ir.Node, int]:
        assert layer.bias_slot is not None
        name, position = layer.bias_slot
        node = self._values[name].producer()
        assert node is not None
        return node, position

    def _store_bias(self, layer: LinearLayer, bias: Array, readers: int) -> None:
        """Store a bias, in a vector of its own where the old one has other readers."""
        stored = self._bias(layer)
        if stored is not None and len(stored.uses()) <= readers and not stored.is_graph_output():
            models.set_constant(stored, bias)
            return
        node, position = self._bias_place(layer)
        assert isinstance(node.graph, ir.Graph)
        added = models.add_constant(node.graph, f"{identity(node)}/bias", bias)
        if len(node.inputs) <= position:
            node.resize_inputs(position + 1)
        node.replace_input_with(position, added)


def _scales(epilogue: Epilogue, shape: tuple[int, ...]) -> tuple[Bool, Float]:
    """Which outputs count at all, and what each is multiplied with; 1 where it does not."""
    gain = epilogue.gain.reshape(shape)
    alive = np.abs(gain) > _NOTHING * np.abs(gain).max()
    return alive, np.where(alive, gain, 1.0)
