"""Shares of zeros by magnitude, in weights that are no matrix of one layer's own.

Gates of recurrent layers, operands of an Einsum, stacks of experts, weights in bodies, behind a
DequantizeLinear or read by several nodes have no least squares of their own. Their smallest
elements are set to zero; what is kept is bit-equal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import stated
from onnxprune.graph.layers.linear import LinearLayer, find_layers, other_users
from onnxprune.graph.plan import PackedMask, pack
from onnxprune.solve import masks
from onnxprune.sparse.nm import Masking, Progress
from onnxprune.types import Check, LayerOutcome

_KINDS = ("plain", "recurrent", "sum")


def sparsify_others(
    work: models.Model,
    share: float,
    *,
    skip: Sequence[str] = (),
    exclude: Mapping[str, str] | None = None,
    done: Collection[str] = (),
    progress: Progress = lambda _: None,
) -> Masking:
    """Set the smallest elements of every weight of a layer to zero, but for those done elsewhere.

    A mask of single elements is the same to all readers, whichever axis they contract.

    Args:
        work: the model, which is changed.
        share: of the elements of every weight.
        skip: globs over names of weights that stay dense.
        exclude: names of weights that stay dense, with the reason.
        done: names of weights that are handled elsewhere and not reported.
        progress: told which weight is being worked on.
    """
    by_weight: dict[str, list[LinearLayer]] = {}
    for layer in find_layers(work):
        if layer.source is not None and layer.kind in _KINDS and layer.weight not in done:
            by_weight.setdefault(layer.weight, []).append(layer)
    outcomes: list[LayerOutcome] = []
    packed: dict[str, PackedMask] = {}
    sizes: list[int] = []
    for number, (name, layers) in enumerate(by_weight.items(), start=1):
        first = layers[0]
        outcome = LayerOutcome(first.node, weight=name, shape=first.tensor.shape)
        reason = (exclude or {}).get(name) or _why_not(layers, skip)
        if reason:
            outcomes.append(replace(outcome, reason=reason))
            continue
        progress(f"setting entries to zero, weight {number} of {len(by_weight)}: {name}")
        array = first.tensor.read()
        keep = masks.keep_top(first.tensor.magnitude(array), share)
        kept = np.where(keep, array, array.dtype.type(0))
        models.set_constant(first.tensor.value, ir.Tensor(kept, dtype=first.tensor.dtype))
        packed[name] = pack(keep)
        sizes.append(keep.size)
        outcomes.append(replace(outcome, method="magnitude", sparsity=1 - float(keep.mean())))
    zeros = sum(mask.size - mask.kept for mask in packed.values())
    expected = sum(masks.removed_count(size, share) for size in sizes)
    short = (expected - zeros) / max(sum(sizes), 1)
    name = "zeros short of the sparsity asked for, by magnitude"
    check = Check(name, short <= 0, short, 0.0) if packed else None
    return Masking(tuple(outcomes), packed, check)


def _why_not(layers: Sequence[LinearLayer], skip: Sequence[str]) -> str:
    first, nodes = layers[0], [each.node for each in layers]
    stored = first.tensor
    glob = next((g for g in skip if fnmatchcase(stored.name, g)), None)
    if glob is not None:
        return stated("--skip", glob)
    if also := other_users(first, nodes):
        return f"its weight is read by {also} too"
    if not first.size:
        return "its weight is empty"
    scaling = stored.scaling
    if scaling is None and not stored.dtype.is_floating_point():
        return "its weight is not stored as floating point"
    if scaling is not None and scaling.zero is not None and scaling.zero.astype(np.float32).any():
        return "its weight has a zero point other than 0, so no stored zero is a zero"
    return ""
