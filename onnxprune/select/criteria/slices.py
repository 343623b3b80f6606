"""What a criterion sees: the weights and input statistics of every tensor that loses a unit.

A stored tensor that is cut along one axis is laid out as a matrix ``[features, other]``. A
*feature* is one index of the cut axis; for a convolution with patch statistics it is one index and
one kernel tap. A unit owns some of the features. What no unit owns (other groups, axes that must
stay) is in the matrix all the same, because a unit matters in relation to the whole tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.data.activations.groups import InputStatistics
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.units import Group, Role, Slice

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Weights = Callable[[str], npt.NDArray[np.generic]]
"""Reads a stored tensor by name; called once per cut, so it may map or stream."""
Use = Callable[[Slice], str]
"""Says what a tensor is to its node: ``Conv.W``, ``BatchNormalization.scale``; ``""``: unknown."""


def pool(parts: Sequence[InputStatistics]) -> InputStatistics | None:
    """Statistics over the rows of all the parts together; None of none.

    What not every part collected is left out of the result.
    """
    if len(parts) <= 1:
        return parts[0] if parts else None
    share = np.array([p.count for p in parts], np.float64)
    share /= max(share.sum(), 1.0)
    blocks = parts[0].blocks
    mean = np.einsum("p,pk->k", share, [p.mean for p in parts])
    shift = np.array([p.mean for p in parts]) - mean
    mean_abs = [p.mean_abs for p in parts if p.mean_abs is not None]
    covariances = [p.covariance for p in parts if p.covariance is not None]
    covariance: F64 | None = None
    if len(covariances) == len(parts):
        covariance = np.zeros_like(covariances[0])
        for weight, matrix, offset in zip(share, covariances, shift, strict=True):
            row = offset.reshape(blocks, -1)
            covariance += weight * (matrix + row[:, :, None] * row[:, None, :])
    return InputStatistics(
        count=sum(p.count for p in parts),
        mean=mean,
        var=np.einsum("p,pk->k", share, np.array([p.var for p in parts]) + np.square(shift)),
        mean_abs=np.einsum("p,pk->k", share, mean_abs) if len(mean_abs) == len(parts) else None,
        covariance=covariance,
        blocks=blocks,
    )


@dataclass(frozen=True, eq=False)
class UnitSlice:
    """One cut tensor, as a matrix.

    Attributes:
        tensor, axis, role: as in the ``Slice`` this comes from.
        use: what the tensor is to its node (``Conv.W``), or ``""`` when nobody said.
        matrix: float32 or float64 ``[features, other]``, every feature of the axis.
        features: int64 ``[units, features per unit]``, which rows of ``matrix`` each unit owns.
        inputs: statistics of the features, for a calibrated consumer (``reads``) only.
    """

    tensor: str
    axis: int
    role: Role
    use: str
    matrix: npt.NDArray[np.float32] | F64
    features: I64
    inputs: InputStatistics | None = None

    @property
    def weight(self) -> npt.NDArray[np.float32] | F64:
        """A copy ``[units, features per unit, other]``: what leaves with each unit."""
        return self.matrix[self.features]

    def total(self, per_feature: npt.NDArray[np.floating]) -> F64:
        """Sum a value per feature into a value per unit ``[units]``."""
        return np.asarray(np.asarray(per_feature, np.float64)[self.features].sum(axis=1))


def unit_slices(
    group: Group,
    weights: Weights,
    statistics: Mapping[tuple[str, str], InputStatistics] | None = None,
    use: Use = lambda _: "",
) -> list[UnitSlice]:
    """Lay out everything stored that leaves with the units of a group.

    Args:
        group: the group to score.
        weights: reads a tensor by name. Half precision is widened to float32; 8 and 4 bit integers
            are taken as they are (a per-tensor scale cancels in every criterion); index and shape
            tensors (int32, int64, bool) carry no magnitude and are left out.
        statistics: by (tensor, node), what ``node`` contracts with ``tensor``. Nodes that share a
            tensor are pooled, weighted by their counts.
        use: names the use of a slice; only criteria that look for one kind of vector need it.

    Returns:
        One UnitSlice per float Slice of the group, in the group's order.

    Raises:
        OnnxpruneError: a weight is NaN, or infinite where it multiplies; or the statistics do not
            have one value per feature of the axis.
    """
    known = statistics or {}
    slices: list[UnitSlice] = []
    for cut in group.slices:
        array = _widened(weights(cut.tensor))
        if array is None:
            continue
        if use(cut).startswith("Gather"):
            # A table that is looked up may mask with -inf, which tells nothing of a unit's size.
            array = np.where(np.isneginf(array), np.zeros((), array.dtype), array)
        _refuse_non_finite(array, cut)
        at = [(cut.tensor, node) for node in cut.nodes] if cut.role == "reads" else []
        inputs = pool([known[key] for key in at if key in known])
        matrix, features = _layout(array, cut, inputs)
        slices.append(UnitSlice(cut.tensor, cut.axis, cut.role, use(cut), matrix, features, inputs))
    return slices


def _widened(array: npt.NDArray[np.generic]) -> npt.NDArray[np.float32] | F64 | None:
    """Float32 or float64 for what carries a magnitude, None for indices, shapes and masks."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 2:
        return np.asarray(array)
    quantized = array.dtype.kind in "iu" and array.dtype.itemsize == 1
    if quantized or array.dtype.kind in "fV":  # V: bfloat16, float8 and int4 of ml_dtypes
        return array.astype(np.float32)
    return None


