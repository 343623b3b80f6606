"""Charts: axes, marks and lines, declared once and drawn into one kind of picture."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxprune.report.drawing import (
    Circle,
    Group,
    Picture,
    Point,
    Polyline,
    Shape,
    Text,
    text_width,
)
from onnxprune.report.tables import Format, elide, write

WIDTH = 420.0
"""Of a chart: on a phone nearly its own size, on a desk two or three stand side by side."""
_HEIGHT, _ROW = 220.0, 34.0
_TOP, _RIGHT, _BOTTOM, _LINE = 38.0, 18.0, 44.0, 18.0
_NAME, _LABEL, _BELOW, _AXIS, _SMALL = 26, 30, 38, 52, 10.0
_CAPITALS = 9.0
"""Height of capitals above the line that they stand on."""
_SERIES = (
    ("ink", ()),
    ("accent", (6.0, 3.0)),
    ("other", (2.0, 3.0)),
    ("#009e73", (9.0, 3.0, 2.0, 3.0)),
    ("#cc79a7", (12.0, 4.0)),
    ("#8a6d00", (4.0, 4.0)),
)
"""Colours and dashes of lines: two ways to distinguish them."""
_LOOKS = {
    "dense": ("ink", "ink"),
    "chosen": ("accent", "accent"),
    "tried": ("accent", "paper"),
    "other": ("accent", "paper"),
    "missed": ("other", ""),
    "faster": ("good", "good"),
    "slower": ("bad", "bad"),
    "no speed-up": ("soft", "soft"),
}
"""Colours of the edge and of the inside of marks."""


@dataclass(frozen=True)
class Axis:
    """Where values lie.

    Attributes:
        label: what they are.
        unit: how they are written.
        low, high: the ends of the axis.
        log: whether equal ratios are equally long.
        last: no tick stands beyond.
    """

    label: str
    unit: Format
    low: float
    high: float
    log: bool = False
    last: float = math.inf

    def share(self, value: float) -> float:
        """How far along the axis a value lies, 0 to 1 inside of it."""
        along = math.log if self.log else float
        span = along(self.high) - along(self.low)
        return (along(value) - along(self.low)) / (span or 1.0)

    def ticks(self, most: int) -> list[float]:
        """About ``most`` round numbers; where a logarithmic axis has few, those of a plain one."""
        high = min(self.high, self.last)
        ticks = _powers(self.low, high) if self.log else []
        return ticks if len(ticks) > 2 else _round_numbers(self.low, high, most, self.unit)


@dataclass(frozen=True)
class Mark:
    """A point of a chart.

    Attributes:
        name: what kind it is, which says how it looks: a role or a verdict.
        x, y: where it is.
        about: what it says when it is pointed at.
        x_ends, y_ends: between what its values lie, where that is known: drawn as error bars.
        label: beside it, if there is room.
    """

    name: str
    x: float
    y: float
    about: str
    x_ends: tuple[float, float] | None = None
    y_ends: tuple[float, float] | None = None
    label: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a chart, distinguished by colour and dashes."""

    label: str
    points: tuple[Point, ...]
    about: str = ""


