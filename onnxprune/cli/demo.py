"""``onnxprune demo``: prune a small trained network that comes with onnxprune."""

from __future__ import annotations

import argparse
import dataclasses

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command
from onnxprune.cli.prune import finish
from onnxprune.options import from_flags

_MODEL = "digits_rescnn"
_TARGET = "macs=50%"
_EXAMPLE = f"""what it does:
  onnxprune prune {_MODEL}.onnx --target {_TARGET} --calib digits_calibration.npz
and then it measures accuracy on pictures that no step has seen"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "prune a small trained network that comes with onnxprune"
    parser = add_command(commands, "demo", run, about=about, example=_EXAMPLE)
    parser.add_argument("-o", "--output", metavar="OUT", help="also write the pruned model")


def run(given: argparse.Namespace) -> int:
    """Prune the demonstration model and measure it, before and after, on its evaluation set.

    Raises:
        OnnxpruneError: onnxruntime is missing, or this install lacks the model.
    """
    # Imported here so that --help does not wait for onnx.
    from onnxprune import zoo
    from onnxprune.backends import open_session
    from onnxprune.pipeline import prune
    from onnxprune.report import gather
    from onnxprune.report.schema import Measure

    entry = zoo.get(_MODEL)
    output = destination.check("-o", given.output, {"the model": entry.model})
    asked = from_flags({"target": _TARGET, "calib": str(entry.calibration)})
    console.done(
        f"$ onnxprune prune {entry.model.name} --target {_TARGET} --calib {entry.calibration.name}"
    )
    with console.progress() as tell:
        pruned = prune(entry.model, asked, tell=tell)
        tell("measuring both on the evaluation set")
        accuracy = [
            zoo.measure(entry, open_session(each).run) for each in (entry.model, pruned.model)
        ]
        if output and pruned.verdict.ok:
            pruned.save(output)
    made = gather.result("prune", pruned, output if pruned.verdict.ok else None)
    seen = Measure(f"{entry.metric} on unseen pictures", accuracy[0], accuracy[1], "fraction")
    made = dataclasses.replace(made, measures=(*made.measures, seen))
    console.report(made, as_json=given.json)
    return finish(ok=pruned.verdict.ok, wrote=pruned.verdict.ok, output=output)
