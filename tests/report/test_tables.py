"""A table says the same on a terminal and on the page; long names keep both of their ends."""

from __future__ import annotations

import html
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, Group, RenderableType

from onnxprune.jobs.bench.schema import DeclinedRow
from onnxprune.jobs.results.schema import Measure, RefitRow
from onnxprune.report import columns
from onnxprune.report.html.markup import table
from onnxprune.report.tables import (
    Cell,
    Column,
    Table,
    common_suffix,
    draw,
    elide,
    elide_all,
    noted,
    tuples,
    warmth,
)

NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=60)
NUMBERS = st.floats(-1e12, 1e12)
UNITS = st.sampled_from(["count", "bytes", "fraction", "seconds", "number"])


def printed(drawn: RenderableType, *, width: int = 400) -> str:
    out = io.StringIO()
    Console(file=out, width=width, markup=False, highlight=False).print(drawn, crop=False)
    return out.getvalue()


def cells(text: str) -> list[str]:
    """What a reader sees in the cells of a table of the page, without its bars."""
    found = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", text, re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]*>", "", each)) for each in found]


@given(st.lists(st.builds(Measure, NAMES, NUMBERS | st.none(), NUMBERS, UNITS), min_size=1))
def test_terminal_and_page_write_the_same(rows: list[Measure]) -> None:
    lines = [
        re.split(r" {2,}", line.strip())
        for line in printed(draw(columns.measures(), rows)).splitlines()
    ]
    page = cells(table(columns.measures(), rows))
    assert [word for line in lines for word in line if word] == [word for word in page if word]


@pytest.mark.parametrize("width", [70, 80, 100])
def test_what_to_do_is_never_shortened(width: int) -> None:
    install = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-openvino"
    row = DeclinedRow("openvino", "a_model_of_some_name.onnx", 8, 1, "it is missing", install)
    lines = printed(draw(columns.DECLINED, [row]), width=width).splitlines()
    start = lines[0].index("what to do")
    words = " ".join(line[start:].strip() for line in lines[1:])
    assert "…" not in words
    assert words.replace(" ", "") == install.replace(" ", "")


def test_what_only_the_page_has_is_on_no_terminal() -> None:
    rows = [RefitRow("a.conv", "lstsq", 0.4, 0.1, "")]
    assert "remaining" not in printed(draw(columns.REFITS, rows))
    text = table(columns.REFITS, rows)
    assert "remaining" in text
    assert "--kept:0.2500" in text


def test_columns_without_values_can_be_left_out() -> None:
    declared: Table[str] = Table("t", Column("a", str), Column("b", lambda _: "", optional=True))
    assert "b" not in printed(draw(declared, ["x"]))
    assert ">b<" not in table(declared, ["x"])


def test_units_of_tuples_are_written_alike() -> None:
    declared = tuples("t", "name:name", "share:percent", "time:seconds", "of>")
    rows = [("x", 0.25, 7e-5, "y")]
    assert cells(table(declared, rows))[4:] == ["x", "25 %", "70 µs", "y"]
    assert printed(draw(declared, rows)).split() == "name share time of x 25 % 70 µs y".split()


@given(st.text(max_size=80), st.integers(3, 60))
def test_a_long_name_keeps_both_ends(name: str, most: int) -> None:
    short = elide(name, most)
    assert len(short) <= most or short == name
    assert (short == name) == (len(name) <= most)
    if short != name:
        head, tail = short[: (most - 1) // 2], short[most // 2 + 1 - (most % 2) :]
        assert name.startswith(head)
        assert name.endswith(tail.lstrip("…"))


@pytest.mark.parametrize("width", [50, 70, 200])
def test_in_a_narrow_terminal_names_give_way_and_numbers_do_not(width: int) -> None:
    name = "/model/layers.17/self_attn/q_proj/MatMul_output_0"
    declared = Table(
        "t",
        Column[float]("target", lambda _: name, "name"),
        *[Column[float]("n", lambda row: Cell(f"{row:.2f}", warmth=0.5)) for _ in range(3)],
    )
    lines = printed(draw(declared, [12.34, 56.78]), width=width).splitlines()
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)
    assert [line.count("12.34") for line in lines] == [0, 3, 0]
    assert (name in lines[1]) == (width == 200)
    assert lines[1].startswith("/model")


