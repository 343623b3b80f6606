"""The content of small values whose inputs are all known, by the reference operators of onnx."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnxprune.graph.facts import SMALL, Fact

_MOVES = """Shape Size Concat ConstantOfShape EyeLike Expand Flatten Gather GatherND Identity
NonZero OneHot Range Reshape ScatterElements ScatterND Slice Split Squeeze Tile Transpose Trilu
Unsqueeze Where Cast CastLike Pad Compress"""
_MAPS = """Abs Ceil Clip Cos Erf Exp Floor Log Neg Not Reciprocal Relu Round Sigmoid Sign Sin Sqrt
Tanh BitShift BitwiseAnd BitwiseNot BitwiseOr CumSum DequantizeLinear QuantizeLinear GreaterOrEqual
LessOrEqual Max Min Mod Sum MatMul ArgMax ArgMin ReduceMax ReduceMean ReduceMin ReduceProd
ReduceSum"""
_BROADCASTS = "Add And Div Equal Greater Less Mul Or Pow Sub Xor"

# Operators whose reference implementation is right at every opset from the one given. Others are
# left out on purpose: convolutions and the like of tiny constants are of no use, random ones
# have no value, Softmax before opset 13 means something else than its reference does, and the
# reference GatherElements is wrong where indices are fewer than data.
SINCE = dict.fromkeys((_MOVES + " " + _MAPS).split(), 1) | dict.fromkeys(_BROADCASTS.split(), 7)

_CONTEXT: dict[str, Any] = {"log": lambda *_: None, "opsets": {}, "new_ops": None}


def evaluate(
    proto: onnx.NodeProto, version: int, inputs: Sequence[Fact | None], results: Sequence[Fact]
) -> list[Fact]:
    """Add content to ``results`` where it is known and small.

    Args:
        proto: the node.
        version: its opset.
        inputs: a fact per input, None for one that is left out.
        results: a fact per output, from shape inference.

    Returns:
        The results, unchanged wherever content is not known.
    """
    if proto.op_type in ("Shape", "Size"):
        return [_measure(proto, inputs[0], results[0])]
    if not is_trusted(proto, version):
        return list(results)
    arrays = [None if fact is None else fact.value for fact in inputs]
    known = all(
        fact is None or array is not None for fact, array in zip(inputs, arrays, strict=True)
    )
    if not known or not all(_is_small(fact) for fact in results):
        return list(results)
    computed = run(proto, version, arrays)
    if computed is None or len(computed) != len(results):
        return list(results)
    return [_with_value(fact, value) for fact, value in zip(results, computed, strict=True)]


def _measure(proto: onnx.NodeProto, source: Fact | None, result: Fact) -> Fact:
    """Shape and Size, which need the shape of their input and not its content."""
    if source is None or source.sizes is None:
        return result
    sizes = source.sizes
    if proto.op_type == "Size":
        return _with_value(result, np.array(math.prod(sizes), np.int64))
    bounds = {attribute.name: attribute.i for attribute in proto.attribute}
    # Python slices clamp bounds the way the operator does.
    part = sizes[bounds.get("start", 0) : bounds.get("end")]
    return _with_value(result, np.array(part, np.int64))


def _is_small(fact: Fact) -> bool:
    """Whether a result may be computed: unknown sizes may, they are bounded by the inputs'."""
    return fact.sizes is None or math.prod(fact.sizes) <= SMALL


def is_trusted(proto: onnx.NodeProto, version: int) -> bool:
    """Whether the reference operator means what a runtime does at this opset."""
    return proto.domain == "" and version >= SINCE.get(proto.op_type, version + 1)


def run(
    proto: onnx.NodeProto, version: int, arrays: Sequence[npt.NDArray[Any] | None]
) -> Sequence[object] | None:
    """The results of the reference operator, if it is trusted and has any for these inputs.

    Args:
        proto: a node of the standard domain.
        version: its opset.
        arrays: a content per input, None for one that is left out.
    """
    # Imported here: 40 ms that a model without shape arithmetic need not pay.
    from onnx.reference.ops import load_op

    if not is_trusted(proto, version):
        return None
    try:
        with np.errstate(all="ignore"):
            operator = load_op("", proto.op_type, version)(proto, _CONTEXT)
            results: Sequence[object] = operator.run(*arrays)
            return results
    except Exception:  # noqa: BLE001  # plain Python over arbitrary input: any failure is "unknown"
        return None


def _with_value(fact: Fact, value: object) -> Fact:
    """The fact with its content, if that agrees with inference."""
    if fact.dtype is None or not isinstance(value, (np.ndarray, np.generic)):
        return fact
    array = np.asarray(value)
    expected = () if fact.shape is None else fact.shape
    fits = fact.shape is None or (
        array.ndim == len(expected)
        and all(want in (None, size) for want, size in zip(expected, array.shape, strict=True))
    )
    if not fits or array.size > SMALL or _dtype_of(array) != fact.dtype:
        return fact
    array = array.view()
    array.flags.writeable = False
    return Fact(array.shape, fact.dtype, array)


def _dtype_of(array: npt.NDArray[Any]) -> ir.DataType | None:
    try:
        return ir.DataType.from_numpy(array.dtype)
    except TypeError:
        return None
