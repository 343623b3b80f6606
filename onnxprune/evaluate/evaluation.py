"""Outputs and task metric of a pruned model against the dense one, on held-out inputs."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.config import BenchOptions, Options
from onnxprune.data.batches import count_samples, in_types_of
from onnxprune.data.boxes import count_pictures
from onnxprune.data.dataset import Feeds, Part
from onnxprune.data.labels import read_vocabulary
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.class_scores import meaning_test, undecided
from onnxprune.evaluate.dense_check import DenseCheck, label_notes, overscaled_input
from onnxprune.evaluate.metrics import Metric, Reading, Score, chance_level, find_metric, score
from onnxprune.evaluate.output_comparison import (
    Comparison,
    MeaningTest,
    OutputComparison,
    Outputs,
)
from onnxprune.evaluate.sample_statistics import agreement_error
from onnxprune.evaluate.standard_error import count_pairs, mean_error, paired_error, score_error
from onnxprune.evaluate.tails import find_tails
from onnxprune.graph.surgery import interface_of, without_scattering
from onnxprune.model import Model, part_names, shared_parts
from onnxprune.runtime import open_session
from onnxprune.types import Tails


@dataclass(frozen=True)
class Evaluation:
    """A pruned model compared with the dense one.

    Attributes:
        outputs: comparisons by output name.
        metric: name of the task metric; empty without labels.
        before, after: the metric of the dense and of the pruned model.
        higher_is_better: the direction of the metric.
        samples: number of held-out inputs.
        metric_error: standard error of the change of the metric; None if unknown.
        available: samples of the data that the inputs were taken from; None if unknown.
        chance: the metric of a model that sees no input; None where that is unknown.
        chance_error: standard error of the pruned model's metric there.
        notes: sentences on the dense model as a reference, and on outputs without agreement.
        tails: the worst class, the worst samples and groups of samples; None where nothing was
            compared.
        after_error: standard error of ``after``; None if unknown.
        pairs: samples that the dense model alone has right, the pruned one alone, and all; None
            where samples are not simply right or wrong.
        overscaled: says which input is so large that the dense model overflows; empty where none
            is.
    """

    outputs: Mapping[str, OutputComparison] = field(default_factory=dict)
    metric: str = ""
    before: float | None = None
    after: float | None = None
    higher_is_better: bool = True
    samples: int = 0
    metric_error: float | None = None
    available: int | None = None
    chance: float | None = None
    chance_error: float | None = None
    notes: tuple[str, ...] = ()
    tails: Tails | None = None
    after_error: float | None = None
    pairs: tuple[int, int, int] | None = None
    overscaled: str = ""

    @property
    def main(self) -> OutputComparison:
        """The most telling output: class scores if there are any, else the one furthest off."""
        comparable = [f for f in self.outputs.values() if f.cosine is not None]
        scores = [f for f in comparable if f.top1 is not None]
        furthest = sorted(comparable, key=lambda f: f.cosine or 0.0)
        return (scores or furthest or [OutputComparison("")])[0]

    @property
    def measure(self) -> str:
        """The measure of :attr:`drop`: the metric, else ``agreement`` or ``cosine``."""
        return self.metric or ("agreement" if self.main.top1 is not None else "cosine")

    @property
    def value(self) -> float | None:
        """The pruned model's value of :attr:`measure`."""
        if self.metric:
            return self.after
        return self.main.top1 if self.main.top1 is not None else self.main.cosine

    @property
    def drop(self) -> float:
        """The loss of the metric, or, without labels, of agreement with the original."""
        if self.before is not None and self.after is not None:
            gain = self.after - self.before
            return -gain if self.higher_is_better else gain
        main = self.main
        agreement = main.top1 if main.top1 is not None else main.cosine
        return 1.0 - (agreement if agreement is not None else 1.0)

    @property
    def drop_error(self) -> float | None:
        """Standard error of :attr:`drop`; None if unknown."""
        if self.metric:
            return self.metric_error
        main = self.main
        if main.top1 is None or main.top1_error is not None:
            return main.top1_error if main.top1 is not None else None
        return agreement_error(main.top1, self.samples)

    def within(self, max_drop: float) -> bool:
        """Whether the drop is at most ``max_drop`` and no output is broken."""
        return self.drop <= max_drop and not self.broken

    @property
    def broken(self) -> bool:
        """Whether an output is finite in one model only."""
        return any(f.broken for f in self.outputs.values())


