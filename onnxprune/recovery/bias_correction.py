"""Bias correction after structured pruning: no weight that multiplies inputs changes.

Front to back, every bias is moved until the mean of what its layer adds to is that of the dense
model (Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV
2019, there for quantization), every BatchNormalization gets the statistics of what it now really
reads, and normalisations over an axis that lost channels get another gain and bias
(``recovery.norm_compensation``).

A bias or a gain is judged by its layer's error on held-out rows. Statistics are not: they restore
the variance that went with the removed channels, which is what the layers behind expect, although
the error of the layer itself is least with less of it. So all of them are judged together, by the
outputs of the model on batches that nothing was fitted to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from onnxprune.data.activations.runner import Feeds
from onnxprune.evaluate.output_error import OutputError
from onnxprune.recovery.order import Problem
from onnxprune.recovery.reconstruct import Reconstruction, reconstruct
from onnxprune.recovery.refit import Settings
from onnxprune.types import LayerOutcome


def correct(
    problem: Problem,
    batches: Sequence[Feeds],
    settings: Settings | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Reconstruction:
    """Restore means and variances in a pruned model.

    Args:
        problem: the pruned model and the dense one; neither is changed.
        batches: feeds; at least one.
        settings: which rows are looked at, and what runs the models.
        progress: told which layer is being worked on.
    """
    settings = replace(settings or Settings(), producers=True, only_biases=True)
    every = settings.sample.holdout_every
    aside = [k for k in range(len(batches)) if k % every == every - 1]
    aside = aside or list(range(len(batches)))[-1:]
    holdout = [batches[k] for k in aside]
    fit = [each for k, each in enumerate(batches) if k not in aside]
    if not fit or not any(node.op_type == "BatchNormalization" for node in problem.pruned.ir.graph):
        return reconstruct(problem, batches, settings, progress)
    without, with_ = (
        reconstruct(problem, fit, replace(settings, statistics=each), progress)
        for each in (False, True)
    )
    uncorrected = problem.copied().pruned
    error = OutputError(problem.dense, holdout, provider=settings.provider)
    errors = [error.of(model) for model in (uncorrected, without.model, with_.model)]
    best = int(np.argmin(errors))
    if best:
        return (without, with_)[best - 1]
    why = "outputs on inputs that were put aside came no closer to the original's"
    outcomes = (LayerOutcome(o.layer, "none", o.before, o.before, why) for o in without.outcomes)
    return Reconstruction(uncorrected, tuple(outcomes))
