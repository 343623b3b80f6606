"""``onnxprune demo``: prune a small trained network that comes with onnxprune."""

from __future__ import annotations

import argparse
import dataclasses

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command
from onnxprune.cli.prune import finish
from onnxprune.config import from_flags

_MODEL = "digits_rescnn"
_TARGETS = ("macs=50%", "macs=25%")
_EXAMPLE = f"""what it does:
  onnxprune prune {_MODEL}.onnx --target {_TARGETS[0]} --calib digits_calibration.npz
  onnxprune prune {_MODEL}.onnx --target {_TARGETS[1]} --calib digits_calibration.npz
and then it measures accuracy on pictures that no step has seen"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "prune a small trained network that comes with onnxprune"
    parser = add_command(commands, "demo", run, about=about, example=_EXAMPLE)
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="also write the smaller of the two pruned models"
    )


def run(given: argparse.Namespace) -> int:
    """Prune the demonstration model to two budgets and measure it, before and after.

    Raises:
        OnnxpruneError: onnxruntime is missing, or this install lacks the model.
    """
    # Imported here so that --help does not wait for onnx.
    from onnxprune.data import zoo
    from onnxprune.jobs.prune import prune
    from onnxprune.jobs.results import gather
    from onnxprune.jobs.results.schema import Measure
    from onnxprune.runtime import open_session

    entry = zoo.get(_MODEL)
    output = destination.check("-o", given.output, {"the model": entry.model})
    dense = zoo.measure(entry, open_session(entry.model).run)
    runs, reports = [], []
    for target in _TARGETS:
        asked = from_flags({"target": target, "calib": str(entry.calibration)})
        console.done(
            f"$ onnxprune prune {entry.model.name} --target {target}"
            f" --calib {entry.calibration.name}"
        )
        with console.progress() as progress:
            pruned = prune(entry.model, asked, progress=progress)
            progress("measuring on the evaluation set")
            after = zoo.measure(entry, open_session(pruned.model).run)
        runs.append(pruned)
        made = gather.result("prune", pruned, None)
        seen = Measure(f"{entry.metric} on unseen pictures", dense, after, "fraction")
        reports.append(dataclasses.replace(made, measures=(*made.measures, seen)))
        if not given.json:
            console.report(reports[-1], as_json=False, verbose=given.verbose)
    good = all(each.ok for each in runs)
    if output and good:
        runs[-1].save(output)
        reports[-1] = dataclasses.replace(reports[-1], output=str(output))
    if given.json:
        console.reports(reports)
    return finish(ok=good, wrote=good, output=output)
