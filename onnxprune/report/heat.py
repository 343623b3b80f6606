"""A sensitivity sweep on a terminal: one row per target, one column per ratio, warmer is worse."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Column, Table
from rich.text import Text

from onnxprune.evaluate.metrics import find_metric
from onnxprune.quantities import Unit, figure, measured, percent, plural, quantity
from onnxprune.select.sensitivity import Cell, Recommendation, Sensitivity

_DIM, _HEAD = "dim", "bold"
_COLD, _WARM, _HOT = (38, 70, 83), (233, 196, 106), (200, 60, 45)
"""Colours of nothing lost, of half the scale and of its end."""


def heat(found: Sensitivity) -> RenderableType:
    """All that a sweep has to say."""
    unit = unit_of(found)
    dense = measured(found.dense, unit)
    head = f"{found.model}  {found.metric} {dense} dense, {plural(found.samples, 'input')}"
    parts: list[RenderableType] = [Text(head, _HEAD), Text("")]
    parts += [_table(found), Text(_legend(found, unit), _DIM)]
    failed = [cell for cell in found.cells if cell.reason]
    if failed:
        parts += [Text(""), Text("Not measured", _HEAD)]
        parts += [Text(f"  {c.target} at {c.ratio:g}: {c.reason}") for c in failed]
    if found.declined:
        counted = Counter(found.declined.values())
        parts += [Text(""), Text("Not swept", _HEAD)]
        parts += [Text(f"  {n} because: {why}", _DIM) for why, n in counted.most_common()]
    if found.recommended is not None:
        parts += [Text(""), *_advice(found.recommended, found, unit)]
    parts += [Text.assemble(("note: ", "bold cyan"), note) for note in found.notes]
    return Group(*parts)


def unit_of(found: Sensitivity) -> Unit:
    """How values of its metric are written."""
    if found.metric == "agreement":
        return "fraction"
    if found.metric == "cosine":
        return "number"
    return "fraction" if _is_accuracy(found.metric) else "number"


def scale_of(found: Sensitivity) -> float:
    """The loss at the warm end of the colours: half of the worst, so that small ones show."""
    losses = [cell.drop for cell in found.cells if cell.drop is not None]
    return max([loss for loss in losses if loss < float("inf")], default=0.0) / 2 or 1.0


def columns_of(found: Sensitivity) -> list[float]:
    """The ratios that have cells, ascending; 1 is that of blocks."""
    return sorted({cell.ratio for cell in found.cells})


def _is_accuracy(metric: str) -> bool:
    from onnxprune.errors import OnnxpruneError

    try:
        return find_metric(metric).kind == "accuracy"
    except OnnxpruneError:  # a function of a file that is elsewhere by now
        return False


def _table(found: Sensitivity) -> RenderableType:
    ratios = columns_of(found)
    heads = ["gone" if ratio == 1 else f"{ratio * 100:g} %" for ratio in ratios]
    table = Table(
        Column("target", overflow="fold"),
        Column("kind"),
        Column("units", justify="right", no_wrap=True),
        *[Column(head, justify="right", no_wrap=True) for head in heads],
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style=_DIM,
    )
    cells = {(cell.target, cell.ratio): cell for cell in found.cells}
    scale = scale_of(found)
    for row in found.targets:
        shown = [_cell(cells.get((row.name, ratio)), found, scale) for ratio in ratios]
        table.add_row(Text(row.name), row.kind, quantity(row.units), *shown)
    return table


def change_of(cell: Cell, found: Sensitivity) -> str:
    """How the metric changed, as it is written in a cell: in points, where it is a fraction."""
    assert cell.drop is not None
    change = -cell.drop if found.higher_is_better else cell.drop
    if unit_of(found) == "fraction":
        return f"{change * 100:+.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0")
    return figure(change) if change <= 0 else f"+{figure(change)}"


def _cell(cell: Cell | None, found: Sensitivity, scale: float) -> Text:
    if cell is None:
        return Text("")
    if cell.drop is None:
        return Text("failed", _DIM)
    red, green, blue = _colour(cell.drop / scale)
    ink = "white" if red * 0.3 + green * 0.59 + blue * 0.11 < 130 else "black"
    return Text(f" {change_of(cell, found)} ", Style.parse(f"{ink} on rgb({red},{green},{blue})"))


def _colour(share: float) -> tuple[int, int, int]:
    at = min(max(share, 0.0), 1.0) * 2
    low, high, part = (_COLD, _WARM, at) if at <= 1 else (_WARM, _HOT, at - 1)
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(low, high, strict=True))
    return red, green, blue


def _legend(found: Sensitivity, unit: Unit) -> str:
    change = "points" if unit == "fraction" else "change"
    errors = [c.drop_error for c in found.cells if c.drop_error is not None]
    error = ""
    if errors:
        largest = max(errors) * (100 if unit == "fraction" else 1)
        error = f", standard error up to {largest:.2g}"
    return f"{change} of {found.metric}{error}; one target pruned at a time, nothing refitted"


def _advice(advice: Recommendation, found: Sensitivity, unit: Unit) -> list[RenderableType]:
    drop = f"{advice.drop * 100:g} points" if unit == "fraction" else figure(advice.drop)
    if not advice.ratios or advice.measured is None:
        return [Text(f"No ratios cost at most {drop} of {found.metric} together", _HEAD)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for name, ratio in advice.ratios.items():
        table.add_row(Text(f"  {name}"), percent(ratio))
    cost = f"{advice.measured * 100:.2f} points" if unit == "fraction" else figure(advice.measured)
    told = (
        f"  together, before anything is refitted: {cost} lost, "
        f"{advice.macs:.3f}x MACs, {advice.params:.3f}x parameters"
    )
    return [Text(f"Ratios for a drop of {drop}", _HEAD), table, Text(told, _DIM)]
