"""Compare the zeros and N:M patterns of a float model with those of its quantized form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.layers.linear import LinearLayer, find_layers, plain
from onnxprune.sparse.nm import counts
from onnxprune.types import Check

Array = npt.NDArray[Any]

_PATTERNS = ((2, 4), (1, 4), (4, 8), (2, 8))


@dataclass(frozen=True)
class Weight:
    """A weight of the float model, before and after quantization.

    Attributes:
        name: in the float model.
        quantized: name of its int8 form; empty where it stayed floating point.
        elements: number of elements.
        zeros: the share of them that is zero in the float model.
        zeros_after: the same in the quantized one.
        lost: zeros that are no longer zero.
        pattern: ``2:4`` and the like, in the float model; empty for none.
        kept: whether the quantized weight has the pattern too.
        op: the operator that contracts it.
        reason: why it stayed floating point; empty if it did not.
    """

    name: str
    quantized: str
    elements: int
    zeros: float
    zeros_after: float = 0.0
    lost: int = 0
    pattern: str = ""
    kept: bool = True
    op: str = ""
    reason: str = ""


def compare(
    dense: models.Model,
    quantized: models.Model,
    why: Callable[[LinearLayer], str] = lambda _: "",
) -> tuple[Weight, ...]:
    """Every weight that a layer of the float model contracts, in the order of its graph.

    Args:
        dense: the float model.
        quantized: the result of onnxruntime's quantizer; weights are found by their names.
        why: why the weight of a layer stayed floating point, if it did.
    """
    stored = models.constants(quantized)
    weights: dict[str, Weight] = {}
    for layer in plain(find_layers(dense)):
        name = layer.weight
        if name not in weights:
            weight = _compare(layer, _quantized(name, stored), stored)
            reason = "" if weight.quantized else why(layer)
            weights[name] = replace(weight, op=layer.operator.op_type, reason=reason)
    return tuple(weights.values())


def checks(weights: tuple[Weight, ...]) -> tuple[Check, ...]:
    """Checks that every zero is still zero, and that every pattern is kept."""
    lost = sum(each.lost for each in weights)
    results = [Check("zeros that are no longer zero", lost == 0, lost, 0)]
    patterned = [each for each in weights if each.pattern and each.quantized]
    if patterned:
        broken = sum(not each.kept for each in patterned)
        results.append(Check("weights that lost their N:M pattern", broken == 0, broken, 0))
    return tuple(results)


def _quantized(name: str, stored: Mapping[str, ir.Value]) -> ir.Value | None:
    for suffix in ("_quantized", "_Transposed_quantized", "_transposed_quantized"):
        if name + suffix in stored:
            return stored[name + suffix]
    return None


def _compare(layer: LinearLayer, value: ir.Value | None, stored: Mapping[str, ir.Value]) -> Weight:
    name, before = layer.weight, layer.tensor.read()
    pattern, (n, m) = pattern_of(layer, before)
    share = 1 - np.count_nonzero(before) / max(before.size, 1)
    tensor = None if value is None else models.constant(value)
    if value is None or tensor is None:
        return Weight(name, "", before.size, share, share, pattern=pattern)
    after = tensor.numpy().astype(np.int16) - _zero_point(name, value, stored)
    if _turned(layer, value):
        after = after.T
    if after.shape != before.shape:
        return Weight(name, value.name or "", before.size, share, 0.0, int(before.size), pattern,
                      kept=False)  # fmt: skip
    lost = int(np.count_nonzero(after[before == 0]))
    return Weight(
        name,
        value.name or "",
        before.size,
        share,
        1 - np.count_nonzero(after) / max(after.size, 1),
        lost,
        pattern,
        kept=not pattern or bool((counts(layer, after, m) <= n).all()),
    )


def _turned(layer: LinearLayer, value: ir.Value) -> bool:
    """Whether a Gemm became a MatMulInteger, which has no transB: then its weight was turned."""
    flag = layer.operator.attributes.get("transB")
    kept = any(node.op_type == "DequantizeLinear" for node, _ in value.uses())
    return layer.operator.op_type == "Gemm" and flag is not None and flag.as_int() == 1 and not kept


def pattern_of(layer: LinearLayer, weight: Array) -> tuple[str, tuple[int, int]]:
    """The sparsest N:M pattern that a weight has, in words and numbers; empty and 0:1 for none."""
    for n, m in sorted(_PATTERNS, key=lambda p: p[0] / p[1]):
        whole = layer.inputs % m == 0 and weight.size
        if whole and (counts(layer, weight, m) <= n).all():
            return f"{n}:{m}", (n, m)
    return "", (0, 1)


def _zero_point(name: str, value: ir.Value, stored: Mapping[str, ir.Value]) -> int:
    """The zero point: 0 as configured, or whatever else the model stores."""
    base = (value.name or "").removesuffix("_quantized")
    point = stored.get(f"{base}_zero_point") or stored.get(f"{name}_zero_point")
    tensor = None if point is None else models.constant(point)
    array = None if tensor is None else np.unique(tensor.numpy().astype(np.int16))
    return int(array[0]) if array is not None and array.size == 1 else 0
