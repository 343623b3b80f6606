"""Write the result of a run in the form of its options, and check that it can be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.jobs.results.schema import CheckRow, Report

if TYPE_CHECKING:
    from onnxprune.jobs.result import Result
    from onnxprune.jobs.store import Stored, StoredCheck
    from onnxprune.types import Check


@dataclass(frozen=True)
class Written:
    """A model on disk.

    Attributes:
        stored: the model and the form of its weights.
        tokenizer: its files beside the model, where a vocabulary was cut.
        check: of a file whose weights are in another form, which is read back and run; None for
            dense weights, without which the file would not be there.
    """

    stored: Stored
    check: StoredCheck | None
    tokenizer: tuple[Path, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the file reads back as intended."""
        return self.check is None or self.check.ok

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks of the file."""
        return () if self.check is None else self.check.checks

    def add_to(self, report: Report) -> Report:
        """The report with the checks and notes of the file."""
        from onnxprune.jobs.results.weights import stored_rows

        names = ", ".join(str(path) for path in self.tokenizer)
        if names:
            note = f"the tokenizer of the new ids was written: {names}"
            report = replace(report, notes=(*report.notes, note))
        if self.check is None:
            return replace(report, notes=(*report.notes, *self.stored.notes))
        checks = tuple(CheckRow(c.name, c.ok, c.value, c.limit) for c in self.check.checks)
        structure = report.structure
        if structure is not None:
            failed = tuple(f"{check.name}: {check.value:g}" for check in checks if not check.ok)
            structure = replace(
                structure,
                status="failed" if failed else structure.status,
                reasons=(*structure.reasons, *failed),
                checks=structure.checks + len(checks),
            )
        unread = tuple(f"cannot be read by {tool}" for tool in self.stored.unread)
        return replace(
            report,
            stored=stored_rows(self.stored),
            checks=(*report.checks, *checks),
            structure=structure,
            notes=(*report.notes, *self.stored.notes, *self.check.notes, *unread),
        )


def write(
    run: Result, output: Path, progress: Callable[[str], None], *, force: bool
) -> Written | None:
    """Write a pruned model and check the file; a bad one does not appear.

    Args:
        run: the result to write.
        output: the .onnx file.
        progress: called with a line on each stage.
        force: keep a file that does not read back, and weights that are not finite.

    Returns:
        None where a weight is not finite, so that nothing was written.

    Raises:
        OnnxpruneError: it cannot be written.
    """
    from onnxprune.jobs.finite_weights import NotFiniteError
    from onnxprune.jobs.store import check_stored
    from onnxprune.model.writing import DeclinedError

    progress(f"writing {output}")
    stored = run.stored(strict=not force)
    written = Written(stored, None)

    def accept(path: Path) -> bool:
        nonlocal written
        progress("reading it back and running it")
        written = Written(stored, check_stored(stored, path, run.config.shapes or None))
        return written.ok or force

    try:
        if run.narrowing is not None:
            run.narrowing.check_tokenizer(output)
        stored.save(output, certify=run.certify(stored), accept=accept if stored.changed else None)
        if run.narrowing is not None:
            files = run.narrowing.write_tokenizer(output)
            written = replace(written, tokenizer=tuple(files))
    except NotFiniteError:
        return None
    except DeclinedError:
        pass
    return written


def write_sound(
    run: Result, output: Path | None, progress: Callable[[str], None], *, force: bool
) -> tuple[Written | None, bool, bool]:
    """Write a result if nothing speaks against it, or all the same with ``force``.

    Args:
        run: the result to write.
        output: the .onnx file; None for a dry run.
        progress: called with a line on each stage.
        force: as `write`.

    Returns:
        The file, if one was written; whether the result and the file are as they should be; and
        whether the result is kept.

    Raises:
        OnnxpruneError: it cannot be written.
    """
    sound = run.writable or force
    written = write(run, output, progress, force=force) if sound and output else None
    ok = run.ok and (written is None or written.ok)
    return written, ok, ok or force
