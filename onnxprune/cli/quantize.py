"""``onnxprune quantize``: INT8 that keeps zeros and N:M, verified."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command, add_model, add_options, given_options
from onnxprune.cli.prune import finish, refuse_nothing
from onnxprune.config import INPUTS, from_flags, split
from onnxprune.jobs import recipe
from onnxprune.jobs.results import schema
from onnxprune.report import terminal

if TYPE_CHECKING:
    from onnxprune.jobs.quantize import Quantized

_EXAMPLE = """examples:
  onnxprune quantize pruned.onnx --calib images.npz -o int8.onnx
  onnxprune quantize pruned.onnx --dynamic -o int8.onnx
  onnxprune quantize dense.onnx --prune recipe.yaml --calib images.npz -o int8.onnx
  onnxprune quantize sparse.onnx --calib images.npz --backend openvino-sparse -o int8.onnx"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "quantize weights and activations to int8, and verify that zeros and 2:4 stay"
    parser = add_command(commands, "quantize", run, about=about, example=_EXAMPLE)
    add_model(parser)
    parser.add_argument("-o", "--output", metavar="OUT", help="file for the int8 model")
    parser.add_argument("--force", action="store_true", help="write even if a check fails")
    recipe_file = ("--prune", "RECIPE", "prune by a recipe first, with the same inputs")
    add_options(parser, "quantize", [recipe_file])


def run(args: argparse.Namespace) -> int:
    """Quantize, print the result, and write the model if every check passed.

    Raises:
        OnnxpruneError: the options, the model or the data cannot be used.
    """
    flags = given_options(args, "quantize")
    settings, config = split("quantize", flags)
    first, base = None, recipe.Recipe()
    if args.prune is not None:
        base = recipe.read(Path(args.prune))
        shared = {name: flags[name] for name in INPUTS if name in flags and name != "backend"}
        first = from_flags({**shared, **base.values}, base.origins)
        if first.asks_for_nothing and not first.searches:
            refuse_nothing(from_flags(base.values, base.origins), args.prune)
    files = {
        "the model": args.model,
        "--calib": config.calib,
        "--labels": config.labels,
        "--eval": config.eval,
        "--eval-labels": config.eval_labels,
        "--prune": args.prune,
    }
    output = destination.check("-o", args.output, files, "model")

    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.jobs.quantize import quantize

    with console.progress() as progress:
        own = {name: place for name, place in base.origins.items() if name not in flags}
        with recipe.naming_lines(own):
            result = quantize(args.model, settings, config, first=first, progress=progress)
        keep = result.ok or args.force
        if keep and output:
            progress(f"writing {output}")
            result.save(output, force=args.force)
    written = str(output) if keep and output else None
    view = terminal.quantized(result, Path(args.model).name, written, verbose=args.verbose)
    console.data(view, plain(result, args.model), as_json=args.json)
    accepted = config.max_drop is not None
    return finish(
        ok=result.ok,
        wrote=keep,
        output=output,
        quality=result.quality,
        accepted=accepted,
        quantized=True,
    )


def plain(result: Quantized, source: str) -> dict[str, object]:
    """What became of the weights, the size, the outputs and the checks, as JSON values."""
    tails = None if result.quality.status == "not measured" else result.evaluation.tails
    return {
        "schema": "onnxprune.quantize",
        "version": 1,
        "ok": result.ok,
        "structure": schema.plain(asdict(result.structure)),
        "quality": schema.plain(asdict(result.quality)),
        "model": source,
        "bytes": {"before": result.bytes[0], "after": result.bytes[1]},
        "weights": [asdict(each) for each in result.weights],
        "metric": {
            "name": result.evaluation.metric,
            "before": result.evaluation.before,
            "after": result.evaluation.after,
        },
        "outputs": schema.plain([asdict(each) for each in result.evaluation.outputs.values()]),
        "samples": result.evaluation.samples,
        "tails": None if tails is None else schema.plain(asdict(tails)),
        "checks": [asdict(each) for each in result.checks],
        "notes": list(result.notes),
    }
