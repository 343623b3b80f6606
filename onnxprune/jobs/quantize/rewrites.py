"""What onnxruntime's quantizers change in a graph besides making integers of floats.

The dynamic one splits every Gemm; the static one leaves activations out whose clipping the integers
do already. Both are undone here, so that a quantized graph can be compared with the float one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import identity
from onnxprune.jobs.quantize.dequantize import Dequantized
from onnxprune.jobs.quantize.qoperators import hand_over
from onnxprune.model.constants import names_of


def split_products(
    model: models.Model, beside: models.Model
) -> tuple[models.Model, dict[str, str]]:
    """A copy of a float model whose Gemm nodes are products and sums where another has them so.

    onnxruntime's dynamic quantizer splits them.

    Args:
        model: not changed.
        beside: the other model.

    Returns:
        The copy, and the names that its turned weights had.
    """
    copy = models.clone(model)
    theirs = _nodes(beside)
    used = names_of(copy.ir.graph)
    names: dict[str, str] = {}
    turned: dict[ir.Value, ir.Value] = {}
    for node in list(_nodes(copy).values()):
        other = theirs.get(identity(node))
        if node.op_type != "Gemm" or other is None or other.op_type not in ("Add", "MatMul"):
            continue
        floats = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
        weight, graph = node.inputs[1], node.graph
        assert isinstance(graph, ir.Graph)
        if floats != [1.0, 1.0] or node.attributes.get_int("transA", 0) != 0 or weight is None:
            continue
        if node.attributes.get_int("transB", 0) != 0:
            tensor = models.constant(weight)
            if tensor is None:
                continue
            if weight not in turned:
                lazy = _transposed(tensor)
                turned[weight] = models.add_constant(graph, f"{weight.name}/turned", lazy, used)
                names[turned[weight].name or ""] = weight.name or ""
            weight = turned[weight]
        old, bias = node.outputs[0], node.inputs[2] if len(node.inputs) > 2 else None
        product = ir.Node("", "MatMul", [node.inputs[0], weight], num_outputs=1)
        last = product
        graph.insert_before(node, product)
        if bias is not None:
            last = ir.Node("", "Add", [product.outputs[0], bias], num_outputs=1)
            graph.insert_before(node, last)
        name = old.name
        old.name = models.fresh_name(graph, f"{name}/Gemm", used)
        product.outputs[0].name = f"{name}_MatMul"
        last.outputs[0].name = name
        hand_over(copy, old, last.outputs[0])
        graph.remove(node, safe=True)
    for value in turned:
        if not value.uses() and value.is_initializer() and not value.is_graph_output():
            assert value.graph is not None
            value.graph.initializers.pop(value.name or "", None)
    return copy, names


def _transposed(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    shape = [int(n) for n in tensor.shape.numpy()][::-1]
    return ir.LazyTensor(
        lambda: ir.Tensor(np.ascontiguousarray(tensor.numpy().T), tensor.dtype),
        tensor.dtype,
        ir.Shape(shape),
    )


def _nodes(model: models.Model) -> dict[str, ir.Node]:
    return {identity(node): node for graph in models.graphs(model) for node in graph}


def restore_activations(result: Dequantized, expected: models.Model) -> None:
    """Put Relu and Clip nodes back that a quantizer left out because the range clips as they do.

    Where the range does not, the node stays missing, and comparing the graphs shows it. The scale
    of a Gemm's bias that the quantizer took into the integers is put back too.

    Args:
        result: its model is changed.
        expected: the float model as it was before.
    """
    theirs = _nodes(result.model)
    values = {v.name: v for graph in models.graphs(result.model) for v in models.values(graph)}
    for node in reversed(_nodes(expected).values()):
        name, source = node.outputs[0].name, node.inputs[0] if node.inputs else None
        here = theirs.get(name or "")
        if node.op_type not in ("Relu", "Clip") or source is None:
            continue
        span = result.ranges.get(name or "")
        if here is None and name not in values:  # the QOperator format keeps the first of the names
            here, span = theirs.get(source.name or ""), result.ranges.get(source.name or "")
        elif source.name in values:
            continue
        limits = _limits(node)
        if here is None or here.op_type == node.op_type or limits is None or span is None:
            continue
        slack = 0.51 * span.step
        if span.low < limits[0] - slack or span.high > limits[1] + slack:
            continue
        _insert_activation(node, here, name or "", source.name or "")
        theirs = _nodes(result.model)
        values = {v.name: v for graph in models.graphs(result.model) for v in models.values(graph)}


def _limits(node: ir.Node) -> tuple[float, float] | None:
    """What a Relu or Clip clips to; None where that is computed."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    limits = [-np.inf, np.inf]
    for k, name in enumerate(("min", "max")):
        value = node.inputs[k + 1] if len(node.inputs) > k + 1 else None
        attribute = node.attributes.get(name)
        if value is not None:
            tensor = models.constant(value)
            if tensor is None:
                return None
            limits[k] = float(np.asarray(tensor.numpy()).reshape(-1)[0])
        elif attribute is not None:
            limits[k] = attribute.as_float()
    return limits[0], limits[1]


def _insert_activation(node: ir.Node, before: ir.Node, name: str, source: str) -> None:
    """Put a copy of a node behind another, whose output gets its former name back."""
    graph, value = before.graph, before.outputs[0]
    assert isinstance(graph, ir.Graph)
    inputs: list[ir.Value | None] = [value]
    for limit in node.inputs[1:]:
        tensor = None if limit is None else models.constant(limit)
        inputs.append(
            None
            if limit is None or tensor is None
            else models.add_constant(graph, limit.name or "limit", tensor)
        )
    readers = list(value.uses())
    outputs = [k for k, each in enumerate(graph.outputs) if each is value]
    new = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), num_outputs=1)
    graph.insert_after(before, new)
    new.outputs[0].name, value.name = name, source
    new.outputs[0].type, new.outputs[0].shape = value.type, value.shape
    for reader, k in readers:
        reader.replace_input_with(k, new.outputs[0])
    for k in outputs:
        graph.outputs[k] = new.outputs[0]
