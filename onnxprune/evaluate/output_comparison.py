"""Comparison of the outputs of two models.

Pure numpy: nothing here knows a model. Outputs come batch by batch and are summed up in float64;
none are kept.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.relative_error import Variation
from onnxprune.evaluate.sample_statistics import Answers, Columns, SampleMean

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]
F64 = npt.NDArray[np.float64]
Meaning = Literal["scores", "embedding", "numbers"]
"""What rows of an output are: scores of classes, vectors whose length means nothing, or else."""
MeaningTest = Callable[[str, Array], Meaning]

_CHUNK = 1 << 20  # elements compared at once: 8 MiB in float64
_SMALLEST = 1e-12  # floor of probabilities
_MOST_CLASSES = 4096
"""Most classes that are counted one by one; more are words of a language."""
_FEW = 2
"""Columns of a row up to which its mean is compared too: it is half of what two numbers say."""


@dataclass(frozen=True)
class OutputComparison:
    """One output of a model compared with that of its reference.

    Attributes:
        name: of the output.
        count: elements compared.
        cosine: between all elements of both, in [-1, 1]; 1 where both are zero.
        relative_error: ``||other - reference|| / ||reference||``.
        max_abs_error: largest ``|other - reference|``.
        snr_db: ``10 log10(||reference||^2 / ||other - reference||^2)``; infinite if equal.
        equal: fraction of elements that are identical.
        top1: for class scores, fraction of rows whose largest entry is at the same place.
        kl: for scores of classes that exclude each other, mean divergence KL(reference || other)
            of a row, in nats.
        broken: elements that are finite in one model only, or differently not finite; the errors
            are infinite if there are any.
        reason: why the output could not be compared; then every figure is None. Empty if it was.
        kind: ``classes`` (scores of classes, one row per sample), ``tokens`` (several such rows),
            ``embedding`` (a vector per sample, whose length means nothing), ``numbers``,
            ``integers`` or ``text``; empty if unknown.
        unexplained: squared error over the variance of the reference from sample to sample (the
            fraction of variance unexplained): 0 for equal outputs, 1 for the best constant. Scores
            count up to a constant per row, on which no answer depends.
        unexplained_error: its standard error over samples; None for one or two.
        unexplained_interval: ends of its interval of 95 %; 0 and infinity where nothing is known.
        scaled: the same for the best multiple of the output, where its scale means little: of
            classes, tokens and embeddings; None for others.
        scaled_error, scaled_interval: standard error of that, and ends of its interval.
        factor: how many times too large these values are; infinite where they have nothing to do
            with the reference.
        furthest: number of the class whose scores make up most of the squared error; None where
            there is none.
        others: relative squared error of the scores of all other classes; None likewise.
        constant: whether the reference hardly varies from sample to sample; ``unexplained`` is then
            relative to its mean square.
        top1_error, kl_error: standard errors over samples; the rows of one sample count as one.
        answers: independent answers that would be as certain, at most one per row; None without
            answers.
        chance: share of equal answers that the frequencies of both models' answers would give by
            chance; None without answers.
        non_finite: elements that are finite in the reference alone.
        undefined: share of the reference's elements that are NaN.
        sizes: elements of both, where their shapes differ.
    """

    name: str
    count: int = 0
    cosine: float | None = None
    relative_error: float | None = None
    max_abs_error: float | None = None
    snr_db: float | None = None
    equal: float | None = None
    top1: float | None = None
    kl: float | None = None
    broken: int = 0
    reason: str = ""
    kind: str = ""
    unexplained: float | None = None
    unexplained_error: float | None = None
    unexplained_interval: tuple[float, float] = (0.0, math.inf)
    scaled: float | None = None
    scaled_error: float | None = None
    scaled_interval: tuple[float, float] = (0.0, math.inf)
    factor: float | None = None
    furthest: int | None = None
    others: float | None = None
    constant: bool = False
    top1_error: float | None = None
    kl_error: float | None = None
    answers: float | None = None
    chance: float | None = None
    non_finite: int = 0
    undefined: float = 0.0
    sizes: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class SampleValues:
    """What each sample adds to the comparison of one output, and each class of answers.

    Attributes:
        errors: squared error ``[samples]``.
        agreement: share of equal answers ``[samples]``; empty without answers.
        divergence: KL(reference || other) of its rows in nats ``[samples]``; empty too.
        classes: rows by the class that the reference answers; empty for more than `_MOST_CLASSES`.
        equal: how many of these the other model answers alike.
    """

    errors: F64
    agreement: F64
    divergence: F64
    classes: npt.NDArray[np.int64]
    equal: npt.NDArray[np.int64]


class Comparison:
    """Compares two models' outputs, one batch after the other.

    Args:
        parts: the values that each output is assembled from (``model.parts``). Where they are
            given with the outputs they are compared instead, and not taken for class scores.
        meaning: what an output holds, by its name and some of its rows
            (`onnxprune.evaluate.class_scores`); by default what has the shape of scores are scores.
    """

    def __init__(
        self,
        parts: Mapping[str, Sequence[str]] | None = None,
        meaning: MeaningTest | None = None,
    ) -> None:
        self._meaning = meaning or (lambda _, array: "scores" if is_scores(array) else "numbers")
        self._parts = {k: names for k, names in (parts or {}).items() if len(names) > 1}
        self._inner = {n for names in self._parts.values() for n in names} - set(parts or {})
        self._sums: dict[str, _Sums] | None = None

    def add(self, reference: Outputs, other: Outputs, samples: int | None = None) -> None:
        """Add the outputs of both models for the same batch.

        Args:
            reference: by name, of the model that is compared with.
            other: by name.
            samples: of the batch; by default the length of each output's first axis.

        Raises:
            OnnxpruneError: the outputs have other names than each other, or than before.
        """
        wanted, theirs = self._compared(reference), self._compared(other)
        if self._sums is None:
            self._sums = {
                name: _Sums(partial(self._meaning, name) if whole else None)
                for name, (_, whole) in wanted.items()
            }
        for outputs in (wanted, theirs):
            if set(outputs) != set(self._sums):
                strange = sorted(set(outputs) ^ set(self._sums))
                raise OnnxpruneError(
                    f"the outputs differ in name: {', '.join(strange)}",
                    hint="only models with the same outputs can be compared",
                )
        for name, sums in self._sums.items():
            sums.add(stacked(wanted[name][0]), stacked(theirs[name][0]), samples)

    def _compared(self, outputs: Outputs) -> dict[str, tuple[Array, bool]]:
        """The values to compare by label, and whether each is a whole output."""
        pairs: dict[str, tuple[Array, bool]] = {}
        for output in (name for name in outputs if name not in self._inner):
            names = self._parts.get(output, ())
            if names and all(name in outputs for name in names):
                pairs |= {f"{output}: {name}": (outputs[name], False) for name in names}
            else:
                pairs[output] = outputs[output], not names
        return pairs

    def result(self) -> dict[str, OutputComparison]:
        """The comparison of each output so far, by name.

        Raises:
            OnnxpruneError: nothing was added.
        """
        if self._sums is None:
            raise OnnxpruneError("there are no outputs to compare")
        return {name: sums.finish(name) for name, sums in self._sums.items()}

    def samples(self) -> dict[str, SampleValues]:
        """What each sample added so far, for each output that can be compared."""
        sums = (self._sums or {}).items()
        return {name: each.samples() for name, each in sums if not each.reason}


def compare(
    reference: Outputs | Iterable[Outputs], other: Outputs | Iterable[Outputs]
) -> dict[str, OutputComparison]:
    """Compare two models' outputs: one batch each, or any number of them in the same order.

    Returns:
        by output name.

    Raises:
        OnnxpruneError: the numbers of batches or the names of the outputs differ, or there is
            nothing to compare.
    """
    comparison = Comparison()
    for one, two in itertools.zip_longest(_batches(reference), _batches(other)):
        if one is None or two is None:
            raise OnnxpruneError("one model has outputs for more batches than the other")
        comparison.add(one, two)
    return comparison.result()


def stacked(value: object) -> Array:
    """The content of an output as one array.

    Elements of a sequence, and values of a map in the order of its keys, become rows; they lie one
    after the other in one axis where their shapes differ. A missing optional is empty.

    Example:
        >>> stacked([{"b": 2.0, "a": 1.0}, {"a": 3.0, "b": 4.0}])  # of a ZipMap
        array([[1., 2.],
               [3., 4.]])
    """
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value, key=lambda key: (str(type(key)), key))]
    if value is None:
        return np.zeros(0)
    if not isinstance(value, list | tuple):
        return np.asarray(value)
    rows = [stacked(each) for each in value]
    if len({row.shape for row in rows}) > 1:
        return np.concatenate([row.ravel() for row in rows])
    return np.stack(rows) if rows else np.zeros(0)


def is_scores(array: Array) -> bool:
    """Whether an output looks like class scores.

    That is, floating ``[batch, classes]`` or ``[batch, positions, classes]`` with at least two
    classes. Feature maps have more axes; embeddings cannot be told from scores.
    """
    floating = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return floating and array.ndim in (2, 3) and array.shape[-1] >= 2


def is_distribution(rows: Array) -> bool:
    """Whether every row along the last axis is a probability distribution, to float16's digits."""
    if rows.size == 0 or not (rows >= 0).all():
        return False
    return bool(np.allclose(rows.sum(-1, dtype=np.float64), 1, atol=5e-3))


