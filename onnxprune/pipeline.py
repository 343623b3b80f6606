"""The main job, start to end: load, analyse, score, allocate, cut, prove, compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune import criteria
from onnxprune import model as models
from onnxprune.allocate import Limits, allocate, axes_of, grains, lattice
from onnxprune.analysis import Analysis, analyse
from onnxprune.consumers import use_of
from onnxprune.statistics import block_importance, input_statistics
from onnxprune.cost import Cost, CostModel
from onnxprune.errors import OnnxpruneError
from onnxprune.inputs import Inputs, open_inputs
from onnxprune.judge import Outcome, judge
from onnxprune.masked import masked
from onnxprune.options import Options, from_flags
from onnxprune.plan import Origin, Plan, check, versions
from onnxprune.surgery import cut
from onnxprune.units import Block
from onnxprune.verify import Check, Verdict, prove

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
        outcome: how the outputs compare with the dense model's.
        notes: whole sentences: what was declined and why, where inputs came from.
        options: what was asked.
    """

    model: models.Model
    plan: Plan
    verdict: Verdict
    analysis: Analysis
    dense: Cost
    left: Cost
    outcome: Outcome
    notes: tuple[str, ...]
    options: Options

    def save(self, path: str | Path) -> Path:
        """Write the cut model; never over the model it came from."""
        return models.save(self.model, path)

    def __str__(self) -> str:
        removed = sum(len(units) for units in self.plan.removed.values())
        return (
            f"{removed} units removed from {len(self.plan.removed)} groups, "
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

    Raises:
        OnnxpruneError: the model, the options or the data cannot be used, or the budget cannot be
            met.
    """
    asked = options or from_flags(flags)
    tell("reading the model")
    model = models.load(source)
    inputs = open_inputs(model, asked)
    tell("finding what can be removed")
    analysis = analyse(model, inputs=inputs.shapes)
    costs = CostModel(analysis)
    limits = _limits(analysis, asked)
    tell("scoring")
    scores, notes = _score(analysis, asked, inputs, limits, tell)
    tell("allocating")
    shapes = {t.name: [a.size or 0 for a in t.axes] for t in analysis.tensors}
    ops = {call.name: call.op for _, call in analysis.walk.calls}
    round_to = None if asked.round_to == "auto" else asked.round_to
    grain = grains(shapes, ops, provider=asked.provider, round_to=round_to)
    widths = lattice(
        analysis.groups,
        axes_of(analysis.groups, shapes, grain),
        limits,
        unscored=scores.declined,
        known=[b.name for b in analysis.blocks],
    )
    bypassed = _blocks(analysis, asked, inputs)
    allocation = allocate(
        widths,
        scores.values,
        ratio=asked.ratio,
        target=asked.target,
        cost=lambda removed: costs(removed, bypassed),
        policy=asked.allocation,
        comparable=scores.comparable,
    )
    plan = Plan(
        removed=allocation.removed,
        units={g.name: len(g) for g in analysis.groups},
        bypassed=bypassed,
        origin=Origin(
            structure=models.structure_hash(model),
            criterion=scores.criterion,
            allocation=asked.allocation or ("uniform" if asked.target is None else "global"),
            budget=_budget_text(asked),
            seed=asked.seed,
            versions=versions(),
            calibration=inputs.description,
        ),
    )
    notes += [f"{name}: {why}" for name, why in allocation.declined.items()]
    return _finish(analysis, plan, asked, inputs, costs, notes, tell)


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
    model = models.load(source)
    inputs = open_inputs(model, asked)
    analysis = analyse(model, inputs=inputs.shapes)
    check(plan, models.structure_hash(model), analysis.groups, analysis.blocks)
    return _finish(analysis, plan, asked, inputs, CostModel(analysis), [], tell)


def _finish(
    analysis: Analysis,
    plan: Plan,
    asked: Options,
    inputs: Inputs,
    costs: CostModel,
    notes: Iterable[str],
    tell: Tell,
) -> Pruned:
    tell("cutting")
    small = cut(analysis, plan.removed, plan.bypassed)
    tell("proving that the cut equals the masked original")
    reference = masked(analysis, plan.removed, plan.bypassed)
    exact = {g.name for g in analysis.groups if g.exact}
    checks = []
    if set(plan.removed) <= exact:
        checks.append(prove(small, reference, inputs.proof(analysis), asked.provider))
        said = list(notes)
    else:
        said = [*notes, "inexact groups were cut, so the result is not the masked original"]
    del reference
    tell("comparing with the original")
    outcome = judge(analysis.model, small, inputs, analysis, asked)
    if asked.max_drop is not None:
        checks.append(Check("drop", outcome.drop <= asked.max_drop, outcome.drop, asked.max_drop))
    if not outcome.finite:
        checks.append(Check("finite outputs", False, float("inf"), 0.0))
    left = costs(plan.removed, plan.bypassed)
    if asked.target is not None:
        limit = asked.target.limit(int(getattr(costs(), asked.target.kind)))
        value = float(getattr(left, asked.target.kind))
        checks.append(Check(asked.target.kind, value <= limit, value, float(limit)))
    if inputs.synthetic:
        said.append(f"inputs were synthetic ({inputs.description}): accuracy was not looked at")
    return Pruned(
        small, plan, Verdict(tuple(checks)), analysis, costs(), left, outcome, tuple(said), asked
    )


def _limits(analysis: Analysis, asked: Options) -> Limits:
    names = [b.name for b in analysis.blocks]
    skip = tuple(
        g for g in asked.skip
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


def _score(
    analysis: Analysis, asked: Options, inputs: Inputs, limits: Limits, tell: Tell
) -> tuple[criteria.Scores, list[str]]:
    """Scores by the asked criterion, or the best one that the given data allows."""
    name = asked.criterion or ("l2" if inputs.synthetic else "wanda")
    groups = [g for g in analysis.groups if g.exact or limits.allow_inexact]
    statistics = None
    if criteria.get(name).calibrated:
        if inputs.synthetic:
            raise OnnxpruneError(
                f"the criterion '{name}' needs calibration data",
                hint="give inputs with --calib, or choose one that needs none, such as l2",
            )
        tell("reading the calibration data")
        statistics = input_statistics(
            analysis,
            groups,
            inputs.feeds(analysis),
            covariance="covariance" in criteria.get(name).needs or name == "output-error",
            provider=asked.provider,
        )
    scores = criteria.score(
        groups,
        name,
        lambda tensor: stored(analysis, tensor),
        statistics=statistics,
        use=use_of(analysis),
        seed=asked.seed,
    )
    return scores, []


def stored(analysis: Analysis, name: str) -> np.ndarray[Any, Any]:
    """The content of a stored tensor, or of a ConstantOfShape that stands for one."""
    value = analysis.constants.get(name)
    tensor = models.constant(value) if value is not None else None
    if tensor is not None:
        return tensor.numpy()
    fact = analysis.facts[name]
    return np.ones(fact.sizes or (), fact.dtype.numpy() if fact.dtype else np.float32)


def _blocks(analysis: Analysis, asked: Options, inputs: Inputs) -> tuple[str, ...]:
    """The ``--blocks N`` residual branches whose bypass changes least."""
    if not asked.blocks:
        return ()
    allowed = [
        b for b in analysis.blocks if not any(fnmatchcase(b.name, g) for g in asked.skip)
    ]
    if asked.blocks > len(allowed):
        raise OnnxpruneError(
            f"--blocks {asked.blocks} asks for more than the {len(allowed)} that can be bypassed",
            hint="see the blocks that `onnxprune inspect` lists",
        )
    importance = block_importance(analysis, allowed, inputs.feeds(analysis), asked.provider)
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
