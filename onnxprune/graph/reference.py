"""The masked original: the same graph, with everything that reads a removed unit reading zero.

This is the reference that a cut model is checked against. It shares no code with surgery: nothing
is cut, no size changes. Where a node contracts a removed index, the weight rows it would meet are
zeroed, or, where both operands are computed, one of them is multiplied by a mask.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import Analysis, identity
from onnxprune.graph.ops import Call
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
    keep = analysis.keep(removed)
    copies: _Copies = {}
    for node, call in analysis.walk.calls:
        by_input: dict[int, _Masks] = defaultdict(dict)
        for contraction in call.contractions:
            slots = [s for s in contraction.slots if call.inputs[s[0]] is not None]
            i, k = next((s for s in slots if call.literal[s[0]]), slots[0])
            stays = keep(call.tensor(i)[k])
            if not stays.all():
                by_input[i][k] = (stays, contraction.fill)
        for i, masks in by_input.items():
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


def _mask_input(
    editor: Editor,
    analysis: Analysis,
    node: ir.Node,
    call: Call,
    i: int,
    masks: _Masks,
    copies: _Copies,
) -> None:
    value = node.inputs[i]
    assert value is not None
    stored = models.constant(value)
    if stored is not None:
        fills = {k: None if f is None else call.values[f] for k, (_, f) in masks.items()}
        same = tuple((k, stays.tobytes(), id(fills[k])) for k, (stays, _) in sorted(masks.items()))
        if (value, same) in copies:  # an unrolled layer reads one weight at every step
            node.replace_input_with(i, copies[value, same])
            return
        array = np.array(stored.numpy())
        for k, (stays, _) in masks.items():
            known = fills[k]
            zero = np.zeros((), array.dtype) if known is None else known
            if zero.size > 1:  # one per output, which is the axis behind the masked one
                zero = zero.reshape(-1, *[1] * (array.ndim - 2))
            np.moveaxis(array, k, 0)[~stays] = zero
        copy = editor.store(value, f"{value.name}/masked", ir.Tensor(array, dtype=stored.dtype))
        copies[value, same] = copy
        node.replace_input_with(i, copy)
        return
    rank = len(call.tensor(i))
    factor = np.ones([1] * rank, np.float32)
    for k, (stays, _) in masks.items():
        factor = factor * stays.reshape([-1 if j == k else 1 for j in range(rank)])
    mask = _constant(editor, analysis, value, factor)
    node.replace_input_with(i, editor.insert(node, "Mul", [value, mask]))


def _constant(
    editor: Editor, analysis: Analysis, like: ir.Value, array: npt.NDArray[np.float32]
) -> ir.Value:
    """A constant of the element type of ``like``."""
    fact = analysis.facts.get(like.name or "")
    dtype = fact.dtype if fact is not None and fact.dtype is not None else ir.DataType.FLOAT
    tensor = ir.Tensor(array.astype(dtype.numpy()), dtype=dtype)
    return editor.store(like, f"{like.name}/mask", tensor)
