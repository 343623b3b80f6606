"""Compare outputs on a backend: with the first model, with itself, with labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from onnxprune.data.batches import Array, Feeds
from onnxprune.data.labels import open_labels
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate import evaluation, metrics
from onnxprune.evaluate.metrics import Metric
from onnxprune.evaluate.output_comparison import Comparison, OutputComparison
from onnxprune.evaluate.protocol import Case
from onnxprune.evaluate.standard_error import paired_error, score_error
from onnxprune.evaluate.worker import PROCESS
from onnxprune.graph.interface import Interface
from onnxprune.jobs.bench.samples import Samples
from onnxprune.jobs.bench.schema import NoiseFloor, Score
from onnxprune.jobs.interface.mapped_data import new_ids
from onnxprune.jobs.results.gather import output_row
from onnxprune.jobs.results.schema import OutputRow
from onnxprune.runtime.process import Worker, WorkerError
from onnxprune.runtime.registry import Backend

Task: TypeAlias = tuple[Metric, object]
"""A metric, and where its labels are."""
NewComparison: TypeAlias = Callable[[], Comparison]
"""An empty comparison that knows which outputs of the first model are class scores."""


@dataclass(frozen=True)
class Agreement:
    """How close a model's outputs are to the first one's, over all samples.

    Attributes:
        outputs: one row per output; one that says why where they could not be compared.
        share: of samples whose best class is the same; None where no output holds class scores.
        error: its standard error.
    """

    outputs: tuple[OutputRow, ...] = ()
    share: float | None = None
    error: float | None = None


def compare_outputs(
    first: Worker,
    other: Worker,
    samples: Samples,
    new: NewComparison,
    interface: Interface | None = None,
) -> Agreement:
    """Outputs of a model against the first one's, on all samples; nothing is kept but sums.

    Args:
        first: the reference.
        other: the model.
        samples: inputs of the first.
        new: makes a comparison.
        interface: what the other changed of the inputs and outputs of the first; samples then have
            ids that remain in place of others.
    """
    comparison, changed = new(), interface or Interface()
    inside = Interface((), tuple(axis for axis in changed.outputs if axis.inside))
    try:
        for samples_of_both in samples.judged():
            feeds = changed.project(samples_of_both)
            expected = changed.cut_outputs(first.ask("outputs", feeds=feeds))
            actual = other.ask("outputs", feeds=changed.cut_inputs(feeds))
            comparison.add(expected, inside.cut_outputs(actual))
        results = tuple(comparison.result().values())
    except (OnnxpruneError, WorkerError) as error:
        return Agreement((output_row(OutputComparison("all", reason=str(error))),))
    rows = tuple(map(output_row, results))
    answers = next((each for each in results if each.top1 is not None), None)
    if answers is None:
        return Agreement(rows)
    return Agreement(rows, answers.top1, answers.top1_error)


def noise_floor(
    backend: Backend, optimised: Worker, case: Case, samples: Samples, new: NewComparison
) -> NoiseFloor:
    """How far the first model is from itself, not optimised, on the same samples.

    Where a backend's optimisation cannot be turned off, onnxruntime's on the CPU is, so that the
    difference is all that the backend does otherwise, its precision included.

    Raises:
        OnnxpruneError: the model does not run without optimisation.
        WorkerError: a process died.
    """
    against = backend.name if "unoptimised" in backend.capabilities else "cpu"
    comparison = new()
    with Worker(PROCESS) as plain:
        plain.ask(
            "open",
            name=against,
            path=str(case.paths[0]),
            threads=case.threads,
            optimise=False,
            shapes=[],
        )
        for feeds in samples.judged():
            comparison.add(*(each.ask("outputs", feeds=feeds) for each in (plain, optimised)))
    rows = tuple(output_row(each) for each in comparison.result().values())
    return NoiseFloor(backend.name, f"{against}, optimisation off", rows)


def score(
    worker: Worker, samples: Samples, task: Task, interface: Interface | None = None
) -> metrics.Score:
    """The task metric of a model, and what every sample adds to it.

    Args:
        worker: the model.
        samples: inputs of the original.
        task: the metric and the labels, in the numbers of the original.
        interface: what the model changed of the inputs and outputs of the original.

    Raises:
        OnnxpruneError: the labels do not fit, or the model does not run.
        WorkerError: a process died.
    """
    known = evaluation.Task(task[0], labels_of(samples, task))
    changed = interface or Interface()

    def run(feeds: Feeds) -> Mapping[str, Any]:
        outputs = worker.ask("outputs", feeds=new_ids(feeds, changed))
        return changed.restore_outputs(outputs) if changed else outputs

    return evaluation.score_model(run, samples.judged(), known)


def labels_of(samples: Samples, task: Task) -> Array:
    """The labels of all samples.

    Raises:
        OnnxpruneError: they cannot be read, or do not fit.
    """
    metric, spec = task
    source, form = samples.calibration, metric.name if metric.function is None else None
    return open_labels(spec, source.indices, metric=form, samples=source)


def compare_scores(
    metric: Metric, first: metrics.Score | None, other: metrics.Score | None
) -> Score:
    """The metric of two models on the same samples; None where one could not be scored."""
    before, after = (None if each is None else each.value for each in (first, other))
    both = first is not None and other is not None and first is not other
    error = paired_error(metric, first, other) if both else None  # type: ignore[arg-type]
    own = None if other is None else score_error(metric, other)
    samples = None if other is None or other.counts is None else len(other.counts)
    return Score(metric.name, before, after, error, own, samples)
