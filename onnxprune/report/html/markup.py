"""HTML from values: whatever is not marked as HTML is escaped, so that no name can break out."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from onnxprune.report.sections import Part
from onnxprune.report.tables import Cell, Column, Row, Table


class Markup(str):
    """Text that is HTML already; only this room and constants make it."""

    __slots__ = ()


Content: TypeAlias = "str | Iterable[Content] | None"
TIMES = "\N{MULTIPLICATION SIGN}"
"""Between sizes of a shape."""
HOT = 0.65
"""Warmth from which on a cell is so dark that its text must be light."""
_LONG = 32
"""Letters from which on a text is broken into lines."""
_NARROW, _WIDE = 4, 6
"""Columns that stand beside each other in any box, and in one of middling width."""
TALL = 40
"""Rows from which on a table scrolls in a box of its own."""
_PROSE = frozenset({"p", "li", "dd"})
_UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMGTP]\b|[KMGTP]iB|B\b|ms\b|µs|s\b|points))|(?<=[<>±]) ")
"""Spaces in prose at which no line is broken: those before a unit."""
_FLAG = re.compile(r"(?<![\w-])(--[a-z]+(?:-[a-z]+)*)")
_VOID = frozenset({"br", "input", "meta"})


def tag(name: str, *content: Content, **attributes: object) -> Markup:
    """An element.

    Args:
        name: of the element.
        content: text (escaped), Markup (as it is), any nesting of them; None is nothing.
        attributes: by name; an underscore is a hyphen, one at the end is dropped (``class_``). None
            and False leave an attribute out, True writes it without a value.
    """
    parts = [name]
    for key, value in attributes.items():
        label = key.removesuffix("_").replace("_", "-")
        if value is True:
            parts.append(label)
        elif value is not None and value is not False:
            parts.append(f'{label}="{html.escape(str(value))}"')
    opening = Markup(f"<{' '.join(parts)}>")
    if name in _PROSE:
        content = tuple(_unbroken(c) if type(c) is str else c for c in content)
    return opening if name in _VOID else Markup(f"{opening}{join(*content)}</{name}>")


def _unbroken(text: str) -> Content:
    """Prose whose amounts and flags are not broken at the end of a line."""
    parts = _FLAG.split(_UNIT.sub("\u00a0", text))
    return [tag("span", p, class_="flag") if k % 2 else p for k, p in enumerate(parts)]


def join(*content: Content) -> Markup:
    """Content one behind the other."""
    return Markup("".join(_flat(content)))


def code(text: str) -> Markup:
    """A name or a command."""
    return tag("code", text)


def table(
    declared: Table[Row],
    rows: Iterable[Row],
    *,
    tall: bool = False,
    most: int | None = None,
    data: Callable[[Row], Mapping[str, object]] | None = None,
    **attributes: object,
) -> Markup:
    """A table, whose rows become cards where the page is too narrow for its columns.

    Args:
        declared: its title, for those who hear it, and its columns.
        rows: what it is of; the first cell of each names it.
        tall: whether there may be hundreds of rows: the box then scrolls down too.
        most: rows that are shown; how many more there are is said below.
        data: attributes of a row that scripts go by, such as ``data_kind``.
        attributes: of the table.
    """
    whole = list(rows)
    columns = declared.visible(whole, "page")
    heads = [
        tag(
            "th",
            column.label,
            scope="col",
            class_=_kinds(column, long=len(column.label) > _LONG),
            title=column.about or None,
        )
        for column in columns
    ]
    body = [
        tag(
            "tr",
            [_cell(column, row, first=not k) for k, column in enumerate(columns)],
            **(data(row) if data else {}),
        )
        for row in whole[:most]
    ]
    names = f"{attributes.pop('class_', '')} {_fit(len(columns))}".strip()
    drawn = tag(
        "table",
        tag("caption", declared.title, class_="unseen"),
        tag("thead", tag("tr", heads)) if any(column.label for column in columns) else None,
        tag("tbody", body),
        class_=names or None,
        **attributes,
    )
    box = tag(
        "div",
        drawn,
        class_="scroll tall" if tall else "scroll",
        tabindex="0",  # so that it scrolls with the keyboard too
        role="region",
        aria_label=declared.title,
    )
    rest = len(whole) - len(body)
    return join(box, tag("p", f"{rest:,} more are in the JSON.", class_="soft") if rest else None)


def drawn(part: Part, key: str = "", most: int | None = None) -> Markup:
    """A part of a result: its title, its table, and what is said about it.

    Args:
        part: what is drawn.
        key: of the section, where its rows can be filtered.
        most: rows of the table.
    """
    filtered = part.filtered if part.rows else ""
    kinds = list(dict.fromkeys(row.kind for row in part.rows)) if filtered else []
    attributes: dict[str, Any] = {"class_": filtered, "id": f"{key}-rows"} if filtered else {}
    return join(
        tag("h4", part.title) if part.title else None,
        tag("p", part.about) if part.about else None,
        tools(key, filtered, kinds=kinds) if filtered else None,
        table(
            part.table,
            part.rows,
            tall=len(part.rows) > TALL,
            most=most,
            data=_named if filtered else None,
            **attributes,
        )
        if part.rows
        else None,
        [tag("p", line, class_="soft") for line in part.under],
    )


def _fit(columns: int) -> str:
    """How a table gives way to a narrow box: ``cards`` to a small one, ``wide`` to others too."""
    return "wide cards" if columns > _WIDE else "cards" if columns > _NARROW else ""


def _named(row: Any) -> Mapping[str, object]:  # noqa: ANN401  a row of any table
    return {"data_name": row.name, "data_kind": row.kind}


def listed(title: str, lines: Iterable[str]) -> Markup:
    """Lines under a title, if there are any; an empty title is left out."""
    items = [tag("li", line) for line in lines]
    return join(tag("h4", title) if title else None, tag("ul", items)) if items else Markup()


def folded(title: Content, *content: Content, open_: bool = False) -> Markup:
    """Content behind a title that opens it."""
    return tag("details", tag("summary", title), *content, open=open_)


def tools(
    key: str,
    what: str,
    *,
    kinds: Sequence[str] = (),
    orders: Mapping[str, str] | None = None,
    measures: Mapping[str, str] | None = None,
) -> Markup:
    """Controls above a table, shown where there are scripts: a filter, an order, a measure.

    Args:
        key: of the section; the table is ``{key}-rows``.
        what: what its rows are, in the plural.
        kinds: of rows; a choice is offered between two or more.
        orders: labels by the name the script knows.
        measures: the same, of what cells show.
    """
    name = tag("input", type="search", placeholder="name", data_filter="name")
    parts = [tag("label", f"Filter {what} ", name)]
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


def _cell(column: Column[Row], row: Row, *, first: bool) -> Markup:
    cell = column.cell(row)
    content = _content(column, cell)
    long = column.unit == "name" or len(str(cell.value or "")) > _LONG
    kind = _kinds(column, long=long)
    if first:
        return tag("th", content, scope="row", class_=kind)
    label = None if cell.warmth is not None else column.label
    return tag("td", content, class_=kind, data_l=label or None)


def _kinds(column: Column[Row], *, long: bool) -> str | None:
    """Classes of a cell: ``n`` is aligned right, ``t`` may be broken into lines."""
    return " ".join(["n"] * column.aligned_right + ["t"] * long) or None


def _content(column: Column[Row], cell: Cell) -> Content:
    if isinstance(cell.value, Markup):
        return cell.value
    text = column.text(cell)
    if cell.warmth is not None:
        hot = "heat hot" if cell.warmth > HOT else "heat"
        return tag("span", text, class_=hot, style=f"--heat:{cell.warmth:.3f}")
    if cell.bar is not None:
        small = "bar" if text else "bar small"
        return [tag("span", class_=small, style=f"--kept:{cell.bar:.4f}"), text]
    content: Content = code(text) if column.unit == "name" and text else text
    if cell.link:
        content = tag("a", content, href=cell.link)
    return tag("span", content, class_=cell.tone) if cell.tone and text else content


def _flat(content: Content) -> Iterable[str]:
    if content is None:
        return
    if isinstance(content, Markup):
        yield str(content)
    elif isinstance(content, str):
        yield html.escape(content, quote=False)
    else:
        for each in content:
            yield from _flat(each)
