"""What was measured: trade-offs, latencies on backends, and sensitivity, with their charts."""

from __future__ import annotations

import json
from dataclasses import replace

from onnxprune import quantities as numbers
from onnxprune.jobs.bench.schema import Bench, Row
from onnxprune.quantities import Unit
from onnxprune.report import columns, drawing, plots, standing
from onnxprune.report.charts import Chart, draw, framed
from onnxprune.report.families import Family
from onnxprune.report.html.markup import (
    Content,
    Markup,
    folded,
    join,
    listed,
    table,
    tag,
    titled,
    tools,
)
from onnxprune.report.pareto import WORDS, Panel, by_setting, panels, setting
from onnxprune.report.tables import Cell, Column, Table, tuples
from onnxprune.select.sensitivity import Sensitivity, Target

_QUANTILES = (0, 10, 25, 50, 75, 90, 95, 99, 100)
"""Percentiles in the table below a distribution."""
_MEASURES = {
    "drop": "drop",
    "kl": "KL divergence",
    "relative_error": "relative error",
    "angle": "1 - cosine",
}
_ORDERS = {"network": "of the network", "most": "most sensitive first", "least": "least first"}
_ESCAPES = str.maketrans(
    {each: f"\\u{ord(each):04x}" for each in ("<", ">", "&", "\u2028", "\u2029")}
)


def tradeoff(family: Family) -> Markup:
    """All trade-offs of a family; nothing where there are no two points to compare."""
    charts = panels(family)
    if not charts:
        return Markup()
    bars = any(m.low is not None or m.error is not None for p in charts for m in p.marks)
    about = "Further left costs less. The line joins models that no other one beats in both."
    about += " Bars are 95 % intervals." if bars else ""
    figures = [figure(plots.tradeoff(panel), _marks(panel)) for panel in charts]
    return join(tag("p", about), tag("div", figures, class_="charts"))


def latency(family: Family) -> Markup:
    """Every benchmark of a family: distributions, figures, and what could not be measured."""
    return join(map(_bench, family.benches))


def sensitivity(family: Family, key: str, most: int) -> Markup:
    """The heat-maps of a family, of ``most`` rows each: those that are most sensitive."""
    return join(_sweep(_worst(sweep, most), f"{key}-{k}") for k, sweep in enumerate(family.sweeps))


def figure(chart: Chart, numbers: Content) -> Markup:
    """A chart with its title, and the same numbers as a table, folded away below."""
    readings = None
    if chart.readings:
        frame = framed(chart)
        box = (frame.left, frame.top, frame.right - frame.left, frame.bottom - frame.top)
        readings = block({"box": [round(each, 1) for each in box], "says": chart.readings})
    picture = Markup(drawing.svg(draw(chart)))
    return tag(
        "figure",
        tag("figcaption", chart.title),
        tag(
            "div", picture, class_="plot", role="group", aria_label=f"{chart.title}. {chart.about}"
        ),
        readings,
        folded("The numbers", numbers),
        class_="chart",
        data_chart=chart.kind,
    )


