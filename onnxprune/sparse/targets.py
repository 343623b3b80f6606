"""Which weights can be thinned, why others cannot, and how they are read and written.

Groups of N:M run along the inputs a kernel contracts: channels at one kernel position for a Conv
(``[M, C/group, *kernel]``, axis 1), ``C`` for a ConvTranspose (axis 0), ``K`` for products
whatever is transposed. That is what sparse tensor cores take (TensorRT developer guide,
"Structured sparsity").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import identity
from onnxprune.graph.layers.epilogue import Merge
from onnxprune.graph.layers.linear import Layer, find_layers
from onnxprune.graph.layers.weights import store_bias
from onnxprune.quantities import Sparsity
from onnxprune.solve.im2col import Index

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Target:
    """A layer whose weights can be thinned.

    Attributes:
        layer: it.
        shape: ``(g, K, N)`` of its matrices.
        taps: kernel positions: consecutive rows of a matrix that read one channel.
    """

    layer: Layer
    shape: tuple[int, int, int]
    taps: int

    @property
    def name(self) -> str:
        """Of the stored weight."""
        return self.layer.weight

    @property
    def size(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)

    @property
    def axis(self) -> int:
        """The axis of the stored tensor along which the inputs of a group of N:M lie."""
        window = self.layer.window
        if window is not None:
            return 0 if window.transposed else 1
        return 1 if self.layer.flipped else 0

    @property
    def order(self) -> Index:
        """The rows of a matrix with the channels of one kernel position side by side."""
        rows = np.arange(self.shape[1], dtype=np.int64)
        return np.ascontiguousarray(rows.reshape(-1, self.taps).T).ravel()


@dataclass(frozen=True)
class Left:
    """A weight, or a node with one, that stays as it is, and why."""

    weight: str
    node: str
    reason: str


def find_targets(
    model: models.Model,
    asked: Sparsity,
    skip: Sequence[str] = (),
    leave: Mapping[str, str] | None = None,
) -> tuple[list[Target], list[Left]]:
    """The layers that can be thinned, in the order of the graph, and what is left alone.

    Args:
        model: it is only read.
        asked: under N:M, layers whose inputs cannot be grouped are left.
        skip: globs over names of weights that are left.
        leave: names of weights that are left, with the reason.
    """
    layers, declined = find_layers(model)
    values = {v.name or "": v for v in models.values(model.ir.graph)}
    targets: list[Target] = []
    left = [Left("", node, reason) for node, reason in declined.items()]
    for layer in layers:
        target = _target(layer, values[layer.weight])
        reason = (leave or {}).get(layer.weight) or _why_not(
            target, values[layer.weight], asked, skip
        )
        if reason:
            left.append(Left(layer.weight, layer.node, reason))
        else:
            targets.append(target)
    return targets, left


def _target(layer: Layer, value: ir.Value) -> Target:
    tensor = models.constant(value)
    assert tensor is not None
    shape = tuple(int(n) for n in tensor.shape.numpy())
    if layer.window is None:
        K, N = reversed(shape) if layer.flipped else shape
        return Target(layer, (1, K, N), 1)
    taps = math.prod(layer.window.kernel)
    if layer.window.transposed:
        return Target(layer, (layer.groups, shape[0] // layer.groups * taps, shape[1]), taps)
    return Target(layer, (layer.groups, shape[1] * taps, shape[0] // layer.groups), taps)


def _why_not(target: Target, value: ir.Value, asked: Sparsity, skip: Sequence[str]) -> str:
    glob = next((g for g in skip if fnmatchcase(target.name, g)), None)
    if glob is not None:
        return f"--skip {glob}"
    others = sorted(readers(value) - {target.layer.node})
    if value.is_graph_output() or others:
        also = f"{others[0]} too" if others else "whoever runs the model"
        return f"its weight is read by {also}"
    channels = target.shape[1] // target.taps
    if asked.m and channels % asked.m:
        per = " per group" if target.shape[0] > 1 else ""
        return f"its {channels} inputs{per} are no multiple of {asked.m}"
    if not target.size:
        return "its weight is empty"
    return ""


def readers(value: ir.Value) -> set[str]:
    """The identities of the nodes that compute with a stored value, seen through its movers."""
    found: set[str] = set()
    for node, _ in value.uses():
        moved = node.op_type in ("Transpose", "Identity") and not node.outputs[0].is_graph_output()
        found |= readers(node.outputs[0]) if moved else {identity(node)}
    return found


class Weights:
    """The weights of a model that is being thinned, in the units of where they count.

    Args:
        model: it is changed by :meth:`write`.
    """

    def __init__(self, model: models.Model) -> None:
        self._values = {v.name or "": v for v in models.values(model.ir.graph)}

    def stored(self, name: str) -> Array:
        """A stored tensor."""
        tensor = models.constant(self._values[name])
        assert tensor is not None
        return tensor.numpy()

    def read(self, target: Target, merge: Merge | None = None) -> tuple[Float, Float]:
        """``[g, K, N]`` and ``[g, N]``: matrix and bias (0 where there is none).

        Args:
            target: the layer.
            merge: scales and shifts behind it that are seen as part of it.
        """
        layer = target.layer
        matrix = layer.matrix(self.stored(layer.weight).astype(np.float64))
        bias = np.zeros((len(matrix), matrix.shape[2]))
        if layer.bias is not None:
            bias = self.stored(layer.bias).astype(np.float64).reshape(bias.shape)
        if merge is None:
            return matrix, bias
        gain = merge.gain.reshape(bias.shape)
        return matrix * gain[:, None, :], bias * gain

    def write(
        self,
        target: Target,
        keep: Bool,
        matrix: Float,
        bias: Float | None = None,
        merge: Merge | None = None,
    ) -> None:
        """The inverse of :meth:`read`; outputs that count next to nothing keep what they had.

        Args:
            target: the layer.
            keep: ``[g, K, N]``; everything else becomes zero.
            matrix: ``[g, K, N]``.
            bias: ``[g, N]``, None to leave it.
            merge: what :meth:`read` was given.
        """
        layer = target.layer
        old, old_bias = self.read(target)
        if merge is not None:
            gain = merge.gain.reshape(old_bias.shape)
            alive = np.abs(gain) > 1e-6 * np.abs(gain).max()
            scale = np.where(alive, gain, 1.0)
            matrix = np.where(alive[:, None, :], matrix / scale[:, None, :], old)
            bias = None if bias is None else np.where(alive, bias / scale, old_bias)
        dtype = self.stored(layer.weight).dtype
        new = layer.stored(np.where(keep, matrix, 0.0)).astype(dtype)
        models.set_constant(self._values[layer.weight], new)
        if bias is not None and layer.bias_slot is not None:
            store_bias(self._values, layer, bias.reshape(-1).astype(dtype))