@dataclass(frozen=True, eq=False)
class Task:
    """A metric, and the labels of the inputs to evaluate it on."""

    metric: Metric
    labels: npt.NDArray[Any]


def task_of(part: Part, config: Options) -> Task | None:
    """The task that options name; None without labels."""
    return None if part.labels is None else Task(metric_of(config), part.labels)


def metric_of(config: Options | BenchOptions) -> Metric:
    """The metric that options name, with what they say on reading outputs."""
    vocabulary = () if config.vocabulary is None else read_vocabulary(config.vocabulary)
    blank = -1 if config.blank == "last" else config.blank
    reading = Reading(config.detector or "", vocabulary, blank, config.threshold)
    return find_metric(config.metric, reading)


def count_for(metric: Metric, feeds: Feeds) -> int:
    """The samples in a batch, for a metric: one that compares boxes counts pictures."""
    return count_pictures(feeds) if metric.kind == "map" else count_samples(feeds)


def compare_models(
    dense: Model, pruned: Model, part: Part, config: Options, *, saturate: bool | None = None
) -> Evaluation:
    """Run two models over the same samples, one batch at a time, keeping no outputs.

    Args:
        dense: the original.
        pruned: the other model.
        part: the samples, with their labels if there are any.
        config: provider and metric.
        saturate: whether integer products of the other model may saturate, as they do on some
            processors; see `open_session`.

    Raises:
        OnnxpruneError: a model does not run on the provider, or the labels do not fit.
    """
    one_has, other_has = ([v.name for v in m.ir.graph.outputs] for m in (dense, pruned))
    if set(one_has) != set(other_has):
        raise OnnxpruneError(
            f"the outputs of the models differ: {', '.join(map(str, other_has))} instead of "
            f"{', '.join(map(str, one_has))}",
            hint="only models with the same outputs can be compared",
        )
    if part.labels is None and interface_of(dense) == interface_of(pruned):
        # What stands for removed scores says nothing, and is larger than all else.
        dense, pruned = (without_scattering(m, interface_of(m)) for m in (dense, pruned))
    parts = shared_parts(dense, pruned)
    inner, provider = within(parts), config.provider
    one = open_session(dense, provider=provider, outputs=inner, arena=False)
    other = open_session(pruned, provider=provider, outputs=inner, arena=False, saturate=saturate)
    task, before = task_of(part, config), None

    def answers(feeds: Feeds, outputs: Sequence[str] | None = None) -> Outputs:
        return one.run(in_types_of(feeds, one.inputs), outputs)

    def others(feeds: Feeds) -> Outputs:
        return other.run(in_types_of(feeds, other.inputs))

    if task is not None:
        with named_by(part):
            before = score_model(lambda feeds: answers(feeds, [*parts]), part, task)
    watch, meaning = DenseCheck(), meanings_of(dense, task)
    reference = watch.passing(map(answers, part), part, parts)
    result = compare_answers(others, part, reference, task, before, parts, meaning, part.slices)
    overscaled = overscaled_input(dense, part, provider) if watch.broken else ""
    notes = watch.notes(overscaled)
    if task is not None and before is not None and result.chance is not None:
        notes += label_notes(task.metric, before, result.chance)
    for name, output in result.outputs.items():
        if output.top1 is None and name in watch.rows and undecided(dense, name, watch.rows[name]):
            notes.append(
                f"whether '{name}' holds scores of classes cannot be told, so its values are "
                "compared, and no agreement is given"
            )
    return replace(result, available=part.available, notes=tuple(notes), overscaled=overscaled)


def meanings_of(dense: Model, task: Task | None) -> MeaningTest:
    """What the outputs of a model hold, as far as the graph and the labels tell."""
    if task is None:
        return meaning_test(dense)
    return meaning_test(dense, task.metric.kind, task.metric.output)


@contextmanager
def named_by(part: Part) -> Iterator[None]:
    """Name the option that gave the labels of some samples in errors on them."""
    try:
        yield
    except OnnxpruneError as error:
        if part.option != "--eval":
            raise
        raise error.at({"--labels": "--eval-labels"}) from error


