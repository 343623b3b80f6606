"""What speed and size cost in quality, drawn and in numbers."""

from __future__ import annotations

from onnxprune import quantities as numbers
from onnxprune.quantities import Unit
from onnxprune.report.html.charts import chart
from onnxprune.report.html.families import Family
from onnxprune.report.html.markup import Markup, join, table, tag
from onnxprune.report.html.pareto import WORDS, Panel, panels


def section(family: Family) -> Markup:
    """All charts of a family; nothing where there are no two points to compare."""
    found = panels(family)
    if not found:
        return Markup()
    bars = any(m.low is not None or m.error is not None for p in found for m in p.marks)
    about = "Further left costs less. The line joins models that no other one beats in both."
    about += " Bars are 95 % intervals." if bars else ""
    return join(tag("p", about), tag("div", [_figure(each) for each in found], class_="charts"))


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
                WORDS[mark.role],
                numbers.measured(mark.x, panel.unit),
                interval,
                numbers.measured(mark.y, unit),
                "" if mark.error is None else f"± {numbers.measured(mark.error, unit)}",
                "yes" if mark.front else "",
            )
        )
    heads = ("model", "", f"{panel.axis}>", ">", f"{panel.scale.name}>", ">", "on the front")
    data = {
        "x": {"label": panel.axis, "unit": panel.unit},
        "y": {"label": panel.scale.name, "unit": unit},
        "marks": [
            {k: v for k, v in vars(mark).items() if v is not None} | {"what": WORDS[mark.role]}
            for mark in panel.marks
        ],
    }
    return chart(
        "pareto",
        data,
        title=panel.title,
        about=f"{panel.scale.name} against {panel.axis}, {numbers.plural(len(rows), 'model')}",
        numbers=table(heads, rows, caption=panel.title),
    )
