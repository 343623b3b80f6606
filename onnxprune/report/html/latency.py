"""What was measured on backends: percentiles, ratios with intervals, and distributions."""

from __future__ import annotations

from onnxprune import quantities as numbers
from onnxprune.jobs.bench.schema import Bench, Row
from onnxprune.quantities import Unit
from onnxprune.report.html.charts import chart
from onnxprune.report.html.families import Family
from onnxprune.report.html.markup import TIMES, Content, Markup, code, join, table, tag
from onnxprune.report.html.overview import outputs
from onnxprune.report.html.standing import metric_scale

_SHOWN = (0, 10, 25, 50, 75, 90, 95, 99, 100)
"""Percentiles in the table below a distribution."""


def section(family: Family) -> Markup:
    """Every benchmark of a family: distributions, figures, and what could not be measured."""
    return join(_bench(bench) for bench in family.benches)


def setting(row: Row) -> str:
    """Where and how a row was measured."""
    parts = [row.backend, row.precision, f"batch {row.batch}"]
    if row.threads is not None:
        parts.append(numbers.plural(row.threads, "thread"))
    return ", ".join(parts)


def _bench(bench: Bench) -> Markup:
    by: dict[str, list[Row]] = {}
    for row in bench.rows:
        by.setdefault(setting(row), []).append(row)
    figures = [
        _distribution(title, rows)
        for title, rows in by.items()
        if any(len(row.latency.quantiles) > 1 for row in rows)
    ]
    parts = [tag("div", figures, class_="charts")] if figures else []
    parts.append(_figures(bench))
    close = [
        (f"{row.model} on {setting(row)}: {each.name}", each)
        for row in bench.rows
        for each in row.fidelity
    ]
    if close:
        noise = [
            (f"the same model on {floor.backend}, against {floor.against}: {each.name}", each)
            for floor in bench.noise_floor
            for each in floor.outputs
        ]
        parts += [tag("h4", "Outputs against the original, on the same backend")]
        parts.append(outputs([*close, *noise]))
    if bench.declined:
        rows = [
            (each.backend, each.model, each.reason, code(each.install)) for each in bench.declined
        ]
        parts += [
            tag("h4", "Not measured"),
            table(("backend", "model", "because", "what helps"), rows, caption="Not measured"),
        ]
    if bench.notes:
        parts += [tag("h4", "Notes"), tag("ul", [tag("li", note) for note in bench.notes])]
    return join(parts)


def _figures(bench: Bench) -> Markup:
    rows: list[list[Content]] = []
    scores = any(row.score for row in bench.rows)
    for row in bench.rows:
        ratio: list[Content] = ["", "", ""]
        if row.ratio is not None:
            interval = f"{row.ratio.low:.3f} to {row.ratio.high:.3f}"
            ratio = [f"{row.ratio.value:.3f}{TIMES}", interval, row.ratio.verdict]
        speeds = (row.latency.p50_s, row.latency.p90_s, row.latency.p99_s)
        loads = (row.load_s, row.first_run_s)
        memory = "-" if row.peak_rss_bytes is None else numbers.size(row.peak_rss_bytes)
        cells: list[Content] = [
            row.model,
            setting(row),
            *(numbers.measured(value, "seconds") for value in speeds),
            *ratio,
            *(numbers.measured(value, "seconds") for value in loads),
            memory,
        ]
        if scores:
            cells.append(_score(row))
        rows.append(cells)
    heads = ["model", "on", "p50>", "p90>", "p99>", "ratio>", "95 %>", "verdict"]
    heads += ["load>", "first run>", "peak memory>", *(["score>"] if scores else [])]
    return table(heads, rows, caption="Latency", class_="latency")


def _score(row: Row) -> str:
    if row.score is None:
        return "-"
    unit: Unit = "fraction" if metric_scale(row.score.metric).fraction else "number"
    value = row.score.before if row.ratio is None else row.score.after
    return f"{row.score.metric} {numbers.measured(value, unit)}"


def _distribution(title: str, rows: list[Row]) -> Markup:
    known = [row for row in rows if len(row.latency.quantiles) > 1]
    shown = []
    for row in known:
        steps = row.latency.quantiles
        at = (steps[round(p / 100 * (len(steps) - 1))] for p in _SHOWN)
        shown.append([row.model, *(numbers.measured(value, "seconds") for value in at)])
    data = {"lines": [{"label": row.model, "quantiles": row.latency.quantiles} for row in known]}
    heads = ["model", *(f"{p} %>" for p in _SHOWN)]
    return chart(
        "ecdf",
        data,
        title=f"Latency on {title}",
        about="Share of runs that took at most that long, one line per model",
        numbers=table(heads, shown, caption=f"Percentiles of latency on {title}"),
    )
