"""Operators that view elements in another shape or order: numpy on the columns."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from onnxprune.graph.axes import Axis, Space
from onnxprune.graph.emit import Undifferentiable
from onnxprune.graph.facts import Fact, Shape, full
from onnxprune.graph.notation import MismatchError, Tensor
from onnxprune.graph.ops.call import MICROSOFT, Call, counts, rule
from onnxprune.graph.ops.gradient_call import GradientCall, gradient_rule
from onnxprune.graph.ops.shape_call import InconsistentError, ShapeCall, shape_rule


def reshape_axes(space: Space, axes: Sequence[Axis], sizes: Sequence[int], why: str) -> Tensor:
    """Split all axes to the common refinement of both shapes, then merge.

    Shapes are cut into the shortest runs of equal product; a run whose cut points do not divide
    one another is pinned. Axes of size one come and go.
    """
    wide = [(a, a.size or 0) for a in axes if a.size != 1]
    targets = [n for n in sizes if n != 1]
    if math.prod(n for _, n in wide) != math.prod(targets) or 0 in targets:
        raise MismatchError(f"cannot view {[n for _, n in wide]} as {list(sizes)}")
    done: list[Axis] = []
    i = j = 0
    while j < len(targets):
        left, right = i, j
        a, b, i, j = wide[i][1], targets[j], i + 1, j + 1
        while a != b:
            if a < b:
                a, i = a * wide[i][1], i + 1
            else:
                b, j = b * targets[j], j + 1
        done += _run(space, [axis for axis, _ in wide[left:i]], targets[right:j], why)
    rest = iter(done)
    return tuple(Axis(1) if n == 1 else next(rest) for n in sizes)


def _run(space: Space, axes: Sequence[Axis], sizes: Sequence[int], why: str) -> list[Axis]:
    """One run: axes and sizes of equal product, none of size one."""
    if len(axes) == len(sizes) == 1:
        return list(axes)
    have = [a.size or 0 for a in axes]
    cuts = {1}
    for shape in (have, sizes):
        cuts.update(itertools.accumulate(reversed(shape), operator.mul))
    steps = list(itertools.pairwise(sorted(cuts)))
    if any(b % a for a, b in steps):
        for axis in axes:
            space.pin(axis, why)
        return [Axis(n, why=why) for n in sizes]
    factors = [b // a for a, b in reversed(steps)]
    parts: list[Axis] = []
    for axis, dealt in zip(axes, _deal(factors, have), strict=True):
        parts += space.split(axis, dealt) if len(dealt) > 1 else [axis]
    pieces = iter(parts)
    groups = [[next(pieces) for _ in dealt] for dealt in _deal(factors, sizes)]
    return [space.merge(g) if len(g) > 1 else g[0] for g in groups]


def _deal(factors: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """The consecutive factors whose product is each size."""
    out, rest = [], iter(factors)
    for size in sizes:
        dealt = [next(rest)]
        while math.prod(dealt) < size:
            dealt.append(next(rest))
        out.append(dealt)
    return out


@rule("Reshape", "Flatten")
def reshape(call: Call) -> list[Tensor]:
    """The target is rewritten to the remaining size of each output axis.

    A size that depends on data (of boxes, say) passes if what is behind it is viewed by itself.
    """
    why = f"{call.op} `{call.name}` does not divide along it"
    x, shape = call.tensor(0), call.out_shapes[0] or ()
    stored = call.op == "Flatten" or call.static[1]
    if stored and x and shape and x[0].size is shape[0] is None:
        inner = [n or 0 for n in shape[1:]]
        out = (x[0], *reshape_axes(call.space, x[1:], inner, why))
    else:
        call.shape(0)
        out = reshape_axes(call.space, x, call.out_shape(), why)
    if call.op == "Reshape":
        _set_sizes(call, "shape", 1, out)
    return [out]


def _set_sizes(call: Call, name: str, i: int, axes: Sequence[Axis]) -> None:
    """Sizes stored in attribute ``name`` (old opsets) or input ``i`` follow ``axes``."""
    if name in call.attributes:
        call.settings[name] = counts(axes)
    else:
        call.sizes[i] = counts(axes)


@rule("Squeeze", "Unsqueeze")
@rule("ExpandDims", domain=MICROSOFT)
def squeeze(call: Call) -> list[Tensor]:
    """Only axes of size one come and go."""
    kept = iter([a for a in call.tensor(0) if a.size != 1])
    ones = [a for a in call.tensor(0) if a.size == 1]
    shape = call.out_shape()
    out = [next(kept) if n != 1 else (ones.pop() if ones else Axis(1)) for n in shape]
    return [tuple(out)]


@rule("Transpose")
def transpose(call: Call) -> list[Tensor]:
    """Permutes the list of axes."""
    x = call.tensor(0)
    perm = call.attr("perm") or range(len(x))[::-1]
    return [tuple(x[int(p)] for p in perm)]


@rule("RandomNormal", "RandomUniform")
def random_constant(call: Call) -> list[Tensor]:
    """Drawn anew at each run: nothing to keep true."""
    return [call.plain()]


@rule("Shape", "Size", "Range", "Constant")
def describes(call: Call) -> list[Tensor]:
    """Speaks of its input's shape, which surgery keeps true; its own axes stay."""
    call.touched.update(range(len(call.inputs)))
    return [call.plain(k) for k in range(len(call.out_shapes))]


