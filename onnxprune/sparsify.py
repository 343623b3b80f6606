"""Single weights set to zero, layer by layer, and those that stay refitted.

Front to back: each layer sees what the thinned layers before it really give it, and is to compute
what the dense model did (``sparse.rows``). Its weights are first aimed at that with none removed,
then a mask is found for them (``sparse.select``), then those that stay are refitted by conjugate
gradients on their support (``recover.pcg``), which is kept only if the error on held-out inputs
falls. The layer is written back before the next one is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.plan import PackedMask, pack
from onnxprune.recover.columns import affordable, refit_columns
from onnxprune.recover.gram import Moments, squared_error
from onnxprune.recover.layers import Merge, find_merge
from onnxprune.recover.obs import Pattern
from onnxprune.recover.pcg import RIDGES, refit_support
from onnxprune.recover.segments import Segments, ancestors
from onnxprune.shapes import Fact
from onnxprune.sparse import shares
from onnxprune.sparse.amount import Method, Sparsity, Spread
from onnxprune.sparse.probe import Probe
from onnxprune.sparse.rows import Feeds, Sample, moments_of, steadied
from onnxprune.sparse.select import aim, gram_of, scores_of, select
from onnxprune.sparse.weights import Left, Target, Weights, find_targets
from onnxprune.two_four import magnitude
from onnxprune.verify import Check

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Tell = Callable[[str], None]
Refit = Literal["none", "bias", "lstsq", "pcg"]


@dataclass(frozen=True)
class Settings:
    """How weights are thinned.

    Attributes:
        method: how masks are found; None is ``admm`` with data and ``magnitude`` without.
        spread: what competes with what; under N:M it has no meaning.
        refit: what becomes of the weights that stay: ``none``: nothing; ``bias``: nothing, only
            biases move; ``pcg``: conjugate gradients on the support; ``lstsq``: the same solved to
            the end, output by output, in layers that are small enough for it.
        iterations: of the conjugate gradients.
        skip: globs over names of weights that are left.
        leave: names of weights that are left, with the reason.
        sample: which rows are looked at.
        provider: what runs the models.
        threads: threads within an operator.
    """

    method: Method | None = None
    spread: Spread = "per-tensor"
    refit: Refit = "pcg"
    iterations: int = 20
    skip: tuple[str, ...] = ()
    leave: Mapping[str, str] = field(default_factory=dict)
    sample: Sample = field(default_factory=Sample)
    provider: str = "cpu"
    threads: int | None = None


@dataclass(frozen=True)
class Thinned:
    """What became of one weight.

    Attributes:
        weight: its name; empty where a node was declined before its weight was looked at.
        node: the layer that multiplies with it.
        shape: of the stored tensor.
        method: how its mask was found; empty if it was left.
        refit: what won on held-out inputs: ``none`` (left as masked), ``bias``, ``lstsq`` or
            ``pcg``.
        sparsity: the share of its entries that is masked.
        before: relative squared error of the layer's output on held-out inputs as masked; None
            without data.
        after: the same as it is now.
        reason: why it was left; empty if it was thinned.
    """

    weight: str
    node: str
    shape: tuple[int, ...] = ()
    method: str = ""
    refit: str = "none"
    sparsity: float = 0.0
    before: float | None = None
    after: float | None = None
    reason: str = ""


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
    outcomes: tuple[Thinned, ...]
    targets: tuple[Target, ...]
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
    others = magnitude.Thinned((), {}, None)
    if asked.m:
        # By size needs no algebra: without data it does everything, with data what that cannot.
        targets = targets if batches else []
        others = magnitude.thin(
            work, asked.n, asked.m, skip=how.skip, leave=how.leave,
            done={target.name for target in targets}, tell=tell,
        )  # fmt: skip
        nodes = {each.node for each in others.outcomes}
        left = [each for each in left if each.node not in nodes]
    if not targets and not others.masks:
        left += [Left(each.weight, each.node, each.reason) for each in others.outcomes]
        why = f": {left[0].node}: {left[0].reason}" if left else ""
        raise OnnxpruneError(f"no weight of the model can be thinned{why}")
    job = _Job(model, work, targets, list(batches), facts or {}, how)
    counts = job.counts(asked, tell)
    outcomes = [_left(each, work) for each in left] + [_by_size(each) for each in others.outcomes]
    masks = dict(others.masks)
    for number, (target, count) in enumerate(zip(targets, counts, strict=True), start=1):
        tell(f"thinning layer {number} of {len(targets)}: {target.layer.node}")
        outcome, keep = job.thin(target, asked, count)
        outcomes.append(outcome)
        masks[target.name] = pack(target.layer.stored(keep))
    return Sparse(work, masks, tuple(outcomes), tuple(targets), others.check)


class _Job:
    """The state of one run: the model being thinned, and both models as far as they have run."""

    def __init__(
        self,
        dense: models.Model,
        work: models.Model,
        targets: Sequence[Target],
        batches: list[Feeds],
        facts: Mapping[str, Fact],
        how: Settings,
    ) -> None:
        self._dense, self._batches, self._how = dense, batches, how
        self._targets = targets
        self._weights = Weights(work)
        self._values = {v.name or "": v for v in models.values(work.ir.graph)}
        self._waiting = {target.layer.node for target in targets}
        self._facts = facts
        run = {"provider": how.provider, "threads": how.threads}
        self._teacher = Segments(dense, batches, **run) if batches else None  # type: ignore[arg-type]
        self._student = Segments(work, batches, **run) if batches else None  # type: ignore[arg-type]

    def counts(self, asked: Sparsity, tell: Tell) -> list[int]:
        """How many entries each target loses; under N:M the pattern says it."""
        how = self._how
        sizes = [target.size for target in self._targets]
        if asked.m or how.spread in ("per-tensor", "per-row"):
            return shares.even(sizes, asked.share)
        if how.spread == "global" and not self._batches:
            scores = [scores_of("magnitude", self._weights.read(t)[0], None) for t in self._targets]
            return shares.by_scores(scores, asked.share)
        if not self._batches:
            raise OnnxpruneError(
                f"--sparse-allocation {how.spread} measures what each layer loses",
                hint="give inputs with --calib, or take --sparse-allocation global",
            )
        run = Segments(self._dense, self._batches, provider=how.provider, threads=how.threads)
        probe = Probe(self._dense, self._batches, how.provider)
        found: list[Float] = []
        for number, target in enumerate(self._targets, start=1):
            tell(f"measuring layer {number} of {len(self._targets)}: {target.layer.node}")
            merge = self._merge(target)
            run.advance([merge.value, target.layer.x])
            alone = replace(merge, skip=None)
            train, _ = moments_of(target, alone, run, run, self._batches, how.sample)
            weight, _ = self._weights.read(target, merge)
            variance = max(float(train.yy.sum()), float(np.finfo(np.float64).tiny))
            if how.spread == "global":
                xx = gram_of(train, free_bias=False)
                found.append(scores_of("wanda", weight, xx) / np.sqrt(variance))
                continue
            curve = shares.damage(target, weight, train, variance)
            if how.spread == "sensitivity":
                curve = curve * probe.weight_of(target, merge, weight, train, curve)
            found.append(curve)
        if how.spread == "global":
            return shares.by_scores(found, asked.share)
        return shares.by_damage(sizes, found, asked.share)

    def thin(self, target: Target, asked: Sparsity, count: int) -> tuple[Thinned, Bool]:
        """Thin one layer, write it back, and say what became of it."""
        self._waiting.discard(target.layer.node)
        method = self._how.method
        assert method is not None
        per_row = self._how.spread == "per-row"
        pattern = Pattern(count / target.size, asked.n, asked.m, per_output=per_row)
        done = Thinned(
            target.name, target.layer.node, self._weights.stored(target.name).shape, method
        )
        if self._teacher is None or self._student is None:
            weight, _ = self._weights.read(target)
            start, keep = select(target, method, weight, None, pattern)
            self._weights.write(target, keep, start)
            return replace(done, sparsity=1 - float(keep.mean())), keep
        merge = self._merge(target)
        if merge.skip is not None and self._waiting & ancestors(self._values[merge.skip]):
            merge = merge.alone  # the other summand is not final yet
        self._teacher.advance([merge.value])
        self._student.advance([target.layer.x] + ([merge.skip] if merge.skip else []))
        rows = moments_of(
            target, merge, self._teacher, self._student, self._batches, self._how.sample
        )
        refit, before, after, keep = self._fit(target, merge, rows, pattern)
        return replace(
            done, refit=refit, sparsity=1 - float(keep.mean()), before=before, after=after
        ), keep

    def _fit(
        self, target: Target, merge: Merge, rows: tuple[Moments, Moments], pattern: Pattern
    ) -> tuple[str, float, float, Bool]:
        train, held = rows
        method = self._how.method
        assert method is not None
        free = target.layer.bias_slot is not None
        weight, bias = self._weights.read(target, merge)
        train, held = steadied(train, weight), steadied(held, weight)
        refits = self._how.refit in ("lstsq", "pcg")
        wanted = aim(train, weight, bias, free_bias=free) if refits else weight
        start, keep = select(target, method, wanted, gram_of(train, free_bias=free), pattern)
        if self._how.refit == "none":
            self._weights.write(target, keep, self._weights.read(target)[0])
            error = squared_error(held, np.where(keep, weight, 0.0), bias).sum()
            relative = float(error) / max(float(held.yy.sum()), np.finfo(np.float64).tiny)
            return "none", relative, relative, keep
        if self._how.refit == "lstsq" and affordable(keep):
            found = refit_columns(train, held, weight, keep, bias, free_bias=free)
        else:
            found = refit_support(
                train, held, weight, keep, bias,
                ridges=RIDGES if refits else (), start=start if refits else weight,
                free_bias=free, iterations=self._how.iterations,
            )  # fmt: skip
        self._weights.write(target, keep, found.weight, found.bias if free else None, merge)
        kind = max(set(found.methods), key=found.methods.count)
        return kind, found.before, found.after, keep

    def _merge(self, target: Target) -> Merge:
        groups, _, outputs = target.shape
        return find_merge(self._values, self._facts, target.layer, groups * outputs)


def _by_size(each: magnitude.Outcome) -> Thinned:
    return Thinned(
        each.weight, each.node, each.shape, "" if each.reason else "magnitude",
        sparsity=each.sparsity, reason=each.reason,
    )  # fmt: skip


def _left(each: Left, model: models.Model) -> Thinned:
    value: ir.Value | None = models.constants(model).get(each.weight)
    tensor = None if value is None else models.constant(value)
    shape = () if tensor is None else tuple(int(n) for n in tensor.shape.numpy())
    return Thinned(each.weight, each.node, shape, reason=each.reason)
