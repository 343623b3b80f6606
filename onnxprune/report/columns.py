"""Every figure and table of the reports: label, format and meaning.

A `Figure` is declared once; the columns of tables, the axes of charts and the tiles of the page
take label, unit and explanation from it. A change is always new minus old and carries a sign; what
measures a size, a share or an error has none. Terminal and page draw the same columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from onnxprune import quantities
from onnxprune.quantities import Unit, change, percent, plural, quantity, signed, times
from onnxprune.report.standing import Scale, metric_scale, of_sweep
from onnxprune.report.tables import (
    Cell,
    Column,
    Format,
    Place,
    Row,
    Table,
    Tone,
    tuples,
    warmth,
    write,
)

if TYPE_CHECKING:
    from onnxprune.jobs.advise.methods import Advice
    from onnxprune.jobs.bench import schema as bench
    from onnxprune.jobs.quantize.zeros import Weight
    from onnxprune.jobs.results import schema
    from onnxprune.jobs.results.weights import StoredRow, ZerosRow
    from onnxprune.select import sensitivity
    from onnxprune.sparse.eligibility import Layer
    from onnxprune.types import TailPart


@dataclass(frozen=True)
class Figure:
    """A number as every table, chart and tile shows it.

    Attributes:
        label: what it is called.
        unit: how it is written.
        about: what it is, for whoever points at it.
        missing: what stands where there is none.
    """

    label: str
    unit: Format
    about: str = ""
    missing: str = "-"

    def of(
        self,
        value: Callable[[Row], object],
        label: str = "",
        *,
        only: Place | None = None,
        detail: bool = False,
    ) -> Column[Row]:
        """A column of it, under another label where a table has several of the kind."""
        return Column(
            label or self.label,
            value,
            self.unit,
            self.about,
            self.missing,
            right=True,
            only=only,
            detail=detail,
        )

    def text(self, value: float) -> str:
        """A value in words."""
        return write(value, self.unit)


MACS = Figure("MACs", "count", "multiply-accumulates of one sample")
PARAMS = Figure("params", "count", "elements of stored weights")
BYTES = Figure("bytes", "bytes", "bytes of stored weights")
UNITS = Figure("units", "whole", "channels, heads, ... that leave one by one")
ZEROS = Figure("zeros", "percent", "share of the elements that are zero")
REMOVED = Figure("removed", "percent", "share of the units that leave")
TIME = Figure("time", "seconds")
MEDIAN = Figure("p50", "seconds", "half of all runs took less")
RATIO = Figure("ratio", "ratio", "latency over that of the first model: below 1 is faster", "")
REST = Figure("remaining", "ratio", "share that remains", "")
MEMORY = Figure("peak RSS", "bytes", "physical memory of the process at most")
CHANGE = Figure("change", "text", "new minus old: points of a percentage, or a ratio of amounts")
SPREAD = Figure("± 95 %", "text", "half of the 95 % interval of the change, same samples", "")
ERROR = Figure(
    "error",
    "figure",
    "relative squared error of the layer's output on inputs that nothing was fitted to",
    "",
)
TOP1 = Figure("same top-1", "fraction", "inputs whose best class is that of the dense model")
KL = Figure("KL", "figure", "KL(dense || model) of an input, in nats")
COSINE = Figure("cosine", "number", "between all elements of both outputs")
RELATIVE = Figure(
    "relative error", "figure", "norm of the difference over the norm of the dense output"
)
ANGLE = Figure("1 - cosine", "figure", "one minus the cosine between both outputs")

SWEPT: Mapping[str, Figure] = {
    "drop": CHANGE,
    "kl": replace(KL, label="KL divergence"),
    "relative_error": RELATIVE,
    "angle": ANGLE,
}
"""Measures of a sweep by the name of their field; ``angle`` is computed from the cosine."""


def _share(row: schema.GroupRow) -> float:
    return row.kept / max(row.units, 1)


def _score(row: bench.Row, when: str) -> Cell:
    if row.score is None:
        return Cell()
    return Cell(getattr(row.score, when), unit=metric_scale(row.score.metric).unit)


def _score_spread(row: bench.Row, error: float | None) -> str | None:
    return None if row.score is None else spread(error, metric_scale(row.score.metric).unit)


def _score_change(row: bench.Row) -> str:
    """The change against the first model; nothing for that itself, which has no error of it."""
    score = row.score
    if score is None or row.ratio is None:
        return ""
    return change(score.before, score.after, metric_scale(score.metric).unit)


def _word(row: Advice) -> Cell:
    tones: dict[str, Tone] = {"pays": "good", "may pay": "warn", "does not pay": "soft"}
    return Cell("do not prune" if row.method == "nothing" else row.word, tones[row.word])


# Tables of plain tuples.

FACTS = tuples("The model", "", "")
FORMS = tuples(
    "Forms", "form", "values", "weights:whole", "zeros:percent", "dense:bytes", "stored:bytes",
    "change>",
)  # fmt: skip
UNMEASURED = tuples("Not measured", "target:name", "at:percent", "because")
UNSWEPT = tuples("Not swept", "target:name", "because")
RATIOS = tuples("Recommended ratios", "target:name", "removed:percent")
OPERATORS = tuples("Operators", "operator", "calls:whole", "time:seconds", "share:percent", "")
AVAILABLE = tuples("Available", "available", "description", "version")
SPARSE_LAYERS = tuples("Sparse layers", "", "layer:name")
ABSENT = tuples("Not available", "not available", "description", "because", "to install it")

# What a run changed.


def measures(after: str = "pruned", before: str = "original") -> Table[schema.Measure]:
    """Sizes, latency and quality of two models, by what they are called."""
    return Table(
        "Before and after",
        Column("", lambda row: row.name),
        Column(before, lambda row: Cell(row.dense, unit=row.unit), "number"),
        Column(after, lambda row: Cell(row.pruned, unit=row.unit), "number"),
        CHANGE.of(
            lambda row: (
                change(row.dense, row.pruned, row.unit) if row.ratio is None else times(row.ratio)
            )
        ),
        Column(
            SPREAD.label,
            lambda row: spread(row.error, row.unit),
            about=SPREAD.about,
            missing="",
            right=True,
            optional=True,
        ),
    )


OUTPUTS: Table[schema.OutputRow] = Table(
    "Outputs against the original",
    Column("output", lambda row: row.name, "name"),
    TOP1.of(lambda row: row.top1),
    KL.of(lambda row: row.kl),
    COSINE.of(lambda row: row.cosine),
    RELATIVE.of(lambda row: row.relative_error),
    Column("largest", lambda row: row.max_abs_error, "figure", "of all differences", only="page"),
    Column("SNR, dB", lambda row: row.snr_db, "figure", "signal to noise", only="page"),
    Column(
        "",
        lambda row: Cell(
            row.reason or (f"{row.broken} not finite" if row.broken else ""),
            "bad" if row.broken else "soft",
        ),
        optional=True,
    ),
)


@dataclass(frozen=True)
class TailRow:
    """A part of the samples in a table.

    Attributes:
        name: of the part, in words.
        measure: of it.
        part: its figures.
    """

    name: str
    measure: str
    part: TailPart

    @property
    def unit(self) -> Unit:
        """How its figures are written."""
        return metric_scale(self.measure).unit


ENDS = ("original", "pruned")
"""What the models of a run are called in its tables."""


def tails(first: str, counted: str = "samples", ends: tuple[str, str] = ENDS) -> Table[TailRow]:
    """Parts of the samples before and after.

    Args:
        first: head of their names.
        counted: what their size counts.
        ends: what both models are called.
    """
    return Table(
        "Tails",
        Column(first, lambda row: row.name),
        Column("measure", lambda row: row.measure, spare=True),
        Column(counted, lambda row: row.part.samples, "whole"),
        Column(ends[0], lambda row: Cell(row.part.before, unit=row.unit), "number", optional=True),
        Column(
            ends[1],
            lambda row: Cell(row.part.after, "bad" if row.part.collapsed else "", unit=row.unit),
            "number",
        ),
        replace(
            CHANGE.of(lambda row: change(row.part.before, row.part.after, row.unit)),
            optional=True,
        ),
        Column(
            SPREAD.label,
            lambda row: spread(row.part.error, row.unit),
            about=SPREAD.about,
            missing="",
            right=True,
            optional=True,
        ),
        Column(
            "", lambda row: Cell("collapsed" if row.part.collapsed else "", "bad"), optional=True
        ),
    )


def spread(error: float | None, unit: Unit) -> str | None:
    """Half of the 95 % interval of what has a standard error; None where none is known."""
    half = quantities.half_interval(error)
    return None if half is None else quantities.spread(half, unit)


def checks(scale: Scale | None = None) -> Table[schema.CheckRow]:
    """What was measured, and against what limit.

    Args:
        scale: of the drop, if one was limited: points where it is a share.
    """

    def amount(name: str, value: float) -> str:
        shared = name == "drop" and scale is not None and scale.fraction
        return quantities.spread(value, "fraction") if shared else quantities.figure(value)

    return Table(
        "Checks",
        Column("", lambda row: Cell("ok", "good") if row.ok else Cell("FAILED", "bad")),
        Column("check", lambda row: row.name),
        Column("measured", lambda row: amount(row.name, row.value), right=True),
        Column("limit", lambda row: amount(row.name, row.limit), about="at most", right=True),
    )


def points(metric: str) -> Table[schema.PointRow]:
    """Models that a search visited, judged by ``metric``."""
    scale = metric_scale(metric)
    return Table(
        "Visited models",
        Column("", lambda row: Cell("ok", "good") if row.ok else Cell("too much", "warn")),
        Column("made for", lambda row: row.label),
        MACS.of(lambda row: row.macs),
        PARAMS.of(lambda row: row.params),
        Column(metric, lambda row: row.value, scale.unit),
        CHANGE.of(lambda row: quantities.difference(scale.change(row.drop), scale.unit)),
        SPREAD.of(lambda row: spread(row.drop_error, scale.unit)),
        Column("", lambda row: Cell("chosen", "strong") if row.chosen else ""),
    )


# What can be removed, and what was.

_UNIT: tuple[Column[schema.GroupRow], ...] = (
    replace(PARAMS, about="parameters that leave with one unit").of(lambda row: row.params),
    replace(MACS, about="multiply-accumulates that leave with one unit").of(lambda row: row.macs),
)


def _named(links: Mapping[str, str]) -> tuple[Column[schema.GroupRow], ...]:
    return (
        Column("group", lambda row: Cell(row.name, link=links.get(row.name, "")), "name"),
        Column("kind", lambda row: row.kind, spare=True),
    )


def groups(links: Mapping[str, str]) -> Table[schema.GroupRow]:
    """What can be removed.

    Args:
        links: where the page says what leaves with a unit, by name.
    """
    return Table(
        "What can be removed",
        *_named(links),
        UNITS.of(lambda row: row.units),
        *_UNIT,
        Column(
            "removal",
            _removal,
        ),
    )


def _removal(row: schema.GroupRow) -> Cell:
    """Whether removal is exact, and what it changes of the interface."""
    names = ", ".join(f"'{name}'" for name in row.interface)
    changed = f", changes {names}" if names else ""
    if row.exact:
        return Cell(f"exact{changed}", "good")
    return Cell(f"{row.reason}{changed}", "warn")


def kept(reasons: Mapping[str, str], links: Mapping[str, str]) -> Table[schema.GroupRow]:
    """What stays of each group.

    Args:
        reasons: why groups were left alone or are not exact, by name.
        links: where the page says what leaves with a unit, by name.
    """
    return Table(
        "Units kept per group",
        *_named(links),
        Column("kept", lambda row: row.kept, "whole", only="terminal"),
        Column("of", lambda row: row.units, "whole", only="terminal"),
        Column(
            "kept",
            lambda row: Cell(f"{row.kept:,} / {row.units:,}", bar=_share(row)),
            only="page",
        ),
        REMOVED.of(lambda row: 1 - _share(row)),
        Column("", lambda row: Cell("", bar=_share(row)), only="terminal", spare=True),
        *[replace(column, only="page") for column in _UNIT],
        Column("remark", lambda row: reasons.get(row.name, ""), optional=True, only="page"),
    )


WHOLE: Table[schema.GroupRow] = Table(
    "Groups that stay whole",
    Column("group", lambda row: row.name, "name"),
    UNITS.of(lambda row: row.units),
    Column("because", lambda row: row.stays),
)


BLOCKS: Table[schema.BlockRow] = Table(
    "Residual branches",
    Column("block", lambda row: row.name, "name"),
    Column("", lambda row: "bypassed" if row.bypassed else "stays", only="page"),
    Column("nodes", lambda row: row.nodes, "whole"),
    PARAMS.of(lambda row: row.params),
    MACS.of(lambda row: row.macs),
)
NOT_PRUNABLE: Table[schema.NotPrunableRow] = Table(
    "Axes that stay, and the reasons",
    Column("because", lambda row: row.reason),
    Column("axes", lambda row: row.axes, "whole"),
    PARAMS.of(lambda row: row.params),
    Column("for example", lambda row: row.example, "name"),
)


def reachable(row: schema.Reachable) -> str:
    """How much of the model pruning can touch."""
    exact, inexact = (percent(part / max(row.params, 1)) for part in (row.exact, row.inexact))
    more = f", and {inexact} more with --allow-inexact" if row.inexact else ""
    return f"{exact} of {quantity(row.params)} parameters{more}"


# What became of single layers and weights.

REFITS: Table[schema.RefitRow] = Table(
    "Layers, and how they were refitted",
    Column("layer", lambda row: row.node, "name"),
    Column("method", lambda r: "unchanged: nothing was better" if r.method == "none" else r.method),
    ERROR.of(lambda row: row.before),
    ERROR.of(lambda row: row.after, "after"),
    Column(
        "remaining",
        lambda row: Cell("", bar=min(row.after / row.before, 1.0) if row.before > 0 else 0.0),
        only="page",
    ),
)
SPARSE: Table[schema.SparseRow] = Table(
    "Sparse weights",
    Column("weight", lambda row: row.weight, "name"),
    Column("shape", lambda row: shape(row.shape), only="page"),
    ZEROS.of(lambda row: row.sparsity),
    Column("chosen by", lambda row: row.method),
    Column("refit", lambda row: row.refit),
    ERROR.of(lambda row: row.before),
    ERROR.of(lambda row: row.after, "after"),
)


def zeros(rows: Sequence[ZerosRow], forms: Sequence[str] = ()) -> Table[ZerosRow]:
    """Zeros and their patterns, and bytes in each form that some weight can take.

    Args:
        rows: weights.
        forms: the order of columns; others follow.
    """
    sizes = list(dict.fromkeys(chain(forms, *(row.bytes for row in rows))))
    return Table(
        "Zeros",
        Column("weight", lambda row: row.weight, "name"),
        Column("shape", lambda row: shape(row.shape), spare=True),
        ZEROS.of(lambda row: row.zeros),
        Column("pattern", lambda row: row.pattern),
        *[_form(form) for form in sizes if any(form in row.bytes for row in rows)],
    )


def _form(form: str) -> Column[ZerosRow]:
    def size(row: ZerosRow) -> Cell:
        least = row.bytes.get(form) == min(row.bytes.values())
        return Cell(row.bytes.get(form), "good" if least else "")

    return BYTES.of(size, form)


STORED: Table[StoredRow] = Table(
    "Stored weights",
    Column("weight", lambda row: row.weight, "name"),
    Column("form", lambda row: row.form),
    Column("values", lambda row: row.values),
    ZEROS.of(lambda row: row.zeros),
    BYTES.of(lambda row: row.dense, "dense"),
    BYTES.of(lambda row: row.stored, "stored"),
    CHANGE.of(lambda row: change(row.dense, row.stored, "bytes")),
    Column("remark", lambda row: row.remark, optional=True),
)
QUANTIZED: Table[Weight] = Table(
    "Weights in int8",
    Column("weight", lambda row: row.name, "name"),
    Column("", lambda row: "int8" if row.quantized else Cell("float", "soft")),
    ZEROS.of(lambda row: row.zeros),
    ZEROS.of(lambda row: row.zeros_after, "after"),
    Column(
        "pattern",
        lambda row: Cell(row.pattern, "" if row.kept else "bad"),
        optional=True,
    ),
)


FLOAT = tuples(
    "Weights that stayed float", "operator", "weights:whole", "elements:count", "because"
)


def by_operator(weights: Sequence[Weight]) -> list[tuple[object, ...]]:
    """Rows of `FLOAT`: weights that stayed float by operator and reason, the largest first."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for each in weights:
        if not each.quantized:
            kinds.setdefault((each.op, each.reason), []).append(each.elements)
    largest = sorted(kinds.items(), key=lambda kind: -sum(kind[1]))
    return [(op, len(sizes), sum(sizes), reason) for (op, reason), sizes in largest]


