"""Single weights in a run: thinned anew, or as a plan says, in what the cut has left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.data.activations.rows import Sample
from onnxprune.data.dataset import Inputs
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.equivalence import Check
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.layers.epilogue import Weights
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.graph.plan import Plan, check
from onnxprune.sparse import zeros
from onnxprune.sparse.reorder import find_orders, reorder_safely
from onnxprune.sparse.rows import ROWS, Feeds, norms_of
from onnxprune.sparse.sparsify import Settings, Sparse, Thinned, sparsify
from onnxprune.sparse.targets import find_targets, left_dense
from onnxprune.train.distill import Settings as Training
from onnxprune.train.distill import distil

Tell = Callable[[str], None]

NOT_FASTER = (
    "zeros inside dense weights make neither onnxruntime faster nor the file smaller: that takes "
    "kernels for sparse weights (2:4 on recent NVIDIA GPUs), or a form that stores them (--store)"
)


@dataclass(frozen=True, eq=False)
class Stage:
    """What became of single weights.

    Attributes:
        model: a new one.
        plan: the plan with orders and masks.
        outcomes: one per weight that is, or might have been, thinned.
        checks: that outputs survived reordering, and that zeros are what was asked.
        notes: whole sentences.
    """

    model: models.Model
    plan: Plan
    outcomes: tuple[Thinned, ...] = ()
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()


def thin(
    model: models.Model,
    dense: Analysis,
    plan: Plan,
    asked: Options,
    inputs: Inputs,
    fit: Sequence[Feeds],
    tell: Tell,
) -> Stage:
    """Set weights of what the cut has left to zero, as the options ask.

    Args:
        model: the cut model; it is left as it is.
        dense: the analysis of the model before the cut.
        plan: what was cut.
        asked: the options.
        inputs: where feeds come from.
        fit: feeds that may be fitted to; empty without data.
        tell: hears the progress.

    Raises:
        OnnxpruneError: no weight can be thinned, or a glob to skip matches nothing.
    """
    if asked.sparsity is None:
        return Stage(model, plan)
    _check_globs(asked.skip, dense)
    analysis = _analysis_of(model, dense, plan)
    checks: list[Check] = []
    notes = [NOT_FASTER] if asked.store == "dense" else []
    leave = left_dense(model, small=asked.skip_small, first=asked.skip_first, last=asked.skip_last)
    if asked.permute:
        tell("looking for a better order of the units")
        targets, _ = find_targets(model, asked.sparsity, asked.skip, leave)
        norms = norms_of(model, targets, fit, asked.provider) if fit else {}
        found = find_orders(
            analysis, targets, _worth(model, norms), asked.sparsity.n, asked.sparsity.m
        )
        done = reorder_safely(analysis, found[0], inputs.proof(analysis), asked.provider)
        model, plan = done.model, replace(plan, reordered=done.orders)
        checks += [done.check] if done.check is not None else []
        stayed = found[1] | dict(done.declined)
        notes += [f"{name} keeps its order: {why}" for name, why in stayed.items()]
        for name in done.orders:
            before, after = found[2][name]
            gain = f"{after:.1%} of its weights' worth instead of {before:.1%}"
            notes.append(f"{name} is reordered: {asked.sparsity} keeps {gain}")
    settings = Settings(
        method=asked.sparse_method,
        spread=asked.sparse_allocation or ("sensitivity" if fit else "per-tensor"),
        refit="pcg" if asked.recover == "auto" else asked.recover,
        skip=asked.skip,
        leave=leave,
        tied=asked.tied,
        sample=Sample(rows=ROWS, seed=asked.seed),
        provider=asked.provider,
    )
    made = sparsify(model, asked.sparsity, fit, analysis.facts, settings, tell)
    if made.targets:
        checks += zeros.checks(made.model, made.targets, asked.sparsity)
    checks += [made.check] if made.check is not None else []
    small = made.model
    if asked.recover == "auto" and fit and made.masks:
        small, said = _trained(dense.model, made, fit, asked, tell)
        notes.append(said)
    how = next(each.method for each in made.outcomes if each.method)
    origin = replace(
        plan.origin,
        criterion=", ".join(filter(None, (plan.origin.criterion, how))),
        budget=", ".join(filter(None, (plan.origin.budget, f"sparsity={asked.sparsity}"))),
    )
    plan = replace(plan, zeroed=made.masks, origin=origin)
    return Stage(small, plan, made.outcomes, tuple(checks), tuple(notes))


def _trained(
    dense: models.Model, made: Sparse, fit: Sequence[Feeds], asked: Options, tell: Tell
) -> tuple[models.Model, str]:
    """The thinned model trained as a whole, and a sentence about that."""
    keep = {name: mask.unpack() for name, mask in made.masks.items()}
    how = Training(seed=asked.seed, provider=asked.provider)
    done = distil(dense, made.model, keep, fit, how, tell)
    if done.reason:
        return made.model, f"what is left was not trained as a whole: {done.reason}"
    if not done.steps:
        return made.model, "training what is left as a whole did not help on held-out inputs"
    return done.model, (
        f"what is left was trained as a whole for {done.steps} steps: its outputs on held-out "
        f"inputs are {done.after:.0%} as far from the original's as after refitting every layer"
    )


def restore(
    model: models.Model, dense: Analysis, plan: Plan, asked: Options, inputs: Inputs
) -> Stage:
    """Reorder and zero what a plan says, in a model that was cut as it says.

    Raises:
        OnnxpruneError: the plan knows weights or groups that the model has not.
    """
    checks: list[Check] = []
    if plan.reordered:
        analysis = _analysis_of(model, dense, plan)
        done = reorder_safely(analysis, plan.reordered, inputs.proof(analysis), asked.provider)
        if done.declined:
            name, why = next(iter(done.declined.items()))
            raise OnnxpruneError(f"the plan's order of group '{name}' does not fit: {why}")
        model = done.model
        checks += [done.check] if done.check is not None else []
    if not plan.zeroed:
        return Stage(model, plan, checks=tuple(checks))
    check(Plan(zeroed=plan.zeroed), "", (), shapes=zeros.shapes(model))
    made = zeros.zero(model, plan.zeroed)
    asked_for = sum(mask.size - mask.kept for mask in plan.zeroed.values())
    share = asked_for / max(sum(mask.size for mask in plan.zeroed.values()), 1)
    short = max(share - zeros.share_of_zeros(made, plan.zeroed), 0.0)
    checks.append(Check("zeros short of the plan's", short == 0.0, short, 0.0))
    return Stage(
        made, plan, checks=tuple(checks), notes=(NOT_FASTER,) if asked.store == "dense" else ()
    )


def _analysis_of(model: models.Model, dense: Analysis, plan: Plan) -> Analysis:
    """The analysis of the cut model: the dense one's with its weights, if nothing was cut."""
    if plan.removed or plan.bypassed:
        return analyse(model, inputs=dense.inputs[0])
    return replace(dense, model=model)


def _worth(
    model: models.Model, norms: Mapping[str, npt.NDArray[np.float64]]
) -> Callable[[LinearLayer], npt.NDArray[np.float64]]:
    """What weights are worth when an order is looked for: their size, times what they multiply."""
    weights = Weights(model)

    def worth(layer: LinearLayer) -> npt.NDArray[np.float64]:
        size = np.abs(weights.read(layer)[0])
        norm = norms.get(layer.weight)
        return size if norm is None else size * norm[:, :, None]

    return worth


def _check_globs(skip: Sequence[str], dense: Analysis) -> None:
    """Refuse a glob that matches neither a weight nor a group nor a block."""
    known = [*dense.constants, *(g.name for g in dense.groups), *(b.name for b in dense.blocks)]
    for glob in skip:
        if not any(fnmatchcase(name, glob) for name in known):
            raise OnnxpruneError(
                f"--skip {glob} matches no weight, group or block",
                hint="see the names that `onnxprune inspect` lists",
            )
