"""The linear layers of a graph, seen as ``rows @ W + b``.

A :class:`Layer` is a node that multiplies a stored weight with something computed: Conv,
ConvTranspose, Gemm, or MatMul with its weight on either side, with the bias it has or may get.
Whatever cannot be seen that way is declined with a reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import identity
from onnxprune.solve import im2col as patches
from onnxprune.solve.im2col import Window

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]
Slot = tuple[str, int]
"""An input of a node: the node's identity and the position."""

_FLOATS = {
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
}


@dataclass(frozen=True)
class Layer:
    """A node that contracts a stored weight.

    Attributes:
        node: its identity.
        x: the value it reads.
        y: the value that holds its output, bias included.
        weight: the stored tensor.
        flipped: whether a matrix is stored as ``[N, K]``.
        window: attributes of a (transposed) convolution, None for a product.
        axis: the axis of ``x`` that is contracted.
        out_axis: the axis of ``y`` that indexes outputs.
        bias: the stored vector, None if there is none.
        bias_slot: where a bias is or may be read, None where no node takes one.
    """

    node: str
    x: str
    y: str
    weight: str
    flipped: bool = False
    window: Window | None = None
    axis: int = 1
    out_axis: int = 1
    bias: str | None = None
    bias_slot: Slot | None = None

    @property
    def groups(self) -> int:
        """The number of independent problems."""
        return self.window.group if self.window else 1

    def matrix(self, weight: Array) -> Array:
        """The stored weight as ``[g, K, N]``."""
        if self.window:
            return patches.window_weight(weight, self.window)
        return (weight.T if self.flipped else weight)[None]

    def input_index(self, groups: int, inputs: int, axis: int) -> patches.Index:
        """``[g, K]``: which index of the stored weight's ``axis`` each row of the matrix is.

        Args:
            groups: of the matrix.
            inputs: rows of each of its groups.
            axis: the axis of the stored weight along which inputs lie.
        """
        if self.window is None:
            return np.arange(inputs, dtype=np.int64)[None]
        channel = np.arange(inputs, dtype=np.int64) // math.prod(self.window.kernel)
        per_group = inputs // math.prod(self.window.kernel)
        first = np.arange(groups, dtype=np.int64) * per_group
        # A Conv stores [M, C/group, ...], its groups side by side in M; ConvTranspose all of C.
        return channel + (first[:, None] if axis == 0 else np.zeros_like(first)[:, None])

    def stored(self, matrix: Array) -> Array:
        """The inverse of :meth:`matrix`."""
        if self.window:
            return patches.stored_weight(matrix, self.window)
        return np.ascontiguousarray(matrix[0].T if self.flipped else matrix[0])

    def count(self, shape: tuple[int, ...]) -> int:
        """How many rows an input of this shape makes."""
        if self.window:
            return shape[0] * math.prod(patches.output_sizes(self.window, shape[2:]))
        return math.prod(shape) // max(shape[self.axis], 1)

    def out_sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial sizes of the output of a convolution for an input of this shape."""
        return patches.output_sizes(self.window, shape[2:]) if self.window else ()

    def rows(self, x: Array, positions: patches.Index | None = None) -> Array:
        """What is multiplied with the matrix: ``[g, rows, K]``."""
        if self.window:
            return patches.window_rows(x, self.window, positions)
        return patches.token_rows(x, self.axis, positions)

    def targets(self, y: Array, positions: patches.Index | None = None) -> Array:
        """An output, or anything of its shape, as ``[g, rows, N]``."""
        if self.window:
            return patches.window_targets(y, self.groups, positions)
        return patches.token_rows(y, self.out_axis, positions)


def find_layers(model: models.Model) -> tuple[list[Layer], dict[str, str]]:
    """All layers of the main graph, in its order, and why the other candidates are none.

    Returns:
        The layers, and ``{node: reason}``.
    """
    found: list[Layer] = []
    declined: dict[str, str] = {}
    for graph in models.graphs(model):
        for node in graph:
            if node.domain not in ("", "ai.onnx") or node.op_type not in _READERS:
                continue
            if graph is not model.ir.graph:
                declined[identity(node)] = "it is inside the body of an If, Loop or Scan"
                continue
            layer = _READERS[node.op_type](node)
            if isinstance(layer, Layer):
                found.append(layer)
            elif layer:
                declined[identity(node)] = layer
    return found, declined


def _weight(value: ir.Value | None) -> tuple[ir.Value, bool] | str:
    """The stored matrix behind ``value``, whether it is transposed on the way; else why not.

    The reason is empty where there is nothing stored at all.
    """
    flipped = False
    while value is not None and models.constant(value) is None:
        node = value.producer()
        if node is None or not node.inputs:
            return ""
        inner = node.inputs[0]
        if node.op_type == "Transpose" and inner is not None:
            perm = node.attributes.get("perm")
            if perm is not None and list(perm.as_ints()) not in ([1, 0], [0, 1]):
                return ""
            flipped ^= perm is None or list(perm.as_ints()) == [1, 0]
        elif node.op_type == "DequantizeLinear":
            return "its weight is quantized"
        elif node.op_type == "Cast" and inner is not None and models.constant(inner) is not None:
            return "its weight is stored in another type and cast"
        elif node.op_type != "Identity":
            return ""
        value = inner
    if value is None:
        return ""
    tensor = models.constant(value)
    if tensor is None or tensor.dtype not in _FLOATS:
        return "its weight is not stored as floating point"
    return value, flipped


def _vector(value: ir.Value | None) -> str | None:
    """The name of a stored vector."""
    tensor = None if value is None else models.constant(value)
    if value is None or tensor is None or len(tensor.shape) != 1:
        return None
    return value.name


def _ints(node: ir.Node, name: str) -> tuple[int, ...]:
    attribute = node.attributes.get(name)
    return () if attribute is None else tuple(attribute.as_ints())


def number(node: ir.Node, name: str, default: float) -> float:
    """An attribute that is a number, or what the operator takes it for where it is absent."""
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)


def _conv(node: ir.Node) -> Layer | str:
    weight = _weight(node.inputs[1])
    if isinstance(weight, str):
        return weight
    if weight[1] or node.inputs[0] is None:
        return "its kernel is transposed before use"
    tensor = models.constant(weight[0])
    assert tensor is not None
    pad = node.attributes.get("auto_pad")
    window = Window(
        kernel=tuple(int(n) for n in tensor.shape.numpy()[2:]),
        strides=_ints(node, "strides"),
        dilations=_ints(node, "dilations"),
        pads=_ints(node, "pads"),
        auto_pad="NOTSET" if pad is None else pad.as_string(),
        group=int(number(node, "group", 1)),
        transposed=node.op_type == "ConvTranspose",
        output_padding=_ints(node, "output_padding"),
        output_shape=_ints(node, "output_shape"),
    )
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    stored = _vector(bias)
    if bias is not None and stored is None:
        return "its bias is computed"
    name = identity(node)
    return Layer(
        name, node.inputs[0].name or "", name, weight[0].name or "", window=window,
        bias=stored, bias_slot=(name, 2),
    )  # fmt: skip


def _gemm(node: ir.Node) -> Layer | str:
    weight = _weight(node.inputs[1])
    if isinstance(weight, str):
        return weight
    if node.inputs[0] is None or models.constant(node.inputs[0]) is not None:
        return ""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    stored = _vector(bias)
    if bias is not None and stored is None:
        return "its bias is computed or not a vector"
    beta = number(node, "beta", 1.0) if bias is not None else 1.0
    if number(node, "alpha", 1.0) != 1.0 or beta != 1.0:
        return "it scales its product (alpha or beta is not 1)"
    flipped = weight[1] ^ bool(number(node, "transB", 0))
    name = identity(node)
    return Layer(
        name, node.inputs[0].name or "", name, weight[0].name or "", flipped,
        axis=0 if number(node, "transA", 0) else 1, bias=stored, bias_slot=(name, 2),
    )  # fmt: skip


def _matmul(node: ir.Node) -> Layer | str:
    x, other = node.inputs
    left, right = _weight(x), _weight(other)
    if not isinstance(right, str) and x is not None and isinstance(left, str):
        weight, axis, value = right, -1, x
    elif not isinstance(left, str) and other is not None and isinstance(right, str):
        weight, axis, value = (left[0], not left[1]), -2, other
    else:
        return left if isinstance(left, str) and left else right if isinstance(right, str) else ""
    tensor = models.constant(weight[0])
    if tensor is None or len(tensor.shape) != 2:
        return "its weight is a stack of matrices"
    name = identity(node)
    layer = Layer(name, value.name or "", name, weight[0].name or "", weight[1],
                  axis=axis, out_axis=axis)  # fmt: skip
    return _with_added_bias(node, layer) if axis == -1 else layer


def _with_added_bias(node: ir.Node, layer: Layer) -> Layer:
    """A product whose only reader adds a stored vector: the sum is the layer's output."""
    output = node.outputs[0]
    uses = list(output.uses())
    if len(uses) != 1 or output.is_graph_output() or uses[0][0].op_type != "Add":
        return layer
    reader, position = uses[0]
    stored = _vector(reader.inputs[1 - position])
    if stored is None or reader.graph is not node.graph:
        return layer
    tensor, weight = (_stored(node, name) for name in (stored, layer.weight))
    if tensor is None or weight is None or tensor.size != weight.shape[0 if layer.flipped else 1]:
        return layer
    return replace(
        layer, y=identity(reader), bias=stored, bias_slot=(identity(reader), 1 - position)
    )


def _stored(node: ir.Node, name: str) -> ir.TensorProtocol | None:
    """A stored tensor that ``node``, its weight's movers or its reader take, by name."""
    queue = [v for v in node.inputs if v is not None]
    queue += [v for reader, _ in node.outputs[0].uses() for v in reader.inputs if v is not None]
    while queue:
        value = queue.pop()
        if value.name == name:
            return models.constant(value)
        producer = value.producer()
        if producer is not None and producer.op_type in ("Transpose", "Identity"):
            queue += [v for v in producer.inputs if v is not None]
    return None


_READERS = {"Conv": _conv, "ConvTranspose": _conv, "Gemm": _gemm, "MatMul": _matmul}
