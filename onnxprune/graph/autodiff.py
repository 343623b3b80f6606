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
from onnxprune.graph.gradients import convolution, elementwise, linear, movement, norms
from onnxprune.graph.gradients.rules import RULES, Call
from onnxprune.graph.layers.sources import read_by
from onnxprune.graph.shapes import Fact

__all__ = [
    "Backward", "Loss", "backward", "convolution", "elementwise", "linear", "movement", "norms",
]  # fmt: skip

_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Loss:
    """How an output is compared with what is wanted of it.

    Attributes:
        output: its name.
        kind: ``kl``: divergence of class probabilities along the last axis, from logits;
            ``square``: squared difference.
    """

    output: str
    kind: Literal["kl", "square"]

    @property
    def wanted(self) -> str:
        """The input of the differentiated model that takes what is wanted."""
        return f"{self.output}/wanted"

    @property
    def weight(self) -> str:
        """The input that takes the weight of every row (or a scalar)."""
        return f"{self.output}/weight"


@dataclass(frozen=True, eq=False)
class Backward:
    """A model that puts out gradients.

    Attributes:
        model: a new one. Besides the inputs of the original it takes the free constants, and for
            every loss what is wanted and how much each row of it counts.
        gradients: value -> the output that holds the gradient of the sum of losses.
        stopped: node -> why nothing is passed back through it.
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

    Where an operator has no rule, nothing at all is said about values that it depends on: a part
    of a gradient is no gradient.

    Args:
        model: it is left as it is.
        facts: concrete shapes of its values; sizes may differ in what is run, but not from or to 1.
        losses: to differentiate; their sum is.
        of: names of values and of free constants whose gradients are wanted.
        free: names of constants that become inputs.
        outputs: names of values to put out besides the gradients.
    """
    work = models.clone(model)
    graph = work.ir.graph
    values = {v.name or "": v for v in models.values(graph)}
    forward = list(graph)
    for name in free:
        set_free(graph, values, name)
    emit = Emit(graph, facts, graph.opset_imports.get("", 1))
    found: dict[ir.Value, list[ir.Value]] = defaultdict(list)
    for loss in losses:
        found[values[loss.output]].append(_seed(emit, graph, loss, values[loss.output]))
    active = _downstream(forward, [values[name] for name in of], facts)
    lost: set[ir.Value] = set()
    stopped: dict[str, str] = {}
    for node in reversed(forward):
        outs = [v for v in node.outputs if v in active]
        if not outs:
            continue
        if any(v in lost for v in outs):
            lost.update(v for v in read_by(node) if v in active)
            continue
        gradients = [_sum(emit, found.get(v, [])) for v in node.outputs]
        if not any(g is not None for g in gradients):
            continue
        try:
            _pass_back(emit, node, gradients, found, active)
        except Undifferentiable as why:
            stopped[identity(node)] = str(why)
            lost.update(v for v in read_by(node) if v in active)
    ends = {}
    for name in dict.fromkeys(of):
        gradient = None if values[name] in lost else _sum(emit, found.get(values[name], []))
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
    given = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy())
    )
    ir.convenience.replace_all_uses_with(value, given)
    node = value.producer()
    if node is not None:
        graph.remove(node, safe=True)
    else:
        graph.initializers.pop(name, None)
        kept = [v for v in graph.inputs if v is not value]
        graph.inputs.clear()
        graph.inputs.extend(kept)
    graph.inputs.append(given)
    values[name] = given


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
    found = set(sources)
    for node in nodes:
        if any(v in found for v in read_by(node)):
            types = [facts[v.name or ""].dtype if v.name in facts else None for v in node.outputs]
            found.update(
                v for v, type_ in zip(node.outputs, types, strict=True)
                if type_ is None or type_.is_floating_point()
            )  # fmt: skip
    return found


def _sum(emit: Emit, parts: list[ir.Value]) -> ir.Value | None:
    if len(parts) > 1:
        parts[:] = [emit.op("Sum", *parts)]
    return parts[0] if parts else None


def _pass_back(
    emit: Emit,
    node: ir.Node,
    gradients: Sequence[ir.Value | None],
    found: dict[ir.Value, list[ir.Value]],
    active: set[ir.Value],
) -> None:
    if node.domain not in _DOMAINS or node.op_type not in RULES:
        raise Undifferentiable(f"{node.op_type} has no rule")
    if any(v in active for v in set(read_by(node)) - set(node.inputs)):
        raise Undifferentiable("it has a body that reads it")
    back = RULES[node.op_type](Call(emit, node, gradients))
    wanted = [k for k, v in enumerate(node.inputs) if v is not None and v in active]
    if any(k not in back for k in wanted):
        raise Undifferentiable("there is no rule for one of its inputs")
    made = [(node.inputs[k], back[k]()) for k in wanted]
    for value, gradient in made:
        assert value is not None
        found[value].append(gradient)


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
