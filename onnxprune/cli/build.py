"""``onnxprune build``: a TensorRT engine, and what TensorRT says about sparse weights."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command, add_model, add_options, given_options
from onnxprune.config import BuildOptions, split
from onnxprune.quantities import plural, size

if TYPE_CHECKING:
    from onnxprune.runtime.engines import Built

_EXAMPLE = """examples:
  onnxprune build sparse.onnx --engine model.engine --fp16 --sparse-weights
  onnxprune build sparse.onnx --engine model.engine --compute-capability 8.6 8.9
  onnxprune build model.onnx --engine model.engine --shapes input=8x3x224x224 \\
      --min-shapes input=1x3x224x224 --max-shapes input=32x3x224x224"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "build a TensorRT engine; with TensorRT-RTX on any machine, GPU or not"
    parser = add_command(commands, "build", run, about=about, example=_EXAMPLE)
    add_model(parser)
    add = parser.add_argument
    add("--engine", metavar="OUT", required=True, help="where the engine is written")
    add("--keep-onnx", metavar="PATH", help="write the graph that was parsed too")
    add_options(parser, "build")


def run(given: argparse.Namespace) -> int:
    """Build, write the engine, and print what was said.

    Raises:
        OnnxpruneError: no TensorRT is installed, or it cannot parse or build the model.
    """
    files: dict[str, object] = {"the model": given.model}
    files["--engine"] = engine = destination.check("--engine", given.engine, files)
    kept = destination.check("--keep-onnx", given.keep_onnx, files)
    assert engine is not None
    (request,) = split("build", given_options(given, "build"))

    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune import model as models
    from onnxprune.runtime.engines import build, commands

    with console.progress() as tell:
        made = build(given.model, request, tell=tell)
        engine.write_bytes(made.plan)
        if kept is not None:
            models.save(made.model, kept)
    source = kept or Path(given.model)
    same = commands.equivalents(made.runtime, source, engine, request)
    notes = list(made.notes)
    if kept is None and request.precision != "asis":
        notes.append(
            f"these commands want the {request.precision} graph, which --keep-onnx PATH writes"
        )
    console.data(
        shown(made, request, engine, same, notes),
        plain(made, request, engine, same, notes),
        as_json=given.json,
    )
    console.done(f"Wrote {engine}")
    return 0


def shown(
    made: Built, request: BuildOptions, engine: Path, same: dict[str, str], notes: list[str]
) -> RenderableType:
    """The engine, what TensorRT said, and the commands that do the same."""
    targets = ", ".join(f"{a}.{b}" for a, b in request.compute_capability)
    head = f"{engine}  {size(len(made.plan))}, {made.runtime.title} {made.runtime.version}"
    head += f", for {targets}" if targets else ""
    parts: list[RenderableType] = [Text(f"{head}, {made.seconds:.1f} s")]
    if made.layers:
        picked = sum(each.picked for each in made.layers)
        eligible = sum(bool(each.eligible) for each in made.layers)
        parts.append(Text(f"{plural(eligible, 'layer')} eligible for sparse math, {picked} picked"))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        for each in made.layers:
            table.add_row("picked" if each.picked else "", Text(each.name))
        parts.append(table)
    warnings = [each for each in made.messages if "(Sparsity)" not in each]
    parts += [Text(each, "yellow") for each in warnings]
    parts += [Text(f"note: {each}") for each in notes]
    parts.append(Text("the same with NVIDIA's tools:", "dim"))
    # Whole lines, however long: they are there to be copied.
    parts += [Text(f"  {line}", no_wrap=True, overflow="ignore") for line in same.values()]
    return Group(*parts)


def plain(
    made: Built, request: BuildOptions, engine: Path, same: dict[str, str], notes: list[str]
) -> dict[str, object]:
    """The same as JSON values."""
    return {
        "schema": "onnxprune.build",
        "version": 1,
        "ok": True,
        "engine": str(engine),
        "bytes": len(made.plan),
        "seconds": made.seconds,
        "runtime": {"name": made.runtime.name, "version": made.runtime.version},
        "request": asdict(request),
        "layers": [asdict(each) for each in made.layers],
        "messages": list(made.messages),
        "notes": notes,
        "commands": same,
    }
