"""The page says what the documents say, holds no name that breaks out, and refuses what is none."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import shlex
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Ran
from onnxprune import model as models
from onnxprune.cli import _parser
from onnxprune.cli.parser import given_options
from onnxprune.config import from_flags
from onnxprune.graph.analysis import analyse
from onnxprune.jobs.recipe import as_mapping
from onnxprune.jobs.results import schema
from onnxprune.jobs.results.couplings import coupling_rows
from onnxprune.jobs.results.schema import GroupRow, NotPrunableRow, RefitRow, Report
from onnxprune.report.documents import Document, FieldError, read_as, read_documents
from onnxprune.report.families import families
from onnxprune.report.html import reproduce
from onnxprune.report.html.page import build
from onnxprune.report.pareto import Mark, front, panels
from onnxprune.report.standing import Scale
from page_cases import ENTRY, as_json, bench, hostile_documents, run, searched, sweep

Cli = Callable[..., Ran]


class Page(HTMLParser):
    """What a browser would make of the page: its elements and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def page(tmp_path: Path, *plain: object) -> str:
    """The page of some documents, by way of files."""
    paths = []
    for k, each in enumerate(plain):
        paths.append(tmp_path / f"{k}.json")
        paths[-1].write_text(json.dumps(each))
    return build(read_documents(paths))


def test_everything_is_in_tables_that_need_no_script(tmp_path: Path) -> None:
    report = run()
    names = [(row.name, row.kind) for row in report.groups]
    text = page(
        tmp_path, as_json(report), bench(ENTRY.model.name, "small.onnx"), sweep("digits_mlp", names)
    )
    shown = " ".join(Page(text).text)
    for row in report.groups:
        assert row.name in shown
        assert f"{row.kept:,} / {row.units:,}" in shown
    for check in report.checks:
        assert check.name in shown
    for refit in report.refits:
        assert refit.node in shown
    for coupling in report.couplings:
        assert all(cut.tensor in shown for cut in coupling.slices)
    for said in ("the clock is not fixed", "no device", "it reaches the output", "0.490 to 0.510"):
        assert said in shown
    assert text.count("<article") == 1, "documents about one model belong together"


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    found = Page(page(tmp_path, as_json(run())))
    outside = [
        value
        for tag, attributes in found.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "srcset") and not (value or "").startswith("#")
    ]
    assert outside == []
    assert not [tag for tag, _ in found.elements if tag in ("link", "iframe", "object", "img")]
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org/2000/svg)", " ".join(found.text))


def test_only_the_script_that_came_with_it_may_run(tmp_path: Path) -> None:
    text = page(tmp_path, as_json(run()))
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [m["content"] for m in Page(text).of("meta") if "http-equiv" in m]
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_no_name_breaks_out(tmp_path: Path) -> None:
    text = page(tmp_path, *hostile_documents())
    assert text.count("window.broken") > 50, "the names are there"
    found = Page(text)
    assert found.of("img") == []
    scripts = found.of("script")
    assert len([s for s in scripts if s.get("type") != "application/json"]) == 1
    assert not [name for _, each in found.elements for name in each if name.startswith("on")]
    for data in re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL):
        assert json.loads(data)


def test_documents_are_matched_by_model(tmp_path: Path) -> None:
    other = as_json(run()) | {"output": "elsewhere/tiny.onnx"}
    other["model"] = other["model"] | {"name": "other.onnx"}
    text = page(
        tmp_path,
        as_json(run()),
        other,
        sweep("other.onnx", [("a", "channel")]),
        bench("tiny.onnx", "x.onnx"),
        bench("new.onnx"),
    )
    first, second, third = text.split("<article")[1:]
    assert "Sensitivity</a>" in second
    assert "Latency</a>" in second, "its output was benchmarked"
    assert "Sensitivity</a>" not in first + third
    assert ">new.onnx<" in third


def test_several_runs_of_a_model_stand_side_by_side(tmp_path: Path) -> None:
    text = page(tmp_path, as_json(run()), as_json(run()) | {"output": "tiny.onnx"})
    assert text.count("<article") == 1
    assert len(re.findall(r'href="#m0-r[01]"', text)) == 2 + 2 + 2  # in table, menu and title


