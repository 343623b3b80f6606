"""One forward walk over a graph that labels the axes of every value by the rules of the nodes.

Where the interface may change, graph inputs have axes that can lose indices, graph outputs are not
pinned, and integers are followed from the graph input (or comparison) that gives them to the tables
that they are looked up in: the rows of a table are then what the integers may be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.axes import Axis, Space, take
from onnxprune.graph.notation import Tensor
from onnxprune.graph.ops import Call, apply_rule
from onnxprune.graph.ops.call import INPUT, OUTPUT, VOCABULARY
from onnxprune.graph.shapes import Fact
from onnxprune.graph.shapes.program import opsets_of
from onnxprune.graph.shuffle import Shuffle, find_shuffle

KEPT_WHOLE = {ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING}
"""Types of stored tensors that hold positions, sizes or words, never weights."""


@dataclass(frozen=True, eq=False)
class Use:
    """One node reading one stored tensor, with the axes it has there."""

    value: ir.Value
    node: ir.Node
    position: int
    axes: Tensor


@dataclass
class Walk:
    """The result of a walk.

    Attributes:
        facts: of every value, at the first input shapes.
        main: the graph, without its bodies.
        second: the same at the second ones; worked out when it is first called.
        axes: the axes of every value by name.
        calls: every node's rule, in graph order, with the node.
        uses: the readers of stored tensors, with the axes they see.
        shuffles: reshape-transpose-reshape runs that only permute one axis.
        declined: identity of a node -> reason why all its axes stay.
        opened: whether the interface may change.
        ids: value -> the source of its elements, where these are looked up somewhere: a graph
            input, or the output of a comparison.
        domains: source -> the axis that its elements are indices of.
        lookups: (identity, position) of the nodes that look ids up in that axis.
    """

    facts: Mapping[str, Fact]
    second: Callable[[], Mapping[str, Fact]]
    opsets: Mapping[str, int]
    space: Space = field(default_factory=Space)
    axes: dict[str, Tensor] = field(default_factory=dict)
    calls: list[tuple[ir.Node, Call]] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    shuffles: list[Shuffle] = field(default_factory=list)
    declined: dict[str, str] = field(default_factory=dict)
    static: set[str] = field(default_factory=set)
    main: ir.Graph | None = None
    opened: bool = False
    ids: dict[str, str] = field(default_factory=dict)
    domains: dict[str, Axis] = field(default_factory=dict)
    lookups: set[tuple[str, int]] = field(default_factory=set)

    # -- values ------------------------------------------------------------------------------

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Shape of a value, None when its rank is unknown."""
        fact = self.facts.get(name)
        return fact.shape if fact is not None else None

    def plain(self, name: str, why: str) -> Tensor:
        """Axes that never lose an index."""
        return tuple(Axis(n, why=why) for n in self.shape(name) or ())

    def read(self, node: ir.Node, position: int, value: ir.Value) -> Tensor | None:
        """Axes of one input of a node; stored tensors get theirs when they are first read.

        A vector is labelled anew for each reader, because a shared bias couples nothing (surgery
        copies it where cuts differ); Shape and Size see the whole. A shared matrix is labelled
        once, so that ties stay.
        """
        name = value.name or ""
        stored = models.constant(value)
        if stored is None:
            return self.axes[name] if self.shape(name) is not None else None
        axes = self.axes.get(name)
        shape = [int(n) for n in stored.shape.numpy()]
        is_vector = sum(n > 1 for n in shape) <= 1
        if axes is None or is_vector:
            whole = stored.dtype in KEPT_WHOLE or (is_vector and node.op_type in ("Shape", "Size"))
            axes = tuple(
                self.space.fresh(n) if n > 1 and not whole else Axis(n, why="positions or sizes")
                for n in shape
            )
            self.axes[name] = axes
        self.static.add(name)
        self.uses.append(Use(value, node, position, axes))
        return axes

    # -- graphs ------------------------------------------------------------------------------

    def graph(self, graph: ir.Graph) -> None:
        """Walk the nodes of one graph, its inputs being set."""
        done: set[ir.Node] = set()
        for node in graph:
            if node in done:
                continue
            shuffle = find_shuffle(node, self.facts)
            if shuffle is not None and node.inputs[0] is not None:
                x = self.read(node, 0, node.inputs[0])
                if x is not None and self.space.columns(x[shuffle.axis]):
                    self._shuffle(shuffle, x)
                    done.update(shuffle.nodes)
                    continue
            self.node(node)

    def _shuffle(self, shuffle: Shuffle, x: Tensor) -> None:
        moved = take(x[shuffle.axis], shuffle.order)
        out = (*x[: shuffle.axis], moved, *x[shuffle.axis + 1 :])
        for node in shuffle.nodes:
            name = node.outputs[0].name or ""
            self.axes[name] = self.plain(name, "inside a channel shuffle")
        self.axes[shuffle.nodes[-1].outputs[0].name or ""] = out
        self.shuffles.append(shuffle)

    def node(self, node: ir.Node) -> None:
        """One node: its bodies, or its rule."""
        if node.op_type == "Constant" and not node.domain:
            return
        bodies = dict(models.bodies(node))
        if bodies:
            walk_bodies(self, node, bodies, f"{node.op_type} `{identity(node)}` needs it whole")
            return
        inputs = [None if v is None else self.read(node, i, v) for i, v in enumerate(node.inputs)]
        names = [None if v is None else v.name or "" for v in node.inputs]
        facts = [None if n is None else self.facts.get(n) for n in names]
        call = Call(
            op=node.op_type,
            domain=node.domain,
            version=self.opsets.get(node.domain, 1),
            attributes={
                a.name: a.value for a in node.attributes.values() if a.type in _PLAIN_ATTRIBUTES
            },
            inputs=inputs,
            values=[None if f is None else f.value for f in facts],
            literal=[v is not None and models.constant(v) is not None for v in node.inputs],
            static=[n is None or n in self.static for n in names],
            out_shapes=[self.shape(v.name or "") for v in node.outputs],
            space=self.space,
            name=identity(node),
            is_constant=lambda i: names[i] in self.static or self._same_content(names[i]),
            opened=self.opened,
            looks_up=lambda i, axis: self._look_up(node, i, axis),
        )
        outputs, why = apply_rule(call, [v is not None for v in node.inputs])
        if why:
            self.declined[call.name] = why
        for value, axes in zip(node.outputs, outputs, strict=False):
            if value.name:
                known = self.shape(value.name) is not None
                if not known:  # nothing could couple or pin it any more
                    self.pin(axes, f"`{value.name}` is of unknown shape")
                self.axes[value.name] = axes if known else ()
                if names and all(call.static):
                    self.static.add(value.name)
        if self.opened:
            self._carry_ids(node, call)
        self.calls.append((node, call))

    def _look_up(self, node: ir.Node, position: int, axis: Axis) -> bool:
        """Let the elements of an input be indices of ``axis``; False if they cannot be."""
        value = node.inputs[position]
        source = self.ids.get(value.name or "") if value is not None else None
        if source is None or not self.space.columns(axis):
            return False
        domain = self.domains.setdefault(source, axis)
        if domain.size != axis.size:
            return False
        self.space.unify(domain, axis)
        self.space.tag(axis, VOCABULARY)
        self.lookups.add((identity(node), position))
        return True

    def _carry_ids(self, node: ir.Node, call: Call) -> None:
        """Remember whose ids the outputs of a node hold."""
        for k, axis in call.indices.items():
            name = node.outputs[k].name or ""
            if self.space.columns(axis):
                self.ids[name], self.domains[name] = name, axis
        if carries_ids(node):
            source = self.ids.get(node.inputs[0].name or "")  # type: ignore[union-attr]
            if source is not None:
                self.ids[node.outputs[0].name or ""] = source

    def _same_content(self, name: str | None) -> bool:
        """Whether the content of a value is known, and is the same at both input shapes."""
        first = self.facts.get(name or "")
        if first is None or first.value is None:
            return False
        second = self.second().get(name or "")
        if second is None or second.value is None:
            return False
        return np.array_equal(first.value, second.value)

    def pin(self, tensor: Tensor | None, why: str) -> None:
        """Keep every axis of a tensor whole."""
        for axis in tensor or ():
            self.space.pin(axis, why)


