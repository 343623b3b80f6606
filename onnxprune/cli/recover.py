"""``onnxprune recover``: refit a model that was pruned elsewhere to the dense one."""

from __future__ import annotations

import argparse

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command, add_options, add_output, given_options
from onnxprune.cli.prune import conclude
from onnxprune.cli.report import PAGE
from onnxprune.cli.writing import write_sound
from onnxprune.config import split
from onnxprune.errors import OnnxpruneError

_EXAMPLE = """example:
  onnxprune recover dense.onnx pruned.onnx --calib images.npz -o better.onnx"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "refit a model that was pruned elsewhere, from unlabelled inputs"
    parser = add_command(commands, "recover", run, about=about, example=_EXAMPLE)
    parser.add_argument("dense", metavar="DENSE", help="the .onnx file before pruning")
    parser.add_argument("pruned", metavar="PRUNED", help="the pruned .onnx file, masks included")
    add_output(parser, required=False)
    add_options(parser, "recover", [PAGE])


def run(args: argparse.Namespace) -> int:
    """Find what was removed, refit the remaining weights, and write the better of the two models.

    Raises:
        OnnxpruneError: the options, a model or the data cannot be used, or the pruned model was
            not made from the dense one.
    """
    (config,) = split("recover", given_options(args, "recover"))
    if config.calib is None:
        raise OnnxpruneError(
            "recovery fits layers to what the dense model computes on real inputs",
            hint="give some with --calib; they need no labels",
        )
    files: dict[str, object] = {
        "the dense model": args.dense,
        "the pruned model": args.pruned,
        "--calib": config.calib,
        "--labels": config.labels,
        "--eval": config.eval,
        "--eval-labels": config.eval_labels,
    }
    files["-o"] = output = destination.check("-o", args.output, files, "model")
    page = destination.check("--report", args.report, files, "page")

    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.jobs.recover import recover

    with console.progress() as progress:
        result = recover(args.dense, args.pruned, config, progress=progress)
        written, ok, keep = write_sound(result, output, progress, force=args.force)
    return conclude(args, "recover", result, written, output, page, ok=ok, keep=keep)
