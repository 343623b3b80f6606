"""Stored tensors, attributes and channel shuffles after a cut."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import Analysis, identity
from onnxprune.graph.ops import Keep
from onnxprune.graph.surgery.edit import Editor, everything, kept_rows
from onnxprune.graph.walk import Use


def cut_tensors(editor: Editor, analysis: Analysis, keep: Keep) -> None:
    """Cut every stored tensor; one that is read in different cuts is copied per cut."""
    uses: dict[str, list[Use]] = defaultdict(list)
    for use in analysis.walk.uses:
        uses[use.value.name or ""].append(use)
    for name, readers in uses.items():
        by_cut: dict[bytes, list[Use]] = defaultdict(list)
        for use in readers:
            by_cut[b"|".join(keep(a).tobytes() for a in use.axes)].append(use)
        value = editor.values[name]
        tensor = models.constant(value)
        assert tensor is not None
        for same in by_cut.values():
            masks = [keep(a) for a in same[0].axes]
            if all(m.all() for m in masks):
                continue
            new = kept_rows(tensor, masks)
            if len(by_cut) == 1 and not value.is_graph_output():
                models.set_constant(value, new)
                continue
            copy = editor.store(value, f"{name}/cut", new)
            for use in same:
                node = editor.nodes[identity(use.node)]
                node.replace_input_with(use.position, copy)


def rewrite_settings(editor: Editor, analysis: Analysis, keep: Keep) -> None:
    """Attributes that hold sizes: groups, heads, hidden sizes, split lists, pads."""
    for node, call in analysis.walk.calls:
        for name, rule in call.settings.items():
            new, old = rule(keep), rule(everything)
            if new is None or new == old:
                continue
            target = editor.nodes[identity(node)]
            if isinstance(new, float):
                target.attributes.add(ir.AttrFloat32(name, new))
            elif isinstance(new, list):
                target.attributes.add(ir.AttrInt64s(name, new))
            else:
                target.attributes.add(ir.AttrInt64(name, new))


def rewrite_shuffles(editor: Editor, analysis: Analysis, keep: Keep) -> None:
    """A shuffle that loses channels becomes a Gather."""
    for shuffle in analysis.walk.shuffles:
        first, _, last = (editor.nodes[identity(n)] for n in shuffle.nodes)
        name = shuffle.nodes[0].inputs[0].name or ""  # type: ignore[union-attr]
        stays = keep(analysis.walk.axes[name][shuffle.axis])
        if stays.all():
            continue
        order = (np.cumsum(stays) - 1)[shuffle.order[stays[shuffle.order]]]
        out = last.outputs[0]
        rows = editor.store(out, f"{out.name}/order", order.astype(np.int64))
        gathered = editor.insert(first, "Gather", [first.inputs[0], rows], axis=shuffle.axis)
        editor.replace(out.name or "", gathered.name or "")