@rule("Resize", "Upsample")
def resize(call: Call) -> list[Tensor]:
    """Axes that keep their size pass; the others are spatial."""
    x, shape = call.tensor(0), call.out_shape()
    if call.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise MismatchError("one axis decides about the others")
    crops = call.attr("coordinate_transformation_mode") == "tf_crop_and_resize"
    if crops:
        call.pin(0)
    out = call.all_but([k for k, a in enumerate(x) if a.size != shape[k]])
    if call.has(3) and len(call.inputs[3] or ()) == 1:
        listed = [a % len(x) for a in call.attr("axes") or range(len(x))]
        call.sizes[3] = counts([out[a] for a in listed])
    return [out]


@rule("DepthToSpace")
def depth_to_space(call: Call) -> list[Tensor]:
    """Channels leave in blocks of blocksize squared, along the stride of the mode."""
    b = int(call.attr("blocksize"))
    first = f"c {b} {b}" if call.attr("mode", "DCR") == "CRD" else f"{b} {b} c"
    return call.einsum(f"n ({first}) h w -> n c (h {b}) (w {b})")


@rule("SpaceToDepth")
def space_to_depth(call: Call) -> list[Tensor]:
    """The inverse of DepthToSpace (DCR)."""
    b = int(call.attr("blocksize"))
    return call.einsum(f"n c (h {b}) (w {b}) -> n ({b} {b} c) h w")


@rule("Trilu")
def trilu(call: Call) -> list[Tensor]:
    """The last two axes are positions; the others pass."""
    rank = len(call.tensor(0))
    return [call.all_but([rank - 2, rank - 1])]


@rule("CenterCropPad")
def center_crop_pad(call: Call) -> list[Tensor]:
    """Axes that keep their size pass; the others are spatial."""
    x, sizes = call.tensor(0), call.out_shape()
    listed = [a % len(x) for a in call.attr("axes") or range(len(x))]
    out = call.all_but([k for k, a in enumerate(x) if a.size != sizes[k]])
    call.sizes[1] = counts([out[a] for a in listed])
    return [out]


