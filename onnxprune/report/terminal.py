"""The report on a terminal: tables without lines, in the order a reader asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rich.console import Console, Group, RenderableType
from rich.text import Text

from onnxprune.jobs.results.schema import (
    BlockRow,
    CheckRow,
    GroupRow,
    Measure,
    ModelRow,
    OutputRow,
    PinnedRow,
    PointRow,
    Reach,
    RefitRow,
    Report,
    SparseRow,
    TensorRow,
)
from onnxprune.quantities import change, figure, measured, percent, plural, quantity, size
from onnxprune.report import storage
from onnxprune.report.tables import inset as _inset
from onnxprune.report.tables import spaced as _spaced
from onnxprune.report.tables import table as _table
from onnxprune.report.tables import titled as _titled

_BAR = 16
_WORST = 10
_GOOD, _BAD, _DIM, _HEAD = "green", "bold red", "dim", "bold"


def show(report: Report, console: Console) -> None:
    """Print everything a report has to say that its command was asked for."""
    console.print(inspection(report) if report.command == "inspect" else result(report))


def inspection(report: Report) -> RenderableType:
    """What the model is, what can be removed, and what cannot and why."""
    parts = [model(report.model), _titled(plural(len(report.groups), "group"), groups(report))]
    if report.blocks:
        parts.append(_titled(plural(len(report.blocks), "block"), blocks(report.blocks)))
    staying = [row for row in report.pinned if row.params]
    if staying:
        parts.append(_titled("Not prunable", pinned(staying)))
    if report.weights:
        title = f"Zeros in {plural(len(report.weights), 'weight')}"
        parts.append(_titled(title, storage.zeros(report.weights)))
    return Group(*_spaced([*parts, reach(report.reach), *_notes(report.notes)]))


def result(report: Report) -> RenderableType:
    """What is removed, what that costs and gains, and whether it is right."""
    gone = sum(row.units - row.kept for row in report.groups)
    touched = sum(row.kept < row.units for row in report.groups)
    title = f"{plural(gone, 'unit')} removed from {plural(touched, 'group')}"
    bypassed = [row for row in report.blocks if row.bypassed]
    parts: list[RenderableType] = [_titled(title, plan(report.groups)) if touched else Text(title)]
    if bypassed:
        parts.append(_titled(f"{plural(len(bypassed), 'block')} bypassed", blocks(tuple(bypassed))))
    if report.refits:
        changed = sum(row.method != "none" for row in report.refits)
        title = f"{changed} of {plural(len(report.refits), 'layer')} refitted"
        parts.append(_titled(title, refits(report.refits)))
    if report.sparse:
        thinned = sum(not row.reason for row in report.sparse)
        title = f"{thinned} of {plural(len(report.sparse), 'weight')} thinned"
        parts.append(_titled(title, sparse(report.sparse)))
    if report.stored:
        parts.append(_titled("Stored", storage.stored(report.stored)))
    if report.measures:
        parts.append(_titled("Before and after", measures(report.measures)))
    if report.outputs:
        title = f"Outputs against the original, {plural(report.samples, 'unseen input')}"
        as_given = [replace(row, name=f"{row.name}, as given") for row in report.given]
        parts.append(_titled(title, outputs([*as_given, *report.outputs])))
    if report.points:
        title = f"{plural(len(report.points), 'model')} visited"
        parts.append(_titled(title, points(report.points)))
    if report.checks:
        parts.append(_titled("Checks", checks(report.checks)))
    return Group(*_spaced([*parts, *_notes(report.notes)]))


def model(row: ModelRow) -> RenderableType:
    """Name, origin, inputs, outputs and size."""
    opsets = ", ".join(
        f"{domain} {version}" if domain else f"opset {version}"
        for domain, version in row.opsets.items()
    )
    origin = ", ".join(filter(None, (row.producer, opsets, plural(row.nodes, "node"))))
    table = _table("", "")
    for kind, tensors in (("input", row.inputs), ("output", row.outputs)):
        for tensor in tensors:
            table.add_row(Text(kind, _DIM), Text(_tensor(tensor)))
    sums = f"{quantity(row.params)} parameters, {size(row.bytes)}, {quantity(row.macs)} MACs"
    table.add_row(Text("size", _DIM), sums)
    shapes = ", ".join(f"{name} {'x'.join(map(str, s))}" for name, s in row.analysed.items())
    if shapes:
        table.add_row(Text("at", _DIM), Text(shapes))
    return Group(Text.assemble((row.name, _HEAD), "  ", (origin, _DIM)), _inset(table))


def groups(report: Report) -> RenderableType:
    """What can be removed: per group, how many units and what one of them costs."""
    if not report.groups:
        return Text("No unit of this model can be removed.")
    table = _table("group", "kind", "units>", "params>", "MACs>", "removal")
    for row in report.groups:
        table.add_row(
            Text(row.name),
            row.kind,
            str(row.units),
            quantity(row.params),
            quantity(row.macs),
            Text("exact", _GOOD) if row.exact else Text(row.reason, "yellow"),
        )
    return Group(table, Text("params and MACs are those of one unit", _DIM))


def plan(rows: Iterable[GroupRow]) -> RenderableType:
    """What is removed, group by group, in the order of the network."""
    table = _table("group", "kind", "kept>", "of>", "removed>", "")
    for row in rows:
        if row.kept == row.units:
            continue
        table.add_row(
            Text(row.name),
            row.kind,
            str(row.kept),
            str(row.units),
            percent(1 - row.kept / row.units),
            _bar(row.kept / row.units),
        )
    return table


def blocks(rows: Iterable[BlockRow]) -> RenderableType:
    """Residual branches and what leaves with each."""
    table = _table("block", "nodes>", "params>", "MACs>")
    for row in rows:
        table.add_row(Text(row.name), str(row.nodes), quantity(row.params), quantity(row.macs))
    return table


def pinned(rows: Iterable[PinnedRow]) -> RenderableType:
    """The reasons for which axes stay, those that hold most parameters first."""
    table = _table("because", "axes>", "params>", "for example")
    for row in rows:
        table.add_row(Text(row.reason), str(row.axes), quantity(row.params), Text(row.example))
    return table


def reach(row: Reach) -> RenderableType:
    """How much of the model pruning can touch."""
    whole = max(row.params, 1)
    text = Text("Reachable: ", _HEAD)
    text.append(f"{percent(row.exact / whole)} of {quantity(row.params)} parameters", "default")
    if row.inexact:
        text.append(f", and {percent(row.inexact / whole)} more with --allow-inexact", "default")
    return text


def refits(rows: Sequence[RefitRow]) -> RenderableType:
    """Errors on held-out inputs before and after refitting, the largest first; and what was left.

    Layers that were not tried are counted by reason.
    """
    tried = sorted((row for row in rows if not row.reason), key=lambda row: -row.after)
    table = _table("layer", "how", "error>", "after>")
    for row in tried[:_WORST]:
        how = "left: nothing was better" if row.method == "none" else row.method
        table.add_row(Text(row.node), how, figure(row.before), figure(row.after))
    under = []
    if len(tried) > _WORST:
        under.append(Text(f"the {_WORST} with the largest error left; --json lists all", _DIM))
    untried = Counter(row.reason for row in rows if row.reason)
    under += [
        Text(f"{plural(number, 'layer')} left: {reason}", _DIM)
        for reason, number in untried.most_common()
    ]
    return Group(*([table] if tried else []), *under)


def sparse(rows: Sequence[SparseRow]) -> RenderableType:
    """Zeros of each weight, and errors on held-out inputs as masked and as refitted.

    The largest errors come first; weights that were left are counted by reason.
    """
    done = sorted((row for row in rows if not row.reason), key=lambda row: -(row.after or 0.0))
    table = _table("weight", "zeros>", "chosen by", "then", "error>", "after>")
    for row in done[:_WORST]:
        errors = ("" if e is None else figure(e) for e in (row.before, row.after))
        table.add_row(Text(row.weight), percent(row.sparsity), row.method, row.refit, *errors)
    under = []
    if len(done) > _WORST:
        under.append(Text(f"the {_WORST} with the largest error; --json lists all", _DIM))
    left = Counter(row.reason for row in rows if row.reason)
    under += [
        Text(f"{plural(number, 'weight')} left: {reason}", _DIM)
        for reason, number in left.most_common()
    ]
    return Group(*([table] if done else []), *under)


def measures(rows: Iterable[Measure]) -> RenderableType:
    """Each quantity before and after, and how it changed."""
    table = _table("", "original>", "pruned>", "change>")
    for row in rows:
        table.add_row(
            row.name,
            measured(row.dense, row.unit),
            measured(row.pruned, row.unit),
            change(row.dense, row.pruned, row.unit),
        )
    return table


def outputs(rows: Sequence[OutputRow]) -> RenderableType:
    """How close each output is to the original's."""
    heads = ("output", "same top-1>", "KL>", "cosine>", "relative error>")
    said = [row.reason or (row.broken and f"{row.broken} not finite") or "" for row in rows]
    table = _table(*heads, *([""] if any(said) else []))
    for row, remark in zip(rows, said, strict=True):
        cells = (
            measured(row.top1, "fraction"),
            measured(row.kl, "number"),
            measured(row.cosine, "number"),
            measured(row.relative_error, "number"),
        )
        last = [Text(remark, _BAD if row.broken else _DIM)] if any(said) else []
        table.add_row(Text(row.name), *cells, *last)
    return table


