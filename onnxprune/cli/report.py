"""``onnxprune report``: one page of the JSON of runs, to read, send and print."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.cli import console, destination
from onnxprune.cli.parser import Commands, add_command

if TYPE_CHECKING:
    from onnxprune.jobs.assessed import Assessed
    from onnxprune.jobs.results.schema import Report

_EXAMPLE = """examples:
  onnxprune prune model.onnx --target macs=50% --calib images.npz -o small.onnx --json > run.json
  onnxprune bench model.onnx small.onnx --backend cpu --json > bench.json
  onnxprune report run.json bench.json -o report.html"""

PAGE = ("--report", "HTML", "write the report as an HTML page too")
"""The flag by which a command writes its report as a page too."""


def add(commands: Commands) -> None:
    """Put the command into the list."""
    about = "make one HTML page of the JSON that prune, eval, bench and sensitivity print"
    parser = add_command(commands, "report", run, about=about, example=_EXAMPLE, as_json=False)
    parser.add_argument("files", metavar="RUN.json", nargs="+", help="reports as JSON, of any kind")
    parser.add_argument("-o", "--output", metavar="HTML", required=True, help="file for the page")
    parser.add_argument(
        "--figure", metavar="PATH", help="draw the trade-off charts too: .png or .svg"
    )


def run(args: argparse.Namespace) -> int:
    """Read the documents and write the page.

    Raises:
        OnnxpruneError: a file is no document of ours, or the page cannot be written.
    """
    files: dict[str, object] = {f"the report {name}": name for name in args.files}
    files["-o"] = output = destination.check("-o", args.output, files, "page")
    picture = destination.check("--figure", args.figure, files, "picture")
    assert output is not None  # it is required

    # Imported here so that --help and refused flags do not wait.
    from onnxprune.report import drawing, plots
    from onnxprune.report.documents import read_documents
    from onnxprune.report.families import families
    from onnxprune.report.html.page import save_page

    if picture is not None:
        drawing.check(picture, "--figure")
    documents = read_documents(args.files)
    if picture is not None:
        drawing.save(plots.of_families(families(documents)), picture)
        console.wrote(picture)
    save_page(documents, output)
    console.wrote(output)
    return 0


def save(report: Report | Assessed, path: Path | None) -> None:
    """Write the page of this run, if --report asks for one.

    Raises:
        OnnxpruneError: it cannot be written.
    """
    if path is None:
        return
    from onnxprune.report.documents import Document
    from onnxprune.report.html.page import save_page

    save_page([Document(report)], path)
    console.wrote(path)