def test_different_models_of_one_name_are_refused(cli: Cli, tmp_path: Path) -> None:
    one, other = as_json(run()), as_json(run())
    other["model"] = other["model"] | {"params": 7}
    files = [tmp_path / "one.json", tmp_path / "other.json"]
    for path, plain in zip(files, (one, other), strict=True):
        path.write_text(json.dumps(plain))
    ran = cli("report", *files, "-o", tmp_path / "out.html")
    assert ran.code == 2
    assert all(str(path) in ran.err for path in files)


BAD = {
    "cut short": json.dumps(schema.to_json(run()))[:-20],
    "no JSON": "macs: 3",
    "not UTF-8": b"\xff\xfe\x00",
    "no object": "[3]",
    "nothing": "[]",
    "no schema": "{}",
    "other schema": '{"schema": "other", "version": 1}',
    "newer": json.dumps(as_json(run()) | {"version": schema.VERSION + 1}),
    "older than any": json.dumps(as_json(run()) | {"version": 0}),
    "version that is no number": json.dumps(as_json(run()) | {"version": True}),
    "version that is not whole": json.dumps(as_json(run()) | {"version": 1.0}),
    "rows in lists": '{"schema": "onnxprune.bench", "version": 1, "rows": '
    + "[" * 900
    + "]" * 900
    + "}",
    "no version": json.dumps({k: v for k, v in as_json(run()).items() if k != "version"}),
    "no model": json.dumps({k: v for k, v in as_json(run()).items() if k != "model"}),
    "text for a number": json.dumps(as_json(run()) | {"samples": "many"}),
    "NaN": json.dumps(as_json(run()) | {"measures": [{"name": "a", "dense": float("nan")}]}),
    "deep": "[" * 100_000,
    "bench without rows": '{"schema": "onnxprune.bench", "version": 2, "models": []}',
    "sweep of nothing": '{"schema": "onnxprune.sensitivity", "version": 1, "metric": "accuracy"}',
}


FORMER = {"not_prunable": "pinned", "reachable": "reach", "as_given": "given"}
"""Keys of a report, and what version 1 called them."""


def first_version(document: dict[str, Any]) -> dict[str, Any]:
    """A document as version 1 wrote it."""
    document = document | {"version": 1}
    if document["schema"] == "onnxprune.bench":
        rows = [{OF_ROWS.get(k, k): v for k, v in row.items()} for row in document["rows"]]
        return document | {"rows": rows}
    options = {OF_OPTIONS.get(k, k): v for k, v in document["options"].items()}
    return {FORMER.get(k, k): v for k, v in (document | {"options": options}).items()}


OF_ROWS, OF_OPTIONS = {"outputs": "fidelity"}, {"backend": "provider"}
names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=6)


@given(
    backend=st.none() | st.sampled_from(["cpu", "openvino"]),
    not_prunable=st.lists(st.builds(NotPrunableRow, names, st.just(2), st.just(64), names)),
    as_given=st.lists(names, max_size=2),
    models=st.lists(names, min_size=1, max_size=3, unique=True),
)
@settings(max_examples=12, deadline=None)
def test_version_1_gives_the_same_page(
    tmp_path_factory: pytest.TempPathFactory,
    backend: str | None,
    not_prunable: list[NotPrunableRow],
    as_given: list[str],
    models: list[str],
) -> None:
    outputs = tuple(dataclasses.replace(run().outputs[0], name=name) for name in as_given)
    report = dataclasses.replace(
        run(),
        options={**run().options, **({"backend": backend} if backend else {})},
        not_prunable=tuple(not_prunable),
        as_given=outputs,
    )
    path = tmp_path_factory.mktemp("versions") / "documents.json"
    pages = []
    documents = [as_json(report), bench(*models)]
    for version in (documents, [first_version(each) for each in documents]):
        path.write_text(json.dumps(version))
        pages.append(build(read_documents([path])))
    assert pages[0] == pages[1]


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_document_is_refused_by_name(cli: Cli, tmp_path: Path, kind: str) -> None:
    bad, out = tmp_path / "bad.json", tmp_path / "out.html"
    content = BAD[kind]
    bad.write_bytes(content if isinstance(content, bytes) else content.encode())
    ran = cli("report", bad, "-o", out)
    assert ran.code == 2
    assert ran.err.startswith("error: ")
    assert str(bad) in ran.err
    assert "hint: " in ran.err
    assert not out.exists()


