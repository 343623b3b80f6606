"""Make reports from analyses and results."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import spelled
from onnxprune.evaluate.evaluation import Evaluation
from onnxprune.evaluate.latency import Compared
from onnxprune.evaluate.output_comparison import OutputComparison
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.cost import Cost, CostModel
from onnxprune.graph.units import Block, Group
from onnxprune.jobs.recipe import as_mapping
from onnxprune.jobs.removal import OWN_FLAGS, quantized_note
from onnxprune.jobs.result import Result
from onnxprune.jobs.results.couplings import coupling_rows
from onnxprune.jobs.results.reachable import not_prunable_rows, reachable
from onnxprune.jobs.results.schema import (
    BlockRow,
    CheckRow,
    Command,
    GroupRow,
    Measure,
    ModelRow,
    OutputRow,
    PointRow,
    RefitRow,
    Report,
    SparseRow,
    TensorRow,
)
from onnxprune.jobs.results.weights import zeros_rows
from onnxprune.jobs.search import passes
from onnxprune.quantities import percent, plural, quantity, unit_of
from onnxprune.types import LayerOutcome

_QUICK = 1 << 30
"""Bytes of weights that `inspect` reads without ``--weights``."""
_ROUNDED = "the fast width nearest to this ratio is the whole group (--round-to 1 takes any)"
_CHEAPER = "other groups lose less for the same saving"


def inspection(
    analysis: Analysis, *, weights: bool | None = None, closed: Analysis | None = None
) -> Report:
    """The report of ``inspect``: the model, and what can and cannot be removed.

    Args:
        analysis: of the model.
        closed: the same where graph inputs and outputs stay, if they may change in ``analysis``.
        weights: look into every weight for zeros; None does so unless that means much reading.
    """
    report = _report("inspect", analysis, {}, ())
    report = replace(report, notes=(*report.notes, *quantized_note(analysis.model)))
    if closed is not None:
        report = replace(report, closed=reachable(closed))
        report = replace(report, notes=(*report.notes, *opened_notes(report, closed)))
    if weights is None:
        weights = report.model.bytes <= _QUICK
    return replace(report, weights=zeros_rows(analysis.model)) if weights else report


def opened_notes(report: Report, closed: Analysis) -> list[str]:
    """Sentences on what a changed interface would offer: kinds of units, and the reach."""
    assert report.closed is not None
    notes = []
    known = {group.name for group in closed.groups}
    kinds: dict[str, list[GroupRow]] = {}
    for row in report.groups:
        if row.interface and (row.name not in known or row.kind in OWN_FLAGS):
            kinds.setdefault(row.kind, []).append(row)
    for kind, rows in kinds.items():
        names = dict.fromkeys(f"'{name}'" for row in rows for name in row.interface)
        params = sum(row.units * row.params for row in rows)
        many = f"{plural(len(rows), 'group')} with {plural(sum(r.units for r in rows), 'unit')}"
        how = f", by {OWN_FLAGS[kind]}" if kind in OWN_FLAGS else ""
        notes.append(
            f"{kind}: {many} and {quantity(params)} parameters change {', '.join(names)}{how}"
        )
    before, after = report.closed, report.reachable
    shares = [(r.exact + r.inexact) / max(r.params, 1) for r in (before, after)]
    notes.append(
        f"with a changed interface {percent(shares[1])} of the parameters can be removed, without "
        f"{percent(shares[0])}"
    )
    return [spelled(note) for note in notes]


def result(command: Command, run: Result, output: Path | None) -> Report:
    """The report of a run of ``command``; ``output`` is the file that was written, if any."""
    document = _report(command, run.analysis, run.plan.removed, run.plan.bypassed)
    reasons = stays(run)
    return replace(
        document,
        model=model_row(run.original, run.dense),
        groups=tuple(replace(row, stays=reasons.get(row.name, "")) for row in document.groups),
        options=as_mapping(run.config),
        refits=tuple(
            RefitRow(each.layer, each.method, each.before or 0.0, each.after or 0.0, each.reason)
            for each in run.outcomes.get("refit", ())
        ),
        sparse=tuple(sparse_row(each) for each in run.outcomes.get("zeros", ())),
        measures=measures(run),
        outputs=output_rows(run),
        as_given=comparison_rows(run.as_given) if run.as_given is not None else (),
        samples=run.evaluation.samples,
        available=run.evaluation.available,
        points=point_rows(run),
        checks=tuple(CheckRow(each.name, each.ok, each.value, each.limit) for each in run.checks),
        notes=run.notes,
        output=str(output) if output else None,
        structure=run.structure,
        quality=run.quality,
        tails=None if run.synthetic else run.evaluation.tails,
        interface=json.loads(run.interface.to_json()) if run.interface else None,
    )


def stays(run: Result) -> dict[str, str]:
    """Why groups keep all their units although a removal was requested, by group."""
    config = run.config
    if run.command != "prune":
        return {}
    everywhere = bool(config.ratio or config.target) or config.searches
    some = ("head", "kv-group") if config.heads else ()
    whole = [
        group.name
        for group in run.analysis.groups
        if group.name not in run.plan.removed and (everywhere or group.kind in some)
    ]
    uniform = bool(config.ratio) and config.allocation != "global"
    reasons = dict.fromkeys(whole, _ROUNDED if uniform else _CHEAPER)
    for name in whole:
        own = (note for note in run.notes if note.startswith(f"{name}: "))
        reasons[name] = next(own, f"{name}: {reasons[name]}").removeprefix(f"{name}: ")
    return reasons


def sparse_row(each: LayerOutcome) -> SparseRow:
    """The row of one weight."""
    same = {f.name: getattr(each, f.name) for f in fields(SparseRow) if f.name != "node"}
    return SparseRow(node=each.layer, **same)


def _report(
    command: Command,
    analysis: Analysis,
    removed: Mapping[str, Sequence[int]],
    bypassed: Sequence[str],
) -> Report:
    costs = CostModel(analysis)
    return Report(
        command=command,
        onnxprune=importlib.metadata.version("onnxprune"),
        model=model_row(analysis, costs()),
        reachable=reachable(analysis),
        groups=group_rows(analysis.groups, removed, costs),
        blocks=block_rows(analysis.blocks, bypassed, costs),
        not_prunable=not_prunable_rows(analysis),
        couplings=coupling_rows(analysis),
    )


def measures(run: Result) -> tuple[Measure, ...]:
    """Size before and after, and the task metric where labels were given."""
    rows = [
        Measure("MACs", run.dense.macs, run.remaining.macs, "count"),
        Measure("parameters", run.dense.params, run.remaining.params, "count"),
        Measure("weights", run.dense.bytes, run.remaining.bytes, "bytes"),
    ]
    if (latency := run.latency) is not None:
        seconds = latency.dense, latency.pruned
        rows.append(Measure("latency", *seconds, "seconds", ratio=latency.ratio))
    evaluation = run.evaluation
    if evaluation.metric:
        unit = unit_of(evaluation.metric)
        ends = evaluation.before, evaluation.after
        if run.as_given is not None and run.as_given.metric == evaluation.metric:
            as_given = f"{evaluation.metric}, as given"
            rows.append(
                Measure(
                    as_given, evaluation.before, run.as_given.after, unit, evaluation.metric_error
                )
            )
        rows.append(Measure(evaluation.metric, *ends, unit, evaluation.metric_error))
    return tuple(rows)


def output_rows(run: Result) -> tuple[OutputRow, ...]:
    """The comparison of each output; empty for synthetic inputs, where it means nothing."""
    config = run.config
    synthetic = _synthetic(config.calib) and config.eval is None
    return () if synthetic else comparison_rows(run.evaluation)


def point_rows(run: Result) -> tuple[PointRow, ...]:
    """One row per model that a search visited, in order."""
    return tuple(_point(each, run) for each in run.history)


def _point(each: Result, run: Result) -> PointRow:
    target, most, evaluation = each.config.target, run.config.max_drop, each.evaluation
    assert target is not None
    assert most is not None
    part = target.value
    if not target.relative:
        part /= max(each.dense.of(target.kind), 1)
    return PointRow(
        label=f"{target.kind}={part * 100:.4g}%",
        macs=each.remaining.macs,
        params=each.remaining.params,
        bytes=each.remaining.bytes,
        latency=_latency(target.backend, each.latency),
        metric=evaluation.measure,
        value=evaluation.value,
        drop=evaluation.drop,
        drop_error=evaluation.drop_error,
        samples=evaluation.samples,
        ok=passes(each, most),
        chosen=each.plan is run.plan and run.evaluation.within(most),
    )


def _latency(backend: str, timing: Compared | None) -> dict[str, dict[str, float]]:
    """Seconds of one run by backend, with the interval of the ratio."""
    if timing is None:
        return {}
    low, high = timing.dense * timing.low, timing.dense * timing.high
    return {backend: {"p50_s": timing.pruned, "low_s": low, "high_s": high}}


def comparison_rows(evaluation: Evaluation) -> tuple[OutputRow, ...]:
    """One row per output: how close it is to the original's."""
    return tuple(output_row(each) for each in evaluation.outputs.values())


