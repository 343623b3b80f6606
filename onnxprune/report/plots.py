"""Which charts there are of results: trade-offs, distributions, ratios and heat-maps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxprune.errors import OnnxpruneError
from onnxprune.quantities import Unit, measured, percent, plural, spread
from onnxprune.report import columns, sections, standing
from onnxprune.report.charts import Axis, Chart, Line, Mark, draw
from onnxprune.report.drawing import (
    Anchor,
    Group,
    Picture,
    Point,
    Shape,
    Text,
    beside,
    light,
    rectangle,
    stacked,
    text_width,
)
from onnxprune.report.families import stem
from onnxprune.report.pareto import WORDS, Panel, by_setting, panels, setting
from onnxprune.report.pareto import Mark as Model
from onnxprune.report.tables import RGB, Cell, blend, elide, is_dark, write

if TYPE_CHECKING:
    from onnxprune.jobs.bench.schema import Bench, Row
    from onnxprune.report.families import Family
    from onnxprune.select.sensitivity import Sensitivity, Target

_ORDER = ("missed", "tried", "other", "dense", "chosen")
"""Marks from back to front."""
_CELL, _LINE, _NAMES, _HEADS = 52.0, 20.0, 44, 84.0


def tradeoff(panel: Panel) -> Chart:
    """What models cost against how good they are."""
    unit = panel.scale.unit
    marks = sorted(panel.marks, key=lambda mark: _ORDER.index(mark.role))
    furthest = max(mark.x for mark in marks)
    end = max(mark.high or mark.x for mark in marks)
    right = min(end, furthest * 1.4) * 1.06  # no interval may press all else together
    ends = [value for mark in marks for value in (_quality(mark, unit) or (mark.y,))]
    low, high = min(ends), max(ends)
    room = max((high - low) * 0.12, abs(high) * 0.005, 1e-9)
    last = max(1.0, high) if unit == "fraction" else math.inf  # a part of a whole ends with it
    return Chart(
        "pareto",
        panel.title,
        f"{panel.scale.name} against {panel.axis}, {plural(len(marks), 'model')}",
        Axis(panel.axis, panel.unit, 0.0, right),
        Axis(panel.scale.name, unit, low - room, min(high + room, last + room / 3), last=last),
        tuple(
            Mark(
                mark.role,
                mark.x,
                mark.y,
                _about(mark, panel, unit),
                None if mark.low is None or mark.high is None else (mark.low, mark.high),
                _quality(mark, unit),
                mark.label if mark.role in ("dense", "chosen") or len(marks) < 5 else "",
            )
            for mark in marks
        ),
        front=tuple((mark.x, mark.y) for mark in panel.marks if mark.front),
        legend=tuple(dict.fromkeys((mark.role, WORDS[mark.role]) for mark in panel.marks)),
    )


def distributions(bench: Bench) -> list[tuple[Chart, list[Row]]]:
    """By backend and setting, which share of runs took at most how long; with the rows of each."""
    return [
        (_distribution(title, known), known)
        for title, rows in by_setting(bench.rows).items()
        if (known := [row for row in rows if len(row.latency.quantiles) > 1])
    ]


def ratios(rows: Sequence[Row]) -> Chart:
    """Latency compared with the first model's: one line per model and setting, 95 % intervals."""
    pairs = [(row, row.ratio) for row in reversed(rows) if row.ratio is not None]
    ends = [1.0, *(end for _, ratio in pairs for end in (ratio.low, ratio.high))]
    low, high = min(ends), max(ends)
    return Chart(
        "ratios",
        "Latency and its 95 % interval",
        "Below 1 is faster",
        Axis(
            f"times that of {elide(pairs[0][1].to, 36)}",
            "ratio",
            low / 1.1,
            high * 1.1,
            log=True,
        ),
        Axis("", "whole", -0.5, len(pairs) - 0.5),
        tuple(
            Mark(
                ratio.verdict,
                ratio.value,
                k,
                f"{row.model}, {setting(row)}\n{write(ratio.value, 'ratio')} "
                f"({columns.interval(ratio)}): {columns.verdict(ratio).value}",
                (ratio.low, ratio.high),
                label=f"{write(ratio.value, 'ratio')}, {columns.verdict(ratio).value}",
            )
            for k, (row, ratio) in enumerate(pairs)
        ),
        names=tuple((row.model, setting(row)) for row, _ in pairs),
        at=1.0,
    )


