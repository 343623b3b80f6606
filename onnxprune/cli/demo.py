"""``onnxprune demo``: prune a small trained network that comes with onnxprune, or copy it."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command
from onnxprune.cli.prune import finish
from onnxprune.config import from_flags
from onnxprune.errors import OnnxpruneError

if TYPE_CHECKING:
    from onnxprune.data.zoo import Entry

_MODEL = "digits_rescnn"
_TARGETS = ("macs=50%", "macs=25%")
_EXAMPLE = f"""what it does:
  onnxprune prune {_MODEL}.onnx --target {_TARGETS[0]} --calib digits_calibration.npz
  onnxprune prune {_MODEL}.onnx --target {_TARGETS[1]} --calib digits_calibration.npz
and then it measures accuracy on pictures that no step has seen

to try commands yourself:
  onnxprune demo --copy digits"""
_RECIPE = """\
# onnxprune prune model.onnx --recipe recipe.yaml -o small.onnx
target: macs=50%
calib: calib.npz
"""
_NEXT = (
    "onnxprune inspect model.onnx",
    "onnxprune prune model.onnx --target macs=50% --calib calib.npz -o small.onnx",
    "onnxprune bench model.onnx small.onnx --calib test.npz --labels test.npz",
)


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "prune a small trained network that comes with onnxprune"
    parser = add_command(commands, "demo", run, about=about, example=_EXAMPLE)
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "-o", "--output", metavar="OUT", help="also write the smaller of the two pruned models"
    )
    place.add_argument(
        "--copy",
        metavar="DIR",
        help="prune nothing; copy the network, its data and a recipe to DIR",
    )


def run(args: argparse.Namespace) -> int:
    """Prune the demonstration model to two budgets and measure it, before and after.

    With ``--copy``, its files are copied instead.

    Raises:
        OnnxpruneError: onnxruntime is missing, this install lacks the model, or ``--copy`` would
            overwrite a file.
    """
    # Imported here so that --help does not wait for onnx.
    from onnxprune.data import zoo

    entry = zoo.get(_MODEL)
    if args.copy is not None:
        return _copy(entry, Path(args.copy), as_json=args.json)
    return _demonstrate(entry, args)


def _copy(entry: Entry, folder: Path, *, as_json: bool) -> int:
    """Write a model, its data and a recipe to a folder, and show what to run on them."""
    from onnxprune.model.files import write

    sources = {
        "model.onnx": entry.model,
        "calib.npz": entry.calibration,
        "test.npz": entry.evaluation,
    }
    names = (*sources, "recipe.yaml")
    existing = [name for name in names if (folder / name).exists()]
    if existing:
        raise OnnxpruneError(
            f"--copy {folder} would overwrite {', '.join(existing)}", hint="name another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, source in sources.items():
            write(folder / name, source.read_bytes())
        write(folder / "recipe.yaml", _RECIPE)
    except OSError as error:
        raise OnnxpruneError(
            f"--copy {folder} cannot be written: {error.strerror}", hint="choose another folder"
        ) from error
    lines = [f"cd {shlex.quote(str(folder))}", *_NEXT]
    if as_json:
        console.data("", _copied(folder, names, lines), as_json=True)
        return 0
    console.done(f"wrote {', '.join(names)} to {folder}; next:")
    console.data("\n".join(f"  {line}" for line in lines), None, as_json=False)
    return 0


def _copied(folder: Path, names: tuple[str, ...], lines: list[str]) -> dict[str, object]:
    """What was copied, as JSON values."""
    head = {"schema": "onnxprune.demo", "version": 1, "ok": True}
    return {**head, "folder": str(folder), "files": names, "next": lines}


def _demonstrate(entry: Entry, args: argparse.Namespace) -> int:
    from onnxprune.data import zoo
    from onnxprune.jobs.prune import prune
    from onnxprune.jobs.results import gather
    from onnxprune.jobs.results.schema import Measure
    from onnxprune.runtime import open_session

    output = destination.check("-o", args.output, {"the model": entry.model}, "model")
    dense = zoo.measure(entry, open_session(entry.model).run)
    runs, reports = [], []
    for target in _TARGETS:
        config = from_flags({"target": target, "calib": str(entry.calibration)})
        console.done(
            f"$ onnxprune prune {entry.model.name} --target {target}"
            f" --calib {entry.calibration.name}"
        )
        with console.progress() as progress:
            pruned = prune(entry.model, config, progress=progress)
            progress("measuring on the evaluation set")
            after = zoo.measure(entry, open_session(pruned.model).run)
        runs.append(pruned)
        report = dataclasses.replace(gather.result("prune", pruned, None), argv=args.argv)
        quality = Measure(f"{entry.metric} on unseen pictures", dense, after, "fraction")
        reports.append(dataclasses.replace(report, measures=(*report.measures, quality)))
        if not args.json:
            console.report(reports[-1], as_json=False, verbose=args.verbose)
    good = all(each.ok for each in runs)
    if output and good:
        runs[-1].save(output)
        reports[-1] = dataclasses.replace(reports[-1], output=str(output))
    if args.json:
        console.reports(reports)
    return finish(ok=good, wrote=good, output=output)