def test_the_page_shows_a_long_name_whole() -> None:
    name = "a" * 40 + "b" * 40
    (cell,) = re.findall(r"<th[^>]*>(<code>.*?)</th>", table(tuples("t", "x:name"), [(name,)]))
    assert cell == f"<code>{name}</code>"


@given(st.lists(NAMES, min_size=2, max_size=5, unique=True), NAMES, st.sampled_from("/:._"))
def test_a_common_suffix_begins_at_a_mark_and_leaves_every_name_some(
    names: list[str], ending: str, mark: str
) -> None:
    names = [f"{name}{mark}{ending}" for name in names]
    suffix = common_suffix(names)
    assert all(name.endswith(suffix) and name != suffix for name in names)
    assert suffix[:1] in ("", *"/:._")
    if re.search(r"[A-Za-z]{2}", ending):
        assert len(suffix) >= len(ending) + 1
    assert common_suffix(names[:1]) == ""


@pytest.mark.parametrize(
    ("names", "suffix"),
    [
        (["/a/Conv:channel", "/b/Conv:channel"], "/Conv:channel"),
        (["Conv:channel", "/b/Conv:channel"], ":channel"),
        (["a.10", "b.10"], ""),
        (["axis", "basis"], ""),
        (["same.one", "same.one"], ""),
    ],
)
def test_common_suffixes(names: list[str], suffix: str) -> None:
    assert common_suffix(names) == suffix


def test_kinds_are_dropped_from_names_that_repeat_them() -> None:
    declared = tuples("t", "group:name", "kind")
    lines = _on_terminal(draw(declared, [("a/x:head", "head"), ("b/y:ffn", "ffn")])).splitlines()
    assert [line.split() for line in lines] == [
        ["group", "…:kind", "kind"], ["a/x", "head"], ["b/y", "ffn"],
    ]  # fmt: skip


def test_a_narrow_terminal_leaves_spare_columns_out_before_it_cuts_a_name() -> None:
    declared: Table[str] = Table(
        "t",
        Column("target", lambda row: row, "name"),
        Column("kind", lambda _: "channel", spare=True),
        Column("change", lambda _: "-85.16", right=True),
    )
    name = "body.4.branch.5.gate.1"
    assert "channel" in printed(draw(declared, [name]), width=60)
    narrow = printed(draw(declared, [name]), width=34)
    assert "channel" not in narrow
    assert f"{name}" in narrow
    assert "-85.16" in printed(draw(declared, [name]), width=26)


def _on_terminal(drawn: RenderableType) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=True, color_system=None, highlight=False)
    console.print(drawn)
    return out.getvalue()


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=2), st.floats(1e-3, 1e6))
def test_warmer_is_worse(values: list[float], top: float) -> None:
    low, high = sorted(values)
    assert 0 <= warmth(low, top) <= warmth(high, top) <= 1


def test_an_ellipsis_stands_where_names_stay_different() -> None:
    names = [f"base_net.{k}.3.some.long.weight" for k in (9, 10, 11, 12)]
    short = elide_all(names, 16)
    assert len(set(short)) == 4
    assert all(len(name) <= 16 for name in short)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_table_in_a_file_keeps_to_its_width(width: int) -> None:
    names = [f"StatefulPartitionedCall/model/block_{k}/depthwise/Conv2D:channel" for k in range(9)]
    declared = tuples("t", "group:name", "kind", "units:whole", "MACs:count", "because")
    rows = [(name, "channel", 64, 1e6, "its ratio is 0") for name in names]
    lines = printed(draw(declared, rows), width=width).splitlines()
    assert len(lines) == 10
    assert all(len(line) <= width for line in lines)
    assert len({line.split()[0] for line in lines[1:]}) == 9


def test_a_note_in_a_file_is_one_line() -> None:
    sentence = "a sentence that goes on " * 9
    assert printed(Group(*noted([sentence])), width=60).splitlines() == [f"note: {sentence}"]


def test_whole_numbers_have_separators_at_both_places() -> None:
    rows = [("a", 65536), ("b", 7)]
    sizes = tuples("Sizes", "group:name", "units:whole")
    assert "65,536" in printed(draw(sizes, rows))
    assert "65,536" in str(table(sizes, rows))
