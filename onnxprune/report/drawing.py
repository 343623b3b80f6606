"""Pictures from lines, texts and circles: as SVG, with colours by name; as PNG, by Pillow.

Charts (`charts`) are made of these shapes once. The page puts the SVG in with the colours of its
style sheet, which follow light and dark; a file has the light ones.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from onnxprune.errors import OnnxpruneError
from onnxprune.model import files

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

Point: TypeAlias = "tuple[float, float]"
Anchor = Literal["start", "middle", "end"]
ENDINGS = (".png", ".svg")
SIZE = 12.0
"""Height of text in units of a picture, which are pixels at its own size."""
_SANS = "ui-sans-serif, system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_FONTS = "DejaVuSans.ttf Arial.ttf arial.ttf LiberationSans-Regular.ttf Helvetica.ttc".split()
_WITHOUT = str.maketrans({"µ": "u", "±": "+-"})
"""What stands for letters that the font of last resort does not have."""
_NARROW, _WIDE = frozenset("iIlj.,:;'|!()[]ftr/ "), frozenset("mwMW@%—…")
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PIXELS = 40_000_000
"""Of a PNG while it is drawn: what is larger is drawn less finely."""


@dataclass(frozen=True)
class Polyline:
    """A line through points, or the area inside of them where ``fill`` names a colour."""

    points: tuple[Point, ...]
    stroke: str = ""
    fill: str = ""
    width: float = 1.0
    dashes: tuple[float, ...] = ()
    closed: bool = False


@dataclass(frozen=True)
class Circle:
    """A circle around a point; without colours it only catches the pointer."""

    x: float
    y: float
    radius: float
    stroke: str = ""
    fill: str = ""
    width: float = 1.0


@dataclass(frozen=True)
class Text:
    """A line of text; ``halo`` keeps lines behind it away."""

    x: float
    y: float
    text: str
    anchor: Anchor = "start"
    colour: str = "soft"
    size: float = SIZE
    bold: bool = False
    halo: bool = False


@dataclass(frozen=True)
class Group:
    """Shapes that belong together.

    Attributes:
        shapes: from back to front.
        name: a class for scripts and tests.
        about: what they are, in words: a tooltip; such a group can be reached by keyboard.
        dx, dy: how far they are moved.
    """

    shapes: tuple[Shape, ...]
    name: str = ""
    about: str = ""
    dx: float = 0.0
    dy: float = 0.0


Shape: TypeAlias = "Polyline | Circle | Text | Group"


@dataclass(frozen=True)
class Picture:
    """Shapes on a ground of a size."""

    width: float
    height: float
    shapes: tuple[Shape, ...]


def rectangle(x: float, y: float, width: float, height: float, fill: str) -> Polyline:
    """A filled rectangle."""
    corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
    return Polyline(corners, fill=fill, closed=True)


def text_width(text: str, size: float = SIZE, *, bold: bool = False) -> float:
    """About how wide a text is in any sans-serif font."""
    wide = sum(0.36 if c in _NARROW else 0.92 if c in _WIDE else 0.61 for c in text)
    return size * wide * (1.12 if bold else 1.0)


def beside(pictures: Iterable[Picture], *, gap: float = 24.0) -> Picture:
    """Pictures in a grid, as square as it can be."""
    cells = list(pictures)
    columns = math.ceil(math.sqrt(len(cells)))
    return stacked((cells[k : k + columns] for k in range(0, len(cells), columns)), gap=gap)


def stacked(lines: Iterable[Sequence[Picture]], *, gap: float = 24.0) -> Picture:
    """Rows of pictures, those at the same place of a row below each other."""
    rows = [list(line) for line in lines]
    columns = max(map(len, rows), default=0)
    widths = [max(row[k].width for row in rows if k < len(row)) for k in range(columns)]
    heights = [max(each.height for each in row) for row in rows]
    shapes = [
        Group(cell.shapes, dx=gap + sum(widths[:j]) + j * gap, dy=gap + sum(heights[:i]) + i * gap)
        for i, row in enumerate(rows)
        for j, cell in enumerate(row)
    ]
    width, height = (sum(each) + (len(each) + 1) * gap for each in (widths, heights))
    return Picture(width, height, tuple(shapes))


def svg(picture: Picture, *, colours: Mapping[str, str] | None = None) -> str:
    """The picture as an ``svg`` element.

    Args:
        picture: what is drawn.
        colours: by name; by default the variables of the page, which follow light and dark.
    """
    size = f"{picture.width:.0f}", f"{picture.height:.0f}"
    head = f'viewBox="0 0 {" ".join(size)}" width="{size[0]}" height="{size[1]}"'
    inside = "".join(_element(each, colours) for each in picture.shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {head} font-family="{_SANS}" '
        f'font-size="{SIZE:g}">{inside}</svg>'
    )


def check(path: Path, flag: str) -> None:
    """Refuse a file that could not be drawn, before the work.

    Raises:
        OnnxpruneError: it ends neither in .png nor in .svg.
    """
    if path.suffix.lower() not in ENDINGS:
        raise OnnxpruneError(
            f"{flag} {path} is no picture that can be drawn: it ends in neither .png nor .svg",
            hint=f"end it in {' or '.join(ENDINGS)}, as in {path.with_suffix('.svg').name}",
        )


def save(picture: Picture, path: Path) -> None:
    """Write a picture, whole or not at all; the suffix says as what.

    Raises:
        OnnxpruneError: the file cannot be written.
    """
    if path.suffix.lower() == ".svg":
        ground = rectangle(0, 0, picture.width, picture.height, "paper")
        whole = Picture(picture.width, picture.height, (ground, *picture.shapes))
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n{svg(whole, colours=light())}\n'
        files.write(path, text)
    else:
        content = io.BytesIO()
        _png(picture).save(content, format="png")
        files.write(path, content.getvalue())


@cache
def light() -> Mapping[str, str]:
    """Colours by name, as the style sheet of the page has them for light grounds."""
    page = resources.files("onnxprune.report.html")
    sheet = (page / "assets" / "page.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}),", sheet))


def _element(shape: Shape, colours: Mapping[str, str] | None) -> str:
    def colour(name: str) -> str:
        if not name or name.startswith("#"):
            return name or "none"
        return f"var(--{name})" if colours is None else colours[name]

    match shape:
        case Group():
            inside = "".join(_element(each, colours) for each in shape.shapes)
            transform = f' transform="translate({_n(shape.dx)} {_n(shape.dy)})"'
            name = f' class="{shape.name}"' if shape.name else ""
            reach = ' tabindex="0" role="img"' if shape.about else ""
            about = f"<title>{_escape(shape.about)}</title>" if shape.about else ""
            return f"<g{name}{transform if shape.dx or shape.dy else ''}{reach}>{about}{inside}</g>"
        case Circle():
            fill = colour(shape.fill) if shape.fill or shape.stroke else "transparent"
            where = f'cx="{_n(shape.x)}" cy="{_n(shape.y)}" r="{_n(shape.radius)}"'
            stroke = f' stroke="{colour(shape.stroke)}" stroke-width="{_n(shape.width)}"'
            return f'<circle {where} fill="{fill}"{stroke if shape.stroke else ""}/>'
        case Text():
            looks = f'fill="{colour(shape.colour)}" text-anchor="{shape.anchor}"'
            if shape.size != SIZE:
                looks += f' font-size="{_n(shape.size)}"'
            if shape.bold:
                looks += ' font-weight="600"'
            if shape.halo:
                looks += f' paint-order="stroke" stroke="{colour("paper")}" stroke-width="3"'
            return f'<text x="{_n(shape.x)}" y="{_n(shape.y)}" {looks}>{_escape(shape.text)}</text>'
        case Polyline():
            steps = " ".join(f"{_n(x)},{_n(y)}" for x, y in shape.points)
            looks = f'fill="{colour(shape.fill)}"'
            if shape.stroke:
                looks += f' stroke="{colour(shape.stroke)}" stroke-width="{_n(shape.width)}"'
            if shape.dashes:
                looks += f' stroke-dasharray="{" ".join(map(_n, shape.dashes))}"'
            return f'<{"polygon" if shape.closed else "polyline"} points="{steps}" {looks}/>'


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _escape(text: str) -> str:
    """Text inside an element; characters that XML does not have become a mark."""
    return html.escape(_NO_XML.sub("\ufffd", text), quote=False)


def _png(picture: Picture) -> Any:  # noqa: ANN401  an image of Pillow
    """The picture at twice its size; drawn larger yet and then reduced: edges are smooth."""
    from PIL import Image, ImageDraw

    area = picture.width * picture.height
    final = 2 if area * 4 <= _PIXELS else 1
    finer = 2 if area * (2 * final) ** 2 <= _PIXELS else 1
    scale = final * finer
    size = math.ceil(picture.width * scale), math.ceil(picture.height * scale)
    image = Image.new("RGB", size, light()["paper"])
    canvas = ImageDraw.Draw(image)
    for shape, dx, dy in _flat(picture.shapes, 0.0, 0.0):
        _paint(canvas, shape, dx, dy, scale)
    return image.reduce(finer) if finer > 1 else image


def _flat(shapes: Iterable[Shape], dx: float, dy: float) -> Iterator[tuple[Shape, float, float]]:
    for shape in shapes:
        if isinstance(shape, Group):
            yield from _flat(shape.shapes, dx + shape.dx, dy + shape.dy)
        else:
            yield shape, dx, dy


def _paint(canvas: Any, shape: Shape, dx: float, dy: float, scale: float) -> None:  # noqa: ANN401
    def colour(name: str) -> str | None:
        return name if name.startswith("#") else light()[name] if name else None

    def at(x: float, y: float) -> Point:
        return (x + dx) * scale, (y + dy) * scale

    match shape:
        case Text():
            font = _font(round(shape.size * scale))
            known = isinstance(getattr(font, "path", None), str)
            text = shape.text if known else shape.text.translate(_WITHOUT)
            halo = {"stroke_width": round(1.5 * scale), "stroke_fill": colour("paper")}
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
            if shape.halo:
                canvas.text(at(shape.x, shape.y), text, colour("paper"), font, anchor, **halo)
            bold = {"stroke_width": 0.22 * scale} if shape.bold else {}
            canvas.text(at(shape.x, shape.y), text, colour(shape.colour), font, anchor, **bold)
        case Circle() if shape.fill or shape.stroke:
            (x, y), radius = at(shape.x, shape.y), shape.radius * scale
            box = (x - radius, y - radius, x + radius, y + radius)
            width = round(shape.width * scale)
            canvas.ellipse(box, colour(shape.fill), colour(shape.stroke), width)
        case Polyline():
            points = [at(x, y) for x, y in shape.points]
            if shape.fill:
                canvas.polygon(points, colour(shape.fill))
            if shape.stroke:
                closing = points[:1] if shape.closed else []
                width = max(1, round(shape.width * scale))
                for piece in _pieces([*points, *closing], [d * scale for d in shape.dashes]):
                    canvas.line(piece, colour(shape.stroke), width, joint="curve")


def _pieces(points: list[Point], dashes: list[float]) -> Iterator[list[Point]]:
    """The parts of a line that are drawn where it is dashed."""
    if not dashes:
        yield points
        return
    k, remaining, piece = 0, dashes[0], points[:1]
    for (x, y), (u, v) in pairwise(points):
        length, position = math.hypot(u - x, v - y), 0.0
        while length - position > remaining:
            position += remaining
            here = (x + (u - x) * position / length, y + (v - y) * position / length)
            if k % 2 == 0:
                yield [*piece, here]
            k, piece = k + 1, [here]
            remaining = dashes[k % len(dashes)]
        remaining -= length - position
        piece = [*piece, (u, v)]
    if k % 2 == 0 and len(piece) > 1:
        yield piece


@cache
def _font(size: int) -> FreeTypeFont | ImageFont:
    """A sans-serif font of this machine, or the one of Pillow."""
    from PIL import ImageFont

    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
