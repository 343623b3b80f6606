"""From an analysis, a plan and what was measured to the report."""

from __future__ import annotations

import importlib.metadata
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.analysis import Analysis
from onnxprune.cost import Cost, CostModel
from onnxprune.pipeline import Pruned
from onnxprune.recipe import as_mapping
from onnxprune.report.schema import (
    BlockRow,
    CheckRow,
    Command,
    GroupRow,
    Measure,
    ModelRow,
    OutputRow,
    PinnedRow,
    Reach,
    RefitRow,
    Report,
    TensorRow,
    Unit,
)
from onnxprune.task import find_metric
from onnxprune.units import Block, Group, Pinned

_NAMED = re.compile(r"\s*`([^`]*)`")
"""A name inside a reason, as in: Softmax `attn/Softmax_output_0` runs over it."""


def inspection(analysis: Analysis) -> Report:
    """What ``inspect`` reports: the model, and what of it can and cannot be removed."""
    return _report("inspect", analysis, {}, ())


def result(command: Command, run: Pruned, output: Path | None) -> Report:
    """What ``prune`` and ``apply`` report; ``output`` is the file that was written, if any."""
    return replace(
        _report(command, run.analysis, run.plan.removed, run.plan.bypassed),
        options=as_mapping(run.options),
        refits=tuple(
            RefitRow(each.node, each.method, each.before, each.after, each.reason)
            for each in run.recovered
        ),
        measures=measures(run),
        outputs=output_rows(run),
        samples=run.outcome.samples,
        checks=tuple(
            CheckRow(each.name, each.ok, each.value, each.limit) for each in run.verdict.checks
        ),
        notes=run.notes,
        output=str(output) if output else None,
    )


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
        reach=reach(analysis),
        groups=group_rows(analysis.groups, removed, costs),
        blocks=block_rows(analysis.blocks, bypassed, costs),
        pinned=pinned_rows(analysis),
    )


def measures(run: Pruned) -> tuple[Measure, ...]:
    """Size before and after, and the task metric where labels were given."""
    found = [
        Measure("MACs", run.dense.macs, run.left.macs, "count"),
        Measure("parameters", run.dense.params, run.left.params, "count"),
        Measure("weights", run.dense.bytes, run.left.bytes, "bytes"),
    ]
    judged = run.outcome
    if judged.metric:
        part = find_metric(run.options.metric).kind == "accuracy"
        unit: Unit = "fraction" if part else "number"
        found.append(Measure(judged.metric, judged.before, judged.after, unit))
    return tuple(found)


def output_rows(run: Pruned) -> tuple[OutputRow, ...]:
    """How close each output is; nothing of what a network says about noise."""
    if _made_up(run.options.calib):
        return ()
    return tuple(
        OutputRow(
            name=each.name,
            top1=each.top1,
            kl=each.kl,
            cosine=each.cosine,
            relative_error=each.relative_error,
            max_abs_error=each.max_abs_error,
            snr_db=each.snr_db,
            broken=each.broken,
            reason=each.reason,
        )
        for each in run.outcome.outputs.values()
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
        saved = _less(dense, costs({group.name: (0,)}))
        rows.append(
            GroupRow(
                name=group.name,
                kind=group.kind,
                units=len(group),
                kept=len(group) - len(removed.get(group.name, ())),
                exact=group.exact,
                reason=group.reason,
                tensors=len({cut.tensor for cut in group.slices}),
                params=saved.params,
                macs=saved.macs,
                bytes=saved.bytes,
            )
        )
    return tuple(rows)


def block_rows(
    blocks: Iterable[Block], bypassed: Iterable[str], costs: CostModel
) -> tuple[BlockRow, ...]:
    """One row per residual branch; ``bypassed`` names those that go."""
    gone = set(bypassed)
    dense, rows = costs(), []
    for block in blocks:
        saved = _less(dense, costs({}, (block.name,)))
        rows.append(
            BlockRow(block.name, len(block.nodes), saved.params, saved.macs, block.name in gone)
        )
    return tuple(rows)


def _less(whole: Cost, part: Cost) -> Cost:
    return Cost(whole.macs - part.macs, whole.params - part.params, whole.bytes - part.bytes)


def pinned_rows(analysis: Analysis) -> tuple[PinnedRow, ...]:
    """The reasons why axes stay, those that hold most parameters first.

    Reasons that differ only in the node they name are one row, with the first node as its example.
    A tensor counts towards the reasons of its pinned axes with the elements that no unit takes
    along on another axis.
    """
    sizes = _sizes(analysis)
    free = _free(analysis.groups, sizes)
    found: dict[str, list[Pinned]] = defaultdict(list)
    for pinned in analysis.pinned:
        found[_NAMED.sub("", pinned.reason)].append(pinned)
    rows = []
    for reason, axes in found.items():
        params = sum(_staying(name, sizes, free) for name in {each.tensor for each in axes})
        named = _NAMED.search(axes[0].reason)
        example = named[1] if named else axes[0].tensor
        rows.append(PinnedRow(reason, len(axes), params, example))
    return tuple(sorted(rows, key=lambda row: (-row.params, -row.axes, row.reason)))


def reach(analysis: Analysis) -> Reach:
    """How many stored elements some unit takes along, with and without the inexact groups."""
    sizes = _sizes(analysis)
    whole = sum(int(np.prod(shape)) for shape in sizes.values())
    left = []
    for groups in ([g for g in analysis.groups if g.exact], analysis.groups):
        free = _free(groups, sizes)
        left.append(sum(_staying(name, sizes, free) for name in sizes))
    return Reach(params=whole, exact=whole - left[0], inexact=left[0] - left[1])


def _made_up(calib: object) -> bool:
    return calib is None or (isinstance(calib, str) and calib.partition(":")[0] == "random")


def _sizes(analysis: Analysis) -> dict[str, tuple[int, ...]]:
    return {
        stored.name: tuple(axis.size or 0 for axis in stored.axes)
        for stored in analysis.tensors
        if not stored.filled
    }


def _free(
    groups: Iterable[Group], sizes: Mapping[str, tuple[int, ...]]
) -> dict[tuple[str, int], np.ndarray]:
    """(tensor, axis) -> bool mask of the indices that leave with some unit of ``groups``."""
    free: dict[tuple[str, int], np.ndarray] = {}
    for cut in (cut for group in groups for cut in group.slices):
        if cut.tensor in sizes:
            key = (cut.tensor, cut.axis)
            mask = free.setdefault(key, np.zeros(sizes[cut.tensor][cut.axis], np.bool_))
            mask[cut.rows.ravel()] = True
    return free


def _staying(
    name: str, sizes: Mapping[str, tuple[int, ...]], free: Mapping[tuple[str, int], np.ndarray]
) -> int:
    """Elements of a tensor that are left when every unit that can go is gone."""
    left = 1
    for axis, size in enumerate(sizes.get(name, (0,))):
        gone = free.get((name, axis))
        left *= size if gone is None else size - int(gone.sum())
    return left


def _tensor(value: ir.Value) -> TensorRow:
    dtype = value.dtype.name.lower() if value.dtype is not None else str(value.type or "unknown")
    if value.shape is None:
        return TensorRow(value.name or "", dtype, None)
    sizes = tuple(each if isinstance(each, int) else each.value for each in value.shape)
    return TensorRow(value.name or "", dtype, sizes)
