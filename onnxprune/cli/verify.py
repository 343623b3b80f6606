"""``onnxprune verify``: whether a written model is what it claims to be."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from onnxprune.cli import console
from onnxprune.cli.parser import Commands, add_command, add_options, given_options
from onnxprune.config import split
from onnxprune.errors import OnnxpruneError, named_as
from onnxprune.jobs.results.schema import CheckRow

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.jobs.verify import Verification

_EXAMPLE = """examples:
  onnxprune verify small.onnx --dense model.onnx
  onnxprune verify small.onnx --dense model.onnx --data images.npz
  onnxprune verify small.onnx --dense model.onnx --plan plan.json

The certificate is read from the metadata of the model and from small.certificate.json beside it.
A model without one is compared with the dense model all the same. A file whose digest is not that
of its certificate is refused unread. The exit code is 0 if the model is what it claims to be, 1 if
it is not, and 2 if a file cannot be read."""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "check that a written model is what its certificate says"
    parser = add_command(commands, "verify", run, about=about, example=_EXAMPLE)
    parser.add_argument("model", metavar="SMALL", help="the .onnx file to check")
    parser.add_argument(
        "--dense", metavar="DENSE", required=True, help="the .onnx file that it was made from"
    )
    files = (
        ("--data", "DATA", "samples to measure the quality on, as --calib takes them"),
        ("--plan", "PLAN", "a plan that is said to have been applied"),
    )
    add_options(parser, "verify", files)


def run(args: argparse.Namespace) -> int:
    """Verify a model and print the checks.

    Raises:
        OnnxpruneError: a file cannot be read (exit code 2), or the model is not what it claims to
            be (exit code 1).
    """
    options = given_options(args, "verify")
    if args.data is not None:
        if "calib" in options:
            raise OnnxpruneError("--data and --calib are one option", hint="give --data alone")
        options["calib"] = args.data
    (config,) = split("verify", options)
    # Imported here so that --help and refused flags do not wait for onnx.
    from onnxprune.jobs.verify import NOT_BROKEN, OTHER_DATA, OTHER_DENSE, OTHER_GRAPH, verify

    names = {} if args.data is None else {"--calib": "--data"}
    with named_as(names), console.progress() as progress:
        result = verify(args.model, args.dense, config, plan=args.plan, progress=progress)
    console.data(_view(result, verbose=args.verbose), plain(result), as_json=args.json)
    if not result.ok:
        failed = next(each for each in result.checks if not each.ok)
        hint = "get the file again from where it was made, or make it again"
        message = f"{args.model} is not what it claims to be: {failed.name}"
        what = {OTHER_GRAPH: f"{args.model} has", OTHER_DATA: f"the weights of {args.model} have"}
        if failed.name in what:
            message = f"{what[failed.name]} another digest than the certificate states"
        document = (result.certificate and result.certificate.document) or {}
        name = document.get("dense", {}).get("name")
        if failed.name == OTHER_DENSE and name:
            hint = f"it was made from {name}: give that with --dense"
        if failed.name.startswith(NOT_BROKEN) and result.quality is not None:
            message = f"{args.model} is broken: {result.quality.reasons[0]}"
            hint = "check that --data are prepared as the model expects them; else make it again"
        raise OnnxpruneError(message, hint=hint, exit_code=1)
    if result.quality is not None and result.quality.status in ("degraded", "broken"):
        console.warning(f"{args.model} is {result.quality.status}: {result.quality.reasons[0]}")
    claims = "is what its certificate says" if result.certificate else "was made from the dense one"
    console.done(f"{args.model} {claims}")
    return 0


def plain(result: Verification) -> dict[str, object]:
    """The checks, the verdicts and the plan, as JSON values."""
    from onnxprune.jobs.certificate import plain as as_json

    claim, plan = result.certificate, result.plan
    return {
        "schema": "onnxprune.verify",
        "version": 1,
        "ok": result.ok,
        "model": str(result.model),
        "dense": str(result.dense),
        "certificate": None
        if claim is None
        else {
            "command": claim.command,
            "complete": claim.document is not None,
            "files": [dict(each) for each in claim.files],
            "structure": claim.structure,
            "quality": claim.quality,
        },
        "structure": result.structure,
        "removed": {} if plan is None else {name: len(u) for name, u in plan.removed.items()},
        "bypassed": [] if plan is None else list(plan.bypassed),
        "zeroed": {} if plan is None else {n: m.size - m.kept for n, m in plan.zeroed.items()},
        "changed": list(result.changed),
        "interface": json.loads(result.interface.to_json()) if result.interface else None,
        "quality": as_json(result.quality),
        "checks": as_json(result.checks),
        "notes": list(result.notes),
    }


def _view(result: Verification, *, verbose: bool) -> RenderableType:
    """The verdict, the checks and the notes."""
    from rich.text import Text

    from onnxprune.report import columns, sections, terminal

    checks = [CheckRow(each.name, each.ok, each.value, each.limit) for each in result.checks]
    table = columns.checks()
    lines = [Text(f"{result.model.name}: structure {result.structure}", "bold")]
    if result.plan is not None:
        units = sum(map(len, result.plan.removed.values()))
        lines.append(
            Text(
                f"{units} units of {len(result.plan.removed)} groups and "
                f"{len(result.plan.bypassed)} blocks are gone; "
                f"{len(result.changed)} weights have other values"
            )
        )
    if result.interface:
        from onnxprune.jobs.interface.alignment import amounts

        lines.append(Text("; ".join(amounts(result.interface))))
    if result.certificate is not None and result.certificate.quality:
        lines.append(Text(f"quality as stated: {result.certificate.quality}"))
    if result.quality is not None:
        verdict = sections.quality(result.quality)
        lines.append(Text(f"Quality: {verdict.word}, {verdict.details}"))
    part = sections.Part("", table.title, table, checks)
    return terminal.listed([part], result.notes, verbose=verbose, head=lines)
