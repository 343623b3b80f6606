"""A result can be looked at from Python and in a notebook, as on the command line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import onnxprune
from conftest import Ran
from onnxprune import OnnxpruneError, Result
from onnxprune.data import zoo
from onnxprune.jobs.results.gather import stays

ENTRY = zoo.get("digits_mlp")


@pytest.fixture(scope="module")
def result() -> Result:
    return onnxprune.prune(ENTRY.model, ratio=0.3, calib=ENTRY.calibration, calib_samples=64)


def test_a_model_is_saved_under_a_name_that_says_so(result: Result, tmp_path: Path) -> None:
    stored = onnxprune.store(result.model)
    int8 = onnxprune.quantize(ENTRY.model, dynamic=True)
    for each in (result, stored, int8):
        for name in ("small.txt", "small"):
            with pytest.raises(OnnxpruneError, match=r"does not end in \.onnx or \.pb"):
                each.save(tmp_path / name)
        assert each.save(tmp_path / "small.onnx.pb").is_file()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"small.onnx.pb", "small.onnx.certificate.json"}


def test_reprs_are_one_line(result: Result) -> None:
    sparse = onnxprune.prune(ENTRY.model, sparsity="80%")
    objects = (
        result,
        result.model,
        result.analysis,
        result.analysis.groups[0],
        result.plan,
        onnxprune.quantize(ENTRY.model, dynamic=True),
        onnxprune.store(sparse.model, store="packed"),
        onnxprune.sensitivity(
            ENTRY.model, calib=ENTRY.calibration, calib_samples=8, kinds="groups"
        ),
    )
    for each in objects:
        assert "\n" not in repr(each)
        assert len(repr(each)) <= 200, type(each)


def test_json_is_what_the_command_line_prints(result: Result, cli: Callable[..., Ran]) -> None:
    ran = cli(
        "prune", ENTRY.model, "--ratio", "0.3", "--calib", ENTRY.calibration,
        "--calib-samples", "64", "--json",
    )  # fmt: skip
    printed, made = json.loads(ran.out), json.loads(json.dumps(result.to_json()))
    assert printed.pop("options")["calib"] == str(ENTRY.calibration)
    assert made.pop("options")["calib"] == str(ENTRY.calibration)
    assert printed.pop("argv")[:2] == ["onnxprune", "prune"]
    assert (printed.pop("error"), printed.pop("hint")) == (None, None)
    assert made.pop("argv") == []
    assert printed == made


def test_a_notebook_shows_the_outcome(result: Result) -> None:
    text = re.sub(r"<[^>]*>", " ", result._repr_html_())
    assert "Structure: verified" in " ".join(text.split())
    assert "Quality:" in text
    assert ENTRY.model.name in text
    assert "MACs" in text


def test_the_page_and_the_picture_are_files(result: Result, tmp_path: Path) -> None:
    page = result.report(tmp_path / "page.html")
    assert page.read_text().startswith("<!")
    assert result.plot(tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert ET.parse(result.plot(tmp_path / "plot.svg")).getroot().tag.endswith("svg")
    copy = tmp_path / "model.onnx"
    shutil.copyfile(ENTRY.model, copy)
    for name in ("model.onnx", "plot.bmp", "plot"):  # not even over the model
        for draw in (result.report, result.plot):
            with pytest.raises(OnnxpruneError, match=name):
                draw(tmp_path / name)
    assert copy.read_bytes() == ENTRY.model.read_bytes()
    copy.unlink()
    blind = onnxprune.prune(ENTRY.model, ratio=0.3)
    with pytest.raises(OnnxpruneError, match="quality") as refusal:
        blind.plot(tmp_path / "blind.png")
    assert "calib=" in refusal.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "plot.png", "plot.svg"]


def test_results_know_which_command_made_them(result: Result) -> None:
    calib = {"calib": ENTRY.calibration, "calib_samples": 64}
    again = onnxprune.apply(ENTRY.model, result.plan, **calib)
    assert (result.command, again.command) == ("prune", "apply")
    cut = onnxprune.prune(ENTRY.model, ratio=0.5).model
    refitted = onnxprune.recover(ENTRY.model, cut, **calib)
    assert refitted.command == "recover"
    assert refitted.to_json()["as_given"]


def test_a_group_that_stays_whole_has_a_reason() -> None:
    model = zoo.get("digits_rescnn").model
    result = onnxprune.prune(model, ratio=0.1, skip=("body.0*",))
    reasons = stays(result)
    whole = [g.name for g in result.analysis.groups if g.name not in result.plan.removed]
    assert list(reasons) == whole
    assert all(reasons.values())
    assert "skipped" in next(why for name, why in reasons.items() if name.startswith("body.0"))
    assert stays(onnxprune.prune(model, sparsity="50%")) == {}
