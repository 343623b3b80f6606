"""``onnxprune inspect``: what can be removed from a model, and what cannot and why."""

from __future__ import annotations

import argparse

from onnxprune.amounts import shapes
from onnxprune.cli import console
from onnxprune.cli.parser import Commands, add_command, add_model, add_shapes

_EXAMPLE = """example:
  onnxprune inspect model.onnx"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "show what can be removed from a model, and what cannot and why"
    parser = add_command(commands, "inspect", run, about=about, example=_EXAMPLE)
    add_model(parser)
    add_shapes(parser)


def run(given: argparse.Namespace) -> int:
    """Analyse the model and print what was found.

    Raises:
        OnnxpruneError: the model cannot be loaded or analysed.
    """
    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune import model as models
    from onnxprune.analysis import analyse
    from onnxprune.report import gather

    inputs = shapes(given.shapes) if given.shapes else None
    with console.progress() as tell:
        tell(f"reading {given.model}")
        model = models.load(given.model)
        tell("finding what can be removed")
        analysis = analyse(model, inputs=inputs)
        made = gather.inspection(analysis)
    console.report(made, as_json=given.json)
    return 0
