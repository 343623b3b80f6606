"""A measurement on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from rich.console import Group, RenderableType
from rich.text import Text

from onnxprune.jobs.bench.schema import Bench, DeclinedRow, Ratio, Row
from onnxprune.jobs.results.schema import OutputRow
from onnxprune.quantities import measured, percent, plural, quantity, size
from onnxprune.report import terminal
from onnxprune.report.tables import inset, spaced, table, titled

_STYLES = {"faster": "green", "slower": "bold red", "no speed-up": "yellow"}


def shown(made: Bench) -> RenderableType:
    """Latencies by backend, outputs, what was not measured, and where all this was."""
    parts: list[RenderableType] = [models(made)]
    for (backend, batch, threads), rows in groupby(
        made.rows, lambda row: (row.backend, row.batch, row.threads)
    ):
        several = list(rows)
        first = several[0]
        words = [f"batch {batch}", plural(threads, "thread") if threads else "its own threads"]
        words += [first.precision, first.version]
        head = Text.assemble((backend, "bold"), "  ", (", ".join(words), "dim"))
        parts.append(Group(head, inset(latencies(several))))
    compared = list(_compared(made.rows))
    if compared:
        title = "Outputs against the first model's, on the same backend"
        parts.append(titled(title, terminal.outputs(compared)))
    floors = [
        replace(row, name=f"{floor.backend} against {floor.against}: {row.name}")
        for floor in made.noise_floor
        for row in floor.outputs
    ]
    if floors:
        parts.append(titled("Noise floor: the first model twice", terminal.outputs(floors)))
    scored = [row for row in made.rows if row.score is not None]
    if scored:
        parts.append(titled("Task", scores(scored)))
    if made.declined:
        parts.append(titled("Not measured", declined(made.declined)))
    parts.append(Text(machine(made), "dim"))
    if made.notes:
        lines = [Text.assemble(("note: ", "bold cyan"), note) for note in made.notes]
        parts.append(Group(*lines))
    return Group(*spaced(parts))


def models(made: Bench) -> RenderableType:
    """What was measured."""
    drawn = table("model", "file>", "MACs>", "parameters>")
    for row in made.models:
        counts = ("-" if each is None else quantity(each) for each in (row.macs, row.params))
        drawn.add_row(Text(row.name), size(row.bytes), *counts)
    return drawn


def latencies(rows: Sequence[Row]) -> RenderableType:
    """One line per model: percentiles, ratio with interval, load, first run and memory."""
    drawn = table(
        "model", "p50>", "p90>", "p99>", "ratio>", "95 %>", "", "load>", "first run>", "peak RSS>"
    )
    for row in rows:
        times = (row.latency.p50_s, row.latency.p90_s, row.latency.p99_s)
        drawn.add_row(
            Text(row.model),
            *(measured(each, "seconds") for each in times),
            *_ratio(row.ratio),
            measured(row.load_s, "seconds"),
            measured(row.first_run_s, "seconds"),
            measured(row.peak_rss_bytes, "bytes"),
        )
    return drawn


def scores(rows: Iterable[Row]) -> RenderableType:
    """The task metric of each model on each backend."""
    drawn = table("model", "backend", "metric", "first model>", "this one>")
    for row in rows:
        assert row.score is not None
        values = (measured(each, "number") for each in (row.score.before, row.score.after))
        drawn.add_row(Text(row.model), row.backend, row.score.metric, *values)
    return drawn


def declined(rows: Iterable[DeclinedRow]) -> RenderableType:
    """What was not measured, and what would change that."""
    drawn = table("backend", "model", "because", "what to do")
    for row in rows:
        case = f" (batch {row.batch})" if row.batch else ""
        drawn.add_row(row.backend, Text(row.model + case), Text(row.reason), Text(row.install))
    return drawn


def machine(made: Bench) -> str:
    """The environment in a line."""
    here = made.environment
    loads = ", ".join(f"{each:g}" for each in here.load_average)
    clock = f", {min(here.clock_mhz):.0f} MHz" if here.clock_mhz else ""
    return f"{here.cpu}, {plural(here.cores, 'core')}{clock}, load average {loads}; {here.os}"


def _ratio(ratio: Ratio | None) -> tuple[str, str, Text]:
    if ratio is None:
        return "", "", Text("")
    said = Text(ratio.verdict, _STYLES[ratio.verdict])
    if ratio.verdict != "no speed-up":
        said.append(f" by {percent(abs(1 - ratio.value))}")
    return f"{ratio.value:.3f}x", f"{ratio.low:.3f} to {ratio.high:.3f}", said


def _compared(rows: Sequence[Row]) -> Iterable[OutputRow]:
    seen = set()
    for row in rows:
        if row.fidelity and (row.model, row.backend) not in seen:
            seen.add((row.model, row.backend))
            for each in row.fidelity:
                yield replace(each, name=f"{row.model} on {row.backend}: {each.name}")
