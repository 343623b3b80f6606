"""What one run did: its verdict and largest figures, what it removed, refitted and stored."""

from __future__ import annotations

from dataclasses import replace

from onnxprune import quantities as numbers
from onnxprune.jobs.bench.schema import Bench
from onnxprune.jobs.results.couplings import CouplingRow, SliceRow
from onnxprune.jobs.results.schema import GroupRow, Report, TensorRow
from onnxprune.quantities import Unit
from onnxprune.report import columns, standing
from onnxprune.report.families import Family, file_name, stem
from onnxprune.report.html.markup import (
    TIMES,
    Markup,
    code,
    folded,
    join,
    listed,
    table,
    tag,
    titled,
    tools,
)
from onnxprune.report.html.reproduce import flags
from onnxprune.report.tables import Cell, Column, Table, tuples, write

_SIZES = ("MACs", "parameters", "weights")
_ROLES = {"writes": "makes it", "scales": "scales it", "reads": "reads it"}


def _sizes(row: TensorRow) -> str:
    if row.shape is None:
        return "unknown"
    return f" {TIMES} ".join("?" if each is None else str(each) for each in row.shape) or "scalar"


def _nodes(row: SliceRow) -> Markup:
    return join(
        tag("span", tag("span", f"{node.op} ", class_="op"), code(node.name), class_="node")
        for node in row.nodes
    )


def _cut(row: SliceRow) -> Markup:
    """The shape of a tensor, with the axis that is cut in bold."""
    sizes = [tag("b", str(n)) if k == row.axis else str(n) for k, n in enumerate(row.shape)]
    return join([f" {TIMES} " if k else "", size] for k, size in enumerate(sizes))


_TENSORS = tuples("Inputs and outputs of the model", "", "name:name", "type", "shape")
_RUNS = tuples("Runs", "run", "verdict", *(f"{size}>" for size in _SIZES), "value:number", "of")
_SLICES: tuple[Column[SliceRow], ...] = (
    Column("tensor", lambda row: row.tensor, "name"),
    Column("shape", _cut),
    Column("loses", lambda row: numbers.plural(row.rows, "row"), right=True),
    Column("role", lambda row: _ROLES.get(row.role, row.role)),
    Column("nodes", _nodes),
)


def header(family: Family, key: str) -> Markup:
    """What the model is, and what became of it in one run or in all."""
    if not family.runs:
        return join(table(columns.MODELS, bench.models) for bench in family.benches)
    first = family.runs[0]
    runs = top(first, family) if len(family.runs) == 1 else compared(family, key)
    return join(model(first), runs)


def top(run: Report, family: Family) -> Markup:
    """The verdict of a run, its largest figures, and what was asked."""
    options = [[code(each), " "] for each in flags(run)]
    asked = tag("p", "Asked: ", options, class_="asked") if options else None
    return join(verdict(run), tiles(run, family), asked)


def model(run: Report) -> Markup:
    """What the dense model is."""
    row = run.model
    opsets = (f"{d} {v}" if d else f"opset {v}" for d, v in row.opsets.items())
    parts = filter(None, (row.producer, *opsets, numbers.plural(row.nodes, "node")))
    sums = (
        f"{numbers.quantity(row.params)} parameters",
        numbers.size(row.bytes),
        f"{numbers.quantity(row.macs)} MACs",
    )
    ends = [
        (kind, each.name, each.dtype, _sizes(each))
        for kind, tensors in (("Inputs", row.inputs), ("Outputs", row.outputs))
        for each in tensors
    ]
    return join(
        tag("p", " · ".join((*parts, *sums)), class_="soft"),
        folded("Inputs and outputs", table(_TENSORS, ends)),
    )


def verdict(run: Report) -> Markup:
    """Whether every check is good, in a word that needs no colour."""
    if run.command == "inspect":
        return Markup()
    if not run.checks:
        return tag("span", "nothing to check", class_="verdict")
    checks = numbers.plural(len(run.checks), "check")
    if bad := sum(not check.ok for check in run.checks):
        return tag("span", f"✕ {bad} of {checks} bad", class_="verdict bad")
    return tag("span", f"✓ verified, {checks}", class_="verdict good")


def label(run: Report) -> str:
    """What a run is called among others."""
    asked = " ".join(flags(run, only=("ratio", "target", "heads", "blocks", "sparsity", "recover")))
    output = stem(run.output) if run.output else "dry run"
    return f"{output} ({asked})" if asked else output


