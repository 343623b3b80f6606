"""Commands and their flags. Values stay text here; ``config`` reads them, as it reads recipes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from dataclasses import Field
from typing import Any, NoReturn, TypeAlias

from onnxprune.config import default_text, help_of, option_of, options_of, spelling
from onnxprune.errors import OnnxpruneError, suggest

_CHOICE = re.compile(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)")
_NO_VALUE = re.compile(r"argument (?:-\w/)?(\S+): expected (?:one|at least one) argument")
_MISSING = re.compile(r"the following arguments are required: (.*)")
_LAST = ("json", "verbose", "quiet", "help", "help_all")
"""Flags of every command; the short help lists them below its own."""
_FORMER = "former_"
"""Starts the names under which values of flags with former names are kept."""

Run: TypeAlias = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"  # noqa: SLF001 it has no public name


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help of a hundred columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=24, width=100)

    def add_argument(self, action: argparse.Action) -> None:
        """Add a line; the names of commands are indented twice, which argparse does not count."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 it has no public name
            self._action_max_length += self._indent_increment


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses like the rest of onnxprune: one sentence and a hint.

    ``--help`` shows the everyday flags, ``--help-all`` every one.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:  # noqa: ANN401 those of argparse
        super().__init__(*args, **settings)
        self.formatter_class = _Formatter
        self.rare: list[argparse.Action] = []
        self.declared: set[str] = set()

    def format_help(self, *, everything: bool = False) -> str:
        """The help; without ``everything``, only the everyday options, in one list."""
        if everything or self._subparsers is not None:
            return super().format_help()
        positional = [each for each in self._actions if not each.option_strings]
        flags = [each for each in self.shown() if each not in self.rare and each not in positional]
        output = next((each for each in flags if each.dest == "output"), None)
        words = [
            f"[{each.metavar}]"
            if each.nargs == "?"
            else f"{each.metavar}{'...' * (each.nargs in ('*', '+'))}"
            for each in positional
        ]
        if output is not None:
            words.append("-o OUT" if output.required else "[-o OUT]")
        required = (each for each in flags if each.required and each is not output)
        words += [f"{each.option_strings[0]} {each.metavar}" for each in required]
        formatter = self._get_formatter()
        formatter.add_text(f"usage: {' '.join([self.prog, *words])} [options]")
        formatter.add_text(self.description)
        formatter.start_section("options")
        formatter.add_arguments(sorted(flags, key=lambda each: each.dest in _LAST))
        formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print.

        Raises:
            OnnxpruneError: always.
        """
        hint = f"`{self.prog} --help` lists what it takes"
        if choice := _CHOICE.match(message):
            message = f"there is no {choice[1].lower()} {choice[2]!r}"
            words = re.findall(r"[\w-]+", choice[3])
            hint = suggest(choice[2], words, f"`{self.prog} --help` lists all")
        if value := _NO_VALUE.match(message):
            message = f"{value[1]} needs a value"
            hint = f"`onnxprune help {value[1].lstrip('-')}` says which"
        elif missing := _MISSING.match(message):
            message = f"missing argument{'s' * (', ' in missing[1])}: {missing[1]}"
        raise OnnxpruneError(message, hint=hint)

    def parse_all(self, arguments: list[str]) -> argparse.Namespace:
        """Parse; an unknown argument is refused with the most similar flag.

        The result holds the whole command line as ``argv``.

        Raises:
            OnnxpruneError: an argument is unknown, missing or malformed.
        """
        args, extra = self.parse_known_args(arguments)
        args.argv = (self.prog, *arguments)
        used: Parser = getattr(args, "parser", self)
        if not extra:
            used.refuse_empty(args)
            return args
        word = extra[0].partition("=")[0]
        if not word.startswith("-"):
            raise OnnxpruneError(
                f"unexpected argument: {extra[0]!r}",
                hint=f"`{used.prog} --help` lists what it takes",
            )
        raise OnnxpruneError(
            f"there is no flag {word!r}",
            hint=suggest(word, used.flags(), f"`{used.prog} --help-all` lists all"),
        )

    def refuse_empty(self, args: argparse.Namespace) -> None:
        """Refuse empty names of files; options of ``config`` are read there.

        Raises:
            OnnxpruneError: an argument is empty.
        """
        for action in self._actions:
            value = getattr(args, action.dest, None)
            parts = value if isinstance(value, list) else [value]
            if action.dest not in self.declared and any(
                isinstance(part, str) and not part.strip() for part in parts
            ):
                word = next(iter(action.option_strings), action.metavar or action.dest)
                hint = f"`{self.prog} --help` says what it takes"
                if not action.option_strings and action.help:
                    hint = f"write {action.help}"
                raise OnnxpruneError(f"{word} is empty", hint=hint)

    def flags(self) -> list[str]:
        """Every long flag that help shows."""
        shown = self.shown()
        return [each for action in shown for each in action.option_strings if each[:2] == "--"]

    def shown(self) -> list[argparse.Action]:
        """Every argument that help shows."""
        return [action for action in self._actions if action.help != argparse.SUPPRESS]


class _HelpAll(argparse.Action):
    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 those of argparse
        super().__init__(nargs=0, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:  # noqa: ANN401
        assert isinstance(parser, Parser)
        print(parser.format_help(everything=True), end="")  # noqa: T201 as argparse does
        parser.exit()


def add_command(
    commands: Commands,
    name: str,
    run: Run,
    *,
    about: str,
    example: str,
    as_json: bool = True,
    details: bool = True,
) -> Parser:
    """A new command with the arguments that all commands have.

    Args:
        commands: where it belongs.
        name: what users type.
        run: does it, given the parsed arguments, and returns the exit code.
        about: one line, shown in the list of commands too.
        example: shown below the flags.
        as_json: whether it prints data, which then can be had as JSON.
        details: whether ``-v`` shows more; it is taken all the same, as by every command.
    """
    parser = commands.add_parser(
        name,
        help=about,
        description=f"{about[:1].upper()}{about[1:]}.",
        epilog=example,
        allow_abbrev=False,
        add_help=False,
    )
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("-h", "--help", action="help", help="show the everyday options")
    parser.add_argument("--help-all", action=_HelpAll, help="show every option")
    if as_json:
        parser.add_argument("--json", action="store_true", help="print a versioned JSON report")
        text = "show details too" if details else argparse.SUPPRESS
        parser.add_argument("-v", "--verbose", action="store_true", help=text)
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="show errors, warnings and the closing line only"
    )
    parser.rare.append(
        parser.add_argument(
            "--debug", action="store_true", help="print the traceback of an unexpected error"
        )
    )
    return parser


def add_model(parser: Parser) -> None:
    """The model that a command reads."""
    parser.add_argument("model", metavar="MODEL", help="an .onnx file")


def add_output(parser: Parser, *, required: bool, what: str = "the pruned model") -> None:
    """Where a command writes, and whether a bad verdict stops it."""
    dry = "" if required else "; without it, a dry run"
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=required, help=f"file for {what}{dry}"
    )
    force = parser.add_argument("--force", action="store_true", help="write even if a check fails")
    parser.rare.append(force)


def add_options(parser: Parser, command: str, files: Iterable[tuple[str, str, str]] = ()) -> None:
    """The options that ``config`` declares for a command, under their headings.

    Args:
        parser: of the command.
        command: its name.
        files: flags of files that only the command line has: flag, metavar, help.
    """
    groups: dict[str, Any] = {}
    for name, declaration in options_of(command):
        option = option_of(declaration)
        parser.declared.add(name)
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        group = groups[option.group]
        actions = _actions(group, declaration, command)
        if not option.everyday:
            parser.rare += actions
        for former in option.former:
            if f"--{former}" not in parser._option_string_actions:  # noqa: SLF001 nothing public
                group.add_argument(f"--{former}", dest=f"{_FORMER}{former}", help=argparse.SUPPRESS)
    heading = groups.get("files") or (parser.add_argument_group("files") if files else None)
    for name, metavar, text in files:
        action = heading.add_argument(name, metavar=metavar, help=text)  # type: ignore[union-attr]
        if name.startswith("--save"):
            parser.rare.append(action)


def _actions(
    group: Any,  # noqa: ANN401  argparse has no public name for it
    declaration: Field[Any],
    command: str,
) -> list[argparse.Action]:
    """The flags of one option."""
    name, option = declaration.name, option_of(declaration)
    reader = option.reader
    default = default_text(declaration, command)
    text = help_of(declaration, command).replace("%", "%%") + (
        f" (default: {default})" if default else ""
    )
    if not reader.metavar:
        off = declaration.default is True
        return [
            group.add_argument(
                spelling(declaration),
                dest=name,
                action="store_const",
                const=not off,
                help=f"do not {text}" if off else text,
            )
        ]
    settings: dict[str, Any] = {"dest": name, "metavar": reader.metavar, "help": text}
    if reader.repeats:
        settings["action"] = "append"
    if reader.several:
        settings["nargs"] = "+"
    if option.absent is not None:
        settings |= {"nargs": "?", "const": option.absent}
    if option.switches:
        group = group.add_mutually_exclusive_group()
    actions = [group.add_argument(spelling(declaration), **settings)]
    for word in option.switches:
        text = f"the same as {spelling(declaration)} {word}"
        actions.append(
            group.add_argument(f"--{word}", dest=name, action="store_const", const=word, help=text)
        )
    return actions


def given_options(args: argparse.Namespace, command: str) -> dict[str, object]:
    """The options of a command that the user gave, by name, still as text."""
    names = {name for name, _ in options_of(command)}
    return {
        name.removeprefix(_FORMER): value
        for name, value in vars(args).items()
        if (name in names or name.startswith(_FORMER)) and value is not None
    }
