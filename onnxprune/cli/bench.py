"""``onnxprune bench``: the measured cost of models on the backends they ship on."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command, add_options, given_options
from onnxprune.config import split
from onnxprune.errors import OnnxpruneError

_EXAMPLE = """examples:
  onnxprune bench dense.onnx pruned.onnx
  onnxprune bench dense.onnx pruned.onnx --backend cpu,openvino --batch 1,8 -o latency.png
  onnxprune bench dense.onnx pruned.onnx --calib images.npz --labels labels.npy --json
  onnxprune bench --list"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "measure models side by side on the backends they ship on"
    parser = add_command(commands, "bench", run, about=about, example=_EXAMPLE)
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        help=".onnx files; the others are compared with the first",
    )
    add = parser.add_argument
    add("--list", action="store_true", help="list backends, and how to get those not available")
    add("-o", "--output", metavar="OUT", help="draw ratios and distributions: .png or .svg")
    add_options(parser, "bench")


def run(args: argparse.Namespace) -> int:
    """Measure, or list the backends.

    Raises:
        OnnxpruneError: there is nothing to measure, or the flags, a model or the data cannot be
            used.
    """
    if args.list:
        return _list(args)
    if not args.models:
        raise OnnxpruneError(
            "there is no model to measure", hint="as in onnxprune bench dense.onnx pruned.onnx"
        )
    (config,) = split("bench", given_options(args, "bench"))
    files = {f"model {k + 1}": path for k, path in enumerate(args.models)}
    picture = destination.check("-o", args.output, {**files, "--calib": args.calib}, "picture")

    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.jobs.bench import schema
    from onnxprune.jobs.bench.job import bench
    from onnxprune.report import drawing, plots, terminal

    if picture is not None:
        drawing.check(picture, "-o")
    with console.progress() as progress:
        result = replace(bench(args.models, config, progress=progress), argv=args.argv)
        if picture is not None and result.rows:
            drawing.save(plots.of_bench(result), picture)
    view = terminal.bench(result, verbose=args.verbose)
    console.data(view, schema.to_json(result), as_json=args.json)
    if not result.rows:
        raise OnnxpruneError("nothing could be measured", hint="the reasons are listed above")
    if picture is not None:
        console.wrote(picture)
    measured = {row.model for row in result.rows}
    missing = [model.name for model in result.models if model.name not in measured]
    if missing:
        raise OnnxpruneError(
            f"{', '.join(missing)} could not be measured on any backend",
            hint="the reasons are listed above",
            exit_code=1,
        )
    return 0


def _list(args: argparse.Namespace) -> int:
    from onnxprune.report import terminal
    from onnxprune.runtime.registry import backends

    with console.progress() as progress:
        progress("looking for backends")
        states = [(each, each.available()) for each in backends()]
    rows = [
        {"name": one.name, "summary": one.summary, "install": one.install, **asdict(state)}
        for one, state in states
    ]
    plain = {"schema": "onnxprune.backends", "version": 1, "backends": rows}
    console.data(terminal.backends(states), plain, as_json=args.json)
    return 0