def of_bench(bench: Bench) -> Picture:
    """A measurement as a picture: ratios above distributions, a row per backend, by batch.

    Raises:
        OnnxpruneError: nothing was measured.
    """
    if not bench.rows:
        raise OnnxpruneError("nothing was measured, so there is nothing to draw")
    rows = [[ratios(bench.rows)]] if any(row.ratio for row in bench.rows) else []
    rows += [[chart for chart, _ in line] for line in grid(bench)]
    return stacked([draw(chart, titled=True) for chart in row] for row in rows)


def grid(bench: Bench) -> list[list[tuple[Chart, list[Row]]]]:
    """The distributions, one line per backend and number of threads, in it by batch."""
    lines: dict[tuple[object, ...], list[tuple[Chart, list[Row]]]] = {}
    for chart, known in distributions(bench):
        where = known[0].backend, known[0].precision, known[0].threads
        lines.setdefault(where, []).append((chart, known))
    return list(lines.values())


def of_families(families: Iterable[Family]) -> Picture:
    """Every trade-off chart of the page, in a grid.

    Raises:
        OnnxpruneError: nothing can be compared.
    """
    known = [(family, tradeoff(panel)) for family in families for panel in panels(family)]
    several = len({id(family) for family, _ in known}) > 1
    charts = [
        replace(chart, title=f"{stem(family.name)}: {chart.title}") if several else chart
        for family, chart in known
    ]
    if not charts:
        raise OnnxpruneError(
            "there are no two models whose cost and quality could be compared in a figure",
            hint="give --calib to prune, so that the report holds the quality",
        )
    return beside(draw(each, titled=True) for each in charts)


def of_sweep(sweep: Sensitivity) -> Picture:
    """The heat-map of a sweep: rows in the order of the network by kind, columns by ratio."""
    table = columns.targets(sweep)
    heat = table.columns[3 : 3 + len(columns.ratios(sweep))]
    kinds: dict[str, list[Target]] = {}
    for target in sweep.targets:
        kinds.setdefault(target.kind, []).append(target)
    labels = {row.name: elide(row.name, _NAMES) for row in sweep.targets}
    left = max(map(text_width, labels.values()), default=0.0) + 28
    ramp = _ramp()
    shapes: list[Shape] = [Text(left - 8, _HEADS, "removed", "end")]
    shapes += [
        Text(left + (k + 0.5) * _CELL, _HEADS, column.label, "middle")
        for k, column in enumerate(heat)
    ]
    y = _HEADS + 8
    for kind, rows in kinds.items():
        if len(kinds) > 1:
            shapes.append(Text(16, y + 16, kind, bold=True, size=11))
            y += 22
        for row in rows:
            shapes.append(Text(left - 8, y + 14, labels[row.name], "end", "ink"))
            cells = [(column, column.cell(row)) for column in heat]
            shapes += [
                _heat(row.name, column.label, cell, (left + k * _CELL, y), ramp)
                for k, (column, cell) in enumerate(cells)
            ]
            y += _LINE
    width = max(left + len(heat) * _CELL, 480.0)
    head = elide(sections.heat_head(sweep), round(width / 7.6))
    lines = [Text(16, 24, head, colour="ink", size=13, bold=True)]
    lines += [
        Text(16, 42 + 15 * k, elide(about, round(width / 6.4)), size=11)
        for k, about in enumerate(sections.heat_about(sweep).split("; "))
    ]
    return Picture(width + 16, y + 52, (*lines, *shapes, *_scale(sweep, y + 18, ramp)))


def _heat(name: str, ratio: str, cell: Cell, place: Point, ramp: tuple[RGB, RGB, RGB]) -> Shape:
    """One cell of a heat-map."""
    (x, y), text, ink = place, str(cell.value or ""), "soft"
    parts: list[Shape] = []
    if cell.warmth is not None:
        ground = blend(cell.warmth, ramp)
        parts.append(rectangle(x + 1, y + 1, _CELL - 2, _LINE - 2, _hex(ground)))
        ink = "#ffffff" if is_dark(ground) else "#000000"
    parts.append(Text(x + _CELL / 2, y + 14, text, "middle", ink, 11))
    return Group(tuple(parts), "heat", f"{name}\n{ratio} removed: {text}" if text else "")


