"""HTML from values: whatever is not marked as HTML is escaped, so that no name can break out."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias


class Markup(str):
    """Text that is HTML already; only this room and constants make it."""

    __slots__ = ()


Content: TypeAlias = "str | Iterable[Content] | None"
TIMES = "\N{MULTIPLICATION SIGN}"
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


@dataclass(frozen=True)
class Row:
    """A row of a table with attributes that scripts and styles go by, such as ``data_kind``."""

    cells: Sequence[Content]
    attributes: Mapping[str, object] = field(default_factory=dict)


def table(
    heads: Sequence[str],
    rows: Iterable[Row | Sequence[Content]],
    *,
    caption: str,
    tall: bool = False,
    most: int | None = None,
    **attributes: object,
) -> Markup:
    """A table in a box of its own that scrolls sideways where it is wider than the page.

    Args:
        heads: of the columns; those that end in ``>`` hold numbers, aligned right.
        rows: cells; the first of each names its row.
        caption: what the table is about, for those who hear it.
        tall: whether there may be hundreds of rows: the box then scrolls down too.
        most: rows that are shown; how many more there are is said below.
        attributes: of the table.
    """
    number = [head.endswith(">") for head in heads]
    top = [
        tag("th", head.removesuffix(">"), scope="col", class_="n" if n else None)
        for head, n in zip(heads, number, strict=True)
    ]
    whole = [row if isinstance(row, Row) else Row(row) for row in rows]
    rest = 0 if most is None else max(len(whole) - most, 0)
    whole = whole[: len(whole) - rest]
    body = [tag("tr", _cells(row.cells, number), **row.attributes) for row in whole]
    made = tag(
        "table",
        tag("caption", caption, class_="unseen"),
        tag("thead", tag("tr", top)) if any(heads) else None,
        tag("tbody", body),
        **attributes,
    )
    box = tag(
        "div",
        made,
        class_="scroll tall" if tall else "scroll",
        tabindex="0",  # so that it scrolls with the keyboard too
        role="region",
        aria_label=caption,
    )
    return join(box, tag("p", f"{rest:,} more are in the JSON.", class_="soft") if rest else None)


def folded(title: Content, *content: Content, open_: bool = False) -> Markup:
    """Content behind a title that opens it."""
    return tag("details", tag("summary", title), *content, open=open_)


def _cells(row: Sequence[Content], number: Sequence[bool]) -> list[Markup]:
    cells = []
    for k, (cell, right) in enumerate(zip(row, number, strict=True)):
        name = {"scope": "row"} if k == 0 else {}
        cells.append(tag("th" if k == 0 else "td", cell, class_="n" if right else None, **name))
    return cells


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