def block(data: object) -> Markup:
    """Data for a script; nothing in it can end the element it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return Markup(f'<script type="application/json">{text.translate(_ESCAPES)}</script>')


def _marks(panel: Panel) -> Markup:
    """The numbers of a trade-off."""
    unit: Unit = "fraction" if panel.scale.fraction else "number"
    rows = []
    for mark in panel.marks:
        ends = error = ""
        if mark.low is not None and mark.high is not None:
            ends = " to ".join(numbers.measured(v, panel.unit) for v in (mark.low, mark.high))
        if mark.error is not None:
            error = f"± {numbers.measured(mark.error, unit)}"
        front = "yes" if mark.front else ""
        rows.append((mark.label, WORDS[mark.role], mark.x, ends, mark.y, error, front))
    x, y = f"{panel.axis}:{panel.unit}", f"{panel.scale.name.replace(':', ' ')}:{unit}"
    heads = ("model", "", x, "95 %>", y, "95 %>", "on the front")
    return table(tuples(panel.title, *heads), rows)


def _bench(bench: Bench) -> Markup:
    figures = [
        figure(chart, _percentiles(chart.title, rows)) for chart, rows in plots.distributions(bench)
    ]
    close = [
        replace(each, name=f"{row.model} on {setting(row)}: {each.name}")
        for row in bench.rows
        for each in row.fidelity
    ]
    noise = [
        replace(
            each, name=f"the same model on {floor.backend} against {floor.against}: {each.name}"
        )
        for floor in bench.noise_floor
        for each in floor.outputs
    ]
    title = "Outputs against the original, on the same backend"
    return join(
        tag("div", figures, class_="charts") if figures else None,
        [titled(columns.LATENCY, rows, where) for where, rows in by_setting(bench.rows).items()],
        titled(columns.OUTPUTS, [*close, *noise] if close else [], title),
        titled(columns.SCORES, [row for row in bench.rows if row.score is not None]),
        titled(columns.DECLINED, bench.declined),
        listed("Notes", bench.notes),
    )


def _percentiles(title: str, rows: list[Row]) -> Markup:
    """The numbers of a distribution."""
    heads = [f"{percent} %:seconds" for percent in _QUANTILES]
    quantiles = [
        (row.model, *(plots.quantile(row, percent / 100) for percent in _QUANTILES)) for row in rows
    ]
    return table(tuples(f"Percentiles: {title}", "model", *heads), quantiles)


def _worst(sweep: Sensitivity, most: int) -> Sensitivity:
    """The sweep without the targets that lose least."""
    if len(sweep.targets) <= most:
        return sweep
    worst: dict[str, float] = {}
    for cell in sweep.cells:
        lost = cell.drop if cell.drop is not None else cell.kl or 0.0
        worst[cell.target] = max(worst.get(cell.target, 0.0), lost)
    ranked = sorted(worst, key=lambda name: -worst[name])
    left = set(ranked[:most])
    note = f"the {most:,} most sensitive targets are shown; the others are in the JSON"
    return replace(
        sweep,
        targets=tuple(each for each in sweep.targets if each.name in left),
        cells=tuple(each for each in sweep.cells if each.target in left),
        declined={**sweep.declined, f"{len(worst) - most:,} more": note},
    )


def _sweep(sweep: Sensitivity, key: str) -> Markup:
    scale = standing.of_sweep(sweep)
    measures = {
        name: label
        for name, label in _MEASURES.items()
        if any(columns.swept(cell, name) is not None for cell in sweep.cells)
    }
    if not measures:
        return tag("p", "Nothing was measured in this sweep.")
    first = next(iter(measures))
    dense = numbers.measured(sweep.dense, columns.unit_of(sweep))
    about = (
        f"What the model loses when one target alone is pruned by a ratio and nothing refitted: "
        f"{scale.name}, {dense} as it is, on {numbers.plural(sweep.samples, 'sample')}. "
        f"The stronger the colour, the worse."
    )
    grids = {name: _grid(columns.targets(sweep, name), sweep) for name in measures}
    unit = {"drop": " points"} if scale.fraction else {}
    removed = [numbers.percent(ratio) for ratio in columns.ratios(sweep)]
    heat = table(
        columns.targets(sweep, first),
        sweep.targets,
        tall=True,
        data=lambda target: {"data_name": target.name, "data_kind": target.kind},
        class_="heat-map",
        id=f"{key}-rows",
    )
    kinds = list(dict.fromkeys(target.kind for target in sweep.targets))
    return join(
        tag("p", about),
        tools(key, "targets", kinds=kinds, orders=_ORDERS, measures=measures),
        heat,
        block(
            {"first": first, "labels": measures, "units": unit, "removed": removed, "grid": grids}
        ),
        _advised(sweep),
        titled(
            columns.UNMEASURED, [(c.target, c.ratio, c.reason) for c in sweep.cells if c.reason]
        ),
        tag("div", titled(columns.UNSWEPT, list(sweep.declined.items())), class_="prose"),
        listed("Notes", sweep.notes),
    )


def _grid(table: Table[Target], sweep: Sensitivity) -> list[list[list[object]]]:
    """Text and warmth of every cell of a heat-map, by row."""
    heat = table.columns[3 : 3 + len(columns.ratios(sweep))]
    return [[_entry(column, column.cell(row)) for column in heat] for row in sweep.targets]


def _entry(column: Column[Target], cell: Cell) -> list[object]:
    return (
        [column.text(cell)] if cell.warmth is None else [column.text(cell), round(cell.warmth, 3)]
    )


def _advised(sweep: Sensitivity) -> Markup:
    advice = sweep.recommended
    if advice is None or not advice.ratios:
        return Markup()
    points = columns.unit_of(sweep) == "fraction"
    drop, measured = (
        None if value is None else f"{value * 100:.3g} points" if points else f"{value:.4g}"
        for value in (advice.drop, advice.measured)
    )
    lost = f", and lost {measured} when measured" if measured else ""
    aim = f"The advised ratios are meant to lose at most {drop} together{lost}"
    return tag("p", f"{aim}, before anything is refitted.")
