"""Task metrics over outputs and labels.

Built in are those of `onnxprune.types.METRICS`; anything else is a user's function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError, blame
from onnxprune.evaluate.output_comparison import is_distribution, log_probabilities
from onnxprune.types import metric_name

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]

Kind: TypeAlias = Literal["accuracy", "mse", "nats", "perplexity", "function"]

_LOWER: dict[str, Kind] = {"mse": "mse", "nats": "nats", "perplexity": "perplexity"}
_LARGEST = 709.0  # whose exponential is finite


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
    """

    name: str
    kind: Kind
    higher_is_better: bool = True
    output: str = ""
    top: int = 1
    function: Callable[[dict[str, Array], Array], float] | None = None


@blame("--metric")
def find_metric(spec: str | Callable[..., float]) -> Metric:
    """Look a metric up.

    Args:
        spec: a built-in name, with ``@output`` behind it where several outputs could be meant;
            ``file.py:function`` or ``package.module:function``; or a function.

    Raises:
        OnnxpruneError: there is no such metric or function.
    """
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
    kind, _, output = metric_name(spec).partition("@")
    if kind in _LOWER:
        return Metric(spec, _LOWER[kind], higher_is_better=False, output=output)
    top = int(kind.removeprefix("top")) if kind != "accuracy" else 1
    return Metric(spec, "accuracy", output=output, top=top)


@dataclass(frozen=True, eq=False)
class Score:
    """A metric of one model, and the contribution of every sample.

    Attributes:
        value: the metric.
        sums, counts: float64 ``[samples]``: the metric is ``sums.sum() / counts.sum()`` (its
            exponential, for ``perplexity``); None for a user's function.
    """

    value: float
    sums: npt.NDArray[np.float64] | None = None
    counts: npt.NDArray[np.float64] | None = None


def evaluate(metric: Metric, outputs: Iterable[Outputs], labels: Array) -> float:
    """The metric of a model over batches of its outputs; arguments and errors are `score`'s."""
    return score(metric, outputs, labels).value


def score(metric: Metric, outputs: Iterable[Outputs], labels: Array) -> Score:
    """The metric of a model over batches of its outputs, sample by sample.

    Args:
        metric: what to measure.
        outputs: batches, samples along the first axis. A user's function is given all of them at
            once; for the others, nothing is kept.
        labels: one per sample, in the same order. For class scores ``[batch, ..., classes]`` or
            ``[batch, classes, ...]`` (logits, probabilities or their logarithms) they are class
            numbers ``[batch, ...]``; negative ones are left out. For ``mse`` they have the shape
            of the output.

    Raises:
        OnnxpruneError: there are more or fewer labels than samples, they fit no output or several,
            or a user's function fails.
    """
    pairs = _paired(outputs, labels, metric)
    if metric.kind == "function":
        return Score(_call(metric, pairs))
    name, distribution = "", False
    sums, counts = [np.zeros(0)], [np.zeros(0)]
    for batch, expected in pairs:
        if not name:
            name = _pick(metric, batch, expected)
            distribution = is_distribution(_last(batch[name], expected))
        values, of = _each(metric, batch[name], expected, distribution=distribution)
        sums.append(np.bincount(of, values, len(expected)).astype(np.float64))
        counts.append(np.bincount(of, minlength=len(expected)).astype(np.float64))
    total, count = float(np.concatenate(sums).sum()), float(np.concatenate(counts).sum())
    if count == 0:
        raise OnnxpruneError(f"there is nothing to measure the {metric.name} of")
    mean = total / count
    if metric.kind == "perplexity":
        mean = math.exp(mean) if mean < _LARGEST else math.inf
    return Score(mean, np.concatenate(sums), np.concatenate(counts))


