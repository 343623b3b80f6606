"""The facts of one node's outputs: by its schema, or by a rule where onnx has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import numpy_helper

from onnxprune.graph.facts import Fact, because, from_type
from onnxprune.graph.ops import SHAPES
from onnxprune.graph.ops.shape_call import InconsistentError, ShapeCall, ShapeRule
from onnxprune.graph.shapes.program import Step, find_rule

_REFUSALS = (
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    RuntimeError,
    ValueError,
    IndexError,
)
_DATA_SIZE = 64  # shapes, axes, bounds, pads, scales; inference reads no longer operands


def infer(
    step: Step,
    inputs: Sequence[Fact | None],
    types: Mapping[str, onnx.TypeProto],
    opsets: list[onnx.OperatorSetIdProto],
) -> tuple[list[Fact], Mapping[str, onnx.TypeProto]]:
    """Infer the outputs of a node.

    Args:
        step: the node.
        inputs: a fact per input, None for one that is left out.
        types: the ONNX type of every input by name; an empty one where nothing is known.
        opsets: the model's imports.

    Returns:
        A fact per output, and the ONNX types by name (for values that are not tensors).

    Raises:
        InconsistentError: everything is known about the inputs and they do not fit together.
    """
    inferred: Mapping[str, onnx.TypeProto] = {}
    if step.schema is not None:
        try:
            inferred = onnx.shape_inference.infer_node_outputs(
                step.schema, step.proto, dict(types), _data(step, inputs), opset_imports=opsets
            )
        except _REFUSALS as error:
            reason = " ".join(str(error).split())
            if all(fact is None or fact.sizes is not None for fact in inputs):
                raise InconsistentError(reason) from error
            return [Fact(None, None, reason=reason)] * len(step.outputs), {}
        facts = [
            from_type(inferred[name]) if name in inferred else Fact(None, None)
            for name in step.outputs
        ]
        mending = SHAPES.get((step.proto.domain, step.proto.op_type))
        if mending is not None:
            facts = _by_rule(mending, step, inputs, facts)
    elif (rule := find_rule(step.node.domain, step.node.op_type)) is not None:
        facts = _by_rule(rule, step, inputs)
    else:
        place = step.node.domain or "ai.onnx"
        reason = f"no schema or rule for {place}::{step.node.op_type} {step.version}"
        return [Fact(None, None, reason=reason)] * len(step.outputs), {}
    return [
        fact if fact.sizes is not None else because(fact, fact.reason or _why(step, inputs))
        for fact in facts
    ], inferred


def _data(step: Step, inputs: Sequence[Fact | None]) -> dict[str, onnx.TensorProto]:
    """Content for the operands inference may read: short ones of plain numbers, never weights."""
    return {
        name: numpy_helper.from_array(fact.value, name)
        for name, fact in zip(step.proto.input, inputs, strict=False)
        if fact is not None
        and fact.value is not None
        and fact.value.size <= _DATA_SIZE
        and fact.value.dtype.kind in "iufb"
    }


def _by_rule(
    rule: ShapeRule, step: Step, inputs: Sequence[Fact | None], inferred: Sequence[Fact] = ()
) -> list[Fact]:
    """The facts of a rule; those inferred (or nothing) for outputs it does not mention."""
    attributes = {name: attribute.value for name, attribute in step.node.attributes.items()}
    op, domain = step.proto.op_type, step.proto.domain
    try:
        result = rule(ShapeCall(op, domain, step.version, attributes, inputs, inferred))
    except (ValueError, IndexError, TypeError) as error:
        raise InconsistentError(str(error)) from error
    facts = result if isinstance(result, list) else [result]
    blank = [Fact(None, None)] * len(step.outputs)
    return [*facts, *[*inferred, *blank][len(facts) :]][: len(step.outputs)]


def _why(step: Step, inputs: Sequence[Fact | None]) -> str:
    """Why a shape is not fully known, judging by the inputs."""
    for name, fact in zip(step.inputs, inputs, strict=True):
        if fact is not None and fact.sizes is None:
            return f"{step.title} reads {name!r}: {fact.reason or 'its shape is not known'}"
    return f"the shape of {step.title} depends on data"
