"""The forward walk: from concrete input shapes to a fact for every value, bodies included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from onnxprune.errors import OnnxpruneError
from onnxprune.shapes import control
from onnxprune.shapes.call import InconsistentError
from onnxprune.shapes.facts import Fact, Shape, because, declared, to_type
from onnxprune.shapes.infer import infer
from onnxprune.shapes.program import Program, Step, compile_graph, opsets_of
from onnxprune.shapes.values import evaluate

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
        says why; a legal model never raises.

    Raises:
        OnnxpruneError: ``inputs`` names something that is no graph input, or contradicts the
            shape it is declared with.
    """
    opsets = opsets_of(model.ir)
    walk = Walk(opsets)
    program = compile_graph(model.ir.graph, opsets)
    feed(walk, program, model.ir.graph, inputs)
    walk.run(program)
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
                hint=f"its inputs are {', '.join(map(repr, program.needed))}",
            )
        said = declared(names[name]).shape
        if said is not None and (
            len(said) != len(sizes)
            or any(a not in (None, b) for a, b in zip(said, sizes, strict=True))
        ):
            raise OnnxpruneError(
                f"input {name!r} cannot have shape {tuple(sizes)}",
                hint=f"the model declares {names[name].shape}",
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
                results = control.walk_bodies(self, step) if step.bodies else self._node(step)
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


def _completed(fact: Fact, said: Fact) -> Fact:
    """What inference left open, filled in from what the model declares."""
    dtype = fact.dtype or said.dtype
    if fact.sizes is not None or said.shape is None:
        return fact if dtype == fact.dtype else replace(fact, dtype=dtype)
    shape: Shape | None = None
    if fact.shape is None:
        shape = said.shape
    elif len(fact.shape) == len(said.shape):
        pairs = zip(fact.shape, said.shape, strict=True)
        shape = tuple(a if a is not None else b for a, b in pairs)
    if shape is None:
        return replace(fact, dtype=dtype)
    return because(Fact(shape, dtype), fact.reason)
