"""Opening a model and its data, and deciding what goes."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

from threadpoolctl import threadpool_limits

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.data.activations.groups import block_importance
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.equivalence import Verdict
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.plan import Origin, Plan, versions
from onnxprune.graph.units import Block
from onnxprune.jobs.apply_plan import Pruned, carry_out
from onnxprune.jobs.run import BLAS, Run
from onnxprune.select.allocate import Limits
from onnxprune.select.importance.error_curves import Curves
from onnxprune.select.importance.measured import swept_curves
from onnxprune.select.latency.budget import backend_of, one_sample, reach, result
from onnxprune.select.selection import Selection, select

_NEAR = 0.03
"""Difference between the ratio asked for and the one reached that is worth a note."""


def by_clock(run: Run, curves: Curves | None = None) -> Pruned:
    """Plans are cut and measured until the latency is the wanted one; then the last is finished.

    Args:
        run: its target limits latency.
        curves: damage curves, where they are known already.

    Raises:
        OnnxpruneError: the criterion needs data, or the backend does not take the model.
    """
    config, analysis, fit = run.config, run.analysis, run.data.fit
    bypassed = bypassed_blocks(run)
    if config.sensitivity is not None and curves is None:
        curves = swept_curves(analysis, config)
    feeds = one_sample(analysis, run.data.probe[0], config.shapes)
    with threadpool_limits(BLAS, "blas"):
        reached = reach(
            analysis, config, limits_of(run), fit, feeds, bypassed, run.progress, curves
        )
    with reached.stopwatch:
        plan, notes = plan_of(run, reached.selection, bypassed)
        made = carry_out(run, plan, notes, anew=True)
        run.progress("measuring what the result takes")
        found = result(reached, made.model, config)
    return replace(
        made,
        verdict=Verdict((*made.verdict.checks, found.check)),
        notes=(*made.notes, *reached.notes, found.note),
        latency=found.compared,
    )


def make_plan(run: Run, curves: Curves | None = None) -> tuple[Plan, list[str]]:
    """Decide what goes.

    Args:
        run: how much, and how.
        curves: damage curves, where they are known already.

    Returns:
        The plan, and whole sentences on what was declined and why.

    Raises:
        OnnxpruneError: the criterion needs data, or the budget cannot be met.
    """
    config, analysis = run.config, run.analysis
    bypassed = bypassed_blocks(run)
    with threadpool_limits(BLAS, "blas"):
        if config.sensitivity is not None and curves is None:
            curves = swept_curves(analysis, config)
        chosen = (
            select(analysis, config, limits_of(run), run.data.fit, bypassed, run.progress, curves)
            if config.removes_units
            else Selection({}, "", config.allocation or "uniform", {})
        )
    return plan_of(run, chosen, bypassed)


def plan_of(run: Run, chosen: Selection, bypassed: tuple[str, ...]) -> tuple[Plan, list[str]]:
    """The plan for what was chosen, and what is to be said about it."""
    config, analysis = run.config, run.analysis
    plan = Plan(
        removed=chosen.removed,
        units={g.name: len(g) for g in analysis.groups},
        bypassed=(*bypassed, *chosen.bypassed),
        origin=Origin(
            structure=models.structure_hash(analysis.model),
            criterion=chosen.criterion if config.sensitivity is None else "sensitivity",
            allocation=chosen.allocation,
            budget=_budget_text(config),
            seed=config.seed,
            versions=versions(),
            calibration=run.data.description,
        ),
    )
    notes = [f"{name}: {why}" for name, why in chosen.declined.items()]
    return plan, notes + _rounded(analysis, config, chosen) + [*run.data.notes]


def _rounded(analysis: Analysis, config: Options, chosen: Selection) -> list[str]:
    """Say so where rounding to fast widths took the result away from the ratio asked for."""
    free = [g for g in analysis.groups if g.name not in chosen.declined]
    if config.ratio is None or not free:
        return []
    gone = sum(len(chosen.removed.get(g.name, ())) for g in free) / sum(map(len, free))
    if abs(gone - config.ratio) < _NEAR:
        return []
    what = f"{gone:.0%} of the units went where {config.ratio:.0%} was asked for"
    return [f"{what}, because widths are rounded to fast ones (--round-to 1 does not)"]


def limits_of(run: Run) -> Limits:
    """Which groups the options allow to be cut, and how far."""
    config, analysis = run.config, run.analysis
    names = [b.name for b in analysis.blocks] + list(analysis.constants)
    skip = tuple(
        g
        for g in config.skip
        if any(fnmatchcase(x.name, g) for x in analysis.groups)
        or not any(fnmatchcase(n, g) for n in names)
    )
    kinds = {}
    if config.heads is not None:
        kinds = {k: config.heads for k in ("head", "kv-group") if _has(analysis, k)}
        if not kinds:
            raise OnnxpruneError(
                "--heads asks for attention heads, and the model has none that can be removed",
                hint="see `onnxprune inspect`, which says what stays and why",
            )
    return Limits(
        max_ratio=config.max_ratio,
        allow_inexact=config.allow_inexact,
        kinds=kinds,
        ratios=config.ratios,
        skip=skip,
    )


def _has(analysis: Analysis, kind: str) -> bool:
    return any(g.kind == kind for g in analysis.groups)


def bypassed_blocks(run: Run) -> tuple[str, ...]:
    """The ``--blocks N`` residual branches whose bypass changes least."""
    config, analysis = run.config, run.analysis
    if not config.blocks:
        return ()
    allowed = [b for b in analysis.blocks if not any(fnmatchcase(b.name, g) for g in config.skip)]
    if config.blocks > len(allowed):
        raise OnnxpruneError(
            f"--blocks {config.blocks} asks for more than the {len(allowed)} that can be bypassed",
            hint="see the blocks that `onnxprune inspect` lists",
        )
    feeds = run.data.fit or run.data.holdout
    importance = block_importance(analysis, allowed, feeds, config.provider)
    order = sorted(allowed, key=lambda b: importance[b.name])
    return _disjoint(order, config.blocks)


def _disjoint(order: list[Block], wanted: int) -> tuple[str, ...]:
    """The first blocks in order that do not lie inside one another."""
    taken: list[Block] = []
    for block in order:
        inside = any(set(block.nodes) & set(t.nodes) for t in taken)
        if not inside and len(taken) < wanted:
            taken.append(block)
    return tuple(b.name for b in taken)


def _budget_text(config: Options) -> str:
    if config.target is not None and config.target.kind == "latency":
        return str(replace(config.target, backend=backend_of(config).name))
    if config.target is not None:
        return str(config.target)
    parts = {"ratio": config.ratio, "heads": config.heads, "blocks": config.blocks or None}
    return ", ".join(f"{k}={v:g}" for k, v in parts.items() if v is not None)
