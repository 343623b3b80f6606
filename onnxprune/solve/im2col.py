"""The rows that a linear layer multiplies its weights with.

Conv, ConvTranspose, MatMul and Gemm all compute ``rows @ W`` for some arrangement of their input:
im2col patches for convolutions, the adjoint of im2col for transposed ones, tokens for products.
Everything in recovery works on such rows, of which a seeded sample is enough.

Layout: rows are ``[group, rows, K]`` with ``K = C/group * prod(kernel)`` ordered channel first, as
in the stored Conv weight ``[M, C/group, *kernel]``, so that one input channel owns
``prod(kernel)`` consecutive entries.

Source of the arithmetic: the ONNX operator specifications of Conv (opset 22) and ConvTranspose
(opset 22).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]


_SPARSE = 4
"""Rows are picked one by one where there are so many times more; else all are laid out."""


@dataclass(frozen=True)
class Window:
    """The attributes of a Conv or ConvTranspose, one entry per spatial axis.

    Attributes:
        kernel, strides, dilations: as in ONNX.
        pads: the beginnings, then the ends; ignored unless ``auto_pad`` is ``NOTSET``.
        auto_pad: ``NOTSET``, ``VALID``, ``SAME_UPPER`` or ``SAME_LOWER``.
        group: number of groups.
        transposed: whether this is a ConvTranspose.
        output_padding: ConvTranspose only; empty means zeros.
        output_shape: ConvTranspose only; if given, it decides the pads.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"
    group: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Fill what was left out with the defaults of the specification."""
        rank = len(self.kernel)
        ones, zeros = (1,) * rank, (0,) * rank
        object.__setattr__(self, "strides", self.strides or ones)
        object.__setattr__(self, "dilations", self.dilations or ones)
        object.__setattr__(self, "pads", self.pads or zeros + zeros)
        object.__setattr__(self, "output_padding", self.output_padding or zeros)


def _conv_axis(window: Window, axis: int, size: int) -> tuple[int, int]:
    """Output size and leading pad of one axis of a Conv."""
    rank = len(window.kernel)
    stride = window.strides[axis]
    extent = (window.kernel[axis] - 1) * window.dilations[axis] + 1
    if window.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        out = -(-size // stride)
        total = max((out - 1) * stride + extent - size, 0)
        return out, total // 2 if window.auto_pad == "SAME_UPPER" else total - total // 2
    begin, end = (0, 0) if window.auto_pad == "VALID" else window.pads[axis::rank]
    return (size + begin + end - extent) // stride + 1, begin


def _transposed_axis(window: Window, axis: int, size: int) -> tuple[int, int]:
    """Output size and leading pad of one axis of a ConvTranspose."""
    rank = len(window.kernel)
    stride, extra = window.strides[axis], window.output_padding[axis]
    extent = (window.kernel[axis] - 1) * window.dilations[axis] + 1
    full = stride * (size - 1) + extra + extent
    if window.output_shape or window.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        total = max(full - (window.output_shape[axis] if window.output_shape else size * stride), 0)
        begin = total // 2 if window.auto_pad == "SAME_UPPER" else total - total // 2
        # A kernel shorter than its stride cannot reach size * stride: onnxruntime stops short.
        return (window.output_shape[axis] if window.output_shape else full - total), begin
    begin, end = (0, 0) if window.auto_pad == "VALID" else window.pads[axis::rank]
    return full - begin - end, begin


def _axis(window: Window, axis: int, size: int) -> tuple[int, int]:
    measure = _transposed_axis if window.transposed else _conv_axis
    return measure(window, axis, size)


def output_sizes(window: Window, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The spatial sizes that come out of a window for the spatial ``sizes`` that go in."""
    return tuple(_axis(window, a, size)[0] for a, size in enumerate(sizes))


