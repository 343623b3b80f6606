"""The command line that a report holds is the one that was run: run again, it writes the same."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
import yaml

from conftest import Ran
from onnxprune.data import zoo
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


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", str(ENTRY.model)),
        ("bench", str(ENTRY.model), "--processes", "1", "--rounds", "1", "--calib-samples", "4"),
        (
            *("sensitivity", str(ENTRY.model), "--calib", str(ENTRY.calibration)),
            *("--calib-samples", "16", "--kinds", "groups", "--ratios", "0.5"),
        ),
    ],
)
def test_every_document_of_a_page_holds_its_command(
    cli: Cli, tmp_path: Path, words: tuple[str, ...]
) -> None:
    done = cli(*words, "--json")
    assert done.code == 0, done.err
    argv = ("onnxprune", *words, "--json")
    assert json.loads(done.out)["argv"] == list(argv)
    path = tmp_path / "document.json"
    path.write_text(done.out)
    (document,) = read_documents([path])
    assert document.content.argv == argv
    assert cli("report", path, "-o", tmp_path / "page.html").code == 0
    assert shlex.join(argv) in unescape((tmp_path / "page.html").read_text())
