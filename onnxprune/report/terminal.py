"""Results on a terminal: tables without lines, outcomes first, details with ``-v``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from onnxprune.quantities import change, measured, percent, plural, quantity, size
from onnxprune.report import columns, sections
from onnxprune.report.sections import Part, Verdict
from onnxprune.report.tables import STYLES, draw, inset, noted, spaced, titled

if TYPE_CHECKING:
    from onnxprune.config import BuildOptions
    from onnxprune.jobs.advise.evidence import Evidence, Spent
    from onnxprune.jobs.advise.methods import Advice
    from onnxprune.jobs.assessed import Assessed
    from onnxprune.jobs.bench.schema import Bench
    from onnxprune.jobs.quantize import Quantized
    from onnxprune.jobs.results import schema
    from onnxprune.jobs.results.schema import Report
    from onnxprune.jobs.results.weights import StoredRow
    from onnxprune.runtime.engines import Built
    from onnxprune.runtime.registry import Availability, Backend
    from onnxprune.select.sensitivity import Sensitivity
    from onnxprune.sparse.eligibility import Layer

_OPERATORS, _TARGETS = 5, 24
_DIM, _HEAD = "dim", "bold"


def show(report: Report, console: Console, *, verbose: bool = False) -> None:
    """Print a report: its outcomes, and with ``verbose`` the details."""
    view = inspection if report.command == "inspect" else result
    console.print(view(report, verbose=verbose), crop=False)  # notes in a file are whole lines


def inspection(report: Report, *, verbose: bool = False) -> RenderableType:
    """The model, its prunable groups, and the reasons why other axes stay."""
    head: list[RenderableType] = [model(report)]
    if not report.groups:
        head.append(Text("No unit of this model can be removed."))
    reach = Text.assemble(("Reachable: ", _HEAD), columns.reachable(report.reachable))
    return listed(sections.of_run(report), report.notes, verbose=verbose, head=head, foot=[reach])


def result(report: Report, *, verbose: bool = False) -> RenderableType:
    """The verdict, sizes and quality, and the removals."""
    head = _verdicts(sections.verdicts(report), _written(report.model.name, report.output))
    notes = sections.notes(report)
    return listed(sections.of_run(report), notes, verbose=verbose, head=[head])


def _written(source: str, output: str | None) -> str:
    """What a result was made of, and where it was written."""
    return f"  {source} -> {output}" if output else f"  {source}, nothing written"


def _verdicts(verdicts: Sequence[Verdict], where: str) -> Group:
    """The first lines of a result: its verdicts, and which files it is about."""
    lines = []
    for number, each in enumerate(verdicts):
        subject = f"{each.subject}: " if each.subject else ""
        details = f", {each.details}" if each.details else ""
        word = (each.word, f"bold {STYLES.get(each.tone, '')}")
        lines.append(Text.assemble(subject, word, details, "" if number else where))
    return Group(*lines)


def listed(
    parts: Iterable[Part],
    notes: Iterable[str] = (),
    *,
    verbose: bool,
    head: Sequence[RenderableType] = (),
    foot: Sequence[RenderableType] = (),
    hidden: Sequence[str] = (),
) -> RenderableType:
    """Parts of a result, outcomes first; of details their titles, and what ``-v`` would list."""
    shown: list[RenderableType] = list(head)
    titles: list[Text] = []
    more = list(hidden)
    for part in parts:
        rows = part.shown()
        if part.only == "page":
            continue
        if part.detail and not verbose:
            titles.append(Text(part.title, _HEAD))
            more += [part.detail] if rows or part.under else []
        else:
            shown.append(titled(part.title, _body(part, rows, verbose=verbose)))
            labels = [] if verbose else part.table.details(rows)
            more += [each for each in labels if each not in more]
    shown += [Group(*titles)] if titles else []
    shown += [*foot, *noted(notes)]
    if more:
        shown.append(Text(f"-v shows {', '.join(more)}", _DIM))
    return spaced(shown)


def _body(part: Part, rows: Sequence[Any], *, verbose: bool) -> RenderableType:
    more = ""
    if part.most is not None and len(rows) > part.most:
        more = f"the {part.most} with the {part.which} of {len(rows)}; --json lists all"
    table = draw(part.table, rows, most=part.most, verbose=verbose)
    return Group(*([table] if rows else []), *_under(more, *part.under))


def model(report: Report) -> RenderableType:
    """Name, origin, inputs, outputs and size."""
    row = report.model
    origin, sums = sections.model_facts(report)
    facts = [("input", _tensor(each)) for each in row.inputs]
    facts += [("output", _tensor(each)) for each in row.outputs]
    facts.append(("size", sums))
    shapes = ", ".join(f"{name} {columns.shape(sizes)}" for name, sizes in row.analysed.items())
    facts += [("at", shapes)] if shapes else []
    head = Text.assemble((row.name, _HEAD), "  ", (origin, _DIM))
    return Group(head, inset(draw(columns.FACTS, facts)))


def storing(
    rows: Sequence[StoredRow],
    sizes: tuple[int, int],
    checks: Sequence[schema.CheckRow],
    notes: Sequence[str],
    unread: Sequence[str] = (),
    *,
    files: tuple[str, str | None] | None = None,
    verbose: bool = False,
) -> RenderableType:
    """All that a command says that writes weights in another form.

    Args:
        rows: what became of every weight.
        sizes: bytes of the files before and after.
        checks: of what was written.
        notes: whole sentences.
        unread: tools that cannot read it.
        files: names of both files, None for one that was not kept; shown with the verdict.
        verbose: whether every weight is listed.
    """
    before, after = sizes
    line = f"{size(before)} -> {size(after)}, {change(before, after, 'bytes')}"
    head: list[RenderableType] = [Text.assemble(("File: ", _HEAD), line)]
    if files is not None:
        head.insert(0, _verdicts([Verdict("", *sections.judged(checks))], _written(*files)))
    if unread:
        head.append(Group(Text("Cannot be read by", _HEAD), *(Text(f"  {t}") for t in unread)))
    parts = sections.stored(rows) if rows else []
    if checks:
        table = columns.checks()
        parts.insert(0, Part("", table.title, table, checks))
    return listed(parts, notes, verbose=verbose, head=head)


def quantized(
    result: Quantized, source: str, output: str | None, *, verbose: bool = False
) -> RenderableType:
    """The verdict, and what became of the size, the outputs, the checks and the weights.

    Args:
        result: the quantized model.
        source: the name of the float model.
        output: the file that was written; None if none was.
        verbose: whether every weight is listed.
    """
    verdicts = [sections.structure(result.structure), sections.quality(result.quality)]
    head = [_verdicts(verdicts, _written(source, output))]
    return listed(sections.of_quantized(result), result.notes, verbose=verbose, head=head)


def assessed(document: Assessed, *, verbose: bool = False) -> RenderableType:
    """The verdicts on a model, its metric, its outputs and its tails.

    Args:
        document: of `eval`.
        verbose: whether every figure is shown.
    """
    against = f", against {Path(document.against).name}" if document.against else ""
    head = _verdicts(
        sections.assessment_verdicts(document), f"  {Path(document.model).name}{against}"
    )
    parts = sections.of_assessment(document)
    return listed(parts, document.notes, verbose=verbose, head=[head])


def built(
    result: Built,
    request: BuildOptions,
    engine: Path,
    same: Mapping[str, str],
    notes: Sequence[str],
    *,
    verbose: bool = False,
) -> RenderableType:
    """An engine, the messages of TensorRT, and equivalent commands.

    Args:
        result: the engine and the messages of its build.
        request: its options.
        engine: where it was written.
        same: commands by the name of their tool.
        notes: whole sentences.
        verbose: whether every layer is listed.
    """
    targets = ", ".join(f"{a}.{b}" for a, b in request.compute_capability)
    head = f"{engine}  {size(len(result.plan))}, {result.runtime.title} {result.runtime.version}"
    head += f", for {targets}" if targets else ""
    warnings = [each for each in result.messages if "(Sparsity)" not in each]
    lines: list[RenderableType] = [
        Group(
            Text(f"{head}, built in {columns.TIME.text(result.seconds)}"),
            *(Text(each, "yellow") for each in warnings),
        )
    ]
    parts = []
    if result.layers:
        picked = sum(each.picked for each in result.layers)
        eligible = plural(sum(bool(each.eligible) for each in result.layers), "layer")
        title = f"{eligible} eligible for sparse math, {picked} picked"
        rows = [("picked" if each.picked else "", each.name) for each in result.layers]
        parts = [Part("", title, columns.SPARSE_LAYERS, rows, detail="every eligible layer")]
    # Whole lines, however long: they are there to be copied.
    commands = [Text(f"  {line}", no_wrap=True, overflow="ignore") for line in same.values()]
    foot = Group(Text("the same with NVIDIA's tools:", _DIM), *commands)
    return listed(parts, notes, verbose=verbose, head=lines, foot=[foot])


def bench(result: Bench, *, verbose: bool = False) -> RenderableType:
    """Latencies by backend, outputs, what was not measured, and where all this was."""
    models: RenderableType = draw(columns.MODELS, result.models)
    where = Text(sections.machine(result), _DIM)
    parts = sections.of_bench(result)
    return listed(parts, result.notes, verbose=verbose, head=[models], foot=[where])


def backends(states: Sequence[tuple[Backend, Availability]]) -> RenderableType:
    """Which backends can be measured on here, and how to get the others."""
    ready = [(one.name, one.summary, state.version) for one, state in states if state.ok]
    absent = [(o.name, o.summary, state.reason, o.install) for o, state in states if not state.ok]
    return spaced([draw(columns.AVAILABLE, ready), draw(columns.ABSENT, absent)])


def sweep(result: Sensitivity, *, verbose: bool = False) -> RenderableType:
    """The heat-map of a sweep, the ratios it recommends, and what is missing in it."""
    targets = result.targets if verbose else sections.most_sensitive(result, _TARGETS)
    under = [sections.heat_about(result)]
    hidden = []
    if len(targets) < len(result.targets):
        under.append(f"the {len(targets)} most sensitive of {len(result.targets)} targets")
        hidden = [f"all {plural(len(result.targets), 'target')}"]
    heat = Group(draw(columns.targets(result), targets), *_under(*under))
    head: list[RenderableType] = [Text(sections.heat_head(result), _HEAD), heat]
    advice = result.recommended
    if advice is not None and not advice.ratios:
        head.append(Text(sections.advised(result), _HEAD))
    foot: list[RenderableType] = []
    if advice is not None and advice.command:
        foot.append(_next([advice.command]))
    parts = sections.of_sweep(result)
    return listed(parts, result.notes, verbose=verbose, head=head, foot=foot, hidden=hidden)


def advice(
    evidence: Evidence, advised: tuple[Advice, ...], *, verbose: bool = False
) -> RenderableType:
    """The advice, the next command and the reason, and the operators of a run."""
    sizes = evidence.sizes
    head = (
        f"{evidence.model}  {sections.sizes(sizes.params, sizes.bytes, sizes.macs)}; "
        f"{percent(sizes.reachable)} of the parameters can be removed"
    )
    parts: list[RenderableType] = [Text(head)]
    under = _under(sections.ADVICE_ABOUT)
    parts.append(titled("Advice", Group(draw(columns.ADVICE, advised), *under)))
    reasons = [(f"{r.method} on {r.backend}" if r.backend else r.method, r.why) for r in advised]
    lines = [Text.assemble((f"{what}: ", _HEAD), why) for what, why in reasons]
    parts.append(titled("Why", Group(*lines)))
    commands = dict.fromkeys(each.command for each in advised if each.command)
    if commands:
        parts.append(_next(commands))
    facts = dict.fromkeys(each.fact for each in advised if each.word != "does not pay")
    if facts:
        lines = [Text.assemble(f"{fact.says} ", (f"({fact.source})", _DIM)) for fact in facts]
        parts.append(titled("Because", Group(*lines)))
    parts += [_spent(each, verbose=verbose) for each in evidence.spent]
    parts += [
        Text.assemble((backend, _HEAD), "  not measured: ", reason)
        for backend, reason in evidence.unmeasured
    ]
    busy = "the machine was busy: latency is the share of the processor's time that remains, and "
    busy += "shares of a run are rough; look again when it is not"
    parts += noted([busy] if evidence.busy else [])
    if evidence.spent and not verbose:
        parts.append(Text("-v shows the operators that a run is spent in", _DIM))
    return spaced(parts)


def _next(commands: Iterable[str]) -> RenderableType:
    """Commands to run next: whole lines, however long, for they are there to be copied."""
    lines = [Text(f"  {line}", no_wrap=True, overflow="ignore") for line in commands]
    return Group(Text("Next", _HEAD), *lines)


def eligible(layers: Sequence[Layer], tensorrt: Mapping[str, str] | None = None) -> RenderableType:
    """Layers with whether they may be 2:4, a sum, and notes.

    Args:
        layers: what the rule says.
        tensorrt: the words of TensorRT by node; None without a log.
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
    return spaced([Text("; ".join(sums), _HEAD), Group(table, *_under(*lines))])


def _spent(spent: Spent, *, verbose: bool) -> RenderableType:
    from onnxprune.jobs.advise.evidence import CONTRACTIONS

    head = Text.assemble(
        (spent.backend, _HEAD),
        f"  {measured(spent.run_s, 'seconds')} a run, {spent.precision}; "
        f"{percent(spent.contractions)} in convolutions and products, "
        f"{percent(spent.overhead)} between operators",
    )
    if not verbose:
        return head
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


def _tensor(row: schema.TensorRow) -> str:
    if row.shape is None:
        return f"{row.name}: {row.dtype}"
    sizes = ", ".join("?" if each is None else str(each) for each in row.shape)
    return f"{row.name}: {row.dtype} [{sizes}]"


def _under(*lines: str) -> list[Text]:
    """What is said below a table, softly; empty lines are left out."""
    return [Text(line, _DIM) for line in lines if line]
