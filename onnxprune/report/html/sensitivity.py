"""What every target costs at every ratio: a table that is a heat-map."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from onnxprune import quantities as numbers
from onnxprune.report.html import standing
from onnxprune.report.html.charts import block
from onnxprune.report.html.families import Family
from onnxprune.report.html.markup import Content, Markup, Row, code, join, table, tag
from onnxprune.report.html.tools import tools
from onnxprune.select.sensitivity import Cell, Sensitivity

_DARK = 0.65
"""Warmth from which on a cell is so dark that its text must be light."""

_MEASURES: dict[str, tuple[str, Callable[[Cell], float | None]]] = {
    "drop": ("drop", lambda cell: cell.drop),
    "kl": ("KL divergence", lambda cell: cell.kl),
    "relative_error": ("relative error", lambda cell: cell.relative_error),
    "angle": ("1 - cosine", lambda cell: None if cell.cosine is None else 1 - cell.cosine),
}
_ORDERS = {"network": "of the network", "most": "most sensitive first", "least": "least first"}


def section(family: Family, key: str, most: int) -> Markup:
    """The heat-maps of a family, of ``most`` rows each: those that are most sensitive."""
    return join(_sweep(_worst(sweep, most), f"{key}-{k}") for k, sweep in enumerate(family.sweeps))


def warmth(value: float | None, top: float) -> float:
    """How warm a cell is, 0 to 1: the square root, so that small losses can be told apart."""
    if value is None or not math.isfinite(value):
        return 0.0 if value is None else 1.0
    return math.sqrt(min(max(value, 0.0) / top, 1.0)) if top > 0 else 0.0


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
    part = scale.fraction
    cells = {(cell.target, cell.ratio): cell for cell in sweep.cells}
    ratios = sorted({cell.ratio for cell in sweep.cells})  # blocks have one of their own: all
    measures = {
        name: label
        for name, (label, of) in _MEASURES.items()
        if any(of(cell) is not None for cell in sweep.cells)
    }
    if not measures:
        return tag("p", "Nothing was measured in this sweep.")
    first = next(iter(measures))
    grid = {
        name: [
            [_at(cells.get((target.name, ratio)), _MEASURES[name][1]) for ratio in ratios]
            for target in sweep.targets
        ]
        for name in measures
    }
    dense = numbers.measured(sweep.dense, "fraction" if part else "number")
    about = (
        f"What the model loses when one target alone is pruned by a ratio and nothing refitted: "
        f"{scale.name}, {dense} as it is, on {numbers.plural(sweep.samples, 'sample')}. "
        f"The stronger the colour, the worse."
    )
    kinds = list(dict.fromkeys(target.kind for target in sweep.targets))
    return join(
        tag("p", about),
        tools(key, "targets", kinds=kinds, orders=_ORDERS, measures=measures),
        _heat(sweep, ratios, grid[first], key, fraction=part and first == "drop"),
        block({"first": first, "fraction": part, "grid": grid, "ratios": ratios}),
        _declined(sweep),
    )


def _heat(
    sweep: Sensitivity,
    ratios: list[float],
    grid: list[list[float | None]],
    key: str,
    *,
    fraction: bool,
) -> Markup:
    finite = [v for line in grid for v in line if v is not None and math.isfinite(v)]
    top = max(finite, default=0.0)
    advised = sweep.recommended.ratios if sweep.recommended else {}
    rows = []
    for target, line in zip(sweep.targets, grid, strict=True):
        cells: list[Content] = [code(target.name), target.kind]
        for value in line:
            warm = warmth(value, top)
            hot = "heat hot" if warm > _DARK else "heat"
            text = "" if value is None else _shown(value, fraction=fraction)
            cells.append(tag("span", text, class_=hot, style=f"--heat:{warm:.3f}"))
        if advised:
            ratio = advised.get(target.name)
            cells.append("" if ratio is None else numbers.percent(ratio))
        rows.append(Row(cells, {"data_name": target.name, "data_kind": target.kind}))
    columns = ("gone" if ratio == 1 else numbers.percent(ratio) for ratio in ratios)
    heads = ["target", "kind", *(f"{column}>" for column in columns)]
    heads += ["advised>"] if advised else []
    return table(
        heads,
        rows,
        caption=f"Sensitivity of {sweep.model}",
        tall=True,
        class_="heat-map",
        id=f"{key}-rows",
    )


def _declined(sweep: Sensitivity) -> Markup:
    parts = []
    advice = sweep.recommended
    if advice and advice.ratios:
        told = f"The advised ratios are meant to lose at most {advice.drop:.4g} together"
        lost = "" if advice.measured is None else f", and lost {advice.measured:.4g} when measured"
        parts.append(tag("p", f"{told}{lost}, before anything is refitted."))
    failed = [
        (code(each.target), numbers.percent(each.ratio), each.reason)
        for each in sweep.cells
        if each.reason
    ]
    if failed:
        parts.append(tag("h4", "Not measured"))
        parts.append(table(("target", "at>", "because"), failed, caption="Not measured"))
    if sweep.declined:
        rows = [(code(name), reason) for name, reason in sweep.declined.items()]
        parts += [
            tag("h4", "Not swept"),
            table(("target", "because"), rows, caption="Not swept", class_="prose"),
        ]
    if sweep.notes:
        parts += [tag("h4", "Notes"), tag("ul", [tag("li", note) for note in sweep.notes])]
    return join(parts)


def _at(cell: Cell | None, of: Callable[[Cell], float | None]) -> float | None:
    return None if cell is None else of(cell)


def _shown(value: float, *, fraction: bool) -> str:
    if not fraction:
        return numbers.figure(value)
    return f"{round(value * 100, 1) + 0.0:.1f}"  # so that a negative zero has no sign
