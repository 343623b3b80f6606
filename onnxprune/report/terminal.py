"""Results on a terminal: tables without lines, in the order a reader asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console, Group, RenderableType
from rich.text import Text

from onnxprune.quantities import change, measured, percent, plural, quantity, size
from onnxprune.report import columns
from onnxprune.report.standing import metric_scale
from onnxprune.report.tables import Fitted, Table, draw, inset, noted, spaced, titled

if TYPE_CHECKING:
    from onnxprune.jobs.advise.evidence import Evidence, Spent
    from onnxprune.jobs.advise.methods import Advice
    from onnxprune.jobs.bench.schema import Bench, Row
    from onnxprune.jobs.results import schema
    from onnxprune.jobs.results.schema import OutputRow, PointRow, Report
    from onnxprune.jobs.results.weights import StoredRow, ZerosRow
    from onnxprune.runtime.registry import Availability, Backend
    from onnxprune.select.sensitivity import Sensitivity
    from onnxprune.sparse.eligibility import Layer

Tried = TypeVar("Tried", "schema.RefitRow", "schema.SparseRow")

_WORST, _LARGEST, _OPERATORS = 10, 12, 5
_DIM, _HEAD = "dim", "bold"


def show(report: Report, console: Console) -> None:
    """Print everything a report has to say that its command was asked for."""
    console.print(inspection(report) if report.command == "inspect" else result(report))


def inspection(report: Report) -> RenderableType:
    """What the model is, what can be removed, and what cannot and why."""
    groups: RenderableType = Text("No unit of this model can be removed.")
    if report.groups:
        under = Text("params and MACs are those of one unit", _DIM)
        groups = Group(draw(columns.GROUPS, report.groups), under)
    parts = [model(report.model), titled(plural(len(report.groups), "group"), groups)]
    if report.blocks:
        title = plural(len(report.blocks), "block")
        parts.append(titled(title, draw(columns.BLOCKS, report.blocks)))
    pinned = [row for row in report.pinned if row.params]
    if pinned:
        parts.append(titled("Not prunable", draw(columns.PINNED, pinned)))
    if report.weights:
        title = f"Zeros in {plural(len(report.weights), 'weight')}"
        parts.append(titled(title, zeros(report.weights)))
    return spaced([*parts, reach(report.reach), *noted(report.notes)])


def result(report: Report) -> RenderableType:
    """What is removed, what that costs and gains, and whether it is right."""
    removed = sum(row.units - row.kept for row in report.groups)
    touched = [row for row in report.groups if row.kept < row.units]
    title = f"{plural(removed, 'unit')} removed from {plural(len(touched), 'group')}"
    kept = draw(columns.kept({}, {}), touched)
    parts: list[RenderableType] = [titled(title, kept) if touched else Text(title)]
    bypassed = [row for row in report.blocks if row.bypassed]
    if bypassed:
        title = f"{plural(len(bypassed), 'block')} bypassed"
        parts.append(titled(title, draw(columns.BLOCKS, bypassed)))
    if report.refits:
        changed = sum(row.method != "none" for row in report.refits)
        title = f"{changed} of {plural(len(report.refits), 'layer')} refitted"
        parts.append(
            titled(title, layers(columns.REFITS, report.refits, "layer", "largest error left"))
        )
    if report.sparse:
        masked = sum(not row.reason for row in report.sparse)
        title = f"{masked} of {plural(len(report.sparse), 'weight')} thinned"
        parts.append(
            titled(title, layers(columns.SPARSE, report.sparse, "weight", "largest error"))
        )
    if report.stored:
        parts.append(titled("Stored", stored(report.stored)))
    if report.measures:
        parts.append(titled("Before and after", draw(columns.MEASURES, report.measures)))
    if report.outputs:
        title = f"Outputs against the original, {plural(report.samples, 'unseen input')}"
        as_given = [replace(row, name=f"{row.name}, as given") for row in report.given]
        parts.append(titled(title, draw(columns.OUTPUTS, [*as_given, *report.outputs])))
    if report.points:
        title = f"{plural(len(report.points), 'model')} visited"
        parts.append(titled(title, points(report.points)))
    if report.checks:
        parts.append(titled("Checks", draw(columns.CHECKS, report.checks)))
    return spaced([*parts, *noted(report.notes)])


def model(row: schema.ModelRow) -> RenderableType:
    """Name, origin, inputs, outputs and size."""
    opsets = ", ".join(
        f"{domain} {version}" if domain else f"opset {version}"
        for domain, version in row.opsets.items()
    )
    origin = ", ".join(filter(None, (row.producer, opsets, plural(row.nodes, "node"))))
    facts = [("input", _tensor(each)) for each in row.inputs]
    facts += [("output", _tensor(each)) for each in row.outputs]
    sums = f"{quantity(row.params)} parameters, {size(row.bytes)}, {quantity(row.macs)} MACs"
    facts.append(("size", sums))
    shapes = ", ".join(f"{name} {columns.shape(sizes)}" for name, sizes in row.analysed.items())
    facts += [("at", shapes)] if shapes else []
    head = Text.assemble((row.name, _HEAD), "  ", (origin, _DIM))
    return Group(head, inset(draw(columns.FACTS, facts)))


def reach(row: schema.Reach) -> RenderableType:
    """How much of the model pruning can touch."""
    return Text.assemble(("Reachable: ", _HEAD), (columns.reachable(row), "default"))


def layers(table: Table[Tried], rows: Sequence[Tried], what: str, largest: str) -> RenderableType:
    """Errors on held-out inputs before and after, the largest first; and what was left, by reason.

    Args:
        table: its columns.
        rows: layers or weights; those that were not tried have a reason.
        what: one of them is called.
        largest: which of them are shown, if not all.
    """
    tried = sorted((row for row in rows if not row.reason), key=lambda row: -(row.after or 0.0))
    more = f"the {_WORST} with the {largest}; --json lists all" if len(tried) > _WORST else ""
    left = columns.counted([row.reason for row in rows], what)
    return Group(*([draw(table, tried, most=_WORST)] if tried else []), *_under(more, *left))


def zeros(rows: Sequence[ZerosRow]) -> RenderableType:
    """Zeros, pattern and bytes in each form, the largest weights first; and what all take."""
    from onnxprune.sparse.encodings.table import ENCODINGS

    ordered = sorted(rows, key=lambda row: -row.bytes["dense"])
    table = draw(columns.zeros(rows, tuple(ENCODINGS)), ordered, most=_LARGEST)
    more = f"the {_LARGEST} largest of {len(rows)}; --json lists all"
    dense = sum(row.bytes["dense"] for row in rows)
    least = sum(min(row.bytes.values()) for row in rows)
    return Group(
        table,
        *_under(more if len(rows) > _LARGEST else ""),
        Text(f"{size(dense)} dense, {size(least)} in the smallest form of each (onnxprune store)"),
        *_under("sparse storage is not sparse compute: a file shrinks, a run does not"),
    )


def stored(rows: Sequence[StoredRow]) -> RenderableType:
    """How many weights each form holds and what that saves; and why others stayed as they were."""
    remarks = columns.counted([row.remark for row in rows], "weight", "")
    return Group(draw(columns.FORMS, columns.by_form(rows)), *_under(*remarks))


def storing(
    rows: Sequence[StoredRow],
    sizes: tuple[int, int],
    checks: Sequence[schema.CheckRow],
    notes: Sequence[str],
    unread: Sequence[str] = (),
) -> RenderableType:
    """All that a command says that writes weights in another form.

    Args:
        rows: what became of every weight.
        sizes: bytes of the files before and after.
        checks: of what was written.
        notes: whole sentences.
        unread: tools that cannot read it.
    """
    before, after = sizes
    line = f"{size(before)} -> {size(after)}, {change(before, after, 'bytes')}"
    parts = [stored(rows)] if rows else []
    parts.append(Text.assemble(("File: ", _HEAD), line))
    if unread:
        parts.append(Group(Text("Cannot be read by", _HEAD), *(Text(f"  {t}") for t in unread)))
    if checks:
        parts.append(draw(columns.CHECKS, checks))
    return spaced([*parts, *noted(notes)])


def points(rows: Sequence[PointRow]) -> RenderableType:
    """What every visited model costs and loses, the largest first, with what is known of errors."""
    metric = rows[0].metric
    table = draw(columns.points(metric), sorted(rows, key=lambda row: (-row.macs, -row.params)))
    about = f"on {plural(rows[0].samples, 'input')}; +- is one standard error of what is lost"
    return Group(table, *_under(about + (", in points" if metric_scale(metric).fraction else "")))


def bench(result: Bench) -> RenderableType:
    """Latencies by backend, outputs, what was not measured, and where all this was."""
    parts: list[RenderableType] = [draw(columns.MODELS, result.models)]
    for (backend, batch, threads), group in groupby(
        result.rows, lambda row: (row.backend, row.batch, row.threads)
    ):
        rows = list(group)
        words = [f"batch {batch}", plural(threads, "thread") if threads else "its own threads"]
        words += [rows[0].precision, rows[0].version]
        head = Text.assemble((backend, _HEAD), "  ", (", ".join(words), _DIM))
        parts.append(Group(head, inset(draw(columns.LATENCY, rows))))
    compared = list(_compared(result.rows))
    if compared:
        title = "Outputs against the first model's, on the same backend"
        parts.append(titled(title, draw(columns.OUTPUTS, compared)))
    floors = [
        replace(row, name=f"{floor.backend} against {floor.against}: {row.name}")
        for floor in result.noise_floor
        for row in floor.outputs
    ]
    if floors:
        title = "Noise floor: the first model twice"
        parts.append(titled(title, draw(columns.OUTPUTS, floors)))
    scored = [row for row in result.rows if row.score is not None]
    if scored:
        parts.append(titled("Task", draw(columns.SCORES, scored)))
    if result.declined:
        parts.append(titled("Not measured", draw(columns.DECLINED, result.declined)))
    here = result.environment
    loads = ", ".join(f"{each:g}" for each in here.load_average)
    clock = f", {min(here.clock_mhz):.0f} MHz" if here.clock_mhz else ""
    machine = f"{here.cpu}, {plural(here.cores, 'core')}{clock}, load average {loads}; {here.os}"
    return spaced([*parts, Text(machine, _DIM), *noted(result.notes)])


def backends(states: Sequence[tuple[Backend, Availability]]) -> RenderableType:
    """Which backends can be measured on here, and how to get the others."""
    ready = [(one.name, one.summary, state.version) for one, state in states if state.ok]
    absent = [(o.name, o.summary, state.reason, o.install) for o, state in states if not state.ok]
    return spaced([draw(columns.AVAILABLE, ready), draw(columns.ABSENT, absent)])


def sweep(result: Sensitivity) -> RenderableType:
    """The heat-map of a sweep, what is missing in it, and the ratios it recommends."""
    dense = measured(result.dense, columns.unit_of(result))
    head = f"{result.model}  {result.metric} {dense} dense, {plural(result.samples, 'input')}"
    heat = Fitted(columns.targets(result), result.targets)
    parts: list[RenderableType] = [Text(head, _HEAD), Group(heat, *_under(_legend(result)))]
    failed = [f"  {c.target} at {c.ratio:g}: {c.reason}" for c in result.cells if c.reason]
    if failed:
        parts.append(Group(Text("Not measured", _HEAD), *map(Text, failed)))
    if result.declined:
        reasons = Counter(result.declined.values()).most_common()
        lines = _under(*(f"  {number} because: {reason}" for reason, number in reasons))
        parts.append(Group(Text("Not swept", _HEAD), *lines))
    return spaced([*parts, *_advised(result), *noted(result.notes)])


def advice(known: Evidence, advised: tuple[Advice, ...]) -> RenderableType:
    """Where time goes, what to do about it, and what to run next."""
    sizes = known.sizes
    head = (
        f"{known.model}  {quantity(sizes.macs)} MACs, {quantity(sizes.params)} parameters, "
        f"{size(sizes.bytes)}; {percent(sizes.reachable)} of the parameters can be removed"
    )
    parts: list[RenderableType] = [Text(head), *(_spent(each) for each in known.spent)]
    parts += [
        Text.assemble((backend, _HEAD), "  not measured: ", reason)
        for backend, reason in known.unmeasured
    ]
    under = _under("latency and weights: what is left at best")
    parts.append(titled("Advice", Group(draw(columns.ADVICE, advised), *under)))
    commands = dict.fromkeys(each.command for each in advised if each.command)
    if commands:
        lines = [Text(line, no_wrap=True, overflow="ignore") for line in commands]
        parts.append(titled("Next", Group(*lines)))
    facts = dict.fromkeys(each.fact for each in advised if each.word != "does not pay")
    if facts:
        lines = [Text.assemble(f"{fact.says} ", (f"({fact.source})", _DIM)) for fact in facts]
        parts.append(titled("Because", Group(*lines)))
    busy = "the machine was busy: shares of a run are rough, look again when it is not"
    return spaced([*parts, *noted([busy] if known.busy else [])])


def eligible(layers: Sequence[Layer], tensorrt: Mapping[str, str] | None = None) -> RenderableType:
    """Layers with whether they may be 2:4, a sum, and notes.

    Args:
        layers: what the rule says.
        tensorrt: what TensorRT said, by node, where it was asked.
    """
    if not layers:
        return Text("No layer multiplies with a stored weight.")
    once = dict.fromkeys(note for each in layers for note in each.notes)
    notes = {note: number for number, note in enumerate(once, start=1)}
    total = max(sum(each.elements for each in layers), 1)
    sums = []
    for state, word in (
        ("eligible", "eligible"),
        ("dense", "could be, but dense"),
        ("never", "never"),
    ):
        own = [each.elements for each in layers if each.state == state]
        if own:
            weights = f"{quantity(sum(own))} weights, {percent(sum(own) / total)}"
            sums.append(f"{plural(len(own), 'layer')} {word} ({weights})")
    lines = [f"[{number}] {note}" for note, number in notes.items()]
    table = draw(columns.layers(notes, tensorrt), layers)
    return spaced([table, Group(Text("; ".join(sums)), *_under(*lines))])


def _spent(spent: Spent) -> RenderableType:
    from onnxprune.jobs.advise.evidence import CONTRACTIONS

    head = Text.assemble(
        (spent.backend, _HEAD),
        f"  {measured(spent.run_s, 'seconds')} a run, {spent.precision}; "
        f"{percent(spent.contractions)} in convolutions and products, "
        f"{percent(spent.overhead)} between operators",
    )
    rows = [
        (
            row.op,
            row.calls,
            row.seconds,
            row.seconds / spent.undisturbed_s,
            "shrinks with its sizes" if row.op in CONTRACTIONS else "",
        )
        for row in spent.operators[:_OPERATORS]
    ]
    table = draw(columns.OPERATORS, rows)
    rest = len(spent.operators) - _OPERATORS
    under = _under(f"and {plural(rest, 'kind')} more" if rest > 0 else "")
    return Group(head, inset(Group(table, *under)))


def _legend(result: Sensitivity) -> str:
    fraction = columns.unit_of(result) == "fraction"
    errors = [c.drop_error for c in result.cells if c.drop_error is not None]
    largest = max(errors, default=0.0) * (100 if fraction else 1)
    error = f", standard error up to {largest:.2g}" if errors else ""
    what = f"{'points of ' if fraction else ''}{result.metric} lost"
    return f"{what}{error}; one target pruned at a time, nothing refitted"


def _advised(result: Sensitivity) -> list[RenderableType]:
    advice = result.recommended
    if advice is None:
        return []
    fraction = columns.unit_of(result) == "fraction"
    drop = f"{advice.drop * 100:g} points" if fraction else f"{advice.drop:.3g}"
    if not advice.ratios or advice.measured is None:
        return [Text(f"No ratios cost at most {drop} of {result.metric} together", _HEAD)]
    cost = f"{advice.measured * 100:.2f} points" if fraction else f"{advice.measured:.3g}"
    total = (
        f"together, before anything is refitted: {cost} lost, "
        f"{advice.macs:.3f}x MACs, {advice.params:.3f}x parameters"
    )
    table = draw(columns.RATIOS, [(n, percent(ratio)) for n, ratio in advice.ratios.items()])
    return [titled(f"Ratios for a drop of {drop}", Group(table, *_under(total)))]


def _compared(rows: Iterable[Row]) -> Iterable[OutputRow]:
    seen = set()
    for row in rows:
        if row.fidelity and (row.model, row.backend) not in seen:
            seen.add((row.model, row.backend))
            for each in row.fidelity:
                yield replace(each, name=f"{row.model} on {row.backend}: {each.name}")


def _tensor(row: schema.TensorRow) -> str:
    if row.shape is None:
        return f"{row.name}: {row.dtype}"
    sizes = ", ".join("?" if each is None else str(each) for each in row.shape)
    return f"{row.name}: {row.dtype} [{sizes}]"


def _under(*lines: str) -> list[Text]:
    """What is said below a table, softly; empty lines are left out."""
    return [Text(line, _DIM) for line in lines if line]
