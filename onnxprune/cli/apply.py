"""``onnxprune apply``: remove what a saved plan says, from the same graph with any weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command, add_model, add_output
from onnxprune.cli.prune import finish

_EXAMPLE = """example:
  onnxprune prune model.onnx --ratio 0.3 --save-plan plan.json
  onnxprune apply plan.json finetuned.onnx -o small.onnx"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "apply a saved plan to a model of the same graph"
    parser = add_command(commands, "apply", run, about=about, example=_EXAMPLE)
    parser.add_argument("plan", metavar="PLAN", help="what `prune --save-plan` wrote")
    add_model(parser)
    add_output(parser, required=True)


def run(given: argparse.Namespace) -> int:
    """Apply the plan, check it, and write the model if it is good.

    Raises:
        OnnxpruneError: the plan or the model cannot be used, or they do not fit.
    """
    output = destination.check(
        "-o", given.output, {"the plan": given.plan, "the model": given.model}
    )

    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.pipeline import replay
    from onnxprune.plan import load_plan
    from onnxprune.report import gather

    with console.progress() as tell:
        pruned = replay(given.model, load_plan(Path(given.plan)), tell=tell)
        wanted = pruned.verdict.ok or given.force
        if wanted and output:
            tell(f"writing {output}")
            pruned.save(output)
    made = gather.result("apply", pruned, output if wanted else None)
    console.report(made, as_json=given.json)
    return finish(ok=pruned.verdict.ok, wrote=wanted, output=output)
