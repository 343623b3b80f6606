"""Shapes of onnxruntime's convolutions and pools in other layouts than [batch, channels, ...].

``com.microsoft.nchwc`` blocks channels (8 or 16 wide, by processor); its Conv and pools have the
shapes of the standard ones. ``Nhwc...`` and ``channels_last`` put channels last.
Source: onnxruntime ``core/graph/contrib_ops/nhwc_schema_defs.cc``, ``nchwc_schema_defs.cc``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxprune.graph.shapes.call import Call, Rule
from onnxprune.graph.shapes.facts import Fact, Shape

_WIDEST_BLOCK = 16


def _reorder_input(call: Call) -> list[Fact]:
    """ReorderInput: into blocks; channels that fill no whole block are padded up to one."""
    shape = call.shape(0)
    if shape is None or len(shape) < 2:
        return [Fact(None, call.fact(0).dtype)]
    if call.integer("channels_last"):
        shape = (shape[0], shape[-1], *shape[1:-1])
    channels = shape[1] if shape[1] is not None and shape[1] % _WIDEST_BLOCK == 0 else None
    reason = "channels are padded to the processor's block"
    return [Fact((shape[0], channels, *shape[2:]), call.fact(0).dtype, reason=reason)]


def _reorder_output(call: Call) -> list[Fact]:
    """ReorderOutput: out of blocks, to the true number of channels."""
    shape = call.shape(0)
    if shape is None:
        return [Fact(None, call.fact(0).dtype)]
    places, channels = shape[2:], call.integer("channels")
    inner = (*places, channels) if call.integer("channels_last") else (channels, *places)
    return [Fact((shape[0], *inner), call.fact(0).dtype)]


def _upsample(call: Call) -> list[Fact]:
    """The blocked Upsample: whole-numbered scales."""
    shape, scales = call.shape(0), call.attributes.get("scales", ())
    if shape is not None and len(scales) == len(shape):
        shape = tuple(
            None if size is None else size * int(scale)
            for size, scale in zip(shape, scales, strict=True)
        )
    return [Fact(shape, call.fact(0).dtype)]


def _channels_last(call: Call, default: int) -> bool:
    return bool(call.integer("channels_last", default))


def _convolution(weight_at: int, *, last: int) -> Rule:
    """Convolutions whose data may be channels last; weights are [out, in, ...] all the same.

    ``last`` is what ``channels_last`` is when it is not written.
    """

    def rule(call: Call) -> list[Fact]:
        shape, weight = call.shape(0), call.shape(weight_at)
        dtype = call.fact(7 if weight_at == 3 else 0).dtype or call.fact(0).dtype
        if shape is None or weight is None or len(shape) != len(weight):
            return [Fact(None, dtype)]
        behind = _channels_last(call, last)
        places = shape[1:-1] if behind else shape[2:]
        out = _places(call, places, weight[2:])
        return [
            Fact((shape[0], *out, weight[0]) if behind else (*shape[:1], weight[0], *out), dtype)
        ]

    return rule


def _pool(*, last: int) -> Rule:
    """Pools whose data may be channels last."""

    def rule(call: Call) -> list[Fact]:
        shape = call.shape(0)
        if shape is None:
            return [Fact(None, call.fact(0).dtype)]
        behind = _channels_last(call, last)
        places = shape[1:-1] if behind else shape[2:]
        out = _places(call, places, call.attributes.get("kernel_shape", ()))
        whole = (shape[0], *out, shape[-1]) if behind else (*shape[:2], *out)
        return [Fact(whole, call.fact(0).dtype)]

    return rule


def _global_pool(call: Call) -> list[Fact]:
    """QLinearGlobalAveragePool."""
    shape = call.shape(0)
    if shape is not None:
        ones = (1,) * (len(shape) - 2)
        behind = _channels_last(call, 0)
        shape = (shape[0], *ones, shape[-1]) if behind else (*shape[:2], *ones)
    return [Fact(shape, call.fact(0).dtype)]


def _places(call: Call, sizes: Shape, kernel: Sequence[int | None]) -> Shape:
    """How many places a window has along each axis.

    Raises:
        ValueError: it does not fit once.
    """
    rank = len(sizes)
    strides = call.attributes.get("strides", (1,) * rank)
    dilations = call.attributes.get("dilations", (1,) * rank)
    pads = call.attributes.get("pads", (0,) * 2 * rank)
    auto = str(call.attributes.get("auto_pad", "NOTSET"))
    places: list[int | None] = []
    for axis, (size, width) in enumerate(zip(sizes, kernel, strict=True)):
        if size is None or width is None:
            places.append(None)
            continue
        if auto.startswith("SAME"):
            places.append(-(-size // strides[axis]))
            continue
        around = 0 if auto == "VALID" else pads[axis] + pads[axis + rank]
        room = size + around - dilations[axis] * (width - 1) - 1
        if room < 0:
            raise ValueError(f"a window of {width} does not fit into {size + around}")
        steps = room // strides[axis]
        if call.integer("ceil_mode"):
            steps = -(-room // strides[axis])
            # A last window must not start in the padding behind.
            before = 0 if auto == "VALID" else pads[axis]
            steps -= steps * strides[axis] >= size + before
        places.append(steps + 1)
    return tuple(places)


LAYOUT_RULES: Mapping[str, Rule] = {
    "NhwcConv": _convolution(1, last=1),
    "NhwcFusedConv": _convolution(1, last=1),
    "NhwcMaxPool": _pool(last=1),
    "QLinearAveragePool": _pool(last=0),
    "QLinearConv": _convolution(3, last=0),
    "QLinearGlobalAveragePool": _global_pool,
    "ReorderInput": _reorder_input,
    "ReorderOutput": _reorder_output,
    "Upsample": _upsample,
}
