"""``onnxprune inspect``: what can be removed from a model, and what cannot and why."""

from __future__ import annotations

import argparse
from dataclasses import replace

from onnxprune.cli import console
from onnxprune.cli.parser import Commands, add_command, add_model, add_options, given_options
from onnxprune.config import split
from onnxprune.errors import blame

_EXAMPLE = """example:
  onnxprune inspect model.onnx"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "show what can be removed from a model, and what cannot and why"
    parser = add_command(commands, "inspect", run, about=about, example=_EXAMPLE)
    add_model(parser)
    parser.add_argument(
        "--weights",
        action="store_true",
        default=None,
        help="look for zeros in the weights of a model of more than 1 GiB too",
    )
    add_options(parser, "inspect")


def run(args: argparse.Namespace) -> int:
    """Analyse the model and print the report.

    Raises:
        OnnxpruneError: the model cannot be loaded or analysed.
    """
    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune import model as models
    from onnxprune.data.ranks import with_ranks
    from onnxprune.graph.analysis import analyse
    from onnxprune.jobs.observe import analyse_by_runs
    from onnxprune.jobs.results import gather
    from onnxprune.model.decode import densify

    (config,) = split("inspect", given_options(args, "inspect"))
    with console.progress() as progress:
        progress(f"reading {args.model}")
        model, packed = densify(models.load(args.model))
        progress("finding what can be removed")
        with blame("--shapes", when=bool(config.shapes)):
            model = with_ranks(model, config)
            analysis = analyse_by_runs(model, config.shapes or None)
            closed = analysis if config.interface else None
            if config.interface:
                analysis = analyse(analysis.model, inputs=config.shapes or None, interface=True)
        report = gather.inspection(analysis, weights=args.weights, closed=closed)
    if packed:
        note = f"{len(packed)} weights are packed in the file; this is what they are decoded to"
        report = replace(report, notes=(*report.notes, note))
    report = replace(report, argv=args.argv)
    console.report(report, as_json=args.json, verbose=args.verbose)
    return 0
