"""Models whose interface changed: ids that are renumbered, and nodes that bridge both interfaces.

A cut model takes new ids and narrower inputs, and gives narrower outputs. *Adapted*, it takes the
inputs of the original again: one Gather behind a graph input renumbers its ids, or drops the
features that nothing reads any more. That is how both run on the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from onnxprune import model as models
from onnxprune.graph.analysis import Analysis, identity
from onnxprune.graph.interface import AxisMap, Interface, lowest
from onnxprune.graph.ops import Keep
from onnxprune.graph.surgery.edit import Editor
from onnxprune.graph.walk import carries_ids
from onnxprune.model.seal import INTERFACE_KEY

Model = models.Model


def follow_ids(editor: Editor, analysis: Analysis, keep: Keep) -> None:
    """Give the old ids to every reader of renumbered ones that does not look them up."""
    walk = analysis.walk
    for source, axis in walk.domains.items():
        stays = keep(axis)
        if stays.all():
            continue
        kept = np.flatnonzero(stays)
        for name in [name for name, of in walk.ids.items() if of == source]:
            value = editor.values[name]
            readers = [
                (node, position)
                for node, position in value.uses()
                if (identity(node), position) not in walk.lookups
                and not (position == 0 and carries_ids(node))
                and node.op_type not in ("Shape", "Size")
            ]
            old: dict[ir.Graph | None, ir.Value] = {}
            for node, position in readers:
                where = node.graph if isinstance(node.graph, ir.Graph) else None
                if where not in old:
                    dtype = analysis.facts[name].dtype or ir.DataType.INT64
                    old[where] = _look_up(editor, node, value, kept, dtype, f"{name}/old_ids")
                node.replace_input_with(position, old[where])


def _look_up(
    editor: Editor,
    before: ir.Node,
    ids: ir.Value,
    table: npt.NDArray[np.int64],
    dtype: ir.DataType,
    name: str,
) -> ir.Value:
    """A node that gives ``table[ids]``, in the element type of the ids."""
    rows = editor.store(before.outputs[0], name, table.astype(dtype.numpy()))
    if dtype not in (ir.DataType.INT32, ir.DataType.INT64):
        ids = editor.insert(before, "Cast", [ids], to=int(ir.DataType.INT64))
    return editor.insert(before, "Gather", [rows, ids], axis=0)


@dataclass(frozen=True, eq=False)
class Narrowed:
    """A model without some of its interface.

    Attributes:
        model: adapted: it takes the inputs of the original and gives the narrower outputs.
        interface: what changed.
    """

    model: Model
    interface: Interface


def adapt(model: Model, interface: Interface) -> Model:
    """A cut model that takes the inputs of the original again.

    Ids that were removed are read as the unknown one; without one, the runtime refuses them.

    Args:
        model: with the inputs that ``interface`` leaves; not changed.
        interface: what changed of the original.
    """
    editor = Editor(models.clone(model))
    graph = editor.model.ir.graph
    inputs = {value.name: value for value in graph.inputs}
    first = next(iter(graph), None)  # bridges come before it, each behind the one that it reads
    for axis in interface.inputs:
        value = inputs.get(axis.value)
        if axis.inside or value is None or first is None:
            continue
        source = _adapted(value)
        readers = list(source.uses())
        if axis.axis is None:
            places = axis.places
            other = len(axis.kept) if axis.unknown is None else places[axis.unknown]
            dtype = value.dtype or ir.DataType.INT64
            table = np.where(places < 0, other, places)
            new = _look_up(editor, first, source, table, dtype, f"{axis.value}/new_ids")
        else:
            rows = editor.store(first.outputs[0], f"{axis.value}/kept", _int64(axis.kept))
            new = editor.insert(first, "Gather", [source, rows], axis=axis.axis)
            _resize(value, axis.axis, axis.size)
        node = new.producer()
        assert node is not None
        node.name = _bridge(axis)
        for reader, position in readers:
            reader.replace_input_with(position, new)
    return editor.model


def _bridge(axis: AxisMap) -> str:
    """The name of the node that bridges an axis of an input."""
    return f"{axis.value}/interface/{'ids' if axis.axis is None else axis.axis}"


def _adapted(value: ir.Value) -> ir.Value:
    """What the nodes of the cut model read of an input: the end of its bridges."""
    start = f"{value.name}/interface/"
    while True:
        node = next((n for n, _ in value.uses() if (n.name or "").startswith(start)), None)
        if node is None:
            return value
        value = node.outputs[0]


def release(
    model: Model, interface: Interface, *, keep_ids: bool = False
) -> tuple[Model, Interface]:
    """The model as it is written: without bridges, or, to keep ids, with those of ids for good.

    Args:
        model: adapted; not changed.
        interface: what changed of the original.
        keep_ids: whether the file takes the old ids, and gives outputs of the old size where a
            vocabulary was cut.

    Returns:
        The model, with the map in its metadata, and the map.
    """
    editor = Editor(models.clone(model))
    graph = editor.model.ir.graph
    named = {node.name: node for node in graph}
    inputs = {value.name: value for value in graph.inputs}
    for axis in interface.inputs:
        node = named.get(_bridge(axis))
        if node is None or axis.inside or (keep_ids and axis.axis is None):
            continue
        _unbridge(graph, node, inputs[axis.value])
        if axis.axis is not None:
            _resize(inputs[axis.value], axis.axis, len(axis.kept))
    if keep_ids:
        for axis in interface.outputs:
            if axis.kind == "vocabulary" and not axis.inside:
                _widen(editor, axis)
        interface = interface.with_ids_inside()
    return with_interface(editor.model, interface), interface


def _unbridge(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Remove the bridge that ends with ``node``: what reads it reads what it bridges."""
    source = next(v for v in node.inputs if v is not None and models.constant(v) is None)
    cast = source.producer()
    dead = [node]
    if cast is not None and cast.op_type == "Cast" and len(source.uses()) == 1:
        dead.append(cast)
        source = value if cast.inputs[0] is None else cast.inputs[0]
    for reader, position in list(node.outputs[0].uses()):
        reader.replace_input_with(position, source)
    stored = [v for n in dead for v in n.inputs if v is not None and models.constant(v) is not None]
    graph.remove(dead, safe=True)
    for each in stored:
        if each.uses():
            continue
        if each.is_initializer():
            graph.initializers.pop(each.name or "", None)
        elif each.producer() is not None:
            graph.remove(each.producer(), safe=True)  # type: ignore[arg-type]


