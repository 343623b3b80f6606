"""The report says the same in every form, and nothing that a reader could take wrongly."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from onnxprune import quantities as numbers
from onnxprune.jobs.results import schema
from onnxprune.jobs.results.schema import (
    BlockRow,
    CheckRow,
    GroupRow,
    Measure,
    ModelRow,
    NotPrunableRow,
    OutputRow,
    Reachable,
    RefitRow,
    Report,
    TensorRow,
)
from onnxprune.quantities import Unit
from onnxprune.report import columns, sections, terminal
from onnxprune.report.documents import Document
from onnxprune.report.html.page import build
from onnxprune.report.standing import Scale
from onnxprune.types import TailPart, Tails

MODEL = ModelRow(
    name="net[bold].onnx",
    producer="pytorch 2.13.0",
    ir_version=8,
    opsets={"": 17, "com.microsoft": 1},
    nodes=98,
    inputs=(TensorRow("input", "float", ("batch", 3, None, 32)),),
    outputs=(TensorRow("logits", "float", ("batch", 10)), TensorRow("list", "sequence", None)),
    params=273_946,
    macs=40_800_000,
    bytes=1_095_784,
    analysed={"input": (2, 3, 32, 32)},
)
GROUPS = (
    GroupRow("layer1.conv1:channel", "channel", 16, 10, True, "", 8, 292, 589_824, 1168),
    GroupRow("norm[0]:width", "width", 64, 64, False, "LayerNormalization averages it", 9, 1, 2, 4),
)
RUN = Report(
    command="prune",
    onnxprune="0.1.0",
    model=MODEL,
    reachable=Reachable(params=273_946, exact=200_000, inexact=1000),
    groups=GROUPS,
    blocks=(BlockRow("layer2:block", 5, 14080, 7_077_888, True),),
    not_prunable=(NotPrunableRow("reaches graph output", 2, 640, "logits"),),
    options={"ratio": 0.3},
    refits=(
        RefitRow("layer1.conv2", "lstsq", 0.41, 0.073, ""),
        RefitRow("layer2.conv2", "none", 0.2, 0.2, ""),
        RefitRow("gate.conv", "none", 0.0, 0.0, "its input is one position"),
    ),
    measures=(Measure("MACs", 1000, 503, "count"), Measure("accuracy", 0.934, 0.927, "fraction")),
    outputs=(
        OutputRow("logits", 0.96, 0.011, 0.998, 0.07, 0.5, 23.0, 0, ""),
        OutputRow("boxes", None, None, None, math.inf, math.inf, None, 3, ""),
        OutputRow("words", None, None, None, None, None, None, 0, "text cannot be compared"),
    ),
    samples=154,
    checks=(CheckRow("equals masked", True, 2e-7, 1e-4), CheckRow("accuracy", False, 0.02, 0.01)),
    notes=("norm[0]:width was left alone: removal changes a normalisation.",),
    output="small.onnx",
)


def text(
    report: Report,
    *,
    width: int = 120,
    colour: bool = False,
    seen: bool = False,
    verbose: bool = True,
) -> str:
    """What is printed; ``seen`` on a terminal, with or without ``colour``."""
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=seen or colour,
        color_system="truecolor" if colour else None,
        markup=False,
        highlight=False,
    )
    terminal.show(report, console, verbose=verbose)
    return out.getvalue()


def test_outcomes_come_first_and_details_with_v() -> None:
    short, whole = text(RUN, verbose=False), text(RUN)
    places = [
        short.index(said)
        for said in (
            "1 of 2 checks failed",
            "Before and after",
            "Outputs against",
            "Checks",
            "6 units removed from 1 group",
            "1 of 3 layers refitted",
            "note: ",
            "-v shows kept units of 1 group, blocks, errors of 3 layers",
        )
    ]
    assert places == sorted(places)
    for detail in ("layer1.conv1:channel", "layer2:block", "layer1.conv2", "its input is one"):
        assert detail not in short
        assert detail in whole
    assert "-v shows" not in whole


def test_a_dry_run_shows_its_plan() -> None:
    shown = text(dataclasses.replace(RUN, output=None), verbose=False)
    assert "layer1.conv1:channel" in shown
    assert "layer2:block" in shown
    assert "layer1.conv2" not in shown, "that is no plan"


@given(st.floats(-1, 1), st.sampled_from(["fraction", "number"]))
def test_a_change_has_one_sign_and_one_form_everywhere(value: float, unit: Unit) -> None:
    scale = Scale("it", fraction=unit == "fraction")
    told = numbers.difference(value, unit)
    assert columns.lost(-value, scale) == told.removesuffix(" points")
    assert numbers.change(0.0, value, unit) == told
    assert told[0] == ("+" if value > 0 else "-") or float(told.split()[0]) == 0
    worse = Scale("it", fraction=unit == "fraction", higher_is_better=False)
    assert columns.lost(value, worse) == columns.lost(-value, scale), "a loss may be a rise"


def test_a_result_shows_every_removal_measure_check_and_note() -> None:
    shown = text(RUN)
    assert "6 units removed from 1 group" in shown
    assert re.search(r"layer1\.conv1:channel +channel +10 +16 +37\.5 %", shown)
    assert "layer2:block" in shown
    assert re.search(r"MACs +1.00 k +503 +0\.503x", shown)
    assert re.search(r"accuracy +93\.40 % +92\.70 % +-0\.70 points", shown)
    assert "154 unseen inputs" in shown
    assert re.search(r"logits +96\.00 % +0\.011 +0\.998 +0\.07", shown)
    assert re.search(r"boxes .* inf +3 not finite", shown)
    assert re.search(r"words +- +- +- +- +text cannot be compared", shown)
    assert re.search(r"ok +equals masked +2e-07 +0\.0001", shown)
    assert re.search(r"FAILED +accuracy +0\.02 +0\.01", shown)
    assert "1 of 3 layers refitted" in shown
    assert re.search(r"layer1\.conv2 +lstsq +0\.41 +0\.073", shown)
    assert re.search(r"layer2\.conv2 +unchanged: nothing was better +0\.2 +0\.2", shown)
    assert "1 layer unchanged: its input is one position" in shown
    assert "note: norm[0]:width was left alone" in shown


def test_an_inspection_shows_what_can_go_and_why_the_rest_stays() -> None:
    shown = text(dataclasses.replace(RUN, command="inspect"))
    assert "net[bold].onnx" in shown
    assert "input: float [batch, 3, ?, 32]" in shown
    assert "LayerNormalization averages it" in shown
    assert re.search(r"reaches graph output +2 +640 +logits", shown)
    assert "Reachable: 73 % of 274 k parameters, and 0.4 % more with --allow-inexact" in shown


def test_a_single_clean_output_stays_on_one_line() -> None:
    shown = text(dataclasses.replace(RUN, outputs=RUN.outputs[:1]))
    assert re.search(r"^  output +same top-1 +KL +cosine +relative error\s*$", shown, re.MULTILINE)


def test_names_are_never_read_as_markup_and_lose_their_middle_alone() -> None:
    name = f"[bold]/model/layers.0/{'Q' * 150}:end"
    for command in ("inspect", "prune"):
        row = dataclasses.replace(GROUPS[0], name=name)
        run = dataclasses.replace(RUN, command=command, groups=(row,))
        assert name in text(run, width=260)
        (short,) = re.findall(r"^  (\[bold\]\S*…\S*:end) ", text(run, width=60), re.MULTILINE)
        assert name.startswith(short.partition("…")[0])
        assert name.endswith(short.partition("…")[2])
        assert name in json.dumps(schema.to_json(run))
        assert name in build([Document(run)])


def test_what_all_names_end_with_stands_in_the_head_on_a_terminal() -> None:
    names = ("/layer1/conv1/Conv:channel", "/layer1/conv2/Conv:channel", "/stem/Conv:channel")
    groups = tuple(dataclasses.replace(GROUPS[0], name=name) for name in names)
    run = dataclasses.replace(RUN, command="inspect", groups=groups)
    shown = text(run, seen=True)
    assert shown.count("/Conv:channel") == 1
    assert re.search(r"group …/Conv:channel +kind", shown)
    assert re.search(r"^  /layer1/conv2 +channel", shown, re.MULTILINE)
    assert all(name in text(run) for name in names), "whole where a program may read"


def test_many_refits_are_shown_worst_first_and_the_rest_is_said_to_be_there() -> None:
    rows = tuple(RefitRow(f"conv{k:02}", "lstsq", 0.9, k / 100, "") for k in range(30))
    shown = text(dataclasses.replace(RUN, refits=rows))
    assert re.findall(r"conv\d\d", shown) == [f"conv{k}" for k in range(29, 19, -1)]
    assert "--json lists all" in shown


def test_without_groups_it_says_so() -> None:
    assert "No unit of this model can be removed." in text(
        dataclasses.replace(RUN, command="inspect", groups=(), blocks=(), not_prunable=())
    )


def test_colour_is_only_added() -> None:
    plain, coloured = text(RUN, seen=True), text(RUN, colour=True)
    assert "\x1b[" not in plain
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_json_is_versioned_and_says_everything() -> None:
    data = json.loads(json.dumps(schema.to_json(RUN), allow_nan=False))
    assert (data["schema"], data["version"], data["ok"]) == (schema.SCHEMA, schema.VERSION, False)
    assert set(data) == {each.name for each in dataclasses.fields(Report)} | {
        "schema",
        "version",
        "ok",
        *schema.FORMER.values(),
    }
    assert all(data[former] == data[name] for name, former in schema.FORMER.items())
    assert data["groups"][0]["kept"] == 10
    assert data["model"]["inputs"][0]["shape"] == ["batch", 3, None, 32]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_stays_json_when_a_measure_is_not_finite(value: float) -> None:
    run = dataclasses.replace(RUN, measures=(Measure("error", None, value, "number"),))
    data = json.loads(json.dumps(schema.to_json(run), allow_nan=False))
    assert data["measures"][0]["pruned"] == str(value)
    assert str(value) in text(run)


def test_a_verdict_is_good_only_when_every_check_is() -> None:
    assert not RUN.ok
    assert dataclasses.replace(RUN, checks=RUN.checks[:1]).ok
    assert dataclasses.replace(RUN, checks=()).ok


@given(st.integers(0, 10**17))
def test_quantities_keep_three_figures(value: int) -> None:
    shown = numbers.quantity(value)
    number, _, suffix = shown.partition(" ")
    factor = 1000.0 ** ("", "k", "M", "G", "T", "P").index(suffix)
    assert float(number) * factor == pytest.approx(value, rel=0.0051)
    assert len(number.replace(".", "")) <= 3 or value >= 10**17
    assert "e" not in number


@given(st.integers(0, 2**57))
def test_sizes_are_close_to_the_bytes(value: int) -> None:
    number, suffix = numbers.size(value).split(" ")
    factor = 1024.0 ** ("B", "KiB", "MiB", "GiB", "TiB", "PiB").index(suffix)
    assert float(number) * factor == pytest.approx(value, rel=0.0051)


@given(st.floats(0, 1))
def test_only_nothing_is_0_percent_and_only_all_is_100(value: float) -> None:
    shown = numbers.percent(value)
    assert (shown == "0 %") == (value == 0)
    assert (shown == "100 %") == (value == 1)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(-0.0, "0"), (0.0123456, "0.0123"), (999.0, "999"), (1234567.0, "1.23 M"), (math.inf, "inf")],
)
def test_figures_of_any_size_are_short(value: float, shown: str) -> None:
    assert numbers.figure(value) == shown


def test_groups_that_stay_are_counted_by_reason_and_said_once() -> None:
    row = dataclasses.replace(GROUPS[0], kept=16)
    stay = [dataclasses.replace(row, name=f"g{k}:channel", stays="rounded") for k in range(3)]
    skipped = dataclasses.replace(row, name="s:channel", stays="skipped")
    notes = ("s:channel: skipped", "another note")
    report = dataclasses.replace(RUN, groups=(*GROUPS[:1], *stay, skipped), notes=notes)
    shown = text(report, verbose=False)
    assert "4 groups stay whole. 3: rounded; 1: skipped" in shown
    assert "note: s:channel" not in shown
    assert "note: another note" in shown
    assert re.search(r"g0:channel +16 +rounded", text(report))


def test_zeros_alone_are_no_removal() -> None:
    row = schema.SparseRow("w", "n", (4, 8), "magnitude", "none", 0.5, None, None, "")
    groups = tuple(dataclasses.replace(each, kept=each.units) for each in GROUPS)
    shown = text(dataclasses.replace(RUN, groups=groups, sparse=(row,)), verbose=False)
    assert "1 of 1 weight made sparse: 50 % of their 32 elements are zero" in shown
    assert "units removed" not in shown


def test_quality_says_of_how_many_inputs_it_is() -> None:
    shown = text(dataclasses.replace(RUN, available=1200))
    assert "154 unseen inputs of 1,200" in shown
    assert "accuracy on 154 unseen inputs of 1,200" in shown


def test_every_plus_minus_is_half_of_a_95_percent_interval() -> None:
    measure = Measure("accuracy", 0.9, 0.8, "fraction", error=0.01)
    shown = text(dataclasses.replace(RUN, measures=(measure,)))
    assert re.search(r"change +± 95 %", shown)
    assert "1.96 points" in shown


def test_many_groups_are_listed_by_loss_and_small_ones_together() -> None:
    sizes = [1] * 300 + [5] * 20
    groups = tuple(TailPart(str(k), n, 1.0, 1 - k / 400) for k, n in enumerate(sizes))
    (part,) = sections.tails(Tails(group_measure="accuracy", groups=groups))
    assert [row.name for row in part.rows] == [f"group {k}" for k in range(319, 307, -1)]
    small, others = part.under
    assert small.startswith("300 groups of fewer than 5 samples, 300 samples together")
    assert others == "the 12 groups with the largest loss of 20; --json lists all"
    (part,) = sections.tails(Tails(group_measure="accuracy", groups=groups[:300]))
    assert not part.rows
    assert part.under == (small,)
    (part,) = sections.tails(Tails(group_measure="accuracy", groups=groups[:12]))
    assert (len(part.rows), part.under) == (12, ())


@pytest.mark.parametrize(
    ("measure", "before", "worst"),
    [("mse", 0.5, 19), ("divergence", None, 19), ("accuracy", None, 0), ("agreement", 1.0, 0)],
)
def test_the_worst_groups_follow_from_the_direction_of_the_measure(
    measure: str, before: float | None, worst: int
) -> None:
    groups = tuple(TailPart(str(k), 9, before, 0.5 + k / 40) for k in range(20))
    parts = Tails(error_measure="divergence", group_measure=measure, groups=groups)
    (part,) = sections.tails(parts)
    assert part.rows[0].name == f"group {worst}"