def by_form(rows: Sequence[StoredRow]) -> list[tuple[object, ...]]:
    """Rows of `FORMS`: what weights in each form and type take, in the order of the first."""
    kinds: dict[tuple[str, str], list[StoredRow]] = {}
    for row in rows:
        kinds.setdefault((row.form, row.values), []).append(row)
    sums: list[tuple[object, ...]] = []
    for kind, own in kinds.items():
        dense, stored = sum(row.dense for row in own), sum(row.stored for row in own)
        empty = sum(row.zeros * row.dense for row in own) / max(dense, 1)
        sums.append((*kind, len(own), empty, dense, stored, change(dense, stored, "bytes")))
    return sums


# What was measured on backends.

MODELS: Table[bench.ModelRow] = Table(
    "Models",
    Column("model", lambda row: row.name),
    BYTES.of(lambda row: row.bytes, "file"),
    MACS.of(lambda row: row.macs),
    PARAMS.of(lambda row: row.params),
)
LATENCY: Table[bench.Row] = Table(
    "Latency",
    Column("model", lambda row: row.model),
    MEDIAN.of(lambda row: row.latency.p50_s),
    replace(MEDIAN, about="nine tenths of all runs took less").of(
        lambda row: row.latency.p90_s, "p90"
    ),
    replace(MEDIAN, about="99 % of all runs took less").of(lambda row: row.latency.p99_s, "p99"),
    RATIO.of(lambda row: row.ratio and row.ratio.value),
    Column("95 %", lambda row: interval(row.ratio), about="of the ratio", right=True),
    Column("", lambda row: verdict(row.ratio)),
    replace(TIME, about="to load the model").of(lambda row: row.load_s, "load", detail=True),
    replace(TIME, about="of the first run").of(
        lambda row: row.first_run_s, "first run", detail=True
    ),
    MEMORY.of(lambda row: row.peak_rss_bytes, detail=True),
)
SCORES: Table[bench.Row] = Table(
    "Task",
    Column("model", lambda row: row.model),
    Column("backend", lambda row: row.backend),
    Column("metric", lambda row: row.score and row.score.metric),
    Column("value", lambda row: _score(row, "after"), "number"),
    replace(SPREAD, about="half of the 95 % interval of the value").of(
        lambda row: row.score and _score_spread(row, row.score.after_error)
    ),
    CHANGE.of(lambda row: row.score and _score_change(row)),
    SPREAD.of(lambda row: row.score and _score_spread(row, row.score.error), "± of the change"),
)
AGREEMENT: Table[bench.Row] = Table(
    "Agreement with the first model",
    Column("model", lambda row: row.model),
    Column("backend", lambda row: row.backend),
    TOP1.of(lambda row: row.agreement),
    replace(SPREAD, about="half of the 95 % interval of the share").of(
        lambda row: spread(row.agreement_error, "fraction")
    ),
)
DECLINED: Table[bench.DeclinedRow] = Table(
    "Not measured",
    Column("backend", lambda row: row.backend),
    Column("model", lambda row: row.model + (f" (batch {row.batch})" if row.batch else "")),
    Column("because", lambda row: row.reason),
    Column("what to do", lambda row: row.install),  # whole: an ellipsis cannot be copied
)


