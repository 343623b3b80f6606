"""Single weights set to zero, layer by layer, and the others refitted.

First the sparsity of every layer is chosen (``sparse.layer_sparsity``); then layers are made sparse
front to back (``sparse.layerwise``). Weights that are no matrix of a layer lose the smallest
(``sparse.others``). So do all weights without data; they get their zeros while they are read
(``sparse.streamed``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.graph.plan import ComputedMask, PackedMask, pack
from onnxprune.graph.shapes import Fact
from onnxprune.quantities import Sparsity
from onnxprune.solve.masks import removed_count
from onnxprune.sparse import nm, zeros
from onnxprune.sparse.layer_sparsity import removed_counts
from onnxprune.sparse.layerwise import Layerwise, Recovery, Settings, sparsify_layer
from onnxprune.sparse.others import sparsify_others
from onnxprune.sparse.rows import Feeds
from onnxprune.sparse.streamed import (
    Array,
    Bool,
    smallest_removed,
    smallest_removed_per_output,
)
from onnxprune.sparse.targets import FLOAT_FIRST, find_targets, integer_layers
from onnxprune.types import Check, LayerOutcome

__all__ = ["Recovery", "Settings", "Sparse", "sparsify"]

Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Sparse:
    """A sparse model.

    Attributes:
        model: the new model.
        masks: weight name -> which of its entries are kept.
        outcomes: one per weight that is, or might have been, made sparse.
        targets: the layers that were made sparse, where they are seen as ``rows @ W + b``.
        check: check of the weights chosen by size alone; None where there are none.
    """

    model: models.Model
    masks: Mapping[str, PackedMask]
    outcomes: tuple[LayerOutcome, ...]
    targets: tuple[LinearLayer, ...]
    check: Check | None = None


def sparsify(
    model: models.Model,
    sparsity: Sparsity,
    batches: Sequence[Feeds] = (),
    facts: Mapping[str, Fact] | None = None,
    settings: Settings | None = None,
    progress: Progress = lambda _: None,
) -> Sparse:
    """Set weights of linear layers to zero and refit the others.

    Args:
        model: the dense model; it is not changed.
        sparsity: the share of zeros, or the N:M pattern.
        batches: unlabelled feeds; without any, masks are by magnitude and nothing is refitted.
        facts: shapes of the model's values; with them, layers are fitted to the output of the
            residual sum behind them.
        settings: the method, and what runs the model.
        progress: told which layer is being worked on.

    Raises:
        OnnxpruneError: the method needs data and there are none, or no weight can be made sparse.
    """
    settings = settings or Settings()
    method = settings.method or ("admm" if batches else "magnitude")
    settings = replace(settings, method=method)
    if method != "magnitude" and not batches:
        raise OnnxpruneError(
            f"--sparse-method {method} needs calibration data",
            hint="give inputs with --calib, or take --sparse-method magnitude",
        )
    targets, declined = find_targets(model, sparsity, settings.skip, settings.exclude)
    work = models.clone(model)
    if sparsity.m:
        # By size needs no algebra: without data it does everything, with data what that cannot.
        targets = targets if batches else []
        others = nm.sparsify_nm(
            work, sparsity.n, sparsity.m, skip=settings.skip, exclude=settings.exclude,
            done={target.weight for target in targets}, tied=settings.tied,
            streamed=not batches, progress=progress,
        )  # fmt: skip
    else:
        others = sparsify_others(
            work, sparsity.share, skip=settings.skip, exclude=settings.exclude,
            done={target.weight for target in targets}, progress=progress,
        )  # fmt: skip
    nodes = {each.layer for each in others.outcomes}
    declined = [each for each in declined if each.layer not in nodes]
    if not targets and not others.masks:
        raise _refusal(model, sparsity, settings, [*declined, *others.outcomes])
    counts = removed_counts(
        model, targets, sparsity, list(batches), facts or {}, settings, progress
    )
    if targets and not batches:
        outcomes, masks, check = _streamed(work, targets, counts, sparsity, settings)
        every = (*declined, *others.outcomes, *outcomes)
        return Sparse(work, {**others.masks, **masks}, every, tuple(targets), check)
    run = Layerwise(
        model, work, targets, batches, facts or {}, settings.sample,
        provider=settings.provider, threads=settings.threads,
    )  # fmt: skip
    outcomes = [*declined, *others.outcomes]
    masks = dict(others.masks)
    for number, (target, count) in enumerate(zip(targets, counts, strict=True), start=1):
        progress(f"setting weights to zero, layer {number} of {len(targets)}: {target.node}")
        outcome, keep = sparsify_layer(run, target, sparsity, count, settings)
        outcomes.append(outcome)
        masks[target.weight] = pack(target.stored(keep))
    return Sparse(work, masks, tuple(outcomes), tuple(targets), others.check)


def _refusal(
    model: models.Model,
    sparsity: Sparsity,
    settings: Settings,
    declined: Sequence[LayerOutcome],
) -> OnnxpruneError:
    """Why no weight can be made sparse, and what would change that: each way is tried."""
    free = replace(settings, skip=(), exclude={})
    share = Sparsity(0.5)
    integers = integer_layers(model)
    if _any_target(model, sparsity, free):
        hint = "skip fewer layers"
    elif sparsity.m and _any_target(model, share, settings):
        hint = "take a share of the weights instead, as in --sparsity 50%"
    elif integers:
        hint = FLOAT_FIRST
    else:
        hint = "see `onnxprune eligible`, which lists what multiplies with a weight and how"
    if declined:
        why = f"{declined[0].layer}: {declined[0].reason}"
    elif integers:
        why = integers
    else:
        why = "no layer multiplies with a stored weight"
    return OnnxpruneError(f"no weight of the model can be made sparse: {why}", hint=hint)


def _any_target(model: models.Model, sparsity: Sparsity, settings: Settings) -> bool:
    """Whether any weight can be made sparse like that."""
    skip, exclude = settings.skip, settings.exclude
    if find_targets(model, sparsity, skip, exclude)[0]:
        return True
    work = models.clone(model)
    if not sparsity.m:
        return bool(sparsify_others(work, sparsity.share, skip=skip, exclude=exclude).masks)
    others = nm.sparsify_nm(
        work, sparsity.n, sparsity.m, skip=skip, exclude=exclude, tied=settings.tied, streamed=True
    )
    return bool(others.masks)


def _streamed(
    work: models.Model,
    layers: Sequence[LinearLayer],
    counts: Sequence[int],
    sparsity: Sparsity,
    settings: Settings,
) -> tuple[list[LayerOutcome], dict[str, PackedMask], Check]:
    """Have the smallest weights of layers left out whenever they are read, in place."""
    values = models.constants(work)
    outcomes: list[LayerOutcome] = []
    masks: dict[str, PackedMask] = {}
    chosen = [_smallest(*each, settings) for each in zip(layers, counts, strict=True)]
    check = zeros.streamed_check(layers, sparsity, sum(removed for removed, _ in chosen))
    for layer, (removed, mask) in zip(layers, chosen, strict=True):
        value = values[layer.weight]
        dense = models.constant(value)
        assert dense is not None
        tensor = zeros.masked(check, dense, mask, removed)
        models.set_constant(value, tensor)
        kept = layer.size - removed
        masks[layer.weight] = ComputedMask(layer.tensor.shape, kept, tensor.mask)
        outcomes.append(
            LayerOutcome(
                layer.node, "magnitude", weight=layer.weight, shape=layer.tensor.shape,
                sparsity=1 - kept / layer.size,
            )
        )  # fmt: skip
    return outcomes, masks, check


def _smallest(
    layer: LinearLayer, count: int, settings: Settings
) -> tuple[int, Callable[[Array], Bool]]:
    """How many weights a layer loses, and what computes its mask."""
    if settings.allocation != "per-row":
        return count, partial(smallest_removed, layer, count=count)
    groups, inputs, outputs = layer.shape
    share = count / layer.size
    removed = removed_count(inputs, share) * groups * outputs
    return removed, partial(smallest_removed_per_output, layer, share=share)
