"""``onnxprune densify``: packed and sparse weights as ordinary dense ones again."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command, add_model, add_options, given_options
from onnxprune.config import split
from onnxprune.report import terminal

_EXAMPLE = """examples:
  onnxprune densify small.onnx -o dense.onnx
  onnxprune densify small.onnx --external -o dense.onnx    # weights beside the model

For tools that do not read sparse_initializer, Constant.sparse_value or packed weights: TensorRT,
graphsurgeon, shape inference. What is decoded is what the stored form holds, bit by bit.
"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "turn sparse and packed weights back into dense ones, bit by bit"
    parser = add_command(commands, "densify", run, about=about, example=_EXAMPLE, details=False)
    add_model(parser)
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="file for the dense model"
    )
    parser.add_argument(
        "--external", action="store_true", help="write the weights to a file beside the model"
    )
    add_options(parser, "densify")


def run(args: argparse.Namespace) -> int:
    """Decode every weight and write the dense model.

    Raises:
        OnnxpruneError: the model cannot be read, or nothing can be written.
    """
    (config,) = split("densify", given_options(args, "densify"))
    source = Path(args.model)
    output = destination.check("-o", args.output, {"the model": source}, "model")
    assert output is not None
    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune import model as models
    from onnxprune.jobs.store import Stored
    from onnxprune.model.decode import densify
    from onnxprune.model.sparse import names
    from onnxprune.model.writing import file_bytes

    with console.progress() as progress:
        progress(f"reading {source}")
        model = models.load(source)
        dense, packed = densify(model)
        progress(f"writing {output}")
        form = replace(config, store="external" if args.external else "dense")
        Stored(dense, dense, (), form, command="densify").save(output)
    sparse = names(source)
    sizes = (file_bytes(source), file_bytes(output))
    plain = {
        "schema": "onnxprune.densify",
        "version": 1,
        "ok": True,
        "model": str(source),
        "bytes": {"before": sizes[0], "after": sizes[1]},
        "packed": list(packed),
        "sparse": list(sparse),
        "output": str(output),
    }
    notes = [f"{len(packed)} packed and {len(sparse)} sparse weights are dense now"]
    if not packed and not sparse:
        notes = ["every weight was dense already"]
    console.data(terminal.storing((), sizes, (), notes), plain, as_json=args.json)
    console.wrote(output)
    return 0
