"""A measurement as a picture: ratios with their intervals, and how latencies are distributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.errors import OnnxpruneError
from onnxprune.jobs.bench.schema import Bench, Row
from onnxprune.quantities import plural

FORMATS = (".png", ".svg")

_COLOURS = {"faster": "#0b6e4f", "slower": "#c1554d", "no speed-up": "#8a8a8a"}
_LINES = ("#4a5568", "#0b6e4f", "#c1554d", "#2b6cb0", "#b7791f", "#6b46c1")
_STYLE: Mapping[str, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "onnxprune",
}
_Case = tuple[str, int, int | None]


def check(path: Path) -> None:
    """Refuse what could not be drawn, before anything is measured.

    Raises:
        OnnxpruneError: matplotlib is missing, or the file is neither .png nor .svg.
    """
    if path.suffix.lower() not in FORMATS:
        raise OnnxpruneError(f"{path} is neither .png nor .svg", hint="name it plot.png")
    _matplotlib()


def draw(made: Bench, path: Path) -> None:
    """Draw a measurement; the format follows the suffix, and the file appears when complete.

    Args:
        made: with at least one row.
        path: .png or .svg.

    Raises:
        OnnxpruneError: matplotlib is missing, or there is nothing to draw.
    """
    if not made.rows:
        raise OnnxpruneError("nothing was measured, so there is nothing to draw")
    mpl = _matplotlib()
    from matplotlib.figure import Figure

    cases: dict[_Case, list[Row]] = {}
    for row in made.rows:
        cases.setdefault((row.backend, row.batch, row.threads), []).append(row)
    compared = [row for row in made.rows if row.ratio is not None]
    with mpl.rc_context(dict(_STYLE)):
        panels = len(cases) + bool(compared)
        figure = Figure(figsize=(4.2 * panels, 3.4), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        if compared:
            _ratios(axes[0], compared)
        names = [row.name for row in made.models]
        for drawn, (case, rows) in zip(axes[bool(compared) :], cases.items(), strict=True):
            _distribution(drawn, _title(*case), rows, names)
        kind = path.suffix.lower().removeprefix(".")
        temporary = path.with_name(f".{path.name}.writing")
        try:
            figure.savefig(temporary, format=kind, dpi=160, metadata=_undated(kind))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _ratios(axes: Any, rows: Sequence[Row]) -> None:  # noqa: ANN401  # matplotlib's
    """One line per model and case: the interval as a bar, 1 as a line."""
    labels = []
    for place, row in enumerate(reversed(rows)):
        assert row.ratio is not None
        found = row.ratio
        colour = _COLOURS[found.verdict]
        axes.plot([found.low, found.high], [place, place], color=colour, linewidth=2.5)
        axes.plot([found.value], [place], "o", color=colour, markersize=5)
        labels.append(f"{row.model}\n{_title(row.backend, row.batch, row.threads)}")
    axes.axvline(1, color="#555555", linewidth=1, linestyle="--")
    axes.set_xscale("log")  # half and twice are as far from 1
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.set_xlabel(f"latency compared with {rows[0].ratio.to if rows[0].ratio else ''}")
    axes.set_title("Ratio and 95 % interval", loc="left")


def _distribution(axes: Any, title: str, rows: Sequence[Row], names: Sequence[str]) -> None:  # noqa: ANN401
    """Empirical distribution functions up to a bit above the 99th percentile."""
    for row in rows:
        millis = [each * 1e3 for each in row.latency.quantiles]
        colour = _LINES[names.index(row.model) % len(_LINES)]
        axes.plot(millis, [k / 100 for k in range(101)], color=colour, label=row.model)
    axes.set_xlim(
        0.95e3 * min(row.latency.quantiles[0] for row in rows),
        1.1e3 * max(row.latency.p99_s for row in rows),
    )
    axes.set_xlabel("milliseconds of a run")
    axes.set_ylabel("share of runs")
    axes.set_title(title, loc="left")
    axes.legend(frameon=False)


def _title(backend: str, batch: int, threads: int | None) -> str:
    return f"{backend}, batch {batch}" + (f", {plural(threads, 'thread')}" if threads else "")


def _undated(kind: str) -> dict[str, Any]:
    """The same measurement gives the same file."""
    return {"Date": None} if kind == "svg" else {"Software": None}


def _matplotlib() -> Any:  # noqa: ANN401  # an optional package
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise OnnxpruneError(
            "drawing needs matplotlib, which is not installed",
            hint="pip install 'onnxprune[plot]'",
        ) from error
    return mpl