def output_row(comparison: OutputComparison) -> OutputRow:
    """How close one output is."""
    return OutputRow(
        name=comparison.name,
        top1=comparison.top1,
        kl=comparison.kl,
        cosine=comparison.cosine,
        relative_error=comparison.relative_error,
        max_abs_error=comparison.max_abs_error,
        snr_db=comparison.snr_db,
        broken=comparison.broken,
        reason=comparison.reason,
        unexplained=comparison.unexplained,
    )


def model_row(analysis: Analysis, dense: Cost) -> ModelRow:
    """What the analysed model is; ``dense`` is its cost with nothing removed."""
    model = analysis.model
    graph = model.ir.graph
    producer = " ".join(filter(None, (model.ir.producer_name, model.ir.producer_version)))
    stored = models.constants(model)
    return ModelRow(
        name=model.path.name if model.path else graph.name or "model",
        producer=producer,
        ir_version=model.ir.ir_version,
        opsets=dict(model.ir.opset_imports),
        nodes=sum(len(each) for each in models.graphs(model)),
        inputs=tuple(_tensor(v) for v in graph.inputs if v.name not in stored),
        outputs=tuple(_tensor(value) for value in graph.outputs),
        params=dense.params,
        macs=dense.macs,
        bytes=dense.bytes,
        analysed={name: tuple(shape) for name, shape in analysis.inputs[0].items()},
    )


