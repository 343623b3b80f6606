"""Compare a quantized model, node by node and weight by weight, with the float model it should be.

Integers are taken for the floats that they stand for. A weight is the expected one if each of its
entries is the nearest value of its grid, and the grid is as fine as its bits allow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.difference import compare, is_altered, pair
from onnxprune.jobs.quantize.dequantize import Dequantized, dequantize, is_quantized
from onnxprune.jobs.quantize.preparation import prepared
from onnxprune.jobs.quantize.rewrites import restore_activations, split_products
from onnxprune.recovery.correspond.folding import normalisations

Array = npt.NDArray[Any]
Masks = Mapping[str, tuple[int, int]]
"""Weight name -> (entries, how many of them may be other than zero)."""

_LARGEST_STEP = 1 / 50
"""Step of the integers relative to the largest entry: 7 bits and a sign have 1 / 63."""
_HALF_STEP = 0.51
"""Largest distance of an integer weight from the float one, in steps."""
_ROUNDING = 4
"""The same in units of the last place: the quantizer divides in the type of the weight."""
_FULL = 1 << 28
"""Codes of a bias from which on the quantizer widens the steps of the weight, so that they fit."""
_TINY = 1e-30
_FOLDED, _LAID_OUT = "ConvBnFusion_W_", "/as_read"
"""What onnxruntime puts before the name of a folded weight, and we behind one laid out anew."""
_NARROW = 8
"""Bits up to which a grid can be too coarse; that of a bias follows from other scales."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """How a quantized model differs from the float model that it should be.

    Attributes:
        problem: the first difference of the graphs; empty where there is none.
        changed: names of stored tensors with other values, by the float model.
        quantized: names of those that are in integers.
        coarse: names of those whose steps are coarser than their bits allow.
        zeros: zeros in each tensor, by its name before the model was prepared.
        faults: sentences on scales that contradict themselves.
        activations: how many activations have stored scales.
    """

    problem: str = ""
    changed: frozenset[str] = frozenset()
    quantized: frozenset[str] = frozenset()
    coarse: frozenset[str] = frozenset()
    zeros: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    activations: int = 0


@dataclass(frozen=True, eq=False)
class Floats:
    """A quantized model and a float one, brought to the same nodes.

    Attributes:
        expected: the float model, as the quantizer takes it.
        actual: the quantized one, in floats.
        names: names of weights of ``expected`` that were turned -> what they were called.
    """

    expected: models.Model
    actual: Dequantized
    names: Mapping[str, str]


def as_floats(dense: models.Model, quantized: models.Model) -> Floats:
    """Bring a float model and its quantized form to the same nodes.

    Args:
        dense: as it was before it was prepared for the quantizer.
        quantized: the quantizer's result.
    """
    fold = normalisations(quantized) < normalisations(dense)  # not every quantizer does
    ready, _ = prepared(dense, fold=fold)
    ready = dequantize(ready).model if is_quantized(ready) else ready
    actual = dequantize(quantized)
    restore_activations(actual, ready)
    expected, names = split_products(ready, actual.model)
    return Floats(expected, actual, names)


def compare_quantized(
    dense: models.Model, quantized: models.Model, masks: Masks | None = None
) -> Comparison:
    """Compare a quantized model with the float model that it should be.

    Args:
        dense: the float model.
        quantized: the other.
        masks: of weights that were made sparse before.
    """
    both = as_floats(dense, quantized)
    floats = both.actual
    pairing = pair(both.expected, floats.model)
    if pairing.problem:
        return Comparison(pairing.problem, faults=floats.faults, activations=len(floats.ranges))
    changed = {value.name or "" for value in pairing.added}
    quantized_names, coarse, zeros = set(), set(), {}
    for name, mine, theirs in _tensors(pairing.stored, both.names):
        value, origin = theirs.name or "", _origin(name)
        mask = (masks or {}).get(origin)
        ours, other = models.constant(mine), models.constant(theirs)
        assert ours is not None
        assert other is not None
        step = floats.steps.get(value)
        if step is None:
            change = compare(ours, other)
            zeros[origin] = change.zeros
            if is_altered(change, mask):
                changed.add(name)
            continue
        quantized_names.add(name)
        one, two = (np.asarray(each.numpy()) for each in (ours, other))
        zeros[origin] = int(two.size - np.count_nonzero(two))
        if not is_near(one, two, step, sparse=mask is not None):
            changed.add(name)
        if (
            floats.bits[value] <= _NARROW
            and is_coarse(two, step)
            and not _is_widened(theirs, floats)
        ):
            coarse.add(name)
    return Comparison(
        "", frozenset(changed), frozenset(quantized_names), frozenset(coarse), zeros,
        floats.faults, len(floats.ranges),
    )  # fmt: skip


def _tensors(
    stored: tuple[tuple[ir.Value, ir.Value], ...], names: Mapping[str, str]
) -> Iterator[tuple[str, ir.Value, ir.Value]]:
    for mine, theirs in stored:
        name = mine.name or ""
        yield names.get(name, name), mine, theirs


def _origin(name: str) -> str:
    """What a weight was called before its model was prepared for the quantizer."""
    return name.removeprefix(_FOLDED).removesuffix(_LAID_OUT)


def is_near(expected: Array, actual: Array, step: Array, *, sparse: bool = False) -> bool:
    """Whether every entry is the value of its grid that is nearest to the expected one.

    Args:
        expected: the float entries.
        actual: those of the grid.
        step: distance of two values of the grid.
        sparse: whether zeros may stand for anything.
    """
    if not expected.size:
        return True
    place = np.finfo(expected.dtype).eps if expected.dtype.kind == "f" else 2.0**-8
    one, two = expected.astype(np.float64), actual.astype(np.float64)
    with np.errstate(invalid="ignore"):
        near = np.abs(one - two) <= _HALF_STEP * step + _ROUNDING * float(place) * np.abs(one)
    return bool((near | (two == 0)).all() if sparse else near.all())


def is_coarse(array: Array, step: Array) -> bool:
    """Whether a grid is coarser than integers of 7 bits and a sign would make it."""
    if not array.size:
        return False
    size = np.abs(array.astype(np.float64))
    axes = tuple(k for k in range(array.ndim) if step.ndim == 0 or step.shape[k] == 1)
    largest = size.max(axis=axes, keepdims=step.ndim > 0) if axes else size
    if step.ndim and step.shape == array.shape:  # blocks share a step: the largest of all counts
        largest = size.max()
    return bool(((step > _LARGEST_STEP * largest) & (largest > _TINY)).any())


def _is_widened(weight: ir.Value, floats: Dequantized) -> bool:
    """Whether a weight has wide steps because its bias would not fit in 32 bits otherwise."""
    for node, _ in weight.uses():
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        step = None if bias is None else floats.steps.get(bias.name or "")
        tensor = None if bias is None else models.constant(bias)
        if step is not None and tensor is not None:
            return bool((np.abs(tensor.numpy().astype(np.float64)) / step).max() >= _FULL)
    return False
