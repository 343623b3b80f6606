"""Normalisations, pools, reductions and softmax.

Where the formula contains the number of channels, the axis is *inexact*: it may be cut on
demand, and then the result is no longer the masked original.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import onnx_ir as ir

from onnxprune.graph.axes import Axis
from onnxprune.graph.emit import Term, Undifferentiable
from onnxprune.graph.facts import Fact, Shape
from onnxprune.graph.notation import MismatchError, Tensor
from onnxprune.graph.ops.call import (
    CLASSIC,
    LOWEST,
    MICROSOFT,
    Call,
    Contraction,
    count,
    lines,
    rule,
)
from onnxprune.graph.ops.gradient_call import GradientCall, gradient_rule
from onnxprune.graph.ops.shape_call import (
    InconsistentError,
    ShapeCall,
    ShapeRule,
    broadcast,
    check_window,
    like_first,
    require,
    shape_rule,
    window_places,
)

_POOLS = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool"
lines(
    {
        _POOLS: "n c * -> n c *",
        "GridSample": "n c *, n * -> n c *",
        "MaxRoiPool": "n c *, * -> _ c *",
        "RoiAlign": "n c *, *, * -> _ c *",
        "LRN": "n c~ * -> n c *",
    }
)
lines(
    {
        "QLinearAveragePool QLinearGlobalAveragePool": "n c * -> n c *",
        # A residual sum, which is output 3, then a normalisation of it.
        "SkipLayerNormalization": "... c~, ... c, c, c, c -> ... c, ... _, ... _, ... c",
        "SkipSimplifiedLayerNormalization": "... c~, ... c, c, c -> ... c, ... _, ... _, ... c",
    },
    domain=MICROSOFT,
)
lines({"Normalizer": "... c~ -> ... c"}, domain=CLASSIC)


@rule("BatchNormalization")
def batch_norm(call: Call) -> list[Tensor]:
    """Per channel; in training it normalises over the batch."""
    training = call.attr("training_mode", 0) or len(call.out_shapes) > 1
    return call.einsum(f"{'n~' if training else 'n'} c *, c, c, c, c -> n c *, c, c, c, c")


@rule("InstanceNormalization")
def instance_norm(call: Call) -> list[Tensor]:
    """Each channel by itself; TorchScript merges the channels of a group into the places."""
    space = [f"s{k}" for k in range(len(call.tensor(0)) - 2)]
    return call.einsum(f"n c {' '.join(f'{s}~' for s in space)}, c, c -> n c {' '.join(space)}")


@rule("MaxPool")
def max_pool(call: Call) -> list[Tensor]:
    """Its second output counts elements across channels, so it needs them all."""
    if len(call.out_shapes) > 1:
        raise MismatchError("its Indices output numbers elements across channels")
    return call.einsum("n c * -> n c *")


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
@rule("LayerNormalization", "SimplifiedLayerNormalization", domain="com.microsoft")
def layer_norm(call: Call) -> list[Tensor]:
    """Normalises over all axes from ``axis`` on."""
    rank = len(call.tensor(0))
    axis = call.axis(-1, rank)
    names = [f"c{k}" for k in range(rank - axis)]
    over, flat = " ".join(f"{c}~" for c in names), " ".join(names)
    ones = " ".join("_" for _ in names)
    return call.einsum(f"... {over}, {flat}, {flat} -> ... {flat}, ... {ones}, ... {ones}")


@rule("EmbedLayerNormalization", domain="com.microsoft")
def embed_layer_norm(call: Call) -> list[Tensor]:
    """Tables looked up by words, positions and segments, then LayerNormalization of their sum."""
    words = "v" if call.has(2) and call.looks_up(0, call.tensor(2)[0]) else "_"
    line = f"_ _, _ _, {words} c~, _ c, _ c, c, c, _ _, _ _ -> _ _ c, _, _ _ c"
    out = call.einsum(line)
    call.contractions, call.work = [], []  # words are looked up, not summed over
    call.roles.pop((2, 0), None)
    call.roles |= {(i, 1): "writes" for i in (2, 3, 4)}
    return out


@rule("GroupNormalization")
def group_norm(call: Call) -> list[Tensor]:
    """Whole groups may go; channels inside a group change its statistics."""
    groups = int(call.attr("num_groups"))
    vector = "g" if call.version < 21 else "(g c)"
    channels = call.tensor(0)[1]
    outer = call.space.split(channels, (groups, (channels.size or 0) // groups))[0]
    call.settings["num_groups"] = count(outer)
    return call.einsum(f"n (g c~) *, {vector}, {vector} -> n (g c) *", {"g": groups})


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(call: Call) -> list[Tensor]:
    """Over one axis; before opset 13 over all axes from ``axis`` on.

    Scores that a graph gives are normalised over what remains of them, where that may change.
    """
    x = call.tensor(0)
    old = call.version < 13
    at = call.axis(1 if old else -1, len(x))
    for k in range(at, len(x)) if old else (at,):
        if call.opened:
            call.contractions.append(Contraction(((0, k),), LOWEST))
        else:
            call.space.inexact(x[k], f"{call.op} normalises over it")
    return [x]


@rule("LpNormalization")
def lp_norm(call: Call) -> list[Tensor]:
    """A masked index adds nothing to the norm."""
    x = call.tensor(0)
    call.contractions = [Contraction(((0, call.axis(-1, len(x))),))]
    return [x]


@rule("MeanVarianceNormalization")
def mean_variance_norm(call: Call) -> list[Tensor]:
    """Over ``axes``."""
    x = call.tensor(0)
    for k in call.attr("axes", (0, 2, 3)):
        call.space.inexact(x[k], "MeanVarianceNormalization normalises over it")
    return [x]


@rule(
    *(
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
        "ReduceSum ReduceSumSquare"
    ).split()
)
def reduce(call: Call) -> list[Tensor]:
    """Sums of masked zeros are sums of what is kept; means and extrema are not."""
    x = call.tensor(0)
    axes = call.ints("axes", 1)
    if not axes:
        axes = [] if call.attr("noop_with_empty_axes", 0) else list(range(len(x)))
    over = {a % len(x) for a in axes} if x else set()
    for k in over:
        if call.op in ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"):
            call.contractions.append(Contraction(((0, k),)))
        elif call.opened and call.op == "ReduceMax":  # in front of Exp, in a Softmax written out
            call.contractions.append(Contraction(((0, k),), LOWEST))
        else:
            call.space.inexact(x[k], f"{call.op} `{call.name}` runs over it")
    keepdims = call.attr("keepdims", 1)
    kept = [Axis(1) if k in over else a for k, a in enumerate(x) if keepdims or k not in over]
    return [tuple(kept)]


@rule("ArgMax", "ArgMin")
def arg_extremum(call: Call) -> list[Tensor]:
    """Returns positions, so their axis stays, unless the interface may change; the others pass."""
    x = call.tensor(0)
    at = call.axis(0, len(x))
    if call.opened and call.op == "ArgMax":
        call.contractions.append(Contraction(((0, at),), LOWEST))
        call.indices[0] = x[at]
    else:
        call.pin(0, [at])
    keepdims = call.attr("keepdims", 1)
    return [tuple(Axis(1) if k == at else a for k, a in enumerate(x) if keepdims or k != at)]


@rule("TopK", "CumSum", "CumProd")
def along_one_axis(call: Call) -> list[Tensor]:
    """Needs one axis whole; the others pass."""
    x = call.tensor(0)
    known = call.value(1) if call.op != "TopK" else None
    at = known[0] % len(x) if known else call.axis(-1, len(x))
    if call.op != "TopK" and known is None:
        raise MismatchError("its axis is computed while the model runs")
    call.pin(0, [at])
    shapes = [call.out_shapes[k] for k in range(len(call.out_shapes))]
    return [
        tuple(Axis((s or ())[at], why=call.why) if k == at else a for k, a in enumerate(x))
        for s in shapes
        if s is not None
    ]


# -- shapes ----------------------------------------------------------------------------------------

shape_rule("GroupNormalization", "MeanVarianceNormalization")(like_first)


@shape_rule("Normalizer", domain=CLASSIC)
def _normalizer_shape(call: ShapeCall) -> Fact:
    """As the input, always in floats."""
    return Fact(call.shape(0), ir.DataType.FLOAT)


shape_rule(
    *"BiasSoftmax GroupNorm GroupNormalization QLinearSoftmax SkipGroupNorm".split(),
    domain=MICROSOFT,
)(like_first)


@shape_rule("BatchNormalization", "InstanceNormalization")
def _per_channel_shape(call: ShapeCall) -> Fact:
    """One scale per channel."""
    x, scale = call.sizes(0), call.sizes(1)
    if x is not None and scale and len(x) > 1:
        require(x[1], scale[0], "channels")
    return call.result


@shape_rule("LayerNormalization", "RMSNormalization")
def _layer_norm_shape(call: ShapeCall) -> Fact:
    """The scale stretches to the input."""
    x, scale = call.sizes(0), call.sizes(1)
    if x is not None and scale is not None and broadcast(x, scale) != x:
        raise InconsistentError(f"shape {scale} does not stretch to {x}")
    return call.result


@shape_rule(
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    domain=MICROSOFT,
)
def _normalisation_shape(call: ShapeCall) -> list[Fact]:
    """(Skip)(Simplified)LayerNormalization: output, two moments, sum with the skip.

    SimplifiedLayerNormalization has one moment, its second output.
    """
    first = Fact(call.shape(0), call.fact(0).dtype)
    if not first.shape:
        return [first]
    axis = call.integer("axis", -1) % len(first.shape)
    moment: Shape = first.shape[:axis] + (1,) * (len(first.shape) - axis)
    moments = Fact(moment, ir.DataType.FLOAT)
    return [first, moments, moments, first]


@shape_rule("EmbedLayerNormalization", domain=MICROSOFT)
def _embed_layer_normalization_shape(call: ShapeCall) -> list[Fact]:
    """Ids [batch, seq] and a table [vocabulary, hidden]."""
    ids, table = call.shape(0, 2), call.shape(2, 2)
    dtype = call.fact(2).dtype
    if ids is None or table is None:
        return [Fact(None, dtype)]
    hidden: Shape = (*ids, table[-1])
    return [Fact(hidden, dtype), Fact(ids[:1], ir.DataType.INT32), Fact(hidden, dtype)]


@shape_rule("AveragePool", "LpPool", "MaxPool")
def _pool_shape(call: ShapeCall) -> list[Fact]:
    """At least one place for the window.

    Rounding up, a last window that would start in the padding is left out by onnxruntime (and
    PyTorch), which onnx's inference forgets.
    """
    x, fact = call.sizes(0), call.result
    if x is not None and len(x) > 2:
        check_window(call, x[2:], call.attr("kernel_shape", ()))
        if call.integer("ceil_mode") and fact.sizes is not None:
            rank = len(x) - 2
            strides, before = call.attr("strides", [1] * rank), call.attr("pads", [0] * rank)
            places = [
                out - ((out - 1) * strides[axis] >= x[axis + 2] + before[axis])
                for axis, out in enumerate(fact.sizes[2:])
            ]
            fact = Fact((*fact.sizes[:2], *places), fact.dtype)
    return [fact, *(Fact(fact.shape, other.dtype or fact.dtype) for other in call.inferred[1:])]


def _pool_of_layout(*, last: int) -> ShapeRule:
    """Pools whose data may be channels last; ``last`` is the default."""

    def pool(call: ShapeCall) -> Fact:
        sizes, behind = call.shape(0), bool(call.integer("channels_last", last))
        if sizes is not None:
            places = sizes[1:-1] if behind else sizes[2:]
            if call.op == "QLinearGlobalAveragePool":
                places = (1,) * len(places)
            else:
                places = window_places(call, places, call.attr("kernel_shape", ()))
            sizes = (sizes[0], *places, sizes[-1]) if behind else (*sizes[:2], *places)
        return Fact(sizes, call.fact(0).dtype)

    return pool


shape_rule("NhwcMaxPool", domain=MICROSOFT)(_pool_of_layout(last=1))
shape_rule("QLinearAveragePool", "QLinearGlobalAveragePool", domain=MICROSOFT)(
    _pool_of_layout(last=0)
)


# -- gradients, with respect to the data -----------------------------------------------------------


def _axes(call: GradientCall) -> list[int]:
    """The axes that a reduction runs along, ascending."""
    rank = call.rank()
    axes = call.attr("axes")
    if axes is None and call.input(1) is not None:
        axes = call.emit.content(call.input(1)).tolist()
    if not axes:
        if call.attr("noop_with_empty_axes", 0):
            raise Undifferentiable("it reduces nothing")
        return list(range(rank))
    return sorted(int(a) % rank for a in axes)


def _spread(call: GradientCall, gradient: ir.Value) -> ir.Value:
    """A gradient of a reduction with the axes that were dropped."""
    return gradient if call.attr("keepdims", 1) else call.emit.unsqueeze(gradient, _axes(call))


def _repeated(call: GradientCall, gradient: ir.Value) -> ir.Value:
    return call.emit.op("Expand", gradient, call.emit.op("Shape", call.x()))


@gradient_rule("ReduceSum")
def _sum_gradient(call: GradientCall, _: int) -> ir.Value:
    return _repeated(call, _spread(call, call.dy))


@gradient_rule("ReduceMean")
def _mean_gradient(call: GradientCall, _: int) -> ir.Value:
    """The number of elements may differ from run to run: it is what both shapes say."""
    e = call.emit
    dims = e.op("Gather", e.op("Shape", call.x()), e.integers(_axes(call)), axis=0)
    count = e.op("Cast", e.op("ReduceProd", dims, keepdims=0), to=1)
    return _repeated(call, e.op("Div", _spread(call, call.dy), count))


@gradient_rule("CumSum")
def _cumulative_gradient(call: GradientCall, _: int) -> ir.Value:
    """The sum from the other end."""
    settings = {"exclusive": call.attr("exclusive", 0), "reverse": 1 - call.attr("reverse", 0)}
    return call.emit.op("CumSum", call.dy, call.x(1), **settings)


_REDUCED: Mapping[str, Callable[[Term, Term], Term]] = {
    "ReduceL1": lambda x, _: x.op("Sign"),
    "ReduceL2": lambda x, y: x / y,
    "ReduceLogSum": lambda x, y: (x - x - y).op("Exp"),
    "ReduceLogSumExp": lambda x, y: (x - y).op("Exp"),
    "ReduceMax": lambda x, y: x.op("Equal", y).mask(),
    "ReduceMin": lambda x, y: x.op("Equal", y).mask(),
    "ReduceSumSquare": lambda x, _: x * 2,
}
"""The derivative by one of the elements that are reduced, of it and the result."""


@gradient_rule(*_REDUCED)
def _reduce_gradient(call: GradientCall, _: int) -> ir.Value:
    dy, y = (call.term(_spread(call, v)) for v in (call.dy, call.y))
    return (_REDUCED[call.op](call.term(call.x()), y) * dy).value


@gradient_rule("GlobalAveragePool")
def _global_average_gradient(call: GradientCall, _: int) -> ir.Value:
    count = math.prod(call.emit.sizes(call.x())[2:])
    return _repeated(call, (call.term(call.dy) / float(count)).value)


@gradient_rule("AveragePool")
def _average_gradient(call: GradientCall, _: int) -> ir.Value:
    """A transposed convolution of every channel with a kernel of equal weights."""
    e, x = call.emit, call.x()
    kernel = list(call.attr("kernel_shape"))
    rank = len(kernel)
    strides = list(call.attr("strides", (1,) * rank))
    sizes, outs = e.sizes(x)[2:], e.sizes(call.y)[2:]
    spans = [(o - 1) * s + k for o, s, k in zip(outs, strides, kernel, strict=True)]
    more = [n - span for n, span in zip(sizes, spans, strict=True)]
    simple = (
        call.attr("auto_pad", "NOTSET") == "NOTSET"
        and not any(call.attr("pads", ()))
        and not any(d != 1 for d in call.attr("dilations", ()))
        and all(0 <= m < s or (m == 0) for m, s in zip(more, strides, strict=True))
    )
    if not simple:
        raise Undifferentiable("it pads, dilates or rounds up")
    channels = e.sizes(x)[1]
    one = e.number(1.0 / math.prod(kernel))
    weight = e.op("Expand", one, e.integers([channels, 1, *kernel]))
    settings = {"strides": strides, "output_padding": more, "group": channels}
    return e.op("ConvTranspose", call.dy, weight, **settings)


@gradient_rule("BatchNormalization")
def _batch_gradient(call: GradientCall, _: int) -> ir.Value:
    if call.attr("training_mode", 0):
        raise Undifferentiable("it is in training mode")
    steady = call.term(call.x(4)) + float(call.attr("epsilon", 1e-5))
    gain = call.term(call.x(1)) / steady.op("Sqrt")
    shape = call.emit.integers([1, -1] + [1] * (call.rank() - 2))
    return (call.term(call.dy) * gain.op("Reshape", call.term(shape))).value


@gradient_rule(
    *"InstanceNormalization LayerNormalization RMSNormalization".split(),
    "SimplifiedLayerNormalization",
)
def _layer_gradient(call: GradientCall, _: int) -> ir.Value:
    """By the formula and not through a body, whose nodes are twice as many."""
    e, rank = call.emit, call.rank()
    x, scale, dy = call.term(call.x(0)), call.term(call.x(1)), call.term(call.dy)
    axes = list(range(call.axis(-1, rank), rank))
    if call.op == "InstanceNormalization":
        axes = list(range(2, rank))
        scale = scale.op("Reshape", call.term(e.integers([1, -1] + [1] * (rank - 2))))
    count = float(math.prod(e.sizes(call.x())[axes[0] :]))
    centred = call.op in ("InstanceNormalization", "LayerNormalization")

    def mean(term: Term) -> Term:
        return call.term(e.sum(term.value, axes)) / count

    around = x - mean(x) if centred else x
    deviation = (mean(around * around) + float(call.attr("epsilon", 1e-5))).op("Sqrt")
    normal, pushed = around / deviation, dy * scale
    inner = pushed - normal * mean(pushed * normal)
    return ((inner - mean(pushed) if centred else inner) / deviation).value


@gradient_rule("MaxPool")
def _max_pool_gradient(call: GradientCall, _: int) -> ir.Value:
    """Sent to where the maximum was, by the indices that a second run of it returns."""
    e, x = call.emit, call.x()
    if call.version < 16:
        raise Undifferentiable("ScatterElements cannot add before opset 16")
    if call.attr("storage_order", 0):
        raise Undifferentiable("its indices are column-major")
    where = e.ops("MaxPool", 2, x, **call.attributes)[1]
    flat = e.integers([-1])
    zeros, index, dy = (e.op("Reshape", v, flat) for v in (e.op("Sub", x, x), where, call.dy))
    return e.like(e.op("ScatterElements", zeros, index, dy, axis=0, reduction="add"), x)


@gradient_rule("Softmax", "LogSoftmax")
def _softmax_gradient(call: GradientCall, _: int) -> ir.Value:
    rank, old = call.rank(), call.version < 13
    axis = call.axis(1 if old else -1, rank)
    if old and axis != rank - 1:
        raise Undifferentiable("it normalises over several axes at once")
    dy, y = call.term(call.dy), call.term(call.y)
    if call.op == "LogSoftmax":
        return (dy - y.op("Exp") * call.term(call.emit.sum(dy.value, [axis]))).value
    return (y * (dy - call.term(call.emit.sum((dy * y).value, [axis])))).value
