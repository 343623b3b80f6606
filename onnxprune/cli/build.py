"""``onnxprune build``: a TensorRT engine, and what TensorRT says about sparse weights."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command, add_model
from onnxprune.errors import OnnxpruneError
from onnxprune.quantities import shapes
from onnxprune.report import terminal

if TYPE_CHECKING:
    from onnxprune.runtime.engines import Built, Request

_EXAMPLE = """examples:
  onnxprune build sparse.onnx --engine model.engine --fp16 --sparse-weights
  onnxprune build sparse.onnx --engine model.engine --compute-capability 8.6 8.9
  onnxprune build model.onnx --engine model.engine --shapes input=8x3x224x224 \\
      --min-shapes input=1x3x224x224 --max-shapes input=32x3x224x224"""

_CAPABILITY = re.compile(r"(\d+)\.(\d)")


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "build a TensorRT engine; with TensorRT-RTX on any machine, GPU or not"
    parser = add_command(commands, "build", run, about=about, example=_EXAMPLE)
    add_model(parser)
    add = parser.add_argument
    add("--engine", metavar="OUT", required=True, help="where the engine is written")
    add("--sparse-weights", action="store_true", help="let TensorRT try 2:4 sparse kernels")
    half = parser.add_mutually_exclusive_group()
    half.add_argument("--fp16", action="store_true", help="convert the graph to fp16 first")
    half.add_argument("--bf16", action="store_true", help="convert the graph to bf16 first")
    add(
        "--compute-capability",
        metavar="X.Y",
        nargs="+",
        help="GPUs that TensorRT-RTX builds for, as in 8.6 8.9 12.0",
    )
    for flag, what in (
        ("--shapes", "sizes of inputs to tune for, as in input=8x3x224x224"),
        ("--min-shapes", "smallest sizes that must work"),
        ("--max-shapes", "largest sizes that must work"),
    ):
        add(flag, metavar="NAME=SIZES", action="append", help=what)
    add(
        "--runtime",
        choices=("tensorrt", "tensorrt_rtx"),
        metavar="NAME",
        help="tensorrt or tensorrt_rtx; whichever is installed by default",
    )
    add("--keep-onnx", metavar="PATH", help="write the graph that was parsed too")


def run(given: argparse.Namespace) -> int:
    """Build, write the engine, and print what was said.

    Raises:
        OnnxpruneError: no TensorRT is installed, or it cannot parse or build the model.
    """
    files: dict[str, object] = {"the model": given.model}
    files["--engine"] = engine = destination.check("--engine", given.engine, files)
    kept = destination.check("--keep-onnx", given.keep_onnx, files)
    assert engine is not None
    capabilities = tuple(_capability(text) for text in given.compute_capability or ())
    best, least, most = (
        shapes(texts, of=flag) if texts else {}
        for flag, texts in (
            ("--shapes", given.shapes),
            ("--min-shapes", given.min_shapes),
            ("--max-shapes", given.max_shapes),
        )
    )

    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune import model as models
    from onnxprune.runtime.engines import Request, build, commands

    request = Request(
        sparse=given.sparse_weights,
        precision="fp16" if given.fp16 else "bf16" if given.bf16 else "asis",
        runtime=given.runtime,
        capabilities=capabilities,
        shapes=best,
        least=least,
        most=most,
    )
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
    shown = terminal.built(made, request, engine, same, notes, verbose=given.verbose)
    console.data(shown, plain(made, request, engine, same, notes), as_json=given.json)
    console.done(f"Wrote {engine}")
    return 0


def plain(
    made: Built, request: Request, engine: Path, same: dict[str, str], notes: list[str]
) -> dict[str, object]:
    """The engine, what TensorRT said, and the commands that do the same, as JSON values."""
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


def _capability(text: str) -> tuple[int, int]:
    found = _CAPABILITY.fullmatch(text)
    if found is None:
        raise OnnxpruneError(
            f"--compute-capability {text} is none", hint="write it as NVIDIA does, as in 8.6"
        )
    return int(found[1]), int(found[2])
