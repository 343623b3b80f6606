"""The flags. Values stay text here; ``options`` reads them, with the messages recipes get too."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import fields
from typing import NoReturn, TypeAlias

from onnxprune.config import Options
from onnxprune.errors import OnnxpruneError, suggest

_UNKNOWN = re.compile(r"unrecognized arguments: (\S+)")
_CHOICE = re.compile(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)")


Run: TypeAlias = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"  # noqa: SLF001 it has no public name
Arguments: TypeAlias = "argparse._ArgumentGroup"  # noqa: SLF001 the same


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses like the rest of onnxprune: one sentence and a hint."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print.

        Raises:
            OnnxpruneError: always.
        """
        hint = f"`{self.prog} --help` lists what it takes"
        if choice := _CHOICE.match(message):
            message = f"there is no {choice[1].lower()} {choice[2]!r}"
            hint = suggest(choice[2], re.findall(r"[\w-]+", choice[3]))
        raise OnnxpruneError(message, hint=hint)

    def parse_all(self, arguments: list[str]) -> argparse.Namespace:
        """Parse; an argument nobody knows is refused with the flag that looks most like it.

        Raises:
            OnnxpruneError: an argument is unknown, missing or malformed.
        """
        found, extra = self.parse_known_args(arguments)
        if not extra:
            return found
        used: Parser = getattr(found, "parser", self)
        word = extra[0].partition("=")[0]
        if not word.startswith("-"):
            raise OnnxpruneError(
                f"there is one argument too many: {extra[0]!r}",
                hint=f"`{used.prog} --help` lists what it takes",
            )
        described, _, _ = used.format_help().partition(used.epilog or "\0")  # examples use others
        flags = list(dict.fromkeys(re.findall(r"--[\w-]+", described)))
        raise OnnxpruneError(f"there is no flag {word!r}", hint=suggest(word, flags))


def add_command(
    commands: Commands, name: str, run: Run, *, about: str, example: str, as_json: bool = True
) -> Parser:
    """A new command with the arguments that all commands have.

    Args:
        commands: where it belongs.
        name: what users type.
        run: does it, given the parsed arguments, and returns the exit code.
        about: one line, shown in the list of commands too.
        example: shown below the flags.
        as_json: whether it prints data, which then can be had as JSON.
    """
    parser = commands.add_parser(
        name,
        help=about,
        description=f"{about[:1].upper()}{about[1:]}.",
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, parser=parser)
    if as_json:
        parser.add_argument("--json", action="store_true", help="print a versioned JSON report")
        parser.add_argument("-v", "--verbose", action="store_true", help="show details too")
    parser.add_argument(
        "--debug", action="store_true", help="print the traceback of an unexpected error"
    )
    return parser


def add_model(parser: Parser) -> None:
    """The model that a command reads."""
    parser.add_argument("model", metavar="MODEL", help="an .onnx file")


def add_output(parser: Parser, *, required: bool) -> None:
    """Where a command writes, and whether a bad verdict stops it."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=required,
        help="where the pruned model is written" + ("" if required else "; without it, a dry run"),
    )
    parser.add_argument("--force", action="store_true", help="write even if a check is bad")


def add_shapes(parser: Parser | Arguments) -> None:
    """How the user fixes sizes that the model leaves open."""
    parser.add_argument(
        "--shapes",
        metavar="NAME=SIZES",
        action="append",
        help="concrete input shapes, as in input=1x3x224x224",
    )


def add_data(parser: Parser) -> None:
    """What a cut is scored, refitted and judged with."""
    group = parser.add_argument_group("data and checks")
    add = group.add_argument
    add("--recover", metavar="HOW", help="refit what is left: auto, lstsq, pcg, bias alone, none")
    add(
        "--max-drop",
        metavar="R",
        help="largest loss that is a success, as in 1%%; without an amount, the aim",
    )
    add_inputs(group)


def add_inputs(group: Arguments) -> None:
    """The inputs that models are run on, and what runs them."""
    add = group.add_argument
    add("--calib", metavar="SPEC", help="inputs: .npz, .npy, a folder, module.py:function")
    add("--calib-samples", metavar="N", help="use at most this many (2048)")
    add("--batch", metavar="N", help="run this many at once (32)")
    add("--preprocess", metavar="SPEC", help="what turns raw pictures into inputs")
    add("--labels", metavar="SPEC", help="labels of the calibration inputs")
    add("--metric", metavar="NAME", help="accuracy, top5, mse, nats, ... or module.py:function")
    add("--provider", metavar="NAME", help="what the model will run on (cpu)")
    add("--seed", metavar="N", help="of everything random (0)")
    add_shapes(group)


def add_form(group: Arguments | Parser) -> None:
    """In which form weights are stored."""
    group.add_argument(
        "--store",
        choices=("auto", "dense", "sparse", "packed", "external"),
        metavar="FORM",
        help="auto (the smallest per weight), dense, sparse (sparse_initializer), packed (decoded "
        "by standard operators at load), external (dense, beside the model)",
    )


def given_options(given: argparse.Namespace) -> dict[str, object]:
    """The options among the parsed arguments that the user gave, by name, still as text."""
    default = {each.name: each.default for each in fields(Options)}
    return {
        name: value
        for name, value in vars(given).items()
        if name in default
        and value is not None
        and not (isinstance(value, bool) and value is default[name])
    }
