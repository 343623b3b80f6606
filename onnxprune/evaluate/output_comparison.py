"""Comparison of the outputs of two models.

Pure numpy: nothing here knows a model. Outputs come batch by batch and are summed up in float64;
none are kept.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]
F64 = npt.NDArray[np.float64]

_CHUNK = 1 << 20  # elements compared at once: 8 MiB in float64
_SMALLEST = 1e-12  # floor of probabilities


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


class Comparison:
    """Compares two models' outputs, one batch after the other.

    Args:
        parts: the values that each output is assembled from (``model.parts``). Where they are
            given with the outputs they are compared instead, and not taken for class scores.
    """

    def __init__(self, parts: Mapping[str, Sequence[str]] | None = None) -> None:
        self._parts = {k: names for k, names in (parts or {}).items() if len(names) > 1}
        self._inner = {n for names in self._parts.values() for n in names} - set(parts or {})
        self._sums: dict[str, _Sums] | None = None

    def add(self, reference: Outputs, other: Outputs) -> None:
        """Add the outputs of both models for the same batch.

        Raises:
            OnnxpruneError: the outputs have other names than each other, or than before.
        """
        wanted, theirs = self._compared(reference), self._compared(other)
        if self._sums is None:
            self._sums = {name: _Sums(scores=scores) for name, (_, scores) in wanted.items()}
        for outputs in (wanted, theirs):
            if set(outputs) != set(self._sums):
                strange = sorted(set(outputs) ^ set(self._sums))
                raise OnnxpruneError(
                    f"the outputs differ in name: {', '.join(strange)}",
                    hint="only models with the same outputs can be compared",
                )
        for name, sums in self._sums.items():
            sums.add(stacked(wanted[name][0]), stacked(theirs[name][0]))

    def _compared(self, outputs: Outputs) -> dict[str, tuple[Array, bool]]:
        """The values to compare by label, and whether they may be class scores."""
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

    def __init__(self, *, scores: bool) -> None:
        self.reason = ""
        self.count = self.same = self.broken = 0
        self.dot = self.reference = self.other = self.gap = self.largest = 0.0
        self.scores: bool | None = None if scores else False
        self.distribution, self.independent = False, True
        self.rows = self.agreeing = 0
        self.divergence = 0.0

    def add(self, a: Array, b: Array) -> None:
        """``a`` of the reference, ``b`` of the other model."""
        if a.shape != b.shape and not self.reason:
            self.reason = f"its shape is {list(b.shape)} where the reference has {list(a.shape)}"
        if "O" in (a.dtype.kind, b.dtype.kind) or "U" in (a.dtype.kind, b.dtype.kind):
            self.reason = self.reason or "it holds no numbers"
        if self.reason:
            return
        if self.scores is None and a.size:
            self.scores = is_scores(a) and is_scores(b)
            self.distribution = self.scores and is_distribution(a)
        self.independent = self.independent and is_independent(a)
        width = a.shape[-1] if a.ndim else 1
        rows = a.size // width if width else 0
        step = max(1, _CHUNK // max(width, 1))
        a, b = a.reshape(rows, width), b.reshape(rows, width)
        for start in range(0, rows, step):
            x, y = a[start : start + step], b[start : start + step]
            self._add_elements(x.astype(np.float64).ravel(), y.astype(np.float64).ravel())
            if self.scores:
                self._add_scores(x, y)

    def _add_elements(self, x: F64, y: F64) -> None:
        self.count += x.size
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        self.same += int(same.sum())
        finite = np.isfinite(x) & np.isfinite(y)
        self.broken += int((~finite & ~same).sum())
        x, y = x[finite], y[finite]
        gap = y - x
        self.dot += float(x @ y)
        self.reference += float(x @ x)
        self.other += float(y @ y)
        self.gap += float(gap @ gap)
        self.largest = max(self.largest, float(np.abs(gap).max(initial=0.0)))

    def _add_scores(self, x: Array, y: Array) -> None:
        self.rows += len(x)
        self.agreeing += int((x.argmax(-1) == y.argmax(-1)).sum())
        log_p = log_probabilities(x, distribution=self.distribution)
        log_q = log_probabilities(y, distribution=self.distribution)
        p = np.exp(log_p)
        with np.errstate(invalid="ignore"):
            terms = np.where(p > 0, p * (log_p - log_q), 0.0)
        divergence = terms.sum(-1)
        self.divergence += float(np.where(np.isnan(divergence), np.inf, divergence).sum())

    def finish(self, name: str) -> OutputComparison:
        """The figures."""
        if not self.reason and self.count == 0:
            self.reason = "it was always empty"
        if self.reason:
            return OutputComparison(name, reason=self.reason)
        size = math.sqrt(self.reference) * math.sqrt(self.other)
        both_zero = self.reference == self.other == 0
        whole = self.broken == 0
        exclusive = self.scores and not self.independent
        return OutputComparison(
            name,
            count=self.count,
            cosine=min(1.0, max(-1.0, self.dot / size)) if size else float(both_zero),
            relative_error=_ratio(self.gap, self.reference) if whole else math.inf,
            max_abs_error=self.largest if whole else math.inf,
            snr_db=_decibel(self.reference, self.gap) if whole else -math.inf,
            equal=self.same / self.count,
            top1=self.agreeing / self.rows if self.scores else None,
            kl=max(0.0, self.divergence / self.rows) if exclusive else None,
            broken=self.broken,
        )


def _ratio(gap: float, reference: float) -> float:
    if gap == 0:
        return 0.0
    return math.sqrt(gap / reference) if reference > 0 else math.inf


def _decibel(reference: float, gap: float) -> float:
    if gap == 0:
        return math.inf
    return 10 * math.log10(reference / gap) if reference > 0 else -math.inf
