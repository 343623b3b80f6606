"""N:M by magnitude, wherever a weight is stored and whatever lies between it and its node.

No data, no refit and no arithmetic on the weights: bits are compared and zeros written, so what
is kept is bit-equal, in any type, quantized ones included. Weights get their zeros while they are
read or written (``sparse.streamed``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import spelled, stated
from onnxprune.graph.layers.linear import LinearLayer, find_layers, other_users, plain
from onnxprune.graph.plan import ComputedMask, PackedMask, pack
from onnxprune.solve import masks
from onnxprune.sparse.streamed import SLAB, StreamedCheck
from onnxprune.types import Check, LayerOutcome

Bool = npt.NDArray[np.bool_]
Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Masking:
    """The masks of a model.

    Attributes:
        outcomes: one per weight, in the order of the graph.
        masks: weight name -> which of its entries are kept.
        check: the most weights that any group has.
    """

    outcomes: tuple[LayerOutcome, ...]
    masks: Mapping[str, PackedMask]
    check: Check | None


def sparsify_nm(
    work: models.Model,
    n: int,
    m: int,
    *,
    skip: Sequence[str] = (),
    exclude: Mapping[str, str] | None = None,
    done: Collection[str] = (),
    tied: bool = False,
    streamed: bool = True,
    progress: Progress = lambda _: None,
) -> Masking:
    """Keep the ``n`` largest of every ``m`` weights along what is contracted.

    A weight that several nodes contract along one axis gets one mask; a weight that they contract
    along two axes gets a mask with the pattern along both. A weight with other readers stays dense.

    Args:
        work: the model, which is changed.
        n: weights kept of every group.
        m: length of a group.
        skip: globs over names of weights that stay dense.
        exclude: names of weights that stay dense, with the reason.
        done: names of weights that are handled elsewhere and not reported.
        tied: also change tables that are looked up: the rows looked up have the zeros too.
        streamed: whether weights get their zeros each time they are read, which needs no memory;
            else once, for models that will run.
        progress: told which weight is being worked on.
    """
    every = find_layers(work)
    by_weight: dict[str, list[LinearLayer]] = {}
    for layer in plain(every):
        if layer.weight not in done:
            by_weight.setdefault(layer.weight, []).append(layer)
    outcomes = [
        LayerOutcome(layer.node, reason=layer.declined)
        for layer in every
        if layer.kind == "plain" and layer.source is None
    ]
    packed: dict[str, PackedMask] = {}
    check = StreamedCheck(f"weights in a group of {m}", n, partial(max, default=0))
    for number, (name, layers) in enumerate(by_weight.items(), start=1):
        first = layers[0]
        outcome = LayerOutcome(first.node, weight=name, shape=first.tensor.shape)
        reason = (exclude or {}).get(name) or _why_not(layers, m, skip, tied=tied)
        if reason:
            outcomes.append(replace(outcome, reason=reason))
            continue
        progress(f"setting entries to zero, weight {number} of {len(by_weight)}: {name}")
        dense = models.constant(first.tensor.value)
        assert dense is not None
        tensor = check.masked(
            dense, partial(_mask, layers, n=n, m=m), partial(_densest, layers, m=m), n
        )
        kept = dense.size // m * n
        packed[name] = ComputedMask(first.tensor.shape, kept, tensor.mask)
        result: ir.TensorProtocol = tensor
        if not streamed:
            packed[name], result = pack(tensor.mask()), tensor.whole()
        models.set_constant(first.tensor.value, result)
        outcomes.append(replace(outcome, method="magnitude", sparsity=1 - kept / dense.size))
    return Masking(tuple(outcomes), packed, check if packed else None)


def _mask(layers: Sequence[LinearLayer], array: npt.NDArray[np.generic], n: int, m: int) -> Bool:
    """The mask of a weight for all its layers, in the stored layout."""
    first = layers[0]
    axes = _axes(layers)
    if len(axes) == 1 and first.tensor.scaling is None:
        keep = np.empty(array.shape, np.bool_)
        for part in _along(array.shape, axes[0], m):
            keep[part] = masks.keep_n_of_m(first.tensor.magnitude(array[part]), n, m, axes[0])
        return keep
    size = first.tensor.magnitude(array)
    if len(axes) < 2:
        return mask_of(first, size, n, m)
    if first.tensor.scaling is None:  # bits are ordered like magnitudes, but do not add up
        size = np.abs(array.astype(np.float32))
    return masks.keep_n_of_m_both(size, n, m, (axes[0], axes[1]))


def _densest(layers: Sequence[LinearLayer], nonzero: Bool, m: int) -> int:
    """The most values that are not zero in any group of ``m`` of any layer of a weight."""
    most = 0
    for layer in layers:
        axis = layer.stored_axis
        if axis is None:
            most = max(most, densest(layer, nonzero, m))
            continue
        for part in _along(nonzero.shape, axis, m):
            along = np.moveaxis(nonzero[part], axis, 0)
            groups = along.reshape(-1, m, *along.shape[1:]).sum(axis=1, dtype=np.uint8)
            most = max(most, int(groups.max(initial=0)))
    return most


def _along(shape: tuple[int, ...], axis: int, m: int) -> Iterator[slice]:
    """Parts of the first axis that leave the groups along an axis whole."""
    step = max(SLAB // max(math.prod(shape[1:]), 1), 1)
    if axis == 0:
        step = -(-step // m) * m
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


def _axes(layers: Sequence[LinearLayer]) -> list[int]:
    """The stored axes that layers contract, each once; where one is no axis of its own it has none.

    A group that runs along no single stored axis cannot be combined with another.
    """
    axes = [each.stored_axis for each in layers]
    return list(dict.fromkeys(axis for axis in axes if axis is not None))


def mask_of(layer: LinearLayer, size: npt.NDArray[np.generic], n: int, m: int) -> Bool:
    """The mask, in the stored layout, for magnitudes in the stored layout."""
    keep = masks.keep_n_of_m(layer.tensor.seen(size), n, m, layer.weight_axis)
    return np.ascontiguousarray(layer.tensor.unseen(keep))


def densest(layer: LinearLayer, array: npt.NDArray[np.generic], m: int) -> int:
    """The most values that are not zero in any group of ``m`` along what is contracted."""
    return int(counts(layer, array, m).max(initial=0))


def counts(
    layer: LinearLayer, array: npt.NDArray[np.generic], m: int, axis: int | None = None
) -> npt.NDArray[np.uint8]:
    """How many values of each group of ``m`` are not zero.

    Args:
        layer: who contracts the weight.
        array: the weight, in the stored layout.
        m: length of a group; a last one that is shorter is counted as it is.
        axis: along which groups run, as the node sees it; what is contracted by default.
    """
    axis = layer.weight_axis if axis is None else axis
    along = np.moveaxis(layer.tensor.seen(array != 0), axis, 0)
    whole = len(along) - len(along) % m
    parts = [np.zeros((0, *along.shape[1:]), np.uint8)]
    if whole:
        parts.append(along[:whole].reshape(-1, m, *along.shape[1:]).sum(axis=1, dtype=np.uint8))
    if whole < len(along):
        parts.append(along[whole:].sum(axis=0, dtype=np.uint8)[None])
    return np.concatenate(parts)


def _why_not(layers: Sequence[LinearLayer], m: int, skip: Sequence[str], *, tied: bool) -> str:
    first = layers[0]
    stored = first.tensor
    glob = next((g for g in skip if fnmatchcase(stored.name, g)), None)
    if glob is not None:
        return stated("--skip", glob)
    nodes = [each.node for each in layers]
    also = other_users(first, nodes, tables=tied)
    if also:
        looked_up = not other_users(first, nodes, tables=True)
        tied_hint = spelled(" (--tied makes it sparse for both)") * looked_up
        return f"its weight is read by {also} too{tied_hint}"
    if conflict := _conflict(layers, m):
        return conflict
    if first.channels % m:
        grouped = " per group" if first.groups > 1 else ""
        return f"its inputs ({first.channels}{grouped}) are no multiple of {m}"
    if not math.prod(stored.shape):
        return "its weight is empty"
    scaling = stored.scaling
    if scaling is not None and scaling.zero is not None and scaling.zero.astype(np.float32).any():
        return "its weight has a zero point other than 0, so no stored zero is a zero"
    return ""


def _conflict(layers: Sequence[LinearLayer], m: int) -> str:
    """Why no mask can have the pattern for every layer of a weight; empty if one can."""
    first = layers[0]
    other = next((each for each in layers[1:] if each.along != first.along), None)
    if other is None:
        return ""
    both = f"{first.node} and {other.node} contract its weight along different axes"
    axes = _axes(layers)
    if len(axes) != 2 or any(each.stored_axis is None for each in layers):
        return both
    if m > masks.TRANSPOSABLE:
        return f"{both}, and masks for both are looked for up to groups of {masks.TRANSPOSABLE}"
    sizes = [first.tensor.shape[axis] for axis in axes]
    if any(size % m for size in sizes):
        return f"{both}, and its {sizes[0]} and {sizes[1]} inputs are no multiples of {m}"
    return ""
