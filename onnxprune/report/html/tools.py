"""Controls above a table; shown only where there are scripts to answer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxprune.report.html.markup import Markup, tag


def tools(
    key: str,
    what: str,
    *,
    kinds: Sequence[str] = (),
    orders: Mapping[str, str] | None = None,
    measures: Mapping[str, str] | None = None,
) -> Markup:
    """A filter by name and kind, and a choice of order and measure.

    Args:
        key: of the section; the table is ``{key}-rows``.
        what: what its rows are, in the plural.
        kinds: of rows; a choice is offered between two or more.
        orders: labels by the name the script knows.
        measures: the same, of what cells show.
    """
    found = tag("input", type="search", placeholder="name", data_filter="name")
    parts = [tag("label", f"Filter {what} ", found)]
    if len(kinds) > 1:
        parts.append(_choice("Kind", {"": "all", **{kind: kind for kind in kinds}}, "kind"))
    if orders:
        parts.append(_choice("Order", orders, "order"))
    if measures and len(measures) > 1:
        parts.append(_choice("Shown", measures, "measure"))
    parts.append(tag("output", class_="soft", aria_live="polite"))
    return tag("div", parts, class_="tools", data_table=f"{key}-rows")


def _choice(label: str, options: Mapping[str, str], name: str) -> Markup:
    choices = [tag("option", text, value=value) for value, text in options.items()]
    return tag("label", f"{label} ", tag("select", choices, data_filter=name))