def test_the_output_is_checked_before_the_work(cli: Cli, tmp_path: Path) -> None:
    good = tmp_path / "run.json"
    good.write_text(json.dumps(as_json(run())))
    for out in (good, tmp_path, tmp_path / "nowhere" / "out.html"):
        ran = cli("report", good, "-o", out)
        assert (ran.code, ran.err[:6]) == (2, "error:")
    assert json.loads(good.read_text())["schema"] == schema.SCHEMA
    missing = cli("report", tmp_path / "missing.json", "-o", tmp_path / "out.html")
    assert "missing.json cannot be read" in missing.err


def test_prune_writes_the_page_that_its_json_makes(cli: Cli, tmp_path: Path) -> None:
    out, page_of, told = tmp_path / "small.onnx", tmp_path / "a.html", tmp_path / "run.json"
    ran = cli("prune", ENTRY.model, "--ratio", "0.3", "-o", out, "--report", page_of, "--json")
    assert ran.code == 0
    assert f"Wrote {page_of}" in ran.err
    told.write_text(ran.out)
    assert cli("report", told, "-o", tmp_path / "b.html").code == 0
    assert page_of.read_text() == (tmp_path / "b.html").read_text()
    names = {each.name for each in tmp_path.iterdir()}
    results = {"small.onnx", "small.certificate.json", "a.html", "b.html", "run.json"}
    assert names == results, "and nothing half-written"


def test_a_bad_verdict_has_a_page_too(cli: Cli, tmp_path: Path) -> None:
    flags = ("--ratio", "0.8", "--round-to", "1", "--max-drop", "0", "--recover", "none")
    calib = ("--calib", ENTRY.calibration, "--calib-samples", "64")
    page_of = tmp_path / "a.html"
    ran = cli("prune", ENTRY.model, *flags, *calib, "--report", page_of)
    assert ran.code == 1
    text = page_of.read_text()
    assert re.search(r"Quality: broken", text)
    assert re.search(r"Structure: verified", text)
    assert "exceeds --max-drop" in text
    assert "FAILED" in text


def test_the_page_of_a_run_goes_over_no_other_file(cli: Cli, tmp_path: Path) -> None:
    ran = cli("prune", ENTRY.model, "--ratio", "0.3", "--report", ENTRY.model)
    assert ran.code == 2
    assert "--report" in ran.err
    out = tmp_path / "x.onnx"
    ran = cli("prune", ENTRY.model, "--ratio", "0.3", "-o", out, "--report", out)
    assert ran.code == 2
    assert not out.exists()


OPTIONS: list[dict[str, object]] = [
    {"ratio": 0.3, "skip": ["*head*", "it's"], "ratios": {"layer 1*": 0.2, "b": 0.1}},
    {"target": "macs=50%", "calib": "images of mine.npz", "cache": False, "max_drop": 0.01},
    {"sparsity": "2:4", "permute": True, "allow_inexact": True, "seed": 3, "round_to": 8},
    {"heads": 0.25, "shapes": {"input": (1, 3, 224, 224)}, "store": "auto"},
]


@pytest.mark.parametrize("flags", OPTIONS)
def test_the_command_and_the_recipe_ask_for_the_same_again(flags: dict[str, object]) -> None:
    asked = from_flags(flags)
    report = dataclasses.replace(run(), options=json.loads(json.dumps(as_mapping(asked))))
    program, *words = shlex.split(reproduce.command(report))
    assert program == "onnxprune"
    assert from_flags(given_options(_parser().parse_all(words), "prune")) == asked
    assert from_flags(yaml.safe_load(reproduce.recipe(report))) == asked


def test_a_report_reads_back_as_it_was() -> None:
    assert read_as(Report, as_json(searched())) == searched()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"groups": [{"name": 3}]}, "groups[0].name is 3"),
        ({"options": []}, "options is a list where an object"),
        ({"command": "fly"}, "command is 'fly'"),
        ({"ok": True, "notes": [None]}, "notes[0] is null"),
    ],
)
def test_a_damaged_field_is_named(spoil: dict[str, object], said: str) -> None:
    with pytest.raises(FieldError) as raised:
        read_as(Report, as_json(run()) | spoil)
    assert said in str(raised.value)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12),
    st.booleans(),
)
def test_the_front_is_what_nothing_beats(places: list[tuple[int, int]], higher: bool) -> None:
    scale = Scale("it", fraction=False, higher_is_better=higher)
    sign = 1 if higher else -1
    marks = front((Mark("m", "tried", x, y) for x, y in places), scale)
    for mark in marks:
        beaten = any(
            o.x <= mark.x and sign * o.y >= sign * mark.y and (o.x, o.y) != (mark.x, mark.y)
            for o in marks
        )
        same = [o for o in marks if (o.x, o.y) == (mark.x, mark.y)]
        assert sum(o.front for o in same) == (0 if beaten else 1)


