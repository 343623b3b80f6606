"""A quantized model as the float model that it stands for.

An integer tensor stands, with its scale and zero point, for a float tensor. Replacing every such
tensor by what it stands for leaves the float graph, node by node, and stored weights that lie on a
grid. Known are QuantizeLinear and DequantizeLinear, the operators of the QOperator format of
onnxruntime, DynamicQuantizeLinear before MatMulInteger and ConvInteger, and its dynamic LSTM and
Attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import identity
from onnxprune.jobs.quantize import qoperators
from onnxprune.jobs.quantize.qoperators import MOVES, hand_over
from onnxprune.model.constants import names_of

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]

OPERATORS = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "QAttention",
        *qoperators.OPERATORS,
    }
)
"""Operators that only quantized models have."""
_FOLDED = ("Transpose", "Cast")
"""What may lie between a stored weight and its reader: it is computed once."""
_BIASED = ("Conv", "ConvTranspose", "Gemm")
_SAME_SCALE = 0.01
"""Relative difference of a scale from the product of two others: float16 rounds each of them."""


@dataclass(frozen=True, eq=False)
class Range:
    """What an activation is clipped to by being quantized.

    Attributes:
        low, high: smallest and largest value.
        step: distance of two values.
    """

    low: float
    high: float
    step: float


@dataclass(frozen=True, eq=False)
class Dequantized:
    """A float model made of a quantized one.

    Attributes:
        model: the float model; its stored tensors are computed when they are read.
        steps: distances of neighbouring values, by the name of a stored tensor that was in
            integers; each broadcasts to its tensor.
        bits: of each of these integers, by the same names.
        ranges: of the activations with stored scales, by name.
        faults: sentences on scales that contradict themselves.
    """

    model: models.Model
    steps: Mapping[str, Float]
    bits: Mapping[str, int]
    ranges: Mapping[str, Range]
    faults: tuple[str, ...] = ()


def is_quantized(model: models.Model, *, beside: models.Model | None = None) -> bool:
    """Whether a model computes with integers in place of floats.

    Args:
        model: it.
        beside: a model whose own quantized nodes do not count.
    """
    known = set() if beside is None else set(_quantized_nodes(beside))
    return not known.issuperset(_quantized_nodes(model))


def _quantized_nodes(model: models.Model) -> list[str]:
    return [
        identity(node)
        for graph in models.graphs(model)
        for node in graph
        if node.op_type in OPERATORS
    ]


def dequantize(model: models.Model) -> Dequantized:
    """The float model that a quantized one stands for.

    Args:
        model: not changed. Quantized parts in forms that are not known stay as they are.
    """
    return _Dequantizer(models.clone(model)).run()


class _Dequantizer:
    """One model on its way from integers to floats.

    Args:
        model: a copy of the caller's.
    """

    def __init__(self, model: models.Model) -> None:
        self._model = model
        lifted = qoperators.lift(model)
        self._unnamed = lifted.operands
        self._used = names_of(model.ir.graph)
        self._floats: dict[tuple[object, ...], ir.Value] = {}
        self._rebuilt: set[ir.Value] = set(lifted.results)
        self._moves: dict[tuple[object, ...], ir.Node] = {}
        self._steps: dict[ir.Value, Float] = {}
        self._bits: dict[ir.Value, int] = {}
        self._ranges: dict[ir.Value, Range] = {}
        self._faults: list[str] = []
        self._all_nodes = [node for graph in models.graphs(model) for node in graph]
        self._read_nodes = [node for node in self._all_nodes if _is_read(node)]
        self._read_values = [v for v in models.constants(model).values() if v.uses()]

    def run(self) -> Dequantized:
        """All nodes of all graphs, in their order."""
        nodes = list(self._all_nodes)
        for node in nodes:
            if node.op_type in _BIASED:
                self._check_bias(node)
        for node in nodes:
            self._visit(node)
        for node in nodes:
            if node.graph is not None and node.op_type in _FOLDED:
                self._fold(node)
        self._remove_unused()
        return Dequantized(
            self._model,
            {value.name or "": step for value, step in self._steps.items()},
            {value.name or "": bits for value, bits in self._bits.items()},
            {value.name or "": each for value, each in self._ranges.items()},
            tuple(dict.fromkeys(self._faults)),
        )

    # -- nodes that hand floats on --------------------------------------------------------------

    def _visit(self, node: ir.Node) -> None:
        inputs = [*node.inputs, *[None] * 12]
        match node.op_type:
            case "DequantizeLinear":
                x = self._float(inputs[0], inputs[1], inputs[2], node)
                if x is not None:
                    self._replace(node.outputs[0], x)
            case "Mul":
                self._product(node)
            case "DynamicQuantizeLSTM":
                wide = [
                    self._float(inputs[k], inputs[at], inputs[at + 1], node)
                    for k, at in ((1, 8), (2, 10))
                ]
                if None not in wide:
                    self._rebuild(node, "LSTM", "", [inputs[0], *wide, *inputs[3:8]])
            case "QAttention":
                x = self._float(inputs[0], inputs[3], inputs[6], node)
                weight = self._float(inputs[1], inputs[4], inputs[7], node)
                if x is not None and weight is not None:
                    rest = [inputs[2], inputs[5], inputs[8]]
                    self._rebuild(node, "Attention", node.domain, [x, weight, *rest])

    def _product(self, node: ir.Node) -> None:
        """``Mul(Cast(MatMulInteger(a, b)), Mul(scale of a, scale of b))``."""
        for here, there in ((0, 1), (1, 0)):
            cast, scales = (_producer(node.inputs[k]) for k in (here, there))
            if cast is None or scales is None or (cast.op_type, scales.op_type) != ("Cast", "Mul"):
                continue
            product = _producer(cast.inputs[0])
            if product is None or product.op_type not in ("MatMulInteger", "ConvInteger"):
                continue
            inputs = [*product.inputs, None, None]
            x, weight = (
                self._float(inputs[k], scales.inputs[k], inputs[k + 2], product) for k in (0, 1)
            )
            if x is None or weight is None:
                continue
            op = product.op_type.removesuffix("Integer")
            bias, add = self._bias(node) if op == "Conv" else (None, None)
            operands = [x, weight] if bias is None else [x, weight, bias]
            self._rebuild(node if add is None else add, op, "", operands, product)
            return

    @staticmethod
    def _bias(node: ir.Node) -> tuple[ir.Value | None, ir.Node | None]:
        """The bias that is added to an integer convolution, and the node that adds it."""
        readers = [reader for reader, _ in node.outputs[0].uses()]
        if len(readers) != 1 or readers[0].op_type != "Add":
            return None, None
        shape = _producer(readers[0].inputs[1])
        name = node.outputs[0].name or ""
        if shape is None or shape.op_type != "Reshape" or not name.endswith("quant_scaled_output"):
            return None, None
        return shape.inputs[0], readers[0]

    def _rebuild(
        self,
        node: ir.Node,
        op: str,
        domain: str,
        inputs: Sequence[ir.Value | None],
        source: ir.Node | None = None,
    ) -> None:
        """Put a float node in the place of a node."""
        operands = list(inputs)
        while operands and operands[-1] is None:
            operands.pop()
        attributes = (node if source is None else source).attributes.values()
        new = ir.Node(domain, op, operands, list(attributes), num_outputs=len(node.outputs))
        new.name = node.name
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        graph.insert_before(node, new)
        for old, value in zip(node.outputs, new.outputs, strict=True):
            value.type, value.shape = old.type, old.shape
            value.name = old.name
            self._rebuilt.add(value)
            self._replace(old, value)

    def _replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let all who read a value read another."""
        produced = new.producer() is not None and models.constant(new) is None
        if old.is_graph_output() and not produced:
            return
        outer = any(new is value for value in (new.graph.outputs if new.graph else ()))
        named = old.is_graph_output() or (new in self._rebuilt and old not in self._unnamed)
        if produced and not outer and named:
            name, old.name = old.name, models.fresh_name(self._graph, f"{old.name}/int", self._used)
            new.name = name
        hand_over(self._model, old, new)

    @property
    def _graph(self) -> ir.Graph:
        return self._model.ir.graph

    # -- integers and what they stand for -------------------------------------------------------

    def _float(
        self, value: ir.Value | None, scale: ir.Value | None, zero: ir.Value | None, reader: ir.Node
    ) -> ir.Value | None:
        """The float value that integers stand for; None where that is not known."""
        if value is None or scale is None:
            return None
        key = value, scale, zero, reader.op_type, *_layout(reader)
        if key not in self._floats:
            result = self._made(value, scale, zero, reader)
            if result is None:
                return None
            self._floats[key] = result
        return self._floats[key]

    def _made(
        self, value: ir.Value, scale: ir.Value, zero: ir.Value | None, reader: ir.Node
    ) -> ir.Value | None:
        if models.constant(value) is not None:
            return self._stored(value, scale, zero, reader)
        node = value.producer()
        if node is None:
            return None
        if node.op_type == "DynamicQuantizeLinear":
            return node.inputs[0] if [*node.outputs] == [value, scale, zero] else None
        if node.op_type == "QuantizeLinear":
            self._compare_scales(node, scale, zero, reader)
            self._note_range(node)
            return node.inputs[0]
        if node.op_type in MOVES:
            inner = self._float(node.inputs[0], scale, zero, reader)
            return None if inner is None else self._moved(node, value, inner, scale, zero)
        return None

    def _moved(
        self,
        node: ir.Node,
        value: ir.Value,
        inner: ir.Value,
        scale: ir.Value | None,
        zero: ir.Value | None,
    ) -> ir.Value | None:
        """An output of a node that moves integers, of one that moves floats."""
        key = node, inner, scale, zero
        if key not in self._moves:
            rest = [*node.inputs[1:]]
            codes = rest[1] if node.op_type == "Pad" and len(rest) > 1 else None
            if codes is not None:
                # The zero point stands for the zero that the float operator takes by default.
                rest[1] = None if codes is zero else self._float(codes, scale, zero, node)
                if rest[1] is None and codes is not zero:
                    return None
                while rest[-1] is None:
                    rest.pop()
            new = ir.Node(
                node.domain, node.op_type, [inner, *rest], list(node.attributes.values()),
                num_outputs=len(node.outputs),
            )  # fmt: skip
            new.name = node.name
            graph = node.graph
            assert isinstance(graph, ir.Graph)
            graph.insert_before(node, new)
            for old, output in zip(node.outputs, new.outputs, strict=True):
                name = qoperators.plain_name(old.name)
                output.name = models.fresh_name(self._graph, name, self._used)
                output.type = inner.type
                self._rebuilt.add(output)
            self._moves[key] = new
        return self._moves[key].outputs[value.index() or 0]

    def _stored(
        self, value: ir.Value, scale: ir.Value, zero: ir.Value | None, reader: ir.Node
    ) -> ir.Value | None:
        """A stored tensor with the values that its integers stand for."""
        codes, steps = models.constant(value), models.constant(scale)
        points = None if zero is None else models.constant(zero)
        if codes is None or steps is None or (zero is not None and points is None):
            return None
        shape = tuple(int(n) for n in codes.shape.numpy())
        turned = reader.op_type == "DynamicQuantizeLSTM"
        spread = _spread(np.asarray(steps.numpy()), shape, reader)
        offset = None if points is None else _spread(np.asarray(points.numpy()), shape, reader)
        if spread is None or (points is not None and offset is None):
            return None
        self._check_scale(spread, value)
        dtype = steps.dtype

        def read() -> ir.TensorProtocol:
            array = codes.numpy().astype(np.float64)
            array = (array if offset is None else array - offset) * spread
            array = array.swapaxes(1, 2) if turned else array
            return ir.Tensor(np.ascontiguousarray(array.astype(dtype.numpy())), dtype)

        wide = (shape[0], shape[2], shape[1]) if turned else shape
        tensor = ir.LazyTensor(read, dtype, ir.Shape(wide))
        graph = value.graph if value.producer() is None else value.producer().graph  # type: ignore[union-attr]
        assert isinstance(graph, ir.Graph)
        name = qoperators.plain_name(value.name)
        result = models.add_constant(graph, f"{name}/float", tensor, self._used)
        self._bits[result] = codes.dtype.bitwidth
        self._steps[result] = np.abs(spread.swapaxes(1, 2) if turned and spread.ndim else spread)
        return result

    # -- scales ---------------------------------------------------------------------------------

    def _check_scale(self, scale: Float, value: ir.Value) -> None:
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            self._faults.append(f"a scale of '{value.name}' is not a positive number")

    def _compare_scales(
        self, node: ir.Node, scale: ir.Value, zero: ir.Value | None, reader: ir.Node
    ) -> None:
        """Note where a value is quantized by one scale and dequantized by another."""
        mine, theirs = [*node.inputs[1:], None][:2], [scale, zero]
        layouts = _layout(node), _layout(reader)
        same = all(_same(a, b) for a, b in zip(mine, theirs, strict=True))
        vector = any(v is not None and _size(v) > 1 for v in theirs)
        if not same or (vector and layouts[0] != layouts[1]):
            name = node.inputs[0].name if node.inputs[0] is not None else ""
            self._faults.append(f"'{name}' is quantized by one scale and dequantized by another")

    def _note_range(self, node: ir.Node) -> None:
        """Keep what the values of an activation are clipped to."""
        value = node.inputs[0]
        scale, zero = (None if v is None else models.constant(v) for v in [*node.inputs, None][1:3])
        if value is None or scale is None:
            return
        step = np.asarray(scale.numpy()).astype(np.float64)
        self._check_scale(step, value)
        kind = ir.DataType.UINT8 if zero is None else zero.dtype
        if step.size != 1 or not kind.is_integer():
            return
        bits = kind.bitwidth
        low, high = (
            (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if kind.is_signed() else (0, 2**bits - 1)
        )
        point = 0.0 if zero is None else float(np.asarray(zero.numpy()).reshape(-1)[0])
        size = float(step.reshape(-1)[0])
        self._ranges[value] = Range((low - point) * size, (high - point) * size, size)

    def _check_bias(self, node: ir.Node) -> None:
        """Note where the scale of an integer bias is not that of what it is added to."""
        if len(node.inputs) < 3:
            return
        nodes = [_producer(value) for value in node.inputs[:3]]
        cast = nodes[2]
        if cast is not None and cast.op_type == "Cast":
            nodes[2] = _producer(cast.inputs[0])
        scales = []
        for each in nodes:
            if each is None or each.op_type != "DequantizeLinear" or each.inputs[1] is None:
                return
            tensor = models.constant(each.inputs[1])
            if tensor is None:
                return
            scales.append(np.asarray(tensor.numpy()).astype(np.float64).reshape(-1))
        bias = nodes[2]
        if bias is None or bias.inputs[0] is None or bias.inputs[0].dtype != ir.DataType.INT32:
            return
        product = scales[0] * scales[1]
        if product.size not in (1, scales[2].size) and scales[2].size != 1:
            product = np.full(1, np.nan)
        with np.errstate(all="ignore"):
            apart = np.abs(scales[2] - product) > _SAME_SCALE * np.abs(product) + 1e-12
        if apart.any() or not np.isfinite(product).all():
            self._faults.append(
                f"the scale of the bias of '{identity(node)}' is not that of its input times that "
                "of its weight"
            )

    # -- cleaning up ----------------------------------------------------------------------------

    def _fold(self, node: ir.Node) -> None:
        """Compute what moves or casts a stored tensor that was in integers."""
        value = node.inputs[0]
        if value is None or value not in self._steps or node.outputs[0].is_graph_output():
            return
        tensor, step = models.constant(value), self._steps[value]
        assert tensor is not None
        shape = [int(n) for n in tensor.shape.numpy()]
        if node.op_type == "Transpose":
            perm = node.attributes.get("perm")
            order = list(perm.as_ints()) if perm is not None else [*range(len(shape))][::-1]
            step = step if step.ndim == 0 else step.transpose(order)
            shape, dtype = [shape[axis] for axis in order], tensor.dtype
        else:
            order, dtype = None, ir.DataType(node.attributes["to"].as_int())
            if not dtype.is_floating_point():
                return

        def read() -> ir.TensorProtocol:
            array = tensor.numpy()
            array = array if order is None else array.transpose(order)
            return ir.Tensor(np.ascontiguousarray(array.astype(dtype.numpy())), dtype)

        graph = node.graph
        assert isinstance(graph, ir.Graph)
        lazy = ir.LazyTensor(read, dtype, ir.Shape(shape))
        folded = models.add_constant(graph, f"{value.name}/{node.op_type}", lazy, self._used)
        self._steps[folded], self._bits[folded] = step, self._bits[value]
        self._replace(node.outputs[0], folded)

    def _remove_unused(self) -> None:
        """Remove what only integers went through; what nobody read before stays."""
        for node in reversed(self._read_nodes):
            if node.graph is not None and not _is_read(node):
                node.graph.remove(node, safe=True)
        for value in self._read_values:
            graph = value.graph
            idle = not value.uses() and not value.is_graph_output()
            if idle and not value.is_graph_input() and graph is not None:
                graph.initializers.pop(value.name or "", None)


def _is_read(node: ir.Node) -> bool:
    return any(value.uses() or value.is_graph_output() for value in node.outputs)


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _layout(node: ir.Node) -> tuple[object, ...]:
    """Along what a node takes the vector of its scales."""
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return ()
    return node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)


