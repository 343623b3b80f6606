"""The top of a run: the verdict, what was asked, what became of it."""

from __future__ import annotations

from onnxprune import quantities as numbers
from onnxprune.jobs.bench.schema import Bench
from onnxprune.jobs.results.schema import CheckRow, OutputRow, Report, TensorRow
from onnxprune.quantities import Unit
from onnxprune.report.html import standing
from onnxprune.report.html.families import Family, file_name, stem
from onnxprune.report.html.markup import TIMES, Markup, code, folded, join, table, tag
from onnxprune.report.html.reproduce import flags


def header(family: Family, key: str) -> Markup:
    """What the model is, and what became of it in one run or in all."""
    if not family.runs:
        return join(_models(bench) for bench in family.benches)
    one = len(family.runs) == 1
    runs = top(family.runs[0], family) if one else compared(family, key)
    return join(model(family.runs[0]), runs)


def top(run: Report, family: Family) -> Markup:
    """The verdict of a run, its largest figures, and what was asked."""
    return join(verdict(run), tiles(run, family), asked(run))


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
    ends = [("Inputs", row.inputs), ("Outputs", row.outputs)]
    return join(
        tag("p", " · ".join((*parts, *sums)), class_="soft"),
        folded(
            "Inputs and outputs",
            table(
                ("", "name", "type", "shape"),
                [(name, code(t.name), t.dtype, _shape(t)) for name, ts in ends for t in ts],
                caption="Inputs and outputs of the model",
            ),
        ),
    )


def verdict(run: Report) -> Markup:
    """Whether every check is good, in a word that needs no colour."""
    if run.command == "inspect":
        return Markup()
    if not run.checks:
        return tag("span", "nothing to check", class_="verdict")
    bad = sum(not check.ok for check in run.checks)
    if bad:
        word = f"✕ {bad} of {numbers.plural(len(run.checks), 'check')} bad"
        return tag("span", word, class_="verdict bad")
    return tag(
        "span", f"✓ verified, {numbers.plural(len(run.checks), 'check')}", class_="verdict good"
    )


def label(run: Report) -> str:
    """What a run is called among others."""
    asked = " ".join(flags(run, only=("ratio", "target", "heads", "blocks", "sparsity", "recover")))
    made = stem(run.output) if run.output else "dry run"
    return f"{made} ({asked})" if asked else made


def tiles(run: Report, family: Family) -> Markup:
    """The figures that matter most, large."""
    found: list[tuple[str, str, str]] = []
    for row in run.measures:
        if row.name in ("MACs", "parameters", "weights") and row.dense and row.pruned is not None:
            before, after = (numbers.measured(v, row.unit) for v in (row.dense, row.pruned))
            found.append((f"{row.pruned / row.dense:.2f}{TIMES}", row.name, f"{before} → {after}"))
    stands = standing.of_run(run)
    if stands is not None:
        scale, dense, pruned = stands
        unit: Unit = "fraction" if scale.fraction else "number"
        was = f"{numbers.change(dense, pruned, unit)} of {numbers.measured(dense, unit)}"
        found.append((numbers.measured(pruned, unit), scale.name, was))
    found += _latency(run, family)
    shown = [
        tag(
            "div",
            tag("dt", what),
            tag("dd", value, class_=None if value[:1].isdigit() else "word"),
            tag("dd", detail, class_="soft"),
        )
        for value, what, detail in found
    ]
    return tag("dl", shown, class_="tiles") if shown else Markup()


def asked(run: Report) -> Markup:
    """The options of the run, as flags."""
    given = flags(run)
    if not given:
        return Markup()
    return tag("p", "Asked: ", [[code(each), " "] for each in given], class_="asked")


