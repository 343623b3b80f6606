"""Nodes with bodies: If, Loop, Scan. Their bodies are walked like graphs, captures and all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxprune.shapes.call import InconsistentError
from onnxprune.shapes.facts import Fact, Shape, because, join

if TYPE_CHECKING:
    from onnxprune.shapes.program import Program, Step
    from onnxprune.shapes.walk import Walk

_ROUNDS = 4  # carried shapes lose a size per round or stay; after these they lose all of them


def walk_bodies(walk: Walk, step: Step) -> list[Fact]:
    """Walk the bodies of a node and say what it gives.

    Raises:
        Inconsistent: a body refused its inputs, if the walk is strict.
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
    """Both branches are walked; a known condition says which one counts."""
    condition = walk.known(step.inputs[0])
    taken = None
    if condition is not None and condition.value is not None and condition.value.size == 1:
        taken = "then_branch" if bool(condition.value.reshape(())) else "else_branch"
    given: dict[str, list[Fact]] = {}
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
        given[name] = _results(walk, body)
    if refusals and (taken is not None or len(refusals) == len(given)):
        raise refusals[0]
    if taken is not None:
        return given[taken]
    return [join(pair) for pair in zip(*given.values(), strict=False)]


def _loop(walk: Walk, step: Step, body: Program) -> list[Fact]:
    """Carried values keep their shape if the body does; scan outputs gain a leading axis."""
    trips = walk.known(step.inputs[0]) if step.inputs else None
    carried = [_without_value(walk.known(name)) for name in step.inputs[2:]]
    heads = [Fact((), ir.DataType.INT64), Fact((), ir.DataType.BOOL)]
    given = _fixed_point(walk, body, heads, carried, skip=1)
    count = None
    stays = given[0].value is not None and bool(given[0].value.all())
    if trips is not None and trips.value is not None and stays:
        count = max(int(trips.value.reshape(-1)[0]), 0)
    scans = [_stacked(fact, 0, count) for fact in given[1 + len(carried) :]]
    finals = [join(pair) for pair in zip(carried, given[1:], strict=False)]
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
    given = _fixed_point(walk, body, [], states, skip=0, tails=slices)
    finals = [join(pair) for pair in zip(states, given, strict=False)]
    outputs = given[len(states) :]
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
        given = _results(walk, body)
        met = [join((before, after)) for before, after in zip(current, given[skip:], strict=False)]
        if all(a.shape == b.shape for a, b in zip(met, current, strict=True)):
            return given
        current = met if round_ < _ROUNDS - 2 else [Fact(None, fact.dtype) for fact in met]
    return _results(walk, body)


def _without_value(fact: Fact | None) -> Fact:
    """A carried value: its shape may stay, its content does not."""
    return Fact(None, None) if fact is None else Fact(fact.shape, fact.dtype, reason=fact.reason)


def _axes(step: Step, name: str, count: int) -> list[int]:
    attribute = step.node.attributes.get(name)
    return [0] * count if attribute is None else list(attribute.as_ints())


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
