"""``onnxprune eval``: how well a model does its task, alone or against the dense one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command, add_model, add_options, given_options
from onnxprune.cli.report import PAGE, save
from onnxprune.config import split
from onnxprune.errors import OnnxpruneError
from onnxprune.quantities import spread
from onnxprune.report import terminal
from onnxprune.report.standing import metric_scale

if TYPE_CHECKING:
    from onnxprune.jobs.eval import Assessment

_EXAMPLE = """examples:
  onnxprune eval model.onnx --data test.npz --labels test.npz
  onnxprune eval small.onnx --against dense.onnx --data test.npz --labels test.npz
  onnxprune eval small.onnx --against dense.onnx --data images.npz     # agreement, without labels
  onnxprune eval small.onnx --against dense.onnx --data images.npz --report eval.html
  onnxprune eval yolo.onnx --data pictures/ --preprocess letterbox=114,scale=255 \\
    --labels instances.json --metric map"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "measure a model on labelled data, alone or against the dense one"
    parser = add_command(commands, "eval", run, about=about, example=_EXAMPLE)
    add_model(parser)
    parser.add_argument(
        "--against", metavar="DENSE", help="the .onnx file that the model was made from"
    )
    add_options(parser, "eval", [PAGE])


def run(args: argparse.Namespace) -> int:
    """Measure, and turn the verdicts into an exit code.

    Raises:
        OnnxpruneError: the options, a model or the data cannot be used; or the model is broken, has
            another structure than the dense one, or lost more than is accepted (exit code 1).
    """
    (config,) = split("eval", given_options(args, "eval"))
    files = {
        "the model": args.model,
        "--against": args.against,
        "--data": config.data,
        "--labels": config.labels,
        "--slices": config.slices,
    }
    page = destination.check("--report", args.report, files, "page")
    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.jobs.assessed import assessed, to_json
    from onnxprune.jobs.eval import eval as measure

    with console.progress() as progress:
        result = measure(args.model, args.against, config, progress=progress)
        shapes = config.shapes if page or args.json else None
        document = assessed(result, args.model, args.against, args.argv, shapes)
    view = terminal.assessed(document, verbose=args.verbose)
    console.data(view, to_json(document, result), as_json=args.json)
    save(document, page)
    _refuse(result)
    if result.quality.status == "degraded" and not result.checks:
        console.warning(f"the model is degraded: {result.quality.reasons[0]}")
    return 0


def _refuse(result: Assessment) -> None:
    """Raise where the model is not what it should be.

    Raises:
        OnnxpruneError: with exit code 1.
    """
    if result.quality.broken:
        raise OnnxpruneError(
            f"the model is broken: {result.quality.reasons[0]}",
            hint="check that --data are prepared as the model expects them; else make it again, "
            "removing less or with --calib",
            exit_code=1,
        )
    if result.structure.status == "failed":
        raise OnnxpruneError(
            f"the structure is not that of the dense model: {result.structure.reasons[0]}",
            hint="give the model that this one was made from with --against",
            exit_code=1,
        )
    for check in result.checks:
        if not check.ok:
            unit = metric_scale(result.evaluation.measure).unit
            drop, limit = (spread(each, unit) for each in (check.value, check.limit))
            raise OnnxpruneError(
                f"the loss is {drop}, and --max-drop allows {limit}",
                hint="remove less, recover with more samples, or allow more",
                exit_code=1,
            )
