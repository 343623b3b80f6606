"""What a result consists of, in the order it is read: declared once, drawn by terminal and page.

A `Part` is a title that says what happened in a sentence, and a table of its details. The page
draws all parts; a terminal draws the outcome, and of details their titles unless ``-v`` asks for
more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onnxprune.quantities import (
    change,
    measured,
    percent,
    plural,
    quantity,
    size,
    spread,
    times,
)
from onnxprune.report import columns, standing
from onnxprune.report.standing import Scale
from onnxprune.report.tables import Place, Table, Tone
from onnxprune.types import NOTHING_REMOVED

if TYPE_CHECKING:
    from onnxprune.jobs.assessed import Assessed
    from onnxprune.jobs.bench.schema import Bench, Row
    from onnxprune.jobs.quantize import Quantized
    from onnxprune.jobs.results.schema import CheckRow, GroupRow, OutputRow, Report
    from onnxprune.jobs.results.weights import StoredRow, ZerosRow
    from onnxprune.select.sensitivity import Sensitivity, Target
    from onnxprune.types import Check, Quality, Structure, TailPart, Tails

_WORST, _LARGEST, _REASONS = 10, 12, 3
_GROUPS, _SAMPLES = 12, 5
"""Most groups of the user that are listed, and samples of one where some are left out."""
ADVICE_ABOUT = (
    "latency, MACs and weights: the share that remains; latency as timed here, or from the best "
    "case to no gain where nothing could be timed"
)
NO_SPEED = "sparse storage is not sparse compute: a file shrinks, a run does not"


@dataclass(frozen=True)
class Part:
    """A table of a result.

    Attributes:
        section: of the page.
        title: what happened, in words that need no table.
        table, rows: the details.
        about: a sentence for the page alone.
        under: what is said below the table, on both.
        detail: what ``-v`` lists: a terminal shows the title alone without it. Empty: an outcome.
        only: the one place that shows it; by default both do.
        brief: which rows a terminal shows; None: all.
        worst: by which a terminal orders rows, the largest first; None: as they come.
        most, which: how many of them it shows, and what they are called.
        filtered: what its rows are, where the page offers to filter them by name and kind.
    """

    section: str
    title: str
    table: Table[Any]
    rows: Sequence[Any]
    about: str = ""
    under: tuple[str, ...] = ()
    detail: str = ""
    only: Place | None = None
    brief: Callable[[Any], bool] | None = None
    worst: Callable[[Any], float] | None = None
    most: int | None = None
    which: str = ""
    filtered: str = ""

    def shown(self) -> list[Any]:
        """The rows of a terminal, in its order."""
        rows = [row for row in self.rows if self.brief is None or self.brief(row)]
        return rows if self.worst is None else sorted(rows, key=self.worst, reverse=True)


@dataclass(frozen=True)
class Verdict:
    """A verdict in words that need no colour.

    Attributes:
        subject: what it is on: the structure or the quality; empty for both.
        word: the verdict, with the number of checks.
        tone: good, bad, a warning, or soft where nothing was measured.
        details: what decided.
    """

    subject: str
    word: str
    tone: Tone
    details: str = ""


def verdicts(report: Report) -> list[Verdict]:
    """The verdicts of a run; none where nothing was changed, one of documents without two."""
    if report.command == "inspect":
        return []
    if report.structure is None or report.quality is None:
        return [Verdict("", *judged(report.checks))]
    return [structure(report.structure), quality(report.quality)]


def structure(verdict: Structure) -> Verdict:
    """Whether a result is what its plan says."""
    tones: dict[str, Tone] = {"verified": "good", "failed": "bad"}
    tone: Tone = "bad" if verdict.status == "nothing cut" and verdict.reasons else "soft"
    count = f", {plural(verdict.checks, 'check')}" if verdict.status == "verified" else ""
    word, details = f"{verdict.status}{count}", "; ".join(verdict.reasons)
    return Verdict("Structure", word, tones.get(verdict.status, tone), details)


def quality(verdict: Quality) -> Verdict:
    """Whether a result does what the dense model does."""
    tones: dict[str, Tone] = {"good": "good", "degraded": "warn", "broken": "bad"}
    tone = tones.get(verdict.status, "soft")
    return Verdict("Quality", verdict.status, tone, standing.details(verdict))


def judged(checks: Sequence[Check | CheckRow]) -> tuple[str, Tone]:
    """Whether checks passed."""
    if not checks:
        return "nothing to check", "soft"
    if any(check.name == NOTHING_REMOVED and not check.ok for check in checks):
        return "nothing was removed", "bad"
    count = plural(len(checks), "check")
    if failed := sum(not check.ok for check in checks):
        return f"{failed} of {count} failed", "bad"
    return f"verified, {count}", "good"


def inputs(samples: int, available: int | None, kind: str = "") -> str:
    """On how many inputs something was judged: ``51 unseen inputs of 512``."""
    if available is None or available <= samples:
        return plural(samples, f"{kind} input".strip())
    if not kind:
        return f"{samples:,} of {plural(available, 'input')}"
    return f"{plural(samples, f'{kind} input')} of {available:,}"


def model_facts(report: Report) -> tuple[str, str]:
    """Where the model comes from, and how large it is."""
    row = report.model
    opsets = (f"{d} {v}" if d else f"opset {v}" for d, v in row.opsets.items())
    origin = ", ".join(filter(None, (row.producer, *opsets, plural(row.nodes, "node"))))
    return origin, sizes(row.params, row.bytes, row.macs)


def sizes(params: int, stored: int, macs: int) -> str:
    """How large a model is, in a sentence."""
    return f"{quantity(params)} parameters, {size(stored)}, {quantity(macs)} MACs"


def of_run(report: Report, links: Mapping[str, str] | None = None) -> list[Part]:
    """The parts of a run, what came out of it first.

    Args:
        report: of prune, apply, recover or inspect.
        links: where the page says what leaves with a unit of a group, by its name.
    """
    parts = [] if report.command == "inspect" else list(_outcome(report))
    parts += [*_structure(report, links or {}), *_layers(report)]
    if report.weights:
        parts.append(zeros(report.weights))
    if report.stored:
        parts += stored(report.stored)
    return parts


def _outcome(report: Report) -> Iterable[Part]:
    if report.measures:
        table = columns.measures()
        row = standing.metric(report)
        seen = inputs(report.samples, report.available, "unseen")
        under = (f"{row.name} on {seen}",) if row is not None and report.samples else ()
        yield Part("Result", table.title, table, report.measures, under=under)
    if report.outputs:
        seen = inputs(report.samples, report.available, "unseen")
        as_given = [replace(row, name=f"{row.name}, as given") for row in report.as_given]
        rows = [*as_given, *report.outputs]
        yield Part("Result", f"{columns.OUTPUTS.title}, {seen}", columns.OUTPUTS, rows)
    if report.tails is not None:
        yield from tails(report.tails)
    if report.checks:
        stands = standing.of_run(report)
        checks = columns.checks(stands.scale if stands else None)
        yield Part("Result", checks.title, checks, report.checks)
    if report.points:
        first = report.points[0]
        about = f"on {inputs(first.samples, report.available)}"
        visited, title = columns.points(first.metric), plural(len(report.points), "model")
        points = sorted(report.points, key=lambda row: (-row.macs, -row.params))
        yield Part("Result", f"{title} visited", visited, points, under=(about,))


def tails(parts: Tails, ends: tuple[str, str] = columns.ENDS) -> Iterable[Part]:
    """The worst class, the worst samples and each group; sizes of objects; all classes.

    Args:
        parts: of the samples.
        ends: what both models are called.
    """
    rows = []
    before = "the original" if ends == columns.ENDS else "the dense model"
    by = "label" if parts.by == "labels" else f"{before}'s answer"
    counted = "objects" if parts.sizes else "samples"
    classes = [columns.TailRow(f"class {each.name}", parts.measure, each) for each in parts.classes]
    if len(classes) > 1 and classes[0].part.after < (classes[0].part.before or 0.0):
        name = f"{classes[0].name}, the worst of {len(classes)} by {by}"
        rows.append(replace(classes[0], name=name))
    if parts.all is not None and parts.worst is not None:
        rows.append(columns.TailRow("worst 5 % of samples", parts.error_measure, parts.worst))
        rows.append(columns.TailRow("all samples", parts.error_measure, parts.all))
    groups, others = _groups(parts)
    rows += groups
    if rows or others:
        table = columns.tails("part", counted, ends)
        yield Part("Result", table.title, table, rows, under=others)
    if parts.sizes:
        sizes = [columns.TailRow(each.name, parts.measure, each) for each in parts.sizes]
        title = "Objects by area: small up to 32 x 32 pixels of the picture, large from 96 x 96"
        yield Part("Result", title, columns.tails("area", counted, ends), sizes)
    if len(classes) > 1:
        count = f"{len(classes):,} classes by {by}"
        yield Part("Result", count, columns.tails("class", counted, ends), classes, detail=count)


def _groups(parts: Tails) -> tuple[list[columns.TailRow], tuple[str, ...]]:
    """Groups of the user: all where they are few, else the worst of those that have a mean."""
    groups, words = list(parts.groups), []
    if len(groups) > _GROUPS:
        large = [each for each in groups if each.samples >= _SAMPLES]
        if small := len(groups) - len(large):
            count = sum(each.samples for each in groups if each.samples < _SAMPLES)
            words.append(
                f"{plural(small, 'group')} of fewer than {_SAMPLES} samples, {count:,} samples "
                "together, too small to judge one by one"
            )
        higher = standing.metric_scale(parts.group_measure).higher_is_better
        higher = higher and parts.group_measure != parts.error_measure

        def loss(part: TailPart) -> tuple[bool, float]:
            rise = part.after - (part.before or 0.0)
            return part.collapsed, -rise if higher else rise

        groups = sorted(large, key=loss, reverse=True)[:_GROUPS]
        if len(large) > _GROUPS:
            words.append(
                f"the {_GROUPS} groups with the largest loss of {len(large):,}; --json lists all"
            )
    rows = [columns.TailRow(f"group {each.name}", parts.group_measure, each) for each in groups]
    return rows, tuple(words)


def _left(interface: Mapping[str, Any] | None) -> str:
    """What left the inputs and outputs, as in ``10 of 12 ids of 'x'``; empty where nothing did."""
    parts = []
    for axis in (*interface["inputs"], *interface["outputs"]) if interface else ():
        kept = sum(last - first + 1 for first, last in axis["kept"])
        what = "ids" if axis["axis"] is None else "indices"
        parts.append(f"{axis['size'] - kept:,} of {axis['size']:,} {what} of '{axis['value']}'")
    return ", ".join(parts)


def _structure(report: Report, links: Mapping[str, str]) -> Iterable[Part]:
    groups = report.groups
    inspected = report.command == "inspect"
    removed = sum(row.units - row.kept for row in groups)
    touched = sum(row.kept < row.units for row in groups)
    cut = plural(touched, "group")
    title = f"{plural(removed, 'unit')} removed from {cut} of {len(groups)}"
    whole = whole_groups(groups)
    if report.sparse and not touched:  # nothing but zeros
        title = f"All units of {plural(len(groups), 'group')} stay: only single weights became zero"
    if left := _left(report.interface):
        title = f"{left} removed" + (f"; {title}" if touched else "")
    if groups or not inspected:
        yield Part(
            "Structure",
            plural(len(groups), "group") if inspected else title,
            columns.groups(links) if inspected else columns.kept(reasons(report), links),
            groups,
            about=""
            if inspected
            else "Bars are the kept units, in the order of the network."
            + f" {whole}." * bool(whole),
            under=("params and MACs are those of one unit",) if inspected else (),
            detail="" if inspected or report.output is None else f"kept units of {cut}",
            only="page" if report.sparse and not touched else None,
            brief=None if inspected else lambda row: bool(row.kept < row.units),
            filtered="groups",
        )
    if whole:
        rows = [row for row in groups if row.stays]
        stay = "groups that stay whole"
        yield Part("Structure", whole, columns.WHOLE, rows, detail=stay, only="terminal")
    if report.blocks:
        bypassed = sum(row.bypassed for row in report.blocks)
        blocks = plural(len(report.blocks), "block")
        yield Part(
            "Structure",
            blocks if inspected else f"{bypassed} of {blocks} bypassed",
            columns.BLOCKS,
            report.blocks,
            detail="" if inspected or report.output is None else "blocks",
            only=None if inspected or bypassed else "page",
            brief=None if inspected else lambda row: bool(row.bypassed),
        )
    if report.not_prunable:
        counted = any(row.params for row in report.not_prunable)
        yield Part(
            "Structure",
            "Not prunable",
            columns.NOT_PRUNABLE,
            report.not_prunable,
            only=None if inspected else "page",
            brief=(lambda row: bool(row.params)) if counted else None,
        )


def whole_groups(groups: Sequence[GroupRow]) -> str:
    """How many groups kept all units although a removal was requested, by reason."""
    reasons = [row.stays for row in groups if row.stays]
    if not reasons:
        return ""
    counts = Counter(reasons).most_common()
    head = f"{plural(len(reasons), 'group')} {'stay' if reasons[1:] else 'stays'} whole"
    if len(counts) == 1:
        return f"{head}: {counts[0][0]}"
    parts = [f"{count}: {reason}" for reason, count in counts[:_REASONS]]
    rest = len(reasons) - sum(count for _, count in counts[:_REASONS])
    return f"{head}. {'; '.join([*parts, *([f'{rest} for other reasons'] if rest else [])])}"


def _layers(report: Report) -> Iterable[Part]:
    if report.refits:
        changed = sum(row.method != "none" for row in report.refits)
        layers = plural(len(report.refits), "layer")
        yield Part(
            "Recovery",
            f"{changed} of {layers} refitted",
            columns.REFITS,
            [row for row in report.refits if not row.reason],
            about=f"Error is the {columns.ERROR.about}.",
            under=tuple(columns.counted([row.reason for row in report.refits], "layer")),
            detail=f"errors of {layers}",
            worst=lambda row: row.after or 0.0,
            most=_WORST,
            which="largest remaining error",
        )
    if report.sparse:
        rows = [row for row in report.sparse if not row.reason]
        sizes = [math.prod(row.shape) for row in rows]
        empty = sum(row.sparsity * size for row, size in zip(rows, sizes, strict=True))
        made = f"{percent(empty / max(sum(sizes), 1))} of their {quantity(sum(sizes))} elements"
        weights = plural(len(report.sparse), "weight")
        yield Part(
            "Sparse weights",
            f"{len(rows)} of {weights} made sparse{f': {made} are zero' if rows else ''}",
            columns.SPARSE,
            rows,
            under=tuple(columns.counted([row.reason for row in report.sparse], "weight")),
            detail=f"zeros and errors of {weights}",
            worst=lambda row: row.after or 0.0,
            most=_WORST,
            which="largest error",
        )


def zeros(rows: Sequence[ZerosRow]) -> Part:
    """Zeros, pattern and bytes in each form of weights, and what all take."""
    from onnxprune.sparse.encodings.table import ENCODINGS

    dense = sum(row.bytes["dense"] for row in rows)
    least = sum(min(row.bytes.values()) for row in rows)
    weights = plural(len(rows), "weight")
    return Part(
        "Storage",
        f"Zeros in {weights}: {size(dense)} dense, {size(least)} in the smallest form of each "
        "(onnxprune store)",
        columns.zeros(rows, tuple(ENCODINGS)),
        rows,
        under=(NO_SPEED,),
        detail=f"zeros of {weights}",
        worst=lambda row: row.bytes["dense"],
        most=_LARGEST,
        which="most bytes",
    )


def stored(rows: Sequence[StoredRow]) -> list[Part]:
    """The weights and savings of each form, and the form of each weight."""
    before, after = sum(row.dense for row in rows), sum(row.stored for row in rows)
    ratio = change(before, after, "bytes")
    title = f"Stored in {size(after)}, {size(before)} dense: {ratio}"
    smaller = sum(row.stored < row.dense for row in rows)
    remarks = tuple(columns.counted([row.remark for row in rows], "weight", ""))
    weights = plural(len(rows), "weight")
    forms = columns.by_form(rows)
    return [
        Part("Storage", title, columns.FORMS, forms, under=remarks),
        Part(
            "Storage",
            f"{smaller} of {weights} take less",
            columns.STORED,
            rows,
            detail=f"forms of {weights}",
        ),
    ]


def of_bench(bench: Bench) -> list[Part]:
    """The parts of a measurement: latencies by setting, tasks, outputs, what was not measured."""
    from onnxprune.report.pareto import by_setting

    parts = [
        Part("Latency", f"{title}, version {rows[0].version}", columns.LATENCY, rows)
        for title, rows in by_setting(bench.rows).items()
    ]
    rows = list({(row.model, row.backend): row for row in bench.rows}.values())
    scored = [row for row in rows if row.score is not None]
    agreeing = [row for row in rows if row.agreement is not None]
    floors = [
        replace(row, name=f"{floor.backend} against {floor.against}: {row.name}")
        for floor in bench.noise_floor
        for row in floor.outputs
    ]
    seen = "" if bench.samples is None else f", {inputs(bench.samples, bench.available)}"
    part = bench.samples is not None and (bench.available or 0) > bench.samples
    under = (f"--calib-samples {bench.available} takes all",) if part else ()
    more: list[tuple[str, Table[Any], Sequence[Any]]] = [
        (f"{columns.SCORES.title}{seen}", columns.SCORES, scored),
        (f"{columns.AGREEMENT.title}, on the same backend{seen}", columns.AGREEMENT, agreeing),
        (
            f"Outputs against the first model's, on the same backend{seen}",
            columns.OUTPUTS,
            _compared(bench.rows),
        ),
        ("Noise floor: the first model twice", columns.OUTPUTS, floors),
        (columns.DECLINED.title, columns.DECLINED, bench.declined),
    ]
    tables = [Part("Latency", *each) for each in more if each[2]]
    judging = next((k for k, each in enumerate(tables) if each.title.endswith(seen)), None)
    if under and seen and judging is not None:
        tables[judging] = replace(tables[judging], under=under)
    return [*parts, *tables]


def _compared(rows: Iterable[Row]) -> list[OutputRow]:
    outputs: dict[tuple[str, str], list[OutputRow]] = {}
    for row in rows:
        where = f"{row.model} on {row.backend}"
        named = [replace(each, name=f"{where}: {each.name}") for each in row.outputs]
        outputs.setdefault((row.model, row.backend), named)
    return [each for named in outputs.values() for each in named]


def of_quantized(result: Quantized) -> list[Part]:
    """The parts of a quantized model: sizes and quality, outputs, checks, and every weight."""
    from onnxprune.jobs.results.gather import comparison_rows
    from onnxprune.jobs.results.schema import CheckRow, Measure

    weights, evaluation = result.weights, result.evaluation
    elements = max(sum(each.elements for each in weights), 1)
    zeros = sum(each.zeros * each.elements for each in weights) / elements
    after = sum(each.zeros_after * each.elements for each in weights) / elements
    rows = [
        Measure("stored", *result.bytes, "bytes"),
        Measure("zeros in weights", zeros, after, "fraction"),
    ]
    if evaluation.metric:
        unit = standing.metric_scale(evaluation.metric).unit
        error = evaluation.metric_error
        rows.append(Measure(evaluation.metric, evaluation.before, evaluation.after, unit, error))
    measures = columns.measures("quantized")
    seen = inputs(evaluation.samples, evaluation.available, "unseen")
    under = (f"{evaluation.metric} on {seen}",) if evaluation.metric else ()
    parts = [Part("", measures.title, measures, rows, under=under)]
    if evaluation.outputs:
        title = f"Outputs against the float model, {seen}"
        parts.append(Part("", title, columns.OUTPUTS, comparison_rows(evaluation)))
    if evaluation.tails is not None and result.quality.status != "not measured":
        parts += tails(evaluation.tails)
    checks = [CheckRow(each.name, each.ok, each.value, each.limit) for each in result.checks]
    table = columns.checks(standing.metric_scale(evaluation.measure))
    parts.append(Part("", table.title, table, checks))
    int8 = [each for each in weights if each.quantized]
    title = f"{len(int8)} of {plural(len(weights), 'weight')} in int8"
    if patterned := sum(bool(each.pattern) for each in int8):
        title += f", {patterned} of them N:M"
    if len(int8) < len(weights):
        share = percent(1 - sum(each.elements for each in int8) / elements)
        title += (
            f"; {plural(len(weights) - len(int8), 'weight')} stayed float, {share} of all elements"
        )
    parts.append(Part("", title, columns.QUANTIZED, weights, detail="every weight"))
    if floats := columns.by_operator(weights):
        parts.append(Part("", columns.FLOAT.title, columns.FLOAT, floats))
    return parts


def of_assessment(document: Assessed) -> list[Part]:
    """The parts of a measured model: its metric, its outputs against the dense model's, tails."""
    from onnxprune.jobs.results.schema import Measure

    metric, parts, ends = document.metric, [], ("dense", "model")
    seen = inputs(document.samples, document.available)
    scale = standing.metric_scale(document.measure, higher=metric.higher_is_better)
    if metric.value is not None:
        error = "" if metric.error is None else f" (s.e. {spread(metric.error, scale.unit)})"
        title = f"{metric.name} {measured(metric.value, scale.unit)}{error}, on {seen}"
        row = Measure(metric.name, metric.dense, metric.value, scale.unit, metric.change_error)
        rows = [row] if metric.dense is not None else []
        parts.append(Part("Result", title, columns.measures("model", "dense"), rows))
    if document.outputs:
        outputs = Table("Outputs against the dense model", *columns.OUTPUTS.columns)
        parts.append(Part("Result", f"{outputs.title}, {seen}", outputs, document.outputs))
    if document.tails is not None:
        parts += tails(document.tails, ends)
    if document.checks:
        table = columns.checks(scale)
        parts.append(Part("Result", table.title, table, document.checks))
    return parts


