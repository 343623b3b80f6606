"""After a cut: dead nodes and stale shapes go, and the interface is checked."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes import common

from onnxprune import model as models
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.axes import Axis
from onnxprune.graph.ops import Keep
from onnxprune.graph.surgery.edit import Editor


def clean(editor: Editor, analysis: Analysis, keep: Keep) -> None:
    """Remove dead nodes and infer shapes anew."""
    graph = editor.model.ir.graph
    needed = {v.name for v in analysis.model.ir.graph.inputs if v.uses() or v.is_graph_output()}
    common.RemoveUnusedNodesPass()(editor.model.ir)
    unread = [
        v
        for v in graph.inputs
        if v.is_initializer() and v.name in needed and not v.uses() and not v.is_graph_output()
    ]
    for value in unread:
        graph.inputs.remove(value)
        graph.initializers.pop(value.name or "", None)
    described = {
        value.name
        for inner in models.graphs(analysis.model)
        for value in models.values(inner)
        if value.shape is not None
    }
    forget(editor, analysis, keep)
    for value in (*graph.inputs, *graph.outputs):
        _declare_less(value, analysis.walk.axes.get(value.name or "", ()), keep)
    declared = [(v, v.shape) for v in (*graph.inputs, *graph.outputs)]
    _infer(editor.model.ir)
    for value, shape in declared:  # the interface is as it was, names of open sizes included
        value.shape = shape
    _declare_again(editor, analysis, keep)
    for inner in models.graphs(editor.model):  # a graph without value_info stays without
        kept = {*inner.inputs, *inner.outputs}
        for node in inner:
            for value in node.outputs:
                if value not in kept and value.name not in described:
                    value.shape = None
                    value.type = None


def forget(editor: Editor, analysis: Analysis, keep: Keep) -> None:
    """Drop all shapes but those of borders; inference leaves those of bodies, so they are cut."""
    for graph in models.graphs(editor.model):
        kept = {*graph.inputs, *graph.outputs}
        for value in [v for node in graph for v in node.outputs if v not in kept]:
            value.shape = None
        for value in kept if graph is not editor.model.ir.graph else ():
            axes = analysis.walk.axes.get(value.name or "", ())
            if models.constant(value) is not None or value.shape is None:
                continue
            if len(axes) == len(value.shape):
                value.shape = _kept_sizes(axes, value.shape, keep)


def _declare_again(editor: Editor, analysis: Analysis, keep: Keep) -> None:
    """Cut the shapes that a model declares and inference does not know."""
    dense = {v.name: v.shape for v in models.values(analysis.model.ir.graph) if v.shape is not None}
    for node in editor.model.ir.graph:
        for value in node.outputs:
            shape, axes = dense.get(value.name), analysis.walk.axes.get(value.name or "", ())
            if value.shape is None and shape is not None and len(axes) == len(shape):
                value.shape = _kept_sizes(axes, shape, keep)


def _declare_less(value: ir.Value, axes: Sequence[Axis], keep: Keep) -> None:
    """Cut the declared sizes of a graph input or output whose axes lose indices."""
    if value.shape is None or len(axes) != len(value.shape) or models.constant(value) is not None:
        return
    pairs = list(zip(axes, value.shape, strict=True))
    if any(axis.columns and not keep(axis).all() for axis, _ in pairs):
        value.shape = ir.Shape(
            [int(keep(a).sum()) if a.columns and isinstance(d, int) else d for a, d in pairs]
        )


def _kept_sizes(axes: Sequence[Axis], shape: ir.Shape, keep: Keep) -> ir.Shape:
    pairs = zip(axes, shape, strict=True)
    return ir.Shape([int(keep(a).sum()) if a.columns else d for a, d in pairs])


def _infer(model: ir.Model) -> None:
    """Shape inference, where onnx can; a graph without value_info is as good."""
    try:
        common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    except Exception:  # noqa: BLE001  # inference of a foreign operator set: shapes stay open
        return
