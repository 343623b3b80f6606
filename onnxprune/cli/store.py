"""``onnxprune store``: smaller files for weights with zeros, which runtimes decode at load."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command, add_form, add_model, add_shapes
from onnxprune.cli.prune import finish
from onnxprune.jobs.results.schema import CheckRow
from onnxprune.jobs.results.weights import stored_rows
from onnxprune.quantities import byte_count, shapes
from onnxprune.report import terminal

if TYPE_CHECKING:
    from onnxprune.evaluate.equivalence import Check
    from onnxprune.sparse.encodings.choose import Asked

_EXAMPLE = """examples:
  onnxprune store sparse.onnx -o small.onnx                        # the smallest form per weight
  onnxprune store sparse.onnx --store packed --values fp16 -o small.onnx
  onnxprune store sparse.onnx --for cpu,openvino -o small.onnx     # only what both of them read
  onnxprune densify small.onnx -o dense.onnx                       # and back

Sparse storage is not sparse compute: a runtime makes the weights dense again when it loads them.
"""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "store weights with zeros in less space; runtimes decode them when they load"
    parser = add_command(commands, "store", run, about=about, example=_EXAMPLE)
    add_model(parser)
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="what is written")
    parser.add_argument("--force", action="store_true", help="write even if a check is bad")
    group = parser.add_argument_group("how")
    add_form(group)
    add = group.add_argument
    add(
        "--values",
        choices=("exact", "fp32", "fp16", "int8"),
        default="exact",
        metavar="TYPE",
        help="what floats of packed weights may become: exact, fp32, fp16 or int8",
    )
    add(
        "--for",
        dest="purpose",
        metavar="NAMES",
        default="cpu",
        help="providers, as in cpu,openvino",
    )
    add(
        "--ram-limit", metavar="BYTES", help="memory for decoding at load (a quarter of this one's)"
    )
    add("--always", action="store_true", help="take the form even where it is larger")
    add_shapes(parser)


def run(given: argparse.Namespace) -> int:
    """Store, write, read back, run, and print what became of every weight.

    Raises:
        OnnxpruneError: the model cannot be read, or nothing can be written.
    """
    source = Path(given.model)
    output = destination.check("-o", given.output, {"the model": source})
    assert output is not None
    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.jobs.store.check import prove
    from onnxprune.jobs.store.job import store
    from onnxprune.sparse.encodings.files import file_bytes, take_back

    with console.progress() as tell:
        tell(f"reading {source}")
        made = store(source, asked(given))
        tell(f"writing {output}")
        made.save(output)
        tell("reading it back and running it")
        proof = prove(made, output, shapes(given.shapes) if given.shapes else None)
    sizes = (file_bytes(source), file_bytes(output))
    wanted = proof.ok or given.force
    if not wanted:
        take_back(output)
    rows, notes = stored_rows(made), (*made.notes, *proof.notes)
    plain = {
        "schema": "onnxprune.store",
        "version": 1,
        "ok": proof.ok,
        "model": str(source),
        "bytes": {"before": sizes[0], "after": sizes[1]},
        "weights": [asdict(row) for row in rows],
        "checks": [_check(check) for check in proof.checks],
        "unread": list(made.unread),
        "notes": list(notes),
        "output": str(output) if wanted else None,
    }
    shown = terminal.storing(rows, sizes, _checks(proof.checks), notes, made.unread)
    console.data(shown, plain, as_json=given.json)
    return finish(ok=proof.ok, wrote=wanted, output=output)


def asked(given: argparse.Namespace) -> Asked:
    """What the flags ask for.

    Raises:
        OnnxpruneError: they contradict each other, or name a provider that does not exist.
    """
    from onnxprune.runtime.providers import named
    from onnxprune.sparse.encodings.choose import Asked

    names = [name.strip() for name in given.purpose.split(",") if name.strip()]
    return Asked(
        form=given.store or "auto",
        values=given.values,
        providers=tuple(named(name).name for name in names) or ("cpu",),
        ram=None if given.ram_limit is None else byte_count(given.ram_limit, of="--ram-limit"),
        always=given.always,
    )


def _check(check: Check) -> dict[str, object]:
    value = check.value if math.isfinite(check.value) else str(check.value)  # JSON has no infinity
    return asdict(check) | {"value": value}


def _checks(checks: tuple[Check, ...]) -> list[CheckRow]:
    return [CheckRow(each.name, each.ok, each.value, each.limit) for each in checks]
