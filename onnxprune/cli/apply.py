"""``onnxprune apply``: remove what a saved plan says, from the same graph with any weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from onnxprune.cli import console, destination
from onnxprune.cli.parser import (
    Commands,
    add_command,
    add_model,
    add_options,
    add_output,
    given_options,
)
from onnxprune.cli.prune import conclude
from onnxprune.cli.report import PAGE
from onnxprune.cli.writing import write_sound
from onnxprune.config import split

_EXAMPLE = """example:
  onnxprune prune model.onnx --ratio 0.3 --save-plan plan.json
  onnxprune apply plan.json finetuned.onnx --calib images.npz -o small.onnx"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "apply a saved plan to a model of the same graph"
    parser = add_command(commands, "apply", run, about=about, example=_EXAMPLE)
    parser.add_argument(
        "plan", metavar="PLAN", help="a plan of `prune --save-plan` or `onnxprune mask`"
    )
    add_model(parser)
    add_output(parser, required=True)
    add_options(parser, "apply", [PAGE])


def run(args: argparse.Namespace) -> int:
    """Apply the plan, check it, and write the model if every check passed.

    Raises:
        OnnxpruneError: the plan or the model cannot be used, or they do not fit.
    """
    (config,) = split("apply", given_options(args, "apply"))
    files: dict[str, object] = {
        "the plan": args.plan,
        "the model": args.model,
        "--calib": config.calib,
        "--eval": config.eval,
        "--eval-labels": config.eval_labels,
    }
    files["-o"] = output = destination.check("-o", args.output, files, "model")
    page = destination.check("--report", args.report, files, "page")

    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.graph.plan import load_plan
    from onnxprune.jobs.prune import apply

    with console.progress() as progress:
        pruned = apply(args.model, load_plan(Path(args.plan)), config, progress=progress)
        written, ok, keep = write_sound(pruned, output, progress, force=args.force)
    return conclude(args, "apply", pruned, written, output, page, ok=ok, keep=keep)
