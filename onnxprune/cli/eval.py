"""``onnxprune eval``: how well a model does its task, alone or against the dense one."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.cli import console
from onnxprune.cli.parser import Commands, add_command, add_model, add_options, given_options
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
    add_options(parser, "eval")


def run(args: argparse.Namespace) -> int:
    """Measure, and turn the verdicts into an exit code.

    Raises:
        OnnxpruneError: the options, a model or the data cannot be used; or the model is broken, has
            another structure than the dense one, or lost more than is accepted (exit code 1).
    """
    (config,) = split("eval", given_options(args, "eval"))
    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.jobs.eval import eval as measure

    with console.progress() as progress:
        result = measure(args.model, args.against, config, progress=progress)
    view = terminal.assessed(result, Path(args.model).name, args.against, verbose=args.verbose)
    console.data(view, plain(result, args.model, args.against), as_json=args.json)
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


def plain(result: Assessment, source: str, against: str | None) -> dict[str, object]:
    """The metric, both verdicts, the outputs and the checks, as JSON values."""
    from onnxprune.jobs.results import schema

    evaluation = result.evaluation
    return {
        "schema": "onnxprune.eval",
        "version": 1,
        "ok": result.ok,
        "model": source,
        "against": against,
        "metric": schema.plain(
            {
                "name": result.metric,
                "value": result.value,
                "error": result.error,
                "dense": evaluation.before,
                "change_error": evaluation.metric_error,
                "higher_is_better": evaluation.higher_is_better,
            }
        ),
        "samples": evaluation.samples,
        "available": evaluation.available,
        "structure": schema.plain(asdict(result.structure)),
        "quality": schema.plain(asdict(result.quality)),
        "outputs": schema.plain([asdict(each) for each in evaluation.outputs.values()]),
        "tails": None if evaluation.tails is None else schema.plain(asdict(evaluation.tails)),
        "checks": schema.plain([asdict(each) for each in result.checks]),
        "notes": list(result.notes),
    }