def details(run: Report) -> Markup:
    """Before and after, outputs, checks and notes."""
    parts: list[Markup] = []
    if run.measures:
        rows = [
            (
                row.name,
                numbers.measured(row.dense, row.unit),
                numbers.measured(row.pruned, row.unit),
                numbers.change(row.dense, row.pruned, row.unit),
            )
            for row in run.measures
        ]
        parts.append(
            table(("", "original>", "pruned>", "change>"), rows, caption="Before and after")
        )
    if run.checks:
        parts += [tag("h4", "Checks"), checks(run.checks)]
    if run.outputs:
        inputs = numbers.plural(run.samples, "unseen input")
        parts += [tag("h4", f"Outputs against the original, {inputs}")]
        as_given = [(f"{row.name}, as given", row) for row in run.given]
        parts.append(outputs([*as_given, *((row.name, row) for row in run.outputs)]))
    if run.notes:
        parts += [tag("h4", "Notes"), tag("ul", [tag("li", note) for note in run.notes])]
    return join(parts)


def checks(rows: tuple[CheckRow, ...]) -> Markup:
    """Each check with what was measured and its limit."""
    return table(
        ("check", "", "measured>", "limit>"),
        [
            (
                row.name,
                tag("span", "✓ ok" if row.ok else "✕ bad", class_="good" if row.ok else "bad"),
                numbers.figure(row.value),
                numbers.figure(row.limit),
            )
            for row in rows
        ],
        caption="Checks",
    )


def outputs(rows: list[tuple[str, OutputRow]]) -> Markup:
    """How close each output is to the original's."""
    remarks = any(row.reason or row.broken for _, row in rows)
    heads = ("output", "same top-1>", "KL>", "cosine>", "relative error>", "largest>", "SNR>")
    shown = []
    for name, row in rows:
        decibel = "-" if row.snr_db is None else f"{row.snr_db:.1f} dB"
        measures = (row.kl, row.cosine, row.relative_error, row.max_abs_error)
        cells = [numbers.measured(row.top1, "fraction")]
        cells += [numbers.measured(value, "number") for value in measures]
        said = row.reason or (f"{row.broken} not finite" if row.broken else "")
        shown.append([code(name), *cells, decibel, *([said] if remarks else [])])
    return table(
        [*heads, *([""] if remarks else [])], shown, caption="Outputs against the original"
    )


def compared(family: Family, key: str) -> Markup:
    """All runs of a family side by side, with links to them."""
    rows = []
    for k, run in enumerate(family.runs):
        sizes = [standing.measure(run, name) for name in ("MACs", "parameters", "weights")]
        ratios = [numbers.change(m.dense, m.pruned, m.unit) if m else "" for m in sizes]
        stands = standing.of_run(run)
        unit: Unit = "fraction" if stands and stands[0].fraction else "number"
        value = numbers.measured(stands[2], unit) if stands else "-"
        rows.append(
            (tag("a", label(run), href=f"#{key}-r{k}"), verdict(run), *ratios, value,
             stands[0].name if stands else "")
        )  # fmt: skip
    heads = ("run", "verdict", "MACs>", "parameters>", "weights>", "value>", "of")
    return table(heads, rows, caption="Runs")


def _models(bench: Bench) -> Markup:
    """The models of a benchmark, where no run says more of them."""
    rows = []
    for each in bench.models:
        counts = ("-" if n is None else numbers.quantity(n) for n in (each.params, each.macs))
        rows.append((code(each.name), numbers.size(each.bytes), *counts))
    return table(("model", "file>", "parameters>", "MACs>"), rows, caption="Models")


def _latency(run: Report, family: Family) -> list[tuple[str, str, str]]:
    """Measured ratios of what this run wrote, one per backend, at the first setting measured."""
    if not run.output:
        return []
    found: dict[str, tuple[str, str, str]] = {}
    for bench in family.benches:
        files = {each.name: stem(file_name(each)) for each in bench.models}
        for row in bench.rows:
            ratio = row.ratio
            if ratio is None or files.get(row.model, stem(row.model)) != stem(run.output):
                continue
            value = f"{ratio.value:.2f}{TIMES}"
            detail = f"{ratio.low:.2f} to {ratio.high:.2f}{TIMES}"
            if ratio.low <= 1 <= ratio.high:
                value, detail = "no speed-up", f"{value}, {detail}"
            found.setdefault(row.backend, (value, f"latency on {row.backend}", detail))
    return list(found.values())


def _shape(row: TensorRow) -> str:
    if row.shape is None:
        return "unknown"
    return f" {TIMES} ".join("?" if each is None else str(each) for each in row.shape) or "scalar"
