"""Masks applied to a model, and the zeros that a model has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.graph.plan import PackedMask
from onnxprune.quantities import Sparsity
from onnxprune.sparse.nm import densest
from onnxprune.types import Check

Array = npt.NDArray[Any]


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
    size = sum(layer.size for layer in by_name.values())
    rounded = sum(layer.outputs for layer in by_name.values()) / 2 / max(size, 1)
    short = max(sparsity.share - share_of_zeros(model, by_name), 0.0)
    return (Check("zeros short of the sparsity asked for", short <= rounded, short, rounded),)


def _arrays(model: models.Model, names: Iterable[str]) -> Iterator[tuple[str, Array]]:
    """Stored tensors, each read when its turn comes."""
    values = models.constants(model)
    for name in names:
        tensor = models.constant(values[name])
        assert tensor is not None
        yield name, tensor.numpy()
