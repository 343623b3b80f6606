"""What was measured: trade-offs, latencies on backends, and sensitivity, with their charts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import PurePath

from onnxprune import quantities as numbers
from onnxprune.jobs.assessed import Assessed
from onnxprune.jobs.bench.schema import Bench, Row
from onnxprune.report import columns, drawing, plots, sections, standing
from onnxprune.report.charts import Chart, draw, framed
from onnxprune.report.families import Family
from onnxprune.report.html.markup import (
    HOT,
    TALL,
    Content,
    Markup,
    code,
    drawn,
    folded,
    join,
    listed,
    table,
    tag,
    tools,
)
from onnxprune.report.html.run import judged
from onnxprune.report.pareto import WORDS, Panel, panels, setting
from onnxprune.report.standing import Scale
from onnxprune.report.tables import Cell, Column, Table, tuples
from onnxprune.select.sensitivity import Sensitivity, Target

_QUANTILES = (0, 10, 25, 50, 75, 90, 95, 99, 100)
"""Percentiles in the table below a distribution."""
_ABREAST = 3
"""Charts that stand beside each other at most."""
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
    about += " Bars are 95 % intervals; those of quality are of its change." if bars else ""
    figures = [figure(plots.tradeoff(panel), _marks(panel)) for panel in charts]
    return join(tag("p", about), tag("div", figures, class_="charts"))


def evaluation(family: Family, most: int) -> Markup:
    """Every evaluation of a family: both verdicts, the metric, the outputs and the tails."""
    return join(_evaluation(each, family, most) for each in family.assessments)


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


def _evaluation(document: Assessed, family: Family, most: int) -> Markup:
    several = len(family.assessments) > 1 or bool(family.runs)
    models = table(columns.MODELS, document.models) if several and document.models else None
    return join(
        tag("h4", PurePath(document.model).name) if several else None,
        *judged(sections.assessment_verdicts(document)),
        models,
        [drawn(part, most=most) for part in sections.of_assessment(document)],
        listed("Notes", document.notes),
    )


def _marks(panel: Panel) -> Markup:
    """The numbers of a trade-off."""
    unit = panel.scale.unit
    rows = []
    for mark in panel.marks:
        ends = error = ""
        if mark.low is not None and mark.high is not None:
            ends = " to ".join(numbers.measured(v, panel.unit) for v in (mark.low, mark.high))
        if mark.error is not None:
            error = f"± {numbers.spread(mark.error, unit)}"
        front = "yes" if mark.front else ""
        rows.append((mark.label, WORDS[mark.role], mark.x, ends, mark.y, error, front))
    x, y = f"{panel.axis}:{panel.unit}", f"{panel.scale.name.replace(':', ' ')}:{unit}"
    heads = ("model", "", x, "95 %>", y, "95 %>", "on the front")
    return table(tuples(panel.title, *heads), rows)


def _bench(bench: Bench) -> Markup:
    ratios = plots.ratios(bench.rows) if any(row.ratio for row in bench.rows) else None
    first = None if ratios is None else figure(ratios, _ratios(bench))
    lines = [
        tag(
            "div",
            [figure(chart, _percentiles(chart.title, rows)) for chart, rows in line],
            class_="charts",
            style=f"--columns:{len(line)}" if len(line) <= _ABREAST else None,
        )
        for line in plots.grid(bench)
    ]
    return join(
        first,
        lines,
        [drawn(part) for part in sections.of_bench(bench)],
        tag("p", sections.machine(bench), class_="soft"),
        listed("Notes", bench.notes),
    )


def _ratios(bench: Bench) -> Markup:
    """The numbers of all ratios."""
    rows = [
        (row.model, setting(row), row.ratio.value, columns.interval(row.ratio))
        for row in bench.rows
        if row.ratio is not None
    ]
    heads = ("model", "on", f"{columns.RATIO.label}:{columns.RATIO.unit}", "95 %>")
    return table(tuples("Ratios", *heads), rows)


def _percentiles(title: str, rows: list[Row]) -> Markup:
    """The numbers of a distribution."""
    heads = [f"{percent} %:seconds" for percent in _QUANTILES]
    quantiles = [
        (row.model, *(plots.quantile(row, percent / 100) for percent in _QUANTILES)) for row in rows
    ]
    return table(tuples(f"Percentiles: {title}", "model", *heads), quantiles)


def _worst(sweep: Sensitivity, most: int) -> Sensitivity:
    """The sweep without the targets that lose least."""
    targets = sections.most_sensitive(sweep, most)
    rest = len(sweep.targets) - len(targets)
    if not rest:
        return sweep
    names = {target.name for target in targets}
    note = f"the {most:,} most sensitive targets are shown; the others are in the JSON"
    return replace(
        sweep,
        targets=targets,
        cells=tuple(each for each in sweep.cells if each.target in names),
        declined={**sweep.declined, f"{rest:,} more": note},
    )


def _sweep(sweep: Sensitivity, key: str) -> Markup:
    scale = standing.of_sweep(sweep)
    measures = {
        name: columns.lost_in(scale) if name == "drop" else figure.label
        for name, figure in columns.SWEPT.items()
        if any(columns.swept(cell, name) is not None for cell in sweep.cells)
    }
    if not measures:
        return tag("p", "Nothing was measured in this sweep.")
    first = next(iter(measures))
    about = sections.heat_about(sweep)
    about = f"{sections.heat_head(sweep)}. {about[:1].upper()}{about[1:]}."
    grids = {name: _grid(columns.targets(sweep, name), sweep) for name in measures}
    removed = [numbers.percent(ratio) for ratio in columns.ratios(sweep)]
    heat_map = columns.targets(sweep, first)
    cells = len(heat_map.visible(sweep.targets, "page")) - 2
    heat = table(
        heat_map,
        sweep.targets,
        tall=len(sweep.targets) > TALL,
        data=lambda target: {"data_name": target.name, "data_kind": target.kind},
        class_="heat-map",
        id=f"{key}-rows",
        style=f"--ratios:{max(cells, 3)}",
    )
    kinds = list(dict.fromkeys(target.kind for target in sweep.targets))
    return join(
        tag("p", about),
        tools(key, "targets", kinds=kinds, orders=_ORDERS, measures=measures),
        heat,
        block({"first": first, "labels": measures, "removed": removed, "grid": grids}),
        _scale_of(scale, sweep),
        tag("p", f"{'. '.join([sections.advised(sweep), *sections.refitted(sweep)])}.")
        if sweep.recommended
        else None,
        tag("pre", code(sweep.recommended.command))
        if sweep.recommended and sweep.recommended.command
        else None,
        [drawn(part) for part in sections.of_sweep(sweep) if part.only != "terminal"],
        listed("Notes", sweep.notes),
    )


def _scale_of(scale: Scale, sweep: Sensitivity) -> Markup:
    """What the colours of a heat-map mean: they go with the square root of what is lost."""
    top = max((cell.drop or 0.0 for cell in sweep.cells), default=0.0)
    marks = [
        tag(
            "span",
            columns.lost(top * share**2, scale),
            class_="heat hot" if share > HOT else "heat",
            style=f"--heat:{share:.3f}",
        )
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    return tag("div", tag("span", columns.lost_in(scale)), marks, class_="scale")


def _grid(table: Table[Target], sweep: Sensitivity) -> list[list[list[object]]]:
    """Text and warmth of every cell of a heat-map, by row."""
    heat = table.columns[3 : 3 + len(columns.ratios(sweep))]
    return [[_entry(column, column.cell(row)) for column in heat] for row in sweep.targets]


def _entry(column: Column[Target], cell: Cell) -> list[object]:
    return (
        [column.text(cell)] if cell.warmth is None else [column.text(cell), round(cell.warmth, 3)]
    )
