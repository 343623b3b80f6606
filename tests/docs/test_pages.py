"""The pages of the documentation do what they say: their code runs, their figures have sources."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_pages import DOCS, ROOT, Page, blocks, figures, first_difference, pages

from onnxprune.cli import main

pytestmark = pytest.mark.docs

README = ROOT / "README.md"
PAGES = [README, *(page for page in pages() if any(b.language for b in blocks(page)))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_folder = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([bin_folder, os.environ["PATH"]]))
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--copy", "."]) == 0
    run = Page()
    for block in blocks(page):
        run.run(block)


def test_every_block_that_does_not_run_says_why() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert block.language in {"console", "python", "yaml", "toml", "text"}, block.where
            reason = block.notes.get("not run")
            assert reason is None or len(reason.split()) > 1, block.where


FIGURES = [figure for page in pages() for figure in figures(page)]


@pytest.mark.parametrize("figure", FIGURES, ids=lambda f: f"{f.page.stem}: {f.shown}")
def test_a_figure_stands_in_the_file_it_names(figure: object) -> None:
    assert figure.agrees, f"{figure} against {figure.source()}"  # type: ignore[attr-defined]


def test_pages_have_figures() -> None:
    """That the pattern above still finds them."""
    marked = sum(page.read_text().count(".json: ") for page in pages())
    assert len(FIGURES) == marked > 0


# What the tool says -------------------------------------------------------------------------------


def strings(folder: Path) -> Iterator[tuple[ast.AST, str]]:
    """Every string in the code of a folder, and of every f-string what is not computed."""
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node, " ".join(node.value.split())


def reasons() -> set[str]:
    """What `graph` can give as the reason why an axis stays or why its removal is inexact."""
    found = set()
    graph = ROOT / "onnxprune" / "graph"
    shapes = graph / "shapes"  # why a shape is unknown is no reason of an axis
    for file in sorted(path for path in graph.rglob("*.py") if shapes not in path.parents):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            value: ast.expr | None = None
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                last = node.args[-1] if node.args else None
                why = [k.value for k in node.keywords if k.arg == "why"]
                if name in {"MismatchError", "pin", "inexact", "_reason", "plain"}:
                    value = why[0] if why else last
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "why":
                value = node.value
            elif isinstance(node, ast.FunctionDef) and "why" in node.name:
                found |= {p for r in ast.walk(node) if isinstance(r, ast.Return)
                          for p in _pieces(r.value)}  # fmt: skip
            found |= _pieces(value)
    return found


def _pieces(value: ast.expr | None) -> set[str]:
    """The longest fixed text of a message, between the names it is about."""
    if value is None:
        return set()
    longest: set[str] = set()
    for node in ast.walk(value):
        if isinstance(node, ast.JoinedStr):
            parts = [v.value for v in node.values if isinstance(v, ast.Constant)]
            parts = [str(part).strip(" `:[](,") for part in parts]
            longest |= {max(parts, key=len)}
    inside = {id(v) for n in ast.walk(value) if isinstance(n, ast.JoinedStr) for v in n.values}
    longest |= {
        node.value
        for node in ast.walk(value)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside
    }
    return {text for text in longest if len(text.split()) > 1}


def plain(page: Path) -> str:
    return " ".join(page.read_text(encoding="utf-8").replace("*", "").replace("`", "").split())


def test_every_reason_is_explained() -> None:
    known = reasons()
    assert {"reaches graph output", "needs it whole", "would leave nothing"} <= known
    text = plain(DOCS / "troubleshooting" / "not-prunable.md")
    assert not {reason for reason in known if " ".join(reason.split()) not in text}


TROUBLE = ["accuracy", "speed", "not-prunable"]


@pytest.mark.parametrize("name", TROUBLE)
def test_headings_quote_what_the_tool_says(name: str) -> None:
    said = "\n".join(text for _, text in strings(ROOT / "onnxprune"))
    page = DOCS / "troubleshooting" / f"{name}.md"
    lines = re.findall(r"^(?:#+ .*|`.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    quoted = [text for line in lines for text in re.findall(r"`([^`]+)`", line)]
    quoted = [text for text in quoted if not text.startswith("-")]
    assert quoted
    known = {"bench", "advise", "needs it whole"}  # commands, and what every operator may say
    assert not [text for text in quoted if text not in said and text not in known]


# The runner itself --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "real", "missing"),
    [
        ("a  1.00\nb", "a 1.05\nb\n", ""),
        ("a  1.00\nb", "a 2.05\nb\n", "a  1.00"),
        ("...\nb", "a\nc\nb\n", ""),
        ("a\nb", "a\nc\nb\n", "b"),
        ("a ...\n...", "a 1 2 3\nc\n", ""),
        ("a\n...\nd", "a\nb\nc\n", "d"),
        ("a 3 MiB", "a 3 KiB", "a 3 MiB"),
    ],
)
def test_output_is_compared_loosely_but_compared(shown: str, real: str, missing: str) -> None:
    lines = tuple(shown.splitlines())
    assert first_difference(lines, real.splitlines(), numbers=True) == missing
