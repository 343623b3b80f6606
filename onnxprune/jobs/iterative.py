"""Pruning in steps: remove a little, recover, measure again, remove on.

The importance of a unit changes with every removal and refit. So the removal is divided into steps;
after each the model is refitted to the dense one and errors are measured anew, on the remaining
model. The result is one plan over the units of the dense model, and the weights of the last step,
from which recovery starts.

The cubic schedule takes most at first, while there is much to spare (Zhu and Gupta, "To prune, or
not to prune", 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from threadpoolctl import threadpool_limits

from onnxprune import model as models
from onnxprune.config import Options, Schedule
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.evaluation import compare_models
from onnxprune.graph.analysis import analyse
from onnxprune.graph.cost import CostModel
from onnxprune.graph.plan import Plan
from onnxprune.graph.surgery import cut
from onnxprune.jobs.apply_plan import distance_of, refit
from onnxprune.jobs.choose_plan import PlanChoice, bypassed_blocks, limits_of, planned
from onnxprune.jobs.run import BLAS, Run
from onnxprune.jobs.steps import State
from onnxprune.quantities import Budget, percent
from onnxprune.select.allocate import Limits
from onnxprune.select.importance.remaining import Remaining
from onnxprune.select.importance.units import Problem
from onnxprune.select.selection import Selection, select


def by_steps(run: Run) -> PlanChoice:
    """Choose what to remove step by step, with a refit after each.

    Args:
        run: its options hold ``steps`` and ``schedule``.

    Returns:
        All that goes, the weights that earlier steps were refitted to, and a sentence for every
        step but the last, which is reported as a whole.

    Raises:
        OnnxpruneError: the amounts cannot be met, or the inputs are synthetic.
    """
    config, analysis, data = run.config, run.analysis, run.data
    limits, bypassed = limits_of(analysis, config), bypassed_blocks(run)
    if not data.fit:
        raise OnnxpruneError(
            f"--steps {config.steps} refits between steps, which synthetic inputs do not allow",
            hint="give real inputs with --calib",
        )
    costs, remaining = CostModel(analysis), Remaining(analysis)
    history: list[str] = []
    dense = costs()
    for number, share in enumerate(progress(config.steps, config.schedule), start=1):
        stage = f"step {number} of {config.steps}"
        run.progress(f"{stage}: choosing what to remove")
        some, rails = part_of(config, limits, share, costs)
        selection, small = _select_step(replace(run, config=some), rails, bypassed, remaining)
        if share == 1:
            choice = planned(run, selection, bypassed)
            return replace(choice, notes=(*choice.notes, *history), start=small)
        removed = (*bypassed, *selection.bypassed)
        plan = Plan(removed=selection.removed, bypassed=removed)
        small = refit(run, State(small, plan, small)).model
        remaining = Remaining(analyse(small, inputs=analysis.inputs[0]), selection.removed, removed)
        cost = costs(selection.removed, removed)
        evaluation = compare_models(run.reference, small, data.eval, config)
        history.append(
            f"{stage}: {percent(cost.macs / max(dense.macs, 1))} of the MACs and "
            f"{percent(cost.params / max(dense.params, 1))} of the parameters remain, "
            f"{distance_of(evaluation)}"
        )
    raise AssertionError("the last step removes everything that remains to be removed")


def _select_step(
    run: Run, limits: Limits, bypassed: Sequence[str], remaining: Remaining
) -> tuple[Selection, models.Model]:
    """The selection after one more step, and the cut model, not refitted yet."""
    config, analysis = run.config, run.analysis
    before = [name for name in remaining.bypassed if name not in bypassed]
    if config.max_blocks is not None:
        config = replace(config, max_blocks=config.max_blocks - len(before))
    with threadpool_limits(BLAS, "blas"):
        selection = select(
            Problem(
                analysis, config, limits, run.data.fit, (*bypassed, *before), run.progress,
                remaining=remaining,
            )
        )  # fmt: skip
    selection = replace(selection, bypassed=(*before, *selection.bypassed))
    small = cut(
        remaining.analysis,
        remaining.newly_removed(selection.removed, analysis.groups),
        [b for b in (*bypassed, *selection.bypassed) if b not in remaining.bypassed],
    )
    return selection, small


def progress(steps: int, schedule: Schedule) -> list[float]:
    """The share of the whole removal that is done after each step; the last is 1."""
    done = np.arange(1, steps + 1) / steps
    shares: list[float] = (done if schedule == "linear" else 1 - (1 - done) ** 3).tolist()
    return shares


def part_of(
    config: Options, limits: Limits, share: float, costs: CostModel
) -> tuple[Options, Limits]:
    """The options and limits of a step that does a share of the whole removal."""
    if share >= 1:
        return config, limits
    target = config.target
    if target is not None:
        dense = costs().of(target.kind)
        limit = dense - share * max(dense - target.limit(dense), 0)
        target = Budget(target.kind, limit, relative=False)
    ratio = None if config.ratio is None else config.ratio * share
    kinds = {kind: each * share for kind, each in limits.kinds.items()}
    ratios = tuple((glob, each * share) for glob, each in limits.ratios)
    return replace(config, ratio=ratio, target=target), replace(limits, kinds=kinds, ratios=ratios)
