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
from onnxprune.cli.prune import finish
from onnxprune.cli.report import PAGE, save
from onnxprune.cli.writing import write
from onnxprune.config import split

_EXAMPLE = """example:
  onnxprune prune model.onnx --ratio 0.3 --save-plan plan.json
  onnxprune apply plan.json finetuned.onnx --calib images.npz -o small.onnx"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "apply a saved plan to a model of the same graph"
    parser = add_command(commands, "apply", run, about=about, example=_EXAMPLE)
    parser.add_argument(
        "plan", metavar="PLAN", help="what `prune --save-plan` or `onnxprune mask` wrote"
    )
    add_model(parser)
    add_output(parser, required=True)
    add_options(parser, "apply", [PAGE])


def run(given: argparse.Namespace) -> int:
    """Apply the plan, check it, and write the model if it is good.

    Raises:
        OnnxpruneError: the plan or the model cannot be used, or they do not fit.
    """
    (asked,) = split("apply", given_options(given, "apply"))
    files: dict[str, object] = {
        "the plan": given.plan,
        "the model": given.model,
        "--calib": asked.calib,
    }
    files["-o"] = output = destination.check("-o", given.output, files)
    page = destination.check("--report", given.report, files)

    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.graph.plan import load_plan
    from onnxprune.jobs.prune import apply
    from onnxprune.jobs.results import gather

    with console.progress() as tell:
        pruned = apply(given.model, load_plan(Path(given.plan)), asked, tell=tell)
        wanted = pruned.ok or given.force
        written = write(pruned, output, tell, force=given.force) if wanted and output else None
        ok = pruned.ok and (written is None or written.ok)
        wanted = ok or given.force
    made = gather.result("apply", pruned, output if wanted else None)
    told = written.told(made) if written else made
    console.report(told, as_json=given.json, verbose=given.verbose)
    save(told, page)
    return finish(ok=ok, wrote=wanted, output=output)
