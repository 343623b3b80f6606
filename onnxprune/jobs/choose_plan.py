"""Choose a plan: by importance, or by measured latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from glob import escape

from threadpoolctl import threadpool_limits

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.data.activations.groups import block_importance
from onnxprune.errors import OnnxpruneError, spelled
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.interface import Interface
from onnxprune.graph.plan import Origin, Plan, versions
from onnxprune.graph.units import Block
from onnxprune.jobs.interface.alignment import amounts
from onnxprune.jobs.interface.narrowing import narrow_by_units
from onnxprune.jobs.removal import OWN_FLAGS, quantized_note, removed_shares
from onnxprune.jobs.run import BLAS, Run
from onnxprune.select.allocate import Limits
from onnxprune.select.importance.error_curves import Curves
from onnxprune.select.importance.measured import sensitivity_curves
from onnxprune.select.importance.units import Problem
from onnxprune.select.latency.budget import LatencyChoice, backend_of, meet_latency, one_sample
from onnxprune.select.selection import Selection, missing_options, removal_advice, select


@dataclass(frozen=True, eq=False)
class PlanChoice:
    """A plan, and the by-products of its choice.

    Attributes:
        plan: units and blocks; masks are chosen later, in the cut model.
        notes: sentences on declined parts and their reasons.
        start: the cut model as earlier steps have refitted it; None for the dense weights.
        timing: measures the result, where the target is a latency.
        unchanged: why a ratio removes nothing from a group that could be cut, by group.
        advice: what would let units go, where none does.
    """

    plan: Plan
    notes: tuple[str, ...] = ()
    start: models.Model | None = None
    timing: LatencyChoice | None = None
    unchanged: Mapping[str, str] = field(default_factory=dict)
    advice: str = ""


def by_importance(run: Run, curves: Curves | None = None) -> PlanChoice:
    """Units by a ratio, or by a budget of multiplications, parameters or bytes.

    Args:
        run: its options hold the amount.
        curves: error curves, where they are known already.

    Raises:
        OnnxpruneError: the criterion needs data, or the budget cannot be met.
    """
    config = run.config
    bypassed = bypassed_blocks(run)
    selection = Selection({}, "", config.allocation or "uniform", {})
    with threadpool_limits(BLAS, "blas"):
        curves = curves or measured_curves(run)
        if config.removes_units:
            selection = select(problem_of(run, bypassed, curves))
    return planned(run, selection, bypassed)


def by_latency(run: Run, curves: Curves | None = None) -> PlanChoice:
    """Plans are cut and measured until the latency meets the target; the last is chosen.

    Args:
        run: its target limits latency.
        curves: error curves, where they are known already.

    Raises:
        OnnxpruneError: the criterion needs data, or the backend does not take the model.
    """
    config, analysis = run.config, run.analysis
    bypassed = bypassed_blocks(run)
    curves = curves or measured_curves(run)
    feeds = one_sample(analysis, run.data.probe[0], config.shapes)
    with threadpool_limits(BLAS, "blas"):
        timing = meet_latency(problem_of(run, bypassed, curves), feeds)
    return replace(planned(run, timing.selection, bypassed), timing=timing)


def problem_of(run: Run, bypassed: Sequence[str], curves: Curves | None = None) -> Problem:
    """What units are chosen from in a run."""
    limits = limits_of(run.analysis, run.config)
    return Problem(run.analysis, run.config, limits, run.data.fit, bypassed, run.progress, curves)


def measured_curves(run: Run) -> Curves | None:
    """Error curves from the file of a sensitivity sweep that options name; None without."""
    config = run.config
    return None if config.sensitivity is None else sensitivity_curves(run.analysis, config)


def planned(run: Run, selection: Selection, bypassed: tuple[str, ...]) -> PlanChoice:
    """The plan of a selection, and notes on it."""
    config, analysis = run.config, run.analysis
    plan = Plan(
        removed=selection.removed,
        units={g.name: len(g) for g in analysis.groups},
        bypassed=(*bypassed, *selection.bypassed),
        interface=Interface() if run.narrowing is None else run.narrowing.planned,
        origin=Origin(
            structure=models.structure_hash(analysis.model),
            criterion=selection.criterion if config.sensitivity is None else "sensitivity",
            allocation=selection.allocation,
            budget=_budget_text(config),
            seed=config.seed,
            memory=config.memory,
            versions=versions(),
            calibration=run.data.description,
        ),
    )
    own = of_own_flags(analysis)
    declined = [f"{n}: {why}" for n, why in selection.declined.items() if n not in own]
    shares = removed_shares(analysis, config, selection)
    notes = (*declined, *_missing(run, selection, bypassed), *selection.notes, *shares)
    notes = (*notes, *map(spelled, own.values()), *run.data.notes)
    none = config.removes_units and not (plan.bypassed or any(plan.removed.values()))
    advice = removal_advice(problem_of(run, ())) if none else ""
    return PlanChoice(plan, notes, unchanged=selection.unchanged, advice=advice)


def _missing(run: Run, selection: Selection, bypassed: tuple[str, ...]) -> list[str]:
    """Notes on what would let units go, where none does."""
    if not run.config.removes_units or selection.removed or selection.bypassed or bypassed:
        return []
    options = missing_options(problem_of(run, ()), selection.declined)
    return [*quantized_note(run.analysis.model), *([options] if options else [])]


def limits_of(analysis: Analysis, config: Options) -> Limits:
    """The groups that the options allow to be cut, and the limit of each."""
    names = [b.name for b in analysis.blocks] + list(analysis.constants)
    skip = tuple(
        g
        for g in config.skip
        if any(fnmatchcase(x.name, g) for x in analysis.groups)
        or not any(fnmatchcase(n, g) for n in names)
    )
    skip += tuple(escape(name) for name in of_own_flags(analysis))
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


def of_own_flags(analysis: Analysis) -> dict[str, str]:
    """Groups whose units leave by an option of their own alone, and why, where they are open."""
    return {
        group.name: f"{group.name}: only {OWN_FLAGS[group.kind]} removes units of kind {group.kind}"
        for group in analysis.groups
        if group.kind in OWN_FLAGS
    }


def _has(analysis: Analysis, kind: str) -> bool:
    return any(g.kind == kind for g in analysis.groups)


def bypassed_blocks(run: Run) -> tuple[str, ...]:
    """The ``--blocks N`` residual branches whose bypass changes least."""
    config, analysis = run.config, run.analysis
    if not config.blocks:
        return ()
    blocks = [b for b in analysis.blocks if not any(fnmatchcase(b.name, g) for g in config.skip)]
    if config.blocks > len(blocks):
        raise OnnxpruneError(
            f"--blocks {config.blocks} asks for more than the {len(blocks)} that can be bypassed",
            hint="see the blocks that `onnxprune inspect` lists",
        )
    feeds = run.data.fit or run.data.holdout
    importance = block_importance(analysis, blocks, feeds, config.provider)
    order = sorted(blocks, key=lambda b: importance[b.name])
    return _disjoint(order, config.blocks)


def _disjoint(order: list[Block], count: int) -> tuple[str, ...]:
    """The first blocks in order that do not lie inside one another."""
    blocks: list[Block] = []
    for block in order:
        inside = any(set(block.nodes) & set(t.nodes) for t in blocks)
        if not inside and len(blocks) < count:
            blocks.append(block)
    return tuple(b.name for b in blocks)


def _budget_text(config: Options) -> str:
    if config.target is not None and config.target.timed:
        return str(replace(config.target, backend=backend_of(config).name))
    if config.target is not None:
        return str(config.target)
    parts = {"ratio": config.ratio, "heads": config.heads, "blocks": config.blocks or None}
    return ", ".join(f"{k}={v:g}" for k, v in parts.items() if v is not None)


# --- from an interface that may change -----------------------------------------------------------


def split_interface(run: Run, choice: PlanChoice) -> tuple[Run, PlanChoice]:
    """A run on the narrowed model, and the rest of a plan for it.

    Units that inputs or outputs lose an index with leave first, as ids and classes do that a user
    names; what else was chosen then leaves what remains.

    Args:
        run: on the opened model.
        choice: what leaves it.
    """
    analysis, plan = run.analysis, choice.plan
    first = {name: u for name, u in plan.removed.items() if analysis.group(name).interface}
    rest = {name: units for name, units in plan.removed.items() if name not in first}
    if not first:
        closed = analyse(analysis.model, inputs=analysis.inputs[0])
        return replace(run, analysis=closed), _rest(choice, closed, rest)
    narrowing = narrow_by_units(analysis, first, run.config, run.data.source)
    closed = analyse(narrowing.model, inputs=analysis.inputs[0])
    choice = _rest(choice, closed, rest)
    choice = replace(choice, plan=replace(choice.plan, interface=narrowing.planned))
    config = narrowing.absolute(run.config)
    notes = (*amounts(narrowing.interface), *narrowing.notes)
    narrowing = replace(narrowing, notes=tuple(dict.fromkeys(notes)))
    return replace(run, config=config, analysis=closed, narrowing=narrowing), choice


def _rest(
    choice: PlanChoice, analysis: Analysis, removed: dict[str, tuple[int, ...]]
) -> PlanChoice:
    """A choice for another analysis; groups that it does not have stay whole."""
    sizes = {group.name: len(group) for group in analysis.groups}
    known = {name: u for name, u in removed.items() if u[-1] < sizes.get(name, 0) > len(u)}
    lost = [f"{name}: it is part of the interface of what remains" for name in removed]
    notes = [note for name, note in zip(removed, lost, strict=True) if name not in known]
    structure = models.structure_hash(analysis.model)
    plan = replace(
        choice.plan,
        removed=known,
        units=sizes,
        origin=replace(choice.plan.origin, structure=structure),
    )
    unchanged = {name: why for name, why in choice.unchanged.items() if name in sizes}
    return replace(choice, plan=plan, notes=(*choice.notes, *notes), unchanged=unchanged)
