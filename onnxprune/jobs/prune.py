"""The main job, start to end: load, analyse, score, allocate, cut, prove, compare."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onnxprune import model as models
from onnxprune.config import Options, from_flags
from onnxprune.graph.plan import Plan, check
from onnxprune.jobs.apply_plan import Pruned, carry_out
from onnxprune.jobs.choose_plan import (
    by_clock,
    bypassed_blocks,
    limits_of,
    make_plan,
    plan_of,
)
from onnxprune.jobs.iterative import in_steps
from onnxprune.jobs.run import Progress, open_run
from onnxprune.jobs.search import search


def prune(
    source: Any,  # noqa: ANN401  # everything models.load takes
    options: Options | None = None,
    *,
    tell: Progress = lambda _: None,
    **flags: object,
) -> Pruned:
    """Remove what costs least, and prove that nothing else changed.

    Args:
        source: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
        options: what to remove and how; or give the same as keywords
            (``prune(path, ratio=0.3, calib=batches)``).
        tell: hears the progress.
        flags: the options by name, instead of ``options``.

    Raises:
        OnnxpruneError: the model, the options or the data cannot be used, or the budget cannot be
            met.
    """
    config = options or from_flags(flags)
    run = open_run(source, config, tell, chooses=config.searches)
    if run.config.searches:
        return search(run)
    if run.config.target is not None and run.config.target.kind == "latency":
        return by_clock(run)
    if run.config.steps > 1:
        bypassed = bypassed_blocks(run)
        found = in_steps(run, limits_of(run), bypassed)
        plan, notes = plan_of(run, found.chosen, bypassed)
        return carry_out(run, plan, [*notes, *found.history], anew=True, start=found.start)
    plan, notes = make_plan(run)
    return carry_out(run, plan, notes, anew=True)


def replay(
    source: Any,  # noqa: ANN401  # everything models.load takes
    plan: Plan,
    options: Options | None = None,
    *,
    tell: Progress = lambda _: None,
) -> Pruned:
    """Apply a plan to a model of the same graph, and prove the result.

    Raises:
        OnnxpruneError: the plan was made for another graph.
    """
    run = open_run(source, options or Options(), tell)
    analysis = run.analysis
    units = replace(plan, zeroed={})  # masks are for what the cut leaves
    check(units, models.structure_hash(analysis.model), analysis.groups, analysis.blocks)
    return carry_out(run, plan, [], anew=False)
