"""Normalisations, pools, reductions and softmax.

Where the formula contains the number of channels, the axis is *inexact*: it may be cut on
demand, and then the result is no longer the masked original.
"""

from __future__ import annotations

from onnxprune.graph.axes import Axis
from onnxprune.graph.notation import MismatchError, Tensor
from onnxprune.graph.ops.call import Call, Contraction, lines, rule

_POOLS = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool"
lines(
    {
        _POOLS: "n c * -> n c *",
        "InstanceNormalization": "n c *, c, c -> n c *",
        "GridSample": "n c *, n * -> n c *",
        "MaxRoiPool": "n c *, * -> _ c *",
        "RoiAlign": "n c *, *, * -> _ c *",
        "LRN": "n c~ * -> n c *",
    }
)
lines({"QLinearAveragePool QLinearGlobalAveragePool": "n c * -> n c *"}, domain="com.microsoft")


@rule("BatchNormalization")
def batch_norm(call: Call) -> list[Tensor]:
    """Per channel; in training it normalises over the batch."""
    training = call.attr("training_mode", 0) or len(call.out_shapes) > 1
    return call.einsum(f"{'n~' if training else 'n'} c *, c, c, c, c -> n c *, c, c, c, c")


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


@rule("SkipLayerNormalization", domain="com.microsoft")
def skip_layer_norm(call: Call) -> list[Tensor]:
    """Residual sum, then LayerNormalization; output 3 is the sum."""
    return call.einsum("... c~, ... c, c, c, c -> ... c, ... _, ... _, ... c")


@rule("SkipSimplifiedLayerNormalization", domain="com.microsoft")
def skip_rms_norm(call: Call) -> list[Tensor]:
    """Residual sum, then RMS normalisation; output 3 is the sum."""
    return call.einsum("... c~, ... c, c, c -> ... c, ... _, ... _, ... c")


@rule("GroupNormalization")
def group_norm(call: Call) -> list[Tensor]:
    """Whole groups may go; channels inside a group change its statistics."""
    groups = int(call.attr("num_groups"))
    vector = "g" if call.version < 21 else "(g c)"
    channels = call.tensor(0)[1]
    outer = call.space.split(channels, (groups, (channels.size or 0) // groups))[0]
    call.settings["num_groups"] = lambda keep: int(keep(outer).sum())
    return call.einsum(f"n (g c~) *, {vector}, {vector} -> n (g c) *", {"g": groups})


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(call: Call) -> list[Tensor]:
    """Over one axis; before opset 13 over all axes from ``axis`` on."""
    x = call.tensor(0)
    old = call.version < 13
    at = call.axis(1 if old else -1, len(x))
    for axis in x[at:] if old else (x[at],):
        call.space.inexact(axis, f"{call.op} normalises over it")
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
        else:
            call.space.inexact(x[k], f"{call.op} `{call.name}` runs over it")
    keepdims = call.attr("keepdims", 1)
    kept = [Axis(1) if k in over else a for k, a in enumerate(x) if keepdims or k not in over]
    return [tuple(kept)]


@rule("ArgMax", "ArgMin")
def arg_extremum(call: Call) -> list[Tensor]:
    """Returns positions, so their axis stays; the others pass."""
    x = call.tensor(0)
    at = call.axis(0, len(x))
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
