"""The main job, start to end: load, analyse, score, allocate, cut, prove, compare."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onnxprune import model as models
from onnxprune.config import Options, from_flags
from onnxprune.graph.plan import Plan, check
from onnxprune.jobs.apply_plan import Pruned, Tell, carry_out
from onnxprune.jobs.choose_plan import (
    by_clock,
    bypassed_blocks,
    limits_of,
    make_plan,
    plan_of,
    prepare,
)
from onnxprune.jobs.iterative import in_steps
from onnxprune.jobs.search import search


def prune(
    source: Any,  # noqa: ANN401  # everything models.load takes
    options: Options | None = None,
    *,
    tell: Tell = lambda _: None,
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
    asked = options or from_flags(flags)
    analysis, inputs = prepare(source, asked, tell)
    if asked.searches:
        return search(analysis, inputs, asked, tell)
    if asked.target is not None and asked.target.kind == "latency":
        return by_clock(analysis, inputs, asked, tell)
    if asked.steps > 1:
        limits, fit = limits_of(analysis, asked), inputs.parts(analysis)[0]
        bypassed = bypassed_blocks(analysis, asked, fit)
        found = in_steps(analysis, asked, limits, inputs, bypassed, tell)
        plan, notes = plan_of(analysis, asked, inputs, found.chosen, bypassed, fit)
        notes += found.history
        return carry_out(analysis, plan, asked, inputs, notes, tell, anew=True, start=found.start)
    plan, notes = make_plan(analysis, asked, inputs, tell)
    return carry_out(analysis, plan, asked, inputs, notes, tell, anew=True)


def replay(
    source: Any,  # noqa: ANN401  # everything models.load takes
    plan: Plan,
    options: Options | None = None,
    *,
    tell: Tell = lambda _: None,
) -> Pruned:
    """Apply a plan to a model of the same graph, and prove the result.

    Raises:
        OnnxpruneError: the plan was made for another graph.
    """
    asked = options or Options()
    analysis, inputs = prepare(source, asked, tell)
    units = replace(plan, zeroed={})  # masks are for what the cut leaves
    check(units, models.structure_hash(analysis.model), analysis.groups, analysis.blocks)
    return carry_out(analysis, plan, asked, inputs, [], tell, anew=False)
