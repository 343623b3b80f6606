"""Charts keep everything inside, say what they show, and are the same picture as SVG and as PNG."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from onnxprune import quantities
from onnxprune.errors import OnnxpruneError
from onnxprune.jobs.bench.schema import Bench
from onnxprune.report import drawing, plots
from onnxprune.report.charts import WIDTH, Axis, draw, framed, tick
from onnxprune.report.documents import read_documents
from onnxprune.report.drawing import Circle, Picture, Polyline, Shape, Text
from onnxprune.report.pareto import Mark, Panel
from onnxprune.report.standing import TOP1
from onnxprune.select.sensitivity import Sensitivity
from page_cases import HOSTILE, bench, sweep

SVG = "{http://www.w3.org/2000/svg}"


def read(plain: object) -> Any:
    """A document as the page reads it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_text(json.dumps(plain))
        (document,) = read_documents([path])
    return document.content


def measured(*names: str) -> Bench:
    return cast(Bench, read(bench(*names)))


def swept() -> Sensitivity:
    return cast(Sensitivity, read(sweep("m.onnx", [("a:channel", "channel"), (HOSTILE, "ffn")])))


def panel(*marks: Mark) -> Panel:
    return Panel("Latency on cpu", "median latency", "seconds", TOP1, marks)


def flat(picture: Picture) -> list[tuple[Shape, float, float]]:
    return list(drawing._flat(picture.shapes, 0.0, 0.0))


def inside(picture: Picture) -> None:
    """Nothing is cut at an edge."""
    for shape, dx, dy in flat(picture):
        if isinstance(shape, Polyline):
            points = shape.points
        elif isinstance(shape, Circle):
            points = ((shape.x, shape.y),)
        else:
            assert isinstance(shape, Text)
            width = drawing.text_width(shape.text, shape.size)
            left = shape.x - {"start": 0.0, "middle": width / 2, "end": width}[shape.anchor]
            points = ((left, shape.y), (left + width, shape.y))
        for x, y in points:
            assert -1 <= x + dx <= picture.width + 1, shape
            assert -1 <= y + dy <= picture.height + 1, shape


MARKS = st.builds(
    Mark,
    st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=50),
    st.sampled_from(["dense", "chosen", "tried", "missed", "other"]),
    st.floats(1e-5, 1e2),
    st.floats(0, 1),
    error=st.none() | st.floats(1e-4, 0.2),
)


@settings(deadline=None)
@given(st.lists(MARKS, min_size=1, max_size=8))
def test_all_of_a_trade_off_is_inside_and_says_what_it_is(marks: list[Mark]) -> None:
    picture = draw(plots.tradeoff(panel(*marks)), titled=True)
    inside(picture)
    titles = ET.fromstring(drawing.svg(picture)).findall(f".//{SVG}title")
    assert len(titles) == len(marks)


def test_a_mark_has_bars_on_both_axes_where_both_are_known() -> None:
    known = Mark("m", "chosen", 1e-3, 0.9, low=0.9e-3, high=1.2e-3, error=0.02)
    chart = plots.tradeoff(panel(known, Mark("d", "dense", 2e-3, 0.95)))
    (mark,) = [each for each in chart.marks if each.name == "chosen"]
    assert mark.x_ends == (0.9e-3, 1.2e-3)
    assert mark.y_ends == pytest.approx((0.88, 0.92))
    frame = framed(chart)
    lines = {each.points for each, *_ in flat(draw(chart)) if isinstance(each, Polyline)}
    x, y = frame.across(1e-3), frame.up(0.9)
    assert ((frame.across(0.9e-3), y), (frame.across(1.2e-3), y)) in lines
    assert ((x, frame.up(mark.y_ends[0])), (x, frame.up(mark.y_ends[1]))) in lines


@settings(deadline=None)
@given(st.floats(1e-3, 2e-3), st.floats(0.3, 0.9), st.floats(1e-4, 0.2))
def test_a_name_stands_clear_of_error_bars(x: float, y: float, error: float) -> None:
    mark = Mark("model", "chosen", x, y, error=error)
    shapes = flat(draw(plots.tradeoff(panel(mark, Mark("d", "dense", 5e-3, 0.95)))))
    (name,) = [each for each, *_ in shapes if isinstance(each, Text) and each.text == "model"]
    right = name.x + drawing.text_width(name.text, name.size, bold=True)
    lines = [each.points for each, *_ in shapes if isinstance(each, Polyline) and each.width == 1.5]
    bars = [(*line[0], *line[1]) for line in lines if len(line) == 2]
    assert bars
    for a, b, c, d in bars:
        beside = max(a, c) < name.x or right < min(a, c)
        assert beside or max(b, d) < name.y - 8 or name.y < min(b, d)


@given(
    st.floats(0, 1e9), st.floats(1e-6, 1e9), st.integers(2, 8), st.sampled_from(["count", "bytes"])
)
def test_ticks_are_few_ascend_and_lie_on_the_axis(
    low: float, span: float, most: int, unit: str
) -> None:
    axis = Axis("x", unit, low, low + span)  # type: ignore[arg-type]
    ticks = axis.ticks(most)
    assert len(ticks) <= most + 2
    assert ticks == sorted(ticks)
    slack = 1e-6 * span + 1e-9 * low
    assert all(axis.low - slack <= each <= axis.high + slack for each in ticks)


