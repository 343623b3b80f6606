"""Refitting a model whose single weights somebody set to zero: the zeros stay, the rest moves.

Front to back, as in ``recover.structured``: each layer that reads something else than it did, or
has lost weights itself, is fitted to what the dense model computes there, by conjugate gradients on
the weights that are left (``solve.support``), and is changed only where held-out inputs agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.data.activations.rows import Sample, moments_of
from onnxprune.data.activations.runner import Segments
from onnxprune.graph.layers.epilogue import Weights, find_epilogue
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.graph.layers.sources import ancestors
from onnxprune.graph.shapes import Fact
from onnxprune.quantities import Sparsity
from onnxprune.solve.support import RIDGES, refit_support
from onnxprune.sparse.rows import ROWS, Feeds, steadied
from onnxprune.sparse.targets import find_targets
from onnxprune.types import LayerOutcome

Bool = npt.NDArray[np.bool_]
_ANY = Sparsity(0.5)
"""Unstructured: no layer is left for the number of its inputs."""
_ITERATIONS = 20


def refit_masked(
    dense: models.Model,
    thinned: models.Model,
    masks: Mapping[str, Bool],
    batches: Sequence[Feeds],
    facts: Mapping[str, Fact],
    *,
    only_bias: bool = False,
    seed: int = 0,
    provider: str = "cpu",
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[models.Model, tuple[LayerOutcome, ...]]:
    """Refit what is left of a model, keeping every zero.

    Args:
        dense: what it is to compute.
        thinned: the same graph with zeros among its weights; it is left as it is.
        masks: which entries are kept of the stored tensors that have zeros, by name.
        batches: unlabelled feeds; at least one.
        facts: shapes of its values.
        only_bias: leave weights as they are.
        seed: of the rows that are looked at.
        provider: what runs the models.
        tell: hears the progress.

    Returns:
        A new model, and what became of every layer that was or might have been refitted.
    """
    work = models.clone(thinned)
    layers, left = find_targets(work, _ANY)
    values = {v.name or "": v for v in models.values(work.ir.graph)}
    masked = {reader for name in masks for reader in _readers(work, name)}
    weights = Weights(work)
    run = Segments(dense, batches, provider=provider), Segments(work, batches, provider=provider)
    waiting = {layer.node for layer in layers}
    outcomes = [*left]
    for number, layer in enumerate(layers, start=1):
        waiting.discard(layer.node)
        if not masked & (ancestors(values[layer.x]) | {layer.node, layer.y}):
            continue
        tell(f"refitting layer {number} of {len(layers)}: {layer.node}")
        epilogue = find_epilogue(values, facts, layer)
        if epilogue.skip is not None and waiting & ancestors(values[epilogue.skip]):
            epilogue = epilogue.alone  # the other summand is not final yet
        rows = moments_of(layer, epilogue, *run, Sample(rows=ROWS, seed=seed))
        weight, bias = weights.read(layer, epilogue)
        train, held = (steadied(part, weight) for part in rows)
        keep = _mask(layer, masks.get(layer.weight), weight.shape)
        free = layer.bias_slot is not None and layer.bias not in masks
        free = free and bool(keep.any(axis=1).all())  # an output that is masked stays silent
        ridges = () if only_bias else RIDGES
        found = refit_support(
            train, held, weight, keep, bias,
            ridges=ridges, free_bias=free, iterations=_ITERATIONS,
        )  # fmt: skip
        if found.accepted:
            weights.write(layer, found.weight, found.bias if free else None, epilogue, keep)
        kind = max(set(found.methods), key=found.methods.count)
        outcomes.append(
            LayerOutcome(
                layer.node, "given", found.before, found.after, weight=layer.weight, refit=kind,
                shape=layer.tensor.shape, sparsity=1 - float(keep.mean()),
            )
        )  # fmt: skip
    return work, tuple(outcomes)


def _mask(layer: LinearLayer, mask: Bool | None, shape: tuple[int, ...]) -> Bool:
    """A mask of the stored tensor as ``[g, K, N]``."""
    if mask is None:
        return np.ones(shape, np.bool_)
    return np.asarray(layer.matrix(mask), np.bool_)


def _readers(model: models.Model, name: str) -> set[str]:
    """The values that nodes which read a stored tensor put out."""
    value = models.constants(model)[name]
    return {v.name or "" for node, _ in value.uses() for v in node.outputs}
