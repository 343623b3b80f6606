"""``onnxprune advise``: what pays on a model and the backends it ships on."""

from __future__ import annotations

import argparse
import importlib.metadata
from dataclasses import asdict
from pathlib import Path

from onnxprune.cli import console
from onnxprune.cli.parser import Commands, add_command, add_model, add_shapes
from onnxprune.quantities import count, shapes

_EXAMPLE = """examples:
  onnxprune advise model.onnx
  onnxprune advise model.onnx --on cpu,openvino,tensorrt --calib images.npz"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "say what pays on a model and the backends it ships on, and when not to prune"
    parser = add_command(commands, "advise", run, about=about, example=_EXAMPLE)
    add_model(parser)
    add = parser.add_argument
    add("--on", metavar="NAMES", default="cpu", help="backends, as in cpu,openvino (cpu)")
    add("--calib", metavar="SPEC", help="inputs: .npz, .npy, a folder, module.py:function")
    add("--preprocess", metavar="SPEC", help="what turns raw pictures into inputs")
    add("--batch", metavar="N", help="samples in a run (1, or what the model fixes)")
    add("--threads", metavar="N", help="of the runtimes (their own choice)")
    add_shapes(parser)


def run(given: argparse.Namespace) -> int:
    """Measure the model and print advice.

    Raises:
        OnnxpruneError: the model or the inputs cannot be used, or a backend is unknown.
    """
    batch, threads = (
        None if text is None else count(text, of=of, least=1)
        for text, of in ((given.batch, "--batch"), (given.threads, "--threads"))
    )
    sizes = shapes(given.shapes) if given.shapes else None

    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.jobs.advise.job import look
    from onnxprune.jobs.results.schema import plain
    from onnxprune.report import terminal
    from onnxprune.runtime.registry import parse

    with console.progress() as tell:
        known, advice = look(
            Path(given.model),
            [each.name for each in parse(given.on)],
            calib=given.calib,
            preprocess=given.preprocess,
            shapes=sizes,
            batch=batch,
            threads=threads,
            tell=tell,
        )
    told = {
        "schema": "onnxprune.advise",
        "version": 1,
        "onnxprune": importlib.metadata.version("onnxprune"),
        "evidence": plain(asdict(known)),
        "advice": [plain(asdict(each)) for each in advice],
    }
    shown = terminal.advice(known, advice, verbose=given.verbose)
    console.data(shown, told, as_json=given.json)
    return 0
