"""The main job, start to end: load, analyse, score, allocate, cut, prove, compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from threadpoolctl import threadpool_limits

from onnxprune import model as models
from onnxprune.allocate import Limits
from onnxprune.allocate.damage import Curves
from onnxprune.allocate.measured import swept_curves
from onnxprune.analysis import Analysis, analyse
from onnxprune.carry_out import BLAS, Pruned, Tell, carry_out
from onnxprune.errors import OnnxpruneError
from onnxprune.flags import from_flags
from onnxprune.gradual import in_steps
from onnxprune.inputs import HELD_OUT, Feeds, Inputs, open_inputs
from onnxprune.latency.budget import backend_of, one_sample, reach, result
from onnxprune.options import Options
from onnxprune.plan import Origin, Plan, check, versions
from onnxprune.selection import Selection, select
from onnxprune.statistics import block_importance
from onnxprune.storage.densify import densify
from onnxprune.units import Block
from onnxprune.verify import Verdict

_NEAR = 0.03
"""Difference between the ratio asked for and the one reached that is worth a note."""


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
        from onnxprune.automatic import search  # it plans with what is below

        return search(analysis, inputs, asked, tell)
    if asked.target is not None and asked.target.kind == "latency":
        return by_clock(analysis, inputs, asked, tell)
    if asked.steps > 1:
        limits, fit = _limits(analysis, asked), inputs.parts(analysis)[0]
        bypassed = _blocks(analysis, asked, fit)
        found = in_steps(analysis, asked, limits, inputs, bypassed, tell)
        plan, notes = _planned(analysis, asked, inputs, found.chosen, bypassed, fit)
        notes += found.history
        return carry_out(analysis, plan, asked, inputs, notes, tell, anew=True, start=found.start)
    plan, notes = make_plan(analysis, asked, inputs, tell)
    return carry_out(analysis, plan, asked, inputs, notes, tell, anew=True)


def prepare(source: Any, asked: Options, tell: Tell) -> tuple[Analysis, Inputs]:  # noqa: ANN401
    """Read a model, find what can be removed, and open the inputs that it is looked at with.

    Raises:
        OnnxpruneError: the model or the data cannot be used.
    """
    tell("reading the model")
    model, _ = densify(models.load(source))
    inputs = open_inputs(model, asked)
    tell("finding what can be removed")
    analysis = analyse(model, inputs=inputs.shapes)
    return analysis, inputs.that_run(analysis, asked.provider)


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
    limits = _limits(analysis, asked)
    bypassed = _blocks(analysis, asked, fit or held)
    if asked.sensitivity is not None and curves is None:
        curves = swept_curves(analysis, asked)
    feeds = one_sample(analysis, inputs.proof(analysis)[0], asked.shapes)
    with threadpool_limits(BLAS, "blas"):
        reached = reach(analysis, asked, limits, fit, feeds, bypassed, tell, curves)
    with reached.stopwatch:
        plan, notes = _planned(analysis, asked, inputs, reached.selection, bypassed, fit)
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
    limits = _limits(analysis, asked)
    bypassed = _blocks(analysis, asked, fit or held)
    with threadpool_limits(BLAS, "blas"):
        if asked.sensitivity is not None and curves is None:
            curves = swept_curves(analysis, asked)
        chosen = (
            select(analysis, asked, limits, fit, bypassed, tell, curves)
            if asked.removes_units
            else Selection({}, "", asked.allocation or "uniform", {})
        )
    return _planned(analysis, asked, inputs, chosen, bypassed, fit)


def _planned(
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
    used = sum(len(next(iter(f.values()))) for f in fit)
    if not fit or known is None or used >= int(known * (1 if inputs.divided else 1 - HELD_OUT)) - 1:
        return []
    return [f"{used} of {known} calibration samples were fitted to: more do not fit in memory"]


def _limits(analysis: Analysis, asked: Options) -> Limits:
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


def _blocks(analysis: Analysis, asked: Options, feeds: Sequence[Feeds]) -> tuple[str, ...]:
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
