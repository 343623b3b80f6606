"""Gates of recurrent layers refitted after they lost units.

What a gate of an LSTM or RNN adds up is linear in its input and in the state before it, so input
and recurrent weights of the units that are left are fitted to what the dense layer adds up for
them, given the inputs and states of the pruned one. These states change with the weights: several
ridges are tried, the layer is run with each, and the one whose states come closest to the dense
ones on held-out samples is kept, if any comes closer than the weights as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.data.activations.rows import Sample
from onnxprune.data.activations.runner import Segments
from onnxprune.data.mixtures import held_out
from onnxprune.graph.analysis import identity
from onnxprune.graph.ops.recurrent import GATES, LINEAR_GATES
from onnxprune.recovery.order import Problem, changed_values
from onnxprune.solve.im2col import sample_positions
from onnxprune.solve.least_squares import ridge_regression
from onnxprune.solve.moments import Accumulator, Moments
from onnxprune.types import LayerOutcome

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]

RIDGES = (0.01, 0.1, 1.0)
"""Shares of the mean input variance that are tried: firm ones keep states from drifting."""
_ROUNDS = 2
_SURELY = 1 - 1e-6
"""Errors below this part of another are lower by more than rounding."""
_W, _R, _B, _LENGTHS, _PEEPHOLES = 1, 2, 3, 4, 7


@dataclass(frozen=True, eq=False)
class GateStep:
    """One recurrent layer of the pruned model to refit.

    Attributes:
        node: its identity.
        x: the value that it reads.
        y: its states at every step, ``[time, directions, samples, hidden]``.
        kept: which of the dense hidden units it still has.
        reverse: by direction, whether it goes backwards.
    """

    node: str
    x: str
    y: str
    kept: npt.NDArray[np.bool_]
    reverse: tuple[bool, ...]

    def refit(
        self, teacher: Segments, student: Segments, dense: models.Model, pruned: models.Model,
        sample: Sample,
    ) -> LayerOutcome:  # fmt: skip
        """Fit the weights, and write back what brings the states closer.

        Args:
            teacher: the dense model.
            student: the pruned one; everything before this layer is final.
            dense: the dense model.
            pruned: the pruned one; it is changed.
            sample: how rows are drawn.
        """
        ours, theirs = _node(pruned, self.node), _node(dense, self.node)
        teacher.advance([self.x_of(theirs), self.y])
        if sum(student.samples) < sample.holdout_every:
            return LayerOutcome(self.node, "none", reason="too few samples to judge its states by")
        before = best = self._error(teacher, student, sample)
        method = "none"
        if best is None or before is None:
            return LayerOutcome(self.node, "none", reason="its states are not told apart by sample")
        for _ in range(_ROUNDS):
            start, improved = _weights(ours), False
            rows = list(self._moments(teacher, student, theirs, sample))
            chosen = start
            for ridge in RIDGES:
                candidate = _fitted(start, rows, ridge)
                _write(ours, candidate)
                student.rerun([self.node])
                error = self._error(teacher, student, sample)
                if error is not None and error < best * _SURELY:
                    chosen, best, improved, method = candidate, error, True, "lstsq"
            _write(ours, chosen)
            student.rerun([self.node])
            if not improved:
                break
        return LayerOutcome(self.node, method, before, best)

    def x_of(self, node: ir.Node) -> str:
        """The input of the layer, which a cut may have renamed."""
        value = node.inputs[0]
        return "" if value is None else value.name or ""

    def _error(self, teacher: Segments, student: Segments, sample: Sample) -> float | None:
        """How far states on held-out samples are from the dense ones, relative to their variance.

        None where an axis of the states does not count samples.
        """
        student.advance([self.x, self.y])
        gap = total = 0.0
        mean: Array | float = 0.0
        for batch, aside in enumerate(_aside(student, sample)):
            wanted = teacher.value(self.y, batch)[..., self.kept]
            states = student.value(self.y, batch)
            if wanted.shape != states.shape or wanted.shape[2] != len(aside):
                return None
            wanted, states = (a[:, :, aside].astype(np.float64) for a in (wanted, states))
            gap += float(np.square(states - wanted).sum())
            mean = wanted.mean(axis=(0, 2), keepdims=True) if wanted.size else mean
            total += float(np.square(wanted - mean).sum())
        return gap / total if total else None

    def _moments(
        self, teacher: Segments, student: Segments, theirs: ir.Node, sample: Sample
    ) -> Iterator[Moments]:
        """Moments of inputs and states before, and of what the dense layer adds up; by direction.

        The first step of each sequence is left out: what its state is, is not looked at.
        """
        weights, recurrent, bias = _weights(theirs)
        hidden, gates = recurrent.shape[2], recurrent.shape[1] // recurrent.shape[2]
        kept = np.flatnonzero(self.kept)
        rows = np.concatenate([gate * hidden + kept for gate in range(gates)])
        student.advance([self.x, self.y])
        for direction, reverse in enumerate(self.reverse):
            collected: Accumulator | None = None
            for batch, aside in enumerate(_aside(student, sample)):
                dense = _steps(
                    teacher.value(self.x_of(theirs), batch), teacher.value(self.y, batch),
                    direction, aside, reverse=reverse,
                )  # fmt: skip
                own = _steps(
                    student.value(self.x, batch), student.value(self.y, batch),
                    direction, aside, reverse=reverse,
                )  # fmt: skip
                if not len(own):
                    continue
                share = -(-sample.wanted(own.shape[1]) // len(student))
                at = sample_positions(len(own), share, sample.seed + batch)
                matrix = np.concatenate([weights[direction], recurrent[direction]], axis=1)[rows]
                wanted = dense[at] @ matrix.T
                if bias is not None:
                    half = gates * hidden
                    wanted = wanted + (bias[direction, rows] + bias[direction, half + rows])
                if collected is None:
                    collected = Accumulator(1, own.shape[1], len(rows))
                collected.add(own[at][None], wanted[None])
            assert collected is not None
            yield collected.finish()


def plan_gate_steps(problem: Problem) -> tuple[list[GateStep], dict[str, str]]:
    """The recurrent layers to refit, in the order of the graph, and why others that changed stay.

    Args:
        problem: the pruned model and the dense one.
    """
    before = {identity(node): node for node in problem.dense.ir.graph}
    changed = changed_values(problem.dense, problem.pruned)
    steps: list[GateStep] = []
    declined: dict[str, str] = {}
    for node in problem.pruned.ir.graph:
        name = identity(node)
        if node.domain or node.op_type not in GATES or name not in changed:
            continue
        reason = _why_not(node, before.get(name))
        if reason:
            declined[name] = reason
            continue
        direction = node.attributes.get_string("direction", "forward")
        reverse = {"forward": (False,), "reverse": (True,)}.get(direction, (False, True))
        read = node.inputs[0]
        x = "" if read is None else read.name or ""
        steps.append(GateStep(name, x, name, problem.kept(name, 3), reverse))
    return steps, declined


def _why_not(node: ir.Node, old: ir.Node | None) -> str:
    """Why the gates of a layer are not refitted; empty if they can be."""
    stored = [node.inputs[k] if len(node.inputs) > k else None for k in (_W, _R, _B)]
    given = [len(node.inputs) > k and node.inputs[k] is not None for k in (_LENGTHS, _PEEPHOLES)]
    reasons = {
        f"the gates of a {node.op_type} are not refitted": node.op_type not in LINEAR_GATES,
        "its weights are computed": any(
            value is not None and models.constant(value) is None for value in stored
        ),
        "its weights are read by another node too": any(
            value is not None and (len(value.uses()) > 1 or value.is_graph_output())
            for value in stored
        ),
        "its sequences have lengths of their own": given[0],
        "it has peepholes": given[1],
        "it clips what its gates add up": "clip" in node.attributes,
        "its samples come first": node.attributes.get_int("layout", 0) != 0,
        "only its last state is put out": not node.outputs[0].name,
        "it is not in the dense model": old is None,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _node(model: models.Model, name: str) -> ir.Node:
    return next(node for node in model.ir.graph if identity(node) == name)


def _weights(node: ir.Node) -> tuple[Float, Float, Float | None]:
    """Input and recurrent weights ``[directions, gates * hidden, ...]``, and the biases."""
    arrays = [
        None if value is None else models.array_of(value).astype(np.float64)
        for value in (node.inputs[k] if len(node.inputs) > k else None for k in (_W, _R, _B))
    ]
    assert arrays[0] is not None
    assert arrays[1] is not None
    return arrays[0], arrays[1], arrays[2]


def _write(node: ir.Node, weights: tuple[Float, Float, Float | None]) -> None:
    for position, array in zip((_W, _R, _B), weights, strict=True):
        value = node.inputs[position] if len(node.inputs) > position else None
        if value is not None and array is not None:
            models.set_constant(value, array.astype(models.array_of(value).dtype))


def _fitted(
    start: tuple[Float, Float, Float | None], rows: Sequence[Moments], ridge: float
) -> tuple[Float, Float, Float | None]:
    """Weights of all directions at a ridge; the biases, if there are any, are free."""
    weights, recurrent, bias = (None if part is None else part.copy() for part in start)
    assert weights is not None
    assert recurrent is not None
    inputs, size = weights.shape[2], weights.shape[1]
    for direction, moments in enumerate(rows):
        old = np.concatenate([weights[direction], recurrent[direction]], axis=1).T[None]
        fixed = np.zeros((1, size)) if bias is None else None
        matrix, free = ridge_regression(moments, old, ridge, fixed)
        weights[direction], recurrent[direction] = matrix[0, :inputs].T, matrix[0, inputs:].T
        if bias is not None:
            bias[direction, :size], bias[direction, size:] = free[0], 0
    return weights, recurrent, bias


def _aside(run: Segments, sample: Sample) -> Iterator[npt.NDArray[np.bool_]]:
    """By batch, which samples are held out."""
    start = 0
    for count in run.samples:
        yield held_out(np.arange(start, start + count), sample.holdout_every)
        start += count


def _steps(
    x: Array, y: Array, direction: int, aside: npt.NDArray[np.bool_], *, reverse: bool
) -> Array:
    """``[rows, inputs + hidden]``: inputs of all steps but the first, and the states before."""
    x, y = (a.astype(np.float32) for a in (x[:, ~aside], y[:, direction][:, ~aside]))
    now, past = (x[:-1], y[1:]) if reverse else (x[1:], y[:-1])
    both = np.concatenate([now, past], axis=-1)
    return both.reshape(-1, both.shape[-1])