def _each(
    metric: Metric, output: Array, expected: Array, *, distribution: bool
) -> tuple[Array, npt.NDArray[np.int64]]:
    """What every labelled element adds to the metric, and which sample it belongs to."""
    samples = np.arange(len(expected))
    if metric.kind == "mse":
        gap = output.astype(np.float64).reshape(expected.shape) - expected
        return np.square(gap).ravel(), np.repeat(samples, gap.size // max(len(gap), 1))
    rows, classes, of = _rows(output, expected)
    if metric.kind == "accuracy":
        return _hits(rows, classes, metric.top), of
    return _losses(rows, classes, distribution=distribution), of


def _paired(
    outputs: Iterable[Outputs], labels: Array, metric: Metric
) -> Iterator[tuple[Outputs, Array]]:
    """Batches with the labels of their samples."""
    start = 0
    for batch in outputs:
        if metric.output and metric.output not in batch:
            raise OnnxpruneError(
                f"the model has no output '{metric.output}'", hint=f"it has {', '.join(batch)}"
            )
        counted = batch[metric.output] if metric.output else next(iter(batch.values()))
        stop = start + (len(counted) if counted.ndim else 1)
        if stop > len(labels):
            break
        yield batch, labels[start:stop]
        start = stop
    else:
        if start == len(labels):
            return
    raise OnnxpruneError(
        f"the number of labels, {len(labels)}, is not the number of samples",
        hint="give one label per sample, in the order of the samples",
    )


def _pick(metric: Metric, batch: Outputs, labels: Array) -> str:
    """The output that the labels belong to."""
    names = [metric.output] if metric.output else list(batch)
    fitting = [name for name in names if _fits(metric, batch[name], labels)]
    if len(fitting) == 1:
        return fitting[0]
    shapes = ", ".join(f"'{name}' {list(batch[name].shape)}" for name in names)
    which = "several outputs fit" if fitting else "no output fits"
    raise OnnxpruneError(
        f"--labels: {which} labels of shape {list(labels.shape)}: {shapes}",
        hint=f"write {metric.name}@OUTPUT" if fitting else "class numbers: one per row of scores",
    )


def _fits(metric: Metric, array: Array, labels: Array) -> bool:
    if array.dtype.kind in "OU":
        return False
    if metric.kind == "mse":
        return array.size == labels.size and array.shape[:1] == labels.shape[:1]
    return _class_axis(array, labels) is not None


def _class_axis(array: Array, labels: Array) -> int | None:
    shape = labels.shape
    if array.ndim == labels.ndim and labels.ndim > 1 and shape[-1] == 1 < array.shape[-1]:
        shape = shape[:-1]
    if array.ndim != len(shape) + 1:
        return None
    for axis in (array.ndim - 1, 1):
        if array.shape[axis] >= 2 and array.shape[:axis] + array.shape[axis + 1 :] == shape:
            return axis
    return None


def _last(array: Array, labels: Array) -> Array:
    """Class scores with the classes along the last axis."""
    axis = _class_axis(array, labels)
    return array if axis is None else np.moveaxis(array, axis, -1)


def _rows(
    array: Array, labels: Array
) -> tuple[Array, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Scores ``[rows, classes]``, class numbers and samples ``[rows]``, without unlabelled rows."""
    scores = _last(array, labels)
    rows = scores.reshape(-1, scores.shape[-1])
    classes = labels.reshape(-1).astype(np.int64)
    if not np.array_equal(classes, labels.reshape(-1)):
        raise OnnxpruneError("the labels are not class numbers", hint="they must be whole numbers")
    if classes.max(initial=-1) >= rows.shape[1]:
        raise OnnxpruneError(
            f"there is a label {classes.max()}, but only {rows.shape[1]} classes, counted from 0",
            hint="give labels of this model's classes; a negative label counts for nothing",
        )
    kept = classes >= 0
    of = np.repeat(np.arange(len(labels)), len(classes) // max(len(labels), 1))
    return rows[kept], classes[kept], of[kept]


def _hits(rows: Array, classes: npt.NDArray[np.int64], top: int) -> npt.NDArray[np.bool_]:
    """Whether each label is among the ``top`` best classes; of equal scores the first is best."""
    own = np.take_along_axis(rows, classes[:, None], 1)
    earlier = np.arange(rows.shape[1]) < classes[:, None]
    ahead = (rows > own) | ((rows == own) & earlier)
    return np.asarray((ahead.sum(1) < top) & ~np.isnan(own[:, 0]))


def _losses(
    rows: Array, classes: npt.NDArray[np.int64], *, distribution: bool
) -> npt.NDArray[np.float64]:
    """Negative log-likelihood of each label, in nats; infinite where a score is NaN."""
    logs = log_probabilities(rows, distribution=distribution)
    losses = -np.take_along_axis(logs, classes[:, None], 1)[:, 0]
    return np.where(np.isnan(losses), np.inf, losses)


def _call(metric: Metric, pairs: Iterator[tuple[Outputs, Array]]) -> float:
    assert metric.function is not None
    kept: dict[str, list[Array]] = {}
    known = []
    for batch, expected in pairs:
        for name, array in batch.items():
            kept.setdefault(name, []).append(np.atleast_1d(array))
        known.append(expected)
    if not known:
        raise OnnxpruneError(f"there is nothing to measure the {metric.name} of")
    try:
        outputs = {name: np.concatenate(arrays) for name, arrays in kept.items()}
    except ValueError as error:
        raise OnnxpruneError(
            f"{metric.name} cannot be given outputs whose shapes differ from batch to batch"
        ) from error
    try:
        return float(metric.function(outputs, np.concatenate(known)))
    except Exception as error:  # the user's function may raise anything
        raise OnnxpruneError(
            f"the metric {metric.name} failed: {type(error).__name__}: {error}",
            hint="it is called with a dict of output arrays and the array of labels",
        ) from error
