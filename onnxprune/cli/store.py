"""``onnxprune store``: smaller files for weights with zeros, which runtimes decode at load."""

from __future__ import annotations

import argparse
import math
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command, add_model, add_options, given_options
from onnxprune.cli.prune import finish
from onnxprune.config import split
from onnxprune.jobs.results.schema import CheckRow
from onnxprune.jobs.results.weights import stored_rows
from onnxprune.report import terminal

if TYPE_CHECKING:
    from onnxprune.types import Check

_EXAMPLE = """examples:
  onnxprune store sparse.onnx -o small.onnx                        # the smallest form per weight
  onnxprune store sparse.onnx --store packed --values fp16 -o small.onnx
  onnxprune store sparse.onnx --backend cpu,openvino -o small.onnx     # only what both of them read
  onnxprune densify small.onnx -o dense.onnx                       # and back

Sparse storage is not sparse compute: a runtime makes the weights dense again when it loads them.
"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "store weights with zeros in less space; runtimes decode them when they load"
    parser = add_command(commands, "store", run, about=about, example=_EXAMPLE)
    add_model(parser)
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="file for the stored model"
    )
    parser.add_argument("--force", action="store_true", help="write even if a check fails")
    add_options(parser, "store")


def run(args: argparse.Namespace) -> int:
    """Store, write, read back, run, and print the form of every weight.

    Raises:
        OnnxpruneError: the model cannot be read, or nothing can be written.
    """
    (config,) = split("store", given_options(args, "store"))
    source = Path(args.model)
    output = destination.check("-o", args.output, {"the model": source}, "model")
    assert output is not None
    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.jobs.store import StoredCheck, check_stored, store
    from onnxprune.model.writing import DeclinedError, file_bytes

    with console.progress() as progress:
        progress(f"reading {source}")
        stored = store(source, config)
        result, after = StoredCheck(()), 0

        def accept(path: Path) -> bool:
            nonlocal result, after
            progress("reading it back and running it")
            result, after = check_stored(stored, path, config.shapes or None), file_bytes(path)
            return result.ok or args.force

        progress(f"writing {output}")
        with suppress(DeclinedError):
            stored.save(output, accept=accept)
    sizes = (file_bytes(source), after)
    keep = result.ok or args.force
    rows, notes = stored_rows(stored), (*stored.notes, *result.notes)
    plain = {
        "schema": "onnxprune.store",
        "version": 1,
        "ok": result.ok,
        "model": str(source),
        "bytes": {"before": sizes[0], "after": sizes[1]},
        "weights": [asdict(row) for row in rows],
        "checks": [_check(check) for check in result.checks],
        "unread": list(stored.unread),
        "notes": list(notes),
        "output": str(output) if keep else None,
    }
    checks = _checks(result.checks)
    view = terminal.storing(
        rows,
        sizes,
        checks,
        notes,
        stored.unread,
        files=(source.name, str(output) if keep else None),
        verbose=args.verbose,
    )
    console.data(view, plain, as_json=args.json)
    return finish(
        ok=result.ok,
        wrote=keep,
        output=output,
        advice="take another form, as in --store dense",
        checks=result.checks,
    )


def _check(check: Check) -> dict[str, object]:
    value = check.value if math.isfinite(check.value) else str(check.value)  # JSON has no infinity
    return asdict(check) | {"value": value}


def _checks(checks: tuple[Check, ...]) -> list[CheckRow]:
    return [CheckRow(each.name, each.ok, each.value, each.limit) for each in checks]
