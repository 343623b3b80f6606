"""Tables, declared once as columns and drawn on a terminal (here) and on the page (`html.markup`).

A column is a label, a value of each row, and the unit it is written in. Both renderers write a cell
by `Column.text`, so a number looks the same wherever it is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.style import Style
from rich.table import Column as RichColumn
from rich.table import Table as RichTable
from rich.text import Text

from onnxprune.quantities import Unit, figure, measured, percent, times

Tone = Literal["", "good", "bad", "warn", "soft", "strong"]
"""What a text says beside its words; never without them."""
Format: TypeAlias = 'Unit | Literal["text", "name", "whole", "percent", "figure", "ratio"]'
"""How values are written: a measure in its unit, or

``text``, ``name`` (of a tensor, a node, a group: the middle gives way where a terminal is too
narrow), ``whole`` (a number with all digits, in groups of three),
``percent`` (a share), ``figure`` (three digits of unknown unit), ``ratio`` (``0.498x``).
"""
Place = Literal["terminal", "page"]
Row = TypeVar("Row")
RGB: TypeAlias = "tuple[int, int, int]"

STYLES: Mapping[Tone, str] = {
    "good": "green",
    "bad": "bold red",
    "warn": "yellow",
    "soft": "dim",
    "strong": "bold",
}
COLD, WARM, HOT = (38, 70, 83), (233, 196, 106), (200, 60, 45)
"""Colours of a cell that lost nothing, of half the scale and of its end, on a terminal."""
_BAR, _NARROWEST, _WRAPPED = 16, 16, 32
"""Columns of a bar, of a shortened name at least, and of text that may wrap at most."""
_SHARES = (0.5, 0.3, 0.7, 0.15, 0.85)
"""Where names may get their ellipsis; of equally good places the first counts."""
_MARKS = re.compile(r"[/:._]")
"""What words of a name are joined by."""


@dataclass(frozen=True)
class Cell:
    """A value that is more than its text.

    Attributes:
        value: what is written; None where there is none.
        tone: of the text.
        unit: how it is written, where rows of one column differ in that.
        bar: a share that is drawn before the text on the page, and in place of it on a terminal.
        warmth: 0 to 1, drawn as the ground of the text.
        link: what the text leads to on the page.
    """

    value: object = None
    tone: Tone = ""
    unit: Format | None = None
    bar: float | None = None
    warmth: float | None = None
    link: str = ""


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column of a table.

    Attributes:
        label: its head.
        value: what it holds of a row: a value in ``unit``, or a `Cell`.
        unit: how values are written.
        about: what they are, for whoever points at the head.
        missing: what stands where there is no value.
        right: aligned right; by default numbers are.
        optional: left out where no row has a value.
        only: the one place that shows it; by default both do.
        detail: on a terminal shown with ``-v`` alone.
        spare: left out on a terminal that is too narrow.
    """

    label: str
    value: Callable[[Row], object]
    unit: Format = "text"
    about: str = ""
    missing: str = "-"
    right: bool | None = None
    optional: bool = False
    only: Place | None = None
    detail: bool = False
    spare: bool = False

    @property
    def aligned_right(self) -> bool:
        """Whether values end at one line."""
        return self.unit not in ("text", "name") if self.right is None else self.right

    def cell(self, row: Row) -> Cell:
        """What the column holds of a row."""
        value = self.value(row)
        return value if isinstance(value, Cell) else Cell(value)

    def text(self, cell: Cell) -> str:
        """A cell of this column in words."""
        return self.missing if cell.value is None else write(cell.value, cell.unit or self.unit)


class Table(Generic[Row]):
    """What a table is about, and its columns."""

    def __init__(self, title: str, *columns: Column[Row]) -> None:
        self.title = title
        self.columns = columns

    def visible(
        self, rows: Sequence[Row], place: Place, *, verbose: bool = True
    ) -> list[Column[Row]]:
        """The columns that are shown at a place of some rows."""
        return [
            column
            for column in self.columns
            if column.only in (None, place)
            and (verbose or not column.detail)
            and not (column.optional and all(column.cell(row).value in (None, "") for row in rows))
        ]

    def details(self, rows: Sequence[Row]) -> list[str]:
        """Labels of the columns that a terminal shows with ``-v`` alone."""
        return [each.label for each in self.visible(rows, "terminal") if each.detail]


def tuples(title: str, *heads: str) -> Table[Sequence[object]]:
    """A table whose rows are sequences, one value a column.

    Args:
        title: what it is about.
        heads: ``label`` or ``label:unit``; a label that ends in ``>`` is aligned right.
    """

    def column(k: int, head: str) -> Column[Sequence[object]]:
        label, _, unit = head.partition(":")
        right = True if label.endswith(">") else None
        written = cast(Format, unit or "text")
        return Column(label.removesuffix(">"), lambda row: row[k], written, right=right)

    return Table(title, *(column(k, head) for k, head in enumerate(heads)))


