"""The masked original: the same graph, with everything that reads a removed unit reading zero.

This is the reference that a cut model is checked against. It shares no code with surgery: nothing
is cut, no size changes. Where a node contracts a removed index, the weight rows it would meet are
zeroed, or, where both operands are computed, one of them is multiplied by a mask. What compares
indices (a Softmax over classes) reads the lowest value instead of zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import Analysis, identity
from onnxprune.graph.interface import lowest
from onnxprune.graph.ops import Call
from onnxprune.graph.ops.call import LOWEST
from onnxprune.graph.surgery.edit import Editor

_Masks = dict[int, tuple[npt.NDArray[np.bool_], int | None]]
_Copies = dict[tuple[ir.Value, object], ir.Value]
"""Masked copies of stored tensors, by the tensor and what is masked."""


def mask_model(
    analysis: Analysis,
    removed: Mapping[str, Sequence[int]],
    bypassed: Sequence[str] = (),
) -> models.Model:
    """The analysed model with the given units and blocks masked, at full size.

    Args:
        analysis: of the model; neither is changed.
        removed: group name -> indices of the masked units.
        bypassed: names of blocks whose branch is multiplied by zero.
    """
    editor = Editor(models.clone(analysis.model))
    copies: _Copies = {}
    for node, call, i, masks in _masked_inputs(analysis, removed):
        _mask_input(editor, analysis, editor.nodes[identity(node)], call, i, masks, copies)
    for name in bypassed:
        block = analysis.block(name)
        add = editor.nodes[block.output]
        at = next(k for k, v in enumerate(add.inputs) if v is not editor.values[block.skip])
        branch = add.inputs[at]
        assert branch is not None
        zero = _constant(editor, analysis, branch, np.zeros((), np.float32))
        add.replace_input_with(at, editor.insert(add, "Mul", [branch, zero]))
    return editor.model


def _masked_inputs(
    analysis: Analysis, removed: Mapping[str, Sequence[int]]
) -> Iterator[tuple[ir.Node, Call, int, _Masks]]:
    """The inputs of nodes that meet removed units, and what stays of each axis."""
    keep = analysis.keep(removed)
    for node, call in analysis.walk.calls:
        by_input: dict[int, _Masks] = defaultdict(dict)
        for contraction in call.contractions:
            slots = [s for s in contraction.slots if call.inputs[s[0]] is not None]
            i, k = next((s for s in slots if call.literal[s[0]]), slots[0])
            stays = keep(call.tensor(i)[k])
            if not stays.all():
                by_input[i][k] = (stays, contraction.fill)
        for i, masks in by_input.items():
            yield node, call, i, masks


@dataclass(frozen=True, eq=False)
class _Place:
    """An input that is masked: the constant that holds the mask, or masked weights.

    Attributes:
        value: that constant.
        call, i: the node as its rule saw it, and which input.
        fills: what stands for removed indices, by axis, see `Contraction`.
        stored: the weights that are masked; None where a computed value is multiplied.
    """

    value: ir.Value
    call: Call
    i: int
    fills: Mapping[int, int | None]
    stored: ir.TensorProtocol | None


class UnitMasks:
    """A model with masks for all units of one group, which are set without building it anew.

    Args:
        analysis: of the model; neither is changed.
        group: its name.

    Attributes:
        model: the model; it starts with all units masked.
    """

    def __init__(self, analysis: Analysis, group: str) -> None:
        self._analysis, self._group = analysis, group
        editor = Editor(models.clone(analysis.model))
        every = {group: range(len(analysis.group(group)))}
        self._places = []
        for node, call, i, masks in _masked_inputs(analysis, every):
            target = editor.nodes[identity(node)]
            read = target.inputs[i]
            stored = None if read is None else models.constant(read)
            value = _mask_input(editor, analysis, target, call, i, masks, {})
            fills = {k: fill for k, (_, fill) in masks.items()}
            self._places.append(_Place(value, call, i, fills, stored))
        self.model = editor.model

    @property
    def values(self) -> list[ir.Value]:
        """The constants that are masks or masked weights."""
        return [place.value for place in self._places]

    def tensors(self, removed: Sequence[int]) -> list[ir.TensorProtocol]:
        """What the constants hold if some units are masked and no others.

        Args:
            removed: indices of these units.
        """
        keep = self._analysis.keep({self._group: removed})
        tensors: list[ir.TensorProtocol] = []
        for place in self._places:
            masks = {
                k: (keep(place.call.tensor(place.i)[k]), fill) for k, fill in place.fills.items()
            }
            tensor = models.constant(place.value)
            assert tensor is not None
            array = (
                _mask(masks, len(place.call.tensor(place.i)))[1]
                if place.stored is None
                else _masked(place.stored, place.call, masks)
            )
            tensors.append(ir.Tensor(_within(array, tensor.dtype), dtype=tensor.dtype))
        return tensors


def _masked(stored: ir.TensorProtocol, call: Call, masks: _Masks) -> npt.NDArray[Any]:
    """Weights with zeros, or what else is right, where they meet removed indices."""
    array = np.array(stored.numpy())
    for k, (stays, fill) in masks.items():
        known = _zero(call, fill)
        zero = np.zeros((), array.dtype) if known is None else known
        if zero.size > 1:  # one per output, which is the axis behind the masked one
            zero = zero.reshape(-1, *[1] * (array.ndim - 2))
        np.moveaxis(array, k, 0)[~stays] = zero
    return array


def _zero(call: Call, fill: int | None) -> npt.NDArray[Any] | None:
    """What stands for zero at a node; None where zero does."""
    return None if fill is None or fill == LOWEST else call.values[fill]


def _mask(masks: _Masks, rank: int) -> tuple[str, npt.NDArray[np.float32]]:
    """The operator that masks a computed value, and its second operand."""
    stays = np.ones([1] * rank, np.bool_)
    for k, (kept, _) in masks.items():
        stays = stays & kept.reshape([-1 if j == k else 1 for j in range(rank)])
    if any(fill == LOWEST for _, fill in masks.values()):
        return "Add", np.where(stays, np.float32(0), np.finfo(np.float32).min / 2)
    return "Mul", stays.astype(np.float32)


def _mask_input(
    editor: Editor,
    analysis: Analysis,
    node: ir.Node,
    call: Call,
    i: int,
    masks: _Masks,
    copies: _Copies,
) -> ir.Value:
    """Mask an input of a node; the constant that does it."""
    value = node.inputs[i]
    assert value is not None
    stored = models.constant(value)
    if stored is not None:
        fills = {k: _zero(call, fill) for k, (_, fill) in masks.items()}
        same = tuple((k, stays.tobytes(), id(fills[k])) for k, (stays, _) in sorted(masks.items()))
        if (value, same) not in copies:  # an unrolled layer reads one weight at every step
            tensor = ir.Tensor(_masked(stored, call, masks), dtype=stored.dtype)
            copies[value, same] = editor.store(value, f"{value.name}/masked", tensor)
        node.replace_input_with(i, copies[value, same])
        return copies[value, same]
    op, array = _mask(masks, len(call.tensor(i)))
    mask = _constant(editor, analysis, value, array)
    node.replace_input_with(i, editor.insert(node, op, [value, mask]))
    return mask


def _constant(
    editor: Editor, analysis: Analysis, like: ir.Value, array: npt.NDArray[np.float32]
) -> ir.Value:
    """A constant of the element type of ``like``."""
    fact = analysis.facts.get(like.name or "")
    dtype = fact.dtype if fact is not None and fact.dtype is not None else ir.DataType.FLOAT
    tensor = ir.Tensor(_within(array, dtype), dtype=dtype)
    return editor.store(like, f"{like.name}/mask", tensor)


def _within(array: npt.NDArray[Any], dtype: ir.DataType) -> npt.NDArray[Any]:
    """An array of another type; what is too low for it is half the lowest value."""
    kind = dtype.numpy()
    if array.dtype == np.float32 and dtype.is_floating_point():
        array = np.maximum(array, np.float32(float(lowest(kind)) / 2))
    return array.astype(kind)
