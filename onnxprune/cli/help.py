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
from onnxprune.config import COMMANDS, FORMATS, default_text, flag, option_of, options_of, spelling
from onnxprune.errors import OnnxpruneError, suggest
from onnxprune.types import METRICS, PREPROCESSING

_EXAMPLE = """examples:
  onnxprune help prune              # every option of a command
  onnxprune help max-drop           # one option
  onnxprune help preprocess         # an option, and the values that it takes
  onnxprune help recipe --json      # the JSON schema of recipes, for an editor"""

FORMS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "calib": (
        ("FILE.npz", "one array per input, samples along the first axis"),
        ("FILE.npy", "samples of a model with one input"),
        ("FOLDER", "arrays (.npy, .npz), pictures, or ONNX test data (test_data_set_*)"),
        ("FILE.py:FUNCTION", "a function that returns or yields batches: input name to array"),
        ("random", "synthetic inputs; nothing is fitted to them"),
    ),
    "labels": (
        ("FILE.npy", "one label per sample"),
        ("FILE.npz", "its only array, or the one called y, label, labels, target or targets"),
        ("FILE.txt", "one number per line"),
        ("FILE.csv", "a column of one of these names, else the last one"),
    ),
    "target": (
        ("macs=50%", "multiply-accumulates of one run, relative"),
        ("macs=300M", "the same, absolute"),
        ("params=1.2M", "stored weight elements"),
        ("bytes=4MiB", "stored weight bytes"),
        ("latency=0.5x@cpu", "measured time of one run, relative, on a backend"),
        ("latency=5ms@openvino", "the same, absolute"),
    ),
    "sparsity": (
        ("50%", "share of the weights that become zero"),
        ("2:4", "2 of every 4 along the inputs are kept; any N:M"),
    ),
    "shapes": (("input=1x3x224x224", "one input; give the flag again, or commas, for more"),),
}
"""What values look like, by option."""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "explain a command, an option, or the values that it takes"
    parser = add_command(commands, "help", run, about=about, example=_EXAMPLE)
    parser.add_argument("topic", metavar="TOPIC", nargs="?", help="a command or an option")
    parser.set_defaults(commands=commands)


def run(args: argparse.Namespace) -> int:
    """Print the help of a topic.

    Raises:
        OnnxpruneError: there is no such topic.
    """
    parsers: Mapping[str, Parser] = args.commands.choices
    topic = (args.topic or "").replace("_", "-")
    options = {flag(name) for command in COMMANDS for name, _ in options_of(command)}
    if (topic in parsers or topic in options) and not args.json:
        if topic in parsers:
            print(parsers[topic].format_help(everything=True))  # noqa: T201 as argparse does
        if topic in options:
            console.data(Group(*_option(topic)), None, as_json=False)
    elif topic == "recipe":
        console.data(*_recipe(), as_json=args.json)
    elif not topic:
        rows = [(name, parser.description or "") for name, parser in parsers.items()]
        console.data(_table(rows), dict(rows), as_json=args.json)
    elif topic in parsers or topic in options:
        raise OnnxpruneError(f"help of {topic} is text", hint="leave out --json")
    else:
        topics = [*parsers, *sorted(options), "recipe"]
        raise OnnxpruneError(f"there is no help on {args.topic!r}", hint=suggest(topic, topics))
    return 0


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
                about = f"{option.help[:1].upper()}{option.help[1:].rstrip('.')}."
                meaning = (word, " ".join(filter(None, (about, option.details))), default_line)
                meanings.setdefault(meaning, []).append(command)
    for (word, about, default_line), users in meanings.items():
        yield Text.assemble((word, "bold"), ("   " + ", ".join(users), "dim"))
        for line in filter(None, (about, default_line)):
            yield Padding(Text(line), (0, 0, 0, 2))
    values = _values(topic)
    if values:
        yield Text("")
        yield _table(values)


def _values(topic: str) -> list[tuple[str, str]]:
    """What an option takes, and what that means."""
    if topic == "criterion":
        from onnxprune.select.criteria import registry

        return [(name, registry.get(name).summary) for name in registry.names()]
    if topic == "metric":
        own = ("FILE.py:FUNCTION", "a function of outputs and labels; higher is better")
        at = ("NAME@OUTPUT", "any of these, of one of several outputs")
        return [*METRICS.items(), at, own]
    if topic == "preprocess":
        own = ("FILE.py:FUNCTION", "a function from the array of a picture to an input")
        spec = ("KEY=VALUE,...", "steps one by one, or changes to a preset that comes first")
        return [*((name, each.summary) for name, each in PREPROCESSING.items()), spec, own]
    if topic == "backend":
        from onnxprune.runtime.registry import backends

        return [(each.name, each.summary) for each in backends()] + [
            (name, f"quantize only: {about}") for name, about in FORMATS.items()
        ]
    if topic in FORMS:
        return list(FORMS[topic])
    words = [
        word
        for command in COMMANDS
        for name, each in options_of(command)
        if flag(name) == topic and option_of(each).reader.metavar
        for word in option_of(each).reader.words
    ]
    return [(word, "") for word in dict.fromkeys(words)]


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
