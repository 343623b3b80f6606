"""Single weights set to zero, layer by layer, and those that stay refitted.

How much every layer loses is settled first (``sparse.spread``); then layers are thinned front to
back (``sparse.layerwise``). What no layer reads as a product is thinned by size.
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
from onnxprune.sparse import nm as magnitude
from onnxprune.sparse.layer_sparsity import counts
from onnxprune.sparse.layerwise import Layerwise, Refit, Settings, sparsify_layer
from onnxprune.sparse.rows import Feeds
from onnxprune.sparse.targets import find_targets
from onnxprune.types import Check, LayerOutcome

__all__ = ["Refit", "Settings", "Sparse", "sparsify"]

Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Sparse:
    """A thinned model.

    Attributes:
        model: it; a new one.
        masks: weight name -> which of its entries are kept.
        outcomes: one per weight that is, or might have been, thinned.
        targets: the layers that were, as far as they are seen as ``rows @ W + b``.
        check: of the weights that were thinned by size alone; None where there are none.
    """

    model: models.Model
    masks: Mapping[str, PackedMask]
    outcomes: tuple[LayerOutcome, ...]
    targets: tuple[LinearLayer, ...]
    check: Check | None = None


def sparsify(
    model: models.Model,
    asked: Sparsity,
    batches: Sequence[Feeds] = (),
    facts: Mapping[str, Fact] | None = None,
    settings: Settings | None = None,
    tell: Tell = lambda _: None,
) -> Sparse:
    """Set weights of linear layers to zero and refit those that stay.

    Args:
        model: the dense model; it is left as it is.
        asked: how much.
        batches: unlabelled feeds; without any, masks are by magnitude and nothing is refitted.
        facts: shapes of its values; where given, layers are fitted to what comes out of the
            residual sum behind them.
        settings: see there.
        tell: hears the progress.

    Raises:
        OnnxpruneError: the method needs data and there are none, or no weight can be thinned.
    """
    how = settings or Settings()
    method = how.method or ("admm" if batches else "magnitude")
    how = replace(how, method=method)
    if method != "magnitude" and not batches:
        raise OnnxpruneError(
            f"--sparse-method {method} looks at what the layers read",
            hint="give inputs with --calib, or take --sparse-method magnitude",
        )
    targets, left = find_targets(model, asked, how.skip, how.leave)
    work = models.clone(model)
    others = magnitude.Masking((), {}, None)
    if asked.m:
        # By size needs no algebra: without data it does everything, with data what that cannot.
        targets = targets if batches else []
        others = magnitude.thin(
            work, asked.n, asked.m, skip=how.skip, leave=how.leave,
            done={target.weight for target in targets}, tied=how.tied, tell=tell,
        )  # fmt: skip
        nodes = {each.layer for each in others.outcomes}
        left = [each for each in left if each.layer not in nodes]
    if not targets and not others.masks:
        left += others.outcomes
        none = "no layer multiplies with a stored weight"
        why = f"{left[0].layer}: {left[0].reason}" if left else none
        raise OnnxpruneError(
            f"no weight of the model can be thinned: {why}",
            hint="ask for another pattern, or take back the --skip that leaves layers alone",
        )
    lost = counts(model, targets, asked, list(batches), facts or {}, how, tell)
    run = Layerwise(
        model, work, targets, batches, facts or {}, how.sample,
        provider=how.provider, threads=how.threads,
    )  # fmt: skip
    outcomes = [*left, *others.outcomes]
    masks = dict(others.masks)
    for number, (target, count) in enumerate(zip(targets, lost, strict=True), start=1):
        tell(f"thinning layer {number} of {len(targets)}: {target.node}")
        outcome, keep = sparsify_layer(run, target, asked, count, how)
        outcomes.append(outcome)
        masks[target.weight] = pack(target.stored(keep))
    return Sparse(work, masks, tuple(outcomes), tuple(targets), others.check)