def tiles(run: Report, family: Family) -> Markup:
    """The figures that matter most, large."""
    figures: list[tuple[str, str, str]] = []
    for row in run.measures:
        if row.name in _SIZES and row.dense and row.pruned is not None:
            before, after = (numbers.measured(v, row.unit) for v in (row.dense, row.pruned))
            ratio = write(row.pruned / row.dense, "ratio")
            figures.append((ratio, row.name, f"{before} → {after}"))
    stands = standing.of_run(run)
    if stands is not None:
        scale, dense, pruned = stands
        unit: Unit = "fraction" if scale.fraction else "number"
        was = f"{numbers.change(dense, pruned, unit)} of {numbers.measured(dense, unit)}"
        figures.append((numbers.measured(pruned, unit), scale.name, was))
    figures += _latency(run, family)
    shown = [
        tag(
            "div",
            tag("dt", what),
            tag("dd", value, class_=None if value[:1].isdigit() else "word"),
            tag("dd", detail, class_="soft"),
        )
        for value, what, detail in figures
    ]
    return tag("dl", shown, class_="tiles") if shown else Markup()


def compared(family: Family, key: str) -> Markup:
    """All runs of a family side by side, with links to them."""
    rows: list[tuple[object, ...]] = []
    for k, run in enumerate(family.runs):
        sizes = (standing.measure(run, name) for name in _SIZES)
        ratios = (numbers.change(m.dense, m.pruned, m.unit) if m else "" for m in sizes)
        stands = standing.of_run(run)
        value, of = Cell(), ""
        if stands is not None:
            value = Cell(stands[2], unit="fraction" if stands[0].fraction else "number")
            of = stands[0].name
        rows.append((Cell(label(run), link=f"#{key}-r{k}"), verdict(run), *ratios, value, of))
    return table(_RUNS, rows)


def details(run: Report) -> Markup:
    """Before and after, outputs, checks and notes."""
    inputs = numbers.plural(run.samples, "unseen input")
    as_given = [replace(row, name=f"{row.name}, as given") for row in run.given]
    outputs = [*as_given, *run.outputs] if run.outputs else []
    return join(
        table(columns.MEASURES, run.measures) if run.measures else None,
        titled(columns.CHECKS, run.checks),
        titled(columns.OUTPUTS, outputs, f"{columns.OUTPUTS.title}, {inputs}"),
        listed("Notes", run.notes),
    )


def structure(run: Report, key: str, couplings: str, most: int) -> Markup:
    """What stays of every group, in the order of the network, and why the rest cannot go.

    Args:
        run: what was pruned.
        key: of the section, unique on the page.
        couplings: key of the section that says what leaves with a unit.
        most: rows of a table.
    """
    removed = sum(row.units - row.kept for row in run.groups)
    groups = numbers.plural(len(run.groups), "group")
    total = f"{numbers.plural(removed, 'unit')} of {groups} removed; bars are what is kept"
    if run.command == "inspect":
        total = f"{groups} can lose units"
    reach = f"Reachable: {columns.reachable(run.reach)}."
    about = f"{total}, in the order of the network. {reach} Params and MACs are those of one unit."
    described = {row.group for row in run.couplings}
    names = [row.name for row in run.groups]
    links = {name: f"#{couplings}-{k}" for k, name in enumerate(names) if name in described}
    kinds = list(dict.fromkeys(row.kind for row in run.groups))
    rows = [
        tools(key, "groups", kinds=kinds),
        table(
            columns.kept(_reasons(run), links),
            run.groups,
            tall=True,
            most=most,
            data=lambda row: {"data_name": row.name, "data_kind": row.kind},
            class_="groups",
            id=f"{key}-rows",
        ),
    ]
    return join(
        tag("p", about),
        rows if run.groups else None,
        titled(columns.BLOCKS, run.blocks, "Blocks", most=most, tall=True),
        tag("div", titled(columns.PINNED, run.pinned, "Pinned", most=most), class_="prose"),
    )