def interval(ratio: bench.Ratio | None) -> str:
    """A 95 % interval; nothing where nothing was compared."""
    return "" if ratio is None else quantities.interval(ratio.low, ratio.high)


def verdict(ratio: bench.Ratio | None) -> Cell:
    """Whether a model is faster than the first, and by how much."""
    if ratio is None:
        return Cell("")
    tones: dict[str, Tone] = {"faster": "good", "slower": "bad", "no speed-up": "warn"}
    by = "" if ratio.verdict == "no speed-up" else f" by {percent(abs(1 - ratio.value))}"
    return Cell(f"{ratio.verdict}{by}", tones[ratio.verdict])


# What every target costs.


def targets(sweep: sensitivity.Sensitivity, measure: str = "drop") -> Table[sensitivity.Target]:
    """A heat-map: one row per target, one column per ratio, warmer is worse.

    Args:
        sweep: what was measured.
        measure: ``drop``, ``kl``, ``relative_error`` or ``angle``.
    """
    cells = {(cell.target, cell.ratio): cell for cell in sweep.cells}
    values = [value for cell in sweep.cells if (value := swept(cell, measure)) is not None]
    top = max([value for value in values if value < float("inf")], default=0.0)
    recommendation = sweep.recommended.ratios if sweep.recommended else {}

    def column(ratio: float) -> Column[sensitivity.Target]:
        return Column(
            ratio_head(ratio),
            lambda row: heat(cells.get((row.name, ratio)), sweep, measure, top),
            right=True,
        )

    return Table(
        f"Sensitivity of {sweep.model}",
        Column("target", lambda row: row.name, "name"),
        Column("kind", lambda row: row.kind, spare=True),
        replace(UNITS.of(lambda row: row.units, only="terminal"), spare=True),
        *[column(ratio) for ratio in ratios(sweep)],
        Column(
            "advised",
            lambda row: recommendation.get(row.name),
            REMOVED.unit,
            "meant to lose no more than the accepted drop, together",
            missing="",
            optional=True,
            only="page",
        ),
    )


