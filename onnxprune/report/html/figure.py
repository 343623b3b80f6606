"""The charts of what speed and size cost as a picture, for a README; needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from onnxprune.errors import OnnxpruneError
from onnxprune.quantities import Unit, measured
from onnxprune.report.heat_figure import ENDINGS, require
from onnxprune.report.html.documents import Document
from onnxprune.report.html.families import families
from onnxprune.report.html.pareto import WORDS, Mark, Panel, Role, panels

_LOOKS: dict[Role, tuple[str, str]] = {
    "dense": ("s", "#1a1d21"),
    "chosen": ("D", "#0b5cad"),
    "tried": ("o", "#0b5cad"),
    "other": ("^", "#0b5cad"),
    "missed": ("x", "#b34700"),
}
"""Markers and colours, those of the page."""
_DOTS = 200
"""Dots per inch of a PNG."""


def check(path: Path) -> None:
    """Refuse what could not be drawn, before the work.

    Raises:
        OnnxpruneError: it is neither .png nor .svg, or matplotlib is not installed.
    """
    if path.suffix.lower() not in ENDINGS:
        raise OnnxpruneError(
            f"--figure {path} is no picture that can be drawn",
            hint=f"end it in {' or '.join(ENDINGS)}",
        )
    require()


def draw(documents: Iterable[Document], path: Path) -> None:
    """Draw every trade-off chart of the page, whole or not at all.

    Args:
        documents: of any kinds.
        path: ends in .png or .svg.

    Raises:
        OnnxpruneError: nothing in the documents can be compared, or the file cannot be written.
    """
    found = [panel for family in families(documents) for panel in panels(family)]
    if not found:
        raise OnnxpruneError(
            "there are no two models whose cost and quality could be compared in a figure",
            hint="give --calib to prune, so that it says how good the model is",
        )
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    part = path.with_name(f".{path.stem}.part{path.suffix}")
    with rc_context({"svg.hashsalt": "onnxprune", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(4.2 * len(found), 3.0), layout="constrained")
        for axes, panel in zip(
            figure.subplots(1, len(found), squeeze=False)[0], found, strict=True
        ):
            _panel(axes, panel)
        try:
            figure.savefig(
                part, dpi=_DOTS, metadata={"Date": None} if path.suffix == ".svg" else {}
            )
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise OnnxpruneError(
                f"{path} cannot be written: {error.strerror}", hint="check the folder"
            ) from error


def _panel(axes: Any, panel: Panel) -> None:  # noqa: ANN401  of matplotlib
    unit: Unit = "fraction" if panel.scale.fraction else "number"
    on = [mark for mark in panel.marks if mark.front]
    axes.step([m.x for m in on], [m.y for m in on], where="post", color="#a9cbee", zorder=1)
    known: dict[Role, Any] = {}
    for mark in panel.marks:
        marker, colour = _LOOKS[mark.role]
        filled = "white" if mark.role in ("tried", "other") else colour
        known[mark.role] = axes.errorbar(
            [mark.x],
            [mark.y],
            xerr=_ends(mark),
            yerr=mark.error,
            fmt=marker,
            color=colour,
            markerfacecolor=filled,
            capsize=2,
        )
    _limits(axes, panel)
    axes.xaxis.set_major_formatter(lambda value, _: measured(value, panel.unit))
    axes.yaxis.set_major_formatter(lambda value, _: measured(value, unit))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6")
    axes.set_axisbelow(True)
    axes.set(xlabel=panel.axis, ylabel=panel.scale.name)
    axes.set_title(panel.title, loc="left", fontsize=9, fontweight="bold")
    names = {role: _names(panel, role) for role in known}
    axes.legend(list(known.values()), list(names.values()), frameon=False, fontsize=8)


def _names(panel: Panel, role: Role) -> str:
    """What a marker stands for: the only model it has, or what it says of several."""
    labels = [mark.label for mark in panel.marks if mark.role == role]
    return labels[0] if len(labels) == 1 else WORDS[role]


def _limits(axes: Any, panel: Panel) -> None:  # noqa: ANN401  of matplotlib
    """From zero to the last model; and a part of a whole ends where the whole does."""
    furthest = max(mark.x for mark in panel.marks)
    end = max(mark.high or mark.x for mark in panel.marks)
    right = min(end, 1.4 * furthest) * 1.06
    base = 1024 ** int(math.log(max(right, 1), 1024)) if panel.unit == "bytes" else 1
    steps = _ticks(0.0, right / base)
    axes.set_xticks([step * base for step in steps])
    axes.set_xlim(0, right)
    most = max(1.0, *(mark.y for mark in panel.marks)) if panel.scale.fraction else math.inf
    low = min(mark.y - (mark.error or 0) for mark in panel.marks)
    high = min(max(mark.y + (mark.error or 0) for mark in panel.marks), most)
    room = max((high - low) * 0.12, abs(high) * 0.005)
    axes.set_yticks([step for step in _ticks(low - room, high + room) if step <= most])
    axes.set_ylim(low - room, min(high + room, most + room / 3))


def _ticks(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(each) for each in found if low <= each <= high]


def _ends(mark: Mark) -> Sequence[Sequence[float]] | None:
    """How far its interval reaches to the left and to the right."""
    if mark.low is None or mark.high is None:
        return None
    return [[max(mark.x - mark.low, 0.0)], [max(mark.high - mark.x, 0.0)]]
