"""Reconstruction after structured pruning: every layer refitted to what the dense model computed.

Front to back. Each layer sees the inputs it really gets from the pruned layers before it, is fitted
to the outputs of the dense model, and is written back before the next one is looked at, so errors
are not carried on but made up for. Where a layer's output is added to a residual stream the target
is the dense sum minus the pruned other summand, which also makes up for errors that the stream
already carries (He, Zhang and Sun, "Channel pruning for accelerating very deep neural networks",
ICCV 2017). Where only an elementwise function lies between a layer and the one before it, the two
are refitted together (``solve.pairs``).

Every refit is judged on held-out inputs and declined where it does not help.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxprune import model as models
from onnxprune.data.activations.runner import Feeds, Segments
from onnxprune.graph.layers.epilogue import Weights
from onnxprune.recovery.gates import GateStep, plan_gate_steps
from onnxprune.recovery.norm_compensation import NormStep, in_turn, plan_norm_steps
from onnxprune.recovery.order import Problem, plan_steps
from onnxprune.recovery.refit import Refitting, Settings
from onnxprune.types import LayerOutcome


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A pruned model with its layers refitted, and what became of each."""

    model: models.Model
    outcomes: tuple[LayerOutcome, ...]


def reconstruct(
    problem: Problem,
    batches: Sequence[Feeds],
    settings: Settings | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Reconstruction:
    """Refit the layers of a pruned model.

    Args:
        problem: the pruned model and the dense one; neither is changed.
        batches: feeds; at least one.
        settings: how layers are refitted.
        progress: told which layer is being worked on.
    """
    settings, work = settings or Settings(), problem.copied()
    pairs = settings.pairs > 0 and not settings.only_biases
    steps, declined = plan_steps(
        work, producers=settings.producers, pairs=pairs, weights=not settings.only_biases
    )
    ordered, others = plan_norm_steps(
        work, steps, biases=settings.only_biases, statistics=settings.statistics
    )
    if not settings.only_biases:
        gates, why = plan_gate_steps(work)
        ordered = in_turn(work.pruned, ordered, gates)
        names = {gate.node for gate in gates}
        declined = {node: reason for node, reason in declined.items() if node not in names}
        declined |= why
    filtered = {s.maker.layer.x for s in steps if s.maker is not None and s.maker.filters}
    provider, threads, most = settings.provider, settings.threads, settings.sample.memory.values
    teacher = Segments(work.dense, batches, provider=provider, threads=threads, most=most)
    student = Segments(
        work.pruned, batches, kept=filtered, provider=provider, threads=threads, most=most
    )
    refitting = Refitting(teacher, student, Weights(work.pruned), settings)
    outcomes = [LayerOutcome(node, "none", reason=why) for node, why in (declined | others).items()]
    doing = "correcting" if settings.only_biases else "recovering"
    for number, step in enumerate(ordered, start=1):
        progress(f"{doing} layer {number} of {len(ordered)}: {step.node}")
        if isinstance(step, NormStep):
            outcome = step.compensate(teacher, student, work.pruned, settings.sample)
        elif isinstance(step, GateStep):
            outcome = step.refit(teacher, student, work.dense, work.pruned, settings.sample)
        elif settings.only_biases:
            outcome = refitting.correct_bias(step)
        else:
            outcome = refitting.refit(step)
        outcomes.append(outcome)
    return Reconstruction(work.pruned, tuple(outcomes))