def heat(
    cell: sensitivity.Cell | None, sweep: sensitivity.Sensitivity, measure: str, top: float
) -> Cell:
    """One cell of a heat-map: what is lost, as text and as warmth; ``top`` is the warmest."""
    value = None if cell is None else swept(cell, measure)
    if cell is None:
        return Cell("")
    if value is None:
        return Cell("failed" if cell.reason else "", "soft")
    text = lost(value, of_sweep(sweep)) if measure == "drop" else SWEPT[measure].text(value)
    return Cell(text, warmth=warmth(value, top))


def lost(drop: float, scale: Scale) -> str:
    """The change of a metric that lost so much: points (without the word) of a fraction."""
    return signed(scale.change(drop), scale.unit)


def lost_in(scale: Scale) -> str:
    """What the numbers of `lost` are, as a head: ``change of accuracy, in points``."""
    return f"change of {scale.name}{', in points' if scale.unit == 'fraction' else ''}"


def swept(cell: sensitivity.Cell, measure: str) -> float | None:
    """A measure of a cell of a sweep; ``angle`` is one minus the cosine."""
    if measure == "angle":
        return None if cell.cosine is None else 1 - cell.cosine
    value: float | None = getattr(cell, measure)
    return value


def ratios(sweep: sensitivity.Sensitivity) -> list[float]:
    """The ratios that have cells, ascending; 1 is that of blocks."""
    return sorted({cell.ratio for cell in sweep.cells})