def parts(run: Report, key: str, couplings: str, most: int) -> list[tuple[str, Markup]]:
    """Titles and content of all that a run has to say, of tables of ``most`` rows."""
    sections = [("Result", details(run)), ("Structure", structure(run, key, couplings, most))]
    if run.refits:
        changed = sum(row.method != "none" for row in run.refits)
        about = (
            f"{changed} of {numbers.plural(len(run.refits), 'layer')} refitted. Errors are "
            "relative squared errors of a layer's output on inputs that nothing was fitted to."
        )
        tried = [row for row in run.refits if not row.reason]
        left = columns.counted([row.reason for row in run.refits], "layer")
        content = table(columns.REFITS, tried, tall=True, most=most) if tried else None
        sections.append(("Recovery", join(tag("p", about), content, listed("", left))))
    if run.sparse:
        masked = [row for row in run.sparse if not row.reason]
        left = columns.counted([row.reason for row in run.sparse], "weight")
        content = table(columns.SPARSE, masked, tall=True, most=most) if masked else None
        sections.append(("Thinned weights", join(content, listed("", left))))
    if run.weights or run.stored:
        sections.append(("Storage", _storage(run, most)))
    return sections


def coupling(run: Report, key: str, most: int) -> Markup:
    """What leaves with one unit: a foldable table per group; the script shows one at a time.

    Args:
        run: that says what leaves with a unit.
        key: of the section.
        most: groups, and slices of each twice the fair share.
    """
    each = max(2, 2 * most // max(len(run.groups), 1))
    rows = {row.group: row for row in run.couplings}
    groups = [
        _coupling(row, rows[row.name], f"{key}-{k}", each)
        for k, row in enumerate(run.groups[:most])
        if row.name in rows
    ]
    return join(
        tag(
            "p",
            "Indices that must leave together are one unit. Choose a group to see every tensor "
            "that loses something with one of its units, along which axis, and the nodes that "
            "use it.",
        ),
        tag("div", groups, class_="couplings"),
    )


def _coupling(group: GroupRow, row: CouplingRow, key: str, most: int) -> Markup:
    rest = row.more + max(len(row.slices) - most, 0)
    removal = "exact: removing equals masking" if group.exact else f"inexact: {group.reason}"
    costs = (
        f"{numbers.plural(group.units, 'unit')} of kind {group.kind}; one costs "
        f"{numbers.quantity(group.params)} parameters, {numbers.size(group.bytes)} and "
        f"{numbers.quantity(group.macs)} MACs; {removal}."
    )
    more = f"{numbers.plural(rest, 'more slice')} of this group left out here."
    slices = Table(f"What leaves with one unit of {group.name}", *_SLICES)
    return tag(
        "details",
        tag("summary", code(group.name)),
        tag("p", costs),
        table(slices, row.slices[:most]) if row.slices else None,
        tag("p", more, class_="soft") if rest else None,
        id=key,
        data_group=group.name,
    )


def _storage(run: Report, most: int) -> Markup:
    total = None
    if run.stored:
        before, after = (sum(getattr(row, n) for row in run.stored) for n in ("dense", "stored"))
        ratio = numbers.change(before, after, "bytes")
        total = f"{numbers.size(before)} dense, {numbers.size(after)} stored: {ratio}."
    forms = columns.by_form(run.stored)
    return join(
        table(columns.zeros(run.weights), run.weights, tall=True, most=most) if run.weights else "",
        table(columns.FORMS, forms) if len(forms) > 1 else None,
        table(columns.STORED, run.stored, tall=True, most=most) if run.stored else None,
        tag("p", total) if total else None,
        tag("p", "Sparse storage is not sparse compute: a file shrinks, a run does not."),
    )


def _reasons(run: Report) -> dict[str, str]:
    """Why a group was left alone or is not exact, by group: its own reason, or what a note says."""
    reasons = {row.name: row.reason for row in run.groups if row.reason}
    for note in run.notes:
        for row in run.groups:
            if note.startswith(f"{row.name}: "):
                reasons[row.name] = note.removeprefix(f"{row.name}: ")
    return reasons


def _latency(run: Report, family: Family) -> list[tuple[str, str, str]]:
    """Measured ratios of what this run wrote, one per backend, at the first setting measured."""
    ratios: dict[str, tuple[str, str, str]] = {}
    for bench in family.benches if run.output else ():
        for row in bench.rows:
            ratio = row.ratio
            if ratio is None or _file(bench, row.model) != stem(run.output or ""):
                continue
            value, detail = write(ratio.value, "ratio"), columns.interval(ratio)
            if ratio.low <= 1 <= ratio.high:
                value, detail = "no speed-up", f"{value}, {detail}"
            ratios.setdefault(row.backend, (value, f"latency on {row.backend}", detail))
    return list(ratios.values())


def _file(bench: Bench, model: str) -> str:
    return next((stem(file_name(m)) for m in bench.models if m.name == model), stem(model))
