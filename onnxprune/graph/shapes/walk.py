"""The forward walk: from concrete input shapes to a fact for every value, bodies included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from onnxprune.errors import OnnxpruneError, suggest
from onnxprune.graph.facts import Fact, Shape, because, declared, join, to_type
from onnxprune.graph.ops.shape_call import InconsistentError
from onnxprune.graph.shapes.infer import infer
from onnxprune.graph.shapes.program import Program, Step, compile_graph, opsets_of
from onnxprune.graph.shapes.values import evaluate
from onnxprune.quantities import shape_text

if TYPE_CHECKING:
    from onnxprune.model import Model


def propagate(model: Model, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, Fact]:
    """Concrete shape, element type and small known content of every value.

    Args:
        model: the model; it is only read.
        inputs: a concrete shape for each graph input that has symbolic sizes; inputs left out keep
            what the model declares of them, with unknown sizes where that is symbolic.

    Returns:
        A fact for every value of every graph, by name. Where a shape is not fully known the fact
        has the reason; a legal model never raises.

    Raises:
        OnnxpruneError: ``inputs`` names something that is not a graph input, or contradicts the
            shape it is declared with.
    """
    opsets = opsets_of(model.ir)
    walk = Walk(opsets)
    program = compile_graph(model.ir.graph, opsets)
    feed(walk, program, model.ir.graph, inputs)
    walk.run(program)
    return walk.facts


def facts_of_graph(
    graph: ir.Graph, opsets: Mapping[str, int], inputs: Sequence[Fact | None]
) -> dict[str, Fact]:
    """A fact for every value of a graph that stands alone, from one per input."""
    walk = Walk(opsets)
    for value, fact in zip(graph.inputs, inputs, strict=False):
        if fact is not None:
            walk.learn(value.name or "", fact)
    walk.run(compile_graph(graph, opsets))
    return walk.facts


def feed(
    walk: Walk, program: Program, graph: ir.Graph, inputs: Mapping[str, tuple[int, ...]]
) -> None:
    """Give the graph inputs their facts.

    Raises:
        OnnxpruneError: see :func:`propagate`.
    """
    names = {value.name or "": value for value in graph.inputs}
    for name, sizes in inputs.items():
        if name not in names:
            raise OnnxpruneError(
                f"the model has no input named {name!r}",
                hint=suggest(name, program.needed),
            )
        shape = declared(names[name]).shape
        if shape is not None and (
            len(shape) != len(sizes)
            or any(a not in (None, b) for a, b in zip(shape, sizes, strict=True))
        ):
            raise OnnxpruneError(
                f"input {name!r} cannot have shape {shape_text(sizes)}",
                hint=f"the model declares {name}={_declaration(names[name])}",
            )
    for name, value in names.items():
        if name in program.stored:
            continue
        fact = program.declared[name]
        if name in inputs:
            fact = Fact(tuple(int(size) for size in inputs[name]), fact.dtype)
        walk.learn(name, because(fact, "an input whose shape was not given"))
        if not isinstance(value.type, ir.TensorType) and value.type is not None:
            walk.types[name] = ir.serde.serialize_type(value.type)


def _declaration(value: ir.Value) -> str:
    """The shape of an input as users write it, open sizes by name."""
    shape = value.shape or ()
    return shape_text(size if isinstance(size, int) else size.value for size in shape)


class Walk:
    """The state of one walk.

    Attributes:
        facts: what is known so far, by value name.
        types: ONNX types of the values that are not tensors.
        conflicts: nodes that refused shapes that were all known: (node, why).
        strict: stop at the first conflict instead of going on without that node's shapes.
        doubts: branches that do not fit, of Ifs whose condition is not known.
        steps: nodes walked so far.
    """

    def __init__(self, opsets: Mapping[str, int], *, strict: bool = False) -> None:
        self.facts: dict[str, Fact] = {}
        self.types: dict[str, onnx.TypeProto] = {}
        self.conflicts: list[tuple[str, str]] = []
        self.strict = strict
        self.doubts = 0
        self.steps = 0
        self._imports = [onnx.helper.make_opsetid(d, v) for d, v in opsets.items()]

    def learn(self, name: str, fact: Fact) -> None:
        """Record a fact."""
        self.facts[name] = fact

    def run(self, program: Program) -> None:
        """Walk a graph whose inputs (and captured values) are known.

        Raises:
            InconsistentError: a node refused its inputs, if the walk is strict.
        """
        self.facts.update(program.stored)
        for step in program.steps:
            self.steps += 1
            try:
                results = walk_bodies(self, step) if step.bodies else self._node(step)
            except InconsistentError as error:
                if self.strict:
                    raise
                self.conflicts.append((step.title, str(error)))
                results = [Fact(None, None, reason=str(error))] * len(step.outputs)
            missing = [Fact(None, None)] * (len(step.outputs) - len(results))
            for name, fact in zip(step.outputs, [*results, *missing], strict=False):
                if name:
                    self.learn(name, _completed(fact, program.declared[name]))

    def known(self, name: str) -> Fact | None:
        """The fact of an input of a node, None where the input is left out."""
        if not name:
            return None
        return self.facts.get(name) or Fact(None, None, reason="never defined")

    def _node(self, step: Step) -> list[Fact]:
        inputs = [self.known(name) for name in step.inputs]
        types = {
            name: self.types.get(name) or to_type(fact.shape, fact.dtype)
            for name, fact in zip(step.inputs, inputs, strict=True)
            if fact is not None
        }
        results, inferred = infer(step, inputs, types, self._imports)
        for name, proto in inferred.items():
            if proto.WhichOneof("value") not in ("tensor_type", None):
                self.types[name] = proto
        if step.schema is None:
            return results
        operands = inputs[: len(step.proto.input)]
        return evaluate(step.proto, step.version, operands, results)


def _completed(fact: Fact, declaration: Fact) -> Fact:
    """What inference left open, filled in from what the model declares."""
    dtype = fact.dtype or declaration.dtype
    if fact.sizes is not None or declaration.shape is None:
        return fact if dtype == fact.dtype else replace(fact, dtype=dtype)
    shape: Shape | None = None
    if fact.shape is None:
        shape = declaration.shape
    elif len(fact.shape) == len(declaration.shape):
        pairs = zip(fact.shape, declaration.shape, strict=True)
        shape = tuple(a if a is not None else b for a, b in pairs)
    if shape is None:
        return replace(fact, dtype=dtype)
    return because(Fact(shape, dtype), fact.reason)


_ROUNDS = 4  # carried shapes lose a size per round or stay; after these they lose all of them


def walk_bodies(walk: Walk, step: Step) -> list[Fact]:
    """Walk the bodies of a node and return the facts of its outputs.

    Raises:
        InconsistentError: a body refused its inputs, if the walk is strict.
    """
    if step.node.op_type == "If":
        return _if(walk, step)
    if step.node.op_type == "Loop":
        return _loop(walk, step, step.bodies["body"])
    if step.node.op_type == "Scan":
        return _scan(walk, step, step.bodies["body"])
    for body in step.bodies.values():
        for name in body.inputs:
            walk.learn(name, because(body.declared[name], f"an input of {step.title}"))
        walk.run(body)
    return [Fact(None, None, reason=f"{step.title} has bodies of its own kind")] * len(step.outputs)


def _results(walk: Walk, body: Program) -> list[Fact]:
    return [walk.known(name) or Fact(None, None) for name in body.outputs]


def _if(walk: Walk, step: Step) -> list[Fact]:
    """Both branches are walked; a known condition selects one."""
    condition = walk.known(step.inputs[0])
    taken = None
    if condition is not None and condition.value is not None and condition.value.size == 1:
        taken = "then_branch" if bool(condition.value.reshape(())) else "else_branch"
    results: dict[str, list[Fact]] = {}
    refusals: list[InconsistentError] = []
    for name, body in step.bodies.items():
        # A branch that is known not to run may well not fit these shapes: that is why it is there.
        # Of two that may run, one has to fit.
        strict, walk.strict = walk.strict, walk.strict and taken in (None, name)
        try:
            walk.run(body)
        except InconsistentError as error:
            refusals.append(error)
            walk.doubts += 1
        finally:
            walk.strict = strict
        results[name] = _results(walk, body)
    if refusals and (taken is not None or len(refusals) == len(results)):
        raise refusals[0]
    if taken is not None:
        return results[taken]
    return [join(pair) for pair in zip(*results.values(), strict=False)]


def _loop(walk: Walk, step: Step, body: Program) -> list[Fact]:
    """Carried values keep their shape if the body does; scan outputs gain a leading axis."""
    trips = walk.known(step.inputs[0]) if step.inputs else None
    carried = [_without_value(walk.known(name)) for name in step.inputs[2:]]
    heads = [Fact((), ir.DataType.INT64), Fact((), ir.DataType.BOOL)]
    results = _fixed_point(walk, body, heads, carried, skip=1)
    count = None
    stays = results[0].value is not None and bool(results[0].value.all())
    if trips is not None and trips.value is not None and stays:
        count = max(int(trips.value.reshape(-1)[0]), 0)
    scans = [_stacked(fact, 0, count) for fact in results[1 + len(carried) :]]
    finals = [join(pair) for pair in zip(carried, results[1:], strict=False)]
    return [*finals, *scans]


def _scan(walk: Walk, step: Step, body: Program) -> list[Fact]:
    """States keep their shape if the body does; scanned inputs lose an axis, outputs gain one."""
    attributes = step.node.attributes
    scanned = attributes["num_scan_inputs"].as_int()
    batch: int | None = None
    batched = step.version < 9  # opset 8: sequence lengths first, and a leading batch axis
    inputs = [walk.known(name) or Fact(None, None) for name in step.inputs[batched:]]
    if batched:
        batch = inputs[-1].shape[0] if inputs[-1].shape else None
        inputs = [_unstacked(fact, 0) for fact in inputs]
    states = [_without_value(fact) for fact in inputs[: len(inputs) - scanned]]
    axes = _axes(step, "scan_input_axes", scanned)
    rows = inputs[len(states) :]
    lengths = [_size(fact.shape, axis) for fact, axis in zip(rows, axes, strict=True)]
    count = next((length for length in lengths if length is not None), None)
    slices = [_unstacked(fact, axis) for fact, axis in zip(rows, axes, strict=True)]
    body_results = _fixed_point(walk, body, [], states, skip=0, tails=slices)
    finals = [join(pair) for pair in zip(states, body_results, strict=False)]
    outputs = body_results[len(states) :]
    out_axes = _axes(step, "scan_output_axes", len(outputs))
    results = [
        *finals,
        *(_stacked(fact, axis, count) for fact, axis in zip(outputs, out_axes, strict=True)),
    ]
    return [_stacked(fact, 0, batch) for fact in results] if batched else results


def _fixed_point(
    walk: Walk,
    body: Program,
    heads: Sequence[Fact],
    carried: Sequence[Fact],
    *,
    skip: int,
    tails: Sequence[Fact] = (),
) -> list[Fact]:
    """Walk a body until what it carries comes out as it went in.

    The body's inputs are ``heads``, ``carried`` and ``tails``, in order; ``skip`` is the number of
    its outputs before the carried ones.
    """
    current = list(carried)
    for round_ in range(_ROUNDS):
        for name, fact in zip(body.inputs, [*heads, *current, *tails], strict=False):
            walk.learn(name, fact)
        walk.run(body)
        results = _results(walk, body)
        met = [
            join((before, after)) for before, after in zip(current, results[skip:], strict=False)
        ]
        if all(a.shape == b.shape for a, b in zip(met, current, strict=True)):
            return results
        current = met if round_ < _ROUNDS - 2 else [Fact(None, fact.dtype) for fact in met]
    return _results(walk, body)


def _without_value(fact: Fact | None) -> Fact:
    """A carried value: its shape may stay, its content does not."""
    return Fact(None, None) if fact is None else Fact(fact.shape, fact.dtype, reason=fact.reason)


def _axes(step: Step, name: str, count: int) -> list[int]:
    return list(step.node.attributes.get_ints(name, [0] * count))


def _size(shape: Shape | None, axis: int) -> int | None:
    return shape[axis] if shape else None


def _unstacked(fact: Fact, axis: int) -> Fact:
    """One slice of a scanned value."""
    if not fact.shape:
        return Fact(None, fact.dtype, reason=fact.reason)
    axis %= len(fact.shape)
    return Fact(fact.shape[:axis] + fact.shape[axis + 1 :], fact.dtype, reason=fact.reason)


def _stacked(fact: Fact, axis: int, count: int | None) -> Fact:
    """What the iterations give, stacked along a new axis."""
    if fact.shape is None:
        return Fact(None, fact.dtype, reason=fact.reason)
    axis %= len(fact.shape) + 1
    shape = (*fact.shape[:axis], count, *fact.shape[axis:])
    return because(Fact(shape, fact.dtype), fact.reason or "the number of iterations is not known")
