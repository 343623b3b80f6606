"""HTML from values: whatever is not marked as HTML is escaped, so that no name can break out."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from onnxprune.report.tables import Cell, Column, Row, Table, elide


class Markup(str):
    """Text that is HTML already; only this room and constants make it."""

    __slots__ = ()


Content: TypeAlias = "str | Iterable[Content] | None"
TIMES = "\N{MULTIPLICATION SIGN}"
"""Between sizes of a shape."""
HOT = 0.65
"""Warmth from which on a cell is so dark that its text must be light."""
_NAME = 72
"""Letters of a name that are shown; all of it where one points at it."""
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
    return opening if name in _VOID else Markup(f"{opening}{join(*content)}</{name}>")


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
    """A table in a box of its own that scrolls sideways where it is wider than the page.

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
            class_="n" if column.aligned_right else None,
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
    drawn = tag(
        "table",
        tag("caption", declared.title, class_="unseen"),
        tag("thead", tag("tr", heads)) if any(column.label for column in columns) else None,
        tag("tbody", body),
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


def titled(
    declared: Table[Row],
    rows: Sequence[Row],
    title: str = "",
    *,
    most: int | None = None,
    tall: bool = False,
) -> Markup:
    """A table under its title, or another; nothing where it has no rows."""
    if not rows:
        return Markup()
    return join(tag("h4", title or declared.title), table(declared, rows, most=most, tall=tall))


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
    right = "n" if column.aligned_right else None
    content = _content(column, cell)
    return (
        tag("th", content, scope="row", class_=right) if first else tag("td", content, class_=right)
    )


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
    short = elide(text, _NAME) if column.unit == "name" or column.label == "model" else text
    content: Content = code(short) if column.unit == "name" and text else short
    if short != text:
        content = tag("span", content, title=text)
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
