"""Weights that get their zeros while they are read or written, so that no sparse copy is held.

Without data a mask follows from the weight alone. It is computed when the weight is needed, part by
part where it is written to a file, checked there, and forgotten. Bits are compared and zeros
written, so what is kept is bit-equal, in any type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.errors import OnnxpruneError
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.model.stored import PartsTensor
from onnxprune.quantities import Sparsity
from onnxprune.solve import masks
from onnxprune.types import Check

Array = npt.NDArray[Any]
Bool = npt.NDArray[np.bool_]

SLAB = 1 << 18
"""Values handled at a time: a few copies of them fit into a cache."""

_SIGNED = ("float16", "bfloat16", "float32", "float64")
"""Types whose first bit is the sign, and whose zero may have one."""


class MaskedTensor(PartsTensor):
    """A stored tensor without the entries that a mask removes.

    Each reading computes the mask anew and measures the result. A file gets it slab by slab, so
    that one bool per entry is all that is held.

    Args:
        dense: the tensor.
        mask: computes from the array which entries are kept: a new bool array of its shape.
        measure: takes which entries of the result are not zero, bool of the same shape; raises
            where they are not as they should be.
    """

    __slots__ = ("_dense", "_mask", "_measure")

    def __init__(
        self,
        dense: ir.TensorProtocol,
        mask: Callable[[Array], Bool],
        measure: Callable[[Bool], None] = lambda _: None,
    ) -> None:
        super().__init__(self._slabs, dense.dtype, dense.shape.numpy(), dense)
        self._dense, self._mask, self._measure = dense, mask, measure

    def check(self) -> None:
        """Compute the result only to measure it."""
        for _ in self._slabs():
            pass

    def mask(self) -> Bool:
        """Which entries are kept, computed anew."""
        return self._mask(self._dense.numpy())

    def _slabs(self) -> Iterator[Array]:
        """The flat result in parts; once all are taken, the whole is measured."""
        array = self._dense.numpy()
        flat, kept = array.reshape(-1), self._mask(array).reshape(-1)
        unsigned = np.dtype(f"u{array.dtype.itemsize}")
        for start, part in slabs(flat):
            here = kept[start : start + len(part)]
            # On bits this is six times as fast as a choice between floats.
            result = (part.view(unsigned) * here).view(array.dtype)
            np.not_equal(size_bits(result), 0, out=here)
            yield result
        self._measure(kept.reshape(array.shape))


def size_bits(array: Array) -> Array:
    """The bits of floats without their sign, which are 0 exactly for zeros; else the array."""
    if array.dtype.name not in _SIGNED:
        return array
    bits = np.dtype(f"u{array.dtype.itemsize}").type
    unsigned: Array = array.view(bits) & bits((1 << (8 * array.dtype.itemsize - 1)) - 1)
    return unsigned


def slabs(flat: Array) -> Iterator[tuple[int, Array]]:
    """Parts of a flat array: (position of the first, values)."""
    for start in range(0, len(flat), SLAB):
        yield start, flat[start : start + SLAB]


class StreamedCheck(Check):
    """A check of weights that get their zeros while they are read.

    Each is measured when it is read or written; asking for the value measures those that have not
    been. A weight that fails by itself is refused while it is written, so no such file is left.

    Args:
        name: of the check.
        limit: largest value that passes.
        value_of: what the check compares, from the measures of all weights.
    """

    _value_of: Callable[[Sequence[float]], float]
    _tensors: dict[str, MaskedTensor]
    _measures: dict[str, float]
    _limits: dict[str, float]

    def __init__(
        self, name: str, limit: float, value_of: Callable[[Sequence[float]], float]
    ) -> None:
        # The fields of a check are frozen, so they are not assigned.
        vars(self).update(name=name, limit=limit, _value_of=value_of)
        vars(self).update(_tensors={}, _measures={}, _limits={})

    def masked(
        self,
        dense: ir.TensorProtocol,
        mask: Callable[[Array], Bool],
        measure: Callable[[Bool], float],
        limit: float,
    ) -> MaskedTensor:
        """A masked tensor that is part of the check.

        Args:
            dense: the tensor.
            mask: computes from the array which entries are kept.
            measure: a number from the entries that are not zero.
            limit: largest number that is right.
        """
        key = str(len(self._tensors))

        def check(nonzero: Bool) -> None:
            self._measures[key] = value = measure(nonzero)
            if value > limit:
                raise OnnxpruneError(
                    f"weight '{dense.name}' did not get its zeros ({value:g} instead of at most "
                    f"{limit:g} {self.name})",
                    hint="report this with the model: it is a fault of onnxprune",
                )

        self._limits[key] = limit
        self._tensors[key] = tensor = MaskedTensor(dense, mask, check)
        return tensor

    @property
    def assured(self) -> bool:
        """Whether it passes as soon as every weight can be written at all."""
        return self._value_of(list(self._limits.values())) <= self.limit

    @property
    def known(self) -> bool:
        """Whether every weight has been measured."""
        return len(self._measures) == len(self._tensors)

    @property
    def value(self) -> float:
        """The value of the check; weights that were not read yet are."""
        for key, tensor in self._tensors.items():
            if key not in self._measures:
                tensor.check()
        return self._value_of([self._measures[key] for key in self._tensors])

    @property
    def ok(self) -> bool:
        """Whether the value is within the limit."""
        return self.value <= self.limit


# -- masks by size ---------------------------------------------------------------------------


def smallest_removed(layer: LinearLayer, array: Array, count: int) -> Bool:
    """The mask, as stored, that removes the ``count`` smallest weights of a layer.

    Of equal weights at the threshold those stay that come first in the layer's matrix.
    """
    flat = array.reshape(-1)
    keep = np.ones(flat.size, np.bool_)
    if not count:
        return keep.reshape(array.shape)
    threshold = masks.kth_smallest(lambda: (size_bits(part) for _, part in slabs(flat)), count)
    for start, part in slabs(flat):
        np.greater(size_bits(part), threshold, out=keep[start : start + len(part)])
    returning = flat.size - count - int(np.count_nonzero(keep))
    if returning:
        ties = np.zeros(flat.size, np.bool_)
        for start, part in slabs(flat):
            np.equal(size_bits(part), threshold, out=ties[start : start + len(part)])
        matrix = np.ascontiguousarray(layer.matrix(ties.reshape(array.shape)))
        keep_first(matrix.reshape(-1), returning)
        keep |= layer.stored(matrix).reshape(-1)
    return keep.reshape(array.shape)


def smallest_removed_per_output(layer: LinearLayer, array: Array, share: float) -> Bool:
    """The mask, as stored, that removes the same share of the weights of every output."""
    matrix = layer.matrix(array)
    keep = np.empty(matrix.shape, np.bool_)
    step = max(SLAB // max(matrix.shape[1], 1), 1)
    for start in range(0, matrix.shape[2], step):
        part = np.s_[:, :, start : start + step]
        sizes = size_bits(np.ascontiguousarray(matrix[part]))
        keep[part] = masks.keep_top(sizes, share, within=(1,))
    return layer.stored(keep)


def keep_first(mask: Bool, count: int) -> None:
    """Leave only the first ``count`` of the entries that are True."""
    for start, part in slabs(mask):
        inside = int(np.count_nonzero(part))
        if inside >= count:
            if inside > count:
                part[np.flatnonzero(part)[count:]] = False
            mask[start + len(part) :] = False
            return
        count -= inside


def global_counts(layers: Sequence[LinearLayer], sparsity: Sparsity) -> list[int]:
    """How many weights each layer loses under one threshold for all of them.

    The threshold is exact, and found in passes over the weights that hold one slab of them. Of
    equal weights at it those of earlier layers stay; each layer keeps at least one.
    """

    def sizes(layer: LinearLayer) -> Iterator[Array]:
        # Types may differ from layer to layer.
        parts = slabs(layer.tensor.read().reshape(-1))
        return (size_bits(part.astype(np.float32)) for _, part in parts)

    counts = [0] * len(layers)
    total = masks.removed_count(sum(layer.size for layer in layers), sparsity.share)
    if not total:
        return counts
    threshold = masks.kth_smallest(lambda: (p for each in layers for p in sizes(each)), total)
    ties = [0] * len(layers)
    for number, layer in enumerate(layers):
        for part in sizes(layer):
            counts[number] += int(np.count_nonzero(part < threshold))
            ties[number] += int(np.count_nonzero(part == threshold))
    missing = total - sum(counts)
    for number in reversed(range(len(layers))):
        more = min(missing, ties[number])
        counts[number] += more
        missing -= more
    return [min(count, layer.size - 1) for count, layer in zip(counts, layers, strict=True)]