@dataclass(frozen=True)
class Chart:
    """What is drawn.

    Attributes:
        kind: a name for scripts.
        title: above it.
        about: what it shows, in words, for those who do not see it.
        x, y: the axes.
        marks, lines: from back to front.
        front: a line of steps behind the marks.
        legend: names of kinds of marks, and what they stand for.
        names: of the rows, where ``y`` counts rows: a name and what stands softly below it.
        at: a value on ``x`` with a line through it.
        readings: what lies at each of equal steps along ``y``, for a pointer there.
    """

    kind: str
    title: str
    about: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...] = ()
    lines: tuple[Line, ...] = ()
    front: tuple[Point, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()
    names: tuple[tuple[str, str], ...] = ()
    at: float | None = None
    readings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """Where a chart has its axes on a picture."""

    chart: Chart
    left: float
    right: float
    top: float
    bottom: float

    def across(self, value: float) -> float:
        """Where a value on the horizontal axis lies."""
        return self.left + self.chart.x.share(value) * (self.right - self.left)

    def up(self, value: float) -> float:
        """Where a value on the vertical axis lies."""
        return self.bottom - self.chart.y.share(value) * (self.bottom - self.top)


def draw(chart: Chart, *, titled: bool = False) -> Picture:
    """A chart as a picture of `WIDTH`; with its title where nothing else says it."""
    frame = framed(chart)
    shapes: list[Shape] = [*_axes(frame), *_steps(frame)]
    shapes += [_line(frame, line, k) for k, line in enumerate(chart.lines)]
    shapes += _marks(frame)
    legend, height = _legend(chart, frame.bottom + _BOTTOM)
    shapes += legend
    if not titled:
        return Picture(WIDTH, height, tuple(shapes))
    title = Text(0, 12, elide(chart.title, 56), colour="ink", bold=True, size=13)
    return Picture(WIDTH, height + 24, (title, Group(tuple(shapes), dy=24)))


def framed(chart: Chart) -> Frame:
    """Where the axes of a chart lie on its picture."""
    widths = [text_width(tick(value, chart.y.unit)) for value in chart.y.ticks(5)]
    if chart.names:
        widths = [text_width(elide(name, _LABEL)) for name, _ in chart.names]
        widths += [text_width(elide(below, _BELOW), _SMALL) for _, below in chart.names]
    left = max(widths, default=0.0) + 14
    height = len(chart.names) * _ROW if chart.names else _HEIGHT
    top = _TOP if chart.y.label else _TOP - _LINE
    return Frame(chart, left, WIDTH - _RIGHT, top, top + height)


def tick(value: float, unit: Format) -> str:
    """A round number without the zeros that say nothing."""
    text = write(value, unit)
    return re.sub(r"\.?0+(?=\D*$)", "", text) if "." in text else text


def _axes(frame: Frame) -> Iterable[Shape]:
    chart, left, right, bottom = frame.chart, frame.left, frame.right, frame.bottom
    for value in [] if chart.names else chart.y.ticks(5):
        y = frame.up(value)
        yield Polyline(((left, y), (right, y)), stroke="line")
        yield Text(left - 8, y + 4, tick(value, chart.y.unit), "end")
    for k, (name, below) in enumerate(chart.names):
        y = frame.up(k)
        yield Text(left - 10, y - 1, elide(name, _LABEL), "end", "ink")
        yield Text(left - 10, y + 12, elide(below, _BELOW), "end", size=_SMALL)
    free = -math.inf
    for value in chart.x.ticks(4):
        x, text = frame.across(value), tick(value, chart.x.unit)
        half = text_width(text) / 2
        if x - half < free or x + half > WIDTH:
            continue
        free = x + half + 8
        yield Polyline(((x, frame.top if chart.names else bottom), (x, bottom + 4)), stroke="line")
        yield Text(x, bottom + 18, text, "middle")
    if chart.at is not None:
        x = frame.across(chart.at)
        yield Polyline(((x, frame.top), (x, bottom)), stroke="soft", dashes=(4, 3))
    yield Text(right, bottom + 36, elide(chart.x.label, _AXIS), "end")
    yield Text(0, 12, elide(chart.y.label, _AXIS))


def _steps(frame: Frame) -> Iterable[Shape]:
    """From each point of the front to the right, then up to the next."""
    points: list[Point] = []
    for x, y in frame.chart.front:
        here = (frame.across(x), frame.up(y))
        points += [(here[0], points[-1][1])] if points else []
        points.append(here)
    if len(points) > 1:
        yield Polyline(tuple(points), stroke="front", width=1.5)


def _line(frame: Frame, line: Line, k: int) -> Shape:
    colour, dashes = _SERIES[k % len(_SERIES)]
    points = tuple((frame.across(x), frame.up(y)) for x, y in line.points)
    return Group((Polyline(points, colour, width=2, dashes=dashes),), "series", line.about)


def _marks(frame: Frame) -> Iterable[Shape]:
    places = [(frame.across(mark.x), frame.up(mark.y)) for mark in frame.chart.marks]
    labels = [(x - 7, y + 5, 14.0) for x, y in places]
    bars = list(_bars(frame, places))
    for mark, (x, y) in zip(frame.chart.marks, places, strict=True):
        colour = _LOOKS[mark.name][0]
        shapes: list[Shape] = [Circle(x, y, 12)]
        if mark.x_ends is not None:
            low, high = (frame.across(end) for end in mark.x_ends)
            shapes.append(_bar((low, y), (min(high, frame.right), y), colour))
            shapes.append(_bar((low, y - 4), (low, y + 4), colour))
            if high <= frame.right:  # one that leaves the chart has no end there
                shapes.append(_bar((high, y - 4), (high, y + 4), colour))
        if mark.y_ends is not None:
            low, high = (frame.up(end) for end in mark.y_ends)
            shapes += [_bar((x, low), (x, high), colour)]
            shapes += [_bar((x - 4, end), (x + 4, end), colour) for end in (low, high)]
        shapes.append(glyph(mark.name, x, y))
        shapes += _name(frame, mark.label, (x, y), labels, bars)
        yield Group(tuple(shapes), mark.name.replace(" ", "-"), mark.about)


def _bars(frame: Frame, places: Iterable[Point]) -> Iterable[tuple[Point, Point]]:
    """Error bars: the upper left and the lower right end of each."""
    for mark, (x, y) in zip(frame.chart.marks, places, strict=True):
        if mark.x_ends is not None:
            left, right = (frame.across(end) for end in mark.x_ends)
            yield (left, y), (right, y)
        if mark.y_ends is not None:
            top, bottom = sorted(frame.up(end) for end in mark.y_ends)
            yield (x, top), (x, bottom)


def _bar(one: Point, other: Point, colour: str) -> Shape:
    return Polyline((one, other), stroke=colour, width=1.5)


def glyph(name: str, x: float, y: float) -> Shape:
    """The mark of a kind at a place."""
    edge, inside = _LOOKS[name]

    def around(*points: Point) -> Shape:
        moved = tuple((x + a, y + b) for a, b in points)
        return Polyline(moved, edge, inside, 1.5, closed=True)

    match name:
        case "dense":
            return around((-4.5, -4.5), (4.5, -4.5), (4.5, 4.5), (-4.5, 4.5))
        case "chosen":
            return around((0, -6.5), (6.5, 0), (0, 6.5), (-6.5, 0))
        case "other":
            return around((-5, 4), (5, 4), (0, -5))
        case "missed":
            strokes = (((-4, -4), (4, 4)), ((4, -4), (-4, 4)))
            return Group(
                tuple(
                    Polyline(tuple((x + a, y + b) for a, b in stroke), edge, width=2)
                    for stroke in strokes
                )
            )
        case _:
            return Circle(x, y, 4, edge, inside, 1.5)


def _name(
    frame: Frame,
    label: str,
    place: Point,
    labels: list[tuple[float, float, float]],
    bars: Sequence[tuple[Point, Point]],
) -> list[Shape]:
    """A name at the first of four places around its mark that nothing else takes.

    Error bars give way only where all four places are crossed by some.
    """
    if not label:
        return []
    text = elide(label, _NAME)
    (x, y), width = place, text_width(text, bold=True)
    inside = max(min(x - width / 2, WIDTH - width), frame.left)
    free = [
        (left, low)
        for left, low in (
            (inside, y - 12),
            (inside, y + 22),
            (x + 12, y + 4),
            (x - 12 - width, y + 4),
        )
        if frame.left <= left <= WIDTH - width
        and frame.top - 6 <= low <= frame.bottom
        and not any(
            left <= a + length and a <= left + width and abs(low - b) <= 13
            for a, b, length in labels
        )
    ]
    clear = [
        (left, low)
        for left, low in free
        if not any(
            a <= left + width and left <= c and b <= low and low - _CAPITALS <= d
            for (a, b), (c, d) in bars
        )
    ]
    for left, low in (*clear, *free)[:1]:
        labels.append((left, low, width))
        return [Text(left, low, text, colour="ink", bold=True, halo=True)]
    return []


def _legend(chart: Chart, top: float) -> tuple[list[Shape], float]:
    """Samples and names in rows below a chart, and where they end."""
    samples: list[tuple[Shape, str]] = [(glyph(name, 12, -4), text) for name, text in chart.legend]
    for k, line in enumerate(chart.lines):
        colour, dashes = _SERIES[k % len(_SERIES)]
        stroke = Polyline(((0, -4), (24, -4)), colour, width=2, dashes=dashes)
        samples.append((stroke, elide(line.label, 52)))
    shapes: list[Shape] = []
    x, y = 0.0, top + _LINE
    for sample, text in samples:
        width = 30 + text_width(text) + 12
        if x and x + width > WIDTH:
            x, y = 0.0, y + _LINE
        shapes.append(Group((sample, Text(30, 0, text)), dx=x, dy=y))
        x += width
    return shapes, (y + 8 if samples else top + 4)


def _round_numbers(low: float, high: float, most: int, unit: Format) -> list[float]:
    """Multiples of a step that is round when read: bytes count in powers of 1024."""
    base = 1024.0 ** int(math.log(max(high, 1), 1024)) if unit == "bytes" else 1.0
    rough = (high - low) / base / most
    if not rough > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = base * next(m * power for m in (1, 2, 2.5, 5, 10, 20) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def _powers(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every power of ten."""
    tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = (first * 10.0**power for power in tens for first in (1, 2, 5))
    return [value for value in values if low <= value <= high]
