"""``onnxprune eligible``: layer by layer, whether TensorRT may use 2:4 sparse kernels."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.cli import console
from onnxprune.cli.parser import Commands, add_command, add_model
from onnxprune.errors import OnnxpruneError, blame

if TYPE_CHECKING:
    from onnxprune.model import Model

_EXAMPLE = """examples:
  onnxprune eligible sparse.onnx
  onnxprune eligible sparse.onnx --log trtexec.log --layers engine.json
  onnxprune eligible sparse.onnx --strict      # exit code 1 if a layer that could be 2:4 is not"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "say which layers TensorRT may run with 2:4 sparse kernels, and why not"
    parser = add_command(commands, "eligible", run, about=about, example=_EXAMPLE, details=False)
    add_model(parser)
    parser.add_argument(
        "--log", metavar="FILE", help="log of a TensorRT build, to show what TensorRT picked"
    )
    parser.add_argument(
        "--layers", metavar="JSON", help="layer information of the engine, to show the same"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit with 1 if a layer that could be sparse is dense",
    )


def run(args: argparse.Namespace) -> int:
    """Look at every layer and print whether it can run sparsely.

    Raises:
        OnnxpruneError: the model cannot be loaded.
    """
    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune import model as models
    from onnxprune.report import terminal
    from onnxprune.sparse.eligibility import layers

    with console.progress() as progress:
        progress(f"reading {args.model}")
        model = models.load(args.model)
        rows = layers(model)
        tensorrt = _tensorrt_words(args, model)
    missing = args.strict and any(each.state == "dense" for each in rows)
    plain = {
        "schema": "onnxprune.eligible",
        "version": 1,
        "ok": not missing,
        "model": args.model,
        "layers": [
            asdict(each)
            | ({"tensorrt": tensorrt.get(each.node, "")} if tensorrt is not None else {})
            for each in rows
        ],
    }
    console.data(terminal.eligible(rows, tensorrt), plain, as_json=args.json)
    return 1 if missing else 0


def _tensorrt_words(args: argparse.Namespace, model: Model) -> dict[str, str] | None:
    """What TensorRT said about each node; None without its log or layers."""
    from onnxprune.runtime.engines import sparsity

    if args.log is None and args.layers is None:
        return None
    words: dict[str, str] = {}
    for flag, path, read in (
        ("--log", args.log, lambda text: sparsity.from_log(text.splitlines())),
        ("--layers", args.layers, sparsity.from_inspector),
    ):
        if path is not None:
            try:
                text = Path(path).read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                raise OnnxpruneError(
                    f"{flag} {path} cannot be read: {error.strerror}", hint="check the path"
                ) from error
            with blame(flag):
                layers = sparsity.by_node(read(text), model)
            for node, layer in layers.items():
                if layer.picked or words.get(node) != "picked":
                    words[node] = sparsity.word(layer)
    return words
