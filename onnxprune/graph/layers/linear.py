"""The linear layers of a graph: nodes that contract a stored weight, as their rules say.

A :class:`LinearLayer` is one application of a weight, wherever the weight is stored and whatever
lies between it and its node. Where nothing stands in the way it is seen as ``rows @ W + b`` and can
be refitted; else it carries the reason, and is still thinned by magnitude and priced.

Groups of N:M run along what a node contracts: input channels at one kernel position for a
convolution (``[M, C/group, *kernel]``, axis 1), ``C`` for a transposed one (axis 0), ``K`` for
products, the last axis of a left operand and the last but one of a right one, whatever the rank.
That is what sparse tensor cores take (TensorRT developer guide, "Structured Sparsity").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import identity
from onnxprune.graph.layers.stored import MOVERS, RESHAPES, Stored, Unknown, trace
from onnxprune.graph.notation import Term, parse
from onnxprune.graph.ops import LINEAR, Linear
from onnxprune.solve import im2col
from onnxprune.solve.im2col import Window
from onnxprune.solve.stacks import Stack

Array = npt.NDArray[Any]
Slot = tuple[str, int]
"""An input of a node: the node's identity and the position."""

_FLOATS = {
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
}
_CODES = frozenset({"QuantizeLinear", "DequantizeLinear"})
_CASTS = frozenset({"Cast", "CastLike"})
_KINDS = {
    "quantized": "its weight is quantized",
    "recurrent": "the gates of a recurrent layer are not refitted",
    "sum": "its weight is one operand of an equation",
    "deformable": "its taps are moved while the model runs",
    "fused": "it is a fused operator of a runtime",
}
_ASKS_ONLY = {"Shape", "Size"}


