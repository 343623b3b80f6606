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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from onnxprune import model as models
from onnxprune.data.activations.runner import Feeds, Segments
from onnxprune.graph.layers.epilogue import Weights
from onnxprune.graph.shapes import Fact
from onnxprune.recovery.norm_compensation import Turn, plan_turns
from onnxprune.recovery.order import Kept, plan_steps
from onnxprune.recovery.refit import Refitting, Settings
from onnxprune.types import LayerOutcome


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A pruned model with its layers refitted, and what became of each."""

    model: models.Model
    outcomes: tuple[LayerOutcome, ...]


def reconstruct(
    dense: models.Model,
    pruned: models.Model,
    kept: Kept,
    facts: Mapping[str, Fact],
    batches: Sequence[Feeds],
    settings: Settings | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Reconstruction:
    """Refit the layers of a pruned model.

    Args:
        dense: the model before pruning.
        pruned: the model after; node and value names are those of the dense one.
        kept: which indices of the dense model's axes are left.
        facts: shapes in the dense model.
        batches: feeds; at least one.
        settings: see there.
        tell: told which layer is being worked on.

    Returns:
        A new model; ``pruned`` is left as it is.
    """
    how = settings or Settings()
    work = models.clone(pruned)
    problem = (dense, work, kept, facts)
    steps, declined = plan_steps(*problem, producers=how.producers, pairs=how.pairs > 0)
    filtered = {s.maker.layer.x for s in steps if s.maker is not None and s.maker.filters}
    job = Refitting(
        Segments(dense, batches, provider=how.provider, threads=how.threads),
        Segments(work, batches, kept=filtered, provider=how.provider, threads=how.threads),
        Weights(work),
        how,
    )
    turns, left = plan_turns(*problem, steps)
    outcomes = [LayerOutcome(node, "none", reason=why) for node, why in (declined | left).items()]
    for number, step in enumerate(turns, start=1):
        tell(f"recovering layer {number} of {len(turns)}: {step.node}")
        if isinstance(step, Turn):
            found = step.renormalise(job.teacher, job.student, work, how.sample)
            outcomes.append(LayerOutcome(step.node, *found))
        else:
            outcomes.append(job.one(step))
    return Reconstruction(work, tuple(outcomes))
