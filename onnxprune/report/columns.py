"""Every table of the reports, as columns; terminal and page draw these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from onnxprune.quantities import Unit, change, figure, percent, plural, quantity
from onnxprune.report.standing import COSINE, metric_scale
from onnxprune.report.tables import Cell, Column, Table, Tone, tuples, warmth

if TYPE_CHECKING:
    from onnxprune.jobs.advise.methods import Advice
    from onnxprune.jobs.bench import schema as bench
    from onnxprune.jobs.results import schema
    from onnxprune.jobs.results.weights import StoredRow, ZerosRow
    from onnxprune.select import sensitivity
    from onnxprune.sparse.eligibility import Layer


def _share(row: schema.GroupRow) -> float:
    return row.kept / max(row.units, 1)


def _score(row: bench.Row, when: str) -> Cell:
    if row.score is None:
        return Cell()
    fraction = metric_scale(row.score.metric).fraction
    return Cell(getattr(row.score, when), unit="fraction" if fraction else "number")


def _word(row: Advice) -> Cell:
    tones: dict[str, Tone] = {"pays": "good", "may pay": "warn", "does not pay": "soft"}
    return Cell("leave it" if row.method == "nothing" else row.word, tones[row.word])


def _about(left: float | None) -> str:
    return "" if left is None else f"{left:.2f}x"


# Tables of plain tuples.

FACTS = tuples("The model", "", "")
FORMS = tuples(
    "Forms", "form", "values", "weights:whole", "zeros:percent", "dense:bytes", "stored:bytes",
    "change>",
)  # fmt: skip
UNMEASURED = tuples("Not measured", "target:name", "at:percent", "because")
UNSWEPT = tuples("Not swept", "target:name", "because")
RATIOS = tuples("Recommended ratios", ":name", "")
OPERATORS = tuples("Operators", "operator", "calls:whole", "time:seconds", "share:percent", "")
AVAILABLE = tuples("Available", "available", "what it is", "version")
ABSENT = tuples("Not here", "not here", "what it is", "because", "to install it")

# What a run changed.

MEASURES: Table[schema.Measure] = Table(
    "Before and after",
    Column("", lambda row: row.name),
    Column("original", lambda row: Cell(row.dense, unit=row.unit), "number"),
    Column("pruned", lambda row: Cell(row.pruned, unit=row.unit), "number"),
    Column("change", lambda row: change(row.dense, row.pruned, row.unit), right=True),
)
CHECKS: Table[schema.CheckRow] = Table(
    "Checks",
    Column("", lambda row: Cell("ok", "good") if row.ok else Cell("BAD", "bad")),
    Column("check", lambda row: row.name),
    Column("measured", lambda row: row.value, "figure"),
    Column("limit", lambda row: row.limit, "figure", "the most that is good"),
)
OUTPUTS: Table[schema.OutputRow] = Table(
    "Outputs against the original",
    Column("output", lambda row: row.name, "name"),
    Column("same top-1", lambda row: row.top1, "fraction", "inputs of the same best class"),
    Column("KL", lambda row: row.kl, "number", "KL(original || pruned) of an input, in nats"),
    Column("cosine", lambda row: row.cosine, "number"),
    Column(
        "relative error",
        lambda row: row.relative_error,
        "number",
        "norm of the difference over the norm of the original",
    ),
    Column("largest", lambda row: row.max_abs_error, "number", only="page"),
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


def points(metric: str) -> Table[schema.PointRow]:
    """Models that a search visited, judged by ``metric``: points where it is a fraction."""
    fraction = metric_scale(metric).fraction
    scale = 100 if fraction else 1
    return Table(
        "Visited models",
        Column("", lambda row: Cell("ok", "good") if row.ok else Cell("too much", "warn")),
        Column("made for", lambda row: row.label),
        Column("MACs", lambda row: row.macs, "count"),
        Column("parameters", lambda row: row.params, "count"),
        Column(metric, lambda row: row.value, "fraction" if fraction else "number"),
        Column(
            "lost",
            lambda row: f"{row.drop * 100:+.2f}" if fraction else row.drop,
            "figure",
            "above 0 is worse than the original",
        ),
        Column(
            "+-",
            lambda row: None if row.drop_error is None else f"{row.drop_error * scale:.2g}",
            about="one standard error of what is lost",
            missing="",
        ),
        Column("", lambda row: Cell("taken", "strong") if row.chosen else ""),
    )


# What can be removed, and what was.

_GROUP: tuple[Column[schema.GroupRow], ...] = (
    Column("group", lambda row: row.name, "name"),
    Column("kind", lambda row: row.kind),
)
_UNIT: tuple[Column[schema.GroupRow], ...] = (
    Column("params", lambda row: row.params, "count", "parameters that leave with one unit"),
    Column("MACs", lambda row: row.macs, "count", "multiply-accumulates that leave with one unit"),
)
GROUPS: Table[schema.GroupRow] = Table(
    "What can be removed",
    *_GROUP,
    Column("units", lambda row: row.units, "whole"),
    *_UNIT,
    Column(
        "removal",
        lambda row: Cell("exact", "good") if row.exact else Cell(row.reason, "warn"),
    ),
)


def kept(reasons: Mapping[str, str], links: Mapping[str, str]) -> Table[schema.GroupRow]:
    """What stays of each group.

    Args:
        reasons: why groups were left alone or are not exact, by name.
        links: where the page says what leaves with a unit, by name.
    """
    return Table(
        "Units kept per group",
        Column("group", lambda row: Cell(row.name, link=links.get(row.name, "")), "name"),
        *_GROUP[1:],
        Column("kept", lambda row: row.kept, "whole", only="terminal"),
        Column("of", lambda row: row.units, "whole", only="terminal"),
        Column(
            "kept",
            lambda row: Cell(f"{row.kept:,} / {row.units:,}", bar=_share(row)),
            only="page",
        ),
        Column("removed", lambda row: 1 - _share(row), "percent"),
        Column("", lambda row: Cell("", bar=_share(row)), only="terminal"),
        *[Column(c.label, c.value, c.unit, c.about, only="page") for c in _UNIT],
        Column("remark", lambda row: reasons.get(row.name, ""), optional=True, only="page"),
    )


BLOCKS: Table[schema.BlockRow] = Table(
    "Residual branches",
    Column("block", lambda row: row.name, "name"),
    Column("", lambda row: "bypassed" if row.bypassed else "stays", only="page"),
    Column("nodes", lambda row: row.nodes, "whole"),
    Column("params", lambda row: row.params, "count"),
    Column("MACs", lambda row: row.macs, "count"),
)
PINNED: Table[schema.PinnedRow] = Table(
    "Axes that stay, and why",
    Column("because", lambda row: row.reason),
    Column("axes", lambda row: row.axes, "whole"),
    Column("params", lambda row: row.params, "count"),
    Column("for example", lambda row: row.example, "name"),
)


def reachable(row: schema.Reach) -> str:
    """How much of the model pruning can touch."""
    exact, inexact = (percent(part / max(row.params, 1)) for part in (row.exact, row.inexact))
    more = f", and {inexact} more with --allow-inexact" if row.inexact else ""
    return f"{exact} of {quantity(row.params)} parameters{more}"


# What became of single layers and weights.

_ERROR = "relative squared error of the layer's output on inputs that nothing was fitted to"
REFITS: Table[schema.RefitRow] = Table(
    "Refitted layers",
    Column("layer", lambda row: row.node, "name"),
    Column("how", lambda r: "left: nothing was better" if r.method == "none" else r.method),
    Column("error", lambda row: row.before, "figure", _ERROR),
    Column("after", lambda row: row.after, "figure", _ERROR),
    Column(
        "what is left of it",
        lambda row: Cell("", bar=min(row.after / row.before, 1.0) if row.before > 0 else 0.0),
        only="page",
    ),
)
SPARSE: Table[schema.SparseRow] = Table(
    "Thinned weights",
    Column("weight", lambda row: row.weight, "name"),
    Column("shape", lambda row: shape(row.shape), only="page"),
    Column("zeros", lambda row: row.sparsity, "percent"),
    Column("chosen by", lambda row: row.method),
    Column("then", lambda row: row.refit),
    Column("error", lambda row: row.before, "figure", _ERROR, missing=""),
    Column("after", lambda row: row.after, "figure", _ERROR, missing=""),
)


def zeros(rows: Sequence[ZerosRow], forms: Sequence[str] = ()) -> Table[ZerosRow]:
    """Zeros and their patterns, and bytes in each form that some weight can take.

    Args:
        rows: weights.
        forms: the order of columns; others follow.
    """
    known = list(dict.fromkeys(chain(forms, *(row.bytes for row in rows))))
    return Table(
        "Zeros",
        Column("weight", lambda row: row.weight, "name"),
        Column("shape", lambda row: shape(row.shape)),
        Column("zeros", lambda row: row.zeros, "percent"),
        Column("pattern", lambda row: row.pattern),
        *[_form(form) for form in known if any(form in row.bytes for row in rows)],
    )


def _form(form: str) -> Column[ZerosRow]:
    def size(row: ZerosRow) -> Cell:
        least = row.bytes.get(form) == min(row.bytes.values())
        return Cell(row.bytes.get(form), "good" if least else "")

    return Column(form, size, "bytes")


STORED: Table[StoredRow] = Table(
    "Stored weights",
    Column("weight", lambda row: row.weight, "name"),
    Column("form", lambda row: row.form),
    Column("values", lambda row: row.values),
    Column("zeros", lambda row: row.zeros, "percent"),
    Column("dense", lambda row: row.dense, "bytes"),
    Column("stored", lambda row: row.stored, "bytes"),
    Column("change", lambda row: change(row.dense, row.stored, "bytes"), right=True),
    Column("remark", lambda row: row.remark, optional=True),
)


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
    Column("file", lambda row: row.bytes, "bytes"),
    Column("MACs", lambda row: row.macs, "count"),
    Column("parameters", lambda row: row.params, "count"),
)
LATENCY: Table[bench.Row] = Table(
    "Latency",
    Column("model", lambda row: row.model),
    Column("p50", lambda row: row.latency.p50_s, "seconds", "half of all runs took less"),
    Column("p90", lambda row: row.latency.p90_s, "seconds"),
    Column("p99", lambda row: row.latency.p99_s, "seconds"),
    Column(
        "ratio",
        lambda row: row.ratio and row.ratio.value,
        "ratio",
        "latency over that of the first model",
        missing="",
    ),
    Column("95 %", lambda row: interval(row.ratio), about="of the ratio", right=True),
    Column("", lambda row: verdict(row.ratio)),
    Column("load", lambda row: row.load_s, "seconds"),
    Column("first run", lambda row: row.first_run_s, "seconds"),
    Column("peak RSS", lambda row: row.peak_rss_bytes, "bytes", "memory of the process"),
)
SCORES: Table[bench.Row] = Table(
    "Task",
    Column("model", lambda row: row.model),
    Column("backend", lambda row: row.backend),
    Column("metric", lambda row: row.score and row.score.metric),
    Column("first model", lambda row: _score(row, "before"), "number"),
    Column("this one", lambda row: _score(row, "after"), "number"),
)
DECLINED: Table[bench.DeclinedRow] = Table(
    "Not measured",
    Column("backend", lambda row: row.backend),
    Column("model", lambda row: row.model + (f" (batch {row.batch})" if row.batch else "")),
    Column("because", lambda row: row.reason),
    Column("what to do", lambda row: row.install, "name"),
)


def interval(ratio: bench.Ratio | None) -> str:
    """A 95 % interval; nothing where nothing was compared."""
    return "" if ratio is None else f"{ratio.low:.3f} to {ratio.high:.3f}"


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
    known = [value for cell in sweep.cells if (value := swept(cell, measure)) is not None]
    top = max([value for value in known if value < float("inf")], default=0.0)
    advised = sweep.recommended.ratios if sweep.recommended else {}

    def column(ratio: float) -> Column[sensitivity.Target]:
        return Column(
            ratio_head(ratio),
            lambda row: heat(cells.get((row.name, ratio)), sweep, measure, top),
            right=True,
        )

    return Table(
        f"Sensitivity of {sweep.model}",
        Column("target", lambda row: row.name, "name"),
        Column("kind", lambda row: row.kind),
        Column("units", lambda row: row.units, "count", only="terminal"),
        *[column(ratio) for ratio in ratios(sweep)],
        Column(
            "advised",
            lambda row: advised.get(row.name),
            "percent",
            "meant to lose no more than was asked, together",
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
    text = lost(value, sweep) if measure == "drop" else figure(value)
    return Cell(text, warmth=warmth(value, top))


def lost(drop: float, sweep: sensitivity.Sensitivity) -> str:
    """What is lost of the metric, above 0 where that is worse: points, where it is a fraction."""
    if metric_scale(sweep.metric, higher=sweep.higher_is_better).fraction:
        return f"{round(drop * 100, 1) + 0.0:.1f}"  # so that a negative zero has no sign
    return figure(drop)


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
    return "gone" if ratio == 1 else f"{ratio * 100:g} %"


# What pays.

ADVICE: Table[Advice] = Table(
    "Advice",
    Column("", _word),
    Column("method", lambda row: row.method),
    Column("on", lambda row: row.backend),
    Column("latency", lambda row: _about(row.estimate), right=True),
    Column("weights", lambda row: _about(row.bytes_left), right=True),
    Column("why", lambda row: row.why),
)


def layers(notes: Mapping[str, int], tensorrt: Mapping[str, str] | None) -> Table[Layer]:
    """Layers that could be 2:4.

    Args:
        notes: numbers of notes that stand below.
        tensorrt: what TensorRT said by node, where it was asked.
    """
    tones: dict[str, Tone] = {"eligible": "good", "dense": "warn", "never": "soft"}

    def why(row: Layer) -> str:
        return " ".join(filter(None, (row.reason, *(f"[{notes[note]}]" for note in row.notes))))

    said: Column[Layer] = Column("TensorRT", lambda row: (tensorrt or {}).get(row.node, ""))
    return Table(
        "Layers",
        Column("layer", lambda row: row.node, "name"),
        Column("operator", lambda row: " < ".join((row.op, *reversed(row.through)))),
        Column("weight", lambda row: f"{row.dtype} {shape(row.shape)}" if row.shape else ""),
        Column("", lambda row: Cell(row.state, tones[row.state])),
        *([] if tensorrt is None else [said]),
        Column("why", why),
    )


def shape(sizes: Sequence[int]) -> str:
    """``64x3x7x7``."""
    return "x".join(map(str, sizes))


def counted(reasons: Sequence[str], what: str, said: str = " left") -> list[str]:
    """``3 layers left: reason``, the most frequent first; what has no reason is not counted."""
    known = Counter(reason for reason in reasons if reason)
    return [f"{plural(n, what)}{said}: {reason}" for reason, n in known.most_common()]


def unit_of(sweep: sensitivity.Sensitivity) -> Unit:
    """How values of the metric of a sweep are written."""
    scale = metric_scale(sweep.metric, higher=sweep.higher_is_better)
    return "fraction" if scale.fraction and scale != COSINE else "number"
