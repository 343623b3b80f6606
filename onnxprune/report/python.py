"""Draw the page and picture of a result, and its view in a notebook.

Results belong to the rooms below this one, so their methods find these functions by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.jobs.results import gather
from onnxprune.jobs.results.schema import to_json
from onnxprune.report import columns, drawing, plots, sections
from onnxprune.report.documents import Document
from onnxprune.report.families import families
from onnxprune.report.html.markup import code, drawn, join, listed, table, tag
from onnxprune.report.html.page import save_page

if TYPE_CHECKING:
    from onnxprune.jobs.advise.evidence import Evidence
    from onnxprune.jobs.advise.methods import Advice
    from onnxprune.jobs.result import Result


def page(result: Result, path: Path) -> Path:
    """Write the page of a run.

    Raises:
        OnnxpruneError: the file cannot be written.
    """
    save_page([_document(result)], path)
    return path


def picture(result: Result, path: Path) -> Path:
    """Draw quality against cost: the dense model, the pruned one, and those on the way.

    Raises:
        OnnxpruneError: nothing says how good the models are, or the file cannot be written.
    """
    drawing.check(path, "the file")
    drawing.save(plots.of_families(families([_document(result)])), path)
    return path


def document(result: Result) -> dict[str, Any]:
    """The JSON of a run, as ``--json`` prints it."""
    return to_json(gather.result(result.command, result, None))


def html(result: Result) -> str:
    """The outcome, for a notebook: no details, no style of its own."""
    report = gather.result(result.command, result, None)
    parts = [part for part in sections.of_run(report) if not part.detail]
    return str(
        join(
            tag("p", tag("strong", report.model.name)),
            *[
                tag("p", f"{each.subject}: ", tag("strong", each.word), f" {each.details}".rstrip())
                for each in sections.verdicts(report)
            ],
            *map(drawn, parts),
            listed("Notes", report.notes) if report.notes else None,
        )
    )


def advice(evidence: Evidence, rows: Sequence[Advice]) -> str:
    """Advice for a notebook: what pays and why, and the commands to run next."""
    commands = dict.fromkeys(each.command for each in rows if each.command)
    return str(
        join(
            tag("p", tag("strong", evidence.model)),
            table(columns.ADVICE, rows),
            tag("p", sections.ADVICE_ABOUT),
            tag("pre", code("\n".join(commands))) if commands else None,
        )
    )


def _document(result: Result) -> Document:
    return Document(gather.result(result.command, result, None))
