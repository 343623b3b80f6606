"""Cheap corrections after structured pruning: no weight that multiplies layers' inputs changes.

Front to back, every bias is moved until the mean of what its layer adds to is that of the dense
model (Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV
2019, there for quantization), every BatchNormalization gets the statistics of what it now really
reads, and normalisations over an axis that lost channels get another gain and bias
(``recover.normalisation``). Everything is judged on held-out inputs and declined where it does not
help.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.recover.gram import Moments
from onnxprune.recover.least_squares import choose, correct_bias
from onnxprune.recover.measure import Sample, moments_of
from onnxprune.recover.normalisation import Turn, plan_turns
from onnxprune.recover.segments import Feeds, Segments
from onnxprune.recover.steps import Kept, Step, plan_steps
from onnxprune.recover.structured import Outcome, Reconstruction
from onnxprune.recover.weights import Weights
from onnxprune.shapes import Fact

Float = npt.NDArray[np.float64]


def correct(
    dense: models.Model,
    pruned: models.Model,
    kept: Kept,
    facts: Mapping[str, Fact],
    batches: Sequence[Feeds],
    *,
    sample: Sample | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Reconstruction:
    """Restore means and variances in a pruned model.

    Args:
        dense: the model before pruning.
        pruned: the model after; node and value names are those of the dense one.
        kept: which indices of the dense model's axes are left.
        facts: shapes in the dense model.
        batches: feeds; at least one.
        sample: which rows are looked at.
        provider: what runs the models.
        threads: threads within an operator.
        tell: told which layer is being worked on.

    Returns:
        A new model; ``pruned`` is left as it is.
    """
    rows = sample or Sample()
    work = models.clone(pruned)
    steps, declined = plan_steps(dense, work, kept, facts, producers=True)
    turns, left = plan_turns(dense, work, kept, facts, steps, statistics=True)
    teacher = Segments(dense, batches, provider=provider, threads=threads)
    student = Segments(work, batches, provider=provider, threads=threads)
    weights = Weights(work)
    outcomes = [Outcome(node, reason=why) for node, why in (declined | left).items()]
    for number, step in enumerate(turns, start=1):
        tell(f"correcting layer {number} of {len(turns)}: {step.node}")
        if isinstance(step, Turn):
            found = step.renormalise(teacher, student, work, rows)
            outcomes.append(Outcome(step.node, *found))
        elif step.layer.bias_slot is None:
            outcomes.append(Outcome(step.node, reason="it has no bias and takes none"))
        else:
            teacher.advance([step.merge.value])
            student.advance([step.layer.x] + ([step.merge.skip] if step.merge.skip else []))
            outcomes.append(_correct(step, *moments_of(step, teacher, student, rows), weights))
    return Reconstruction(work, tuple(outcomes))


def _correct(step: Step, train: Moments, held: Moments, weights: Weights) -> Outcome:
    """Move the bias of one layer if that helps."""
    matrix, bias = weights.read(step.layer, step.merge)

    def solve(rows: Moments, method: str, _ridge: float) -> tuple[Float, Float]:
        return matrix, bias if method == "none" else correct_bias(rows, matrix)

    found = choose(train, held, [("none", 0.0), ("bias", 0.0)], solve)
    if found.accepted:
        weights.write_bias(step.layer, step.merge, found.bias)
    method = "bias" if found.accepted else "none"
    return Outcome(step.node, method, found.before, found.after)
