"""Opening a model and its data, and deciding what goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from threadpoolctl import threadpool_limits

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.data.activations.groups import block_importance
from onnxprune.data.batches import count_samples
from onnxprune.data.dataset import HELD_OUT, Feeds, Inputs, open_inputs
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.equivalence import Verdict
from onnxprune.evaluate.metrics import find_metric
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.plan import Origin, Plan, versions
from onnxprune.graph.units import Block
from onnxprune.jobs.apply_plan import BLAS, Pruned, Tell, carry_out
from onnxprune.model.decode import densify
from onnxprune.runtime.registry import backend
from onnxprune.select.allocate import Limits
from onnxprune.select.importance.error_curves import Curves
from onnxprune.select.importance.measured import swept_curves
from onnxprune.select.latency.budget import backend_of, one_sample, reach, result
from onnxprune.select.selection import Selection, select

_NEAR = 0.03
"""Difference between the ratio asked for and the one reached that is worth a note."""


def prepare(source: Any, asked: Options, tell: Tell) -> tuple[Analysis, Inputs]:  # noqa: ANN401
    """Read a model, find what can be removed, and open the inputs that it is looked at with.

    Raises:
        OnnxpruneError: the model or the data cannot be used.
    """
    check_names(asked)
    tell("reading the model")
    model, _ = densify(models.load(source))
    inputs = open_inputs(model, asked)
    tell("finding what can be removed")
    analysis = analyse(model, inputs=inputs.shapes)
    return analysis, inputs.that_run(analysis, asked.provider)


def check_names(asked: Options) -> None:
    """Refuse a metric or a backend that no registry knows, before any work starts."""
    if isinstance(asked.metric, str) and ":" not in asked.metric:
        find_metric(asked.metric)
    if asked.target is not None and asked.target.backend:
        backend(asked.target.backend)


def by_clock(
    analysis: Analysis,
    inputs: Inputs,
    asked: Options,
    tell: Tell,
    curves: Curves | None = None,
) -> Pruned:
    """Plans are cut and measured until the latency is the wanted one; then the last is finished.

    Args:
        analysis: of the dense model.
        inputs: where feeds come from.
        asked: the options; their target limits latency.
        tell: hears the progress.
        curves: damage curves, where they are known already.

    Raises:
        OnnxpruneError: the criterion needs data, or the backend does not take the model.
    """
    fit, held = inputs.parts(analysis)
    limits = limits_of(analysis, asked)
    bypassed = bypassed_blocks(analysis, asked, fit or held)
    if asked.sensitivity is not None and curves is None:
        curves = swept_curves(analysis, asked)
    feeds = one_sample(analysis, inputs.proof(analysis)[0], asked.shapes)
    with threadpool_limits(BLAS, "blas"):
        reached = reach(analysis, asked, limits, fit, feeds, bypassed, tell, curves)
    with reached.stopwatch:
        plan, notes = plan_of(analysis, asked, inputs, reached.selection, bypassed, fit)
        made = carry_out(analysis, plan, asked, inputs, notes, tell, anew=True)
        tell("measuring what the result takes")
        found = result(reached, made.model, asked)
    return replace(
        made,
        verdict=Verdict((*made.verdict.checks, found.check)),
        notes=(*made.notes, *reached.notes, found.note),
        latency=found.compared,
    )


def make_plan(
    analysis: Analysis,
    asked: Options,
    inputs: Inputs,
    tell: Tell,
    curves: Curves | None = None,
) -> tuple[Plan, list[str]]:
    """Decide what goes.

    Args:
        analysis: of the dense model.
        asked: how much, and how.
        inputs: where feeds come from.
        tell: hears the progress.
        curves: damage curves, where they are known already.

    Returns:
        The plan, and whole sentences on what was declined and why.

    Raises:
        OnnxpruneError: the criterion needs data, or the budget cannot be met.
    """
    fit, held = inputs.parts(analysis)
    limits = limits_of(analysis, asked)
    bypassed = bypassed_blocks(analysis, asked, fit or held)
    with threadpool_limits(BLAS, "blas"):
        if asked.sensitivity is not None and curves is None:
            curves = swept_curves(analysis, asked)
        chosen = (
            select(analysis, asked, limits, fit, bypassed, tell, curves)
            if asked.removes_units
            else Selection({}, "", asked.allocation or "uniform", {})
        )
    return plan_of(analysis, asked, inputs, chosen, bypassed, fit)


def plan_of(
    analysis: Analysis,
    asked: Options,
    inputs: Inputs,
    chosen: Selection,
    bypassed: tuple[str, ...],
    fit: Sequence[Feeds],
) -> tuple[Plan, list[str]]:
    """The plan for what was chosen, and what is to be said about it."""
    plan = Plan(
        removed=chosen.removed,
        units={g.name: len(g) for g in analysis.groups},
        bypassed=(*bypassed, *chosen.bypassed),
        origin=Origin(
            structure=models.structure_hash(analysis.model),
            criterion=chosen.criterion if asked.sensitivity is None else "sensitivity",
            allocation=chosen.allocation,
            budget=_budget_text(asked),
            seed=asked.seed,
            versions=versions(),
            calibration=inputs.description,
        ),
    )
    notes = [f"{name}: {why}" for name, why in chosen.declined.items()]
    return plan, notes + _rounded(analysis, asked, chosen) + _few(inputs, fit)


def _rounded(analysis: Analysis, asked: Options, chosen: Selection) -> list[str]:
    """Say so where rounding to fast widths took the result away from the ratio asked for."""
    free = [g for g in analysis.groups if g.name not in chosen.declined]
    if asked.ratio is None or not free:
        return []
    gone = sum(len(chosen.removed.get(g.name, ())) for g in free) / sum(map(len, free))
    if abs(gone - asked.ratio) < _NEAR:
        return []
    what = f"{gone:.0%} of the units went where {asked.ratio:.0%} was asked for"
    return [f"{what}, because widths are rounded to fast ones (--round-to 1 does not)"]


def _few(inputs: Inputs, fit: Sequence[Feeds]) -> list[str]:
    """Say so where only a part of the calibration data could be held to fit to."""
    source = inputs.divided[0] if inputs.divided is not None else inputs.calibration
    known = source.samples if source is not None else None
    used = sum(map(count_samples, fit))
    if not fit or known is None or used >= int(known * (1 if inputs.divided else 1 - HELD_OUT)) - 1:
        return []
    return [f"{used} of {known} calibration samples were fitted to: more do not fit in memory"]


def limits_of(analysis: Analysis, asked: Options) -> Limits:
    """Which groups the options allow to be cut, and how far."""
    names = [b.name for b in analysis.blocks] + list(analysis.constants)
    skip = tuple(
        g
        for g in asked.skip
        if any(fnmatchcase(x.name, g) for x in analysis.groups)
        or not any(fnmatchcase(n, g) for n in names)
    )
    kinds = {}
    if asked.heads is not None:
        kinds = {k: asked.heads for k in ("head", "kv-group") if _has(analysis, k)}
        if not kinds:
            raise OnnxpruneError(
                "--heads asks for attention heads, and the model has none that can be removed",
                hint="see `onnxprune inspect`, which says what stays and why",
            )
    return Limits(
        max_ratio=asked.max_ratio,
        allow_inexact=asked.allow_inexact,
        kinds=kinds,
        ratios=asked.ratios,
        skip=skip,
    )


def _has(analysis: Analysis, kind: str) -> bool:
    return any(g.kind == kind for g in analysis.groups)


def bypassed_blocks(analysis: Analysis, asked: Options, feeds: Sequence[Feeds]) -> tuple[str, ...]:
    """The ``--blocks N`` residual branches whose bypass changes least."""
    if not asked.blocks:
        return ()
    allowed = [b for b in analysis.blocks if not any(fnmatchcase(b.name, g) for g in asked.skip)]
    if asked.blocks > len(allowed):
        raise OnnxpruneError(
            f"--blocks {asked.blocks} asks for more than the {len(allowed)} that can be bypassed",
            hint="see the blocks that `onnxprune inspect` lists",
        )
    importance = block_importance(analysis, allowed, feeds, asked.provider)
    order = sorted(allowed, key=lambda b: importance[b.name])
    return _disjoint(order, asked.blocks)


def _disjoint(order: list[Block], wanted: int) -> tuple[str, ...]:
    """The first blocks in order that do not lie inside one another."""
    taken: list[Block] = []
    for block in order:
        inside = any(set(block.nodes) & set(t.nodes) for t in taken)
        if not inside and len(taken) < wanted:
            taken.append(block)
    return tuple(b.name for b in taken)


def _budget_text(asked: Options) -> str:
    if asked.target is not None and asked.target.kind == "latency":
        return str(replace(asked.target, backend=backend_of(asked).name))
    if asked.target is not None:
        return str(asked.target)
    parts = {"ratio": asked.ratio, "heads": asked.heads, "blocks": asked.blocks or None}
    return ", ".join(f"{k}={v:g}" for k, v in parts.items() if v is not None)