def score_model(run: Callable[[Feeds], Outputs], feeds: Iterable[Feeds], task: Task) -> Score:
    """The metric of one model, one batch at a time.

    Raises:
        OnnxpruneError: the model does not run, or the labels do not fit.
    """
    counts: list[int] = []

    def answers() -> Iterator[Outputs]:
        for each in feeds:
            counts.append(count_for(task.metric, each))
            yield run(each)

    return score(task.metric, answers(), task.labels, counts)


def within(parts: Mapping[str, Sequence[str]]) -> list[str]:
    """The inner values to read so that outputs can be compared part by part."""
    return [name for name in part_names(parts) if name not in parts]


def compare_answers(
    run: Callable[[Feeds], Outputs],
    feeds: Iterable[Feeds],
    reference: Iterable[Outputs],
    task: Task | None = None,
    before: Score | None = None,
    parts: Mapping[str, Sequence[str]] | None = None,
    meaning: MeaningTest | None = None,
    slices: npt.NDArray[np.str_] | None = None,
) -> Evaluation:
    """Compare a model's answers with the dense one's, in one pass.

    Args:
        run: runs the model.
        feeds: its inputs.
        reference: the outputs of the dense model for each of them.
        task: metric and labels, if there are any.
        before: the dense model's score; needed with ``task``.
        parts: of the outputs, given together with them; see ``Comparison``.
        meaning: what an output holds; see there too.
        slices: the group of each sample.

    Raises:
        OnnxpruneError: the model does not run, or the labels do not fit.
    """
    compared, samples = Comparison(parts, meaning), 0
    counts: list[int] = []

    def answers() -> Iterator[Outputs]:
        for each, wanted in zip(feeds, reference, strict=True):
            nonlocal samples
            count = count_samples(each)
            samples += count
            counts.append(count if task is None else count_for(task.metric, each))
            outputs = run(each)
            # The dense model may have parts that this one lacks.
            known = wanted if parts is None else {n: wanted[n] for n in outputs}
            compared.add(known, outputs, count)
            yield outputs if parts is None else {name: outputs[name] for name in parts}

    if task is None or before is None:
        deque(answers(), maxlen=0)
        outputs = compared.result()
        tails = find_tails(outputs, compared.samples(), slices=slices)
        return Evaluation(outputs, samples=samples, tails=tails)
    after = score(task.metric, answers(), task.labels, counts)
    outputs = compared.result()
    own = score_error(task.metric, after)
    chance, chance_error = chance_of(task, after)
    return Evaluation(
        outputs,
        task.metric.name,
        before.value,
        after.value,
        task.metric.higher_is_better,
        samples,
        paired_error(task.metric, before, after),
        chance=chance,
        chance_error=own if chance_error is None else chance_error,
        after_error=own,
        pairs=count_pairs(task.metric, before, after),
        tails=find_tails(
            outputs,
            compared.samples(),
            scores=(task.metric, before, after),
            labels=task.labels,
            slices=slices,
        ),
    )


def chance_of(task: Task, score: Score) -> tuple[float | None, float | None]:
    """The metric of a model that sees no input, and the standard error of ``score`` there.

    Such a model always gives the most frequent answers, their frequencies, or the mean of the
    labels.

    Returns:
        None for a user's function, about which nothing is known; None for an error that is that of
        the metric itself.
    """
    kind, labels = task.metric.kind, task.labels
    if kind == "mse":
        return float(labels.astype(np.float64).var(0).mean()), mean_error(score)
    if kind not in ("accuracy", "nats", "perplexity"):
        return chance_level(task.metric, labels), None
    counts = np.unique(labels[labels >= 0], return_counts=True)[1]
    shares = np.sort(counts / max(counts.sum(), 1))[::-1]
    error = mean_error(score)
    if kind == "accuracy":
        chance = float(shares[: task.metric.top].sum())
        least = math.sqrt(max(chance * (1 - chance), 0.0) / max(counts.sum(), 1))
        return chance, max(error or 0.0, least)
    entropy = float(-(shares * np.log(shares)).sum())
    if kind == "nats":
        return entropy, error
    return math.exp(entropy), None if error is None else error * score.value
