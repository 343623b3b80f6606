"""Decoding subgraphs as they are built: nodes, shared tables, streams of weights.

Only operators that onnxruntime and OpenVINO fold when they load a model are used: Cast, Concat,
ConstantOfShape, CumSum, Gather, GatherElements, Mul, Reshape, ScatterElements, Slice, Split and
Transpose. (DequantizeLinear and NonZero are never folded by onnxruntime, Where and Pad not in fp16,
and OpenVINO computes BitShift wrongly.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.model.decode import PREFIX
from onnxprune.model.stored import PartsTensor
from onnxprune.sparse.encodings.sparsity_stats import SparsityStats, slabs

Array = npt.NDArray[Any]

OLDEST = 11
"""The operator set that brought CumSum, GatherElements and ScatterElements."""

_SPLIT_INPUT = 13  # the operator set from which Split takes sizes as an input


@dataclass(frozen=True, eq=False)
class Stream:
    """Weights of one encoding and type that are decoded together, which takes fewer nodes.

    Attributes:
        number: tells streams apart.
        stats: of all of them as one flat tensor.
        stored: type of the written values.
        work: type they are converted to.
        flat: gives all values, ``[n]``, as they are written.
    """

    number: int
    stats: SparsityStats
    stored: ir.DataType
    work: ir.DataType
    flat: Callable[[], Array]


class GraphBuilder:
    """Nodes and constants on their way into a model; nothing is in it before `finish`.

    Args:
        model: is edited.
    """

    def __init__(self, model: models.Model) -> None:
        self._graph = model.ir.graph
        self._opset = model.ir.opset_imports.get("", 0)
        self._used = {v.name for g in models.graphs(model) for v in models.values(g)}
        self._shared: dict[str, ir.Value] = {}
        self._nodes: list[ir.Node] = []
        self._constants: list[ir.Value] = []
        self._numbers = itertools.count()

    def node(self, op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        """The output of a new node."""
        return self._node(op, inputs, [ir.AttrInt64(k, v) for k, v in attributes.items()])[0]

    def cast(self, value: ir.Value, to: ir.DataType) -> ir.Value:
        """``value`` in another type; itself if it is known to be of that type."""
        return value if value.dtype == to else self.node("Cast", value, to=to.value)

    def zeros(self, shape: tuple[int, ...], dtype: ir.DataType) -> ir.Value:
        """Zeros that are only made when the model is loaded."""
        # ConstantOfShape makes bfloat16 only from opset 20 on.
        filled = ir.DataType.FLOAT if dtype == ir.DataType.BFLOAT16 else dtype
        zero = ir.AttrTensor("value", ir.Tensor(np.zeros(1, filled.numpy()), filled))
        zeros = self._node("ConstantOfShape", [self.sizes(shape)], [zero])[0]
        return zeros if filled == dtype else self.cast(zeros, dtype)

    def head(self, value: ir.Value, count: int) -> ir.Value:
        """The first ``count`` entries of a flat tensor."""
        return self.node("Slice", value, self.sizes((0,)), self.sizes((count,)))

    def first_axis(self) -> ir.Value:
        """The axis 0 as a constant, which CumSum takes."""
        return self.shared("axis", np.array(0, np.int64))

    def lookup(self, name: str, table: Array, at: ir.Value) -> ir.Value:
        """Rows of a shared table, one after the other in a flat tensor."""
        rows = self.shared(name, table)
        entries = self.node("Gather", rows, self.cast(at, ir.DataType.INT32), axis=0)
        return self.node("Reshape", entries, self.shared("flat", np.array([-1], np.int64)))

    def ranks(self, flags: ir.Value) -> ir.Value:
        """For every flag that is 1, how many are up to it; 0 for the others."""
        return self.node("Mul", self.node("CumSum", flags, self.first_axis()), flags)

    def sizes(self, sizes: Sequence[int]) -> ir.Value:
        """Integers as an int64 constant, shared by all who need the same."""
        return self.shared("x".join(map(str, sizes)), np.array(sizes, np.int64))

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """``value`` in another shape."""
        return self.node("Reshape", value, self.sizes(shape))

    def transpose(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        """``value`` with its axes in another order."""
        return self._node("Transpose", [value], [ir.AttrInt64s("perm", list(order))])[0]

    def split(self, value: ir.Value, sizes: Sequence[int]) -> list[ir.Value]:
        """Parts of ``value`` along its first axis."""
        if len(sizes) == 1:
            return [value]
        if self._opset >= _SPLIT_INPUT:
            lengths = self.constant("parts", ir.Tensor(np.array(sizes, np.int64)))
            return self._node("Split", [value, lengths], [], len(sizes))
        attributes = [ir.AttrInt64s("split", list(sizes)), ir.AttrInt64("axis", 0)]
        return self._node("Split", [value], attributes, len(sizes))

    def part(
        self,
        stream: Stream,
        name: str,
        encode: Callable[[Iterator[Array]], Iterable[Array]],
        dtype: ir.DataType,
        shape: tuple[int, ...],
    ) -> ir.Value:
        """A stored tensor of a stream, which is encoded when it is written.

        Args:
            stream: the weights.
            name: of the tensor.
            encode: from slabs of the flat weights, one at a time, to parts of what is stored.
            dtype: of what is stored.
            shape: of what is stored.
        """

        def parts() -> Iterator[Array]:
            for part in encode(slab for _, slab in slabs(stream.flat())):
                yield np.ascontiguousarray(part).reshape(-1)

        tensor = PartsTensor(parts, dtype, shape)
        return self.constant(f"{name}{stream.number}", tensor)

    def shared(self, name: str, array: Array) -> ir.Value:
        """A constant that is stored once however often it is asked for."""
        if name not in self._shared:
            self._shared[name] = self.constant(name, ir.Tensor(array))
        return self._shared[name]

    def constant(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """A stored tensor."""
        value = ir.Value(
            name=self._name(name),
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        tensor.name = value.name
        self._constants.append(value)
        return value

    def finish(self) -> None:
        """Put everything in front of the nodes of the main graph."""
        for value in self._constants:
            self._graph.register_initializer(value)
        if len(self._graph):
            self._graph.insert_before(self._graph[0], self._nodes)
        else:
            self._graph.extend(self._nodes)

    def _node(
        self, op: str, inputs: Sequence[ir.Value], attributes: Sequence[ir.Attr], outputs: int = 1
    ) -> list[ir.Value]:
        values = [ir.Value(name=self._name()) for _ in range(outputs)]
        # Named "" rather than None, for which onnx-ir would make up a name that takes space.
        self._nodes.append(ir.Node("", op, inputs, attributes, outputs=values, name=""))
        return values

    def _name(self, wanted: str = "") -> str:
        """A name that nothing in the model has; a number will do where none is wanted."""
        name = f"{PREFIX}{wanted}"
        while not wanted or name in self._used:
            name = f"{PREFIX}{wanted}{'.' if wanted else ''}{next(self._numbers)}"
            if name not in self._used:
                break
        self._used.add(name)
        return name
