"""Which node of a pruned graph is which node of the dense one.

Both graphs are walked from their outputs to their inputs, side by side. What a value is computed
from has an order, so pairs follow from pairs, and nothing needs names; where the two graphs go on
differently, a residual branch may have been dropped, a shuffle may have become a Gather, and nodes
that only hand values on may be missing. Anything else is another network, and is said to be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis, identity
from onnxprune.graph.layers.sources import Place, is_size, same_operator, source, stored_at
from onnxprune.recovery.correspond.branches import Branches

SAME_WAY = (
    "give the model that this one was made from, written the same way: if nodes were folded or "
    "fused in one (BatchNormalization into Conv, say), do that to the other too"
)
_EITHER_WAY = {"Add", "Mul", "Sum", "Max", "Min", "And", "Or", "Equal"}


@dataclass(frozen=True, eq=False)
class Matching:
    """How a pruned graph corresponds to the dense one.

    Attributes:
        nodes: dense node -> pruned node, by identity.
        stored: where the dense graph reads a stored tensor -> where the pruned one does. A place
            that the dense node has no input at is a tensor that the pruned one has gained.
        bypassed: names of the blocks that are gone.
        inputs, outputs: dense name -> pruned name.
    """

    nodes: dict[str, str] = field(default_factory=dict)
    stored: dict[Place, Place] = field(default_factory=dict)
    bypassed: list[str] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)


def match(analysis: Analysis, pruned: models.Model) -> Matching:
    """Pair the nodes of two graphs.

    Args:
        analysis: of the dense model.
        pruned: what somebody made of it; names need not be the same.

    Raises:
        OnnxpruneError: the graphs are not those of a model and its pruned self.
    """
    return _Matcher(analysis, pruned).run()


class _Matcher:
    def __init__(self, analysis: Analysis, pruned: models.Model) -> None:
        self._analysis = analysis
        self._dense, self._pruned = analysis.model.ir.graph, pruned.ir.graph
        self._blocks = {block.output: block for block in analysis.blocks}
        self._values = {v.name or "": v for v in models.values(self._dense)}
        self._shuffles = {identity(s.nodes[-1]): s for s in analysis.walk.shuffles}
        self._branches = Branches(analysis, pruned)
        self._found = Matching()
        self._pairs: dict[ir.Value, ir.Value] = {}
        self._queue: list[tuple[ir.Value, ir.Value]] = []

    def run(self) -> Matching:
        """All pairs."""
        inputs = _interface(self._dense.inputs, self._pruned.inputs, "input")
        outputs = _interface(self._dense.outputs, self._pruned.outputs, "output")
        self._found.inputs.update({a.name or "": b.name or "" for a, b in inputs})
        self._found.outputs.update({a.name or "": b.name or "" for a, b in outputs})
        self._queue += outputs
        while self._queue:
            self._pair(*self._queue.pop())
        return self._found

    def _pair(self, old: ir.Value, new: ir.Value) -> None:
        old, new = source(old), source(new)
        if old in self._pairs:
            if self._pairs[old] is not new:
                raise _differ(old, new, f"meets `{self._pairs[old].name}` elsewhere")
            return
        block = self._blocks.get(old.name or "")
        if block is not None and (
            block.name in self._found.bypassed or self._branches.gone(block, old, new)
        ):
            if block.name not in self._found.bypassed:
                self._found.bypassed.append(block.name)
            self._pair(self._values[block.skip], new)
            return
        self._pairs[old] = new
        one, two = old.producer(), new.producer()
        if one is None or two is None:
            self._ends(old, new)
            return
        shuffle = self._shuffles.get(identity(one))
        if shuffle is not None and two.op_type == "Gather":
            one = shuffle.nodes[0]
            self._queue += _both(one.inputs[0], two.inputs[0])
            return
        if not same_operator(one, two) or list(one.outputs).index(old) != list(two.outputs).index(
            new
        ):
            raise _differ(old, new, _said(one, two))
        if self._found.nodes.setdefault(identity(one), identity(two)) != identity(two):
            raise _differ(old, new, f"meets `{self._found.nodes[identity(one)]}` elsewhere")
        self._inputs(one, two)
        for (_, a), (_, b) in zip(models.bodies(one), models.bodies(two), strict=False):
            self._queue += zip(a.outputs, b.outputs, strict=False)

    def _ends(self, old: ir.Value, new: ir.Value) -> None:
        """Two values that are not both computed: inputs of the model or of a body."""
        name = old.name or ""
        if name in self._found.inputs:
            if self._found.inputs[name] == new.name:
                return
            raise _differ(old, new, "is an input of the model")
        graph, other = old.graph, new.graph
        if old.is_graph_input() and new.is_graph_input() and graph and other:
            if list(graph.inputs).index(old) == list(other.inputs).index(new):
                return
        elif old.producer() is None and new.producer() is None:
            return
        raise _differ(old, new, "is computed in one of them only")

    def _inputs(self, one: ir.Node, two: ir.Node) -> None:
        """Pair what two nodes read: stored tensors by place, all else by what computes it."""
        mine, theirs = list(one.inputs), list(two.inputs)
        order = list(range(max(len(mine), len(theirs))))
        if one.op_type in _EITHER_WAY and len(mine) == len(theirs) == 2:
            straight = sum(self._alike(a, b) for a, b in zip(mine, theirs, strict=True))
            crossed = sum(self._alike(a, b) for a, b in zip(mine, theirs[::-1], strict=True))
            order = [1, 0] if crossed > straight else order
        for i, k in enumerate(order):
            old = mine[i] if i < len(mine) else None
            new = theirs[k] if k < len(theirs) else None
            if old is not None and is_size(self._analysis, old):
                continue
            here = stored_at(one, i) if old is not None else (identity(one), i)
            there = stored_at(two, k) if new is not None else None
            if here is not None and there is not None:
                self._found.stored[here] = there
            elif old is not None and there is not None and self._is_literal(old):
                continue
            elif old is not None and new is not None and here is None and there is None:
                self._queue.append((old, new))
            elif old is not None or new is not None:
                at = old if old is not None else one.outputs[0]
                why = "is stored in one of them only" if here or there else "is read in one only"
                raise _differ(at, new if new is not None else two.outputs[0], why)

    def _is_literal(self, value: ir.Value) -> bool:
        """Whether a value is computed from stored ones alone, and nothing of it can be cut.

        Somebody may have computed it once and for all. Whether rightly, running both models tells.
        """
        walk = self._analysis.walk
        name = value.name or ""
        cut = any(walk.space.columns(axis) for axis in walk.axes.get(name, ()))
        return name in walk.static and not cut

    def _alike(self, old: ir.Value | None, new: ir.Value | None) -> int:
        """How well two operands go together, as far as one can see without following them."""
        if old is None or new is None:
            return int(old is new)
        old, new = source(old), source(new)
        stored = models.constant(old), models.constant(new)
        if stored[0] is not None or stored[1] is not None:
            return 4 if stored[0] is not None and stored[1] is not None else 0
        one, two = old.producer(), new.producer()
        if one is None or two is None:
            return 2 if self._found.inputs.get(old.name or "") == new.name else 0
        if not same_operator(one, two):
            return int((old.name or "") in self._blocks)
        return 3 if old.name == new.name else 2


def _interface(
    mine: Sequence[ir.Value], theirs: Sequence[ir.Value], what: str
) -> list[tuple[ir.Value, ir.Value]]:
    """Inputs or outputs of two models, by name if they have the same, else by position."""
    a, b = ([v for v in values if not v.is_initializer()] for values in (mine, theirs))
    if len(a) != len(b):
        raise OnnxpruneError(
            f"the dense model has {len(a)} {what}s, the pruned one {len(b)}", hint=SAME_WAY
        )
    names = {v.name: v for v in b}
    if {v.name for v in a} == set(names):
        return [(v, names[v.name]) for v in a]
    return list(zip(a, b, strict=True))


def _both(old: ir.Value | None, new: ir.Value | None) -> Iterator[tuple[ir.Value, ir.Value]]:
    if old is not None and new is not None:
        yield old, new


def _said(one: ir.Node, two: ir.Node) -> str:
    if one.op_type == two.op_type:
        return "is another output of its node"
    return f"comes out of {one.op_type} in the one and {two.op_type} in the other"


def _differ(old: ir.Value, new: ir.Value, why: str) -> OnnxpruneError:
    return OnnxpruneError(
        f"the graphs do not correspond: `{old.name}` of the dense model, `{new.name}` of the "
        f"pruned one, {why}",
        hint=SAME_WAY,
    )
