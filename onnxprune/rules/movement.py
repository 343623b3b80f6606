"""Operators that only move, repeat or drop elements: numpy on the columns."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxprune.dims import Axis, Space, concat, take
from onnxprune.notation import MismatchError, Tensor
from onnxprune.rules.call import Call, Keep, rule


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


def _counts(axes: Sequence[Axis]) -> Callable[[Keep], list[int]]:
    return lambda keep: [int(keep(a).sum()) for a in axes]


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
    counts = _counts(axes)
    if name in call.attributes:
        call.settings[name] = counts
    else:
        call.sizes[i] = counts


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


@rule("Concat")
def concat_rule(call: Call) -> list[Tensor]:
    """Rows end to end along one axis; the other axes are shared."""
    tensors = [call.tensor(i) for i in range(len(call.inputs))]
    at = call.axis(1, len(tensors[0]))
    out = list(tensors[0])
    for tensor in tensors[1:]:
        for k, axis in enumerate(tensor):
            if k != at and axis.size != out[k].size:
                raise MismatchError("operands of different shapes")
            if k != at:
                call.space.unify(out[k], axis)
    out[at] = concat(call.space, [t[at] for t in tensors])
    return [tuple(out)]


@rule("Split")
def split(call: Call) -> list[Tensor]:
    """Ranges of rows; sizes are written out once the parts are unequal."""
    x = call.tensor(0)
    at = call.axis(0, len(x))
    ends = np.cumsum([0] + [call.out_shape(k)[at] for k in range(len(call.out_shapes))])
    parts = [take(x[at], np.arange(a, b)) for a, b in itertools.pairwise(ends)]
    if call.version >= 13:
        call.sizes[1] = _counts(parts)
    else:
        call.settings["split"] = _counts(parts)
    return [(*x[:at], part, *x[at + 1 :]) for part in parts]


@rule("Slice")
def slice_rule(call: Call) -> list[Tensor]:
    """Ranges of rows; bounds are moved to what is left before them."""
    x = list(call.tensor(0))
    starts, ends = call.ints("starts", 1), call.ints("ends", 2)
    if starts is None or ends is None:
        raise MismatchError("bounds are computed while the model runs")
    axes = call.ints("axes", 3) or list(range(len(starts)))
    steps = call.ints("steps", 4) or [1] * len(starts)
    first: dict[int, tuple[Axis, int]] = {}
    last: dict[int, tuple[Axis, int]] = {}
    for k, (a, start, end, step) in enumerate(zip(axes, starts, ends, steps, strict=True)):
        axis = x[a % len(x)]
        if axis.size is None:
            raise MismatchError("slices an axis of unknown size")
        past_front = step < 0 and end < -axis.size
        rows = np.arange(axis.size)[start : None if past_front else end : step]
        why = _why_whole(call, axis, rows, step)
        if why:
            call.space.pin(axis, why)
        elif 0 < len(rows) < axis.size:
            first[k], last[k] = (axis, int(rows[0])), (axis, int(rows[-1]) + 1)
        x[a % len(x)] = take(axis, rows)
    if first:
        _move_bounds(call, "starts", 1, starts, first)
        _move_bounds(call, "ends", 2, ends, last)
    return [tuple(x)]


def _why_whole(call: Call, axis: Axis, rows: npt.NDArray[np.int64], step: int) -> str:
    """Why a sliced axis cannot lose indices; empty if it can."""
    size = axis.size or 0
    if not call.space.columns(axis) or (len(rows) == size and step > 0):
        return ""
    if step != 1:
        return f"Slice `{call.name}` takes every {step}th index of it"
    written = "starts" in call.attributes or (call.literal[1] and call.literal[2])
    halves = len(rows) and {2 * int(n) % size for n in (rows[0], rows[-1] + 1)} == {0}
    return "" if written or halves else f"Slice `{call.name}` computes its bounds"


def _move_bounds(
    call: Call, name: str, i: int, old: list[int], edges: Mapping[int, tuple[Axis, int]]
) -> None:
    """A bound becomes what is kept before it; one that lies at or past the end stays."""

    def rewrite(keep: Keep) -> list[int]:
        new = list(old)
        for k, (axis, edge) in edges.items():
            at_end = edge == axis.size and old[k] >= edge
            if not at_end and not keep(axis).all():
                new[k] = int(keep(axis)[:edge].sum())
        return new

    if name in call.attributes:
        call.settings[name] = rewrite
    else:
        call.sizes[i] = rewrite


@rule("Gather")
def gather(call: Call) -> list[Tensor]:
    """Constant indices are an index map; computed ones (an embedding) need their axis whole."""
    x = call.tensor(0)
    at = call.axis(0, len(x))
    index = call.tensor(1)
    rows = call.values[1]
    axis = x[at]
    call.pin(1)
    if call.static[0]:
        call.roles = {(0, k): "writes" for k in range(len(x)) if k != at}
    if rows is None or not call.literal[1] or rows.ndim > 1 or not call.space.columns(axis):
        call.space.pin(axis, f"Gather `{call.name}` looks its indices up while the model runs")
        inner = tuple(Axis(a.size, why=call.why) for a in index)
        return [(*x[:at], *inner, *x[at + 1 :])]
    assert axis.size is not None
    raw, rows = rows, np.asarray(rows, np.int64) % axis.size

    def moved(keep: Keep) -> npt.NDArray[np.int64]:
        if keep(axis).all():  # indices from the end stay as they are written
            return raw
        left = rows[keep(taken)] if rows.ndim else rows
        return np.asarray((np.cumsum(keep(axis)) - 1)[left], np.int64)

    call.sizes[1] = moved
    taken = take(axis, np.atleast_1d(rows))
    if rows.ndim == 0:
        call.space.pin(taken, f"Gather `{call.name}` takes it by its index")
        return [(*x[:at], *x[at + 1 :])]
    return [(*x[:at], taken, *x[at + 1 :])]


def _replicas(call: Call, x: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
    """Axes after broadcasting to ``sizes``: what is repeated adapts to whoever it meets."""
    x = [Axis(1)] * (len(sizes) - len(x)) + list(x)
    return [
        call.space.fresh(n) if a.size == 1 and n > 1 else a for a, n in zip(x, sizes, strict=True)
    ]


@rule("Expand")
def expand(call: Call) -> list[Tensor]:
    """Repeated axes get replica atoms, so that they can follow the operand they meet."""
    target = call.value(1)
    out = _replicas(call, call.tensor(0), call.out_shape())
    if target is None:
        for axis, old in zip(out[::-1], call.tensor(0)[::-1], strict=False):
            if axis is not old:
                call.space.pin(axis, f"Expand `{call.name}` computes its size")
        return [tuple(out)]
    named = [Axis(1)] * (len(out) - len(target)) + [
        Axis(1) if n == 1 else a for n, a in zip(target[::-1], out[::-1], strict=False)
    ][::-1]
    call.sizes[1] = _counts(named[len(out) - len(target) :])
    return [tuple(out)]


@rule("ConstantOfShape")
def constant_of_shape(call: Call) -> list[Tensor]:
    """The same value everywhere: every axis follows whoever it meets."""
    out = [call.space.fresh(n) if n > 1 else Axis(n) for n in call.out_shape()]
    if call.value(0) is None:
        raise MismatchError("its shape is computed while the model runs")
    call.sizes[0] = _counts(out)
    return [tuple(out)]


@rule("RandomNormal", "RandomUniform")
def random_constant(call: Call) -> list[Tensor]:
    """Drawn anew at each run: nothing to keep true."""
    return [call.plain()]


@rule("Shape", "Size", "Range", "Constant", "EyeLike", "NonZero", "RandomNormalLike", "OneHot")
def describes(call: Call) -> list[Tensor]:
    """Speaks of its input's shape or makes new axes; its own axes stay."""
    if call.op in ("NonZero", "OneHot", "RandomNormalLike"):
        raise MismatchError("its result depends on values")
    call.touched.update(range(len(call.inputs)))
    return [call.plain(k) for k in range(len(call.out_shapes))]


