"""``onnxprune advise``: which methods pay for a model on its backends."""

from __future__ import annotations

import argparse
import importlib.metadata
from dataclasses import asdict

from onnxprune.cli import console
from onnxprune.cli.parser import Commands, add_command, add_model, add_options, given_options
from onnxprune.config import split

_EXAMPLE = """examples:
  onnxprune advise model.onnx
  onnxprune advise model.onnx --backend cpu,openvino,tensorrt --calib images.npz"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "say which methods pay for a model on its backends, and when not to prune"
    parser = add_command(commands, "advise", run, about=about, example=_EXAMPLE)
    add_model(parser)
    add_options(parser, "advise")


def run(args: argparse.Namespace) -> int:
    """Measure the model and print advice.

    Raises:
        OnnxpruneError: the model or the inputs cannot be used, or a backend is unknown.
    """
    (config,) = split("advise", given_options(args, "advise"))

    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.jobs.advise.job import advise
    from onnxprune.jobs.results.schema import plain
    from onnxprune.report import terminal

    with console.progress() as progress:
        report = advise(args.model, config, progress=progress)
    document = {
        "schema": "onnxprune.advise",
        "version": 2,
        "onnxprune": importlib.metadata.version("onnxprune"),
        "argv": args.argv,
        "evidence": plain(asdict(report.evidence)),
        "advice": [plain(asdict(each)) for each in report.advice],
    }
    view = terminal.advice(report.evidence, report.advice, verbose=args.verbose)
    console.data(view, document, as_json=args.json)
    return 0
