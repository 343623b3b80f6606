"""Cheap corrections after structured pruning: no weight that multiplies layers' inputs changes.

Front to back, every bias is moved until the mean of what its layer adds to is that of the dense
model (Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV
2019, there for quantization), every BatchNormalization gets the statistics of what it now really
reads, and normalisations over an axis that lost channels get another gain and bias
(``recover.normalisation``).

A bias or a gain is judged by its layer's error on held-out rows. Statistics are not: they restore
the variance that went with the removed channels, which is what the layers behind expect, although
the error of the layer itself is least with less of it. So all of them are judged together, by the
outputs of the model on batches that nothing was fitted to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.data.activations.rows import Sample, moments_of
from onnxprune.data.activations.runner import Feeds, Segments
from onnxprune.evaluate.output_error import OutputError
from onnxprune.graph.layers.epilogue import Weights
from onnxprune.graph.shapes import Fact
from onnxprune.recovery.norm_compensation import Turn, plan_turns
from onnxprune.recovery.order import Kept, Step, plan_steps
from onnxprune.recovery.reconstruct import Reconstruction
from onnxprune.solve.least_squares import correct_bias
from onnxprune.solve.moments import Moments
from onnxprune.solve.refit import choose
from onnxprune.types import LayerOutcome

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
    job = _Job(dense, pruned, kept, facts, sample or Sample(), provider, threads, tell)
    aside = [k for k in range(len(batches)) if k % job.sample.held == job.sample.held - 1]
    aside = aside or list(range(len(batches)))[-1:]
    judges = [batches[k] for k in aside]
    rest = [each for k, each in enumerate(batches) if k not in aside]
    if not rest or not any(node.op_type == "BatchNormalization" for node in pruned.ir.graph):
        return job.run(batches, statistics=False)
    found = [Reconstruction(pruned, ()), *(job.run(rest, statistics=s) for s in (False, True))]
    error = OutputError(dense, judges, provider=provider)
    far = [error.of(each.model) for each in found]
    best = int(np.argmin(far))
    if best:
        return found[best]
    why = "outputs on inputs that were put aside came no closer to the original's"
    left = [LayerOutcome(o.layer, "none", o.before, o.before, why) for o in found[1].outcomes]
    return Reconstruction(models.clone(pruned), tuple(left))


@dataclass(frozen=True, eq=False)
class _Job:
    """One model to correct; see :func:`correct`."""

    dense: models.Model
    pruned: models.Model
    kept: Kept
    facts: Mapping[str, Fact]
    sample: Sample
    provider: str
    threads: int | None
    tell: Callable[[str], None]

    def run(self, batches: Sequence[Feeds], *, statistics: bool) -> Reconstruction:
        """Go through the model once, with or without statistics that nothing has judged."""
        work = models.clone(self.pruned)
        problem = (self.dense, work, self.kept, self.facts)
        steps, declined = plan_steps(*problem, producers=True, pairs=False)
        turns, left = plan_turns(*problem, steps, biases=True, statistics=statistics)
        run = (self.provider, self.threads)
        teacher, student = (_segments(m, batches, *run) for m in (self.dense, work))
        weights = Weights(work)
        outcomes = [
            LayerOutcome(node, "none", reason=why) for node, why in (declined | left).items()
        ]
        for number, step in enumerate(turns, start=1):
            self.tell(f"correcting layer {number} of {len(turns)}: {step.node}")
            if isinstance(step, Turn):
                found = step.renormalise(teacher, student, work, self.sample)
                outcomes.append(LayerOutcome(step.node, *found))
            elif step.layer.bias_slot is None:
                why = "it has no bias and takes none"
                outcomes.append(LayerOutcome(step.node, "none", reason=why))
            else:
                rows = moments_of(
                    step.layer, step.epilogue, teacher, student, self.sample, step.kept
                )
                outcomes.append(_correct(step, *rows, weights))
        return Reconstruction(work, tuple(outcomes))


def _segments(
    model: models.Model, batches: Sequence[Feeds], provider: str, threads: int | None
) -> Segments:
    return Segments(model, batches, provider=provider, threads=threads)


def _correct(step: Step, train: Moments, held: Moments, weights: Weights) -> LayerOutcome:
    """Move the bias of one layer if that helps."""
    matrix, bias = weights.read(step.layer, step.epilogue)

    def solve(rows: Moments, method: str, _ridge: float) -> tuple[Float, Float]:
        return matrix, bias if method == "none" else correct_bias(rows, matrix)

    found = choose(train, held, [("none", 0.0), ("bias", 0.0)], solve)
    if found.accepted:
        weights.write_bias(step.layer, found.bias, step.epilogue)
    method = "bias" if found.accepted else "none"
    return LayerOutcome(step.node, method, found.before, found.after)
