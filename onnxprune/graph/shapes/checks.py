"""What schema inference lets pass and a runtime does not; and the few shapes it leaves out.

onnx infers a shape for a convolution whose channels do not match its weights, for a window larger
than what it looks at, for a recurrence whose initial state has another batch. Input shapes are
only worth probing with when onnxruntime would run them, so these are refused here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnxprune.graph.shapes.call import (
    Check,
    InconsistentError,
    Inputs,
    attributes_of,
    broadcast,
    require,
    sizes_of,
)
from onnxprune.graph.shapes.facts import Fact, Shape, full
from onnxprune.graph.shapes.windows import WINDOW_CHECKS


def checked(node: onnx.NodeProto, inputs: Inputs, facts: list[Fact]) -> list[Fact]:
    """The inferred facts of a node's outputs, completed.

    Args:
        node: a node of the standard domain.
        inputs: a fact per input, None where left out.
        facts: what inference gave, one per output.

    Raises:
        InconsistentError: the inputs do not fit together.
    """
    check = _CHECKS.get(node.op_type)
    if check is not None and facts:
        facts[0] = check(node, inputs, facts[0])
        if node.op_type in ("Dropout", "MaxPool"):
            # Masks (which have no inference before opset 10) and indices go with the values.
            first = facts[0]
            facts[1:] = [Fact(first.shape, other.dtype or first.dtype) for other in facts[1:]]
    return facts


def _per_channel(_: onnx.NodeProto, inputs: Inputs, fact: Fact) -> Fact:
    """BatchNormalization, InstanceNormalization: one scale per channel."""
    x, scale = sizes_of(inputs, 0), sizes_of(inputs, 1)
    if x is not None and scale and len(x) > 1:
        require(x[1], scale[0], "channels")
    return fact


def _broadcast_to_first(_: onnx.NodeProto, inputs: Inputs, fact: Fact) -> Fact:
    """LayerNormalization, RMSNormalization: the scale stretches to the input."""
    x, other = sizes_of(inputs, 0), sizes_of(inputs, 1)
    if x is not None and other is not None:
        try:
            together = broadcast(x, other)
        except ValueError as error:
            raise InconsistentError(str(error)) from error
        if together != x:
            raise InconsistentError(f"shape {other} does not stretch to {x}")
    return fact


def _recurrent(node: onnx.NodeProto, inputs: Inputs, fact: Fact) -> Fact:
    """RNN, GRU, LSTM: features meet weights, initial states meet the batch."""
    x, weight = sizes_of(inputs, 0), sizes_of(inputs, 1)
    if x is None or len(x) != 3:
        return fact
    if weight is not None and len(weight) == 3:
        require(x[2], weight[2], "features")
    batch_first = attributes_of(node).get("layout", 0)
    for index in (5, 6):
        state = sizes_of(inputs, index)
        if state is not None and len(state) == 3:
            require(x[0 if batch_first else 1], state[0 if batch_first else 1], "sequences")
    return fact


def _blocks(node: onnx.NodeProto, inputs: Inputs, fact: Fact) -> Fact:
    """DepthToSpace and SpaceToDepth: nothing is left over."""
    x, size = sizes_of(inputs, 0), attributes_of(node).get("blocksize", 1)
    if x is not None and len(x) == 4:
        cut = x[2:] if node.op_type == "SpaceToDepth" else (x[1] // size,)
        whole = cut[0] * size == x[1] if len(cut) == 1 else all(s % size == 0 for s in cut)
        if not whole:
            raise InconsistentError(f"shape {x} does not divide into blocks of {size}")
    return fact


def _einsum(node: onnx.NodeProto, inputs: Inputs, fact: Fact) -> Fact:
    """A letter has one size, or 1."""
    equation = attributes_of(node).get("equation", b"").decode().replace(" ", "")
    seen: dict[str, int] = {}
    for index, term in enumerate(equation.split("->")[0].split(",")):
        sizes = sizes_of(inputs, index)
        if sizes is None or "." in term or len(term) != len(sizes):
            continue
        for letter, size in zip(term, sizes, strict=True):
            if size != 1 and seen.setdefault(letter, size) != size:
                raise InconsistentError(f"{letter} is {seen[letter]} and {size} in {equation}")
    return fact


def _stft(node: onnx.NodeProto, inputs: Inputs, fact: Fact) -> Fact:
    """Onesided transforms keep half the frequencies, which onnx's inference forgets."""
    window = sizes_of(inputs, 2)
    stated = inputs[3] if len(inputs) > 3 else None
    length = window[0] if window else None
    if stated is not None:
        length = int(stated.value.reshape(-1)[0]) if stated.value is not None else None
    if fact.shape is None or len(fact.shape) != 4:
        return fact
    bins = length
    if length is not None and attributes_of(node).get("onesided", 1):
        bins = length // 2 + 1
    return Fact((*fact.shape[:2], bins, fact.shape[3]), fact.dtype)