_PLAIN_ATTRIBUTES = {
    ir.AttributeType.INT,
    ir.AttributeType.INTS,
    ir.AttributeType.FLOAT,
    ir.AttributeType.FLOATS,
    ir.AttributeType.STRING,
}


_CARRIERS = frozenset(
    "Identity Cast Reshape Flatten Squeeze Unsqueeze Transpose Slice Expand Tile Gather".split()
)


def carries_ids(node: ir.Node) -> bool:
    """Whether the elements of the output are elements of the first input, none of them changed."""
    if node.domain or node.op_type not in _CARRIERS or node.inputs[0] is None:
        return False
    to = node.attributes.get("to")
    return node.op_type != "Cast" or (to is not None and to.as_int() in _WHOLE)


_WHOLE = {ir.DataType.INT32, ir.DataType.INT64}


def identity(node: ir.Node) -> str:
    """The name of a node everywhere: its first named output."""
    return next((v.name for v in node.outputs if v.name), "")


def walk(
    model: models.Model,
    facts: Mapping[str, Fact],
    second: Callable[[], Mapping[str, Fact]],
    *,
    opened: bool = False,
) -> Walk:
    """Label every axis of ``model``.

    Args:
        model: any.
        facts: of every value, at the first input shapes.
        second: the same at the second ones.
        opened: whether the interface may change; else graph inputs have no columns, and graph
            outputs are pinned.
    """
    graph = model.ir.graph
    state = Walk(facts, second, opsets_of(model.ir), main=graph, opened=opened)
    for value in graph.inputs:
        if not value.is_initializer():
            name = value.name or ""
            state.axes[name] = state.plain(name, f"graph input `{name}`")
            if opened:
                _open_input(state, value)
    state.graph(graph)
    for value in graph.outputs:
        stored = models.constant(value) is not None  # its readers get a copy to cut
        for k, axis in () if stored else enumerate(state.axes.get(value.name or "", ())):
            if opened and not _is_batch(state.axes[value.name or ""], k):
                state.space.tag(axis, OUTPUT)
            else:
                state.space.pin(axis, f"reaches graph output `{value.name}`")
    state.space.repair_widths(axis for tensor in state.axes.values() for axis in tensor)
    return state


