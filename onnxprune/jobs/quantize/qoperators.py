"""Operators that compute with integers (QLinearConv, QGemm, ...), written as float ones.

onnxruntime's QOperator format gives an operator its integers together with their scales. The same
is said by a float operator that reads DequantizeLinear nodes and is read by a QuantizeLinear node,
and in this form `dequantize` takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.model.constants import names_of

_MICROSOFT = "com.microsoft"
_SUFFIXES = ("_quantized", "quantized")
"""What onnxruntime puts behind the names of integers; the second behind those of a Split."""
_PICKS = frozenset({"ArgMax", "ArgMin"})
"""What gives the same for integers as for the floats that they stand for."""
MOVES = frozenset(
    "DepthToSpace Expand Flatten Gather MaxPool Pad Reshape Resize Slice SpaceToDepth Split "
    "Squeeze Transpose Unsqueeze".split()
)
"""What takes integers as it takes floats: the scale stays."""


@dataclass(frozen=True)
class _Form:
    """The inputs of an operator on integers.

    Attributes:
        op: the float operator.
        operands: where each of its inputs is; its scale and zero point follow.
        scale: where the scale of the output is; its zero point follows.
        plain: inputs that are no integers, before the others.
        bias: where an integer bias is, whose scale is the product of the operands' scales.
        left_out: attributes that only the operator on integers has.
    """

    op: str
    operands: tuple[int, ...]
    scale: int
    plain: tuple[int, ...] = ()
    bias: int | None = None
    left_out: frozenset[str] = frozenset({"channels_last", "opset"})


_FORMS: Mapping[str, _Form] = {
    "QLinearConv": _Form("Conv", (0, 3), 6, bias=8),
    "QLinearMatMul": _Form("MatMul", (0, 3), 6),
    "QGemm": _Form("Gemm", (0, 3), 7, bias=6),
    "QLinearAdd": _Form("Add", (0, 3), 6),
    "QLinearMul": _Form("Mul", (0, 3), 6),
    "QLinearWhere": _Form("Where", (1, 4), 7, plain=(0,)),
    **{
        f"QLinear{op}": _Form(op, (0,), 3)
        for op in "AveragePool GlobalAveragePool LeakyRelu ReduceMean Sigmoid Softmax".split()
    },
}
OPERATORS = frozenset({*_FORMS, "QLinearConcat"})
"""Operators on integers that have a float form."""


@dataclass(frozen=True, eq=False)
class Lifted:
    """What was put in the place of operators on integers.

    Attributes:
        results: outputs of float operators, which may take the names of values that are replaced.
        operands: outputs of DequantizeLinear nodes, whose names mean nothing.
    """

    results: frozenset[ir.Value]
    operands: frozenset[ir.Value]


def lift(model: models.Model) -> Lifted:
    """Write the operators on integers as float ones between QuantizeLinear and DequantizeLinear.

    Args:
        model: changed in place. Operators whose scales have unknown shapes stay as they are.
    """
    return _Lifter(model).run()


def plain_name(name: str | None) -> str:
    """What the float value was called that an integer one stands for."""
    for suffix in _SUFFIXES:
        if name and name.endswith(suffix):
            return name.removesuffix(suffix)
    return name or ""


class _Lifter:
    def __init__(self, model: models.Model) -> None:
        self._model = model
        self._used = names_of(model.ir.graph)
        self._results: set[ir.Value] = set()
        self._operands: dict[tuple[object, ...], ir.Value] = {}

    def run(self) -> Lifted:
        for graph in models.graphs(self._model):
            for node in list(graph):
                if isinstance(node.graph, ir.Graph):
                    self._visit(node, node.graph)
        return Lifted(frozenset(self._results), frozenset(self._operands.values()))

    def _visit(self, node: ir.Node, graph: ir.Graph) -> None:
        if node.op_type in _PICKS:
            known = _scale_of(node.inputs[0])
            value = self._operand(node, graph, (node.inputs[0], *known)) if known else None
            if value is not None:
                node.replace_input_with(0, value)
            return
        form = _form(node)
        if form is None or node.attributes.get_int("channels_last", 0) != 0:
            return
        inputs = [*node.inputs, *[None] * 3]
        triples = [(inputs[at], inputs[at + 1], inputs[at + 2]) for at in form.operands]
        axes = [_axis(node, k) for k in range(len(triples))]
        if form.bias is not None and inputs[form.bias] is not None:
            scale = self._bias_scale(node, graph, inputs[form.bias], triples)
            if scale is None:
                return
            triples.append((inputs[form.bias], scale, None))
            axes.append(-1 if form.op == "Gemm" else 0)
        operands = [
            self._operand(node, graph, triple, axis)
            for triple, axis in zip(triples, axes, strict=True)
        ]
        if None not in operands:
            self._replace(node, graph, form, [*(inputs[at] for at in form.plain), *operands])

    def _replace(
        self, node: ir.Node, graph: ir.Graph, form: _Form, operands: Sequence[ir.Value | None]
    ) -> None:
        """Put a float operator, and a QuantizeLinear behind it, in the place of a node."""
        attributes = [a for name, a in node.attributes.items() if name not in form.left_out]
        new = ir.Node("", form.op, operands, attributes, num_outputs=1, name=node.name)
        graph.insert_before(node, new)
        old, value = node.outputs[0], new.outputs[0]
        scale, zero = [*node.inputs[form.scale :], None, None][:2]
        value.shape = old.shape
        value.type = ir.TensorType((None if scale is None else scale.dtype) or ir.DataType.FLOAT)
        if scale is None:  # a QGemm that gives floats
            name, old.name = old.name, models.fresh_name(graph, f"{old.name}/int", self._used)
            value.name = name
            last = value
        else:
            value.name = models.fresh_name(graph, plain_name(old.name), self._used)
            codes = ir.Node("", "QuantizeLinear", [value, scale, zero], num_outputs=1)
            graph.insert_before(node, codes)
            last = codes.outputs[0]
            last.type, last.shape = old.type, old.shape
            last.name = old.name
            old.name = models.fresh_name(graph, f"{old.name}/int", self._used)
        self._results.add(value)
        hand_over(self._model, old, last)
        graph.remove(node, safe=True)

    def _operand(
        self,
        node: ir.Node,
        graph: ir.Graph,
        triple: tuple[ir.Value | None, ir.Value | None, ir.Value | None],
        axis: int = 1,
    ) -> ir.Value | None:
        """Integers as floats; None where they cannot be."""
        value, scale, zero = triple
        tensor = None if scale is None else models.constant(scale)
        if value is None or scale is None or tensor is None:
            return None
        vector = len([n for n in tensor.shape.numpy() if n != 1]) > 0
        if vector and len(tensor.shape) != 1:
            return None
        key = value, scale, zero, graph, axis if vector else None
        if key not in self._operands:
            attributes = [ir.AttrInt64("axis", axis)] if vector else []
            new = ir.Node("", "DequantizeLinear", [value, scale, zero], attributes, num_outputs=1)
            while new.inputs and new.inputs[-1] is None:
                new.resize_inputs(len(new.inputs) - 1)
            graph.insert_before(node, new)
            name = f"{plain_name(value.name)}/operand"
            new.outputs[0].name = models.fresh_name(graph, name, self._used)
            new.outputs[0].type, new.outputs[0].shape = ir.TensorType(tensor.dtype), value.shape
            self._operands[key] = new.outputs[0]
        return self._operands[key]

    def _bias_scale(
        self,
        node: ir.Node,
        graph: ir.Graph,
        bias: ir.Value | None,
        triples: Sequence[tuple[ir.Value | None, ir.Value | None, ir.Value | None]],
    ) -> ir.Value | None:
        """The product of the scales of the operands, which is that of an integer bias."""
        tensors = [None if s is None else models.constant(s) for _, s, _ in triples]
        if bias is None or any(tensor is None for tensor in tensors):
            return None
        arrays = [np.asarray(t.numpy()) for t in tensors if t is not None]
        if sum(array.size > 1 for array in arrays) > 1:
            return None
        factor = node.attributes.get_float("alpha", 1.0) if node.op_type == "QGemm" else 1.0
        wide = [array.astype(np.float64).reshape(-1) for array in arrays]
        product = np.asarray(factor * np.prod(np.broadcast_arrays(*wide), axis=0))
        product = (product if product.size > 1 else product.reshape(())).astype(arrays[0].dtype)
        name = f"{plain_name(bias.name)}/scale"
        return models.add_constant(graph, name, product, self._used)


def _form(node: ir.Node) -> _Form | None:
    if node.op_type == "QLinearConcat" and node.domain == _MICROSOFT:
        return _Form("Concat", tuple(range(2, len(node.inputs), 3)), 0)
    return _FORMS.get(node.op_type)


def _axis(node: ir.Node, operand: int) -> int:
    """Along what the scales of an operand go that has more than one."""
    if node.op_type == "QLinearConv":
        return 0
    if node.op_type == "QGemm" and operand == 1:
        return 0 if node.attributes.get_int("transB", 0) else 1
    return -1


def _scale_of(value: ir.Value | None) -> tuple[ir.Value | None, ir.Value | None] | None:
    """The scale and zero point that integers were made with; None where that is not known."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in MOVES and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type != "QuantizeLinear":
        return None
    return node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None


def hand_over(model: models.Model, old: ir.Value, new: ir.Value) -> None:
    """Let all who read a value, the outputs of the graphs included, read another."""
    for node in {reader for reader, _ in old.uses()}:
        for k, value in enumerate(node.inputs):
            if value is old:
                node.replace_input_with(k, new)
    for graph in models.graphs(model):
        for k, value in enumerate(graph.outputs):
            if value is old:
                graph.outputs[k] = new
                new.type, new.shape = old.type, old.shape
