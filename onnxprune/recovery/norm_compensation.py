"""Normalisations over an axis that lost channels: a new gain and bias compensate for them.

LayerNormalization and its kin divide by a statistic of all channels. Over fewer of them mean and
variance are others, so every output that is kept changes. With ``mu, sigma`` of all channels and
``mu', sigma'`` of those that are left,

    (x - mu) / sigma  =  (sigma' / sigma) (x - mu') / sigma'  +  (mu' - mu) / sigma

so one factor and one shift for all channels are exact wherever what was removed contributes the
same to mean and variance everywhere (``scale``); where it does not, a gain and a bias per channel
by least squares do better (``affine``). Both come in closed form from second moments per channel.
The mean and variance that a BatchNormalization stores are set to those of what it really gets, and
its bias to the dense mean (``statistics``).

Each is judged on held-out rows and the best is written before the layers behind are refitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.data.activations.rows import Sample
from onnxprune.data.activations.runner import Segments
from onnxprune.graph.analysis import identity
from onnxprune.graph.layers.epilogue import Epilogue
from onnxprune.graph.layers.sources import ancestors
from onnxprune.recovery.gates import GateStep
from onnxprune.recovery.norms import Norm, find_norms, vector, write
from onnxprune.recovery.order import Problem, Step, changed_values
from onnxprune.solve.affine import Line, Paired, fit, paired, pooled
from onnxprune.solve.im2col import sample_positions, token_rows
from onnxprune.types import LayerOutcome

Array = npt.NDArray[Any]
Bool = npt.NDArray[np.bool_]

_EXACT = 1e-9
"""Relative errors up to this are rounding."""


@dataclass(frozen=True, eq=False)
class NormStep:
    """One normalisation of the pruned model to compensate.

    Attributes:
        norm: the normalisation.
        kept: which of the dense channels it still has.
        methods: methods that are tried besides no change.
        value: where its output counts: its own output, or the sum that alone reads it.
        skip: the other summand, None if there is no sum.
        judged: keep it unchanged where no method lowers the error; else the first is taken.
    """

    norm: Norm
    kept: Bool
    methods: tuple[str, ...]
    value: str
    skip: str | None = None
    judged: bool = True

    @property
    def node(self) -> str:
        """The identity of the node that multiplies with the gain."""
        return self.norm.node

    def compensate(
        self, teacher: Segments, student: Segments, model: models.Model, sample: Sample
    ) -> LayerOutcome:
        """Fit gain and bias, or statistics, and write them back if that helps.

        Args:
            teacher: the dense model.
            student: the pruned one; everything before this normalisation is final.
            model: the pruned one; it is changed.
            sample: how rows are drawn.
        """
        nodes = {identity(node): node for node in model.ir.graph}
        old, scale = self._now(nodes)
        node = nodes[self.norm.node]
        train, holdout = self._moments(teacher, student, node, scale, sample)
        free = self.norm.bias is not None
        floor = self.norm.epsilon * scale.slope**2 if self.norm.kind == "batch" else 0.0
        tried = ["none", *self.methods]
        lines = [fit(train, old, each, free_bias=free, floor=floor) for each in tried]
        errors = [holdout.error(each) for each in lines]
        variance = float(holdout.tt.sum()) or float((holdout.mean_t**2).sum()) or 1.0
        if errors[0] <= _EXACT * variance:
            errors[0] = 0.0
        best = int(np.argmin(errors)) if self.judged else 1
        if best:
            rows = pooled((train, holdout))
            line = fit(rows, old, tried[best], free_bias=free, floor=floor)
            self._write(nodes, rows, line, scale, tried[best])
        return LayerOutcome(self.node, tried[best], errors[0] / variance, errors[best] / variance)

    def _now(self, nodes: Mapping[str, ir.Node]) -> tuple[Line, Line]:
        """Gain and bias; and what is done to its input before them, by a BatchNormalization."""
        channels = int(self.kept.sum())
        node, at = nodes[self.norm.gain[0]], self.norm.gain[1]
        gain = vector(node, at, channels, 1.0)
        bias = np.zeros(channels)
        if self.norm.bias is not None:
            bias = vector(nodes[self.norm.bias[0]], self.norm.bias[1], channels, 0.0)
        if self.norm.kind != "batch":
            return Line(gain, bias), Line(np.ones(channels), np.zeros(channels))
        mean, variance = (vector(node, k, channels, 0.0) for k in (3, 4))
        slope = 1 / np.sqrt(variance + self.norm.epsilon)
        return Line(gain, bias), Line(slope, -mean * slope)

    def _moments(
        self, teacher: Segments, student: Segments, node: ir.Node, scale: Line, sample: Sample
    ) -> tuple[Paired, Paired]:
        """Moments of sampled rows: those to fit to, and those to judge by."""
        norm = self.norm
        read = [v for v in (node.inputs[k] for k in norm.reads) if v is not None]
        teacher.advance([self.value])
        student.advance([v.name or "" for v in read] + ([self.skip] if self.skip else []))
        parts: tuple[list[Paired], list[Paired]] = ([], [])
        share = -(-sample.rows // len(teacher))
        for batch in range(len(teacher)):
            dense = teacher.value(self.value, batch)
            values = [_value(v, student, batch) for v in read]
            total = dense.size // dense.shape[norm.axis]
            among = teacher.shown(self.value, norm.axis, batch)
            positions = sample_positions(total, share, sample.seed + batch, among)
            target = token_rows(dense, norm.axis, positions)[0][:, self.kept]
            if self.skip is not None:
                target = (
                    target - token_rows(student.value(self.skip, batch), norm.axis, positions)[0]
                )
            aside = sample.aside(teacher.samples, batch, positions, total)
            rows = norm.rows(values, positions) * scale.slope + scale.offset
            for part, chosen in zip(parts, (~aside, aside), strict=True):
                if chosen.any():
                    part.append(paired(rows[chosen], target[chosen]))
        return pooled(parts[0]), pooled(parts[1])

    def _write(
        self, nodes: Mapping[str, ir.Node], rows: Paired, line: Line, scale: Line, method: str
    ) -> None:
        """Store the new gain, bias or statistics."""
        name, at = self.norm.gain
        if method == "statistics":
            write(nodes[name], 3, (rows.mean_u - scale.offset) / scale.slope, "mean")
            write(nodes[name], 4, rows.uu / scale.slope**2, "variance")
        elif method != "bias":
            write(nodes[name], at, line.slope, "gain")
        if self.norm.bias is not None:
            write(nodes[self.norm.bias[0]], self.norm.bias[1], line.offset, "bias")


def _value(value: ir.Value, student: Segments, batch: int) -> Array:
    tensor = models.constant(value)
    return student.value(value.name or "", batch) if tensor is None else tensor.numpy()


def plan_norm_steps(
    problem: Problem,
    steps: Sequence[Step],
    *,
    biases: bool = False,
    statistics: bool = False,
) -> tuple[list[Step | NormStep | GateStep], dict[str, str]]:
    """Normalisations that are to be made up for, each before the first layer that sees it.

    Args:
        problem: the pruned model and the dense one.
        steps: the layers that are refitted, in order.
        biases: no weights are refitted, so that a BatchNormalization behind a layer takes that
            layer's place, and gets no gain.
        statistics: every BatchNormalization gets the statistics of what it reads, unjudged.

    Returns:
        Everything in order; and by node, why it is left alone though it lost channels.
    """
    dense, pruned, kept = problem.dense, problem.pruned, problem.kept
    norms, others = find_norms(dense.ir.graph, problem.facts)
    changed = changed_values(dense, pruned)
    batch = {identity(n) for n in dense.ir.graph if n.op_type == "BatchNormalization"}
    declined = {
        node: reason
        for node, y, axis, reason in others
        if y in changed and not kept(y, axis).all() and (biases or node not in batch)
    }
    behind = {
        node: step
        for step in steps
        for each in step.applications
        for node in _chain(pruned, each.layer.y, each.epilogue)
    }
    for each in steps:
        if each.maker is not None and (filters := each.maker.filters) is not None:
            inside = _chain(pruned, filters.layer.y, filters.epilogue)
            behind |= dict.fromkeys(inside, each)  # the layers around it make up for it
    norm_steps: list[NormStep] = []
    places: dict[str, NormStep] = {}
    for norm in norms:
        columns = kept(norm.y, norm.axis)
        if norm.y not in changed:
            continue
        if norm.kind == "batch":
            step = behind.get(norm.node)
            methods: tuple[str, ...]
            methods = ("bias", "statistics") if biases else ("bias", "statistics", "affine")
            methods = ("statistics",) if statistics else methods
            norm_step = NormStep(norm, columns, methods, norm.y, judged=not statistics)
            if step is None:
                norm_steps.append(norm_step)
            elif biases:
                epilogue = step.epilogue if step.epilogue.branch == norm.y else None
                if epilogue is not None:
                    norm_step = replace(norm_step, value=epilogue.value, skip=epilogue.skip)
                places[step.layer.node] = norm_step
        elif not columns.all():
            free = ("bias",) if norm.bias is not None else ()
            norm_steps.append(NormStep(norm, columns, (*free, "scale", "affine"), norm.y))
    ordered: list[Step | NormStep | GateStep] = [
        places.get(step.layer.node, step) for step in steps
    ]
    return in_turn(pruned, ordered, norm_steps), declined


def _chain(pruned: models.Model, output: str, epilogue: Epilogue) -> list[str]:
    """The nodes between a layer's output and where it counts."""
    values = {v.name or "": v for v in models.values(pruned.ir.graph)}
    ends = {epilogue.value, epilogue.branch}
    value, nodes = values[output], []
    while value.name not in ends:
        ((node, _),) = value.uses()
        value = node.outputs[0]
        nodes.append(identity(node))
    return nodes


def in_turn(
    pruned: models.Model,
    ordered: Sequence[Step | NormStep | GateStep],
    others: Sequence[NormStep | GateStep],
) -> list[Step | NormStep | GateStep]:
    """Put normalisations and recurrent layers in front of whatever depends on them."""
    values = {v.name or "": v for v in models.values(pruned.ir.graph)}
    waiting, out = list(others), list[Step | NormStep | GateStep]()
    for each in ordered:
        needs: set[str] = set()
        if waiting:
            needs = set().union(*(ancestors(values[name]) for name in _read(each) if name))
        out += [step for step in waiting if step.node in needs]
        waiting = [step for step in waiting if step.node not in needs]
        out.append(each)
    return [*out, *waiting]


def _read(step: Step | NormStep | GateStep) -> list[str | None]:
    """The values that have to be final before a step.

    Of applications that depend on each other only the first has its inputs by then.
    """
    if isinstance(step, NormStep):
        return [step.norm.node, step.skip]
    if isinstance(step, GateStep):
        return [step.node]
    parts = [step] if step.loops else step.applications
    return [name for each in parts for name in (each.layer.x, each.epilogue.skip)]
