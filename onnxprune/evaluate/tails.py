"""What a mean hides: the worst class, the worst samples, and groups of samples.

A model can lose one class of a hundred and keep 99 % of its accuracy. So classes are looked at one
by one, by their labels or, without, by the dense model's answers, and so are groups that the user
names. A class or group that collapses makes the result degraded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from onnxprune.evaluate.metrics import Metric, Score
from onnxprune.evaluate.metrics.detection.average_precision import SIZES, DetectionStatistics
from onnxprune.evaluate.output_comparison import OutputComparison, SampleValues
from onnxprune.evaluate.sample_statistics import agreement_error
from onnxprune.evaluate.standard_error import SURE, paired_error
from onnxprune.quantities import measured, plural, unit_of
from onnxprune.types import QualityStatus, TailPart, Tails

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]

SHARE = 0.05
"""Share of the samples that are the worst ones."""
FALL = 0.2
"""Loss of a share from which on a class or group may have collapsed: twenty points."""
FINE = 0.5
"""Least share that the dense model must have had."""
_FEWEST, _FEW = 20, 5
"""Fewest samples to speak of worst ones, and of a class to judge it by or give its error."""
_USUAL = 0.05
"""Loss that any class may have: the least probability that chance is given."""
_UNLIKELY = 0.025
"""Probability that as many are lost by chance in any one of the classes."""


_NAMED = 3
"""Collapsed classes that are named."""
_PLURAL = {"class": "classes", "group": "groups"}


def find_tails(
    outputs: Mapping[str, OutputComparison],
    values: Mapping[str, SampleValues],
    *,
    scores: tuple[Metric, Score, Score] | None = None,
    labels: Array | None = None,
    slices: npt.NDArray[np.str_] | None = None,
) -> Tails:
    """The tails of an evaluation.

    Args:
        outputs: the comparison of each output.
        values: what each sample adds to it.
        scores: the task metric, and that of the dense and of the pruned model.
        labels: one per sample.
        slices: the group of each sample.
    """
    answered = [n for n, each in outputs.items() if each.top1 is not None and n in values]
    comparable = [n for n, each in outputs.items() if each.unexplained is not None and n in values]
    tails = Tails()
    if scores is not None and scores[0].kind == "accuracy" and labels is not None:
        tails = _by_label(tails, *scores, labels)
    if scores is not None and scores[0].kind == "map":
        tails = _by_object(tails, *scores)
    if not tails.classes and answered:
        tails = _by_answer(tails, values[answered[0]])
    tails = _by_error(tails, outputs, values, answered or comparable, scores)
    if slices is not None:
        tails = _by_group(tails, outputs, values, answered or comparable, scores, slices)
    return tails


def score_tails(metric: Metric, score: Score, labels: Array) -> Tails:
    """Classes and sizes of objects for a model that is compared with no other.

    Args:
        metric: the task metric.
        score: of the model.
        labels: one per sample.
    """
    if metric.kind == "map":
        return _by_object(Tails(), metric, None, score)
    if metric.kind != "accuracy":
        return Tails()
    tails = _by_label(Tails(), metric, score, score, labels)
    parts = (replace(each, before=None, error=None) for each in tails.classes)
    return replace(tails, classes=tuple(sorted(parts, key=lambda each: each.after)))


def findings(tails: Tails) -> Iterator[tuple[QualityStatus, str]]:
    """A reason for each class and group that collapsed."""
    for kind, measure, parts in (
        ("class", tails.measure, tails.classes),
        ("group", tails.group_measure, tails.groups),
    ):
        lost = [part for part in parts if part.collapsed]
        for part in lost[:_NAMED]:
            name = part.name if kind == "class" else f"'{part.name}'"
            words = f"{kind} {name} collapsed: {measure} {in_words(part, measure)} on"
            yield "degraded", f"{words} {plural(part.samples, 'sample')}"
        if lost[_NAMED:]:
            yield "degraded", f"{len(lost) - _NAMED} more {_PLURAL[kind]} collapsed"


# --- classes ----------------------------------------------------------------------------------


def _by_label(tails: Tails, metric: Metric, before: Score, after: Score, labels: Array) -> Tails:
    if labels.ndim > 1 and labels.shape[1:] == (1,):
        labels = labels[:, 0]
    if labels.ndim != 1 or before.sums is None or after.sums is None:
        return tails
    known = labels >= 0
    classes = labels[known].astype(np.int64)
    one, two = before.sums[known], after.sums[known]
    gained = np.maximum(two - one, 0.0)
    weights = (np.ones(len(one)), one, two, gained)
    parts = shares(*(np.bincount(classes, each).astype(np.float64) for each in weights))
    return replace(tails, by="labels", measure=metric.name, classes=parts)


def _by_object(tails: Tails, metric: Metric, before: Score | None, after: Score) -> Tails:
    """Average precision by class and by area, as COCO has both."""
    one, two = (None if each is None else each.statistics for each in (before, after))
    if not isinstance(two, DetectionStatistics):
        return tails
    dense = one if isinstance(one, DetectionStatistics) else None
    classes = [
        TailPart(str(name), count, start, value)
        for starts in [{} if dense is None else dense.by_class()]
        for name, (count, value) in two.by_class().items()
        for start in [starts[name][1] if name in starts else None]
    ]
    sizes = []
    for name, limits in SIZES.items():
        own = two.of_size(*limits)
        if count := len(own.label_category):
            start = None if dense is None else _average(dense.of_size(*limits))
            sizes.append(TailPart(name, count, start, _average(own)))
    classes.sort(key=lambda each: each.after - _before(each))
    by = "labels" if classes else tails.by
    return replace(tails, by=by, measure=metric.name, classes=tuple(classes), sizes=tuple(sizes))


def _average(statistics: DetectionStatistics) -> float:
    return statistics.figure(np.ones(statistics.samples))


def _by_answer(tails: Tails, values: SampleValues) -> Tails:
    if not len(values.classes):
        return tails
    counts = values.classes.astype(np.float64)
    parts = shares(counts, counts, values.equal.astype(np.float64), np.zeros_like(counts))
    return replace(tails, by="answers", measure="agreement", classes=parts)


def shares(counts: F64, before: F64, after: F64, gained: F64) -> tuple[TailPart, ...]:
    """Classes by the share that is right, the largest loss first.

    A class has collapsed if it lost more than twenty points and more than two standard errors, was
    right in more than half of its samples before, and if so many losses are unlikely in any of the
    classes, were each as likely as it is overall.

    Args:
        counts: samples of each class.
        before: how many of them the dense model gets right.
        after: the same of the pruned model.
        gained: how many only the pruned model gets right.

    Example:
        >>> ends = np.array([50.0, 50.0, 50.0]), np.array([49.0, 50.0, 3.0])
        >>> worst = shares(np.full(3, 50.0), *ends, np.zeros(3))[0]
        >>> worst.name, worst.after, worst.collapsed
        ('2', 0.06, True)
    """
    lost = before - after + gained
    usual = max(float(lost.sum() / max(before.sum(), 1)), _USUAL)
    classes = int((counts > 0).sum())
    parts = []
    for k in np.flatnonzero(counts):
        count, right = float(counts[k]), float(before[k])
        drop = (right - float(after[k])) / count
        error = math.sqrt(float(lost[k] + gained[k]) + 1) / count if count >= _FEW else None
        chance = _chance(float(lost[k]), right, usual)
        collapsed = (
            error is not None
            and right >= FINE * count
            and drop > FALL
            and drop > SURE * error
            and chance < _UNLIKELY / classes
        )
        ends = right / count, float(after[k]) / count
        parts.append(TailPart(str(k), int(count), *ends, error, bool(collapsed)))
    return tuple(sorted(parts, key=lambda each: (not each.collapsed, each.after - _before(each))))


def _chance(lost: float, count: float, usual: float) -> float:
    """The probability that at least so many of a number are lost, where each is as usual."""
    if lost < 1:
        return 1.0
    return float(special.betainc(lost, max(count - lost, 0.0) + 1, min(usual, 1.0)))


def _before(part: TailPart) -> float:
    return part.before or 0.0


# --- samples ----------------------------------------------------------------------------------


def _by_error(
    tails: Tails,
    outputs: Mapping[str, OutputComparison],
    values: Mapping[str, SampleValues],
    names: Sequence[str],
    scores: tuple[Metric, Score, Score] | None,
) -> Tails:
    measure, before, after = _errors(outputs, values, names, scores)
    count = len(after)
    if count < _FEWEST or not np.isfinite(after).all():
        return tails
    rise = after if before is None else after - before
    worst = np.argsort(-rise, kind="stable")[: math.ceil(SHARE * count)]

    def part(name: str, some: Any) -> TailPart:  # noqa: ANN401  an index
        of = after[some]
        start = None if before is None else float(before[some].mean())
        return TailPart(name, len(of), start, float(of.mean()))

    return replace(
        tails, error_measure=measure, all=part("all", slice(None)), worst=part("worst", worst)
    )


def _errors(
    outputs: Mapping[str, OutputComparison],
    values: Mapping[str, SampleValues],
    names: Sequence[str],
    scores: tuple[Metric, Score, Score] | None,
) -> tuple[str, F64 | None, F64]:
    """The error of each sample, before and after, and its name."""
    if scores is not None and scores[0].kind in ("mse", "nats", "perplexity"):
        metric, *both = scores
        means = [_means(each) for each in both]
        if means[0] is not None and means[1] is not None:
            name = "nats" if metric.kind == "perplexity" else metric.name
            return name, means[0], means[1]
    if not names:
        return "", None, np.zeros(0)
    each, output = values[names[0]], outputs[names[0]]
    if output.kl is not None and len(each.divergence):
        return "divergence", None, each.divergence
    if len(each.errors) and output.unexplained is not None and np.isfinite(output.unexplained):
        total = float(each.errors.sum())
        scale = output.unexplained * len(each.errors) / total if total else 0.0
        return "relative squared error", None, each.errors * scale
    return "", None, np.zeros(0)


def _means(score: Score) -> F64 | None:
    """The metric of each sample that has a label."""
    if score.sums is None or score.counts is None:
        return None
    known = score.counts > 0
    return np.asarray(score.sums[known] / score.counts[known])


# --- groups -----------------------------------------------------------------------------------


def _by_group(
    tails: Tails,
    outputs: Mapping[str, OutputComparison],
    values: Mapping[str, SampleValues],
    names: Sequence[str],
    scores: tuple[Metric, Score, Score] | None,
    slices: npt.NDArray[np.str_],
) -> Tails:
    groups = sorted(set(slices.tolist()))
    masks = [slices == name for name in groups]
    if scores is not None and scores[1].sums is not None:
        metric, before, after = scores
        if before.counts is None or len(before.counts) != len(slices):
            return tails
        parts = _scored(metric, before, after, groups, masks)
        return replace(tails, group_measure=metric.name, groups=parts)
    if not names:
        return tails
    each = values[names[0]]
    if len(each.agreement) == len(slices):
        parts = tuple(
            TailPart(
                name, count, 1.0, mean, agreement_error(mean, count) if count >= _FEW else None
            )
            for name, mask in zip(groups, masks, strict=True)
            for count, mean in [(int(mask.sum()), float(each.agreement[mask].mean()))]
        )
        return replace(tails, group_measure="agreement", groups=_judged(parts))
    measure, _, errors = _errors(outputs, values, names, None)
    if len(errors) != len(slices):
        return tails
    parts = tuple(
        TailPart(name, len(some), None, float(some.mean()), _mean_error(some))
        for name, mask in zip(groups, masks, strict=True)
        for some in [errors[mask]]
    )
    return replace(tails, group_measure=measure, groups=parts)


def _scored(
    metric: Metric,
    before: Score,
    after: Score,
    groups: Sequence[str],
    masks: Sequence[npt.NDArray[np.bool_]],
) -> tuple[TailPart, ...]:
    """The task metric of each group that has a label."""
    parts = []
    for name, mask in zip(groups, masks, strict=True):
        one, two = _within(metric, before, mask), _within(metric, after, mask)
        if one is None or two is None:
            continue
        error = paired_error(metric, one, two) if mask.sum() >= _FEW else None
        parts.append(TailPart(name, int(mask.sum()), one.value, two.value, error))
    return _judged(parts) if metric.kind == "accuracy" else tuple(parts)


def _within(metric: Metric, score: Score, mask: npt.NDArray[np.bool_]) -> Score | None:
    """The metric of some samples; None where none has a label."""
    assert score.sums is not None
    assert score.counts is not None
    sums, counts = score.sums[mask], score.counts[mask]
    if not counts.sum():
        return None
    value = float(sums.sum() / counts.sum())
    if metric.kind == "perplexity":
        value = math.exp(min(value, 700.0))
    return Score(value, sums, counts)


def _judged(parts: Sequence[TailPart]) -> tuple[TailPart, ...]:
    """Groups of a share, with those that collapsed marked: see `shares`."""
    total = sum(part.samples for part in parts)
    right = sum(_before(part) * part.samples for part in parts)
    drop = sum((_before(part) - part.after) * part.samples for part in parts)
    usual = max(drop / right if right else 0.0, _USUAL)
    result = []
    for part in parts:
        fall = _before(part) - part.after
        lost, known = max(fall, 0.0) * part.samples, _before(part) * part.samples
        chance = _chance(lost, known, usual)
        collapsed = (
            _FEW <= part.samples < total
            and _before(part) >= FINE
            and fall > max(FALL, SURE * (part.error or 0.0))
            and chance < _UNLIKELY / len(parts)
        )
        result.append(replace(part, collapsed=bool(collapsed)))
    return tuple(result)


def _mean_error(values: F64) -> float | None:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) >= _FEW else None


def in_words(part: TailPart, measure: str) -> str:
    """The measure of a part before and after, as in ``94.0 % -> 3.1 %``."""
    unit = unit_of(measure)
    after = measured(part.after, unit)
    return after if part.before is None else f"{measured(part.before, unit)} -> {after}"
