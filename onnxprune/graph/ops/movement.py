"""Operators that view elements in another shape or order: numpy on the columns."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence

from onnxprune.graph.axes import Axis, Space
from onnxprune.graph.notation import MismatchError, Tensor
from onnxprune.graph.ops.call import Call, counts, rule


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
    """The target is rewritten to what is left of each output axis."""
    call.shape(0)
    sizes = call.out_shape()
    why = f"{call.op} `{call.name}` does not divide along it"
    out = reshape_axes(call.space, call.tensor(0), sizes, why)
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
    call.pin(0, [k for k, a in enumerate(x) if crops or a.size != shape[k]])
    out = [a if a.size == n else Axis(n, why=call.why) for a, n in zip(x, shape, strict=True)]
    if call.has(3) and len(call.inputs[3] or ()) == 1:
        listed = [a % len(x) for a in call.attr("axes") or range(len(x))]
        call.sizes[3] = counts([out[a] for a in listed])
    return [tuple(out)]


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
    x = call.tensor(0)
    call.pin(0, [len(x) - 2, len(x) - 1])
    return [(*x[:-2], *call.plain()[-2:])]
