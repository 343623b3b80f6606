"""A plan carried out: cut, proved, refitted, thinned, and compared with the original."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.data.dataset import MOST_BYTES, Feeds, Inputs
from onnxprune.data.mixtures import with_mixtures
from onnxprune.evaluate.equivalence import Check, Verdict, prove
from onnxprune.evaluate.evaluation import Judgement, judge
from onnxprune.evaluate.latency import Compared
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.cost import Cost, CostModel
from onnxprune.graph.plan import Plan
from onnxprune.graph.reference import masked
from onnxprune.graph.surgery import cut
from onnxprune.jobs.sparsify import restore, thin
from onnxprune.jobs.store import Stored, store
from onnxprune.recover.bias_correction import correct
from onnxprune.recover.reconstruct import reconstruct
from onnxprune.recover.refit import Outcome, Settings
from onnxprune.sparse.encodings.choose import StoreConfig
from onnxprune.sparse.sparsify import Thinned

BLAS = 1
"""Threads of a matrix product: the many small ones of elimination only get slower on more."""
Tell = Callable[[str], None]
"""Hears what is being done, one short sentence at a time."""


@dataclass(frozen=True)
class Visited:
    """One model on the way to the smallest that is good enough.

    Attributes:
        label: the budget it was made for.
        left: what it costs.
        judged: how it compares with the dense model, on the inputs that models were chosen by.
        ok: whether that is good enough.
        chosen: whether it is the one.
        timed: the backend it was timed on, beside the dense model, and what came of that.
    """

    label: str
    left: Cost
    judged: Judgement
    ok: bool
    chosen: bool = False
    timed: tuple[str, Compared] | None = None


@dataclass(frozen=True, eq=False)
class Pruned:
    """What pruning made and found.

    Attributes:
        model: the cut model.
        plan: what was removed; applies to any checkpoint of the same graph.
        verdict: the proof and the limits that were asked for.
        analysis: of the dense model.
        dense, left: costs before and after.
        outcome: how the outputs compare with the dense model's, on inputs nothing was fitted to.
        recovered: what became of every layer that was considered for refitting.
        thinned: what became of every weight, where single weights were set to zero.
        notes: whole sentences: what was declined and why, where inputs came from.
        options: what was asked.
        latency: the cut model against the dense one, where a latency was asked for.
        visited: every model that was made on the way, where the amount was searched for.
    """

    model: models.Model
    plan: Plan
    verdict: Verdict
    analysis: Analysis
    dense: Cost
    left: Cost
    outcome: Judgement
    recovered: tuple[Outcome, ...]
    thinned: tuple[Thinned, ...]
    notes: tuple[str, ...]
    options: Options
    latency: Compared | None = field(default=None, kw_only=True)
    visited: tuple[Visited, ...] = field(default=(), kw_only=True)

    def save(self, path: str | Path) -> Path:
        """Write the cut model; never over the model it came from."""
        return self.stored().save(path)

    def stored(self) -> Stored:
        """The cut model with its weights in the form that was asked for."""
        return store(
            self.model, StoreConfig(self.options.store, providers=(self.options.provider,))
        )

    def __str__(self) -> str:
        removed = sum(len(units) for units in self.plan.removed.values())
        thinned = sum(bool(each.method) for each in self.thinned)
        return (
            f"{removed} units removed from {len(self.plan.removed)} groups, "
            f"{thinned} weights thinned, "
            f"macs {self.left.macs / max(self.dense.macs, 1):.3f}x, "
            f"params {self.left.params / max(self.dense.params, 1):.3f}x, "
            f"{'verified' if self.verdict.ok else 'NOT verified'}"
        )


def carry_out(
    analysis: Analysis,
    plan: Plan,
    asked: Options,
    inputs: Inputs,
    notes: Iterable[str],
    tell: Tell,
    *,
    anew: bool,
    start: models.Model | None = None,
) -> Pruned:
    """Cut, prove, recover, thin, compare: the same for a new plan and an old one.

    Args:
        analysis: of the dense model.
        plan: what goes.
        asked: the options.
        inputs: where feeds come from.
        notes: what choosing the plan had to say; comes first among the notes.
        tell: hears the progress.
        anew: whether single weights are still to be chosen; else the plan names them.
        start: the cut model as earlier steps have refitted it; None for the dense weights.

    Raises:
        OnnxpruneError: the plan does not fit the model, or a model does not run.
    """
    fit, held = inputs.parts(analysis)
    tell("cutting")
    small = cut(analysis, plan.removed, plan.bypassed)
    said, checks = list(notes), []
    inexact = [name for name in plan.removed if not analysis.group(name).exact]
    if not inexact:
        tell("proving that the cut equals the masked original")
        reference = masked(analysis, plan.removed, plan.bypassed)
        checks.append(prove(small, reference, inputs.proof(analysis), asked.provider))
        del reference
    else:
        some = f"{inexact[0]}{' and others' if inexact[1:] else ''}"
        said.append(f"inexact: {some} was cut, so the result is not the masked original")
    small = small if start is None else start
    recovered: tuple[Outcome, ...] = ()
    as_cut = small
    cut_off = plan.removed or plan.bypassed
    if asked.recover != "none" and cut_off and fit and (not checks or checks[0].ok):
        small, recovered = refitted(analysis, plan, small, fit, asked, tell)
    if anew:
        with threadpool_limits(BLAS, "blas"):
            stage = thin(small, analysis, plan, asked, inputs, fit, tell)
    else:
        stage = restore(small, analysis, plan, asked, inputs)
    small, plan = stage.model, stage.plan
    checks += stage.checks
    said += stage.notes
    tell("comparing with the original")
    compared = Judgement()  # of made-up inputs a proof is all there is to say
    if not inputs.synthetic or not checks or asked.max_drop is not None:
        compared = judge(analysis.model, small, inputs, held, asked)
    if recovered and inexact:
        before = judge(analysis.model, as_cut, inputs, held, asked)
        said.append(f"inexact: {distance_of(before)} as cut and {distance_of(compared)} now")
    if asked.max_drop is not None:
        checks.append(Check("drop", compared.drop <= asked.max_drop, compared.drop, asked.max_drop))
    if compared.broken:
        checks.append(Check("finite outputs", ok=False, value=float("inf"), limit=0.0))
    costs = CostModel(analysis)
    dense, left = costs(), costs(plan.removed, plan.bypassed)
    if asked.target is not None and asked.target.kind != "latency":  # that is measured
        limit = asked.target.limit(int(getattr(dense, asked.target.kind)))
        value = float(getattr(left, asked.target.kind))
        checks.append(Check(asked.target.kind, value <= limit, value, float(limit)))
    if inputs.synthetic:
        said.append(f"inputs were synthetic ({inputs.description}): accuracy was not looked at")
    return Pruned(
        model=small,
        plan=plan,
        verdict=Verdict(tuple(checks)),
        analysis=analysis,
        dense=dense,
        left=left,
        outcome=compared,
        recovered=recovered,
        thinned=stage.outcomes,
        notes=tuple(said),
        options=asked,
    )


def refitted(
    analysis: Analysis,
    plan: Plan,
    small: models.Model,
    fit: Sequence[Feeds],
    asked: Options,
    tell: Tell,
) -> tuple[models.Model, tuple[Outcome, ...]]:
    """Refit what is left to what the dense model computed."""
    keep = analysis.keep(plan.removed)

    def kept(value: str, axis: int) -> npt.NDArray[np.bool_]:
        axes = analysis.walk.axes[value]  # of a value of unknown rank there are none
        known = -len(axes) <= axis < len(axes)
        return keep(axes[axis]) if known else np.zeros(0, np.bool_)

    given = (analysis.model, small, kept, analysis.facts)
    with threadpool_limits(BLAS, "blas"):
        if asked.recover == "bias":
            found = correct(*given, fit, provider=asked.provider, tell=tell)
        else:
            pairs = Settings.pairs if asked.recover == "auto" else 0
            how = Settings(pairs=pairs, provider=asked.provider)
            held = how.sample.held
            fit = with_mixtures(fit, most_bytes=MOST_BYTES, held=held, seed=asked.seed)
            found = reconstruct(*given, fit, how, tell)
    return found.model, found.outcomes


def distance_of(compared: Judgement) -> str:
    """How far the output that says most is from the original's, in words."""
    main = compared.main
    error = "unknown" if main.relative_error is None else f"{main.relative_error:.3g}"
    return f"the relative error of '{main.name}' is {error}"