def _open_input(walk: Walk, value: ir.Value) -> None:
    """Let a graph input lose features, where it has a fixed number of them, or ids."""
    name = value.name or ""
    walk.ids[name] = name
    fact = walk.facts.get(name)
    if value.shape is None or fact is None or fact.dtype is None:
        return
    if not (fact.dtype.is_floating_point() and len(value.shape) == len(walk.axes[name])):
        return
    axes = list(walk.axes[name])
    for k, size in enumerate(value.shape):
        if isinstance(size, int) and size > 1 and not _is_batch(axes, k):
            axes[k] = walk.space.fresh(size)
            walk.space.tag(axes[k], INPUT)
    walk.axes[name] = tuple(axes)


def _is_batch(axes: Sequence[Axis], k: int) -> bool:
    """Whether an axis of a graph input or output is that of samples."""
    return k == 0 and len(axes) > 1


def walk_bodies(walk: Walk, node: ir.Node, bodies: Mapping[str, ir.Graph], why: str) -> None:
    """Walk the bodies of ``node`` and set the axes of its outputs; pins have the reason ``why``."""
    inputs = [None if v is None else walk.read(node, i, v) for i, v in enumerate(node.inputs)]
    if node.op_type == "If":
        for body in bodies.values():
            walk.graph(body)
        branches = [_ends(walk, body) for body in bodies.values()]
        for k, value in enumerate(node.outputs):
            _one_of(walk, value, [ends[k] for ends in branches], why)
        return
    (body,) = bodies.values()
    outers, first, carried = _borders(walk, node, inputs, len(body.inputs), why)
    for value, outer in zip(body.inputs, outers, strict=True):
        inner = walk.plain(value.name or "", why)
        if outer is not None and _sizes(outer) == _sizes(inner):
            inner = outer
        else:
            walk.pin(outer, why)
        walk.axes[value.name or ""] = inner
    walk.graph(body)
    ends = _ends(walk, body)
    skip = len(body.outputs) - len(node.outputs)
    for tensor in ends[:skip]:
        walk.pin(tensor, why)
    for k, value in enumerate(node.outputs):
        end, shape = ends[skip + k], walk.shape(value.name or "")
        if k < carried:
            state = walk.axes[body.inputs[first + k].name or ""]
            _one_of(walk, value, [state, end], why)
        elif end is not None and shape and shape[1:] == _sizes(end) and _stacks(node):
            walk.axes[value.name or ""] = (Axis(shape[0], why=why), *end)
        else:
            walk.pin(end, why)
            walk.axes[value.name or ""] = walk.plain(value.name or "", why)


