"""How a pruned model's outputs compare with the dense model's, on the inputs of the run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnxprune.analysis import Analysis
from onnxprune.backends import open_session
from onnxprune.inputs import Inputs
from onnxprune.model import Model
from onnxprune.options import Options


@dataclass(frozen=True)
class Outcome:
    """Fidelity of the first floating output, over all inputs of the run.

    Attributes:
        output: its name; empty if the model has none.
        cosine: between the flattened outputs.
        relative: ``||pruned - dense|| / ||dense||``.
        top1: fraction of rows of the last axis with the same largest entry.
        metric: name of the task metric, empty without labels.
        before, after: its value for the dense and for the pruned model.
        finite: whether no output of the pruned model is NaN or infinite where the dense one's
            is not.
    """

    output: str = ""
    cosine: float = 1.0
    relative: float = 0.0
    top1: float = 1.0
    metric: str = ""
    before: float | None = None
    after: float | None = None
    finite: bool = True

    @property
    def drop(self) -> float:
        """What was lost: of the metric, or, without labels, of agreement with the original."""
        if self.before is not None and self.after is not None:
            return self.before - self.after
        return 1.0 - self.top1


@dataclass
class _Sums:
    dot: float = 0.0
    dense: float = 0.0
    pruned: float = 0.0
    gap: float = 0.0
    same: int = 0
    rows: int = 0
    finite: bool = True
    outputs: list[np.ndarray] = field(default_factory=list)

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """``a`` of the dense model, ``b`` of the pruned one."""
        x, y = a.astype(np.float64), b.astype(np.float64)
        usable = np.isfinite(x)
        self.finite &= bool(np.isfinite(y[usable]).all())
        if x.ndim:
            self.same += int((x.argmax(-1) == y.argmax(-1)).sum())
            self.rows += x[..., 0].size
        x, y = x[usable & np.isfinite(y)], y[usable & np.isfinite(y)]
        self.dot += float(x @ y)
        self.dense += float(x @ x)
        self.pruned += float(y @ y)
        self.gap += float(((x - y) ** 2).sum())


def judge(dense: Model, pruned: Model, inputs: Inputs, analysis: Analysis, asked: Options) -> Outcome:
    """Run both models over all inputs, one batch at a time.

    Raises:
        OnnxpruneError: a model does not run on the provider.
    """
    first = open_session(dense, provider=asked.provider)
    second = open_session(pruned, provider=asked.provider)
    sums = _Sums()
    name = next((o.name for o in first.outputs if o.dtype.kind == "f"), "")
    if not name:
        return Outcome()
    for feeds in inputs.feeds(analysis):
        sums.add(first.run(feeds, [name])[name], second.run(feeds, [name])[name])
    size = np.sqrt(sums.dense * sums.pruned)
    return Outcome(
        output=name,
        cosine=sums.dot / size if size else 1.0,
        relative=float(np.sqrt(sums.gap / sums.dense)) if sums.dense else float(sums.gap > 0),
        top1=sums.same / max(sums.rows, 1),
        finite=sums.finite,
    )