def select_outputs(model: Model, interface: Interface) -> Model:
    """A model with the original outputs, that gives only what ``interface`` leaves of them."""
    editor = Editor(models.clone(model))
    outputs = {value.name for value in editor.model.ir.graph.outputs}
    for axis in interface.outputs:
        if axis.value not in outputs:
            continue
        value, new = _append(editor, axis.value)
        if axis.axis is None:
            dtype = value.dtype or ir.DataType.INT64
            rows = editor.store(value, f"{axis.value}/new_ids", axis.places.astype(dtype.numpy()))
            _node(editor, "Gather", [rows, value], new, axis=0)
        else:
            rows = editor.store(value, f"{axis.value}/kept", _int64(axis.kept))
            _node(editor, "Gather", [value, rows], new, axis=axis.axis)
            _resize(new, axis.axis, len(axis.kept))
    return editor.model


def without_scattering(model: Model, interface: Interface) -> Model:
    """A model that keeps ids, with the outputs that it has before they get their old size back.

    Args:
        model: as `release` makes it with ``keep_ids``; not changed.
        interface: its map.
    """
    if not any(axis.inside for axis in interface.outputs):
        return model
    editor = Editor(models.clone(model))
    graph = editor.model.ir.graph
    for axis in interface.outputs:
        at = next((k for k, v in enumerate(graph.outputs) if v.name == axis.value), None)
        node = None if at is None else graph.outputs[at].producer()
        if not axis.inside or at is None or node is None or node.op_type != "Gather":
            continue
        value = node.inputs[1 if axis.axis is None else 0]
        padded = None if value is None else value.producer()
        if axis.axis is not None:
            if padded is None or padded.op_type != "Concat":
                continue
            value = padded.inputs[0]
        if value is None:
            continue
        name, old = axis.value, graph.outputs[at]
        old.name = editor.fresh(f"{name}/scattered")
        graph.outputs[at] = value
        value.name = name
        value.type, value.shape = value.type or old.type, value.shape or old.shape
        if axis.axis is not None:
            _resize(value, axis.axis, len(axis.kept))
    common.RemoveUnusedNodesPass()(editor.model.ir)
    return editor.model


