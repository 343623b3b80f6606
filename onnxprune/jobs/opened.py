"""Removal from an interface that may change, where options leave the choice to importance.

Units are chosen in the opened model. Those that inputs or outputs lose an index with leave first,
as ids and classes do that a user names; what else was chosen then leaves what remains.
"""

from __future__ import annotations

from dataclasses import replace

from onnxprune import model as models
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.jobs.alignment import amounts
from onnxprune.jobs.choose_plan import PlanChoice
from onnxprune.jobs.interface import narrow_by_units
from onnxprune.jobs.run import Run


def split_interface(run: Run, choice: PlanChoice) -> tuple[Run, PlanChoice]:
    """A run on the narrowed model, and the rest of a plan for it.

    Args:
        run: on the opened model.
        choice: what leaves it.
    """
    analysis, plan = run.analysis, choice.plan
    first = {name: u for name, u in plan.removed.items() if analysis.group(name).interface}
    rest = {name: units for name, units in plan.removed.items() if name not in first}
    if not first:
        closed = analyse(analysis.model, inputs=analysis.inputs[0])
        return replace(run, analysis=closed), _of(choice, closed, rest)
    narrowing = narrow_by_units(analysis, first, run.config, run.data.source)
    closed = analyse(narrowing.model, inputs=analysis.inputs[0])
    choice = _of(choice, closed, rest)
    choice = replace(choice, plan=replace(choice.plan, interface=narrowing.planned))
    config = narrowing.absolute(run.config)
    notes = (*amounts(narrowing.interface), *narrowing.notes)
    narrowing = replace(narrowing, notes=tuple(dict.fromkeys(notes)))
    return replace(run, config=config, analysis=closed, narrowing=narrowing), choice


def _of(choice: PlanChoice, analysis: Analysis, removed: dict[str, tuple[int, ...]]) -> PlanChoice:
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
