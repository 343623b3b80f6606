"""Operators that take, join, repeat or add rows of an axis: the same rows of its columns."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.graph.axes import Axis, concat, take
from onnxprune.graph.emit import Undifferentiable
from onnxprune.graph.facts import Fact
from onnxprune.graph.notation import MismatchError, Tensor
from onnxprune.graph.ops.call import MICROSOFT, Call, Keep, counts, rule
from onnxprune.graph.ops.gradient_call import GradientCall, gradient_rule
from onnxprune.graph.ops.shape_call import ShapeCall, plus, shape_rule


@rule("Concat")
@rule("QLinearConcat", domain="com.microsoft")
def concat_rule(call: Call) -> list[Tensor]:
    """Rows end to end along one axis; the other axes are shared."""
    every = range(len(call.inputs))  # quantised: y scale, y zero, then x, scale, zero of each
    tensors = [call.tensor(i) for i in (every if call.op == "Concat" else every[2::3])]
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
        call.sizes[1] = counts(parts)
    else:
        call.settings["split"] = counts(parts)
    return [(*x[:at], part, *x[at + 1 :]) for part in parts]


@rule("Slice")
def slice_rule(call: Call) -> list[Tensor]:
    """Ranges of rows; bounds move by the rows removed before them."""
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
    written = "starts" in call.attributes or (call.is_constant(1) and call.is_constant(2))
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
    """Constant indices are an index map; computed ones (an embedding) need their axis whole.

    Unless they are ids of an interface that may change.
    """
    x = call.tensor(0)
    at = call.axis(0, len(x))
    index = call.tensor(1)
    rows = call.values[1]
    axis = x[at]
    call.pin(1)
    if call.static[0]:
        call.roles = {(0, k): "writes" for k in range(len(x)) if k != at}
    if rows is None or rows.ndim > 1 or not call.space.columns(axis) or not call.is_constant(1):
        if not (call.static[0] and call.looks_up(1, axis)):
            call.space.pin(axis, f"Gather `{call.name}` looks its indices up while the model runs")
        inner = tuple(Axis(a.size, why=call.why) for a in index)
        return [(*x[:at], *inner, *x[at + 1 :])]
    assert axis.size is not None
    raw, rows = rows, np.asarray(rows, np.int64) % axis.size

    def moved(keep: Keep) -> npt.NDArray[np.int64]:
        if keep(axis).all():  # indices from the end stay as they are written
            return raw
        remaining = rows[keep(taken)] if rows.ndim else rows
        return np.asarray((np.cumsum(keep(axis)) - 1)[remaining], np.int64)

    call.sizes[1] = moved
    taken = take(axis, np.atleast_1d(rows))
    if rows.ndim == 0:
        call.space.pin(taken, f"Gather `{call.name}` takes it by its index")
        return [(*x[:at], *x[at + 1 :])]
    return [(*x[:at], taken, *x[at + 1 :])]


@rule("GatherND")
def gather_nd(call: Call) -> list[Tensor]:
    """Rows addressed by their first axes; the axes behind these pass."""
    x, count = call.tensor(0), call.shape(1)[-1] + int(call.attr("batch_dims", 0))
    call.pin(0, range(count))
    call.pin(1)
    rank = len(call.out_shape()) - (len(x) - count)
    return [(*call.plain()[:rank], *x[count:])]


@rule("ScatterND")
def scatter_nd(call: Call) -> list[Tensor]:
    """Rows addressed by their first axes; the axes behind these meet those of the updates."""
    x, rows = call.tensor(0), call.tensor(2)
    count = call.shape(1)[-1]
    for a, b in zip(x[count:], rows[len(rows) - len(x) + count :], strict=True):
        call.space.unify(a, b)
    call.pin(0, range(count))
    call.pin(1)
    call.pin(2, range(len(rows) - len(x) + count))
    return [x]


@rule("TensorScatter")
def tensor_scatter(call: Call) -> list[Tensor]:
    """A cache and what is written into it along one axis, at a place for each of a batch."""
    x, rows = call.tensor(0), call.tensor(1)
    at = call.axis(-2, len(x))
    for k in set(range(1, len(x))) - {at}:
        call.space.unify(x[k], rows[k])
    for i in (0, 1):
        call.pin(i, [0, at])
    return [x]


@rule("GatherElements", "Scatter", "ScatterElements")
def elements(call: Call) -> list[Tensor]:
    """Each element names its place along one axis; other axes meet if nothing of them is left out.

    Exporters repeat the index of a row (Expand) along its features, which then leave together.
    """
    x, tensors = call.tensor(0), [call.tensor(i) for i in range(len(call.inputs))]
    at = call.axis(0, len(x))
    for k, axis in enumerate(x):
        if k != at and all(t[k].size == axis.size for t in tensors):
            for other in tensors[1:]:
                call.space.unify(axis, other[k])
        else:
            for i in range(len(tensors)):
                call.pin(i, [k])
    return [tensors[1] if call.op == "GatherElements" else x]


@rule("Compress")
def compress(call: Call) -> list[Tensor]:
    """Picks along one axis while the model runs; the others pass."""
    if "axis" not in call.attributes:
        raise MismatchError("flattens its input")
    return [call.all_but([call.axis(0, len(call.tensor(0)))])]


@rule("OneHot")
def one_hot(call: Call) -> list[Tensor]:
    """Classes along a new axis; those of the indices pass."""
    x = list(call.tensor(0))
    at = call.axis(-1, len(x) + 1)
    size = call.out_shapes[0][at] if call.out_shapes[0] else None
    depth = call.values[1]
    if call.opened and size and call.static[1] and depth is not None:
        new, shape = call.space.fresh(size), depth.shape
        if call.looks_up(0, new):
            call.sizes[1] = lambda keep: np.asarray(keep(new).sum()).reshape(shape)
            return [(*x[:at], new, *x[at:])]
    return [(*x[:at], call.plain()[at], *x[at:])]


def _replicas(call: Call, x: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
    """Axes after broadcasting to ``sizes``; repeated ones follow the axis they meet."""
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
    call.sizes[1] = counts(named[len(out) - len(target) :])
    return [tuple(out)]


@rule("ConstantOfShape")
def constant_of_shape(call: Call) -> list[Tensor]:
    """The same value everywhere: every axis follows the one it meets."""
    out = [call.space.fresh(n) if n > 1 else Axis(n) for n in call.out_shape()]
    if call.value(0) is None:
        raise MismatchError("its shape is computed while the model runs")
    call.sizes[0] = counts(out)
    return [tuple(out)]


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
        return [call.all_but(moved, f"Pad `{call.name}` computes its amounts")]
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


# -- shapes ----------------------------------------------------------------------------------------


@shape_rule("QLinearConcat", domain=MICROSOFT)
def _quantized_concat_shape(call: ShapeCall) -> Fact:
    """(Y scale, Y zero, then tensor, scale, zero of each)."""
    parts = [call.shape(index) for index in range(2, len(call.inputs), 3)]
    dtype = call.fact(2).dtype
    first = parts[0] if parts else None
    if not first:
        return Fact(None, dtype)
    axis = call.integer("axis") % len(first)
    total: int | None = 0
    for part in parts:
        total = plus(total, None if part is None else part[axis])
    return Fact((*first[:axis], total, *first[axis + 1 :]), dtype)


# -- gradients -------------------------------------------------------------------------------------


@gradient_rule("Expand")
def _expand_gradient(call: GradientCall, _: int) -> ir.Value:
    return call.emit.fitted(call.dy, call.x(), call.y)


@gradient_rule("Concat", of=None)
def _concat_gradient(call: GradientCall, k: int) -> ir.Value:
    """The part between what is before it and what is after; sizes may differ from run to run."""
    e, axis = call.emit, int(call.attr("axis"))
    ends = call.shared.setdefault("ends", [e.integers([0])])
    while len(ends) <= k + 1:
        x = call.x(len(ends) - 1)
        at = e.integers([axis % len(e.sizes(x))])
        ends.append(e.op("Add", ends[-1], e.op("Gather", e.op("Shape", x), at, axis=0)))
    return e.part(call.dy, ends[k], ends[k + 1], axis)


@gradient_rule("Split")
def _split_gradient(call: GradientCall, _: int) -> ir.Value:
    e, parts = call.emit, zip(call.node.outputs, call.gradients, strict=True)
    whole = [e.op("Sub", out, out) if dy is None else dy for out, dy in parts]
    return e.op("Concat", *whole, axis=int(call.attr("axis", 0)))


@gradient_rule("Slice")
def _slice_gradient(call: GradientCall, _: int) -> ir.Value:
    e = call.emit
    if call.version < 10:
        raise Undifferentiable("its bounds are attributes, as before opset 10")
    if call.input(4) is not None and (e.content(call.input(4)) != 1).any():
        raise Undifferentiable("it takes steps")
    starts, stops = call.x(1), call.x(2)
    (count,) = e.sizes(starts)
    axes = e.content(call.input(3)) if call.input(3) is not None else np.arange(count)
    whole = [call.x()]
    bounds: list[tuple[ir.Value, ir.Value]] = []
    for k in range(count):
        at = e.integers([k])
        start, stop = (e.op("Gather", v, at, axis=0) for v in (starts, stops))
        if starts.dtype == ir.DataType.INT32:
            start, stop = (e.op("Cast", v, to=int(ir.DataType.INT64)) for v in (start, stop))
        bounds.append((start, stop))
        whole.append(e.part(whole[-1], start, stop, int(axes[k])))
    gradient = call.dy
    for k in reversed(range(count)):
        gradient = e.within(gradient, whole[k], *bounds[k], int(axes[k]))
    return gradient


@gradient_rule("Gather")
def _gather_gradient(call: GradientCall, _: int) -> ir.Value:
    e, axis = call.emit, call.axis(0, call.rank())
    if axis == 0 and not e.is_known(call.x(1)):
        return _scattered(call, "ScatterND", e.unsqueeze(call.x(1), [-1]), reduction="add")
    indices = e.content(call.x(1))
    size = e.sizes(call.x())[axis]
    flat = indices.reshape(-1) % size
    if indices.size == 1 and indices.ndim < 2:
        dy = call.dy if indices.ndim else e.unsqueeze(call.dy, [axis])
        at = int(flat[0])
        return e.within(dy, call.x(), e.integers([at]), e.integers([at + 1]), axis)
    if indices.ndim == 1 and sorted(flat.tolist()) == list(range(size)):
        return e.op("Gather", call.dy, e.integers(np.argsort(flat).tolist()), axis=axis)
    raise Undifferentiable("it selects several indices")


@gradient_rule("GatherElements")
def _gather_elements_gradient(call: GradientCall, _: int) -> ir.Value:
    settings = {"axis": call.attr("axis", 0), "reduction": "add"}
    return _scattered(call, "ScatterElements", call.x(1), **settings)


@gradient_rule("GatherND")
def _gather_nd_gradient(call: GradientCall, _: int) -> ir.Value:
    if call.attr("batch_dims", 0):
        raise Undifferentiable("it has batches")
    return _scattered(call, "ScatterND", call.x(1), reduction="add")


def _scattered(call: GradientCall, kind: str, index: ir.Value, **attributes: object) -> ir.Value:
    """The gradient added up where each element of it was taken from."""
    if call.version < 16:
        raise Undifferentiable(f"{kind} cannot add before opset 16")
    zeros = call.emit.op("Sub", call.x(), call.x())
    return call.emit.op(kind, zeros, index, call.dy, **attributes)


@gradient_rule("ScatterElements", "ScatterND", of=(0, 2))
def _scatter_gradient(call: GradientCall, k: int) -> ir.Value:
    """What was added to goes on as it is, what was written over does not; updates are picked."""
    e, kind = call.emit, call.attr("reduction", "none")
    if kind not in ("none", "add"):
        raise Undifferentiable("it neither writes nor adds")
    axis = {"axis": call.attr("axis", 0)} if call.op == "ScatterElements" else {}
    if k == 2:
        return e.op(call.op.replace("Scatter", "Gather"), call.dy, call.x(1), **axis)
    if kind == "add":
        return call.dy
    return e.op(call.op, call.dy, call.x(1), e.op("Sub", call.x(2), call.x(2)), **axis)


@gradient_rule("Pad")
def _pad_gradient(call: GradientCall, _: int) -> ir.Value:
    e = call.emit
    if call.attr("mode", "constant") != "constant":
        raise Undifferentiable("it does not pad with a constant")
    if call.input(3) is not None:
        raise Undifferentiable("it names its axes")
    pads = call.attr("pads") or e.content(call.input(1)).tolist()
    if min(pads) < 0:
        raise Undifferentiable("it crops")
    gradient, rank = call.dy, len(pads) // 2
    for axis in range(rank):
        if pads[axis] or pads[rank + axis]:
            stop = -pads[rank + axis] or np.iinfo(np.int64).max
            bounds = e.integers([pads[axis]]), e.integers([int(stop)])
            gradient = e.part(gradient, *bounds, axis)
    return gradient