def points(rows: Sequence[PointRow]) -> RenderableType:
    """What every visited model costs and loses, the largest first, with what is known of errors."""
    metric = rows[0].metric
    fraction = metric in ("agreement", "accuracy") or metric.startswith("top")
    table = _table("", "made for", "MACs>", "parameters>", f"{metric}>", "lost>", "+-", "")
    for row in sorted(rows, key=lambda row: (-row.macs, -row.params)):
        scale = 100 if fraction else 1
        error = "" if row.drop_error is None else f"{row.drop_error * scale:.2g}"
        lost = f"{row.drop * 100:+.2f}" if fraction else figure(row.drop)
        word = Text("ok", _GOOD) if row.ok else Text("too much", "yellow")
        value = measured(row.value, "fraction" if fraction else "number")
        table.add_row(
            word,
            row.label,
            quantity(row.macs),
            quantity(row.params),
            value,
            lost,
            error,
            Text("taken", _HEAD) if row.chosen else "",
        )
    told = f"on {plural(rows[0].samples, 'input')}; +- is one standard error of what is lost"
    return Group(table, Text(f"{told}{', in points' if fraction else ''}", _DIM))


def checks(rows: Iterable[CheckRow]) -> RenderableType:
    """Each check with what was measured and its limit."""
    table = _table("", "check", "measured>", "limit>")
    for row in rows:
        word = Text("ok", _GOOD) if row.ok else Text("BAD", _BAD)
        table.add_row(word, row.name, figure(row.value), figure(row.limit))
    return table


def _tensor(row: TensorRow) -> str:
    if row.shape is None:
        return f"{row.name}: {row.dtype}"
    sizes = ", ".join("?" if each is None else str(each) for each in row.shape)
    return f"{row.name}: {row.dtype} [{sizes}]"


def _bar(kept: float) -> Text:
    full = max(1, round(kept * _BAR)) if kept else 0
    return Text.assemble(("█" * full, "cyan"), ("░" * (_BAR - full), _DIM))


def _notes(notes: Iterable[str]) -> list[RenderableType]:
    lines = [Text.assemble(("note: ", "bold cyan"), note) for note in notes]
    return [Group(*lines)] if lines else []
