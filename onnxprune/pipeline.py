"""The main job, start to end: load, analyse, score, allocate, cut, prove, compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from onnxprune import model as models
from onnxprune.allocate import Limits
from onnxprune.analysis import Analysis, analyse
from onnxprune.calibrate.mixing import with_mixtures
from onnxprune.cost import Cost, CostModel
from onnxprune.errors import OnnxpruneError
from onnxprune.inputs import HELD_OUT, MOST_BYTES, Feeds, Inputs, open_inputs
from onnxprune.judge import Judgement, judge
from onnxprune.masked import masked
from onnxprune.options import Options, from_flags
from onnxprune.plan import Origin, Plan, check, versions
from onnxprune.recover.correction import correct
from onnxprune.recover.structured import Outcome, Settings, reconstruct
from onnxprune.selection import Selection, select
from onnxprune.sparse.stage import restore, thin
from onnxprune.sparsify import Thinned
from onnxprune.statistics import block_importance
from onnxprune.storage.choose import Asked
from onnxprune.storage.densify import densify
from onnxprune.storage.stored import Stored, store
from onnxprune.surgery import cut
from onnxprune.units import Block
from onnxprune.verify import Check, Verdict, prove

_BLAS = 1
"""Threads of a matrix product: the many small ones of elimination only get slower on more."""
_NEAR = 0.03
"""Difference between the ratio asked for and the one reached that is worth a note."""
Tell = Callable[[str], None]
"""Hears what is being done, one short sentence at a time."""


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

    def save(self, path: str | Path) -> Path:
        """Write the cut model; never over the model it came from."""
        return self.stored().save(path)

    def stored(self) -> Stored:
        """The cut model with its weights in the form that was asked for."""
        return store(self.model, Asked(self.options.store, providers=(self.options.provider,)))

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


def prune(
    source: Any,  # noqa: ANN401  # everything models.load takes
    options: Options | None = None,
    *,
    tell: Tell = lambda _: None,
    **flags: object,
) -> Pruned:
    """Remove what costs least, and prove that nothing else changed.

    Args:
        source: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
        options: what to remove and how; or give the same as keywords
            (``prune(path, ratio=0.3, calib=batches)``).
        tell: hears the progress.
        flags: the options by name, instead of ``options``.

    Raises:
        OnnxpruneError: the model, the options or the data cannot be used, or the budget cannot be
            met.
    """
    asked = options or from_flags(flags)
    tell("reading the model")
    model, _ = densify(models.load(source))
    inputs = open_inputs(model, asked)
    tell("finding what can be removed")
    analysis = analyse(model, inputs=inputs.shapes)
    inputs = inputs.that_run(analysis, asked.provider)
    fit, held = inputs.parts(analysis)
    limits = _limits(analysis, asked)
    bypassed = _blocks(analysis, asked, fit or held)
    with threadpool_limits(_BLAS, "blas"):
        chosen = (
            select(analysis, asked, limits, fit, bypassed, tell)
            if asked.removes_units
            else Selection({}, "", {})
        )
    plan = Plan(
        removed=chosen.removed,
        units={g.name: len(g) for g in analysis.groups},
        bypassed=bypassed,
        origin=Origin(
            structure=models.structure_hash(model),
            criterion=chosen.criterion,
            allocation=asked.allocation or ("uniform" if asked.target is None else "global"),
            budget=_budget_text(asked),
            seed=asked.seed,
            versions=versions(),
            calibration=inputs.description,
        ),
    )
    notes = [f"{name}: {why}" for name, why in chosen.declined.items()]
    notes += _rounded(analysis, asked, chosen) + _few(inputs, fit)
    return _finish(analysis, plan, asked, inputs, notes, tell, anew=True)


def replay(
    source: Any,  # noqa: ANN401  # everything models.load takes
    plan: Plan,
    options: Options | None = None,
    *,
    tell: Tell = lambda _: None,
) -> Pruned:
    """Apply a plan to a model of the same graph, and prove the result.

    Raises:
        OnnxpruneError: the plan was made for another graph.
    """
    asked = options or Options()
    tell("reading the model")
    model, _ = densify(models.load(source))
    inputs = open_inputs(model, asked)
    analysis = analyse(model, inputs=inputs.shapes)
    inputs = inputs.that_run(analysis, asked.provider)
    units = replace(plan, zeroed={})  # masks are for what the cut leaves
    check(units, models.structure_hash(model), analysis.groups, analysis.blocks)
    return _finish(analysis, plan, asked, inputs, [], tell, anew=False)


def _finish(
    analysis: Analysis,
    plan: Plan,
    asked: Options,
    inputs: Inputs,
    notes: Iterable[str],
    tell: Tell,
    *,
    anew: bool,
) -> Pruned:
    """Cut, prove, recover, thin, compare: the same for a new plan and an old one."""
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
    recovered: tuple[Outcome, ...] = ()
    as_cut = small
    if asked.recover != "none" and fit and (not checks or checks[0].ok):
        small, recovered = _recover(analysis, plan, small, fit, asked, tell)
    if anew:
        with threadpool_limits(_BLAS, "blas"):
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
        said.append(f"inexact: {_distance(before)} as cut and {_distance(compared)} now")
    if asked.max_drop is not None:
        checks.append(Check("drop", compared.drop <= asked.max_drop, compared.drop, asked.max_drop))
    if compared.broken:
        checks.append(Check("finite outputs", ok=False, value=float("inf"), limit=0.0))
    costs = CostModel(analysis)
    dense, left = costs(), costs(plan.removed, plan.bypassed)
    if asked.target is not None:
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


def _recover(
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
    with threadpool_limits(_BLAS, "blas"):
        if asked.recover == "bias":
            found = correct(*given, fit, provider=asked.provider, tell=tell)
        else:
            fit = with_mixtures(fit, most_bytes=MOST_BYTES, seed=asked.seed)
            pairs = Settings.pairs if asked.recover == "auto" else 0
            found = reconstruct(*given, fit, Settings(pairs=pairs, provider=asked.provider), tell)
    return found.model, found.outcomes


def _distance(compared: Judgement) -> str:
    """How far the output that says most is from the original's, in words."""
    main = compared.main
    error = "unknown" if main.relative_error is None else f"{main.relative_error:.3g}"
    return f"the relative error of '{main.name}' is {error}"