@dataclass(frozen=True)
class LinearLayer:
    """A node that contracts a stored weight.

    Attributes:
        operator: the node.
        slot: the input of it that is the weight.
        kind: of the weight, see ``ops.Linear``.
        weight_axis: the axis of the weight, as the node sees it, that is contracted.
        x: the value that meets the weight; empty where that is no input of the node.
        y: the value that holds the output, bias included.
        axis: the axis of ``x`` that is contracted.
        out_axis: the axis of ``y`` that indexes outputs.
        groups: independent problems of a grouped convolution.
        window: attributes of a (transposed) convolution; None for a product.
        stack: where the matrices lie, of a product with several; None for one.
        bias: name of the stored vector; None if there is none.
        bias_slot: where a bias is or may be read; None where no node takes one.
        inside: the node whose body this one is in; empty in the main graph.
        declined: reason why the layer is not refitted; empty if it can be.
        applications: identities of the nodes that apply the same weight along the same axis, this
            one included, in the order of the graph.
        source: the stored weight, and how the node sees it; None where it cannot be found.
    """

    operator: ir.Node
    slot: int
    kind: str
    weight_axis: int = 0
    x: str = ""
    y: str = ""
    axis: int = 1
    out_axis: int = 1
    groups: int = 1
    window: Window | None = None
    stack: Stack | None = None
    bias: str | None = None
    bias_slot: Slot | None = None
    inside: str = ""
    declined: str = ""
    applications: tuple[str, ...] = ()
    source: Stored | None = field(default=None, compare=False)

    @property
    def node(self) -> str:
        """The identity of the node."""
        return identity(self.operator)

    # -- the weight --------------------------------------------------------------------------

    @property
    def tensor(self) -> Stored:
        """The ``source`` of a layer that has one."""
        assert self.source is not None
        return self.source

    @property
    def weight(self) -> str:
        """The name of the stored tensor; empty where there is none."""
        return "" if self.source is None else self.source.name

    @property
    def size(self) -> int:
        """The number of weights."""
        return math.prod(self.tensor.shape)

    @property
    def inputs(self) -> int:
        """The size of the axis of the weight that is contracted."""
        return self.tensor.seen_shape[self.weight_axis]

    @property
    def channels(self) -> int:
        """Inputs of each group; of a convolution at one kernel position."""
        whole = self.window is not None and self.window.transposed
        return self.inputs // self.groups if whole else self.inputs

    @property
    def outputs(self) -> int:
        """Numbers per position of the output."""
        shape = self.tensor.seen_shape
        if self.window is not None:
            return shape[1] * self.groups if self.window.transposed else shape[0]
        if self.stack is not None:
            return shape[self.stack.order[2]]
        return shape[-1] if self.weight_axis == len(shape) - 2 else shape[-2]

    @property
    def taps(self) -> int:
        """Kernel positions that read one channel each, consecutive rows of a matrix; else 1."""
        return math.prod(self.window.kernel) if self.window is not None else 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(g, K, N)`` of the matrices."""
        if self.stack is not None:
            return self.stack.size, self.inputs, self.outputs
        return self.groups, self.channels * self.taps, self.outputs // self.groups

    @property
    def width(self) -> int:
        """Numbers per row of the outputs of all matrices."""
        return self.shape[0] * self.shape[2]

    @property
    def stored_axis(self) -> int | None:
        """The axis of the stored tensor that is contracted; None if it is no axis of its own."""
        return self.tensor.stored_axis(self.weight_axis)

    @property
    def along(self) -> tuple[object, ...]:
        """Equal for two layers of one weight exactly if the groups of N:M are the same."""
        axis = self.stored_axis
        return (axis,) if axis is not None else (self.tensor.steps, self.weight_axis)

    @property
    def order(self) -> im2col.Index:
        """The rows of a matrix with the channels of one kernel position side by side."""
        rows = np.arange(self.shape[1], dtype=np.int64)
        return np.ascontiguousarray(rows.reshape(-1, self.taps).T).ravel()

    @property
    def is_depthwise(self) -> bool:
        """Whether this is a convolution that filters every channel by itself."""
        window = self.window
        if window is None or window.transposed or window.group == 1:
            return False
        return self.tensor.shape[:2] == (window.group, 1)

    def matrix(self, weight: Array) -> Array:
        """The stored weight as ``[g, K, N]``."""
        seen = self.tensor.seen(weight)
        if self.window:
            return im2col.window_weight(seen, self.window)
        if self.stack is not None:
            return self.stack.matrix(seen)
        return (seen if self.weight_axis == 0 else seen.T)[None]

    def stored(self, matrix: Array) -> Array:
        """The inverse of :meth:`matrix`."""
        if self.window:
            seen = im2col.stored_weight(matrix, self.window)
        elif self.stack is not None:
            seen = self.stack.stored(matrix)
        else:
            seen = matrix[0] if self.weight_axis == 0 else matrix[0].T
        return np.ascontiguousarray(self.tensor.unseen(seen))

    def input_index(self, axis: int) -> im2col.Index:
        """``[g, K]``: which index of the stored weight's ``axis`` each row of the matrix is.

        Args:
            axis: the axis of the stored weight along which inputs lie.
        """
        groups, inputs, _ = self.shape
        if self.window is None:
            return np.tile(np.arange(inputs, dtype=np.int64), (groups, 1))
        channel = np.arange(inputs, dtype=np.int64) // self.taps
        first = np.arange(groups, dtype=np.int64) * (inputs // self.taps)
        # A Conv stores [M, C/group, ...], its groups side by side in M; ConvTranspose all of C.
        return channel + (first[:, None] if axis == 0 else np.zeros_like(first)[:, None])

    # -- what it reads and writes ------------------------------------------------------------

    def count(self, shape: tuple[int, ...]) -> int:
        """The number of rows in an input of this shape."""
        if self.window:
            return shape[0] * math.prod(im2col.output_sizes(self.window, shape[2:]))
        if self.stack is not None:
            return self.stack.count(shape, self.axis)
        return math.prod(shape) // max(shape[self.axis], 1)

    def out_sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial sizes of the output of a convolution for an input of this shape."""
        return im2col.output_sizes(self.window, shape[2:]) if self.window else ()

    def rows(self, x: Array, positions: im2col.Index | None = None) -> Array:
        """The rows that are multiplied with the matrix: ``[g, rows, K]``."""
        if self.window:
            return im2col.window_rows(x, self.window, positions)
        if self.stack is not None:
            return self.stack.rows(x, self.axis, positions)
        return im2col.token_rows(x, self.axis, positions)

    def targets(self, y: Array, positions: im2col.Index | None = None) -> Array:
        """An output, or anything of its shape, as ``[g, rows, N]``."""
        if self.window:
            return im2col.window_targets(y, self.groups, positions)
        if self.stack is not None:
            return self.stack.targets(y, self.out_axis, positions)
        return im2col.token_rows(y, self.out_axis, positions)


# -- finding them ----------------------------------------------------------------------------


