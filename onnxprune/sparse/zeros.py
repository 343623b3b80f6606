"""Masks applied to a model, and the zeros that a model has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.graph.plan import PackedMask
from onnxprune.quantities import Sparsity
from onnxprune.sparse.nm import densest
from onnxprune.sparse.streamed import Bool, MaskedTensor, StreamedCheck
from onnxprune.types import Check

Array = npt.NDArray[Any]


SHORT = "zeros short of the sparsity asked for"
"""Name of the check of an unstructured sparsity."""


def shapes(model: models.Model) -> dict[str, tuple[int, ...]]:
    """The shape of every stored tensor, by name: what the masks of a plan are checked against."""
    result = {}
    for name, value in models.constants(model).items():
        tensor = models.constant(value)
        assert tensor is not None
        result[name] = tuple(int(n) for n in tensor.shape.numpy())
    return result


def zero(model: models.Model, zeroed: Mapping[str, PackedMask]) -> models.Model:
    """A copy of a model with weights set to zero.

    Args:
        model: the model; it is not changed.
        zeroed: weight name -> which of its entries are kept; names and shapes are the model's.
    """
    result = models.clone(model)
    values = models.constants(result)
    for name, array in _arrays(result, zeroed):
        kept = np.where(zeroed[name].unpack(), array, array.dtype.type(0))
        models.set_constant(values[name], kept)
    return result


def zero_streamed(
    model: models.Model, zeroed: Mapping[str, PackedMask]
) -> tuple[models.Model, StreamedCheck]:
    """The same, with zeros that are put in whenever a weight is read, and their check."""
    result = models.clone(model)
    values = models.constants(result)
    size = sum(mask.size for mask in zeroed.values())
    removed = {name: mask.size - mask.kept for name, mask in zeroed.items()}
    total = sum(removed.values())
    check = StreamedCheck(
        "zeros short of the plan's", 0.0, short_of(total / max(size, 1), total, size)
    )
    for name, mask in zeroed.items():
        dense = models.constant(values[name])
        assert dense is not None
        unpack = partial(_unpacked, mask)
        models.set_constant(values[name], masked(check, dense, unpack, removed[name]))
    return result, check


def _unpacked(mask: PackedMask, _: Array) -> Bool:
    return mask.unpack()


def short_of(share: float, removed: int, size: int) -> Callable[[Sequence[float]], float]:
    """The share of zeros that is missing, from how many each weight lacks.

    Args:
        share: the share there is to be.
        removed: how many weights are removed, of all.
        size: of all weights.
    """
    return lambda lacking: max(share - (removed - sum(lacking)) / max(size, 1), 0.0)


def masked(
    check: StreamedCheck, dense: ir.TensorProtocol, mask: Callable[[Array], Bool], removed: int
) -> MaskedTensor:
    """A tensor that gets its zeros when it is read, and is measured by how many it lacks."""
    return check.masked(
        dense, mask, lambda nonzero: int(removed - nonzero.size + np.count_nonzero(nonzero)), 0
    )


def share_of_zeros(model: models.Model, names: Iterable[str]) -> float:
    """The share of zeros among the entries of some stored tensors."""
    zeros = size = 0
    for _, array in _arrays(model, names):
        zeros += int(array.size - np.count_nonzero(array))
        size += array.size
    return zeros / max(size, 1)


def checks(
    model: models.Model, layers: Iterable[LinearLayer], sparsity: Sparsity
) -> tuple[Check, ...]:
    """Check that the weights of some layers are as sparse as requested.

    Under N:M no group may have more than ``n`` weights. Else the share of zeros must be the
    requested one, to half a weight per layer and output that rounding decides.
    """
    by_name = {layer.weight: layer for layer in layers}
    if sparsity.m:
        arrays = _arrays(model, by_name)
        worst = max(
            (densest(by_name[name], array, sparsity.m) for name, array in arrays), default=0
        )
        return (
            Check(f"weights in a group of {sparsity.m}", worst <= sparsity.n, worst, sparsity.n),
        )
    rounded = rounding(by_name.values())
    short = max(sparsity.share - share_of_zeros(model, by_name), 0.0)
    return (Check(SHORT, short <= rounded, short, rounded),)


def streamed_check(
    layers: Sequence[LinearLayer], sparsity: Sparsity, removed: int
) -> StreamedCheck:
    """The check of an unstructured sparsity, of weights that get their zeros while they are read.

    Args:
        layers: whose weights.
        sparsity: the share that is requested.
        removed: how many weights are removed, of all.
    """
    size = sum(layer.size for layer in layers)
    return StreamedCheck(SHORT, rounding(layers), short_of(sparsity.share, removed, size))


def rounding(layers: Iterable[LinearLayer]) -> float:
    """The share of zeros that rounding decides: half a weight per layer and output."""
    layers = tuple(layers)
    return sum(each.width for each in layers) / 2 / max(sum(each.size for each in layers), 1)


def _arrays(model: models.Model, names: Iterable[str]) -> Iterator[tuple[str, Array]]:
    """Stored tensors, each read when its turn comes."""
    values = models.constants(model)
    for name in names:
        tensor = models.constant(values[name])
        assert tensor is not None
        yield name, tensor.numpy()