def leading_pads(window: Window, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The padding before the first input, per spatial axis, ``auto_pad`` worked out."""
    return tuple(_axis(window, a, size)[1] for a, size in enumerate(sizes))


def _sources(window: Window, axis: int, size: int) -> Index:
    """``[out, kernel]``: the input coordinate each kernel entry meets at each output coordinate.

    Where it meets padding (or, transposed, falls between two strides) the entry is -1.
    """
    out, begin = _axis(window, axis, size)
    stride, dilation = window.strides[axis], window.dilations[axis]
    o = np.arange(out, dtype=np.int64)[:, None]
    k = np.arange(window.kernel[axis], dtype=np.int64)[None, :]
    if window.transposed:
        scaled = o + begin - k * dilation
        source, missed = np.divmod(scaled, stride)
        source = np.where(missed == 0, source, -1)
    else:
        source = o * stride + k * dilation - begin
    return np.where((source >= 0) & (source < size), source, -1)


def sample_positions(total: int, wanted: int, seed: int, among: Index | None = None) -> Index:
    """A sorted sample of ``min(wanted, total)`` of ``total`` positions, without repetition.

    Where some positions are given in ``among``, ascending, the sample is of these.

    The same arguments give the same positions, so that inputs of a pruned model and outputs of
    the dense one can be paired without being held in memory together.
    """
    if among is not None:
        return among[sample_positions(len(among), wanted, seed)]
    if wanted >= total:
        return np.arange(total, dtype=np.int64)
    drawn = np.random.default_rng(seed).choice(total, size=wanted, replace=False, shuffle=False)
    return np.sort(drawn).astype(np.int64)


def window_rows(x: Array, window: Window, positions: Index | None = None) -> Array:
    """The rows a (transposed) convolution multiplies with ``window_weight`` of its weight.

    Args:
        x: ``[N, C, *sizes]``.
        window: the attributes of the node.
        positions: which of the ``N * prod(output sizes)`` output positions, row-major, all of
            them if None.

    Returns:
        ``[group, rows, C/group * prod(kernel)]``, of the dtype of ``x``.
    """
    batch, channels, *sizes = x.shape
    rank = len(sizes)
    outs = output_sizes(window, tuple(sizes))
    if positions is None:
        positions = np.arange(batch * math.prod(outs), dtype=np.int64)
    image, *at = np.unravel_index(positions, (batch, *outs))
    # Flat places in a map that has one spare zero at the end of every spatial axis: -1 is padding.
    spare = [s + 1 for s in sizes]
    flat = image.reshape((-1,) + (1,) * rank)
    for axis, size in enumerate(spare):
        shape = [-1] + [1] * rank
        shape[axis + 1] = window.kernel[axis]
        source = _sources(window, axis, size - 1)[at[axis]] % size
        flat = flat * size + source.reshape(shape)
    flat = flat.reshape(len(positions), -1)
    if flat.size * _SPARSE < batch * math.prod(sizes):
        taken = _picked(x, np.unravel_index(flat, (batch, *spare)))
    else:
        last = np.zeros((batch, *spare, channels), dtype=x.dtype)
        last[(slice(None), *(slice(0, s) for s in sizes))] = np.moveaxis(x, 1, -1)
        taken = last.reshape(-1, channels)[flat]
    grouped = taken.reshape(len(positions), -1, window.group, channels // window.group)
    rows = grouped.transpose(2, 0, 3, 1)
    return rows.reshape(window.group, len(positions), -1)


def _picked(x: Array, places: tuple[Index, ...]) -> Array:
    """The channels at some places, zeros where one is just behind the end of an axis."""
    image, *at = places
    inside = [place < size for place, size in zip(at, x.shape[2:], strict=True)]
    here = [np.where(ok, place, 0) for ok, place in zip(inside, at, strict=True)]
    taken: Array = np.moveaxis(x, 1, -1)[(image, *here)]
    taken[~np.logical_and.reduce(inside)] = 0
    return taken


def window_targets(y: Array, group: int, positions: Index | None = None) -> Array:
    """The outputs ``[N, M, *sizes]`` of a convolution as ``[group, rows, M/group]``."""
    rows = np.moveaxis(y, 1, -1).reshape(-1, y.shape[1])
    if positions is not None:
        rows = rows[positions]
    return np.ascontiguousarray(
        rows.reshape(len(rows), group, y.shape[1] // group).transpose(1, 0, 2)
    )


def window_weight(weight: Array, window: Window) -> Array:
    """The stored weight as ``[group, K, N]``, so that ``rows @ it`` is the output.

    Conv stores ``[M, C/group, *kernel]``, ConvTranspose ``[C, M/group, *kernel]``.
    """
    group = window.group
    if window.transposed:
        channels, outputs = weight.shape[:2]
        split = weight.reshape(group, channels // group, outputs, -1)
        return split.transpose(0, 1, 3, 2).reshape(group, -1, outputs)
    outputs = weight.shape[0] // group
    return weight.reshape(group, outputs, -1).transpose(0, 2, 1)


def stored_weight(matrix: Array, window: Window) -> Array:
    """The inverse of :func:`window_weight`: ``[group, K, N]`` back to the layout of ONNX."""
    group, inner, outputs = matrix.shape
    area = math.prod(window.kernel)
    per_group = inner // area
    if window.transposed:
        split = matrix.reshape(group, per_group, area, outputs).transpose(0, 1, 3, 2)
        return np.ascontiguousarray(split).reshape(group * per_group, outputs, *window.kernel)
    turned = np.ascontiguousarray(matrix.transpose(0, 2, 1))
    return turned.reshape(group * outputs, per_group, *window.kernel)


def token_rows(x: Array, axis: int = -1, positions: Index | None = None) -> Array:
    """The vectors along ``axis`` of any tensor as ``[1, rows, K]``.

    MatMul with the weight on the right and Gemm contract the last axis of their input
    (``axis=0`` under ``transA``); a weight on the left contracts ``axis=-2``. The outputs are
    read the same way, so positions pair.
    """
    last = np.moveaxis(x, axis, -1)
    if positions is not None and len(positions) * _SPARSE < last.size // max(x.shape[axis], 1):
        return last[np.unravel_index(positions, last.shape[:-1])][None]
    rows = last.reshape(-1, x.shape[axis])
    return rows[None] if positions is None else rows[positions][None]