def group_rows(
    groups: Iterable[Group], removed: Mapping[str, Sequence[int]], costs: CostModel
) -> tuple[GroupRow, ...]:
    """One row per group; ``removed`` holds the units that go, by group name.

    What a unit costs is what the model costs less without it: the same numbers that budgets count.
    """
    dense, rows = costs(), []
    for group in groups:
        saving = _less(dense, costs({group.name: (0,)}))
        rows.append(
            GroupRow(
                name=group.name,
                kind=group.kind,
                units=len(group),
                kept=len(group) - len(removed.get(group.name, ())),
                exact=group.exact,
                reason=group.reason,
                tensors=len({cut.tensor for cut in group.slices}),
                params=saving.params,
                macs=saving.macs,
                bytes=saving.bytes,
                interface=group.interface,
            )
        )
    return tuple(rows)


def block_rows(
    blocks: Iterable[Block], bypassed: Iterable[str], costs: CostModel
) -> tuple[BlockRow, ...]:
    """One row per residual branch; ``bypassed`` names those to remove."""
    names = set(bypassed)
    dense, rows = costs(), []
    for block in blocks:
        saving = _less(dense, costs({}, (block.name,)))
        rows.append(
            BlockRow(block.name, len(block.nodes), saving.params, saving.macs, block.name in names)
        )
    return tuple(rows)


def _less(whole: Cost, part: Cost) -> Cost:
    return Cost(whole.macs - part.macs, whole.params - part.params, whole.bytes - part.bytes)


def _synthetic(calib: object) -> bool:
    return calib is None or (isinstance(calib, str) and calib.partition(":")[0] == "random")


def _tensor(value: ir.Value) -> TensorRow:
    dtype = value.dtype.name.lower() if value.dtype is not None else str(value.type or "unknown")
    if value.shape is None:
        return TensorRow(value.name or "", dtype, None)
    sizes = tuple(each if isinstance(each, int) else each.value for each in value.shape)
    return TensorRow(value.name or "", dtype, sizes)
