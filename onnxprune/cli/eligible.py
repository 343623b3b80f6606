"""``onnxprune eligible``: layer by layer, whether TensorRT may use 2:4 sparse kernels."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnxprune.cli import console
from onnxprune.cli.parser import Commands, add_command, add_model
from onnxprune.errors import OnnxpruneError
from onnxprune.quantities import percent, plural, quantity

if TYPE_CHECKING:
    from onnxprune.model import Model
    from onnxprune.sparse.eligibility import Layer

_EXAMPLE = """examples:
  onnxprune eligible sparse.onnx
  onnxprune eligible sparse.onnx --log trtexec.log --layers engine.json
  onnxprune eligible sparse.onnx --strict      # exit code 1 if a layer that could be 2:4 is not"""

_COLOURS = {"eligible": "green", "dense": "yellow", "never": "dim"}


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "say which layers TensorRT may run with 2:4 sparse kernels, and why not"
    parser = add_command(commands, "eligible", run, about=about, example=_EXAMPLE)
    add_model(parser)
    parser.add_argument(
        "--log", metavar="FILE", help="log of a TensorRT build: shows what it found and picked"
    )
    parser.add_argument(
        "--layers", metavar="JSON", help="layer information of its engine: shows the same"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit with 1 if a layer that could be sparse is dense",
    )


def run(given: argparse.Namespace) -> int:
    """Look at every layer and print what was found.

    Raises:
        OnnxpruneError: the model cannot be loaded.
    """
    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune import model as models
    from onnxprune.sparse.eligibility import layers

    with console.progress() as tell:
        tell(f"reading {given.model}")
        model = models.load(given.model)
        found = layers(model)
        told = _told(given, model)
    missing = given.strict and any(each.state == "dense" for each in found)
    plain = {
        "schema": "onnxprune.eligible",
        "version": 1,
        "ok": not missing,
        "model": given.model,
        "layers": [
            asdict(each) | ({"tensorrt": told.get(each.node, "")} if told is not None else {})
            for each in found
        ],
    }
    console.data(shown(found, told), plain, as_json=given.json)
    return 1 if missing else 0


def _told(given: argparse.Namespace, model: Model) -> dict[str, str] | None:
    """What TensorRT said about each node; None where nobody asked."""
    from onnxprune.runtime.engines import sparsity

    if not (given.log or given.layers):
        return None
    told: dict[str, str] = {}
    for path, read in (
        (given.log, lambda text: sparsity.from_log(text.splitlines())),
        (given.layers, sparsity.from_inspector),
    ):
        if path:
            try:
                text = Path(path).read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                raise OnnxpruneError(f"{path} cannot be read: {error.strerror}") from error
            for node, layer in sparsity.by_node(read(text), model).items():
                if layer.picked or told.get(node) != "picked":
                    told[node] = sparsity.word(layer)
    return told


def shown(found: tuple[Layer, ...], told: Mapping[str, str] | None = None) -> RenderableType:
    """The layers as a table, with a sum and the notes below.

    Args:
        found: what the rule says.
        told: what TensorRT said, by node, where it was asked.
    """
    if not found:
        return Text("No layer multiplies with a stored weight.")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    said = [] if told is None else ["TensorRT"]
    for head in ("layer", "operator", "weight", "", *said, "why"):
        table.add_column(head, overflow="fold")
    notes = _numbered(each.notes for each in found)
    for each in found:
        marks = "".join(f" [{notes[note]}]" for note in each.notes)
        table.add_row(
            Text(each.node),
            " < ".join((each.op, *reversed(each.through))),
            _weight(each),
            Text(each.state, _COLOURS[each.state]),
            *([] if told is None else [told.get(each.node, "")]),
            Text.assemble(each.reason, (marks if each.reason else marks.strip(), "dim")),
        )
    lines = [Text(f"[{number}] {note}", "dim") for note, number in notes.items()]
    return Group(table, Text(""), Text(_sum(found)), *lines)


def _weight(layer: Layer) -> str:
    sizes = "x".join(map(str, layer.shape))
    return f"{layer.dtype} {sizes}" if sizes else ""


def _numbered(notes: Iterable[tuple[str, ...]]) -> dict[str, int]:
    once = dict.fromkeys(note for each in notes for note in each)
    return {note: number for number, note in enumerate(once, start=1)}


def _sum(found: tuple[Layer, ...]) -> str:
    count: Counter[str] = Counter(each.state for each in found)
    size: Counter[str] = Counter()
    for each in found:
        size[each.state] += each.elements
    total = max(size.total(), 1)
    parts = [
        f"{plural(count[state], 'layer')} {word} ({quantity(size[state])} weights, "
        f"{percent(size[state] / total)})"
        for state, word in (
            ("eligible", "eligible"),
            ("dense", "could be, but dense"),
            ("never", "never"),
        )
        if count[state]
    ]
    return "; ".join(parts)
