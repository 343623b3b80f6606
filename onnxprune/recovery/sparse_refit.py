"""Refitting a model with zeros among its weights: the zeros stay, the other weights change.

Front to back, as in ``recovery.reconstruct``: each layer whose inputs have changed, or that has
lost weights itself, is fitted to what the dense model computes there, by conjugate gradients on the
remaining weights (``solve.support``), and is changed only where held-out inputs agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.data.activations.rows import Sample
from onnxprune.data.memory import MemoryBudget
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.graph.shapes import Fact
from onnxprune.quantities import Sparsity
from onnxprune.solve.support import RIDGES, refit_support
from onnxprune.sparse.layerwise import Layerwise
from onnxprune.sparse.rows import ROWS, Feeds
from onnxprune.sparse.targets import find_targets
from onnxprune.types import LayerOutcome

Bool = npt.NDArray[np.bool_]
_ANY = Sparsity(0.5)
"""Unstructured: no layer is left for the number of its inputs."""
_ITERATIONS = 20


def refit_masked(
    dense: models.Model,
    sparse: models.Model,
    masks: Mapping[str, Bool],
    batches: Sequence[Feeds],
    facts: Mapping[str, Fact],
    *,
    only_bias: bool = False,
    seed: int = 0,
    memory: MemoryBudget | None = None,
    provider: str = "cpu",
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[models.Model, tuple[LayerOutcome, ...]]:
    """Refit the remaining weights of a sparse model, keeping every zero.

    Args:
        dense: the model to reproduce.
        sparse: the same graph with zeros among its weights; it is not changed.
        masks: which entries are kept of the stored tensors that have zeros, by name.
        batches: unlabelled feeds; at least one.
        facts: shapes of the model's values.
        only_bias: change biases only.
        seed: seed of the rows that are drawn.
        memory: the memory budget.
        provider: what runs the models.
        progress: told which layer is being worked on.

    Returns:
        A new model, and what became of every layer that was or might have been refitted.
    """
    work = models.clone(sparse)
    layers, declined = find_targets(work, _ANY)
    masked = {reader for name in masks for reader in _readers(work, name)}
    sample = Sample(rows=ROWS, seed=seed, memory=memory or MemoryBudget())
    run = Layerwise(dense, work, layers, batches, facts, sample, provider=provider)
    outcomes = [*declined]
    for number, layer in enumerate(layers, start=1):
        if not run.depends(layer, masked):
            continue
        progress(f"refitting layer {number} of {len(layers)}: {layer.node}")
        keep = _mask(layer, masks.get(layer.weight))
        free = not any(each.bias in masks for each in run.applications(layer))
        free = free and bool(keep.any(axis=1).all())  # an output that is masked stays silent
        data = run.observe(layer, free=free)
        if data is None:
            why = sample.memory.why(layer.shape[1])
            outcomes.append(LayerOutcome(layer.node, "none", reason=why, weight=layer.weight))
            continue
        fit = refit_support(
            data.train, data.holdout, data.weight, keep, data.bias,
            ridges=() if only_bias else RIDGES, free_bias=data.free and free,
            iterations=_ITERATIONS,
        )  # fmt: skip
        if fit.accepted if data.joint is None else fit.after < data.error:
            run.write(data, fit, keep, biases=free)
            if run.loops(layer):
                fit = run.judged(layer, data, fit)
        outcomes.append(
            LayerOutcome(
                layer.node, "given", fit.before, fit.after, weight=layer.weight, refit=fit.method,
                shape=layer.tensor.shape, sparsity=1 - float(keep.mean()),
            )
        )  # fmt: skip
    return work, tuple(outcomes)


def _mask(layer: LinearLayer, mask: Bool | None) -> Bool:
    """A mask of the stored tensor as ``[g, K, N]``."""
    if mask is None:
        return np.ones(layer.shape, np.bool_)
    return np.asarray(layer.matrix(mask), np.bool_)


def _readers(model: models.Model, name: str) -> set[str]:
    """The values that nodes which read a stored tensor put out."""
    value = models.constants(model)[name]
    return {v.name or "" for node, _ in value.uses() for v in node.outputs}
