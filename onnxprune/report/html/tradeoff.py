"""What speed and size cost in quality: one Pareto chart per backend, or per size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from onnxprune.report import numbers
from onnxprune.report.html import standing
from onnxprune.report.html.charts import chart
from onnxprune.report.html.families import Family, stem
from onnxprune.report.html.latency import setting
from onnxprune.report.html.markup import Markup, join, table, tag
from onnxprune.report.html.measured import Bench
from onnxprune.report.html.standing import Scale
from onnxprune.report.points import PointRow
from onnxprune.report.schema import Report, Unit

Role = Literal["dense", "chosen", "tried", "missed"]
_WORDS: dict[Role, str] = {
    "dense": "the original",
    "chosen": "chosen",
    "tried": "visited",
    "missed": "visited, lost too much",
}


@dataclass(frozen=True)
class Mark:
    """One model on a chart: what it costs, with an interval where it was measured, and its value.

    ``front`` marks those that no other beats in both.
    """

    label: str
    role: Role
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    front: bool = False


@dataclass(frozen=True)
class Panel:
    """One chart."""

    title: str
    axis: str
    unit: Unit
    scale: Scale
    marks: tuple[Mark, ...]


def section(family: Family) -> Markup:
    """All charts of a family; nothing where there are no two points to compare."""
    found = panels(family)
    if not found:
        return Markup()
    about = (
        "Further left costs less; the line joins models that no other one beats in both. "
        "Bars are 95 % intervals."
    )
    return join(tag("p", about), tag("div", [_figure(each) for each in found], class_="charts"))


def panels(family: Family) -> list[Panel]:
    """Per backend where latency was measured, else per size."""
    found = [*_searched(family.runs), *_benched(family)]
    if not found:
        found = [*_sizes(family.runs)]
    return [replace(each, marks=front(each.marks, each.scale)) for each in found]


def front(marks: Iterable[Mark], scale: Scale) -> tuple[Mark, ...]:
    """The marks by rising cost, with those marked that none beats in cost and in value."""
    sign = 1 if scale.higher_is_better else -1
    best, out = float("-inf"), []
    for mark in sorted(marks, key=lambda each: (each.x, -sign * each.y)):
        out.append(replace(mark, front=sign * mark.y > best))
        best = max(best, sign * mark.y)
    return tuple(out)


def _searched(runs: Sequence[Report]) -> list[Panel]:
    """Panels of what automatic modes measured on backends."""
    names = dict.fromkeys(name for run in runs for point in run.points for name in point.latency)
    found = []
    for name in names:

        def cost(point: PointRow, name: str = name) -> tuple[float, float | None, float | None] | None:
            row = point.latency.get(name)
            return None if row is None else (row.p50_s, row.low_s, row.high_s)

        found += _panels(runs, cost, None, f"Latency on {name}", "median latency", "seconds")
    return found


def _sizes(runs: Sequence[Report]) -> list[Panel]:
    found: list[Panel] = []
    for name, field, unit in (("MACs", "macs", "count"), ("weights", "bytes", "bytes")):

        def cost(point: PointRow, field: str = field) -> tuple[float, None, None]:
            return float(getattr(point, field)), None, None

        axis = "MACs" if name == "MACs" else "bytes of weights"
        title = f"By {axis}; no latency was measured"
        found += _panels(runs, cost, name, title, axis, "count" if unit == "count" else "bytes")
    return found


def _panels(
    runs: Sequence[Report],
    cost: Callable[[PointRow], tuple[float, float | None, float | None] | None],
    measure: str | None,
    title: str,
    axis: str,
    unit: Unit,
) -> list[Panel]:
    """One panel per scale of value that the points have."""
    by: dict[Scale, dict[tuple[float, float, str], Mark]] = {}

    def put(scale: Scale, mark: Mark) -> None:
        known = by.setdefault(scale, {})
        key = (mark.x, mark.y, "dense" if mark.role == "dense" else mark.label)
        known.setdefault(key, mark)

    for run in runs:
        stands = standing.of_run(run)
        for point in run.points:
            place = cost(point)
            if place is None:
                continue
            scale, value = _value(point, stands)
            dense = point.macs == run.model.macs and point.params == run.model.params
            role: Role = "dense" if dense else "chosen" if point.chosen else "tried"
            if role == "tried" and not point.ok:
                role = "missed"
            put(scale, Mark(point.label, role, place[0], value, place[1], place[2]))
        row = standing.measure(run, measure) if measure else None
        if stands is None or row is None or row.dense is None or row.pruned is None:
            continue
        scale, before, after = stands
        put(scale, Mark("original", "dense", row.dense, before))
        if not any(point.chosen for point in run.points):
            put(scale, Mark(stem(run.output or "pruned"), "chosen", row.pruned, after))
    return [
        Panel(title, axis, unit, scale, tuple(marks.values()))
        for scale, marks in by.items()
        if len(marks) > 1
    ]


def _value(
    point: PointRow, stands: tuple[Scale, float, float] | None
) -> tuple[Scale, float]:
    """The metric of a visited model; without labels, what is left of agreement."""
    if point.value is None:
        return standing.AGREEMENT if stands is None else stands[0], 1.0 - point.drop
    if stands is not None and stands[0].name == point.metric:
        return stands[0], point.value
    return standing.metric_scale(point.metric, fraction=point.metric.startswith("acc")), point.value


def _benched(family: Family) -> list[Panel]:
    """Panels of what was benchmarked, with the value on that backend or else of the run."""
    made = {stem(run.output): run for run in family.runs if run.output}
    found = []
    for bench in family.benches:
        for title, marks in _rows(bench, family, made).items():
            by: dict[Scale, list[Mark]] = {}
            for scale, mark in marks:
                by.setdefault(scale, []).append(mark)
            found += [
                Panel(f"Latency on {title}", "median latency", "seconds", scale, tuple(each))
                for scale, each in by.items()
                if len(each) > 1
            ]
    return found


def _rows(
    bench: Bench, family: Family, made: dict[str, Report]
) -> dict[str, list[tuple[Scale, Mark]]]:
    first = bench.models[0].name if bench.models else ""
    files = {each.name: stem(each.file) for each in bench.models}
    base = {setting(row): row.latency.p50_s for row in bench.rows if row.model == first}
    found: dict[str, list[tuple[Scale, Mark]]] = {}
    for row in bench.rows:
        name = files.get(row.model, stem(row.model))
        dense = row.model == first
        value = standing.of_row(row, reference=dense) or _of_run(name, dense, family, made)
        if value is None:
            continue
        role: Role = "dense" if dense else "chosen" if name in made else "tried"
        scale_by = base.get(setting(row))
        low = high = None
        if row.ratio is not None and scale_by is not None:
            low, high = row.ratio.low * scale_by, row.ratio.high * scale_by
        mark = Mark(name, role, row.latency.p50_s, value[1], low, high)
        found.setdefault(setting(row), []).append((value[0], mark))
    for marks in found.values():  # the reference has no fidelity to itself; it takes the others'
        scales = {scale for scale, mark in marks if mark.role != "dense"}
        for k, (scale, mark) in enumerate(marks):
            if mark.role == "dense" and scale not in scales and scales:
                marks[k] = (next(iter(scales)), mark)
    return found


def _of_run(
    name: str, dense: bool, family: Family, made: dict[str, Report]  # noqa: FBT001
) -> tuple[Scale, float] | None:
    run = made.get(name) or (family.runs[0] if dense and family.runs else None)
    stands = standing.of_run(run) if run else None
    if stands is not None:
        return stands[0], stands[1] if dense else stands[2]
    return (standing.TOP1, 1.0) if dense else None


def _figure(panel: Panel) -> Markup:
    unit: Unit = "fraction" if panel.scale.fraction else "number"
    rows = []
    for mark in panel.marks:
        interval = ""
        if mark.low is not None and mark.high is not None:
            interval = " to ".join(numbers.measured(v, panel.unit) for v in (mark.low, mark.high))
        rows.append(
            (
                mark.label,
                _WORDS[mark.role],
                numbers.measured(mark.x, panel.unit),
                interval,
                numbers.measured(mark.y, unit),
                "yes" if mark.front else "",
            )
        )
    heads = ("model", "", f"{panel.axis}>", "95 %>", f"{panel.scale.name}>", "on the front")
    data = {
        "x": {"label": panel.axis, "unit": panel.unit},
        "y": {"label": panel.scale.name, "unit": unit, "up": panel.scale.higher_is_better},
        "marks": [
            {k: v for k, v in vars(mark).items() if v is not None} | {"what": _WORDS[mark.role]}
            for mark in panel.marks
        ],
    }
    count = numbers.plural(len(panel.marks), "model")
    return chart(
        "pareto",
        data,
        title=panel.title,
        about=f"{panel.scale.name} against {panel.axis} of {count}",
        numbers=table(heads, rows, caption=panel.title),
    )
