"""What pruning cost: outputs, and the task metric, against the dense model on unseen inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from onnxprune.config import Options
from onnxprune.data.batches import count_samples
from onnxprune.data.dataset import Feeds, Part
from onnxprune.evaluate.metrics import Metric, Score, find_metric, score
from onnxprune.evaluate.output_comparison import Comparison, Fidelity, Outputs
from onnxprune.evaluate.standard_error import agreement_error, paired_error
from onnxprune.model import Model, part_names, shared_parts
from onnxprune.runtime import open_session


@dataclass(frozen=True)
class Evaluation:
    """How a pruned model compares with the dense one.

    Attributes:
        outputs: by output name, how close it is.
        metric: name of the task metric; empty without labels.
        before, after: its value for the dense and for the pruned model.
        higher_is_better: which way is up.
        samples: how many inputs it was judged on; none of them was fitted to.
        metric_error: standard error of the change of the metric, or None where none is known.
    """

    outputs: Mapping[str, Fidelity] = field(default_factory=dict)
    metric: str = ""
    before: float | None = None
    after: float | None = None
    higher_is_better: bool = True
    samples: int = 0
    metric_error: float | None = None

    @property
    def main(self) -> Fidelity:
        """The output that says most: class scores if there are any, else the one furthest off."""
        comparable = [f for f in self.outputs.values() if f.cosine is not None]
        scores = [f for f in comparable if f.top1 is not None]
        furthest = sorted(comparable, key=lambda f: f.cosine or 0.0)
        return (scores or furthest or [Fidelity("")])[0]

    @property
    def measure(self) -> str:
        """What :attr:`drop` is counted in: the metric, else ``agreement`` or ``cosine``."""
        return self.metric or ("agreement" if self.main.top1 is not None else "cosine")

    @property
    def value(self) -> float | None:
        """The pruned model's value of that."""
        if self.metric:
            return self.after
        return self.main.top1 if self.main.top1 is not None else self.main.cosine

    @property
    def drop(self) -> float:
        """What was lost: of the metric, or, without labels, of agreement with the original."""
        if self.before is not None and self.after is not None:
            gain = self.after - self.before
            return -gain if self.higher_is_better else gain
        main = self.main
        agreement = main.top1 if main.top1 is not None else main.cosine
        return 1.0 - (agreement if agreement is not None else 1.0)

    @property
    def drop_error(self) -> float | None:
        """Standard error of :attr:`drop`, or None where none is known."""
        if self.metric:
            return self.metric_error
        agreement = self.main.top1
        return None if agreement is None else agreement_error(agreement, self.samples)

    def within(self, max_drop: float) -> bool:
        """Whether no more was lost than that, and nothing is broken."""
        return self.drop <= max_drop and not self.broken

    @property
    def broken(self) -> bool:
        """Whether an output is finite in one model only."""
        return any(f.broken for f in self.outputs.values())


@dataclass(frozen=True, eq=False)
class Task:
    """What a model is for: a metric, and the labels of the inputs it is judged by."""

    metric: Metric
    labels: npt.NDArray[Any]


def task_of(part: Part, config: Options) -> Task | None:
    """The task that options name; None without labels."""
    return None if part.labels is None else Task(find_metric(config.metric), part.labels)


def compare_models(dense: Model, pruned: Model, part: Part, config: Options) -> Evaluation:
    """Run two models over the same samples, one batch at a time, keeping no outputs.

    Args:
        dense: the original.
        pruned: what is compared with it.
        part: the samples that judge, with their labels if there are any.
        config: provider and metric.

    Raises:
        OnnxpruneError: a model does not run on the provider, or the labels do not fit.
    """
    parts = shared_parts(dense, pruned)
    inner = within(parts)
    one, other = (open_session(m, provider=config.backend, outputs=inner) for m in (dense, pruned))
    task, before = task_of(part, config), None
    if task is not None:
        before = score(task.metric, (one.run(f, [*parts]) for f in part), task.labels)
    return compare_answers(other.run, part, (one.run(f) for f in part), task, before, parts)


def within(parts: Mapping[str, Sequence[str]]) -> list[str]:
    """What has to be read inside a model to compare its outputs part by part."""
    return [name for name in part_names(parts) if name not in parts]


def compare_answers(
    run: Callable[[Feeds], Outputs],
    feeds: Iterable[Feeds],
    reference: Iterable[Outputs],
    task: Task | None = None,
    before: Score | None = None,
    parts: Mapping[str, Sequence[str]] | None = None,
) -> Evaluation:
    """Compare a model's answers with the dense one's, in one pass.

    Args:
        run: the model.
        feeds: what it is asked.
        reference: what the dense model answers to each of them.
        task: what it is for, if that is known.
        before: the dense model's score at it; needed with ``task``.
        parts: of the outputs, which both then answer with besides them; see ``Comparison``.

    Raises:
        OnnxpruneError: the model does not run, or the labels do not fit.
    """
    compared, samples = Comparison(parts), 0

    def answers() -> Iterator[Outputs]:
        for each, wanted in zip(feeds, reference, strict=True):
            nonlocal samples
            samples += count_samples(each)
            found = run(each)
            # The dense model may have answered with parts that this one has not.
            compared.add(wanted if parts is None else {n: wanted[n] for n in found}, found)
            yield found if parts is None else {name: found[name] for name in parts}

    if task is None or before is None:
        deque(answers(), maxlen=0)
        return Evaluation(compared.result(), samples=samples)
    after = score(task.metric, answers(), task.labels)
    return Evaluation(
        compared.result(),
        task.metric.name,
        before.value,
        after.value,
        task.metric.higher_is_better,
        samples,
        paired_error(task.metric, before, after),
    )
