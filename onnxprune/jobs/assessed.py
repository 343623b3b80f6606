"""The document of ``eval``: a model measured on data, as plain data with a version."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.jobs.bench.rows import model_rows
from onnxprune.jobs.bench.schema import ModelRow
from onnxprune.jobs.results.gather import comparison_rows
from onnxprune.jobs.results.schema import CheckRow, OutputRow, plain
from onnxprune.types import Quality, Structure, Tails

if TYPE_CHECKING:
    from onnxprune.jobs.eval import Assessment

SCHEMA = "onnxprune.eval"
VERSION = 1
"""Raised when a field changes its meaning or goes away; a new field does not raise it."""


@dataclass(frozen=True)
class MetricRow:
    """The task metric.

    Attributes:
        name: empty without labels.
        value, error: of the model, and its standard error; None where unknown.
        dense: of the dense model; None without one.
        change_error: standard error of the change, both models having seen the same samples.
        higher_is_better: the direction of the metric.
    """

    name: str
    value: float | None
    error: float | None
    dense: float | None
    change_error: float | None
    higher_is_better: bool


@dataclass(frozen=True)
class Assessed:
    """A model measured on data.

    Attributes:
        model, against: paths of the model and of the dense one; None for a model alone.
        metric: the task metric.
        samples: number of samples.
        structure: whether the model is the dense one with parts removed.
        quality: whether it does what the dense model does.
        onnxprune: version of the program; empty in documents of earlier versions.
        measure: of the drop: the metric, else ``agreement`` or ``cosine``.
        available: samples that the data hold; None where that is unknown.
        models: sizes of the dense model, if there is one, and of the model.
        outputs: comparison with the dense model.
        tails: classes, the worst samples, sizes of objects, and groups of samples.
        checks: the limit of the drop, where there is one.
        notes: whole sentences.
        argv: the command line as it was run, program first.
    """

    model: str
    against: str | None
    metric: MetricRow
    samples: int
    structure: Structure
    quality: Quality
    onnxprune: str = ""
    measure: str = ""
    available: int | None = None
    models: tuple[ModelRow, ...] = ()
    outputs: tuple[OutputRow, ...] = ()
    tails: Tails | None = None
    checks: tuple[CheckRow, ...] = ()
    notes: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()


def assessed(
    result: Assessment,
    model: str,
    against: str | None,
    argv: Sequence[str] = (),
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Assessed:
    """The document of an assessment.

    Args:
        result: of `eval`.
        model: path of the model.
        against: path of the dense model, if there is one.
        argv: the command line.
        shapes: sizes of inputs, to count MACs with; None leaves the sizes of the models out.

    Raises:
        OnnxpruneError: a file cannot be read.
    """
    evaluation = result.evaluation
    paths = [Path(each) for each in (against, model) if each is not None]
    return Assessed(
        model=model,
        against=against,
        metric=MetricRow(
            result.metric,
            result.value,
            result.error,
            evaluation.before,
            evaluation.metric_error,
            evaluation.higher_is_better,
        ),
        samples=evaluation.samples,
        structure=result.structure,
        quality=result.quality,
        onnxprune=importlib.metadata.version("onnxprune"),
        measure=evaluation.measure,
        available=evaluation.available,
        models=() if shapes is None else model_rows(paths, shapes),
        outputs=comparison_rows(evaluation),
        tails=evaluation.tails,
        checks=tuple(
            CheckRow(each.name, each.ok, each.value, each.limit) for each in result.checks
        ),
        notes=result.notes,
        argv=tuple(argv),
    )


def to_json(document: Assessed, result: Assessment) -> dict[str, object]:
    """The document as JSON values, with every figure of the outputs."""
    head = {"schema": SCHEMA, "version": VERSION, "ok": result.ok}
    values = {name: plain(value) for name, value in asdict(document).items()}
    outputs = [plain(asdict(each)) for each in result.evaluation.outputs.values()]
    return head | values | {"outputs": outputs}
