"""Metrics and scores: what every family of metrics takes and returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.output_comparison import stacked

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]
Outputs = Mapping[str, Array]

Kind: TypeAlias = Literal[
    "accuracy",
    "mse",
    "nats",
    "perplexity",
    "f1",
    "spearman",
    "spearman-pairs",
    "cer",
    "wer",
    "map",
    "function",
]
Average: TypeAlias = Literal["binary", "macro", "micro"]


@dataclass(frozen=True)
class Reading:
    """How outputs are read before they are compared with labels.

    Attributes:
        detector: layout of the outputs of a detector; empty to tell it from shapes and values.
        vocabulary: the text of every class or token, in order; empty without.
        blank: class that stands for no text in CTC outputs; negative from the last one.
        threshold: least probability of a class that is present, for classes that do not exclude
            each other.
    """

    detector: str = ""
    vocabulary: tuple[str, ...] = field(default=(), repr=False)
    blank: int = 0
    threshold: float = 0.5


@dataclass(frozen=True)
class Metric:
    """A figure of merit.

    Attributes:
        name: as written by the user.
        kind: what is measured.
        higher_is_better: the direction of the metric; assumed for users' functions.
        output: the output that is measured; empty for the only one that fits the labels.
        top: for ``accuracy``: a sample counts if its label is among so many best classes.
        function: for ``function``: from outputs (dict of arrays, all samples along the first axis)
            and labels to the figure.
        average: for ``f1``: over classes.
        overlaps: for ``map``: the least overlaps (IoU) of a hit, which are averaged over.
        reading: of the outputs.
    """

    name: str
    kind: Kind
    higher_is_better: bool = True
    output: str = ""
    top: int = 1
    function: Callable[[dict[str, Array], Array], float] | None = None
    average: Average = "binary"
    overlaps: tuple[float, ...] = ()
    reading: Reading = Reading()


class Statistics(Protocol):
    """What every sample contributes to a metric that is no mean over samples."""

    @property
    def samples(self) -> int:
        """Number of samples."""

    def figure(self, weights: F64) -> float:
        """The metric where each sample counts as often as ``weights`` ``[samples]`` says."""


@dataclass(frozen=True, eq=False)
class Score:
    """A metric of one model, and the contribution of every sample.

    Attributes:
        value: the metric.
        sums, counts: float64 ``[samples]``: the metric is ``sums.sum() / counts.sum()`` (its
            exponential, for ``perplexity``); None where it is no mean.
        statistics: the contributions to a metric that is no mean; None for means and for a user's
            function.
    """

    value: float
    sums: F64 | None = None
    counts: F64 | None = None
    statistics: Statistics | None = None


def of_statistics(statistics: Statistics) -> Score:
    """The score where every sample counts once."""
    return Score(statistics.figure(np.ones(statistics.samples)), statistics=statistics)


def nothing(metric: Metric, hint: str = "") -> OnnxpruneError:
    """The error of a metric without anything to measure it on."""
    return OnnxpruneError(f"there is nothing to measure the {metric.name} of", hint=hint)


@dataclass(frozen=True, eq=False)
class Batch:
    """Outputs of a model for some samples, and the labels of these."""

    outputs: Outputs
    labels: Array

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.labels)


def batches(
    outputs: Iterable[Outputs], labels: Array, metric: Metric, counts: Sequence[int] | None = None
) -> Iterator[Batch]:
    """Batches of outputs with the labels of their samples.

    Args:
        outputs: batches, in the order of the samples.
        labels: one per sample along the first axis.
        metric: for messages, and the output that is measured.
        counts: samples in each batch, known by the time it comes; by default the length of an
            output.

    Raises:
        OnnxpruneError: there are more or fewer labels than samples, or the output does not exist.
    """
    start = 0
    for number, each in enumerate(outputs):
        batch = {name: stacked(value) for name, value in each.items()}
        if metric.output and metric.output not in batch:
            raise OnnxpruneError(
                f"the model has no output '{metric.output}'", hint=f"it has {', '.join(batch)}"
            )
        stop = start + (_count(batch, metric) if counts is None else counts[number])
        if stop > len(labels):
            break
        yield Batch(batch, labels[start:stop])
        start = stop
    else:
        if start == len(labels):
            return
    raise OnnxpruneError(
        f"--labels: the number of labels, {len(labels)}, is not the number of samples",
        hint="give one label per sample, in the order of the samples",
    )


def _count(batch: Outputs, metric: Metric) -> int:
    counted = batch[metric.output] if metric.output else next(iter(batch.values()))
    return len(counted) if counted.ndim else 1


def pick(
    metric: Metric, batch: Batch, fits: Callable[[Array], bool], labels: str, hint: str
) -> str:
    """The output that labels belong to.

    Args:
        metric: it may name the output.
        batch: of outputs.
        fits: whether an output can be the one.
        labels: noun phrase for messages.
        hint: of the error where none fits.

    Raises:
        OnnxpruneError: none fits, or several do.
    """
    names = [metric.output] if metric.output else list(batch.outputs)
    fitting = [name for name in names if fits(batch.outputs[name])]
    if len(fitting) == 1:
        return fitting[0]
    shapes = ", ".join(f"'{name}' {list(batch.outputs[name].shape)}" for name in names)
    which = "several outputs fit" if fitting else "no output fits"
    if fitting:
        hint = f"write {metric.name.partition('@')[0]}@OUTPUT"
    raise OnnxpruneError(f"--labels: {which} {labels}: {shapes}", hint=hint)