def _like_first(_: onnx.NodeProto, inputs: Inputs, fact: Fact) -> Fact:
    """Operators whose schema infers a type and no shape."""
    first = inputs[0] if inputs else None
    return fact if first is None else Fact(first.shape, fact.dtype or first.dtype)


def _reshape(node: onnx.NodeProto, inputs: Inputs, fact: Fact) -> Fact:
    """Reshape with everything checked; its target is an attribute before opset 5."""
    source = inputs[0] if inputs else None
    stated = inputs[1] if len(inputs) > 1 else None
    attributes = attributes_of(node)
    target = None if stated is None else stated.value
    if target is None and "shape" in attributes:
        target = np.array(attributes["shape"], np.int64)
    dtype = fact.dtype if source is None else source.dtype
    if target is not None:
        shape = None if source is None else source.shape
        return Fact(reshaped(shape, target, keep_zero=bool(attributes.get("allowzero"))), dtype)
    rank = None if stated is None or not stated.sizes else stated.sizes[0]
    return Fact(None if rank is None else (None,) * rank, dtype)


def reshaped(source: Shape | None, target: npt.NDArray[Any], *, keep_zero: bool = False) -> Shape:
    """The shape a Reshape to ``target`` gives.

    Args:
        source: shape of the input.
        target: int64 ``[rank]``; -1 is what remains, 0 the input's size unless ``keep_zero``.
        keep_zero: whether a 0 is a size of zero (``allowzero``).

    Raises:
        InconsistentError: the number of elements would change.
    """
    wanted = [int(size) for size in target]
    sizes: list[int | None] = list(wanted)
    if not keep_zero:
        for axis, size in enumerate(wanted):
            if size == 0 and source is not None and axis >= len(source):
                raise InconsistentError(f"shape {source} has no axis {axis} to keep")
            if size == 0:
                sizes[axis] = None if source is None else source[axis]
    known = full(source)
    others = full(tuple(size for size in sizes if size != -1))
    if known is None or others is None:
        return tuple(None if size == -1 else size for size in sizes)
    count, rest = math.prod(known), math.prod(others)
    remainder = 0 if rest == 0 else count // rest
    result = tuple(remainder if size == -1 else size for size in sizes)
    if rest * (remainder if -1 in sizes else 1) != count:
        raise InconsistentError(f"shape {source} does not reshape to {wanted}")
    return result


_CHECKS: Mapping[str, Check] = {
    **WINDOW_CHECKS,
    "BatchNormalization": _per_channel,
    "DepthToSpace": _blocks,
    "Dropout": _like_first,
    "Einsum": _einsum,
    "GRU": _recurrent,
    "GroupNormalization": _like_first,
    "InstanceNormalization": _per_channel,
    "LSTM": _recurrent,
    "LayerNormalization": _broadcast_to_first,
    "MeanVarianceNormalization": _like_first,
    "RMSNormalization": _broadcast_to_first,
    "RNN": _recurrent,
    "Reshape": _reshape,
    "STFT": _stft,
    "SpaceToDepth": _blocks,
}
