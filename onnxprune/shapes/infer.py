"""The facts of one node's outputs: by its schema, or by a rule where onnx has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from onnxprune.shapes.contrib import RULES, Call
from onnxprune.shapes.facts import Fact, Shape, because, from_type, full
from onnxprune.shapes.program import Step

_INFERENCE_ERRORS = (onnx.shape_inference.InferenceError, RuntimeError, ValueError, IndexError)
_DATA_SIZE = 64  # shapes, axes, bounds, pads, scales; inference reads no longer operands


class InconsistentError(ValueError):
    """These input shapes do not fit this node: onnxruntime would refuse to run it."""


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
        known = all(fact is None or fact.sizes is not None for fact in inputs)
        try:
            inferred = onnx.shape_inference.infer_node_outputs(
                step.schema, step.proto, dict(types), _data(step, inputs), opset_imports=opsets
            )
        except _INFERENCE_ERRORS as error:
            reason = " ".join(str(error).split())
            if known:
                raise InconsistentError(reason) from error
            return [Fact(None, None, reason=reason)] * len(step.outputs), {}
        facts = [
            from_type(inferred[name]) if name in inferred else Fact(None, None)
            for name in step.outputs
        ]
    elif step.node.op_type in RULES:
        facts = _by_rule(step, inputs)
    else:
        place = step.node.domain or "ai.onnx"
        reason = f"no schema or rule for {place}::{step.node.op_type} {step.version}"
        return [Fact(None, None, reason=reason)] * len(step.outputs), {}
    facts = _checked(step, inputs, facts)
    return [because(fact, fact.reason or _why(step, inputs)) for fact in facts], inferred


def _data(step: Step, inputs: Sequence[Fact | None]) -> dict[str, onnx.TensorProto]:
    """Content for the operands inference may read: short ones, never weights."""
    return {
        name: numpy_helper.from_array(fact.value, name)
        for name, fact in zip(step.proto.input, inputs, strict=False)
        if fact is not None and fact.value is not None and fact.value.size <= _DATA_SIZE
    }


def _by_rule(step: Step, inputs: Sequence[Fact | None]) -> list[Fact]:
    attributes: dict[str, Any] = {
        name: attribute.value for name, attribute in step.node.attributes.items()
    }
    call = Call(inputs, attributes, len(step.outputs))
    try:
        facts = RULES[step.node.op_type](call)
    except (ValueError, IndexError, TypeError) as error:
        raise InconsistentError(str(error)) from error
    blank = [Fact(None, None)] * (len(step.outputs) - len(facts))
    return [*facts, *blank][: len(step.outputs)]


def _why(step: Step, inputs: Sequence[Fact | None]) -> str:
    """Why a shape is not fully known, as far as the inputs tell."""
    for name, fact in zip(step.inputs, inputs, strict=True):
        if fact is not None and fact.sizes is None:
            return f"{step.title} reads {name!r}: {fact.reason or 'its shape is not known'}"
    return f"the shape of {step.title} depends on data"


def _checked(step: Step, inputs: Sequence[Fact | None], facts: list[Fact]) -> list[Fact]:
    """What schema inference lets pass and a runtime does not."""
    op = step.proto.op_type
    shapes = [None if fact is None else fact.sizes for fact in inputs]
    if op == "Reshape" and step.proto.domain == "":
        return [_reshape(step, inputs, facts[0])]
    if op in ("Conv", "ConvInteger") and len(shapes) > 1:
        _check_conv(step, shapes[0], shapes[1])
    elif op == "BatchNormalization" and len(shapes) > 1:
        x, scale = shapes[0], shapes[1]
        if x is not None and scale is not None and len(x) > 1 and x[1] != scale[0]:
            raise InconsistentError(f"{x[1]} channels meet {scale[0]} scales")
    elif op == "Dropout" and len(facts) > 1 and facts[1].shape is None:
        # The mask has no inference before opset 10.
        facts = [facts[0], Fact(facts[0].shape, facts[1].dtype or facts[0].dtype)]
    if op in _SPATIAL and facts and _emptied(shapes[0], facts[0].shape):
        raise InconsistentError(f"nothing is left of an input of shape {shapes[0]}")
    return facts


_SPATIAL = (
    "Conv",
    "ConvInteger",
    "QLinearConv",
    "ConvTranspose",
    "MaxPool",
    "AveragePool",
    "LpPool",
)


def _emptied(before: tuple[int, ...] | None, after: Shape | None) -> bool:
    """Whether a window operator had something to look at and produced nothing."""
    return before is not None and 0 not in before and after is not None and not all(after)


def _check_conv(step: Step, x: tuple[int, ...] | None, weight: tuple[int, ...] | None) -> None:
    if x is None or weight is None or len(x) < 2 or len(weight) < 2:
        return
    groups = next((a.i for a in step.proto.attribute if a.name == "group"), 1)
    if x[1] != weight[1] * groups:
        raise InconsistentError(f"{x[1]} channels meet weights for {weight[1]} x {groups}")


def _reshape(step: Step, inputs: Sequence[Fact | None], fact: Fact) -> Fact:
    """Reshape with everything checked; its target is an attribute before opset 5."""
    source = inputs[0] if inputs else None
    target: npt.NDArray[Any] | None = None
    length: int | None = None
    if len(inputs) > 1 and (stated := inputs[1]) is not None:
        target = stated.value
        length = stated.sizes[0] if stated.sizes else None
    attributes = {attribute.name: attribute for attribute in step.proto.attribute}
    if target is None and "shape" in attributes:
        target = np.array(attributes["shape"].ints, np.int64)
    dtype = fact.dtype if source is None else source.dtype
    if target is None:
        return Fact((None,) * length if length is not None else None, dtype)
    keep_zero = "allowzero" in attributes and bool(attributes["allowzero"].i)
    return Fact(reshaped(None if source is None else source.shape, target, keep_zero), dtype)


def reshaped(source: Shape | None, target: npt.NDArray[Any], keep_zero: bool) -> Shape:  # noqa: FBT001
    """The shape a Reshape to ``target`` gives.

    Args:
        source: shape of the input.
        target: int64 ``[rank]``; -1 is what remains, 0 the input's size unless ``keep_zero``.
        keep_zero: whether a 0 is a size of zero (``allowzero``).

    Raises:
        InconsistentError: the number of elements would change.
    """
    sizes: list[int | None] = []
    for axis, wanted in enumerate(int(size) for size in target):
        if wanted == 0 and not keep_zero:
            if source is not None and axis >= len(source):
                raise InconsistentError(f"axis {axis} of shape {source} does not exist")
            sizes.append(None if source is None else source[axis])
        else:
            sizes.append(wanted)
    count = None if (known := full(source)) is None else int(np.prod(known, dtype=np.int64))
    others = [size for size in sizes if size != -1]
    rest = None if None in others else int(np.prod(np.array(others, np.int64), dtype=np.int64))
    if -1 in sizes:
        if count is None or rest is None:
            return tuple(None if size == -1 else size for size in sizes)
        if (count % rest if rest else count) != 0:
            raise InconsistentError(
                f"shape {source} does not reshape to {[int(s) for s in target]}"
            )
        return tuple((count // rest if rest else 0) if s == -1 else s for s in sizes)
    if count is not None and rest is not None and count != rest:
        raise InconsistentError(f"shape {source} does not reshape to {[int(s) for s in target]}")
    return tuple(sizes)
