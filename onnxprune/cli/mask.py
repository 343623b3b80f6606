"""``onnxprune mask``: the zeros of a pruned model, to be applied to another checkpoint."""

from __future__ import annotations

import argparse

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command, add_model, add_options, given_options
from onnxprune.config import split

_EXAMPLE = """example:
  onnxprune mask pruned.onnx -o mask.json
  onnxprune apply mask.json finetuned.onnx -o finetuned_sparse.onnx

A mask is a plan that only zeroes: JSON, and one bit per weight beside it. It fits every model that
has weights of the same names and shapes, whoever pruned the first and however it is stored.
"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "take the zeros of a pruned model, for `onnxprune apply`"
    parser = add_command(commands, "mask", run, about=about, example=_EXAMPLE, details=False)
    add_model(parser)
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="file for the mask, a plan"
    )
    add_options(parser, "mask")


def run(args: argparse.Namespace) -> int:
    """Look for zeros and write them down.

    Raises:
        OnnxpruneError: the model cannot be read, has no zeros, or nothing can be written.
    """
    (config,) = split("mask", given_options(args, "mask"))
    output = destination.check("-o", args.output, {"the model": args.model}, "plan")
    assert output is not None
    # Imported here so that --help and refused flags do not wait for onnx.
    from rich.text import Text

    from onnxprune.graph.plan import save_plan
    from onnxprune.jobs.mask import extract

    with console.progress() as progress:
        progress(f"reading {args.model}")
        plan = extract(args.model, skip=config.skip)
        save_plan(plan, output)
    weights = [
        {"weight": name, "shape": list(mask.shape), "zeros": 1 - mask.kept / mask.size}
        for name, mask in plan.zeroed.items()
    ]
    plain = {
        "schema": "onnxprune.mask",
        "version": 1,
        "ok": True,
        "model": args.model,
        "weights": weights,
        "output": str(output),
    }
    console.data(Text(str(plan)), plain, as_json=args.json)
    console.wrote(output)
    return 0