def assessment_verdicts(document: Assessed) -> list[Verdict]:
    """The verdicts on a measured model: on its structure only where it was compared."""
    verdicts = [quality(document.quality)]
    return verdicts if document.against is None else [structure(document.structure), *verdicts]


def machine(bench: Bench) -> str:
    """What the measurements were made on."""
    here = bench.environment
    loads = ", ".join(f"{each:g}" for each in here.load_average)
    clock = f", {columns.clock(min(here.clock_mhz))}" if here.clock_mhz else ""
    return f"{here.cpu}, {plural(here.cores, 'core')}{clock}, load average {loads}; {here.os}"


def of_sweep(sweep: Sensitivity) -> list[Part]:
    """The recommendations of a sweep, and the targets that it could not measure."""
    parts = []
    advice = sweep.recommended
    if advice is not None and advice.ratios and advice.measured is not None:
        rows = list(advice.ratios.items())
        title = advised(sweep)
        under = refitted(sweep)
        parts.append(Part("Sensitivity", title, columns.RATIOS, rows, only="terminal", under=under))
    failed = [(cell.target, cell.ratio, cell.reason) for cell in sweep.cells if cell.reason]
    if failed:
        parts.append(Part("Sensitivity", columns.UNMEASURED.title, columns.UNMEASURED, failed))
    if sweep.declined:
        lines = columns.counted(list(sweep.declined.values()), "target", "")
        parts.append(
            Part(
                "Sensitivity",
                f"{columns.UNSWEPT.title}: {'; '.join(lines)}",
                columns.UNSWEPT,
                list(sweep.declined.items()),
                detail=f"{plural(len(sweep.declined), 'target')} not swept",
            )
        )
    return parts


