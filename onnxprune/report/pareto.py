"""What models cost against how good they are: the points of every chart, from all documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from onnxprune.jobs.bench.schema import Bench, Row
from onnxprune.jobs.results.schema import PointRow, Report
from onnxprune.quantities import Unit, plural
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
_Cost: TypeAlias = "tuple[float, float | None, float | None]"  # and the ends of its interval
_WIDE = 1.96
"""Standard errors to either side of a 95 % interval."""


@dataclass(frozen=True)
class Mark:
    """One model on a chart.

    Attributes:
        label: what it is called.
        role: the original, one that a run took, one that a search visited and found good enough
            (``tried``) or not (``missed``), or any other that was measured beside them.
        x, low, high: what it costs, with a 95 % interval where it was measured.
        y, error: how good it is, and half of its 95 % interval where that is known.
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


def panels(family: Family) -> list[Panel]:
    """One per backend and scale, and one per size where no latency of a visited model is known.

    Models on a chart differ in cost; where none does, there is nothing to trade.
    """
    found = [*_searched(family.runs), *_benched(family)]
    untimed = [run for run in family.runs if any(not point.latency for point in run.points)]
    found += _sizes(untimed if found else family.runs)
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
    """What searches timed, by backend."""
    names = dict.fromkeys(name for run in runs for point in run.points for name in point.latency)
    found = []
    for name in names:

        def cost(point: PointRow, name: str = name) -> _Cost | None:
            row = point.latency.get(name, {})
            return (row["p50_s"], row.get("low_s"), row.get("high_s")) if "p50_s" in row else None

        marks = _of_points(runs, cost)
        found += _panels(f"Latency on {name}", "median latency", "seconds", marks)
    return found


def _sizes(runs: Sequence[Report]) -> list[Panel]:
    """What runs and searches left, by size."""

    def macs(point: PointRow) -> _Cost:
        return float(point.macs), None, None

    def weights(point: PointRow) -> _Cost:
        return float(point.bytes), None, None

    return [
        *_panels(
            "By MACs",
            "MACs",
            "count",
            [*_of_points(runs, macs), *_of_runs(runs, "MACs")],
        ),
        *_panels(
            "By size of the weights",
            "bytes",
            "bytes",
            [*_of_points(runs, weights), *_of_runs(runs, "weights")],
        ),
    ]


def _of_points(
    runs: Sequence[Report], cost: Callable[[PointRow], _Cost | None]
) -> list[tuple[Scale, Mark]]:
    found = []
    for run in runs:
        for point in run.points:
            place = cost(point)
            if place is None:
                continue
            value = 1.0 - point.drop if point.value is None else point.value
            error = None if point.drop_error is None else _WIDE * point.drop_error
            mark = Mark(point.label, _role(point, run), place[0], value, place[1], place[2], error)
            found.append((standing.metric_scale(point.metric), mark))
    return found


def _role(point: PointRow, run: Report) -> Role:
    if (point.macs, point.params) == (run.model.macs, run.model.params):
        return "dense"
    if point.chosen:
        return "chosen"
    return "tried" if point.ok else "missed"


def _of_runs(runs: Sequence[Report], measure: str) -> list[tuple[Scale, Mark]]:
    """The original of all runs, and what each run made that lists no visited models of its own."""
    found = []
    for run in runs:
        stands, row = standing.of_run(run), standing.measure(run, measure)
        if stands is None or row is None or row.dense is None or row.pruned is None:
            continue
        scale, before, after = stands
        found.append((scale, Mark("original", "dense", row.dense, before)))
        if not run.points:
            found.append((scale, Mark(stem(run.output or "pruned"), "chosen", row.pruned, after)))
    return found


def _benched(family: Family) -> list[Panel]:
    """What was benchmarked, by setting; good on that backend, or else as its run says."""
    found = []
    for bench in family.benches:
        by: dict[str, list[Row]] = {}
        for row in bench.rows:
            by.setdefault(setting(row), []).append(row)
        for title, rows in by.items():
            marks = _of_rows(rows, bench, family)
            found += _panels(f"Latency on {title}", "median latency", "seconds", marks)
    return found


def _of_rows(rows: list[Row], bench: Bench, family: Family) -> list[tuple[Scale, Mark]]:
    """The models of one setting; the first model of the benchmark is the original."""
    first = bench.models[0].name if bench.models else ""
    files = {each.name: stem(file_name(each)) for each in bench.models}
    made = {stem(run.output): run for run in family.runs if run.output}
    base = next((row.latency.p50_s for row in rows if row.model == first), None)
    found, original = [], []
    for row in rows:
        name = files.get(row.model, stem(row.model))
        if row.model == first:
            original.append((name, row))
            continue
        value = standing.of_row(row)
        if value is None and name in made:
            stands = standing.of_run(made[name])
            value = stands and (stands[0], stands[1], stands[2])
        if value is None:
            continue
        low = high = None
        if row.ratio is not None and base is not None:
            low, high = row.ratio.low * base, row.ratio.high * base
        role: Role = "chosen" if name in made else "other"
        found.append((value, Mark(name, role, row.latency.p50_s, value[2], low, high)))
    scales = {value[0]: value[1] for value, _ in found}  # with what the original has on each
    dense = [
        (scale, Mark(name, "dense", row.latency.p50_s, value))
        for name, row in original
        for scale, value in scales.items()
    ]
    return [*dense, *((value[0], mark) for value, mark in found)]


def _panels(title: str, axis: str, unit: Unit, marks: Iterable[tuple[Scale, Mark]]) -> list[Panel]:
    """One panel per scale; the original of several runs is one point."""
    by: dict[Scale, list[Mark]] = {}
    for scale, mark in marks:
        known = by.setdefault(scale, [])
        same = (
            m for m in known if mark.role == m.role == "dense" and (m.x, m.y) == (mark.x, mark.y)
        )
        if mark not in known and next(same, None) is None:
            known.append(mark)
    return [
        Panel(title, axis, unit, scale, tuple(each))
        for scale, each in by.items()
        if len({mark.x for mark in each}) > 1
    ]
