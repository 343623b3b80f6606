"""Sparsity in a run: zeros chosen anew, or as a plan says, in the cut model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.data.activations.rows import Sample
from onnxprune.data.memory import budget_of
from onnxprune.errors import OnnxpruneError, spelled, stated, suggest_glob
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.layers.epilogue import Weights
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.graph.plan import Plan, check
from onnxprune.jobs.run import Run
from onnxprune.jobs.steps import State, step
from onnxprune.quantities import percent
from onnxprune.recovery.sparse_refit import refit_masked
from onnxprune.sparse import sparsify as sparsification
from onnxprune.sparse import zeros
from onnxprune.sparse.reorder import find_orders, reorder_safely
from onnxprune.sparse.rows import ROWS, norms_of
from onnxprune.sparse.sparsify import Settings
from onnxprune.sparse.targets import excluded_weights, find_targets
from onnxprune.types import Check

NOT_FASTER = (
    "zeros inside dense weights make neither onnxruntime faster nor the file smaller: that takes "
    "kernels for sparse weights (2:4 on recent NVIDIA GPUs), or a form that stores them (--store)"
)


@step("layer")
def sparsify(run: Run, state: State) -> State:
    """Set weights of the cut model to zero, as the options say, and refit the others.

    Raises:
        OnnxpruneError: no weight can be made sparse, or a glob to skip matches nothing.
    """
    config, dense, fit, progress = run.config, run.analysis, run.data.fit, run.progress
    if config.sparsity is None:
        return state
    model, plan = state.model, state.plan
    _check_globs(config.skip, dense)
    analysis = _analysis_of(run, state)
    checks: list[Check] = []
    notes = [spelled(NOT_FASTER)] if config.store == "dense" else []
    exclude = excluded_weights(
        model, small=config.skip_small, first=config.skip_first, last=config.skip_last
    )
    if config.permute:
        progress("looking for a better order of the units")
        targets, _ = find_targets(model, config.sparsity, config.skip, exclude)
        most = budget_of(config).values
        norms = norms_of(model, targets, fit, config.provider, most) if fit else {}
        orders = find_orders(
            analysis, targets, _importance(model, norms), config.sparsity.n, config.sparsity.m
        )
        reordering = reorder_safely(analysis, orders[0], run.data.probe, config.provider)
        model, plan = reordering.model, replace(plan, reordered=reordering.orders)
        checks += [reordering.check] if reordering.check is not None else []
        stayed = orders[1] | dict(reordering.declined)
        notes += [f"{name} keeps its order: {why}" for name, why in stayed.items()]
        for name in reordering.orders:
            before, after = orders[2][name]
            gain = f"{percent(after)} of the importance of its weights instead of {percent(before)}"
            notes.append(f"{name} is reordered: {config.sparsity} keeps {gain}")
    settings = Settings(
        method=config.sparse_method,
        allocation=config.sparse_allocation or ("sensitivity" if fit else "per-tensor"),
        refit="pcg" if config.recover == "auto" else config.recover,
        skip=config.skip,
        exclude=exclude,
        tied=config.tied,
        sample=Sample(rows=ROWS, seed=config.seed, memory=budget_of(config)),
        provider=config.provider,
    )
    sparse = sparsification.sparsify(
        model, config.sparsity, fit, analysis.facts, settings, progress
    )
    if sparse.targets and fit:
        checks += zeros.checks(sparse.model, sparse.targets, config.sparsity)
    checks += [sparse.check] if sparse.check is not None else []
    method = next(each.method for each in sparse.outcomes if each.method)
    origin = replace(
        plan.origin,
        criterion=", ".join(filter(None, (plan.origin.criterion, method))),
        budget=", ".join(filter(None, (plan.origin.budget, f"sparsity={config.sparsity}"))),
    )
    plan = replace(plan, zeroed=sparse.masks, origin=origin)
    return state.then(sparse.model, plan, checks=checks, notes=notes, zeros=sparse.outcomes)


@step("layer")
def restore_zeros(run: Run, state: State) -> State:
    """Reorder and zero what the plan says; with data, refit the weights that stay.

    Raises:
        OnnxpruneError: the plan knows weights or groups that the model has not.
    """
    plan, config = state.plan, run.config
    if plan.reordered:
        analysis = _analysis_of(run, state)
        reordering = reorder_safely(analysis, plan.reordered, run.data.probe, config.provider)
        if reordering.declined:
            name, why = next(iter(reordering.declined.items()))
            raise OnnxpruneError(f"the plan's order of group '{name}' does not fit: {why}")
        state = state.then(
            reordering.model, checks=[reordering.check] if reordering.check is not None else []
        )
    if not plan.zeroed:
        return state
    check(Plan(zeroed=plan.zeroed), "", (), shapes=zeros.shapes(state.model))
    model, short = zeros.zero_streamed(state.model, plan.zeroed)
    notes = [spelled(NOT_FASTER)] if config.store == "dense" else []
    dense, state = state.model, state.then(model, checks=[short], notes=notes)
    return _refit(run, state, dense) if run.data.fit and config.recover != "none" else state


@step("layer")
def refit_zeros(run: Run, state: State) -> State:
    """Refit the weights that stay between the zeros that a model came with."""
    if not state.plan.zeroed:
        return state
    return _refit(run, state, state.model if state.cut else run.analysis.model)


def _refit(run: Run, state: State, dense: models.Model) -> State:
    """Fit the weights between the zeros to what a model without zeros computes."""
    config, analysis = run.config, run.analysis
    facts = analyse(state.model, inputs=analysis.inputs[0]).facts if state.cut else analysis.facts
    model, outcomes = refit_masked(
        dense,
        zeros.zero(state.model, state.plan.zeroed),
        {name: mask.unpack() for name, mask in state.plan.zeroed.items()},
        run.data.fit,
        facts,
        only_bias=config.recover == "bias",
        seed=config.seed,
        memory=budget_of(config),
        provider=config.provider,
        progress=run.progress,
    )
    return state.then(model, zeros=outcomes)


def _analysis_of(run: Run, state: State) -> Analysis:
    """The analysis of the cut model: the dense one's with its weights, if nothing was cut."""
    if state.cut:
        return analyse(state.model, inputs=run.analysis.inputs[0])
    return replace(run.analysis, model=state.model)


def _importance(
    model: models.Model, norms: Mapping[str, npt.NDArray[np.float64]]
) -> Callable[[LinearLayer], npt.NDArray[np.float64]]:
    """Importance of weights for reordering: their size, times the norm of their inputs."""
    weights = Weights(model)

    def importance(layer: LinearLayer) -> npt.NDArray[np.float64]:
        size = np.abs(weights.read(layer)[0])
        norm = norms.get(layer.weight)
        return size if norm is None else size * norm[:, :, None]

    return importance


def _check_globs(skip: Sequence[str], dense: Analysis) -> None:
    """Refuse a glob that matches neither a weight nor a group nor a block."""
    names = [*dense.constants, *(g.name for g in dense.groups), *(b.name for b in dense.blocks)]
    for glob in skip:
        if not any(fnmatchcase(name, glob) for name in names):
            raise OnnxpruneError(
                f"{stated('--skip', glob)} matches no weight, group or block",
                hint=suggest_glob(glob, names, "`onnxprune inspect` lists groups and blocks"),
            )
