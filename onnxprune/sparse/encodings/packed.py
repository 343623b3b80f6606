"""Weights replaced by what decodes them when the model is loaded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.model.core import QUANTIZATION
from onnxprune.model.decode import MARK, remove
from onnxprune.sparse.encodings import bitmask, delta, delta4
from onnxprune.sparse.encodings import two_of_four as nibble
from onnxprune.sparse.encodings.forms import PACKED, Form
from onnxprune.sparse.encodings.graph_builder import OLDEST, Pieces, Stream, stream
from onnxprune.sparse.encodings.weights import Weight

_DECODERS: Mapping[Form, Callable[[Pieces, Stream], ir.Value]] = {
    "bitmask": bitmask.decode,
    "delta": delta.decode,
    "delta4": delta4.decode,
    "nibble": nibble.decode,
}

_SMALL = 1 << 18
"""Weights below this many values share a stream: each further node costs more than it saves."""

_LONGEST = 1 << 20
"""Values of a shared stream."""

_FREE_INITIALIZERS = 4  # the IR version from which stored tensors need not be inputs too
_ROW = 8  # weights in a row of what the nibble decoder returns


def no_decoder(model: models.Model) -> str:
    """Why nothing can be decoded in this model; empty if it can."""
    opset = model.ir.opset_imports.get("", 0)
    if opset >= OLDEST:
        return ""
    return f"packed weights are decoded by operators of opset {OLDEST}, and the model has {opset}"


def pack(model: models.Model, weights: Sequence[Weight]) -> None:
    """Replace weights by what decodes them, in place.

    Args:
        model: is edited.
        weights: of it, with their forms; those that are dense are only touched if they are
            narrowed, and those that are sparse not at all.
    """
    pieces = Pieces(model)
    made: list[tuple[Weight, ir.Value]] = []
    for one in _streams(weights):
        made += zip(one.weights, _decoded(pieces, one), strict=True)
    narrowed = [weight for weight in weights if weight.form == "dense" and weight.changed]
    together = [w for w in narrowed if w.coding.scale is None and w.content.size < _SMALL]
    made += _converted_together(pieces, together)
    made += [(w, _converted(pieces, w)) for w in narrowed if w not in together]
    if not made:
        return
    pieces.finish()
    model.ir.ir_version = max(model.ir.ir_version, _FREE_INITIALIZERS)
    for weight, value in made:
        _take_place(weight.value, value)
    forms = dict.fromkeys(weight.form for weight, _ in made)
    codes = dict.fromkeys(w.coding.dtype.name.lower() for w, _ in made if w.narrowed)
    model.ir.metadata_props[MARK] = " ".join((*forms, *codes))


def _streams(weights: Sequence[Weight]) -> Iterator[Stream]:
    """Weights that are packed, those of one kind together as long as they are small."""
    kinds: dict[tuple[object, ...], list[Weight]] = defaultdict(list)
    number = 0
    for weight in (w for w in weights if w.form in PACKED):
        kind = (weight.form, weight.coding.dtype, weight.work)
        if weight.content.size >= _SMALL:
            yield stream(number, [weight])
            number += 1
            continue
        if sum(w.content.size for w in (*kinds[kind], weight)) > _LONGEST:
            yield stream(number, kinds.pop(kind))
            number += 1
        kinds[kind].append(weight)
    for members in kinds.values():
        yield stream(number, members)
        number += 1


def _decoded(pieces: Pieces, one: Stream) -> list[ir.Value]:
    """What stands for each weight of a stream."""
    form = one.weights[0].form
    whole = _DECODERS[form](pieces, one)
    row = _ROW if form == "nibble" else 1
    parts = pieces.split(whole, [weight.content.size // row for weight in one.weights])
    return [_shaped(pieces, w, part) for w, part in zip(one.weights, parts, strict=True)]


def _shaped(pieces: Pieces, weight: Weight, part: ir.Value) -> ir.Value:
    """A part of a stream in the weight's shape, axis order, scale and type."""
    shape = list(weight.shape)
    axis = weight.moved
    if axis is None:
        return _scaled(pieces, weight, pieces.reshape(part, shape))
    shape.append(shape.pop(axis))
    order = list(range(len(shape) - 1))
    order.insert(axis, len(shape) - 1)
    return _scaled(pieces, weight, pieces.transpose(pieces.reshape(part, shape), order))


def _converted(pieces: Pieces, weight: Weight) -> ir.Value:
    """What stands for a weight that stays dense but is written in fewer bits."""
    dtype = weight.coding.dtype
    tensor = ir.LazyTensor(lambda: ir.Tensor(weight.stored(), dtype), dtype, ir.Shape(weight.shape))
    held = pieces.constant(dtype.name.lower(), tensor)
    return _scaled(pieces, weight, pieces.cast(held, weight.work))


def _converted_together(
    pieces: Pieces, weights: Sequence[Weight]
) -> Iterator[tuple[Weight, ir.Value]]:
    """The same for small weights, many of which share a tensor and its conversion."""
    kinds: dict[tuple[ir.DataType, ir.DataType], list[Weight]] = defaultdict(list)
    for weight in weights:
        kinds[weight.coding.dtype, weight.work].append(weight)
    for number, ((dtype, work), members) in enumerate(kinds.items()):
        if len(members) == 1:
            yield members[0], _converted(pieces, members[0])
            continue
        one = stream(number, members)
        held = one.add(pieces, dtype.name.lower(), np.ravel, dtype, (one.content.size,))
        parts = pieces.split(pieces.cast(held, work), [w.content.size for w in members])
        for weight, part in zip(members, parts, strict=True):
            flat = len(weight.shape) == 1
            yield weight, part if flat else pieces.reshape(part, weight.shape)


def _scaled(pieces: Pieces, weight: Weight, value: ir.Value) -> ir.Value:
    scale = weight.coding.scale
    if scale is None:
        return value
    scaled = pieces.node("Mul", value, pieces.constant("scale", ir.Tensor(scale)))
    dtype = weight.tensor.dtype
    return scaled if dtype == ir.DataType.FLOAT else pieces.cast(scaled, dtype)


def _take_place(old: ir.Value, new: ir.Value) -> None:
    """``new`` becomes what ``old`` was, name included, for everybody in any graph."""
    for reader, position in list(old.uses()):
        reader.replace_input_with(position, new)
    if QUANTIZATION in old.meta:
        new.meta[QUANTIZATION] = old.meta[QUANTIZATION]
    remove(old)
    new.name = old.name