def find_layers(model: models.Model) -> list[LinearLayer]:
    """Every application of a stored weight, in the order of the graph, bodies where they hang.

    Products of two activations are none. A node whose weight cannot be traced to the store is one
    that is declined and has no ``source``.
    """
    layers = [layer for node, inside in walk(model) for layer in _layers(node, inside)]
    alike: dict[tuple[object, ...], list[str]] = {}
    for layer in layers:
        if layer.source is not None:
            alike.setdefault((layer.weight, *layer.along), []).append(layer.node)
    return [
        replace(layer, applications=tuple(alike[layer.weight, *layer.along]))
        if layer.source is not None
        else layer
        for layer in layers
    ]


def refittable(layers: Iterable[LinearLayer]) -> list[LinearLayer]:
    """The layers that are seen as ``rows @ W + b``."""
    return [layer for layer in layers if not layer.declined]


def plain(layers: Iterable[LinearLayer]) -> list[LinearLayer]:
    """The layers whose weight is a stored matrix or a stack of matrices."""
    return [layer for layer in layers if layer.kind == "plain" and layer.source is not None]


def walk(model: models.Model) -> Iterator[tuple[ir.Node, str]]:
    """Every node in the order of the graph, bodies where they hang, and whose body it is in."""
    yield from _walk(model.ir.graph, "")


def _walk(graph: ir.Graph, inside: str) -> Iterator[tuple[ir.Node, str]]:
    for node in graph:
        yield node, inside
        for _, body in models.bodies(node):
            yield from _walk(body, f"{node.op_type} '{identity(node)}'")


def rule_of(node: ir.Node) -> Linear | None:
    """The contraction of a stored weight by the operator of a node; None without one."""
    return LINEAR.get((node.domain, node.op_type))


def _layers(node: ir.Node, inside: str) -> Iterator[LinearLayer]:
    rule = rule_of(node)
    if rule is None:
        return
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    line = rule.line if isinstance(rule.line, str) else rule.line(attributes)
    places = rule.places or tuple(range(len(parse(line)[0])))
    traced = {
        slot: trace(node.inputs[slot])
        for slot in rule.weights
        if slot < len(node.inputs) and node.inputs[slot] is not None
    }
    reasons = [each.reason for each in traced.values() if isinstance(each, Unknown)]
    any_layer = False
    for slot, source in traced.items():
        view = _view(line, places.index(slot))
        if isinstance(source, Unknown) or view is None:
            continue
        if view.x is not None and isinstance(traced.get(places[view.x]), Stored):
            reasons.insert(0, "both of its operands are stored")
        elif len(source.seen_shape) < 2:
            reasons.insert(0, "its weight is a single vector")
        else:
            yield _layer(node, slot, source, rule, attributes, line, view, places, inside)
            any_layer = True
    if not any_layer and any(reasons):
        reason = next(filter(None, reasons))
        yield LinearLayer(node, rule.weights[0], rule.kind, inside=inside, declined=reason)


def _layer(
    node: ir.Node,
    slot: int,
    source: Stored,
    rule: Linear,
    attributes: Mapping[str, Any],
    line: str,
    view: _View,
    places: Sequence[int],
    inside: str,
) -> LinearLayer:
    x = None if view.x is None else node.inputs[places[view.x]]
    bias = places[view.bias] if view.bias is not None and view.bias < len(places) else None
    layer = LinearLayer(
        operator=node,
        slot=slot,
        kind=rule.kind,
        weight_axis=view.weight_axis % len(source.seen_shape),
        x="" if x is None else x.name or "",
        y=identity(node),
        axis=view.axis,
        out_axis=view.out_axis,
        groups=int(attributes.get("group", 1)),
        bias_slot=None if bias is None else (identity(node), bias),
        inside=inside,
        source=source,
    )
    if view.windowed:
        layer = replace(layer, window=_window(layer, attributes))
    else:
        stack, out_axis = _stack(layer, line, places.index(slot), view)
        layer = replace(layer, stack=stack, out_axis=out_axis)
    left = "its weight is its left operand" * view.spare
    reason = _why_not(layer, rule, attributes, view) or left
    if reason:
        return replace(layer, declined=reason)
    if layer.bias_slot is None:
        addable = layer.stack is None and rule.kind == "plain" and layer.out_axis == -1
        return _with_added_bias(layer) if addable else layer
    stored = _input(node, layer.bias_slot[1])
    return layer if stored is None else replace(layer, bias=stored.name)


