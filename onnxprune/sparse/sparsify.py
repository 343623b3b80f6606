"""Single weights set to zero, layer by layer, and the others refitted.

First the sparsity of every layer is chosen (``sparse.layer_sparsity``); then layers are made sparse
front to back (``sparse.layerwise``). Weights that are no matrix of a layer lose the smallest
(``sparse.others``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.graph.plan import PackedMask, pack
from onnxprune.graph.shapes import Fact
from onnxprune.quantities import Sparsity
from onnxprune.sparse import nm
from onnxprune.sparse.layer_sparsity import removed_counts
from onnxprune.sparse.layerwise import Layerwise, Refit, Settings, sparsify_layer
from onnxprune.sparse.others import sparsify_others
from onnxprune.sparse.rows import Feeds
from onnxprune.sparse.targets import find_targets
from onnxprune.types import Check, LayerOutcome

__all__ = ["Refit", "Settings", "Sparse", "sparsify"]

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
    others = nm.Masking((), {}, None)
    if sparsity.m:
        # By size needs no algebra: without data it does everything, with data what that cannot.
        targets = targets if batches else []
        others = nm.sparsify_nm(
            work, sparsity.n, sparsity.m, skip=settings.skip, exclude=settings.exclude,
            done={target.weight for target in targets}, tied=settings.tied, progress=progress,
        )  # fmt: skip
    else:
        others = sparsify_others(
            work, sparsity.share, skip=settings.skip, exclude=settings.exclude,
            done={target.weight for target in targets}, progress=progress,
        )  # fmt: skip
    nodes = {each.layer for each in others.outcomes}
    declined = [each for each in declined if each.layer not in nodes]
    if not targets and not others.masks:
        declined += others.outcomes
        none = "no layer multiplies with a stored weight"
        why = f"{declined[0].layer}: {declined[0].reason}" if declined else none
        raise OnnxpruneError(
            f"no weight of the model can be made sparse: {why}",
            hint="ask for another pattern, or drop the --skip that excludes layers",
        )
    zeros = removed_counts(model, targets, sparsity, list(batches), facts or {}, settings, progress)
    run = Layerwise(
        model, work, targets, batches, facts or {}, settings.sample,
        provider=settings.provider, threads=settings.threads,
    )  # fmt: skip
    outcomes = [*declined, *others.outcomes]
    masks = dict(others.masks)
    for number, (target, count) in enumerate(zip(targets, zeros, strict=True), start=1):
        progress(f"setting weights to zero, layer {number} of {len(targets)}: {target.node}")
        outcome, keep = sparsify_layer(run, target, sparsity, count, settings)
        outcomes.append(outcome)
        masks[target.weight] = pack(target.stored(keep))
    return Sparse(work, masks, tuple(outcomes), tuple(targets), others.check)