def _borders(
    walk: Walk, node: ir.Node, inputs: Sequence[Tensor | None], count: int, why: str
) -> tuple[list[Tensor | None], int, int]:
    """The outer value of each of ``count`` inputs of a body; the first state and their number."""
    outers: list[Tensor | None] = [None] * count
    first = carried = 0
    if node.op_type == "Loop":
        first, carried = 2, len(inputs) - 2
        outers[2:] = inputs[2:]
    elif node.op_type == "Scan" and walk.opsets.get("", 9) > 8:
        carried = len(inputs) - node.attributes["num_scan_inputs"].as_int()
        outers[:carried] = inputs[:carried]
        for k, tensor in enumerate(inputs[carried:], carried):
            if tensor and _stacks(node):  # one step of it, without the axis of steps
                walk.pin(tensor[:1], why)
                outers[k] = tensor[1:]
    for k, tensor in enumerate(inputs):
        if k >= count or outers[k] is None:
            walk.pin(tensor, why)
    return outers, first, carried


def _stacks(node: ir.Node) -> bool:
    """Whether a Loop or Scan has its steps along the first axis of what it reads and gives."""
    axes = [node.attributes.get_ints(f"scan_{way}_axes", ()) for way in ("input", "output")]
    along_first = not any(map(any, axes))
    return node.op_type == "Loop" or (node.op_type == "Scan" and along_first)


def _ends(walk: Walk, body: ir.Graph) -> list[Tensor | None]:
    """Axes of the outputs of a body; a stored tensor that is one stays as it is."""
    out: list[Tensor | None] = []
    for value in body.outputs:
        name, stored, why = value.name or "", models.constant(value), "output of a body"
        if stored is not None:
            out.append(tuple(Axis(int(n), why=why) for n in stored.shape.numpy()))
        elif walk.shape(name) is not None:
            out.append(walk.axes.setdefault(name, walk.plain(name, why)))
        else:
            out.append(None)
    return out


def _one_of(walk: Walk, value: ir.Value, meet: Sequence[Tensor | None], why: str) -> None:
    """An output that is one of several values, chosen while the model runs."""
    name = value.name or ""
    tensors = [t for t in meet if t is not None]
    wide = [[a for a in t if a.size != 1] for t in tensors]  # one may have squeezed what is single
    if len(tensors) == len(meet) and all(_sizes(t) == _sizes(wide[0]) for t in wide):
        for other in wide[1:]:
            for a, b in zip(wide[0], other, strict=True):
                walk.space.unify(a, b, why)
        shape = walk.shape(name) or ()
        if tuple(n for n in shape if n != 1) == _sizes(wide[0]):
            rest = iter(wide[0])
            walk.axes[name] = tuple(Axis(1) if n == 1 else next(rest) for n in shape)
            return
    for tensor in tensors:
        walk.pin(tensor, why)
    walk.axes[name] = walk.plain(name, why)


def _sizes(tensor: Sequence[Axis]) -> tuple[int | None, ...]:
    return tuple(a.size for a in tensor)
