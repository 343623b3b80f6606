"""The command line that a report holds is the one that was run: run again, it writes the same."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path

import onnx
import pytest
import yaml

from conftest import Ran
from onnxprune import prune
from onnxprune.data import zoo
from onnxprune.graph.plan import save_plan
from onnxprune.report.documents import read_documents

Cli = Callable[..., Ran]
ENTRY = zoo.get("digits_mlp")


def again(line: str, folder: Path) -> None:
    """Run a line in a shell, with this interpreter as the program."""
    program = f"{shlex.quote(sys.executable)} -m onnxprune"
    done = subprocess.run(
        f'onnxprune() {{ {program} "$@"; }}; {line}',
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="the shell is another one")
def test_what_a_report_says_to_run_writes_the_same_files(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = {"ratio": 0.25, "seed": 3, "calib": str(ENTRY.calibration), "calib-samples": 48}
    Path("my recipe.yaml").write_text(yaml.safe_dump(recipe))
    words = (
        "prune", str(ENTRY.model), "--recipe=my recipe.yaml", "--ratios", "body.1*=0.5",
        "--recover", "bias", "-o", "it's small.onnx", "--save-plan", "plan $HOME.json",
    )  # fmt: skip
    done = cli(*words, "--report", "page.html", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["argv"] == ["onnxprune", *words, "--report", "page.html", "--json"]
    line = shlex.join(document["argv"])
    page = unescape(Path("page.html").read_text())
    assert line in page
    assert "my recipe.yaml, with the flags above" in page
    names = ("it's small.onnx", "plan $HOME.json", "page.html")
    before = {name: Path(name).read_bytes() for name in names}
    for name in names:
        Path(name).unlink()
    again(line, tmp_path)
    assert {name: Path(name).read_bytes() for name in names} == before


CALIB = ("--calib", str(ENTRY.calibration), "--calib-samples", "16")
DATA = ("--data", str(ENTRY.evaluation), "--labels", str(ENTRY.evaluation), "--samples", "20")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files whose names a shell would read as something else."""
    folder = tmp_path_factory.mktemp("odd")
    result = prune(ENTRY.model, ratio=0.25)
    (folder / MODEL).write_bytes(ENTRY.model.read_bytes())
    result.save(folder / SMALL)
    save_plan(result.plan, folder / PLAN)
    return folder


MODEL, SMALL, PLAN = "it's [a] $model*.onnx", 'a "small" one; ls #.onnx', "plan\t& `more`.json"


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", MODEL),
        ("prune", MODEL, "--ratio", "0.25", "--skip", "*body.1*", "--ratios=body.[4-7]*=0.5"),
        ("apply", PLAN, MODEL, "--calib", "random", "-o", "a 'b' c.onnx"),
        ("recover", MODEL, SMALL, *CALIB, "--recover=bias"),
        ("eval", SMALL, "--against", MODEL, *DATA),
        ("bench", MODEL, "--processes", "1", "--rounds", "1", "--calib-samples", "4"),
        ("sensitivity", MODEL, *CALIB, "--kinds", "groups", "--ratios", "0.5"),
    ],
    ids=lambda words: words[0],
)
def test_every_document_of_a_page_holds_its_command(
    cli: Cli, odd: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(odd)
    done = cli(*words, "--json")
    assert done.code == 0, done.err
    argv = ("onnxprune", *words, "--json")
    assert json.loads(done.out)["argv"] == list(argv)
    Path("document.json").write_text(done.out)
    (document,) = read_documents(["document.json"])
    assert document.content.argv == argv
    assert cli("report", "document.json", "-o", "page.html").code == 0
    page = unescape(Path("page.html").read_text())
    assert shlex.join(argv) in page
    assert shlex.split(shlex.join(argv)) == list(argv)


def test_what_python_passes_in_memory_stands_in_capitals(tmp_path: Path) -> None:
    ((name, pictures),) = zoo.calibration(ENTRY).items()
    result = prune(
        onnx.load(ENTRY.model), ratio=0.25, ratios={"body.1*": 0.5}, recover="none",
        calib=[{name: pictures[:8]}], metric=lambda *_: 0.0,
    )  # fmt: skip
    page = unescape(result.report(tmp_path / "page.html").read_text())
    line = "onnxprune prune MODEL.onnx --ratio 0.25 --ratios 'body.1*=0.5'"
    assert line in page
    assert "--calib CALIB" in page
    assert "CALIB and METRIC stand for what Python code passed in memory." in page
    assert "array(" not in page
    assert "lambda" not in page
