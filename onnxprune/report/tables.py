"""How tables and titles look on a terminal: no lines, indented under a bold title."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text


def table(*heads: str) -> Table:
    """An empty table; a column whose head ends in ``>`` holds numbers."""
    columns = [
        Column(
            head.removesuffix(">"),
            justify="right" if head.endswith(">") else "left",
            overflow="fold",
            no_wrap=head.endswith(">"),
        )
        for head in heads
    ]
    return Table(
        *columns,
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        show_header=any(heads),
        header_style="dim",
    )


def titled(title: str, body: RenderableType) -> RenderableType:
    """A title, and what it is for below."""
    return Group(Text(title, "bold"), inset(body))


def inset(body: RenderableType) -> RenderableType:
    """Moved to the right."""
    return Padding(body, (0, 0, 0, 2), expand=False)


def spaced(parts: list[RenderableType]) -> list[RenderableType]:
    """With empty lines between."""
    return [each for part in parts for each in (Text(""), part)][1:]
