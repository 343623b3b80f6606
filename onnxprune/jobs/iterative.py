"""Pruning in steps: remove a little, recover, measure again, remove on.

What a unit is worth changes with what is gone and with how the rest was refitted. So the way to the
amount asked for is cut into steps; after each the model is refitted to the dense one and damage is
measured anew, on what is left. What comes out is one plan over the units of the dense model, and
the weights that the last step leaves for recovery to start from.

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
    """Choose what goes step by step, refitting what is left in between.

    Args:
        run: its options' ``steps`` and ``schedule`` say how.

    Returns:
        All that goes, the weights that earlier steps were refitted to, and a sentence for every
        step but the last, which is reported as a whole.

    Raises:
        OnnxpruneError: the amounts cannot be met, or the inputs are made up.
    """
    config, analysis, data = run.config, run.analysis, run.data
    limits, bypassed = limits_of(analysis, config), bypassed_blocks(run)
    if not data.fit:
        raise OnnxpruneError(
            f"--steps {config.steps} refits to the inputs, and made-up ones are not worth it",
            hint="give real inputs with --calib",
        )
    costs, remaining = CostModel(analysis), Remaining(analysis)
    history: list[str] = []
    dense = costs()
    for number, share in enumerate(progress(config.steps, config.schedule), start=1):
        stage = f"step {number} of {config.steps}"
        run.progress(f"{stage}: choosing what goes")
        some, rails = part_of(config, limits, share, costs)
        chosen, small = _taken(replace(run, config=some), rails, bypassed, remaining)
        if share == 1:
            choice = planned(run, chosen, bypassed)
            return replace(choice, notes=(*choice.notes, *history), start=small)
        removed = (*bypassed, *chosen.bypassed)
        plan = Plan(removed=chosen.removed, bypassed=removed)
        small = refit(run, State(small, plan, small)).model
        remaining = Remaining(analyse(small, inputs=analysis.inputs[0]), chosen.removed, removed)
        cost = costs(chosen.removed, removed)
        evaluation = compare_models(analysis.model, small, data.eval, config)
        history.append(
            f"{stage}: {percent(cost.macs / max(dense.macs, 1))} of the MACs and "
            f"{percent(cost.params / max(dense.params, 1))} of the parameters left, "
            f"{distance_of(evaluation)}"
        )
    raise AssertionError("the last step takes all that is left to take")


def _taken(
    run: Run, limits: Limits, bypassed: Sequence[str], remaining: Remaining
) -> tuple[Selection, models.Model]:
    """All that is gone after one more step, and what is left without it, not refitted yet."""
    config, analysis = run.config, run.analysis
    before = [name for name in remaining.bypassed if name not in bypassed]
    if config.max_blocks is not None:
        config = replace(config, max_blocks=config.max_blocks - len(before))
    with threadpool_limits(BLAS, "blas"):
        chosen = select(
            Problem(
                analysis, config, limits, run.data.fit, (*bypassed, *before), run.progress,
                remaining=remaining,
            )
        )  # fmt: skip
    chosen = replace(chosen, bypassed=(*before, *chosen.bypassed))
    small = cut(
        remaining.analysis,
        remaining.newly_removed(chosen.removed, analysis.groups),
        [b for b in (*bypassed, *chosen.bypassed) if b not in remaining.bypassed],
    )
    return chosen, small


def progress(steps: int, schedule: Schedule) -> list[float]:
    """How much of all that is to go is gone after each step; the last is 1."""
    done = np.arange(1, steps + 1) / steps
    shares: list[float] = (done if schedule == "linear" else 1 - (1 - done) ** 3).tolist()
    return shares


def part_of(
    config: Options, limits: Limits, share: float, costs: CostModel
) -> tuple[Options, Limits]:
    """What is asked for when a share of all that is to go is to be gone."""
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