def _why_not(layer: LinearLayer, rule: Linear, attributes: Mapping[str, Any], view: _View) -> str:
    """Why a layer is not refitted; empty if it can be."""
    source, is_product = layer.tensor, layer.window is None
    through = set(source.through)
    axes = [source.stored_axis(axis) for axis in range(len(source.seen_shape))]
    bias = None if layer.bias_slot is None else _input(layer.operator, layer.bias_slot[1])
    scales = (rule.scale, rule.bias_scale)  # where there is no bias yet one may be written
    reasons = {
        "it is inside the body of an If, Loop or Scan": bool(layer.inside),
        _KINDS.get(rule.kind, ""): rule.kind != "plain"
        and not (rule.kind == "sum" and _is_product(layer, view)),
        "its weight is quantized": through & _CODES,
        "its weight is stored in another type and cast": through & _CASTS,
        "its weight is reshaped on the way to it": through & RESHAPES,
        "its weight is not stored as floating point": source.dtype not in _FLOATS,
        "its kernel is transposed before use": not is_product and axes != [*range(len(axes))],
        "its weight is a stack of matrices": is_product and len(axes) > 2 and layer.stack is None,
        "its bias is computed" + " or not a vector" * is_product: (
            bias is not None and not _is_vector(bias)
        ),
        "it scales its product (alpha or beta is not 1)": any(
            attributes.get(name, 1.0) != 1.0 for name in scales
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _is_product(layer: LinearLayer, view: _View) -> bool:
    """Whether an equation is a product of rows with a matrix, or with one of a stack for each."""
    rank = len(layer.tensor.seen_shape)
    return view.paired and (layer.stack is not None if rank > 2 else rank == 2)


def _stack(layer: LinearLayer, line: str, weight: int, view: _View) -> tuple[Stack | None, int]:
    """Where the matrices of a weight of three axes lie, and which axis of the output they fill.

    None, and the axis as it is, where the weight is no stack of matrices.
    """
    shape, nothing = layer.tensor.seen_shape, (None, layer.out_axis)
    if len(shape) != 3 or view.x is None or not view.paired:
        return nothing
    operands, (output, *_) = parse(line)
    if "..." in operands[weight][0].factors:  # a product, whose stacks are in front
        place = None if shape[0] == 1 else -3
        order = 0, layer.weight_axis, 3 - layer.weight_axis
        return Stack(shape[0], order, place, -3, loose=True), layer.out_axis
    names, filled, own = (_names(terms) for terms in (operands[weight], output, operands[view.x]))
    others = [name for k, name in enumerate(names) if k != layer.weight_axis]
    stack, free = sorted(others, key=lambda name: name not in own)
    if {stack, free} - {*filled} or free in own:
        return nothing
    order = names.index(stack), layer.weight_axis, names.index(free)
    place = own.index(stack) if stack in own else None
    return Stack(shape[order[0]], order, place, filled.index(stack)), filled.index(free)


def _input(node: ir.Node, position: int) -> ir.Value | None:
    return node.inputs[position] if position < len(node.inputs) else None


def _is_vector(value: ir.Value | None) -> bool:
    tensor = None if value is None else models.constant(value)
    return tensor is not None and len(tensor.shape) == 1


def _window(layer: LinearLayer, attributes: Mapping[str, Any]) -> Window:
    def ints(name: str) -> tuple[int, ...]:
        return tuple(attributes.get(name, ()))

    return Window(
        kernel=layer.tensor.seen_shape[2:],
        strides=ints("strides"),
        dilations=ints("dilations"),
        pads=ints("pads"),
        auto_pad=attributes.get("auto_pad", "NOTSET"),
        group=layer.groups,
        transposed=layer.weight_axis == 0,
        output_padding=ints("output_padding"),
        output_shape=ints("output_shape"),
    )


def _with_added_bias(layer: LinearLayer) -> LinearLayer:
    """A product whose only reader adds a stored vector: the sum is the layer's output."""
    output = layer.operator.outputs[0]
    uses = list(output.uses())
    if len(uses) != 1 or output.is_graph_output() or uses[0][0].op_type != "Add":
        return layer
    reader, position = uses[0]
    bias = reader.inputs[1 - position]
    tensor = None if bias is None else models.constant(bias)
    if bias is None or tensor is None or not _is_vector(bias) or tensor.size != layer.outputs:
        return layer
    if reader.graph is not layer.operator.graph:
        return layer
    y = identity(reader)
    return replace(layer, y=y, bias=bias.name, bias_slot=(y, 1 - position))


# -- a weight as a line has it --------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """One operand of a line as a weight.

    Attributes:
        weight_axis, axis, out_axis: see :class:`LinearLayer`; those behind axes of any number are
            counted from the end.
        x: the operand that it meets; None where that is none of them.
        bias: the operand with one number per output of the weight; None if there is none.
        spare: whether the line has such an operand, but for the outputs of what it meets.
        windowed: whether the weight has kernel positions.
        paired: whether rows of ``x`` and of the output come in the same order.
    """

    weight_axis: int
    x: int | None
    axis: int
    out_axis: int
    bias: int | None
    spare: bool
    windowed: bool
    paired: bool = True


@cache
def _view(line: str, weight: int) -> _View | None:
    """The view of operand ``weight``; None where none of its axes is contracted."""
    operands, (output, *_) = parse(line)
    own = _names(operands[weight])
    marked = [f for term in operands[weight] if term.contracted for f in term.factors]
    summed = marked or [f for f in own if f not in _names(output)]
    if not summed:
        return None
    others = [f for k, terms in enumerate(operands) if k != weight for f in _names(terms)]
    order = [f for terms in operands for f in _names(terms)]
    name = max(summed, key=lambda f: (f in others, order.index(f)))
    x = next((k for k, ts in enumerate(operands) if k != weight and name in _names(ts)), None)
    met = set() if x is None else {*_names(operands[x])}
    free = next((f for f in own if f in _names(output) and f not in met), None)
    vectors = [k for k, terms in enumerate(operands) if len(terms) == 1]
    bias = next((k for k in vectors if free in _names(operands[k])), None)
    return _View(
        weight_axis=_place(operands[weight], name),
        x=x,
        axis=1 if x is None else _place(operands[x], name),
        out_axis=1 if free is None else _place(output, free),
        bias=bias,
        spare=bool(vectors) and bias is None,
        windowed="*" in operands[weight][-1].factors,
        paired=x is not None and free is not None and _is_paired(operands, output, weight, x, name),
    )


def _is_paired(
    operands: Sequence[Sequence[Term]], output: Sequence[Term], weight: int, x: int, name: str
) -> bool:
    """Whether the axes of rows are the same in an operand and in the output, in one order.

    One axis is contracted, and every axis of the weight is met by one of the output or by it.
    """
    ours, own = [_names(operands[k]) for k in (x, weight)]
    rows = [f for f in ours if f not in own]
    met = [f for f in _names(output) if f not in own]
    whole = all(f == name or f in _names(output) for f in (*ours, *own))
    once = all(len(names) == len(set(names)) for names in (ours, own))
    return len(operands) == 2 and whole and rows == met and once


def _names(terms: Sequence[Term]) -> list[str]:
    return [f for term in terms for f in term.factors if f.isalpha()]


def _place(terms: Sequence[Term], name: str) -> int:
    """Where an axis stands, from the end where axes of any number come before it."""
    at = next(k for k, term in enumerate(terms) if name in term.factors)
    loose = any(term.factors[0] in ("*", "...") for term in terms[:at])
    return at - len(terms) if loose else at


# -- other users of a weight -----------------------------------------------------------------


def other_users(layer: LinearLayer, known: Iterable[str] = (), *, tables: bool = False) -> str:
    """Another user of the weight of a layer; empty if there is none.

    Args:
        layer: it.
        known: identities of further nodes that do not count.
        tables: whether lookups of the weight as a table (a tied embedding) do not count either.
    """
    names = {layer.node, *known}
    for node, output in users(layer.tensor.value):
        if output:
            return "whoever runs the model"
        if tables and node is not None and node.op_type == "Gather":
            continue
        if node is not None and identity(node) not in names and node.op_type not in _ASKS_ONLY:
            return f"{node.op_type} '{identity(node)}'"
    return ""


def users(value: ir.Value) -> Iterator[tuple[ir.Node | None, bool]]:
    """The nodes that compute with a stored value, seen through what only moves or types it.

    Yields:
        A node; or None and True, where the value is an output of the model.
    """
    if value.is_graph_output():
        yield None, True
    for node, slot in value.uses():
        if slot == 0 and node.op_type in MOVERS and not node.domain:
            yield from users(node.outputs[0])
        else:
            yield node, False