def advised(sweep: Sensitivity) -> str:
    """What the recommended ratios cost together, or that there are none."""
    advice, scale = sweep.recommended, standing.of_sweep(sweep)
    if advice is None:
        return ""
    drop = columns.lost(advice.drop, scale)
    unit = " points" if scale.fraction else ""
    if not advice.ratios or advice.measured is None:
        return f"No ratios change {scale.name} by at most {drop}{unit} together"
    return (
        f"Ratios for a change of at most {drop}{unit}: together "
        f"{_lost(advice.measured, advice.error, scale)} on "
        f"{plural(advice.samples, 'input')} as cut, {times(advice.macs)} MACs, "
        f"{times(advice.params)} parameters"
    )


def _lost(drop: float, error: float | None, scale: Scale) -> str:
    """A change with half of its 95 % interval: ``-1.95 ± 0.80 points``."""
    wide = columns.spread(error, scale.unit)
    if wide is None:
        return f"{columns.lost(drop, scale)}{' points' if scale.fraction else ''}"
    return f"{columns.lost(drop, scale)} ± {wide}"


def refitted(sweep: Sensitivity) -> tuple[str, ...]:
    """What `prune` makes of the recommended ratios, in a sentence; none where nobody tried."""
    advice, scale = sweep.recommended, standing.of_sweep(sweep)
    if advice is None or advice.refitted is None:
        return ()
    change = _lost(advice.refitted, advice.refitted_error, scale)
    seen = plural(advice.refitted_samples, "unseen input")
    return (f"Pruned so and refitted: {change} on {seen}",)


