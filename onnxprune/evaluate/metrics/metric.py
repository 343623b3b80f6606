"""Look metrics up by name, measure them over batches of outputs, and know what chance reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxprune.errors import OnnxpruneError, blame
from onnxprune.evaluate.metrics.classes import score_means
from onnxprune.evaluate.metrics.detection import score_boxes
from onnxprune.evaluate.metrics.f1 import score_f1
from onnxprune.evaluate.metrics.ranks import score_pairs, score_ranks
from onnxprune.evaluate.metrics.scores import (
    Array,
    Batch,
    Kind,
    Metric,
    Outputs,
    Reading,
    Score,
    batches,
    nothing,
)
from onnxprune.evaluate.metrics.text import score_text
from onnxprune.types import metric_name

_COCO = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""Overlaps of hits that COCO averages over."""

_METRICS: Mapping[str, Metric] = {
    each.name: each
    for each in (
        Metric("accuracy", "accuracy"),
        Metric("mse", "mse", higher_is_better=False),
        Metric("nats", "nats", higher_is_better=False),
        Metric("cross-entropy", "nats", higher_is_better=False),
        Metric("perplexity", "perplexity", higher_is_better=False),
        Metric("f1", "f1"),
        Metric("f1-macro", "f1", average="macro"),
        Metric("f1-micro", "f1", average="micro"),
        Metric("spearman", "spearman"),
        Metric("spearman-pairs", "spearman-pairs"),
        Metric("cer", "cer", higher_is_better=False),
        Metric("wer", "wer", higher_is_better=False),
        Metric("map", "map", overlaps=_COCO),
    )
}


@blame("--metric")
def find_metric(spec: str | Callable[..., float], reading: Reading | None = None) -> Metric:
    """Look a metric up.

    Args:
        spec: a built-in name (``accuracy``, ``top5``, ``f1-macro``, ``map50``), with ``@output``
            behind it where several outputs could be meant; ``file.py:function`` or
            ``package.module:function``; or a function.
        reading: of the outputs, where their form leaves a choice.

    Raises:
        OnnxpruneError: there is no such metric or function.
    """
    reading = reading or Reading()
    if callable(spec):
        name = getattr(spec, "__name__", type(spec).__name__)
        return Metric(name, "function", function=spec)
    if ":" in spec:
        from onnxprune.data.feeds import load_object

        function = load_object(spec)
        if not callable(function):
            raise OnnxpruneError(
                f"{spec} is not a function", hint="it must take outputs and labels"
            )
        return Metric(spec, "function", function=function)
    name, _, output = metric_name(spec).partition("@")
    known = _METRICS.get(name)
    if known is None:
        known = _numbered(name)
    return replace(known, name=spec, output=output, reading=reading)


def _numbered(name: str) -> Metric:
    """A metric with a number in its name."""
    if name.startswith("top"):
        return Metric(name, "accuracy", top=int(name.removeprefix("top")))
    return Metric(name, "map", overlaps=(int(name.removeprefix("map")) / 100,))


_FAMILIES: Mapping[Kind, Callable[[Metric, Iterable[Batch]], Score]] = {
    "accuracy": score_means,
    "mse": score_means,
    "nats": score_means,
    "perplexity": score_means,
    "f1": score_f1,
    "spearman": score_ranks,
    "spearman-pairs": score_pairs,
    "cer": score_text,
    "wer": score_text,
    "map": score_boxes,
}


_COUNTED: frozenset[Kind] = frozenset({"cer", "wer", "map"})
"""Metrics whose outputs need not have one row per sample."""


def evaluate(metric: Metric, outputs: Iterable[Outputs], labels: Array) -> float:
    """The metric of a model over batches of its outputs; arguments and errors are `score`'s."""
    return score(metric, outputs, labels).value


def score(
    metric: Metric,
    outputs: Iterable[Outputs],
    labels: Array,
    counts: Sequence[int] | None = None,
) -> Score:
    """The metric of a model over batches of its outputs, sample by sample.

    Args:
        metric: what to measure.
        outputs: batches, samples along the first axis. A user's function is given all of them at
            once; for the others, only what each sample contributes is kept.
        labels: one per sample, in the same order. For class scores ``[batch, ..., classes]`` or
            ``[batch, classes, ...]`` (logits, probabilities or their logarithms) they are class
            numbers ``[batch, ...]``; negative ones are left out. For ``mse`` they have the shape
            of the output; for ``f1`` they may, as 0 and 1. For ``spearman`` they are numbers, for
            ``spearman-pairs`` both samples of a pair have that of the pair. For ``cer`` and ``wer``
            they are strings, or rows of token numbers, padded with negative ones. For ``map`` they
            are boxes as `onnxprune.data.boxes` describes them.
        counts: samples in each batch, known by the time it comes: outputs of detectors and of
            recurrent networks need not have one row per sample.

    Raises:
        OnnxpruneError: there are more or fewer labels than samples, they fit no output or several,
            or a user's function fails.
    """
    pairs = batches(outputs, labels, metric, counts if metric.kind in _COUNTED else None)
    if metric.kind == "function":
        return Score(_call(metric, pairs))
    return _FAMILIES[metric.kind](metric, pairs)


def _call(metric: Metric, pairs: Iterable[Batch]) -> float:
    assert metric.function is not None
    kept: dict[str, list[Array]] = {}
    known = []
    for batch in pairs:
        for name, array in batch.outputs.items():
            kept.setdefault(name, []).append(np.atleast_1d(array))
        known.append(batch.labels)
    if not known:
        raise nothing(metric)
    try:
        outputs = {name: np.concatenate(arrays) for name, arrays in kept.items()}
    except ValueError as error:
        raise OnnxpruneError(
            f"--metric: {metric.name} cannot be given outputs "
            "whose shapes differ from batch to batch"
        ) from error
    try:
        return float(metric.function(outputs, np.concatenate(known)))
    except Exception as error:  # the user's function may raise anything
        raise OnnxpruneError(
            f"--metric: the metric {metric.name} failed: {type(error).__name__}: {error}",
            hint="it is called with a dict of output arrays and the array of labels",
        ) from error


# --- chance ----------------------------------------------------------------------------------


def chance_level(metric: Metric, labels: Array) -> float | None:
    """The metric of a model that sees no input; None for a user's function.

    Nothing correlates with a constant, no box is found and no text read without looking. For
    accuracy, cross-entropy and squared error see `onnxprune.evaluate.evaluation.chance_of`.

    Args:
        metric: not one of these three.
        labels: of the samples.
    """
    if metric.kind in ("map", "spearman", "spearman-pairs"):
        return 0.0
    if metric.kind in ("cer", "wer"):
        return 1.0
    return _chance_of_f1(metric, labels) if metric.kind == "f1" else None


def _chance_of_f1(metric: Metric, labels: Array) -> float:
    """F1 of always the most frequent class; of classes that may coincide, of always all."""
    known = labels[labels >= 0]
    together = labels.ndim > 1 and known.size > 0 and float(known.max()) <= 1
    if together or metric.average == "binary":
        columns = labels.reshape(-1, labels.shape[-1]) if labels.ndim > 1 else labels[:, None]
        shares = (columns > 0).mean(0)
        if metric.average == "micro":
            shares = shares.mean(keepdims=True)
        return float((2 * shares / (1 + shares)).mean())
    shares = np.unique(known, return_counts=True)[1] / max(known.size, 1)
    most = float(shares.max(initial=0.0))
    return most if metric.average == "micro" else 2 * most / (1 + most) / max(len(shares), 1)
