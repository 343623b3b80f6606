"""Draw the page and picture of a result, and its view in a notebook.

Results belong to the rooms below this one, so their methods find these functions by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.jobs.assessed import Assessed, assessed
from onnxprune.jobs.results import gather
from onnxprune.jobs.results.schema import CheckRow, to_json
from onnxprune.report import columns, drawing, plots, sections
from onnxprune.report.documents import Document
from onnxprune.report.families import families
from onnxprune.report.html.markup import code, drawn, join, listed, table, tag
from onnxprune.report.html.page import save_page
from onnxprune.report.tables import Tone

if TYPE_CHECKING:
    from onnxprune.jobs.advise.evidence import Evidence
    from onnxprune.jobs.advise.methods import Advice
    from onnxprune.jobs.eval import Assessment
    from onnxprune.jobs.result import Result
    from onnxprune.jobs.verify import Verification


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
    return _outlined(
        report.model.name, sections.verdicts(report), sections.of_run(report), report.notes
    )


def assessment_page(result: Assessment, path: Path) -> Path:
    """Write the page of a measurement.

    Raises:
        OnnxpruneError: the file cannot be written.
    """
    save_page([Document(_assessed(result))], path)
    return path


def assessment_html(result: Assessment) -> str:
    """A measurement, for a notebook: the verdicts and the tables of its page."""
    document = _assessed(result)
    return _outlined(
        document.model,
        sections.assessment_verdicts(document),
        sections.of_assessment(document),
        document.notes,
    )


def verification_html(result: Verification) -> str:
    """What `verify` found, for a notebook: the verdicts and the checks."""
    tones: dict[str, Tone] = {"verified": "good", "failed": "bad"}
    verdicts = [
        sections.Verdict("Structure", result.structure, tones.get(result.structure, "soft"))
    ]
    verdicts += [] if result.quality is None else [sections.quality(result.quality)]
    rows = [CheckRow(each.name, each.ok, each.value, each.limit) for each in result.checks]
    table = columns.checks()
    part = sections.Part("Result", table.title, table, rows)
    return _outlined(result.model.name, verdicts, [part], result.notes)


def _assessed(result: Assessment) -> Assessed:
    """The document of a measurement, with sizes of the models where these are files."""
    paths = [each for each in (result.model, result.against) if each is not None]
    shapes = result.shapes if all(Path(each).is_file() for each in paths) else None
    return assessed(result, result.model, result.against, shapes=shapes)


def _outlined(
    name: str,
    verdicts: Iterable[sections.Verdict],
    parts: Iterable[sections.Part],
    notes: Sequence[str],
) -> str:
    """Verdicts, tables without details, and notes, without a style of their own."""
    return str(
        join(
            tag("p", tag("strong", name)),
            *[
                tag("p", f"{each.subject}: ", tag("strong", each.word), f" {each.details}".rstrip())
                for each in verdicts
            ],
            *[drawn(part) for part in parts if not part.detail],
            listed("Notes", notes) if notes else None,
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
