"""``onnxprune quantize``: INT8 that keeps zeros and N:M, verified."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command, add_model, add_options, given_options
from onnxprune.cli.prune import finish
from onnxprune.config import INPUTS, from_flags, split
from onnxprune.jobs import recipe
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
    about = "make weights and activations int8, so that zeros and 2:4 stay, and check that"
    parser = add_command(commands, "quantize", run, about=about, example=_EXAMPLE)
    add_model(parser)
    parser.add_argument("-o", "--output", metavar="OUT", help="where the int8 model is written")
    parser.add_argument("--force", action="store_true", help="write even if a check is bad")
    recipe_file = ("--prune", "RECIPE", "prune by a recipe first, with the same inputs")
    add_options(parser, "quantize", [recipe_file])


def run(given: argparse.Namespace) -> int:
    """Quantize, print what was done and found, and write the model if it is good.

    Raises:
        OnnxpruneError: the options, the model or the data cannot be used.
    """
    flags = given_options(given, "quantize")
    settings, asked = split("quantize", flags)
    first = None
    if given.prune:
        base = recipe.read(Path(given.prune))
        shared = {name: flags[name] for name in INPUTS if name in flags and name != "backend"}
        first = from_flags({**shared, **base.values}, base.origins)
    files = {
        "the model": given.model,
        "--calib": asked.calib,
        "--labels": asked.labels,
        "--prune": given.prune,
    }
    output = destination.check("-o", given.output, files)

    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.jobs.quantize import quantize

    with console.progress() as tell:
        made = quantize(given.model, settings, asked, first=first, tell=tell)
        wanted = made.ok or given.force
        if wanted and output:
            tell(f"writing {output}")
            made.save(output)
    shown = terminal.quantized(made, verbose=given.verbose)
    console.data(shown, plain(made, given.model), as_json=given.json)
    return finish(ok=made.ok, wrote=wanted, output=output)


def plain(made: Quantized, source: str) -> dict[str, object]:
    """What became of the weights, the size, the outputs and the checks, as JSON values."""
    return {
        "schema": "onnxprune.quantize",
        "version": 1,
        "ok": made.ok,
        "model": source,
        "bytes": {"before": made.bytes[0], "after": made.bytes[1]},
        "weights": [asdict(each) for each in made.weights],
        "metric": {
            "name": made.evaluation.metric,
            "before": made.evaluation.before,
            "after": made.evaluation.after,
        },
        "outputs": [asdict(each) for each in made.evaluation.outputs.values()],
        "samples": made.evaluation.samples,
        "checks": [asdict(each) for each in made.checks],
        "notes": list(made.notes),
    }
