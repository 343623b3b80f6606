"""``onnxprune bench``: what models really cost on the backends they ship on."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnxprune.cli import console
from onnxprune.cli.parser import Commands, add_command
from onnxprune.errors import OnnxpruneError

_EXAMPLE = """examples:
  onnxprune bench --list"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "measure models on the backends they ship on"
    parser = add_command(commands, "bench", run, about=about, example=_EXAMPLE)
    parser.add_argument("models", metavar="MODEL", nargs="*", help=".onnx files")
    parser.add_argument(
        "--list", action="store_true", help="list backends, and how to get those not available"
    )


def run(given: argparse.Namespace) -> int:
    """Measure, or list what could be measured on.

    Raises:
        OnnxpruneError: there is nothing to measure.
    """
    if given.list:
        return _list(given)
    raise OnnxpruneError("there is no model to measure", hint="onnxprune bench MODEL.onnx")


def _list(given: argparse.Namespace) -> int:
    from onnxprune.backends.registry import Availability, Backend, backends

    found = [(each, each.available()) for each in backends()]
    rows: list[dict[str, object]] = [
        {"name": one.name, "summary": one.summary, "install": one.install, **asdict(state)}
        for one, state in found
    ]

    def shown(rows: list[tuple[Backend, Availability]], heads: tuple[str, ...]) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for head in heads:
            table.add_column(head, overflow="fold")
        for one, state in rows:
            last = [state.version] if state.ok else [state.reason, one.install]
            table.add_row(one.name, one.summary, *map(Text, last))
        return table

    ready = [each for each in found if each[1].ok]
    others = [each for each in found if not each[1].ok]
    parts: list[RenderableType] = [
        shown(ready, ("available", "what it is", "version")),
        Text(""),
        shown(others, ("not here", "what it is", "because", "to install it")),
    ]
    plain = {"schema": "onnxprune.backends", "version": 1, "backends": rows}
    console.data(Group(*parts), plain, as_json=given.json)
    return 0