def is_independent(rows: Array) -> bool:
    """Whether these are probabilities of classes that may coincide, as from sigmoids."""
    return rows.size > 0 and bool(
        (rows >= 0).all() and (rows <= 1).all() and not is_distribution(rows)
    )


def log_probabilities(rows: Array, *, distribution: bool) -> F64:
    """Natural logarithms of class probabilities along the last axis, in float64.

    Args:
        rows: probabilities if ``distribution``, else logits (or log-probabilities).
        distribution: which.
    """
    x = rows.astype(np.float64)
    if distribution:
        return np.asarray(np.log(np.maximum(x, _SMALLEST)))
    with np.errstate(invalid="ignore"):
        x -= x.max(-1, keepdims=True)
        return np.asarray(x - np.log(np.exp(x).sum(-1, keepdims=True)))


def _batches(outputs: Outputs | Iterable[Outputs]) -> Iterator[Outputs]:
    return iter([outputs]) if isinstance(outputs, Mapping) else iter(outputs)


class _Sums:
    """The running sums of one output."""

    def __init__(self, meaning: Callable[[Array], Meaning] | None) -> None:
        self.reason = ""
        self.count = self.same = self.broken = self.non_finite = self.undefined = 0
        self.dot = self.reference = self.other = self.gap = self.largest = 0.0
        self.test = meaning
        self.meaning: Meaning | None = None if meaning else "numbers"
        self.distribution, self.independent = False, True
        self.integers, self.several = True, False
        self.sizes = [0, 0]
        self.variation = Variation()
        self.answers = Answers()
        self.agreeing, self.divergence = SampleMean(), SampleMean()
        self.each: list[tuple[F64, F64, F64]] = []
        self.classes = self.equal = np.zeros(0, np.int64)
        self.columns = Columns()

    @property
    def scores(self) -> bool:
        """Whether rows are scores of classes."""
        return self.meaning == "scores"

    def add(self, a: Array, b: Array, samples: int | None) -> None:
        """``a`` of the reference, ``b`` of the other model."""
        self.sizes[0] += a.size
        self.sizes[1] += b.size
        if a.shape != b.shape and not self.reason:
            self.reason = f"its shape is {list(b.shape)} where the reference has {list(a.shape)}"
        text = [array.dtype.kind in "OUST" for array in (a, b)]
        if all(text) and a.shape == b.shape:
            a, b = (_by_sample(array.astype(str), samples) for array in (a, b))
            self.answers.add(a.ravel(), b.ravel())
            self.agreeing.add((a == b).sum(1, dtype=np.float64), a.shape[1])
        if any(text):
            self.reason = self.reason or "it holds no numbers"
        if self.reason:
            return
        if self.meaning is None and self.test and a.size:
            self.meaning = self.test(a) if is_scores(b) else "numbers"
            self.distribution = self.scores and is_distribution(a)
        self.independent = self.independent and is_independent(a)
        self.integers = self.integers and a.dtype.kind in "iub"
        width = a.shape[-1] if a.ndim else 1
        a, b = _by_sample(a, samples), _by_sample(b, samples)
        if not a.size:
            return
        width = a.shape[1] if a.shape[1] % width else width
        scores = self.scores and width > 1
        size = a.shape[1]
        self.several = self.several or size > width
        rows = max(1, _CHUNK // a.shape[1])
        columns = max(1, _CHUNK // width) * width
        for start in range(0, len(a), rows):
            x, y = a[start : start + rows], b[start : start + rows]
            sums = [
                self._add(
                    x[:, k : k + columns], y[:, k : k + columns], size, width, k, scores=scores
                )
                for k in range(0, size, columns)
            ]
            hits, divergence = (np.sum(each, axis=0) for each in zip(*sums, strict=True))
            gaps = self.variation.close()
            if scores or self.integers:
                self.agreeing.add(hits, a.shape[1] // (width if scores else 1))
            if scores:
                self.divergence.add(divergence, a.shape[1] // width)
            of = a.shape[1] // width if scores else 1
            self.each.append((gaps, hits / of, divergence / of))

    def samples(self) -> SampleValues:
        """What each sample added."""
        parts = [np.concatenate(each) for each in zip(*self.each, strict=True)] or [np.zeros(0)] * 3
        errors, agreement, divergence = parts
        nothing = np.zeros(0)
        return SampleValues(
            errors,
            agreement if self.scores else nothing,
            divergence if self.scores else nothing,
            self.classes,
            self.equal,
        )

    def _add(
        self, a: Array, b: Array, size: int, width: int, position: int, *, scores: bool
    ) -> tuple[F64, F64]:
        """Add ``[samples, elements]`` in rows of ``width``, from a position of the samples on.

        Returns:
            of each sample, equal answers and divergence.
        """
        x, y = a.astype(np.float64), b.astype(np.float64)
        self.count += x.size
        missing = np.isnan(x)
        same = (x == y) | (missing & np.isnan(y))
        self.same += int(same.sum())
        wanted = np.isfinite(x)
        finite = wanted & np.isfinite(y)
        self.broken += int((~finite & ~same).sum())
        self.non_finite += int((wanted & ~finite).sum())
        self.undefined += int(missing.sum())
        if not finite.all():
            x, y = np.where(finite, x, 0.0), np.where(finite, y, 0.0)
        gap = y - x
        self.dot += float(np.vdot(x, y))
        self.reference += float(np.vdot(x, x))
        self.other += float(np.vdot(y, y))
        self.gap += float(np.vdot(gap, gap))
        self.largest = max(self.largest, float(np.abs(gap).max(initial=0.0)))
        if scores and width <= _MOST_CLASSES:
            self.columns.add(x.reshape(-1, width), gap.reshape(-1, width))
        if scores and width > _FEW and not self.distribution:  # no answer depends on a constant
            x, y = _centred(x, width), _centred(y, width)
        self.variation.add(x, y, size, width, position)
        hits = divergence = np.zeros(len(a))
        if scores:
            hits, divergence = self._add_scores(a.reshape(-1, width), b.reshape(-1, width), len(a))
        elif self.integers:
            self.answers.add(a.ravel(), b.ravel())
            hits = (a == b).sum(1, dtype=np.float64)
        return hits, divergence

    def _add_scores(self, x: Array, y: Array, samples: int) -> tuple[F64, F64]:
        first, second = x.argmax(-1), y.argmax(-1)
        self.answers.add(first, second)
        if x.shape[1] <= _MOST_CLASSES:
            size = x.shape[1]
            counts = np.bincount(first, minlength=size), np.bincount(first[first == second])
            self.classes = _added(self.classes, counts[0])
            self.equal = _added(self.equal, np.pad(counts[1], (0, size - len(counts[1]))))
        hits = (first == second).reshape(samples, -1).sum(1, dtype=np.float64)
        log_p = log_probabilities(x, distribution=self.distribution)
        log_q = log_probabilities(y, distribution=self.distribution)
        p = np.exp(log_p)
        with np.errstate(invalid="ignore"):
            terms = np.where(p > 0, p * (log_p - log_q), 0.0)
        divergence = terms.sum(-1)
        divergence = np.where(np.isnan(divergence), np.inf, divergence)
        return hits, divergence.reshape(samples, -1).sum(1)

    def finish(self, name: str) -> OutputComparison:
        """The figures."""
        if not self.reason and self.count == 0:
            self.reason = "it was always empty"
        answers = self.agreeing.count > 0
        chance = self.answers.chance() if answers else None
        if self.reason:
            first, second = self.sizes
            return OutputComparison(
                name,
                reason=self.reason,
                kind="text" if answers else "",
                equal=self.agreeing.mean if answers else None,
                top1_error=self.agreeing.proportion_error() if answers else None,
                answers=self.agreeing.independent() if answers else None,
                chance=chance,
                sizes=None if first == second else (first, second),
            )
        size = math.sqrt(self.reference) * math.sqrt(self.other)
        both_zero = self.reference == self.other == 0
        whole = self.broken == 0
        exclusive = self.scores and answers and not self.independent
        error = self.variation.error(
            bounded=self.independent or self.distribution, scores=self.scores
        )
        kind = "integers" if self.integers else "numbers"
        if exclusive:
            kind = "tokens" if self.several else "classes"
        elif self.meaning == "embedding":
            kind = "embedding"
        scalable = kind in ("classes", "tokens", "embedding")
        furthest, others = self.columns.furthest()
        return OutputComparison(
            name,
            count=self.count,
            cosine=min(1.0, max(-1.0, self.dot / size)) if size else float(both_zero),
            relative_error=_ratio(self.gap, self.reference) if whole else math.inf,
            max_abs_error=self.largest if whole else math.inf,
            snr_db=_decibel(self.reference, self.gap) if whole else -math.inf,
            equal=self.same / self.count,
            top1=self.agreeing.mean if self.scores and answers else None,
            kl=max(0.0, self.divergence.mean) if exclusive else None,
            broken=self.broken,
            kind=kind,
            unexplained=error.own.value if self.non_finite == 0 else math.inf,
            unexplained_error=error.own.error,
            unexplained_interval=(error.own.low, error.own.high),
            scaled=error.scaled.value if scalable else None,
            scaled_error=error.scaled.error if scalable else None,
            scaled_interval=(error.scaled.low, error.scaled.high),
            factor=error.factor if scalable else None,
            furthest=furthest,
            others=others,
            constant=error.constant,
            top1_error=self.agreeing.proportion_error() if answers else None,
            answers=self.agreeing.independent() if answers else None,
            kl_error=self.divergence.error() if exclusive else None,
            chance=chance,
            non_finite=self.non_finite,
            undefined=self.undefined / self.count,
        )


def _by_sample(array: Array, samples: int | None) -> Array:
    """An output as ``[samples, elements]``; one row where samples cannot be told apart.

    The axis of the samples is the first one, else the only one as long as there are samples; where
    several rows of the first axis belong to each sample, they lie together.
    """
    if array.ndim == 0:
        return array.reshape(1, 1)
    if samples is None:
        samples = array.shape[0]
    axes = [axis for axis, length in enumerate(array.shape[:-1]) if length == samples]
    if samples > 1 and len(axes) == 1:
        array = np.moveaxis(array, axes[0], 0)
    rows = samples if samples and array.shape[0] % samples == 0 else 1
    return array.reshape(rows, -1) if array.size else array.reshape(rows, 0)


def _added(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The sum of two counts; of no count and another, that one."""
    width = max(len(one), len(other))  # the number of classes may depend on the sample
    return np.asarray(np.pad(one, (0, width - len(one))) + np.pad(other, (0, width - len(other))))


def _centred(x: F64, width: int) -> F64:
    """Rows of ``width`` less their mean."""
    rows = x.reshape(-1, width)
    return np.asarray((rows - rows.mean(1, keepdims=True)).reshape(x.shape))


def _ratio(gap: float, reference: float) -> float:
    if gap == 0:
        return 0.0
    return math.sqrt(gap / reference) if reference > 0 else math.inf


def _decibel(reference: float, gap: float) -> float:
    if gap == 0:
        return math.inf
    return 10 * math.log10(reference / gap) if reference > 0 else -math.inf
