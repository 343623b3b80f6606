"""``onnxprune recover``: refit a model that was pruned by somebody else to the one it came from."""

from __future__ import annotations

import argparse

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command, add_options, add_output, given_options
from onnxprune.cli.prune import finish
from onnxprune.cli.report import PAGE, save
from onnxprune.config import split
from onnxprune.errors import OnnxpruneError

_EXAMPLE = """example:
  onnxprune recover dense.onnx pruned.onnx --calib images.npz -o better.onnx"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "refit a model that was pruned elsewhere, from unlabelled inputs"
    parser = add_command(commands, "recover", run, about=about, example=_EXAMPLE)
    parser.add_argument("dense", metavar="DENSE", help="the .onnx file before pruning")
    parser.add_argument("pruned", metavar="PRUNED", help="what was made of it, masks included")
    add_output(parser, required=False)
    add_options(parser, "recover", [PAGE])


def run(given: argparse.Namespace) -> int:
    """Find what is gone, refit what is left, and write the better of the two models.

    Raises:
        OnnxpruneError: the options, a model or the data cannot be used, or the pruned model was
            not made from the dense one.
    """
    (asked,) = split("recover", given_options(given, "recover"))
    if asked.calib is None:
        raise OnnxpruneError(
            "recovery fits layers to what the dense model computes on real inputs",
            hint="give some with --calib; they need no labels",
        )
    files: dict[str, object] = {
        "the dense model": given.dense,
        "the pruned model": given.pruned,
        "--calib": asked.calib,
        "--labels": asked.labels,
    }
    files["-o"] = output = destination.check("-o", given.output, files)
    page = destination.check("--report", given.report, files)

    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.jobs.recover import recover
    from onnxprune.jobs.results import gather

    with console.progress() as tell:
        made = recover(given.dense, given.pruned, asked, tell=tell)
        wanted = made.ok or given.force
        if wanted and output:
            tell(f"writing {output}")
            made.save(output)
    told = gather.result("recover", made, output if wanted else None)
    console.report(told, as_json=given.json, verbose=given.verbose)
    save(told, page)
    if not wanted:
        raise OnnxpruneError(
            "a check is bad, so nothing was written",
            hint="write it all the same with --force",
            exit_code=1,
        )
    return finish(ok=made.ok, wrote=wanted, output=output)