def _rounded(analysis: Analysis, asked: Options, chosen: Selection) -> list[str]:
    """Say so where rounding to fast widths took the result away from the ratio asked for."""
    free = [g for g in analysis.groups if g.name not in chosen.declined]
    if asked.ratio is None or not free:
        return []
    gone = sum(len(chosen.removed.get(g.name, ())) for g in free) / sum(map(len, free))
    if abs(gone - asked.ratio) < _NEAR:
        return []
    what = f"{gone:.0%} of the units went where {asked.ratio:.0%} was asked for"
    return [f"{what}, because widths are rounded to fast ones (--round-to 1 does not)"]


def _few(inputs: Inputs, fit: Sequence[Feeds]) -> list[str]:
    """Say so where only a part of the calibration data could be held to fit to."""
    known = inputs.calibration.samples if inputs.calibration is not None else None
    used = sum(len(next(iter(f.values()))) for f in fit)
    if not fit or known is None or used >= int(known * (1 - HELD_OUT)) - 1:
        return []
    return [f"{used} of {known} calibration samples were fitted to: more do not fit in memory"]


def _limits(analysis: Analysis, asked: Options) -> Limits:
    names = [b.name for b in analysis.blocks] + list(analysis.constants)
    skip = tuple(
        g
        for g in asked.skip
        if any(fnmatchcase(x.name, g) for x in analysis.groups)
        or not any(fnmatchcase(n, g) for n in names)
    )
    kinds = {}
    if asked.heads is not None:
        kinds = {k: asked.heads for k in ("head", "kv-group") if _has(analysis, k)}
        if not kinds:
            raise OnnxpruneError(
                "--heads asks for attention heads, and the model has none that can be removed",
                hint="see `onnxprune inspect`, which says what stays and why",
            )
    return Limits(
        max_ratio=asked.max_ratio,
        allow_inexact=asked.allow_inexact,
        kinds=kinds,
        ratios=asked.ratios,
        skip=skip,
    )


def _has(analysis: Analysis, kind: str) -> bool:
    return any(g.kind == kind for g in analysis.groups)


def _blocks(analysis: Analysis, asked: Options, feeds: Sequence[Feeds]) -> tuple[str, ...]:
    """The ``--blocks N`` residual branches whose bypass changes least."""
    if not asked.blocks:
        return ()
    allowed = [b for b in analysis.blocks if not any(fnmatchcase(b.name, g) for g in asked.skip)]
    if asked.blocks > len(allowed):
        raise OnnxpruneError(
            f"--blocks {asked.blocks} asks for more than the {len(allowed)} that can be bypassed",
            hint="see the blocks that `onnxprune inspect` lists",
        )
    importance = block_importance(analysis, allowed, feeds, asked.provider)
    order = sorted(allowed, key=lambda b: importance[b.name])
    return _disjoint(order, asked.blocks)


def _disjoint(order: list[Block], wanted: int) -> tuple[str, ...]:
    """The first blocks in order that do not lie inside one another."""
    taken: list[Block] = []
    for block in order:
        inside = any(set(block.nodes) & set(t.nodes) for t in taken)
        if not inside and len(taken) < wanted:
            taken.append(block)
    return tuple(b.name for b in taken)


def _budget_text(asked: Options) -> str:
    if asked.target is not None:
        return str(asked.target)
    parts = {"ratio": asked.ratio, "heads": asked.heads, "blocks": asked.blocks or None}
    return ", ".join(f"{k}={v:g}" for k, v in parts.items() if v is not None)