def heat_about(sweep: Sensitivity) -> str:
    """What the numbers of a heat-map are."""
    scale = standing.of_sweep(sweep)
    errors = [c.drop_error for c in sweep.cells if c.drop_error is not None]
    wide = columns.spread(max(errors, default=None), scale.unit)
    error = f", ± up to {wide} (95 %)" if wide else ""
    return f"{columns.lost_in(scale)}{error}; one target pruned at a time, nothing refitted"


def heat_head(sweep: Sensitivity) -> str:
    """What was swept, and how good it is as it is."""
    scale = standing.of_sweep(sweep)
    dense = measured(sweep.dense, scale.unit)
    return f"{sweep.model}: {scale.name} {dense} dense, {plural(sweep.samples, 'input')}"


def most_sensitive(sweep: Sensitivity, most: int) -> tuple[Target, ...]:
    """The targets that lose most, in the order of the network; all where there are no more."""
    if len(sweep.targets) <= most:
        return sweep.targets
    worst: dict[str, float] = {}
    for cell in sweep.cells:
        value = cell.drop if cell.drop is not None else cell.kl or 0.0
        worst[cell.target] = max(worst.get(cell.target, 0.0), value)
    names = set(sorted(worst, key=lambda name: -worst[name])[:most])
    return tuple(target for target in sweep.targets if target.name in names)


def notes(report: Report) -> list[str]:
    """The notes of a report, without those that the groups that stay whole say already."""
    said = {f"{row.name}: {row.stays}" for row in report.groups if row.stays}
    return [note for note in report.notes if note not in said]


def reasons(report: Report) -> dict[str, str]:
    """Why a group stays whole or is not exact, by group: its own reason, or that of a note."""
    known = {row.name: row.reason for row in report.groups if row.reason}
    for note in report.notes:
        for row in report.groups:
            if note.startswith(f"{row.name}: "):
                known[row.name] = note.removeprefix(f"{row.name}: ")
    return known
