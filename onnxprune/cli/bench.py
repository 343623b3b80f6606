"""``onnxprune bench``: what models really cost on the backends they ship on."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command, add_shapes
from onnxprune.errors import OnnxpruneError
from onnxprune.quantities import count, shapes

if TYPE_CHECKING:
    from onnxprune.evaluate.protocol import Settings

_EXAMPLE = """examples:
  onnxprune bench dense.onnx pruned.onnx
  onnxprune bench dense.onnx pruned.onnx --on cpu,openvino --batch 1,8 -o latency.png
  onnxprune bench dense.onnx pruned.onnx --calib images.npz --labels labels.npy --json
  onnxprune bench --list"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "measure models beside each other on the backends they ship on"
    parser = add_command(commands, "bench", run, about=about, example=_EXAMPLE)
    parser.add_argument(
        "models", metavar="MODEL", nargs="*", help=".onnx files; the first is compared with"
    )
    add = parser.add_argument
    add("--list", action="store_true", help="list backends, and how to get those not available")
    add("--on", metavar="NAMES", default="cpu", help="backends, as in cpu,openvino (cpu)")
    add("-o", "--output", metavar="OUT", help="draw ratios and distributions: .png or .svg")
    how = parser.add_argument_group("how")
    add = how.add_argument
    add("--batch", metavar="N", help="samples in a run, as in 1,8 (1, or what the model fixes)")
    add("--threads", metavar="N", help="of the runtime, as in 1,2 (its own choice)")
    add("--processes", metavar="N", help="fresh processes of each model, one after another (6)")
    add("--rounds", metavar="N", help="interleaved rounds in each of them (10)")
    add("--seed", metavar="N", help="of everything random (0)")
    data = parser.add_argument_group("data")
    add = data.add_argument
    add("--calib", metavar="SPEC", help="inputs: .npz, .npy, a folder, module.py:function")
    add("--calib-samples", metavar="N", help="compare outputs on at most this many (256)")
    add("--preprocess", metavar="SPEC", help="what turns raw pictures into inputs")
    add("--labels", metavar="SPEC", help="labels of these inputs")
    add("--metric", metavar="NAME", default="accuracy", help="accuracy, top5, mse, nats, ...")
    add_shapes(data)


def run(given: argparse.Namespace) -> int:
    """Measure, or list what could be measured on.

    Raises:
        OnnxpruneError: there is nothing to measure, or the flags, a model or the data cannot be
            used.
    """
    if given.list:
        return _list(given)
    if not given.models:
        raise OnnxpruneError(
            "there is no model to measure", hint="as in onnxprune bench dense.onnx pruned.onnx"
        )
    files = {f"model {k + 1}": path for k, path in enumerate(given.models)}
    picture = destination.check("-o", given.output, {**files, "--calib": given.calib})

    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.jobs.bench import schema
    from onnxprune.jobs.bench.job import Asked, bench
    from onnxprune.report import drawing, plots, terminal
    from onnxprune.runtime.registry import parse

    if picture is not None:
        drawing.check(picture, "-o")
    asked = Asked(
        models=tuple(Path(path) for path in given.models),
        backends=tuple(each.name for each in parse(given.on)),
        batches=_counts(given.batch, "--batch"),
        threads=_counts(given.threads, "--threads") or (None,),
        calib=given.calib,
        preprocess=given.preprocess,
        shapes=shapes(given.shapes) if given.shapes else {},
        samples=count(given.calib_samples or 256, of="--calib-samples", least=1),
        labels=given.labels,
        metric=given.metric,
        protocol=_protocol(given),
    )
    with console.progress() as tell:
        made = bench(asked, tell=tell)
        if picture is not None and made.rows:
            drawing.save(plots.of_bench(made), picture)
    shown = terminal.bench(made, verbose=given.verbose)
    console.data(shown, schema.to_json(made), as_json=given.json)
    if not made.rows:
        raise OnnxpruneError("nothing could be measured", hint="the reasons are listed above")
    if picture is not None:
        console.done(f"Wrote {picture}")
    return 0


def _protocol(given: argparse.Namespace) -> Settings:
    from onnxprune.evaluate.protocol import Settings

    asked = {
        name: count(text, of=f"--{name}", least=0 if name == "seed" else 1)
        for name in ("processes", "rounds", "seed")
        if (text := getattr(given, name)) is not None
    }
    return replace(Settings(), **asked)


def _counts(text: str | None, of: str) -> tuple[int, ...]:
    parts = [] if text is None else text.split(",")
    return tuple(dict.fromkeys(count(part.strip(), of=of, least=1) for part in parts))


def _list(given: argparse.Namespace) -> int:
    from onnxprune.report import terminal
    from onnxprune.runtime.registry import backends

    with console.progress() as tell:
        tell("looking for backends")
        found = [(each, each.available()) for each in backends()]
    rows = [
        {"name": one.name, "summary": one.summary, "install": one.install, **asdict(state)}
        for one, state in found
    ]
    plain = {"schema": "onnxprune.backends", "version": 1, "backends": rows}
    console.data(terminal.backends(found), plain, as_json=given.json)
    return 0