def write(value: object, unit: Format) -> str:
    """A value in words; what is no number is written as it is."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    match unit:
        case "text" | "name":
            return str(value)
        case "whole":
            return f"{value:,}"
        case "percent":
            return percent(value)
        case "figure":
            return figure(value)
        case "ratio":
            return times(value)
        case _:
            return measured(value, unit)


def elide(text: str, most: int, share: float = 0.5) -> str:
    """A text of at most ``most`` characters: the middle of a longer one becomes an ellipsis.

    Args:
        text: of any length.
        most: characters, at least one.
        share: of the characters that stay, how many stand before the ellipsis.
    """
    if len(text) <= most:
        return text
    head = int((most - 1) * share)
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def elide_all(names: Sequence[str], most: int) -> list[str]:
    """Names shortened alike, the ellipsis where it leaves most of them different."""
    choices = ([elide(name, most, share) for name in names] for share in _SHARES)
    return max(choices, key=lambda short: len(set(short)))


def warmth(value: float | None, top: float) -> float:
    """How warm a cell is, 0 to 1: the square root, so that small losses differ visibly."""
    if value is None or not math.isfinite(value):
        return 0.0 if value is None else 1.0
    return math.sqrt(min(max(value, 0.0) / top, 1.0)) if top > 0 else 0.0


def blend(share: float, ramp: tuple[RGB, RGB, RGB] = (COLD, WARM, HOT)) -> RGB:
    """The colour of a warmth on a ramp of three: of 0, of a half and of 1."""
    at = min(max(share, 0.0), 1.0) * 2
    low, high, part = (*ramp[:2], at) if at <= 1 else (*ramp[1:], at - 1)
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(low, high, strict=True))
    return red, green, blue


def is_dark(colour: RGB) -> bool:
    """Whether text on such a ground must be light."""
    red, green, blue = colour
    return red * 0.3 + green * 0.59 + blue * 0.11 < 130


def common_suffix(names: Sequence[str]) -> str:
    """What several names all end with, from a mark between words on: ``/Conv:channel``.

    Empty where they share no word, where one name would be left without any, or for a single name.
    """
    if len(set(names)) < 2:
        return ""
    first, least = names[0], min(map(len, names))
    same = (len(set(letters)) == 1 for letters in zip(*map(reversed, names), strict=False))
    shared = first[len(first) - sum(takewhile(bool, same)) :]
    for mark in _MARKS.finditer(shared):
        suffix = shared[mark.start() :]
        if len(suffix) < least:
            return suffix if re.search(r"[A-Za-z]{2}", suffix) else ""
    return ""


def draw(
    table: Table[Row], rows: Iterable[Row], *, most: int | None = None, verbose: bool = True
) -> RenderableType:
    """A table on a terminal: no lines, numbers aligned right.

    Args:
        table: its columns.
        rows: what it is of.
        most: rows that are drawn; none by default left out.
        verbose: whether columns of details are drawn.
    """
    whole = list(rows)
    columns = table.visible(whole, "terminal", verbose=verbose)
    lines = [[_drawn(column, column.cell(row)) for column in columns] for row in whole[:most]]
    warm = any(each.cell(row).warmth is not None for row in whole for each in columns)
    return Fitted(columns, lines, warm)


@dataclass(frozen=True)
class Fitted:
    """A table whose names give way where a terminal is too narrow, and numbers never.

    On a terminal the first column drops what all its names end with, which then stands in its head.
    Where the rest is too wide, spare columns go, and then the middle of long names.

    Attributes:
        columns: what they are.
        lines: rows of cells.
        warm: whether cells have grounds of colour, and so no gaps between them.
    """

    columns: Sequence[Column[Any]]
    lines: Sequence[Sequence[Text]]
    warm: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        _, _, widths = self._cells(shorten=False)
        fits = self._whole(widths) <= options.max_width
        yield self._table(options.max_width, shorten=console.is_terminal or not fits)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        _, _, widths = self._cells(shorten=console.is_terminal)
        whole = min(self._whole(widths), options.max_width)
        return Measurement(min(_NARROWEST, whole), whole)

    def _whole(self, widths: Sequence[int]) -> int:
        return sum(widths) + sum(map(self._gap, range(len(widths) - 1)))

    def _gap(self, k: int) -> int:
        return 0 if self.warm and self.columns[k].aligned_right else 2

    def _cells(self, *, shorten: bool) -> tuple[list[str], list[list[Text]], list[int]]:
        """Heads, cells and the widths of columns, names without what they all end with."""
        heads = [column.label for column in self.columns]
        lines = [list(line) for line in self.lines]
        if shorten and self.columns[0].unit == "name":
            heads[0] += self._shorten(lines)
        widths = [
            max([cell_len(heads[k]), *(line[k].cell_len for line in lines)])
            for k in range(len(heads))
        ]
        return heads, lines, widths

    def _table(self, width: int, *, shorten: bool) -> RichTable:
        heads, lines, widths = self._cells(shorten=shorten)
        shown = list(range(len(heads)))
        names = [k for k in shown if self.columns[k].unit == "name"]

        def room() -> int:
            least = (
                self._gap(k)
                + (widths[k] if self.columns[k].aligned_right else min(widths[k], _WRAPPED))
                for k in shown
                if k not in names
            )
            return (width - sum(least)) // max(len(names), 1) - 2 * (len(names) > 1)

        widest = max((widths[k] for k in names), default=0)
        for k in [k for k in reversed(shown) if self.columns[k].spare]:
            if names and room() < min(widest, 2 * _NARROWEST):
                shown.remove(k)
        most = max(room(), _NARROWEST)
        for k in names:
            short = elide_all([line[k].plain for line in lines], most) if widths[k] > most else []
            for line, name in zip(lines, short, strict=False):
                line[k] = Text(name, line[k].style)
            if cell_len(heads[k]) > most:  # the end of an ending says most
                label = f"{self.columns[k].label} …"
                heads[k] = f"{label}{heads[k][len(label) :][len(label) - most :]}"
        drawn = RichTable(
            *[
                RichColumn(
                    heads[k],
                    justify="right" if self.columns[k].aligned_right else "left",
                    overflow="fold",
                    no_wrap=widths[k] <= _WRAPPED or self.columns[k].unit != "text",
                )
                for k in shown
            ],
            box=None,
            pad_edge=False,
            padding=(0, 0 if self.warm else 2, 0, 0),
            show_header=any(heads),
            header_style="dim",
        )
        for line in lines:
            drawn.add_row(*[Text.assemble(line[k], " " * self._gap(k) * self.warm) for k in shown])
        return drawn

    def _shorten(self, lines: list[list[Text]]) -> str:
        """Take from the names of the first column what they all end with; what its head gets."""
        names, ending = [line[0].plain for line in lines], ""
        labels = [column.label for column in self.columns]
        if "kind" in labels:
            kinds = [f":{line[labels.index('kind')].plain}" for line in lines]
            pairs = list(zip(names, kinds, strict=True))
            if len(set(kinds)) > 1 and all(n.endswith(k) and n != k for n, k in pairs):
                names, ending = [n.removesuffix(k) for n, k in pairs], ":kind"
        suffix = common_suffix(names)
        for line, name in zip(lines, names, strict=True):
            line[0] = Text(name.removesuffix(suffix), line[0].style)
        return f" …{suffix}{ending}" if suffix or ending else ""


def titled(title: str, body: RenderableType) -> RenderableType:
    """A title, and what it is for below."""
    return Group(Text(title, "bold"), inset(body))


def inset(body: RenderableType) -> RenderableType:
    """Moved to the right."""
    return Padding(body, (0, 0, 0, 2), expand=False)


def spaced(parts: Iterable[RenderableType]) -> RenderableType:
    """With empty lines between."""
    return Group(*[each for part in parts for each in (Text(""), part)][1:])


def noted(notes: Iterable[str]) -> list[RenderableType]:
    """Notes, one a line, as one part; none where there are none."""
    lines = [Note(Text.assemble(("note: ", "bold cyan"), note)) for note in notes]
    return [Group(*lines)] if lines else []


@dataclass(frozen=True)
class Note:
    """A sentence that a terminal wraps, and a file holds on one line, where it can be searched."""

    text: Text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = self.text.copy()
        if not console.is_terminal:
            line.no_wrap, line.overflow = True, "ignore"
        yield line


def _drawn(column: Column[Row], cell: Cell) -> Text:
    if cell.bar is not None:
        full = max(1, round(cell.bar * _BAR)) if cell.bar else 0
        return Text.assemble(("█" * full, "cyan"), ("░" * (_BAR - full), "dim"))
    text = column.text(cell)
    if cell.warmth is None:
        return Text(text, STYLES.get(cell.tone, ""))
    ground = blend(cell.warmth)
    ink = "white" if is_dark(ground) else "black"
    red, green, blue = ground
    return Text(f" {text} ", Style.parse(f"{ink} on rgb({red},{green},{blue})"))
