"""``onnxprune build``: a TensorRT engine, and what TensorRT says about sparse weights."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command, add_model, add_options, given_options
from onnxprune.config import BuildOptions, split
from onnxprune.report import terminal

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
    add("--engine", metavar="OUT", required=True, help="file for the engine")
    add("--keep-onnx", metavar="PATH", help="file for the graph that TensorRT parsed")
    add_options(parser, "build")


def run(args: argparse.Namespace) -> int:
    """Build, write the engine, and print the messages of TensorRT.

    Raises:
        OnnxpruneError: no TensorRT is installed, or it cannot parse or build the model.
    """
    files: dict[str, object] = {"the model": args.model}
    files["--engine"] = engine = destination.check("--engine", args.engine, files, "engine")
    kept = destination.check("--keep-onnx", args.keep_onnx, files, "model")
    assert engine is not None
    request, storage = split("build", given_options(args, "build"))

    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune import model as models
    from onnxprune.graph.plan import Plan
    from onnxprune.jobs.certificate import Claims, certify
    from onnxprune.model.decode import densify
    from onnxprune.model.files import write
    from onnxprune.runtime.engines import build, commands

    with console.progress() as progress:
        result = build(args.model, request, progress=progress)
        write(engine, result.plan, "the engine")
        if kept is not None:
            claims = Claims(
                "build", densify(models.load(args.model))[0], result.model, Plan(), fitted=False,
                precision="" if request.precision == "asis" else request.precision,
            )  # fmt: skip
            models.write(
                result.model, kept, certify=certify(claims) if storage.certificate else None
            )
    source = kept or Path(args.model)
    same = commands.equivalents(result.runtime, source, engine, request)
    notes = list(result.notes)
    if kept is None and request.precision != "asis":
        notes.append(
            f"these commands want the {request.precision} graph, which --keep-onnx PATH writes"
        )
    view = terminal.built(result, request, engine, same, notes, verbose=args.verbose)
    console.data(view, plain(result, request, engine, same, notes), as_json=args.json)
    console.wrote(engine)
    if kept is not None:
        console.wrote(kept)
    return 0


def plain(
    result: Built, request: BuildOptions, engine: Path, same: dict[str, str], notes: list[str]
) -> dict[str, object]:
    """The engine, the messages of TensorRT, and equivalent commands, as JSON values."""
    return {
        "schema": "onnxprune.build",
        "version": 2,
        "ok": True,
        "engine": str(engine),
        "bytes": len(result.plan),
        "seconds": result.seconds,
        "runtime": {"name": result.runtime.name, "version": result.runtime.version},
        "request": asdict(request),
        "layers": [asdict(each) for each in result.layers],
        "messages": list(result.messages),
        "notes": notes,
        "commands": same,
    }