def ratio_head(ratio: float) -> str:
    """How a column of a heat-map is headed."""
    return "removed" if ratio == 1 else percent(ratio)


# What pays.

ADVICE: Table[Advice] = Table(
    "Advice",
    Column("", _word),
    Column("method", lambda row: row.method),
    Column("on", lambda row: row.backend),
    REST.of(lambda row: row.estimate, "latency"),
    Column("between", lambda row: bounds(row.low, row.high), about="of the latency", right=True),
    REST.of(lambda row: row.macs_left, "MACs"),
    REST.of(lambda row: row.bytes_left, "weights"),
    Column("why", lambda row: row.why, only="page"),
)


def bounds(low: float | None, high: float | None) -> str:
    """Between what an estimate lies; nothing where it is known or there is none."""
    if low is None or high is None or low == high:
        return ""
    return quantities.interval(low, high)


def layers(notes: Mapping[str, int], tensorrt: Mapping[str, str] | None) -> Table[Layer]:
    """Layers that could be 2:4.

    Args:
        notes: numbers of notes that stand below.
        tensorrt: the words of TensorRT by node; None without a log.
    """
    tones: dict[str, Tone] = {"eligible": "good", "dense": "warn", "never": "soft"}

    def why(row: Layer) -> str:
        return " ".join(filter(None, (row.reason, *(f"[{notes[note]}]" for note in row.notes))))

    column: Column[Layer] = Column("TensorRT", lambda row: (tensorrt or {}).get(row.node, ""))
    return Table(
        "Layers",
        Column("layer", lambda row: row.node, "name"),
        Column("operator", lambda row: " < ".join((row.op, *reversed(row.through)))),
        Column("weight", lambda row: f"{row.dtype} {shape(row.shape)}" if row.shape else ""),
        Column("", lambda row: Cell(row.state, tones[row.state])),
        *([] if tensorrt is None else [column]),
        Column("why", why),
    )


def shape(sizes: Sequence[int]) -> str:
    """``64x3x7x7``."""
    return "x".join(map(str, sizes))


def counted(reasons: Sequence[str], what: str, verb: str = " unchanged") -> list[str]:
    """``3 layers unchanged: reason``, the most frequent first; empty reasons do not count."""
    counts = Counter(reason for reason in reasons if reason)
    return [f"{plural(n, what)}{verb}: {reason}" for reason, n in counts.most_common()]


def clock(mhz: float) -> str:
    """The frequency of a processor."""
    return f"{mhz:.0f} MHz"
