"""What models cost against how good they are: the points of every chart, from all documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from onnxprune.jobs.bench.schema import Row
from onnxprune.jobs.results.schema import PointRow, Report
from onnxprune.quantities import Unit, half_interval, plural
from onnxprune.report import standing
from onnxprune.report.families import Family, file_name, stem
from onnxprune.report.standing import Scale

Role = Literal["dense", "chosen", "tried", "missed", "other"]
WORDS: dict[Role, str] = {
    "dense": "the original",
    "chosen": "chosen",
    "tried": "visited",
    "missed": "visited, lost too much",
    "other": "measured beside them",
}
_Axis: TypeAlias = "tuple[str, str, Unit]"  # title, what it is, how it is written
_Entry: TypeAlias = "tuple[_Axis, Scale, Mark]"


@dataclass(frozen=True)
class Mark:
    """One model on a chart.

    Attributes:
        label: what it is called.
        role: the original, one that a run took, one that a search visited and found good enough
            (``tried``) or not (``missed``), or any other that was measured beside them.
        x, low, high: what it costs, with a 95 % interval where it was measured.
        y, error: how good it is, and half of the 95 % interval of how far that is from the
            original, which has none.
        front: whether no other model beats it in both.
    """

    label: str
    role: Role
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    error: float | None = None
    front: bool = False


@dataclass(frozen=True)
class Panel:
    """One chart: what its horizontal axis is, in which unit, and on which scale marks are good."""

    title: str
    axis: str
    unit: Unit
    scale: Scale
    marks: tuple[Mark, ...]


def setting(row: Row) -> str:
    """Where and how a row of a benchmark was measured."""
    threads = [] if row.threads is None else [plural(row.threads, "thread")]
    return ", ".join((row.backend, row.precision, f"batch {row.batch}", *threads))


def by_setting(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by where and how they were measured."""
    settings: dict[str, list[Row]] = {}
    for row in rows:
        settings.setdefault(setting(row), []).append(row)
    return settings


def panels(family: Family) -> list[Panel]:
    """One per backend and scale, and one per size where no latency of a visited model is known.

    Models on a chart differ in cost; where none does, there is nothing to trade.
    """
    charts = _panels([*_timed(family.runs), *_benched(family)])
    untimed = [run for run in family.runs if any(not point.latency for point in run.points)]
    charts += _panels(_sized(untimed if charts else family.runs))
    return [replace(each, marks=front(each.marks, each.scale)) for each in charts]


def front(marks: Iterable[Mark], scale: Scale) -> tuple[Mark, ...]:
    """The marks by rising cost, with those marked that none beats in cost and in value."""
    sign = 1 if scale.higher_is_better else -1
    best, out = float("-inf"), []
    for mark in sorted(marks, key=lambda each: (each.x, -sign * each.y)):
        out.append(replace(mark, front=sign * mark.y > best))
        best = max(best, sign * mark.y)
    return tuple(out)


def _timed(runs: Sequence[Report]) -> Iterator[_Entry]:
    """What searches timed, by backend."""
    for run in runs:
        for point in run.points:
            for name, row in point.latency.items():
                if "p50_s" in row:
                    ends = row.get("low_s"), row.get("high_s")
                    yield _latency(name), *_visited(point, run, row["p50_s"], *ends)


def _sized(runs: Sequence[Report]) -> Iterator[_Entry]:
    """What searches visited, the original of all runs, and what other runs made, by size."""
    sizes: tuple[tuple[_Axis, str, str], ...] = (
        (("By MACs", "MACs", "count"), "macs", "MACs"),
        (("By size of the weights", "bytes", "bytes"), "bytes", "weights"),
    )
    for axis, attribute, measure in sizes:
        for run in runs:
            for point in run.points:
                yield axis, *_visited(point, run, float(getattr(point, attribute)))
        for run in runs:
            stands, row = standing.of_run(run), standing.measure(run, measure)
            if stands is None or row is None or row.dense is None or row.pruned is None:
                continue
            yield axis, stands.scale, Mark("original", "dense", row.dense, stands.dense)
            if not run.points:
                name, error = stem(run.output or "pruned"), half_interval(stands.error)
                mark = Mark(name, "chosen", row.pruned, stands.value, error=error)
                yield axis, stands.scale, mark


def _visited(
    point: PointRow, run: Report, cost: float, low: float | None = None, high: float | None = None
) -> tuple[Scale, Mark]:
    value = 1.0 - point.drop if point.value is None else point.value
    role, error = _role(point, run), half_interval(point.drop_error)
    mark = Mark(point.label, role, cost, value, low, high, None if role == "dense" else error)
    return standing.metric_scale(point.metric), mark


def _role(point: PointRow, run: Report) -> Role:
    if (point.macs, point.params) == (run.model.macs, run.model.params):
        return "dense"
    if point.chosen:
        return "chosen"
    return "tried" if point.ok else "missed"


def _benched(family: Family) -> Iterator[_Entry]:
    """What was benchmarked, by setting; good on that backend, or else as its run says.

    The first model of a benchmark is the original, on every scale that another has a value on.
    """
    runs = {stem(run.output): run for run in family.runs if run.output}
    for bench in family.benches:
        first = bench.models[0].name if bench.models else ""
        files = {each.name: stem(file_name(each)) for each in bench.models}
        for title, rows in by_setting(bench.rows).items():
            base = next((row for row in rows if row.model == first), None)
            marks, originals = [], {}
            for row in rows:
                name = files.get(row.model, stem(row.model))
                stands = standing.of_row(row)
                if stands is None and name in runs:
                    stands = standing.of_run(runs[name])
                if stands is None or row is base:
                    continue
                ends: tuple[float | None, float | None] = (None, None)
                if row.ratio is not None and base is not None:
                    p50 = base.latency.p50_s
                    ends = row.ratio.low * p50, row.ratio.high * p50
                role: Role = "chosen" if name in runs else "other"
                place = row.latency.p50_s, stands.value, *ends, half_interval(stands.error)
                marks.append((stands.scale, Mark(name, role, *place)))
                originals[stands.scale] = stands.dense
            if base is not None:
                name, p50 = files.get(first, stem(first)), base.latency.p50_s
                for scale, before in originals.items():
                    yield _latency(title), scale, Mark(name, "dense", p50, before)
            yield from ((_latency(title), *each) for each in marks)


def _latency(where: str) -> _Axis:
    return f"Latency on {where}", "median latency", "seconds"


def _panels(entries: Iterable[_Entry]) -> list[Panel]:
    """One panel per axis and scale; the original of several runs is one point."""
    charts: dict[tuple[_Axis, Scale], list[Mark]] = {}
    for axis, scale, mark in entries:
        known = charts.setdefault((axis, scale), [])
        place = (mark.role, mark.x, mark.y)
        same = mark.role == "dense" and any((m.role, m.x, m.y) == place for m in known)
        if mark not in known and not same:
            known.append(mark)
    return [
        Panel(*axis, scale, tuple(marks))
        for (axis, scale), marks in charts.items()
        if len({mark.x for mark in marks}) > 1
    ]
