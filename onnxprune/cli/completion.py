"""``onnxprune completion``: the completion script of a shell."""

from __future__ import annotations

import argparse

from onnxprune.cli.parser import Commands, Parser, add_command
from onnxprune.config import COMMANDS, option_of, options_of

_EXAMPLE = """examples:
  onnxprune completion bash > ~/.local/share/bash-completion/completions/onnxprune
  onnxprune completion zsh > ~/.zfunc/_onnxprune       # a folder of $fpath
  onnxprune completion fish > ~/.config/fish/completions/onnxprune.fish"""

_FILES = ("MODEL", "OUT", "YAML", "FILE", "PATH", "SPEC", "PLAN", "DENSE", "PRUNED", "HTML", "JSON")
"""Metavars of values that are files."""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "print the completion script of a shell"
    parser = add_command(commands, "completion", run, about=about, example=_EXAMPLE, as_json=False)
    shells = ("bash", "zsh", "fish")
    parser.add_argument("shell", metavar="SHELL", choices=shells, help="bash, zsh or fish")
    parser.set_defaults(commands=commands)


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    whole = Parser(prog="onnxprune")
    commands = whole.add_subparsers(metavar="COMMAND")
    commands.choices.update(args.commands.choices)
    commands._choices_actions = args.commands._choices_actions  # noqa: SLF001 what shtab reads
    for name, parser in args.commands.choices.items():
        words = {}
        if name in COMMANDS:
            words = {key: option_of(each).reader.words for key, each in options_of(name)}
        for action in parser._actions:  # noqa: SLF001 argparse has no public list
            if action.nargs != 0 and words.get(action.dest):
                action.choices = words[action.dest]
            elif action.metavar in _FILES:
                action.complete = shtab.FILE
    print(shtab.complete(whole, args.shell))  # noqa: T201 data
    return 0