@given(st.floats(1e-6, 1e3), st.floats(1.2, 1e4))
def test_a_logarithmic_axis_has_ticks_on_any_range(low: float, factor: float) -> None:
    axis = Axis("x", "seconds", low, low * factor, log=True)
    ticks = axis.ticks(4)
    assert ticks
    for each in ticks:
        assert -1e-6 <= axis.share(each) <= 1 + 1e-6


@example(-0.0, "number")
@example(-1e-9, "fraction")
@given(st.floats(-1, 1), st.sampled_from(["fraction", "number", "count", "bytes", "seconds"]))
def test_no_number_has_the_sign_of_a_zero(value: float, unit: str) -> None:
    for write in (quantities.spread, quantities.signed, quantities.difference):
        text = write(value, unit)  # type: ignore[arg-type]
        assert not re.fullmatch(r"-0(\.0*)?( points)?", text)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [(0.5, "fraction", "50 %"), (0.975, "fraction", "97.5 %"), (100.0, "count", "100"),
     (40e6, "count", "40 M"), (7e-5, "seconds", "70 µs"), (0.5, "ratio", "0.5x"),
     (2048.0, "bytes", "2 KiB")],
)  # fmt: skip
def test_ticks_have_no_zeros_that_say_nothing(value: float, unit: str, shown: str) -> None:
    assert tick(value, unit) == shown  # type: ignore[arg-type]


def test_distributions_stand_in_a_grid_per_backend_and_batch_and_nothing_overlaps() -> None:
    made = measured("dense.onnx", "small.onnx", "x" * 90 + ".onnx")
    rows = [dataclasses.replace(row, batch=batch) for row in made.rows for batch in (1, 8)]
    picture = plots.of_bench(dataclasses.replace(made, rows=tuple(rows)))
    inside(picture)
    assert picture.width < 3 * WIDTH
    boxes = [(g.dx, g.dy) for g in picture.shapes if isinstance(g, drawing.Group)]
    assert len(set(boxes)) == len(boxes) == 1 + 2 * 2
    first, *lines = [[x for x, y in boxes if y == low] for low in sorted({y for _, y in boxes})]
    assert len(first) == 1, "ratios of all settings"
    assert [len(line) for line in lines] == [2, 2]
    assert lines[0] == lines[1], "batches are below each other"


def test_a_reading_at_every_percent_names_every_model() -> None:
    ((chart, rows), *_) = plots.distributions(measured("a.onnx", "b.onnx"))
    assert len(chart.readings) == 101
    for text in chart.readings:
        assert all(row.model in text for row in rows)
    assert "0.500x" in chart.readings[50]


def test_names_of_any_kind_leave_the_svg_whole(tmp_path: Path) -> None:
    name = f"\x00\x1b[31m{HOSTILE}"
    marks = (Mark(name, "dense", 1.0, 0.9), Mark("x", "chosen", 0.5, 0.8))
    for picture in (draw(plots.tradeoff(panel(*marks)), titled=True), plots.of_sweep(swept())):
        drawing.save(picture, tmp_path / "a.svg")
        root = ET.parse(tmp_path / "a.svg").getroot()
        assert root.tag == f"{SVG}svg"
        assert not root.findall(f".//{SVG}script")


def test_the_heat_map_has_a_cell_for_everything_swept() -> None:
    picture = plots.of_sweep(swept())
    inside(picture)
    texts = [each.text for each, *_ in flat(picture) if isinstance(each, Text)]
    for shown in ("-0.30", "-0.60", "-87.00", "25 %", "removed", "change of accuracy, in points"):
        assert any(shown in text for text in texts), shown


def test_png_and_svg_are_one_picture(tmp_path: Path) -> None:
    picture = plots.of_sweep(swept())
    drawing.save(picture, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == pytest.approx(2 * picture.width, abs=2)
        assert image.height == pytest.approx(2 * picture.height, abs=2)
        colours = image.convert("RGB").getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 20
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]


@given(
    st.lists(st.tuples(st.floats(0, 99), st.floats(0, 99)), min_size=2, max_size=6),
    st.lists(st.floats(1, 9), min_size=2, max_size=2),
)
def test_dashes_lie_on_the_line_and_fill_their_share(
    points: list[tuple[float, float]], dashes: list[float]
) -> None:
    def length(line: list[tuple[float, float]]) -> float:
        return sum(math.dist(a, b) for a, b in pairwise(line))

    whole, drawn = length(points), sum(map(length, drawing._pieces(points, dashes)))
    share = dashes[0] / sum(dashes)
    assert share * whole - 1e-6 <= drawn <= share * whole + dashes[0] + 1e-6


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    picture = draw(plots.tradeoff(panel(Mark("d", "dense", 1.0, 0.9))))
    with pytest.raises(OnnxpruneError, match="cannot be written"):
        drawing.save(picture, tmp_path / "nowhere" / "a.png")
    with pytest.raises(OnnxpruneError, match=r"neither .png nor .svg"):
        drawing.check(tmp_path / "a.jpg", "-o")
    assert list(tmp_path.iterdir()) == []
