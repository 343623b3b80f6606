"""One run: its verdict and largest figures, its parts, and the slices of each unit."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune import quantities as numbers
from onnxprune.jobs.bench.schema import Bench
from onnxprune.jobs.results.couplings import CouplingRow, SliceRow
from onnxprune.jobs.results.schema import GroupRow, Report, TensorRow
from onnxprune.report import columns, sections, standing
from onnxprune.report.families import Family, file_name, stem
from onnxprune.report.html.markup import (
    TIMES,
    Markup,
    code,
    drawn,
    folded,
    join,
    listed,
    table,
    tag,
)
from onnxprune.report.html.reproduce import flags
from onnxprune.report.sections import Verdict
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
    """The model, and the outcomes of one run or of all."""
    if not family.runs:
        sizes = [each.models for each in family.assessments]
        sizes += [each.models for each in family.benches]
        return join(table(columns.MODELS, rows) for rows in sizes if rows)
    first = family.runs[0]
    runs = top(first, family) if len(family.runs) == 1 else compared(family, key)
    return join(model(first), runs)


def top(run: Report, family: Family) -> Markup:
    """The verdict of a run, its largest figures, and its options."""
    options = [[code(each), " "] for each in flags(run)]
    line = tag("p", "Options: ", options, class_="options") if options else None
    return join(*judged(sections.verdicts(run)), tiles(run, family), line)


def judged(verdicts: Sequence[Verdict]) -> list[Markup]:
    """Verdicts, and below them what decided."""
    words = [
        tag("p", f"{each.subject} {each.word}: {each.details}.", class_="soft")
        for each in verdicts
        if each.details
    ]
    return [chips(verdicts), *words]


def model(run: Report) -> Markup:
    """What the dense model is."""
    row = run.model
    ends = [
        (kind, each.name, each.dtype, _sizes(each))
        for kind, tensors in (("Inputs", row.inputs), ("Outputs", row.outputs))
        for each in tensors
    ]
    return join(
        tag("p", ", ".join(sections.model_facts(run)), class_="soft"),
        folded("Inputs and outputs", table(_TENSORS, ends)),
    )


def chips(verdicts: Sequence[Verdict]) -> Markup:
    """The verdicts on structure and quality, in words that need no colour."""
    marks = {"good": "✓ ", "bad": "✕ ", "warn": "! "}
    spans = []
    for each in verdicts:
        words = f"{each.subject}: {each.word}" if each.subject else each.word
        text = f"{marks.get(each.tone, '')}{words}"
        spans += [tag("span", text, class_=f"verdict {each.tone}", title=each.details or None), " "]
    return join(spans)


def label(run: Report) -> str:
    """What a run is called among others."""
    request = " ".join(
        flags(run, only=("ratio", "target", "heads", "blocks", "sparsity", "recover"))
    )
    output = stem(run.output) if run.output else "dry run"
    return f"{output} ({request})" if request else output


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
        unit = stands.scale.unit
        was = f"{numbers.change(stands.dense, stands.value, unit)}"
        half = columns.spread(stands.error, unit)
        was += "" if half is None else f" ± {half} (95 %)"
        was += f", from {numbers.measured(stands.dense, unit)}"
        figures.append((numbers.measured(stands.value, unit), stands.scale.name, was))
    figures += _latency(run, family)
    entries = [
        tag(
            "div",
            tag("dt", what),
            tag("dd", value, class_=None if value[:1].isdigit() else "word"),
            tag("dd", detail, class_="soft"),
        )
        for value, what, detail in figures
    ]
    return tag("dl", entries, class_="tiles") if entries else Markup()


def compared(family: Family, key: str) -> Markup:
    """All runs of a family side by side, with links to them."""
    rows: list[tuple[object, ...]] = []
    for k, run in enumerate(family.runs):
        sizes = (standing.measure(run, name) for name in _SIZES)
        ratios = (numbers.change(m.dense, m.pruned, m.unit) if m else "" for m in sizes)
        stands = standing.of_run(run)
        value, of = Cell(), ""
        if stands is not None:
            value, of = Cell(stands.value, unit=stands.scale.unit), stands.scale.name
        rows.append(
            (
                Cell(label(run), link=f"#{key}-r{k}"),
                chips(sections.verdicts(run)),
                *ratios,
                value,
                of,
            )
        )
    return table(_RUNS, rows)


def parts(run: Report, key: str, couplings: str, most: int) -> list[tuple[str, Markup]]:
    """Titles and content of all that a run has to say, by section.

    Args:
        run: what was pruned.
        key: of the section, unique on the page.
        couplings: key of the section that says what leaves with a unit.
        most: rows of a table.
    """
    described = {row.group for row in run.couplings}
    names = [row.name for row in run.groups]
    links = {name: f"#{couplings}-{k}" for k, name in enumerate(names) if name in described}
    content_by_section: dict[str, list[Markup]] = {}
    for part in sections.of_run(run, links):
        if part.only != "terminal":
            content_by_section.setdefault(part.section, []).append(drawn(part, key, most))
    if reach := content_by_section.get("Structure"):
        reach.insert(0, tag("p", f"Reachable: {columns.reachable(run.reachable)}."))
    content_by_section.setdefault("Result", []).append(listed("Notes", sections.notes(run)))
    return [
        (section, join(content)) for section, content in content_by_section.items() if any(content)
    ]


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
    more = f"{numbers.plural(rest, 'more slice')} of this group are not shown here."
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