@rule("DFT", "ReverseSequence")
def mixes_some(call: Call) -> list[Tensor]:
    """Frequencies and moments are mixed along axes that stay; the others pass."""
    x = call.tensor(0)
    listed = [call.axis(1, len(x), "batch_axis"), call.axis(0, len(x), "time_axis")]
    if call.op == "DFT":
        known = call.value(2) if call.version >= 20 and call.has(2) else None
        if call.version >= 20 and call.has(2) and known is None:
            raise MismatchError("its axis is computed while the model runs")
        at = known[0] if known else call.attr("axis", 1 if call.version < 20 else -2)
        listed = [at % len(x), len(x) - 1]
    return [call.all_but(listed)]


# -- shapes ----------------------------------------------------------------------------------------

_WIDEST_BLOCK = 16
"""``com.microsoft.nchwc`` blocks channels, 8 or 16 wide, by processor.

Source: onnxruntime ``core/graph/contrib_ops/nchwc_schema_defs.cc``.
"""


@shape_rule("DepthToSpace", "SpaceToDepth")
def _blocks_shape(call: ShapeCall) -> Fact:
    """Nothing is left over."""
    x, size = call.sizes(0), call.integer("blocksize", 1)
    if x is not None and len(x) == 4:
        cut = x[2:] if call.op == "SpaceToDepth" else (x[1] // size,)
        whole = cut[0] * size == x[1] if len(cut) == 1 else all(s % size == 0 for s in cut)
        if not whole:
            raise InconsistentError(f"shape {x} does not divide into blocks of {size}")
    return call.result


@shape_rule("Reshape")
def _reshape_shape(call: ShapeCall) -> Fact:
    """Everything is checked; the target is an attribute before opset 5."""
    source, stated = call.fact(0), call.fact(1)
    dtype = call.result.dtype if source.dtype is None else source.dtype
    target = stated.value
    if target is None and "shape" in call.attributes:
        target = np.array(call.attributes["shape"], np.int64)
    if target is not None:
        zero = bool(call.attr("allowzero"))
        return Fact(reshaped(source.shape, target, keep_zero=zero), dtype)
    rank = stated.sizes[0] if stated.sizes else None
    return Fact(None if rank is None else (None,) * rank, dtype)


def reshaped(source: Shape | None, target: Iterable[int], *, keep_zero: bool = False) -> Shape:
    """The shape a Reshape to ``target`` gives.

    Args:
        source: shape of the input.
        target: sizes; -1 is what remains, 0 the input's size unless ``keep_zero``.
        keep_zero: whether a 0 is a size of zero (``allowzero``).

    Raises:
        InconsistentError: the number of elements would change.
    """
    wanted = [int(size) for size in target]
    sizes: list[int | None] = list(wanted)
    if not keep_zero:
        for axis, size in enumerate(wanted):
            if size == 0 and source is not None and axis >= len(source):
                raise InconsistentError(f"shape {source} has no axis {axis} to keep")
            if size == 0:
                sizes[axis] = None if source is None else source[axis]
    known = full(source)
    if source and wanted and source[0] is None and wanted[0] == 0 and not keep_zero:
        return (None, *reshaped(source[1:], wanted[1:]))  # what is behind is viewed by itself
    others = full(tuple(size for size in sizes if size != -1))
    if known is None or others is None:
        return tuple(None if size == -1 else size for size in sizes)
    count, rest = math.prod(known), math.prod(others)
    remainder = 0 if rest == 0 else count // rest
    result = tuple(remainder if size == -1 else size for size in sizes)
    if rest * (remainder if -1 in sizes else 1) != count:
        raise InconsistentError(f"shape {source} does not reshape to {wanted}")
    return result


@shape_rule("Resize", "Upsample")
def _resize_shape(call: ShapeCall) -> Fact:
    """By scales: sizes are rounded down in single precision.

    onnx's inference multiplies in double precision, where 10 times 0.7 is less than 7.
    """
    x, fact = call.sizes(0), call.result
    scales = call.attr("scales")
    for stated in call.inputs[1:3]:  # the second is the region where the third is the scales
        if stated is not None and stated.value is not None and stated.value.size:
            scales = stated.value
    axes = call.attr("axes", range(len(x or ())))
    by_region = call.attr("coordinate_transformation_mode") == "tf_crop_and_resize"
    sized = len(call.inputs) > 3 and call.inputs[3] is not None
    if x is None or fact.sizes is None or scales is None or by_region or sized:
        return fact
    if len(scales) != len(axes):
        return fact
    sizes = list(x)
    for axis, scale in zip(axes, scales, strict=True):
        sizes[axis] = int(np.float32(x[axis]) * np.float32(scale))
    return Fact(tuple(sizes), fact.dtype)


@shape_rule("ExpandDims", domain=MICROSOFT)
def _expand_dims_shape(call: ShapeCall) -> Fact:
    """Unsqueeze of one axis, given as an int32 scalar."""
    shape, axis = call.shape(0), call.fact(1).value
    if shape is None or axis is None:
        return Fact(None, call.fact(0).dtype)
    at = int(axis.reshape(-1)[0]) % (len(shape) + 1)
    return Fact((*shape[:at], 1, *shape[at:]), call.fact(0).dtype)


@shape_rule("ReorderInput", domain=MICROSOFT)
def _reorder_input_shape(call: ShapeCall) -> Fact:
    """Into blocks; channels that fill no whole block are padded up to one."""
    shape = call.shape(0)
    if shape is None or len(shape) < 2:
        return Fact(None, call.fact(0).dtype)
    if call.integer("channels_last"):
        shape = (shape[0], shape[-1], *shape[1:-1])
    channels = shape[1] if shape[1] is not None and shape[1] % _WIDEST_BLOCK == 0 else None
    reason = "channels are padded to the processor's block"
    return Fact((shape[0], channels, *shape[2:]), call.fact(0).dtype, reason=reason)


@shape_rule("ReorderOutput", domain=MICROSOFT)
def _reorder_output_shape(call: ShapeCall) -> Fact:
    """Out of blocks, to the true number of channels."""
    shape = call.shape(0)
    if shape is None:
        return Fact(None, call.fact(0).dtype)
    places, channels = shape[2:], call.integer("channels")
    inner = (*places, channels) if call.integer("channels_last") else (channels, *places)
    return Fact((shape[0], *inner), call.fact(0).dtype)


@shape_rule("Upsample", domain=MICROSOFT)
def _blocked_upsample_shape(call: ShapeCall) -> Fact:
    """The blocked Upsample: whole-numbered scales."""
    shape, scales = call.shape(0), call.attr("scales", ())
    if shape is not None and len(scales) == len(shape):
        shape = tuple(
            None if size is None else size * int(scale)
            for size, scale in zip(shape, scales, strict=True)
        )
    return Fact(shape, call.fact(0).dtype)


# -- gradients -------------------------------------------------------------------------------------


@gradient_rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshaped_gradient(call: GradientCall, _: int) -> ir.Value:
    return call.emit.like(call.dy, call.x())


@gradient_rule("Transpose")
def _transpose_gradient(call: GradientCall, _: int) -> ir.Value:
    perm = call.attr("perm") or list(range(call.rank()))[::-1]
    return call.emit.op("Transpose", call.dy, perm=np.argsort(perm).tolist())


@gradient_rule("Trilu")
def _trilu_gradient(call: GradientCall, _: int) -> ir.Value:
    return call.emit.op("Trilu", call.dy, call.input(1), upper=call.attr("upper", 1))


@gradient_rule("DepthToSpace", "SpaceToDepth")
def _blocks_gradient(call: GradientCall, _: int) -> ir.Value:
    """Each undoes the other, if blocks come first among the channels."""
    if call.attr("mode", "DCR") != "DCR":
        raise Undifferentiable("its channels come before its blocks")
    other = "SpaceToDepth" if call.op == "DepthToSpace" else "DepthToSpace"
    return call.emit.op(other, call.dy, blocksize=call.attr("blocksize"))
