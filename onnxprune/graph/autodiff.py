"""From losses back to the values whose gradients are wanted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import identity
from onnxprune.graph.emit import Emit, Undifferentiable
from onnxprune.graph.functions import function_body
from onnxprune.graph.layers.sources import read_by
from onnxprune.graph.ops import GRADIENTS
from onnxprune.graph.ops.gradient_call import GradientCall
from onnxprune.graph.shapes import Fact, facts_of_graph

Gradients = dict[ir.Value, list[ir.Value]]
"""Value -> the parts of its gradient."""


@dataclass(frozen=True)
class Loss:
    """The loss of an output against its target.

    Attributes:
        output: its name.
        kind: ``kl``: divergence of class probabilities along the last axis, from logits;
            ``square``: squared difference.
    """

    output: str
    kind: Literal["kl", "square"]

    @property
    def wanted(self) -> str:
        """The input of the differentiated model that takes the target."""
        return f"{self.output}/wanted"

    @property
    def weight(self) -> str:
        """The input that takes the weight of every row (or a scalar)."""
        return f"{self.output}/weight"


@dataclass(frozen=True, eq=False)
class Backward:
    """A model whose outputs are gradients.

    Attributes:
        model: a new one. Besides the inputs of the original it takes the free constants, and for
            every loss the target and the weight of its rows.
        gradients: value -> the output that holds the gradient of the sum of losses.
        stopped: node -> reason why nothing is passed back through it.
    """

    model: models.Model
    gradients: Mapping[str, str]
    stopped: Mapping[str, str]


def backward(
    model: models.Model,
    facts: Mapping[str, Fact],
    losses: Sequence[Loss],
    of: Sequence[str],
    free: Sequence[str] = (),
    outputs: Sequence[str] = (),
) -> Backward:
    """Differentiate losses.

    Where an operator has no rule, the values that it depends on get no gradient at all, since a
    part of a gradient is useless.

    Args:
        model: it is left as it is.
        facts: concrete shapes of its values; sizes may differ in what is run, but not from or to 1.
        losses: whose sum is differentiated.
        of: names of values and of free constants whose gradients are wanted.
        free: names of constants that become inputs.
        outputs: names of further outputs.
    """
    work = models.clone(model)
    graph = work.ir.graph
    values = {v.name or "": v for v in models.values(graph)}
    forward = list(graph)
    for name in free:
        set_free(graph, values, name)
    emit = Emit(graph, facts, graph.opset_imports.get("", 1))
    parts: Gradients = defaultdict(list)
    for loss in losses:
        parts[values[loss.output]].append(_seed(emit, graph, loss, values[loss.output]))
    active = _downstream(forward, [values[name] for name in of], emit.facts)
    lost, stopped = _reverse(emit, forward, parts, active)
    ends: dict[str, str] = {}
    for name in dict.fromkeys(of):
        gradient = None if values[name] in lost else _sum(emit, parts.get(values[name], []))
        if gradient is not None:
            ends[name] = gradient.name or ""
            gradient.type = ir.TensorType(ir.DataType.FLOAT)
    named = {v.name: v for v in models.values(graph)}
    graph.outputs.clear()
    for name in dict.fromkeys([*outputs, *ends.values()]):
        value = named[name]
        value.shape = None if value.type is not None else value.shape
        graph.outputs.append(value)
    return Backward(_trimmed(work), ends, stopped)


def set_free(graph: ir.Graph, values: dict[str, ir.Value], name: str) -> None:
    """Make a constant an input of the graph."""
    value = values[name]
    tensor = models.constant(value)
    assert tensor is not None
    argument = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy())
    )
    ir.convenience.replace_all_uses_with(value, argument)
    node = value.producer()
    if node is not None:
        graph.remove(node, safe=True)
    else:
        graph.initializers.pop(name, None)
        kept = [v for v in graph.inputs if v is not value]
        graph.inputs.clear()
        graph.inputs.extend(kept)
    graph.inputs.append(argument)
    values[name] = argument


def _seed(emit: Emit, graph: ir.Graph, loss: Loss, output: ir.Value) -> ir.Value:
    wanted, weight = (
        ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT))
        for name in (loss.wanted, loss.weight)
    )
    graph.inputs.extend([wanted, weight])
    if loss.kind == "kl":
        parts = [emit.op("Softmax", v, axis=len(emit.sizes(output)) - 1) for v in (output, wanted)]
        return emit.op("Mul", emit.op("Sub", *parts), weight)
    twice = emit.op("Mul", weight, emit.number(2.0))
    return emit.op("Mul", emit.op("Sub", output, wanted), twice)


def _downstream(
    nodes: Sequence[ir.Node], sources: Sequence[ir.Value], facts: Mapping[str, Fact]
) -> set[ir.Value]:
    """Values that depend on some others, those included; integers do not depend smoothly."""
    result = set(sources)
    for node in nodes:
        if any(v in result for v in read_by(node)):
            types = [facts[v.name or ""].dtype if v.name in facts else None for v in node.outputs]
            result.update(
                v for v, type_ in zip(node.outputs, types, strict=True)
                if type_ is None or type_.is_floating_point()
            )  # fmt: skip
    return result


def _sum(emit: Emit, parts: list[ir.Value]) -> ir.Value | None:
    if len(parts) > 1:
        parts[:] = [emit.op("Sum", *parts)]
    return parts[0] if parts else None


def _reverse(
    emit: Emit, nodes: Sequence[ir.Node], parts: Gradients, active: set[ir.Value]
) -> tuple[set[ir.Value], dict[str, str]]:
    """Pass gradients back through nodes in order, last to first.

    Args:
        emit: adds nodes.
        nodes: in the order they run in.
        parts: gradients of what they put out; those of what they read are added.
        active: the values whose gradients matter.

    Returns:
        The active values whose gradient would be incomplete, and the reasons by node.
    """
    lost: set[ir.Value] = set()
    stopped: dict[str, str] = {}
    for node in reversed(nodes):
        outs = [v for v in node.outputs if v in active]
        if not outs:
            continue
        if any(v in lost for v in outs):
            lost.update(v for v in read_by(node) if v in active)
            continue
        gradients = [_sum(emit, parts.get(v, [])) for v in node.outputs]
        if not any(g is not None for g in gradients):
            continue
        try:
            _pass_back(emit, node, gradients, parts, active)
        except Undifferentiable as why:
            stopped[identity(node)] = str(why)
            lost.update(v for v in read_by(node) if v in active)
    return lost, stopped


def _pass_back(
    emit: Emit,
    node: ir.Node,
    gradients: Sequence[ir.Value | None],
    parts: Gradients,
    active: set[ir.Value],
) -> None:
    if any(v in active for v in set(read_by(node)) - set(node.inputs)):
        raise Undifferentiable("it has a body that reads it")
    domain = node.domain
    if (domain, node.op_type) not in GRADIENTS:
        for value, part in _through_body(emit, node, gradients, active).items():
            parts[value].append(part)
        return
    rule, of = GRADIENTS[domain, node.op_type]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    call = GradientCall(node.op_type, domain, emit.version, attributes, emit, node, gradients)
    wanted = [(k, v) for k, v in enumerate(node.inputs) if v is not None and v in active]
    if of is not None and any(k not in of for k, _ in wanted):
        raise Undifferentiable("there is no rule for one of its inputs")
    for value, part in [(v, rule(call, k)) for k, v in wanted]:
        parts[value].append(part)


def _through_body(
    emit: Emit, node: ir.Node, gradients: Sequence[ir.Value | None], active: set[ir.Value]
) -> dict[ir.Value, ir.Value]:
    """Gradients of the inputs of an operator that is a function of others.

    The node stays; what its body computes on the way is computed again, as far as it is needed.
    """
    facts = [None if v is None else emit.facts.get(v.name or "") for v in node.inputs]
    body = function_body(node, emit.version, facts)
    if body is None:
        raise Undifferentiable(f"{node.op_type} has no rule")
    graph = ir.serde.deserialize_graph(body)
    inner = facts_of_graph(graph, {"": emit.version}, facts)
    nodes, outputs = list(graph), list(graph.outputs)
    for k, value in enumerate(graph.inputs):
        outer = node.inputs[k] if k < len(node.inputs) else None
        if outer is not None:
            ir.convenience.replace_all_uses_with(value, outer)
            continue
        for use in tuple(value.uses()):  # left out here as well
            use.node.replace_input_with(use.idx, None)
    graph.remove(nodes)
    emit.splice(nodes, inner)
    reads = [v for v in node.inputs if v is not None and v in active]
    parts: Gradients = defaultdict(list)
    for value, gradient in zip(outputs, gradients, strict=False):
        if gradient is not None:
            parts[value].append(gradient)
    lost, stopped = _reverse(emit, nodes, parts, _downstream(nodes, reads, emit.facts))
    if any(v in lost for v in reads):
        raise Undifferentiable(f"{node.op_type}: {next(iter(stopped.values()))}")
    sums = {v: _sum(emit, parts.get(v, [])) for v in reads}
    return {v: gradient for v, gradient in sums.items() if gradient is not None}


def _trimmed(model: models.Model) -> models.Model:
    """Without nodes and constants that no output needs."""
    graph = model.ir.graph
    needed: set[ir.Node] = set()
    queue = [v.producer() for v in graph.outputs]
    while queue:
        node = queue.pop()
        if node is None or node in needed:
            continue
        needed.add(node)
        queue += [v.producer() for v in read_by(node)]
    graph.remove([node for node in graph if node not in needed], safe=False)
    read = {v for node in graph for v in read_by(node)} | set(graph.outputs)
    for name in [n for n, v in graph.initializers.items() if v not in read]:
        del graph.initializers[name]
    return model
