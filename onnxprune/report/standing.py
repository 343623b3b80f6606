"""How good models are: a verdict, and one number, a task metric or agreement with the original."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxprune.quantities import figure, measured, percent, spread
from onnxprune.types import is_fraction

if TYPE_CHECKING:
    from onnxprune.jobs.bench.schema import Row
    from onnxprune.jobs.results.schema import Measure, OutputRow, Report
    from onnxprune.quantities import Unit
    from onnxprune.select.sensitivity import Sensitivity
    from onnxprune.types import Quality

_SIZES = ("MACs", "parameters", "weights")
_LOWER = ("mse", "nats", "entropy", "loss", "error", "perplexity")
_RATES = ("cer", "wer")


@dataclass(frozen=True)
class Scale:
    """What is measured: its name, whether it is a part of a whole, and which way is better."""

    name: str
    fraction: bool
    higher_is_better: bool = True

    @property
    def unit(self) -> Unit:
        """How its values are written."""
        return "fraction" if self.fraction else "number"

    def change(self, drop: float) -> float:
        """New minus old of what lost so much."""
        return -drop if self.higher_is_better else drop


@dataclass(frozen=True)
class Standing:
    """How good a model is beside the original.

    Attributes:
        scale: what that is counted in.
        dense, value: of the original and of the model.
        error: standard error of their difference on the same samples; None where none is known.
    """

    scale: Scale
    dense: float
    value: float
    error: float | None = None


TOP1 = Scale("same top-1 as the original", fraction=True)
COSINE = Scale("cosine to the original", fraction=False)
_WITHOUT_LABELS = {"agreement": TOP1, "cosine": COSINE, "": TOP1}


def metric_scale(name: str, *, fraction: bool | None = None, higher: bool | None = None) -> Scale:
    """The scale of what a document calls ``name``; the rest where it says so, else as names go."""
    if name in _WITHOUT_LABELS:
        return _WITHOUT_LABELS[name]
    if fraction is None:
        fraction = is_fraction(name)
    lower = name.partition("@")[0] in _RATES or any(word in name.lower() for word in _LOWER)
    return Scale(name, fraction, (not lower) if higher is None else higher)


def details(quality: Quality) -> str:
    """What was measured, on which data, and what decided, in one line."""
    value = [_value(quality)] if quality.status == "good" and quality.after is not None else []
    line = "; ".join([*value, *quality.reasons])
    if quality.data and quality.status != "not measured":
        line += f"{', ' if line else ''}on {quality.data}"
    return line


def _value(quality: Quality) -> str:
    """The measured value, and the standard error of its change."""
    assert quality.after is not None
    unit = metric_scale(quality.measure).unit
    error = "" if quality.error is None else f" (s.e. {spread(quality.error, unit)})"
    if quality.measure == "agreement":
        return f"{percent(quality.after)} of the dense model's answers{error}"
    if quality.measure == "relative squared error":
        return f"relative squared error {figure(quality.after)}{error}"
    ends = f"{measured(quality.before, unit)} -> {measured(quality.after, unit)}"
    return f"{quality.measure} {ends}{error}"


def agreement(rows: Iterable[OutputRow]) -> tuple[Scale, float] | None:
    """Of the output that says most: class scores if there are any, else the first comparable."""
    comparable = [row for row in rows if row.cosine is not None and math.isfinite(row.cosine)]
    scores = [row for row in comparable if row.top1 is not None]
    if scores and scores[0].top1 is not None:
        return TOP1, scores[0].top1
    if comparable and comparable[0].cosine is not None:
        return COSINE, comparable[0].cosine
    return None


def metric(run: Report) -> Measure | None:
    """The task metric of a run, if labels were given."""
    rows = [row for row in run.measures if row.name not in _SIZES and row.dense is not None]
    return rows[-1] if rows else None


def measure(run: Report, name: str) -> Measure | None:
    """A measure by name."""
    return next((row for row in run.measures if row.name == name), None)


def of_run(run: Report) -> Standing | None:
    """How good the model of a run is: by its task metric, else by agreement with the original."""
    row = metric(run)
    if row is not None and row.dense is not None and row.pruned is not None:
        scale = metric_scale(row.name, fraction=row.unit == "fraction")
        return Standing(scale, row.dense, row.pruned, row.error)
    same = agreement(run.outputs)
    if same is None:
        return None
    from onnxprune.evaluate.sample_statistics import agreement_error

    scale, value = same
    counted = scale == TOP1 and run.samples > 0
    error = agreement_error(value, run.samples) if counted else None
    return Standing(scale, 1.0, value, error)


def of_row(row: Row) -> Standing | None:
    """The same of a benchmarked model, on the backend it was measured on."""
    score = row.score
    if score is not None and score.before is not None and score.after is not None:
        return Standing(metric_scale(score.metric), score.before, score.after, score.error)
    same = agreement(row.outputs)
    if same is None:
        return None
    return Standing(same[0], 1.0, same[1], row.agreement_error if same[0] == TOP1 else None)


def of_sweep(sweep: Sensitivity) -> Scale:
    """The scale of a sweep, called as its metric is."""
    scale = metric_scale(sweep.metric, higher=sweep.higher_is_better)
    return replace(scale, name=sweep.metric)
