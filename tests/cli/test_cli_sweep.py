"""Every flag of every command is given wrong values: each is refused by name, before any work."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Ran
from onnxprune.cli import _parser
from onnxprune.cli.destination import MODELS
from onnxprune.cli.parser import Parser
from onnxprune.config import (
    ANYTHING,
    COMMANDS,
    GLOBS,
    KEPT_INDICES,
    PATH,
    TEXT,
    TOKEN,
    BenchOptions,
    option_of,
    options_of,
    read,
    spelling,
    split,
)
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError, typed_flags

Cli = Callable[..., Ran]
PARSERS: dict[str, Parser] = _parser()._subparsers._group_actions[0].choices  # type: ignore[assignment, union-attr]
MODEL = zoo.get("digits_mlp").model
DATA = MODEL.with_name("digits_calibration.npz")

WRONG = ("nonsense", "-1", "nan", "1e999", "9" * 30, ".", "=", "no/such.file")
EMPTY = ("", ",", " ")
FREE = (ANYTHING, GLOBS, KEPT_INDICES, PATH, TEXT, TOKEN)
"""Readers that take any text; whether it names something shows with the model."""
REQUIRED = {
    "prune": ("--ratio", "0.1"),
    "apply": ("-o", "out.onnx"),
    "recover": ("--calib", "none.npz"),
    "sensitivity": ("--calib", "none.npz"),
    "quantize": ("--dynamic",),
    "eval": ("--data", "none.npz", "--labels", "none.npz"),
    "verify": ("--dense", "dense.onnx"),
    "store": ("-o", "out.onnx"),
    "mask": ("-o", "out.json"),
    "build": ("--engine", "out.engine"),
    "densify": ("-o", "out.onnx"),
    "report": ("-o", "out.html"),
}
OUTPUTS = {"-o", "--engine", "--keep-onnx", "--save-plan", "--save-mask", "--save-recipe"}
OUTPUTS |= {"--report", "--figure"}
PYTHON = re.compile(r"\(\d+, ?(\d+)?\)|\bNone\b|<[\w.]+ object|dtype\(|Error:")
"""What only Python writes."""


def _refused(ran: Ran, word: str) -> None:
    """One error that names a word, one hint, and nothing else."""
    assert ran.code == 2, ran
    assert ran.out == ""
    lines = ran.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"], ran.err
    error, hint = (line.partition(": ")[2] for line in lines)
    _helpful(error, hint, word)


def _helpful(error: str, hint: str, word: str) -> None:
    assert word in error, error
    assert hint
    assert "\n" not in error + hint
    assert "bug in onnxprune" not in error
    assert not PYTHON.search(error), error
    assert len(hint) < 250, hint
    assert hint.count(", ") < 10, hint  # no long list of names


def _positionals(command: str) -> list[str]:
    return [f"missing.{a.dest}" for a in PARSERS[command]._actions if not a.option_strings]


def _base(command: str, flag: str) -> list[str]:
    required = REQUIRED.get(command, ())
    return [command, *_positionals(command), *(() if flag in required else required)]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())  # nothing half-written


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_values_are_refused_by_flag(command: str) -> None:
    for name, each in options_of(command):
        reader = option_of(each).reader
        if not reader.metavar:
            continue
        flag = spelling(each)
        wrong = [*EMPTY, *(WRONG if reader not in FREE else ())]
        for value in wrong:
            with typed_flags(), pytest.raises(OnnxpruneError) as caught:
                split(command, {name: [value] if reader.repeats or reader.several else value})
            _helpful(caught.value.message, caught.value.hint, flag)
            assert value.strip(" ,") in caught.value.message


@pytest.mark.parametrize("command", COMMANDS)
def test_values_are_read_before_any_work(cli: Cli, command: str) -> None:
    flags = [spelling(each) for _, each in options_of(command) if option_of(each).reader.metavar]
    for flag in flags[:: max(len(flags) // 4, 1)]:
        _refused(cli(*_base(command, flag), f"{flag}="), f"{flag} is empty")


@pytest.mark.parametrize("command", PARSERS)
def test_wrong_destinations_are_refused_by_flag(cli: Cli, command: str, tmp_path: Path) -> None:
    for action in PARSERS[command]._actions:
        flag = next(iter(action.option_strings), "")
        if flag not in OUTPUTS:
            continue
        for value in ("", ".", "no/such/folder/x.onnx", "no/such/folder/x.html"):
            _refused(cli(*_base(command, flag), f"{flag}={value}"), flag)
        hint = cli(*_base(command, flag), flag, tmp_path).err.splitlines()[1]
        assert re.search(rf"as in {flag} '?{re.escape(str(tmp_path))}/\w+\.\w+", hint)


@pytest.mark.parametrize("command", [*(c for c in REQUIRED if c != "sensitivity"), "demo"])
def test_a_model_is_written_under_a_name_that_says_so(cli: Cli, command: str) -> None:
    actions = [a for a in PARSERS[command]._actions if {*a.option_strings} & OUTPUTS]
    for action in actions:
        flag = action.option_strings[0]
        is_model = flag == "--keep-onnx" or (flag == "-o" and command not in ("mask", "report"))
        wrong = ("bad.txt", "bad", "bad.onnx.bak") if is_model else ("bad.onnx", "bad.PB")
        for name in wrong:
            ran = cli(*_base(command, flag), flag, name)
            _refused(ran, f"{flag} {name}")
            example = ran.err.split(f"as in {flag} ")[1].strip()
            assert example.endswith(MODELS) == is_model


@pytest.mark.parametrize("command", PARSERS)
def test_empty_arguments_are_refused_by_name(cli: Cli, command: str) -> None:
    for action in PARSERS[command]._actions:
        if action.option_strings or isinstance(action, argparse._SubParsersAction):
            continue
        words = ["" if a is action else w for a, w in _pairs(command)]
        if action.choices is None:
            ran = cli(command, *words, *REQUIRED.get(command, ()))
            _refused(ran, f"{action.metavar} is empty")


def _pairs(command: str) -> Iterator[tuple[argparse.Action, str]]:
    actions = [a for a in PARSERS[command]._actions if not a.option_strings]
    return zip(actions, _positionals(command), strict=True)


@pytest.mark.parametrize(
    ("command", "flag", "value"),
    [
        ("prune", "--calib", "nonsense"),
        ("prune", "--calib", "missing.npz"),
        ("prune", "--calib", "no.py:f"),
        ("prune", "--skip", "nowhere*"),
        ("prune", "--ratios", "nowhere*=0.1"),
        ("prune", "--criterion", "wandda"),
        ("prune", "--shapes", "nowhere=1x3"),
        ("prune", "--shapes", "image=1x3"),
        ("inspect", "--shapes", "image=1x3"),
        ("bench", "--shapes", "image=1x3"),
        ("mask", "--skip", "nowhere*"),
        ("quantize", "--skip", "nowhere*"),
        ("quantize", "--preprocess", "imagenett"),
        ("prune", "--preprocess", "imagenett"),
        ("prune", "--preprocess", "scale=0"),
        ("prune", "--labels", "nonsense"),
        ("prune", "--labels", "no.csv"),
        ("prune", "--metric", "no.py:f"),
        ("eligible", "--log", "missing.log"),
        ("eligible", "--layers", "missing.json"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_by_flag(
    cli: Cli, command: str, flag: str, value: str
) -> None:
    labelled = zoo.get("digits_mlp").evaluation
    inputs = {
        "--preprocess": ("--calib", DATA),
        "--labels": ("--calib", DATA),
        "--metric": ("--calib", labelled, "--labels", labelled, "--calib-samples", "32"),
    }.get(flag, ())
    required = {"prune": ("--ratio", "0.1"), "quantize": ("--dynamic",), "mask": ("-o", "m.json")}
    ran = cli(command, MODEL, *required.get(command, ()), *inputs, flag, value)
    _refused(ran, flag)


@pytest.mark.parametrize("glob", ["nowhere*", "Relu*", "layer*"])
def test_a_glob_without_a_match_leads_to_names_that_exist(cli: Cli, glob: str) -> None:
    shown = cli("inspect", MODEL, "--json").out
    hint = cli("prune", MODEL, "--ratio", "0.1", "--skip", glob).err.splitlines()[1]
    assert all(name in shown for name in re.findall(r"'([^']+)'", hint))
    count = len(re.findall(r'"prunable"', shown)) or None
    assert "lists all" in hint
    assert count is None or f"all {count} group" in hint


def test_two_names_of_one_option_agree_or_are_refused() -> None:
    with typed_flags(), pytest.warns(FutureWarning, match="--on is called --backend now"):
        config = read(BenchOptions, {"on": "cpu", "backend": "CPU"})
    assert config.backend == ("cpu",)
    with (
        typed_flags(),
        pytest.warns(FutureWarning, match="--on is called --backend now"),
        pytest.raises(OnnxpruneError, match="--on and --backend are one option"),
    ):
        read(BenchOptions, {"on": "cpu", "backend": "openvino"})


def _strings(node: ast.expr) -> Iterator[tuple[str, bool]]:
    """Where texts begin (False) and end (True), as far as they are written in the source."""
    match node:
        case ast.Constant(value=str(text)):
            yield (text, False)
            yield (text, True)
        case ast.JoinedStr(values=[*parts]) if parts:
            yield from ((t, end) for t, end in _strings(parts[0]) if not end)
            yield from ((t, end) for t, end in _strings(parts[-1]) if end)
        case ast.IfExp(body=one, orelse=other):
            yield from _strings(one)
            yield from _strings(other)


NAMES = ("OpenVINO", "TensorRT", "ONNX", "JSON")
"""Names that a message may begin with."""


def test_errors_and_hints_begin_small_and_end_without_a_stop() -> None:
    for path in (Path(zoo.__file__).parents[1]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            texts = [k.value for k in node.keywords if k.arg == "hint"]
            texts += node.args if called in ("OnnxpruneError", "_refuse_if") else []
            for text, end in (pair for each in texts for pair in _strings(each)):
                where = f"{path}:{node.lineno}: {text!r}"
                assert end or not text[:1].isupper() or text.startswith(NAMES), where
                assert not end or not text.rstrip().endswith(".") or text.endswith("..."), where