def _refuse_non_finite(array: npt.NDArray[np.floating], cut: Slice) -> None:
    if not array.size:
        return
    ends = np.array([array.min(), array.max()])  # NaN propagates through both
    # An attention mask may hold -inf; a weight that multiplies may not.
    if np.isnan(ends).any() or (cut.role != "scales" and np.isinf(ends).any()):
        bad = "NaN" if np.isnan(ends).any() else "infinity"
        raise OnnxpruneError(
            f"the weight {cut.tensor!r} holds {bad}, so its units cannot be compared",
            hint="repair the model first: it cannot give meaningful outputs either",
        )


def _layout(
    array: npt.NDArray[np.float32] | F64, cut: Slice, inputs: InputStatistics | None
) -> tuple[npt.NDArray[np.float32] | F64, I64]:
    """The matrix ``[features, other]`` and the features of each unit.

    Features are ordered (block, index, tap), as im2col of ``[O, I/g, *kernel]`` is. How many
    statistics there are decides whether the taps of a kernel are features (patches) or belong to
    ``other`` (one statistic per channel, which is exact for 1x1 kernels only).
    """
    size, rows = array.shape[cut.axis], cut.rows.reshape(len(cut.rows), -1)
    # A transposed convolution [I, O/g, *kernel] holds its blocks inside the axis that is cut.
    blocks = inputs.blocks if inputs and cut.axis else 1
    kernel = math.prod(array.shape[2:]) if cut.axis < 2 else 1
    wanted = inputs.size if inputs else size
    taps = kernel if wanted != blocks * size else 1
    if wanted != blocks * size * taps or array.shape[0] % blocks:
        raise OnnxpruneError(
            f"statistics of {wanted} features do not fit axis {cut.axis} of {cut.tensor!r}, "
            f"whose shape is {list(array.shape)}"
        )
    outer = math.prod(array.shape[: cut.axis]) // blocks
    inner = math.prod(array.shape[cut.axis + 1 :]) // taps
    if taps > 1 and cut.axis == 0:
        split = array.reshape(1, outer, size, inner, taps).swapaxes(3, 4)
    else:
        split = array.reshape(blocks, outer, size, taps, inner)
    matrix = split.transpose(0, 2, 3, 1, 4).reshape(blocks * size * taps, outer * inner).view()
    matrix.flags.writeable = False  # it may be the model's own memory
    starts = np.arange(blocks)[:, None, None] * (size * taps)
    features = starts + rows[:, None, :, None] * taps + np.arange(taps)
    return matrix, features.reshape(len(rows), -1).astype(np.int64)