def _size(value: ir.Value) -> int:
    tensor = models.constant(value)
    return 1 if tensor is None else tensor.size


def _same(one: ir.Value | None, two: ir.Value | None) -> bool:
    """Whether two values hold the same."""
    if one is two:
        return True
    mine, theirs = (None if v is None else models.constant(v) for v in (one, two))
    if mine is None or theirs is None:
        return False
    return mine.dtype == theirs.dtype and np.array_equal(mine.numpy(), theirs.numpy())


def _spread(array: Array, shape: Sequence[int], reader: ir.Node) -> Float | None:
    """Scales or zero points so that they broadcast to a tensor; None where they do not fit."""
    wide = array.astype(np.float64)
    if wide.size == 1:
        return wide.reshape(())
    rank = len(shape)
    if reader.op_type == "DynamicQuantizeLSTM":  # one per direction, or per column of each
        if rank != 3 or wide.shape not in ((shape[0],), (shape[0], shape[2])):
            return None
        return wide.reshape(shape[0], 1, -1)
    axis, block = {"ConvInteger": (0, 0)}.get(reader.op_type, (-1, 0))
    if reader.op_type == "DequantizeLinear":
        axis, block = (reader.attributes.get_int(n, d) for n, d in (("axis", 1), ("block_size", 0)))
    if not -rank <= axis < rank:
        return None
    axis %= rank
    if block:
        if wide.ndim != rank:
            return None
        wide = np.repeat(wide, block, axis).take(np.arange(shape[axis]), axis, mode="clip")
        return wide if wide.shape == tuple(shape) else None
    if wide.shape != (shape[axis],):
        return None
    return wide.reshape([-1 if k == axis else 1 for k in range(rank)])
