"""The main job, start to end: load, analyse, choose, cut, check, recover, compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from onnxprune import model as models
from onnxprune.config import AMOUNTS, NO_AMOUNT, FilePath, Options, split
from onnxprune.errors import OnnxpruneError, as_path
from onnxprune.graph.plan import Plan, check, load_plan
from onnxprune.jobs.apply_plan import APPLY, apply_plan
from onnxprune.jobs.choose_plan import PlanChoice, by_importance, by_latency, split_interface
from onnxprune.jobs.iterative import by_steps
from onnxprune.jobs.keywords import keywords
from onnxprune.jobs.result import Result, released
from onnxprune.jobs.run import Progress, Run, open_run, reproducible
from onnxprune.jobs.search import search

STRATEGIES: Mapping[str, Callable[[Run], PlanChoice]] = {
    "ratio": by_importance,
    "budget": by_importance,
    "latency": by_latency,
    "steps": by_steps,
}
"""Strategies that choose a plan. ``search`` stands above them: it compares whole results."""


@keywords("prune")
@reproducible
@np.errstate(over="ignore", invalid="ignore")  # such values end in a verdict or refusal
def prune(
    model: models.ModelLike,
    options: Options | None = None,
    *,
    progress: Progress = lambda _: None,
    **fields: object,
) -> Result:
    """Remove what costs least, and check that nothing else changed.

    Args:
        model: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
        options: what to remove and how; or give the same as keywords
            (``prune(path, ratio=0.3, calib=batches)``).
        progress: called with a line of text at each stage.
        fields: the options by name, instead of ``options``.

    Raises:
        OnnxpruneError: the model, the options or the data cannot be used, or the budget cannot be
            met.

    Example:
        >>> from onnxprune.data import zoo
        >>> result = prune(zoo.get("digits_mlp").model, ratio=0.25)
        >>> result.ok, result.remaining.params < result.dense.params
        (True, True)
    """
    config = split("prune", fields, options)[0]
    if options is None and config.asks_for_nothing and not config.searches:
        raise OnnxpruneError(NO_AMOUNT, hint=AMOUNTS)
    run = open_run(model, config, progress, chooses=config.searches)
    if config.searches:
        return released(search(run), config, run.narrowing)
    choice = choose_plan(run)
    if config.interface:
        run, choice = split_interface(run, choice)
    return released(apply_plan(run, choice), config, run.narrowing)


def choose_plan(run: Run) -> PlanChoice:
    """Choose a plan by the strategy of the options."""
    config = run.config
    name = "ratio" if config.target is None else "budget"
    if config.target is not None and config.target.timed:
        name = "latency"
    elif config.steps > 1:
        name = "steps"
    return STRATEGIES[name](run)


@keywords("apply")
@reproducible
@np.errstate(over="ignore", invalid="ignore")  # such values end in a verdict or refusal
def apply(
    model: models.ModelLike,
    plan: Plan | FilePath,
    options: Options | None = None,
    *,
    progress: Progress = lambda _: None,
    **fields: object,
) -> Result:
    """Apply a plan to a model of the same graph, and check the result.

    Args:
        model: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
        plan: the units, blocks and weights to remove, or the file of a plan.
        options: samples and recovery.
        progress: called with a line of text at each stage.
        fields: the options by name, instead of ``options``.

    Raises:
        OnnxpruneError: the plan was made for another graph.

    Example:
        >>> from onnxprune.data import zoo
        >>> model = zoo.get("digits_mlp").model
        >>> plan = prune(model, ratio=0.25).plan
        >>> apply(model, plan).ok
        True
    """
    if isinstance(plan, Plan):
        ready = plan
    else:
        ready = load_plan(as_path(plan, "plan", "give a Plan, or the path of its file"))
    config = split("apply", fields, options)[0]
    run = open_run(model, config, progress, interface=ready.interface)
    analysis = run.analysis
    units = replace(ready, zeroed={})  # masks are for what the cut leaves
    check(units, models.structure_hash(analysis.model), analysis.groups, analysis.blocks)
    result = apply_plan(run, PlanChoice(ready, notes=run.data.notes), APPLY)
    return replace(released(result, config, run.narrowing), command="apply")
