"""The code blocks of the documentation: found, run, and compared with the output shown.

Blocks of a page run in order, in a folder that ``onnxprune demo --copy`` made. A ``console`` block
holds commands (``$ ...``) and what they print; a ``python`` block is run in the namespace of its
page. An HTML comment on the line before a block changes this:

* ``<!-- not run: REASON -->``: nothing runs; the flags of its commands must still parse;
* ``<!-- exit: 1 -->``: the exit code of its last command;
* ``<!-- with: COMMAND FLAGS -->``: flags that make such a command of the block cheaper here;
* ``<!-- numbers: vary -->``: numbers in its output are not compared;
* ``<!-- file: NAME -->``: the block, in any language, becomes that file.

Output is compared line by line, whitespace apart; ``...`` stands for any lines, or, at the end of
one, for the rest of it. Numbers may differ by a tenth: machines round differently.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from onnxprune.cli import _parser, main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^(\s*)```\s*(\w*)(.*)$")
_COMMENT = re.compile(r"^\s*<!-- (not run|exit|with|numbers|file): (.*?) -->$")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Command:
    """A command line and the output that the page shows below it."""

    line: str
    output: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """One fenced block of a page, and the comments before it."""

    page: Path
    line: int
    language: str
    text: str
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> tuple[Command, ...]:
        """The commands of a console block; a line that ends in a backslash goes on."""
        text = re.sub(r"\s*\\\n\s*", " ", self.text)
        _, *parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
        split = [part.rstrip().splitlines() for part in parts]
        return tuple(Command(first, tuple(rest)) for first, *rest in split)


def pages() -> list[Path]:
    return sorted(DOCS.rglob("*.md"))


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    notes: dict[str, str] = {}
    for number, line in lines:
        if comment := _COMMENT.match(line):
            notes[comment[1]] = comment[2]
        elif fence := _FENCE.match(line):
            body = takewhile(lambda pair: pair[1].strip() != "```", lines)
            text = "\n".join(each.removeprefix(fence[1]) for _, each in body)
            yield Block(page, number, fence[2], text + "\n", notes)
            notes = {}
        elif line.strip():
            notes = {}


class Page:
    """Runs the blocks of one page in the current folder."""

    def __init__(self) -> None:
        self._names: dict[str, object] = {"__name__": "__main__"}

    def run(self, block: Block) -> None:
        """Run one block.

        Raises:
            AssertionError: an exit code or an output is not the one of the page.
        """
        if name := block.notes.get("file"):
            Path(name).write_text(block.text, encoding="utf-8")
        elif block.language == "python" and "not run" in block.notes:
            compile(block.text, block.where, "exec")
        elif block.language == "python":
            code = compile(block.text, block.where, "exec")
            exec(code, self._names)
        elif block.language == "console":
            assert block.commands, f"{block.where} holds no command"
            for number, command in enumerate(block.commands, 1):
                last = number == len(block.commands)
                _run_command(block, command, block.notes if last else {})


def _run_command(block: Block, command: Command, notes: dict[str, str]) -> None:
    where = f"{block.where}: {command.line}"
    if "not run" in block.notes:
        for part in re.split(r"\s(?:&&|\|)\s", command.line):
            if words := _ours(part):
                _parser().parse_all(words)
        return
    name, _, cheaper = block.notes.get("with", "").partition(" ")
    words = _ours(command.line)
    extra = cheaper if words and words[0] == name else ""
    code, output = _execute(f"{command.line} {extra}")
    assert code == int(notes.get("exit", 0)), f"{where}\nexits with {code}:\n{output}"
    exact = "numbers" not in block.notes
    if missing := first_difference(command.output, output.splitlines(), numbers=exact):
        raise AssertionError(f"{where}\ndoes not print\n  {missing}\nbut\n{output}")


def _ours(line: str) -> list[str] | None:
    """The arguments of an ``onnxprune`` command, comment and redirection apart."""
    words = shlex.split(line, comments=True)
    if words[:1] != ["onnxprune"]:
        return None
    return words[1 : words.index(">")] if ">" in words else words[1:]


def _execute(line: str) -> tuple[int, str]:
    """Run a command line: ours in this process, which need not import everything again."""
    base, _, extra = line.partition("#")[0].partition(" > ")
    words = _ours(base)
    if words is None:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            line, shell=True, text=True, env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout
    target, *more = shlex.split(extra) or [""]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words + more)
    if target:
        Path(target).write_text(out.getvalue(), encoding="utf-8")
        return code, err.getvalue()
    return code, out.getvalue() + err.getvalue()


def first_difference(shown: tuple[str, ...], real: list[str], *, numbers: bool) -> str:
    """The first line shown that was not printed; empty where all were, in order."""
    at, skip = 0, False
    for line in shown:
        if line.strip() == "...":
            skip = True
            continue
        if not line.strip():
            continue
        while at < len(real) and not _alike(line, real[at], numbers=numbers):
            if not skip and real[at].strip():
                return line
            at += 1
        if at == len(real):
            return line
        at, skip = at + 1, False
    return ""


def _alike(shown: str, real: str, *, numbers: bool) -> bool:
    expected, words = shown.split(), real.split()
    if expected[-1:] == ["..."]:
        expected = expected[:-1]
        words = words[: len(expected)]
    return len(expected) == len(words) and all(
        _same_word(a, b, numbers=numbers) for a, b in zip(expected, words, strict=True)
    )


def _same_word(shown: str, real: str, *, numbers: bool) -> bool:
    if shown == real or set(shown + real) <= set("░█"):
        return True
    if not numbers and _NUMBER.search(shown) and _NUMBER.search(real):
        return True
    if _NUMBER.sub("#", shown) != _NUMBER.sub("#", real):
        return False
    pairs = zip(_NUMBER.findall(shown), _NUMBER.findall(real), strict=True)
    return all(not numbers or abs(float(a) - float(b)) <= 0.1 * abs(float(a)) for a, b in pairs)


# Figures ------------------------------------------------------------------------------------------

_FIGURE = re.compile(r"([-+]?\d[\d,]*(?:\.\d+)?)<!-- ([\w.]+\.json): (.+?) -->")


@dataclass(frozen=True)
class Figure:
    """A number in a page and where it comes from: ``1.47<!-- sparse.json: rows > 0 > gain -->``.

    A path is keys from the outside in; ``key=value;key=value`` picks from a list. Two paths with a
    slash between them are a ratio.
    """

    page: Path
    shown: str
    file: str
    path: str

    def source(self) -> float:
        """What the file holds."""
        values = [_follow(self.file, path) for path in self.path.split(" / ")]
        return values[0] / values[1] if len(values) == 2 else values[0]

    @property
    def agrees(self) -> bool:
        """Whether the number shown is that of the file, rounded to the digits shown."""
        digits = len(self.shown.partition(".")[2])
        return float(self.shown) == round(self.source(), digits)


def _follow(file: str, path: str) -> float:
    value = json.loads((ROOT / "bench" / "results" / file).read_text(encoding="utf-8"))
    for key in path.split(" > "):
        if isinstance(value, dict):
            value = value[key]
        elif "=" in key:
            wanted = dict(pair.split("=") for pair in key.split(";"))
            (value,) = [row for row in value if all(str(row[k]) == v for k, v in wanted.items())]
        else:
            value = value[int(key)]
    return float(value)


def figures(page: Path) -> list[Figure]:
    """Every figure of a page that names its source."""
    text = page.read_text(encoding="utf-8")
    return [Figure(page, shown.replace(",", ""), *rest) for shown, *rest in _FIGURE.findall(text)]