def test_every_visited_model_is_on_the_chart_of_its_backend() -> None:
    (family,) = families([Document(searched())])
    (panel,) = panels(family)
    assert (panel.title, panel.scale.name) == ("Latency on cpu", "accuracy")
    roles = {mark.label: mark.role for mark in panel.marks}
    assert roles == {"macs=100%": "dense", "macs=70%": "chosen", "macs=50%": "missed"}
    assert all(mark.low and mark.high and mark.low < mark.x < mark.high for mark in panel.marks)


def test_without_latency_the_charts_are_by_size() -> None:
    (family,) = families([Document(run())])
    assert [panel.axis for panel in panels(family)] == ["MACs", "bytes"]
    for panel in panels(family):
        dense = next(mark for mark in panel.marks if mark.role == "dense")
        chosen = next(mark for mark in panel.marks if mark.role == "chosen")
        assert chosen.x < dense.x
        assert dense.y == 1.0
        assert (dense.error, chosen.error and chosen.error > 0) == (None, True)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_charts_are_drawn_for_a_readme(cli: Cli, tmp_path: Path, ending: str) -> None:
    told, picture = tmp_path / "run.json", tmp_path / f"figure.{ending}"
    told.write_text(json.dumps(as_json(searched())))
    ran = cli("report", told, "-o", tmp_path / "a.html", "--figure", picture)
    assert ran.code == 0, ran.err
    if ending == "svg":
        shown = picture.read_text()
        assert all(word in shown for word in ("Latency on cpu", "macs=70%", "accuracy"))
    else:
        assert picture.read_bytes().startswith(b"\x89PNG")
    left = {each.name for each in tmp_path.iterdir()}
    assert left == {"run.json", "a.html", picture.name}


def test_a_figure_of_nothing_or_of_another_kind_is_refused(cli: Cli, tmp_path: Path) -> None:
    told = tmp_path / "run.json"
    told.write_text(json.dumps(as_json(dataclasses.replace(run(), outputs=()))))
    for name, why in (("a.svg", "no two models"), ("a.jpg", "no picture")):
        ran = cli("report", told, "-o", tmp_path / "a.html", "--figure", tmp_path / name)
        assert ran.code == 2
        assert why in ran.err
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_a_coupling_names_every_slice_of_its_group() -> None:
    analysis = analyse(models.load(ENTRY.model))
    for row, group in zip(coupling_rows(analysis), analysis.groups, strict=True):
        assert (row.group, row.more) == (group.name, 0)
        for told, cut in zip(row.slices, group.slices, strict=True):
            assert (told.tensor, told.axis, told.role) == (cut.tensor, cut.axis, cut.role)
            assert told.rows == cut.rows.shape[1]
            assert told.shape == tuple(analysis.constants[cut.tensor].shape.numpy())
            assert all(node.op for node in told.nodes)


@pytest.mark.parametrize("most", [0, 1, 5, 20])
def test_couplings_are_bounded_and_what_is_left_out_is_counted(most: int) -> None:
    analysis = analyse(models.load(ENTRY.model))
    rows = coupling_rows(analysis, most=most)
    assert sum(len(row.slices) for row in rows) <= most
    for row, group in zip(rows, analysis.groups, strict=True):
        assert len(row.slices) + row.more == len(group.slices)


def test_a_model_of_thousands_of_groups_makes_a_page_one_can_send(tmp_path: Path) -> None:
    name = "/model/decoder/layers.{}/feed_forward/up_projection/MatMul:ffn"
    groups = tuple(
        GroupRow(name.format(k), "ffn", 4096, 4096 - k, True, "", 3, 12288, 12288, 24576)
        for k in range(3000)
    )
    refits = tuple(RefitRow(name.format(k), "lstsq", 0.5, 0.1, "") for k in range(6000))
    huge = dataclasses.replace(run(), groups=groups, refits=refits, couplings=())
    targets = [(row.name, row.kind) for row in groups]
    text = page(tmp_path, as_json(huge), as_json(huge), sweep(ENTRY.model.name, targets))
    assert len(text.encode()) < 1_500_000
    assert "more are in the JSON" in text
    assert name.format(2999) in text, "what is most sensitive stays"