def _widen(editor: Editor, axis: AxisMap) -> None:
    """Give an output its old ids or its old size."""
    value, new = _append(editor, axis.value)
    dtype = value.dtype or ir.DataType.FLOAT
    if axis.axis is None:
        rows = editor.store(value, f"{axis.value}/old_ids", _int64(axis.kept).astype(dtype.numpy()))
        _node(editor, "Gather", [rows, value], new, axis=0)
        return
    number = lowest(dtype.numpy()) if axis.fill == "lowest" else 0
    padded = _pad_by_one(editor, value, axis.axis, number, dtype)
    places = axis.places
    rows = editor.store(value, f"{axis.value}/places", np.where(places < 0, len(axis.kept), places))
    _node(editor, "Gather", [padded, rows], new, axis=axis.axis)
    _resize(new, axis.axis, axis.size)


def _pad_by_one(
    editor: Editor, value: ir.Value, axis: int, number: float, dtype: ir.DataType
) -> ir.Value:
    """A value with one more index at the end of an axis, which holds ``number``."""
    row = editor.store(value, f"{value.name}/row", _int64([0]))
    first = _node(editor, "Gather", [value, row], axis=axis)
    fill = editor.store(value, f"{value.name}/fill", np.full((), number, dtype.numpy()))
    shape = _node(editor, "Shape", [first])
    column = _node(editor, "Expand", [fill, shape])
    return _node(editor, "Concat", [value, column], axis=axis)


def _node(
    editor: Editor,
    op: str,
    inputs: list[ir.Value],
    output: ir.Value | None = None,
    **attributes: int,
) -> ir.Value:
    """A new node at the end of the graph that gives ``output``, by default a new value."""
    name = editor.fresh(f"{inputs[0].name}/{op}" if output is None else f"{output.name}/interface")
    attrs = [ir.AttrInt64(k, v) for k, v in attributes.items()]
    output = ir.Value(name=name) if output is None else output
    node = ir.Node("", op, inputs, attrs, outputs=[output], name=name)
    editor.model.ir.graph.append(node)
    return output


def _append(editor: Editor, name: str) -> tuple[ir.Value, ir.Value]:
    """Free the name of a graph output: the value that had it, and a new one that takes it."""
    graph = editor.model.ir.graph
    value = editor.values[name]
    new = ir.Value(name=name, type=value.type, shape=value.shape)
    value.name, value.shape = editor.fresh(f"{name}/whole"), None  # some declare a wrong one
    editor.values[value.name], editor.values[name] = value, new
    for k, each in enumerate(graph.outputs):
        if each is value:
            graph.outputs[k] = new
    return value, new


def _resize(value: ir.Value, axis: int, size: int) -> None:
    """Declare another size of an axis, where one is declared."""
    if value.shape is None:
        return
    if axis >= len(value.shape):  # of a rank that it does not have
        value.shape = None
    else:
        dims = list(value.shape)
        if isinstance(dims[axis], int):
            dims[axis] = size
            value.shape = ir.Shape(dims)


def _int64(indices: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.asarray(indices, np.int64)


def interface_of(model: Model) -> Interface:
    """The map that a model carries; empty for one whose interface is the original's.

    Raises:
        OnnxpruneError: it is not well-formed.
    """
    text = model.ir.metadata_props.get(INTERFACE_KEY)
    return (
        Interface()
        if not text
        else Interface.from_json(text, f"the metadata entry {INTERFACE_KEY}")
    )


def with_interface(model: Model, interface: Interface) -> Model:
    """A copy of a model that carries a map."""
    copy = models.clone(model)
    copy.ir.metadata_props.pop(INTERFACE_KEY, None)
    if interface:
        copy.ir.metadata_props[INTERFACE_KEY] = interface.to_json()
    return copy
