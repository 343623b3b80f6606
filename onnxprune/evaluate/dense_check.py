"""The dense model as a reference: whether it is sound, and whether the samples tell enough.

A comparison with a model that is broken itself, that sees inputs it was trained on, or on too few
samples says little. Each sentence here gives the numbers that it follows from.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from onnxprune.config import Options
from onnxprune.data.batches import Feeds, count_samples, in_types_of
from onnxprune.errors import spelled
from onnxprune.evaluate.metrics import Metric, Score, find_metric
from onnxprune.evaluate.output_comparison import (
    is_distribution,
    is_scores,
    log_probabilities,
    stacked,
)
from onnxprune.evaluate.standard_error import SURE
from onnxprune.model import Model
from onnxprune.quantities import figure, percent, plural
from onnxprune.runtime import open_session

Array = npt.NDArray[Any]

ENOUGH = 20
"""Labels from which on an accuracy can be told from chance."""
NEARLY_ALL = 0.98
"""Accuracy from which on the labelled samples may be training data."""
_UNLIKELY = 0.1
"""Probability of so few errors, by the model's own confidence, that is too small for new samples.

Networks are surer of themselves than right on new samples, and less sure on those that they were
trained on: of the errors that the probabilities of a CIFAR-10 network announce, it makes twice as
many on test pictures, and a fifth on training pictures.
"""
_SMOOTHED = 0.03
"""Announced share of errors from which on a network was trained to be unsure (label smoothing)."""
_ALL = 1000
"""Labels from which on no error at all says the same."""
_LARGE = 10.0
"""Size of inputs up to which their scale is no reason for NaN."""
_ADDED = 2.0
"""Sum of squares that estimates of the error of a share add, for what few samples do not show."""
MOST = 2048
"""Labels that the dense model is run on to see whether it was trained on them."""


class DenseCheck:
    """Looks at the outputs of the dense model as they pass by.

    Attributes:
        samples: number of samples.
        rows: some values of each output that holds numbers.
    """

    def __init__(self) -> None:
        self.samples = 0
        self.rows: dict[str, Array] = {}
        self._broken: dict[str, int] = {}
        self._first: dict[str, Array] = {}
        self._varied: set[str] = set()

    def passing(
        self,
        outputs: Iterable[Mapping[str, Any]],
        feeds: Iterable[Feeds],
        names: Container[str],
    ) -> Iterator[Mapping[str, Any]]:
        """The same outputs, each looked at as it passes.

        Args:
            outputs: of the model, batch by batch.
            feeds: that they are for.
            names: of outputs; other values are passed over.
        """
        for values, batch in zip(outputs, feeds, strict=True):
            self.add({n: v for n, v in values.items() if n in names}, count_samples(batch))
            yield values

    def add(self, outputs: Mapping[str, object], count: int) -> None:
        """Look at the outputs for a batch of ``count`` samples."""
        self.samples += count
        for name, value in outputs.items():
            array = stacked(value)
            if array.dtype.kind in "OUS" or not array.size:
                continue
            self.rows.setdefault(name, array)
            rows = array if array.ndim and len(array) == count else array[None]
            rows = rows.reshape(len(rows), -1)
            if array.dtype.kind not in "biu":
                broken = int((~_sound(rows)).sum())
                self._broken[name] = self._broken.get(name, 0) + broken
            first = self._first.setdefault(name, rows[0])
            if name not in self._varied and (
                rows.shape[1:] != first.shape or not (rows == first).all()
            ):
                self._varied.add(name)

    @property
    def broken(self) -> dict[str, int]:
        """Samples for which an output holds NaN or infinity, by output, where there are any."""
        return {name: count for name, count in self._broken.items() if count}

    @property
    def constant(self) -> bool:
        """Whether all outputs are the same for all of several samples."""
        return self.samples > 1 and bool(self._first) and not self._varied

    def notes(self, overscaled: str = "") -> list[str]:
        """Sentences on outputs that make the dense model no reference.

        Args:
            overscaled: an input that is the reason (`overscaled_input`); empty where none is.
        """
        start, end = "the dense model itself is broken: its", ""
        if overscaled:
            start = f"{overscaled}, where the dense model overflows: its"
            end = ": check the scale and the preprocessing"
        notes = [
            f"{start} output '{name}' holds NaN or infinite values for {count} of "
            f"{plural(self.samples, 'sample')}{end}"
            for name, count in self.broken.items()
        ]
        if self.constant and not notes:
            notes.append(
                f"the dense model's outputs are constant: the same for all {self.samples} samples, "
                "so a comparison with it says nothing"
            )
        return notes


def overscaled_input(model: Model, batches: Iterable[Feeds], provider: str) -> str:
    """Says which input is too large for a model that gives NaN or infinity on some samples.

    That is where the same samples give finite outputs as soon as they are scaled to at most 1.

    Args:
        model: the dense one.
        batches: samples.
        provider: to run on.

    Returns:
        as in ``the input 'x' reaches 1e+38``; empty where scaling does not help.
    """
    session = open_session(model, provider=provider, arena=False)
    for batch in batches:
        feeds = in_types_of(batch, session.inputs)
        if _is_finite(session.run(feeds)):
            continue
        sizes = {n: float(np.abs(v.astype(np.float64)).max(initial=0)) for n, v in _floats(feeds)}
        name, largest = max(sizes.items(), key=lambda each: each[1], default=("", 0.0))
        if not _LARGE < largest < math.inf:
            return ""
        scaled = {n: (v / max(sizes[n], 1.0)).astype(v.dtype) for n, v in _floats(feeds)}
        finite = _is_finite(session.run({**feeds, **scaled}))
        return f"the input '{name}' reaches {largest:.3g}" if finite else ""
    return ""


def _floats(feeds: Feeds) -> list[tuple[str, Array]]:
    """The inputs that can be scaled."""
    arrays = ((name, np.asarray(value)) for name, value in feeds.items())
    return [(name, array) for name, array in arrays if array.dtype.kind == "f"]


def _is_finite(outputs: Mapping[str, Any]) -> bool:
    """Whether no sample of any output holds NaN or infinity."""
    arrays = [stacked(value) for value in outputs.values()]
    rows = [
        a.reshape(len(a) if a.ndim else 1, -1) for a in arrays if a.dtype.kind == "f" and a.size
    ]
    return all(_sound(each).all() for each in rows)


def _sound(rows: Array) -> npt.NDArray[np.bool_]:
    """Rows without NaN or infinity; -inf is how scores are masked, beside others."""
    finite = np.isfinite(rows)
    if finite.all():
        return np.ones(len(rows), np.bool_)
    masked = np.isneginf(rows.astype(np.float64))
    return np.asarray((finite | masked).all(1) & ~masked.all(1))


def label_notes(metric: Metric, score: Score, chance: float) -> list[str]:
    """A sentence where the dense model does no better than guessing.

    Args:
        metric: what was measured.
        score: of the dense model.
        chance: the accuracy that guessing reaches.
    """
    if metric.kind != "accuracy" or metric.top != 1 or score.counts is None:
        return []
    samples, count, right = len(score.counts), int(score.counts.sum()), score.value
    if samples < ENOUGH:
        return []
    error = math.sqrt(max(right * (1 - right), 1 / samples) / samples)
    guessing = math.sqrt(chance * (1 - chance) / samples)
    if right <= chance + SURE * guessing and right + SURE * error < (1 + chance) / 2:
        note = (
            f"the dense model itself is no better than chance: its {metric.name} is "
            f"{percent(right)} on {plural(count, 'label')}, and guessing reaches "
            f"{percent(chance)}: check the labels, their order and the preprocessing"
        )
        return [note]
    return []


def training_notes(
    model: Model, labelled: Iterable[tuple[Feeds, Array]], config: Options
) -> list[str]:
    """A sentence where the dense model seems to have been trained on the labelled samples.

    It is then right on nearly all, and more often than its own probabilities announce.

    Args:
        model: the dense one.
        labelled: batches, with the class of each of their samples.
        config: provider and metric.
    """
    metric = find_metric(config.metric)
    session = open_session(model, provider=config.provider, arena=False)
    count, errors, announced = 0, 0, 0.0
    for feeds, labels in labelled:
        scores = _scores_for(session.run(feeds), labels, metric.output)
        if scores is None:
            return []
        known = labels >= 0
        count += int(known.sum())
        errors += int((scores.argmax(-1) != labels)[known].sum())
        announced += announced_errors(scores, labels)
        if count >= MOST:
            break
    if not count or errors > (1 - NEARLY_ALL) * count:
        return []
    unlikely = announced <= _SMOOTHED * count and special.pdtr(errors, announced) < _UNLIKELY
    if not (unlikely or (errors == 0 and count >= _ALL)):
        return []
    note = (
        f"the dense model is right on {count - errors:,} of {count:,} labels, where its own "
        f"probabilities announce {figure(announced)} errors: if these are training data, new "
        "samples lose more than is measured here (--eval judges by others)"
    )
    return [spelled(note)]


def _scores_for(outputs: Mapping[str, Any], labels: Array, name: str) -> Array | None:
    """The only output with one row of scores per label."""
    arrays = {n: stacked(value) for n, value in outputs.items() if not name or n == name}
    fitting = [a for a in arrays.values() if a.shape[:-1] == labels.shape and is_scores(a)]
    return fitting[0] if len(fitting) == 1 else None


def announced_errors(scores: Array, labels: Array) -> float:
    """How many errors the probabilities of a classifier announce.

    Args:
        scores: of classes ``[..., classes]``: logits, probabilities or their logarithms.
        labels: ``[...]``; negative ones are left out.
    """
    rows = scores.reshape(-1, scores.shape[-1])[labels.ravel() >= 0]
    logs = log_probabilities(rows, distribution=is_distribution(rows))
    return float((1 - np.exp(logs.max(1, initial=-np.inf))).sum())


def samples_needed(error: float, samples: int, limit: float, *, share: bool) -> int:
    """Samples from which on a drop is known to within a limit, rounded up to two figures.

    Args:
        error: standard error of the drop on ``samples`` samples.
        samples: how many there were.
        limit: the drop to tell from none.
        share: whether the measure is a share of samples, whose error has a part that falls with
            their number instead of its root (see `onnxprune.evaluate.standard_error`).

    Returns:
        0 where they are enough, or no number of samples is.

    Example:
        >>> samples_needed(0.05, 40, 0.01, share=False)
        4000
    """
    if not samples or limit <= 0 or error * SURE <= limit:
        return 0
    half = limit / SURE
    # half^2 n^2 = (spread - added) n / samples + added
    spread = (error * samples) ** 2
    added = min(_ADDED, spread) if share else 0.0
    linear = (spread - added) / samples
    needed = (linear + math.sqrt(linear**2 + 4 * half**2 * added)) / (2 * half**2)
    unit = 10 ** max(math.floor(math.log10(max(needed, 1))) - 1, 0)
    return int(math.ceil(needed / unit - 1e-9) * unit)