def _scale(sweep: Sensitivity, y: float, ramp: tuple[RGB, RGB, RGB]) -> list[Shape]:
    """What the colours mean: they go with the square root of what is lost."""
    drops = [cell.drop for cell in sweep.cells if cell.drop is not None]
    top = max([drop for drop in drops if math.isfinite(drop)], default=0.0)
    scale = standing.of_sweep(sweep)
    shapes: list[Shape] = [
        rectangle(16 + k * 5, y, 5, 10, _hex(blend(k / 39, ramp))) for k in range(40)
    ]
    ends: tuple[tuple[float, Anchor], ...] = ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    for share, anchor in ends:
        text = columns.lost(share**2 * max(top, 0.0), scale)
        shapes.append(Text(16 + share * 200, y + 24, text, anchor, size=11))
    shapes.append(Text(228, y + 9, columns.lost_in(scale), size=11))
    return shapes


def _distribution(title: str, rows: list[Row]) -> Chart:
    # A few stray runs would press everything else against the axis: the tail past 99 % is cut.
    low = min(row.latency.quantiles[0] for row in rows)
    high = max(quantile(row, 0.99) for row in rows)
    log = low > 0 and high > 5 * low  # or all but the tail would be one steep line
    room = (high - low) * 0.05 or high * 0.05
    start, end = (low / 1.1, high * 1.1) if log else (max(0.0, low - room), high + room)
    label = f"latency up to the 99th percentile{', logarithmic' if log else ''}"

    def line(row: Row) -> Line:
        steps = row.latency.quantiles
        inside = [(v, k / (len(steps) - 1)) for k, v in enumerate(steps) if v <= end]
        median = measured(row.latency.p50_s, "seconds")
        return Line(row.model, tuple(inside), f"{row.model}\nmedian: {median}")

    def reading(share: float) -> str:
        first = quantile(rows[0], share)
        lines = [f"{percent(share)} of runs within"]
        for k, row in enumerate(rows):
            value = quantile(row, share)
            ratio = f" ({write(value / first, 'ratio')})" if k and first else ""
            lines.append(f"{row.model}: {measured(value, 'seconds')}{ratio}")
        return "\n".join(lines)

    return Chart(
        "ecdf",
        f"Latency on {title}",
        "Share of runs that took at most that long, one line per model",
        Axis(label, "seconds", start, end, log=log),
        Axis("share of runs", "fraction", 0.0, 1.0),
        lines=tuple(map(line, rows)),
        readings=tuple(reading(k / 100) for k in range(101)),
    )


def quantile(row: Row, share: float) -> float:
    """Seconds within which a share of all runs ended."""
    steps = row.latency.quantiles
    return steps[round(share * (len(steps) - 1))]


def _quality(mark: Model, unit: Unit) -> tuple[float, float] | None:
    """Between what the quality of a model lies; a part of a whole ends where the whole does."""
    if mark.error is None:
        return None
    low, high = mark.y - mark.error, mark.y + mark.error
    if unit == "fraction":
        low, high = max(low, min(mark.y, 0.0)), min(high, max(mark.y, 1.0))
    return low, high


def _about(mark: Model, panel: Panel, unit: Unit) -> str:
    ends = ""
    if mark.low is not None and mark.high is not None:
        ends = f" ({' to '.join(measured(end, panel.unit) for end in (mark.low, mark.high))})"
    error = "" if mark.error is None else f" ± {spread(mark.error, unit)} (95 %)"
    return (
        f"{mark.label}, {WORDS[mark.role]}\n"
        f"{panel.axis}: {measured(mark.x, panel.unit)}{ends}\n"
        f"{panel.scale.name}: {measured(mark.y, unit)}{error}"
    )


def _ramp() -> tuple[RGB, RGB, RGB]:
    first, middle, last = (_rgb(light()[f"heat-{k}"]) for k in range(3))
    return first, middle, last


def _rgb(colour: str) -> RGB:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _hex(colour: RGB) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
