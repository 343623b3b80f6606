"""``onnxprune sensitivity``: what every group, block and weight costs when it alone is pruned."""

from __future__ import annotations

import argparse
from dataclasses import replace

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command, add_model, add_options, given_options
from onnxprune.config import split
from onnxprune.errors import OnnxpruneError
from onnxprune.jobs import recipe

_EXAMPLE = """examples:
  onnxprune sensitivity model.onnx --calib images.npz --labels images.npz -o heat.png
  onnxprune sensitivity model.onnx --calib images.npz --drop 1% --save-recipe recipe.yaml
  onnxprune sensitivity model.onnx --calib images.npz --kinds groups --json > sweep.json
  onnxprune prune model.onnx --sensitivity sweep.json --target macs=50% --calib images.npz

on a cluster, whose workers need onnxprune too; the smallest one is this machine:
  dask scheduler &
  dask worker tcp://127.0.0.1:8786 --nthreads 1 --nworkers 2 &
  onnxprune sensitivity model.onnx --calib images.npz --dask tcp://127.0.0.1:8786"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "prune every group, block and weight alone, and show what each costs"
    parser = add_command(commands, "sensitivity", run, about=about, example=_EXAMPLE)
    add_model(parser)
    parser.add_argument("-o", "--output", metavar="OUT", help="the heat-map as .png or .svg")
    save = ("--save-recipe", "YAML", "write the recommended ratios, for prune --recipe")
    add_options(parser, "sensitivity", [save])


def run(args: argparse.Namespace) -> int:
    """Sweep, and show or write the result.

    Raises:
        OnnxpruneError: the options, the model or the data cannot be used.
    """
    # Imported here so that --help does not wait for onnx.
    from onnxprune.jobs.sensitivity.recommend import as_options
    from onnxprune.jobs.sensitivity.run import sensitivity
    from onnxprune.report import drawing, plots, terminal
    from onnxprune.select.sensitivity import to_json

    request, config = split("sensitivity", {"workers": "auto"} | given_options(args, "sensitivity"))
    files: dict[str, object] = {
        "the model": args.model,
        "--calib": config.calib,
        "--labels": config.labels,
    }
    files["-o"] = output = destination.check("-o", args.output, files, "picture")
    fragment = destination.check("--save-recipe", args.save_recipe, files, "recipe")
    if output is not None:
        drawing.check(output, "-o")
    if fragment is not None and request.drop is None:
        raise OnnxpruneError(
            "--save-recipe has nothing to write without a drop to recommend ratios for",
            hint="add --drop 1%",
        )
    with console.progress() as progress:
        sweep = sensitivity(args.model, config, request, progress=progress)
        sweep = replace(sweep, argv=args.argv)
        if output is not None:
            progress(f"drawing {output}")
            drawing.save(plots.of_sweep(sweep), output)
    view = terminal.sweep(sweep, verbose=args.verbose)
    console.data(view, to_json(sweep), as_json=args.json)
    if output is not None:
        console.wrote(output)
    if fragment is not None and sweep.recommended is not None:
        recipe.write(as_options(config, sweep.recommended), fragment)
        console.wrote(fragment)
    return 0
