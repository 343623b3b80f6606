"""Masks applied to a model, and the zeros a model really has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from onnxprune import model as models
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.graph.plan import PackedMask
from onnxprune.quantities import Sparsity
from onnxprune.types import Check


def shapes(model: models.Model) -> dict[str, tuple[int, ...]]:
    """The shape of every stored tensor, by name: what the masks of a plan are checked against."""
    found = {}
    for name, value in models.constants(model).items():
        tensor = models.constant(value)
        assert tensor is not None
        found[name] = tuple(int(n) for n in tensor.shape.numpy())
    return found


def zero(model: models.Model, zeroed: Mapping[str, PackedMask]) -> models.Model:
    """A copy of a model with weights set to zero.

    Args:
        model: it is left as it is.
        zeroed: weight name -> which of its entries are kept; names and shapes are the model's.
    """
    made = models.clone(model)
    values = models.constants(made)
    for name, mask in zeroed.items():
        tensor = models.constant(values[name])
        assert tensor is not None
        array = tensor.numpy()
        models.set_constant(values[name], np.where(mask.unpack(), array, array.dtype.type(0)))
    return made


def share_of_zeros(model: models.Model, names: Iterable[str]) -> float:
    """The share of zeros among the entries of some stored tensors."""
    values = models.constants(model)
    zeros = size = 0
    for name in names:
        tensor = models.constant(values[name])
        assert tensor is not None
        array = tensor.numpy()
        zeros += int(array.size - np.count_nonzero(array))
        size += array.size
    return zeros / max(size, 1)


def checks(
    model: models.Model, layers: Iterable[LinearLayer], asked: Sparsity
) -> tuple[Check, ...]:
    """Whether the weights that were thinned are as sparse as was asked.

    Under N:M, the largest number of weights that any group has must be ``n``. Else the share of
    zeros must be the one asked for, to half a weight per layer and output that rounding decides.
    """
    thinned = list(layers)
    values = models.constants(model)
    if asked.m:
        worst = 0
        for layer in thinned:
            tensor = models.constant(values[layer.weight])
            assert tensor is not None
            worst = max(worst, densest(layer, tensor.numpy(), asked.m))
        return (Check(f"weights in a group of {asked.m}", worst <= asked.n, worst, asked.n),)
    found = share_of_zeros(model, (layer.weight for layer in thinned))
    size = sum(layer.size for layer in thinned)
    rounded = sum(layer.outputs for layer in thinned) / 2 / max(size, 1)
    short = max(asked.share - found, 0.0)
    return (Check("zeros short of the sparsity asked for", short <= rounded, short, rounded),)


def densest(layer: LinearLayer, weight: np.ndarray, m: int) -> int:
    """The most values that are not zero in any group of ``m`` inputs."""
    matrix = layer.matrix(weight != 0)[:, layer.order]
    groups, inputs, outputs = matrix.shape
    padded = np.zeros((groups, -(-inputs // m) * m, outputs), dtype=bool)
    padded[:, :inputs] = matrix
    return int(padded.reshape(groups, -1, m, outputs).sum(axis=2).max(initial=0))