@rule("Tile")
def tile(call: Call) -> list[Tensor]:
    """Columns repeat; an axis of size one gets replica atoms."""
    x = call.tensor(0)
    repeats = call.value(1)
    if repeats is None:
        raise MismatchError("its repeats are computed while the model runs")
    out = [
        call.space.fresh(r)
        if a.size == 1 and r > 1
        else take(a, np.tile(np.arange(a.size or 0), r))
        if a.size is not None and r > 1
        else a
        for a, r in zip(x, repeats, strict=True)
    ]
    new = [
        a if old.size == 1 and r > 1 else None for a, old, r in zip(out, x, repeats, strict=True)
    ]
    if any(a is not None for a in new):
        call.sizes[1] = lambda keep: [
            r if a is None else int(keep(a).sum()) for a, r in zip(new, repeats, strict=True)
        ]
    return [tuple(out)]


@rule("Pad")
def pad(call: Call) -> list[Tensor]:
    """Constant padding adds rows of its own, which leave like any other."""
    x = list(call.tensor(0))
    pads = call.ints("pads", 1) or call.ints("paddings", 1)
    if pads is None:
        raise MismatchError("its amounts are computed while the model runs")
    if call.has(1) and not call.literal[1]:
        moved = [k for k, (a, n) in enumerate(zip(x, call.out_shape(), strict=True)) if a.size != n]
        call.pin(0, moved, f"Pad `{call.name}` computes its amounts")
        return [tuple(a if k not in moved else call.plain()[k] for k, a in enumerate(x))]
    axes = [a % len(x) for a in (call.value(3) or range(len(x)))]
    half = len(axes)
    ends: list[tuple[Axis | None, Axis | None]] = []
    for k, a in enumerate(axes):
        before, after = pads[k], pads[half + k]
        if (before or after) and (
            min(before, after) < 0 or call.attr("mode", "constant") != "constant"
        ):
            call.space.pin(x[a], f"Pad `{call.name}` mirrors or crops it")
        if not (before or after) or not call.space.columns(x[a]):
            ends.append((None, None))
            x[a] = x[a] if not (before or after) else Axis(call.out_shape()[a], why=call.why)
            continue
        front, back = call.space.fresh(before), call.space.fresh(after)
        ends.append((front, back))
        x[a] = concat(call.space, [p for p in (front, x[a], back) if p.size])

    def amounts(keep: Keep) -> list[int]:
        return [
            old if end is None else int(keep(end).sum())
            for old, end in zip(pads, [e[0] for e in ends] + [e[1] for e in ends], strict=True)
        ]

    if any(e != (None, None) for e in ends):
        if call.has(1):
            call.sizes[1] = amounts
        else:
            call.settings["pads" if "pads" in call.attributes else "paddings"] = amounts
    return [tuple(x)]


@rule("Resize", "Upsample")
def resize(call: Call) -> list[Tensor]:
    """Axes that keep their size pass; the others are spatial."""
    x, shape = call.tensor(0), call.out_shape()
    call.pin(0, [k for k, a in enumerate(x) if a.size != shape[k]])
    out = [a if a.size == n else Axis(n, why=call.why) for a, n in zip(x, shape, strict=True)]
    if call.has(3) and len(call.inputs[3] or ()) == 1:
        listed = [a % len(x) for a in call.attr("axes") or range(len(x))]
        call.sizes[3] = _counts([out[a] for a in listed])
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
