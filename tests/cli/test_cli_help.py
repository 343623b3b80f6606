"""Help is short where people start, whole where they ask for more, and true everywhere."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Ran
from onnxprune.cli import _parser
from onnxprune.cli.parser import Parser, given_options
from onnxprune.cli.values import values_of
from onnxprune.config import COMMANDS, declared, flag, option_of, options_of, split
from onnxprune.select.criteria import registry
from onnxprune.types import METRICS

Cli = Callable[..., Ran]
PARSERS: dict[str, Parser] = _parser()._subparsers._group_actions[0].choices  # type: ignore[assignment, union-attr]
OPTIONS = sorted({flag(name) for command in COMMANDS for name, _ in options_of(command)})


@pytest.mark.parametrize("command", PARSERS)
def test_short_help_is_one_screen(cli: Cli, command: str) -> None:
    ran = cli(command, "--help")
    assert ran.code == 0
    assert len(ran.out.splitlines()) <= 40
    assert max(map(len, ran.out.splitlines())) <= 100
    assert ran.out.startswith(f"usage: onnxprune {command}")


@pytest.mark.parametrize("command", COMMANDS)
def test_long_help_has_every_option_and_short_help_the_everyday_ones(
    cli: Cli, command: str
) -> None:
    short, whole = cli(command, "--help").out, cli(command, "--help-all").out
    assert (
        whole == cli("help", command).out.rpartition("\n--")[0] or whole in cli("help", command).out
    )
    for name, each in options_of(command):
        word = f"--no-{flag(name)}" if each.default is True else f"--{flag(name)}"
        assert re.search(rf"^ +{word}\b", whole, re.MULTILINE), word
        shown = re.search(rf"^ +{word}\b", short, re.MULTILINE) is not None
        assert shown == option_of(each).everyday, word
    for former in ("--provider", "--on ", "--for "):
        assert former not in whole


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_explained(cli: Cli, option: str) -> None:
    for topic in (option, f"--{option}", option.replace("-", "_")):
        ran = cli("help", topic)
        assert ran.code == 0
        assert f"--{option}" in ran.out or f"--no-{option}" in ran.out
    users = [c for c in COMMANDS if option in {flag(name) for name, _ in options_of(c)}]
    assert all(user in ran.out for user in users)


def test_values_of_options_are_listed(cli: Cli) -> None:
    assert all(name in cli("help", "criterion").out for name in registry.names())
    assert all(name in cli("help", "metric").out for name in METRICS)
    assert all(word in cli("help", "labels").out for word in (".npy", ".npz", ".txt", ".csv"))
    assert all(word in cli("help", "recover").out for word in ("lstsq", "pcg", "bias"))
    assert "openvino" in cli("help", "backend").out


@pytest.mark.parametrize("option", OPTIONS)
def test_every_value_of_an_option_is_explained(option: str) -> None:
    listed = {
        word
        for c in COMMANDS
        for name, each in options_of(c)
        if flag(name) == option
        for word in option_of(each).reader.words
        if option_of(each).reader.metavar
    }
    meanings = dict(values_of(option))
    assert listed <= set(meanings)
    assert all(meanings.values())


@pytest.mark.parametrize(
    ("word", "option", "meaning"),
    [
        ("wanda", "--sparse-method wanda", "products of a weight"),
        ("2:4", "--sparsity 2:4", "2 of every 4"),
        ("1:8", "--sparsity 2:4", "any N:M"),
        ("packed", "--store packed", "decode them at load"),
        ("imagenet", "--preprocess imagenet", "centre 224"),
        ("top3", "--metric top5", "any number may stand"),
        ("latency", "--target latency=0.5x@cpu", "measured time"),
        ("fp16", "--values fp16", "16-bit"),
        ("openvino-sparse", "--backend openvino-sparse", "[N,K]"),
        ("no-cache", "--no-cache", "Do not keep error curves"),
        ("--no-cache", "--no-cache", "Do not keep error curves"),
        ("provider", "--backend", "Backend"),
        ("-o", "--output OUT", "File for the pruned model"),
        ("--save-plan", "--save-plan PATH", "Write the plan"),
    ],
)
def test_values_and_flags_lead_to_their_option(
    cli: Cli, word: str, option: str, meaning: str
) -> None:
    ran = cli("help", word)
    assert ran.code == 0, ran.err
    assert option in ran.out
    assert meaning.lower() in ran.out.lower()


def test_there_is_one_list_of_backends(cli: Cli) -> None:
    listed = {row["name"] for row in json.loads(cli("bench", "--list", "--json").out)["backends"]}
    assert set(dict(values_of("backend"))) == listed | {"openvino-sparse"}
    for command in COMMANDS:
        for name, each in options_of(command):
            if name == "backend":
                words = set(option_of(each).reader.words)
                assert words - {"openvino-sparse"} == listed
                assert ("openvino-sparse" in words) == (command == "quantize")


def test_an_amount_alone_is_only_explained_where_it_is_true() -> None:
    helps = {c: PARSERS[c].format_help(everything=True) for c in COMMANDS}
    assert {c for c, text in helps.items() if "as far as it allows" in text} == {"prune"}
    assert {c for c, text in helps.items() if "maximum accepted metric drop" in text} == {
        "prune",
        "apply",
        "recover",
        "quantize",
    }


def _examples(command: str) -> list[str]:
    text = (PARSERS[command].epilog or "").replace("\\\n", "")
    return re.findall(r"^  (onnxprune [^#>&\n]*)", text, re.MULTILINE)


@pytest.mark.parametrize("command", PARSERS)
def test_examples_are_lines_that_the_parser_takes(command: str) -> None:
    lines = _examples(command)
    assert lines
    for line in lines:
        args = _parser().parse_all(shlex.split(line)[1:])
        if args.command in COMMANDS:
            split(args.command, given_options(args, args.command))


def test_unknown_topics_are_refused_with_the_nearest(cli: Cli) -> None:
    ran = cli("help", "max-dorp")
    assert ran.code == 2
    assert "'max-dorp'" in ran.err
    assert "'max-drop'" in ran.err


def test_the_schema_of_recipes_is_printed(cli: Cli) -> None:
    schema = json.loads(cli("help", "recipe", "--json").out)
    options = next(iter(COMMANDS["prune"]))
    assert set(schema["properties"]) == {flag(name) for name in declared(options)}
    assert "recipe" in cli("help", "recipe").out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_know_commands_flags_and_words(
    cli: Cli, tmp_path: Path, shell: str
) -> None:
    ran = cli("completion", shell)
    assert ran.code == 0
    words = ("sensitivity", "max-drop", "lstsq", "entropy", "cubic")
    assert all(word in ran.out for word in words)
    if shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(ran.out)
        checked = subprocess.run([shell, "-n", str(script)], capture_output=True, check=False)
        assert checked.returncode == 0, checked.stderr


def test_former_flags_work_and_are_said_to_be_former() -> None:
    words = [sys.executable, "-m", "onnxprune", "bench", "missing.onnx", "--on", "cpu"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "--on is called --backend now" in ran.stderr
    assert "missing.onnx" in ran.stderr


@pytest.mark.parametrize(
    ("topic", "hint"),
    [
        ("nonsense", "`onnxprune help` lists the commands"),
        ("prun", "did you mean 'prune'?"),
        ("max-drob", "did you mean 'max-drop'?"),
    ],
)
def test_a_topic_is_suggested_only_where_it_is_likely_meant(
    cli: Cli, topic: str, hint: str
) -> None:
    ran = cli("help", topic)
    assert ran.code == 2
    assert f"hint: {hint}" in ran.err
