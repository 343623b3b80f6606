"""``onnxprune help``: a command, an option, or what an option accepts, in full."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onnxprune.cli import console
from onnxprune.cli.parser import Commands, Parser, add_command
from onnxprune.cli.values import option_names, uses, values_of, words
from onnxprune.config import (
    COMMANDS,
    about,
    default_text,
    flag,
    option_of,
    options_of,
    sentence,
    spelling,
)
from onnxprune.errors import OnnxpruneError, nearest

_EXAMPLE = """examples:
  onnxprune help prune              # every option of a command
  onnxprune help max-drop           # one option
  onnxprune help preprocess         # an option, and the values that it takes
  onnxprune help wanda              # a value, and the options that take it
  onnxprune help recipe --json      # the JSON schema of recipes, for an editor"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "explain a command, an option, or the values that it takes"
    parser = add_command(commands, "help", run, about=about, example=_EXAMPLE, details=False)
    parser.add_argument("topic", metavar="TOPIC", nargs="?", help="a command, an option or a value")
    parser.set_defaults(commands=commands)


def run(args: argparse.Namespace) -> int:
    """Print the help of a topic.

    Raises:
        OnnxpruneError: there is no such topic.
    """
    parsers: Mapping[str, Parser] = args.commands.choices
    topic = _option_name((args.topic or "").replace("_", "-"))
    options = option_names()
    if not topic:
        rows = [(name, parser.description or "") for name, parser in parsers.items()]
        console.data(_table(rows), dict(rows), as_json=args.json)
        return 0
    if topic == "recipe":
        console.data(*_recipe(), as_json=args.json)
        return 0
    if args.json and (topic in parsers or topic in options):
        raise OnnxpruneError(f"help of {topic} is text", hint="leave out --json")
    if topic in parsers:
        print(parsers[topic].format_help(everything=True))  # noqa: T201 as argparse does
    if topic in options:
        console.data(Group(*_option(topic)), None, as_json=False)
    if topic in parsers and (flags := list(_other_flag(topic, parsers))):  # as in --report
        console.data(Group(*flags), None, as_json=False)
    if topic in parsers or topic in options:
        return 0
    parts = [*_other_flag(topic, parsers), *_value(args.topic)]
    if not parts:
        topics = dict.fromkeys([*parsers, *sorted(options), "recipe", *words()])
        near = nearest(args.topic, topics)
        raise OnnxpruneError(
            f"there is no help on {args.topic!r}",
            hint=f"did you mean {near!r}?" if near else "`onnxprune help` lists the commands",
        )
    console.data(Group(*parts), None, as_json=False)
    return 0


def _option_name(topic: str) -> str:
    """The option that a flag stands for: `cache` for `no-cache`, `backend` for `provider`."""
    for command in COMMANDS:
        for name, each in options_of(command):
            switched = each.default is True and topic == f"no-{flag(name)}"
            if switched or topic in option_of(each).former:
                return flag(name)
    return topic


def _other_flag(topic: str, parsers: Mapping[str, Parser]) -> Iterator[RenderableType]:
    """A flag that only the command line has, as in `-o` or `--save-plan`, of every command."""
    meanings: dict[tuple[str, str], list[str]] = {}
    for name, parser in parsers.items():
        for action in parser.shown():
            if topic in (each.lstrip("-") for each in action.option_strings):
                metavar = f" {action.metavar}" if action.metavar else ""
                text = sentence(action.help or "")
                word = f"{', '.join(action.option_strings)}{metavar}"
                meanings.setdefault((word, text), []).append(name)
    for (word, text), users in meanings.items():
        yield Text.assemble((word, "bold"), ("   " + ", ".join(users), "dim"))
        yield Padding(Text(text), (0, 0, 0, 2), expand=False)


def _value(word: str) -> Iterator[RenderableType]:
    """The options that take a value, and what it means there."""
    users = list(uses(word))
    for use in users:
        written = f"--{use.option} {use.value}"
        yield Text.assemble((written, "bold"), ("   " + ", ".join(use.commands), "dim"))
        yield Padding(Text(sentence(use.meaning)), (0, 0, 0, 2), expand=False)
    for option in dict.fromkeys(use.option for use in users):
        yield Text(f"`onnxprune help {option}` shows all values of --{option}.")


def _option(topic: str) -> Iterator[RenderableType]:
    """An option of every command that takes it; commands that agree stand together."""
    meanings: dict[tuple[str, ...], list[str]] = {}
    for command in COMMANDS:
        for name, each in options_of(command):
            if flag(name) == topic:
                option, default = option_of(each), default_text(each, command)
                metavar = f" {option.reader.metavar}" if option.reader.metavar else ""
                word = f"{spelling(each)}{metavar}"
                default_line = f"Default: {default}." if default else ""
                meaning = (word, about(each, command), default_line)
                meanings.setdefault(meaning, []).append(command)
    for (word, text, default_line), users in meanings.items():
        yield Text.assemble((word, "bold"), ("   " + ", ".join(users), "dim"))
        for line in filter(None, (text, default_line)):
            yield Padding(Text(line), (0, 0, 0, 2), expand=False)
    values = list(values_of(topic))
    if values:
        yield Text("")
        yield _table(values)


def _recipe() -> tuple[RenderableType, object]:
    from onnxprune.jobs.recipe import schema

    text = (
        "A recipe is a YAML file of options of `onnxprune prune`, without the dashes:\n\n"
        "  target: macs=50%\n  calib: images.npz\n  skip: [classifier*]\n"
        '  ratios: {"layer1*": 0.1}\n\n'
        "Flags override it. `onnxprune help recipe --json` prints its JSON schema."
    )
    return Text(text), schema()


def _table(rows: list[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for row in rows:
        table.add_row(*map(Text, row))
    return table
