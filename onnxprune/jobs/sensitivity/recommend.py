"""Ratios for a drop: every group loses as much as costs it the same, and all are measured together.

One bound on the error of a single group gives every group a width, read off its curve. Bisection
finds the largest bound under which the model that loses all of it at once is within the drop; what
the drop then still allows is spent on single groups, those first that save most for their error.
Source of the idea: sensitivity scans as in Han et al. (2015) and Li et al. (arXiv 1608.08710); that
the ratios are measured together, and not only added up, is what makes the answer one.
"""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxprune.config import Options
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.evaluation import Evaluation
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.cost import CostModel
from onnxprune.jobs.recipe import as_flags, as_mapping
from onnxprune.quantities import figure
from onnxprune.select.importance.error_curves import Curves
from onnxprune.select.importance.measured import interpolate, measured_points
from onnxprune.select.sensitivity import Recommendation, Sensitivity, Target
from onnxprune.solve.group_obs import Elimination

F64 = npt.NDArray[np.float64]
Removed = Mapping[str, tuple[int, ...]]
Counts = Mapping[str, int]
"""Units to remove, by group; groups that stay whole are absent."""

_MOST = 12
"""Models that the bisection measures at most."""
_MORE = 16
"""Models that are measured to spend the rest of the drop."""


@dataclass(frozen=True, eq=False)
class _Curve:
    """The error of a group at the widths it may have.

    Attributes:
        counts: units removed, ascending, none at first.
        errors: of each, never falling.
        units: of the group.
        saving: MACs of one unit, or parameters where there are none.
    """

    counts: npt.NDArray[np.int64]
    errors: F64
    units: int
    saving: int


def recommend(
    analysis: Analysis,
    sweep: Sensitivity,
    drop: float,
    widths: Mapping[str, npt.NDArray[np.int64]],
    plan: Callable[[Mapping[str, float]], Removed],
    measure: Callable[[Removed], Evaluation],
) -> list[Recommendation]:
    """Ratios that cost at most ``drop`` together, the furthest first; empty where there are none.

    Args:
        analysis: of the dense model.
        sweep: the sweep; only groups count, for only they have ratios.
        drop: of the metric.
        widths: the widths that each group may have, ascending, the dense one last.
        plan: from ratios by group to the units that really go, shared axes included.
        measure: compares the model without some units with the dense one, nothing refitted.
    """
    curves = _curves(sweep, widths)
    costs = CostModel(analysis)
    dense = costs()
    results: dict[tuple[tuple[str, int], ...], float] = {}
    accepted: list[Recommendation] = []

    def allowed(counts: Counts) -> bool:
        """Whether units can leave together within the drop; what can is kept."""
        key = tuple(sorted(counts.items()))
        if key in results:
            return results[key] <= drop
        try:
            removed = plan(as_ratios(counts, curves))
            evaluation = measure(removed)
        except OnnxpruneError:  # together they leave nothing of some axis
            results[key] = np.inf
            return False
        results[key] = np.inf if evaluation.broken else evaluation.drop
        if removed and results[key] <= drop:
            cost = costs(removed)
            accepted.append(
                Recommendation(
                    drop,
                    as_ratios({g: len(units) for g, units in removed.items() if units}, curves),
                    float(results[key]),
                    cost.macs / max(dense.macs, 1),
                    cost.params / max(dense.params, 1),
                    error=evaluation.drop_error,
                    samples=evaluation.samples,
                )
            )
        return results[key] <= drop

    counts = _bisect(curves, allowed, results)
    step = 1 / max(sweep.samples, 1)
    refused = {group: curve.units for group, curve in curves.items()}
    for group, count in _steps(curves, counts):
        spent = results.get(tuple(sorted(counts.items())), 0.0)
        if len(results) >= _MOST + _MORE or drop - spent < step / 2:
            break
        if not counts.get(group, 0) < count < refused[group]:
            continue  # it has lost that already, or more than what was too much
        if allowed(grown := {**counts, group: count}):
            counts = grown
        else:
            refused[group] = count
    return sorted(accepted, key=lambda each: (each.macs, each.params))


def _curves(sweep: Sensitivity, widths: Mapping[str, npt.NDArray[np.int64]]) -> dict[str, _Curve]:
    """The error curve of each group that was swept, at the widths it may have."""
    curves = {}
    timed = any(target.macs for target in sweep.targets if target.order)
    for target in sweep.targets:
        if not target.order or target.name not in widths:
            continue
        measurements = measured_points(sweep.of(target.name), target.units)
        counts = (target.units - widths[target.name])[::-1]
        counts = counts[counts <= measurements[0][-1]].astype(np.int64)
        errors = interpolate(counts, *measurements)
        saving = target.macs if timed else target.params
        curves[target.name] = _Curve(counts, errors, target.units, saving)
    return curves


def as_ratios(counts: Counts, curves: Mapping[str, _Curve]) -> dict[str, float]:
    """Units removed as shares of their group."""
    return {g: round(count / curves[g].units, 6) for g, count in counts.items() if count}


def _bisect(
    curves: Mapping[str, _Curve], allowed: Callable[[Counts], bool], results: Collection[object]
) -> dict[str, int]:
    """What every group loses under the largest bound on its own error that is allowed."""

    def under(bound: float) -> dict[str, int]:
        most = {g: c.counts[int((c.errors <= bound).sum()) - 1] for g, c in curves.items()}
        return {g: int(count) for g, count in most.items() if count}

    bounds = np.unique(np.concatenate([c.errors for c in curves.values()] or [np.zeros(1)]))
    best: dict[str, int] = {}
    low, high = -1, len(bounds)  # no bound is enough, and one beyond all is too much
    while high - low > 1 and len(results) < _MOST:
        middle = (low + high) // 2
        counts = under(float(bounds[middle]))
        if not counts or allowed(counts):
            low, best = middle, counts
        else:
            high = middle
    return best


def _steps(curves: Mapping[str, _Curve], counts: Counts) -> list[tuple[str, int]]:
    """Narrower widths of single groups, those first that add least error for what they save."""
    steps = []
    for group, curve in curves.items():
        at = int(np.searchsorted(curve.counts, counts.get(group, 0)))
        for more in range(at + 1, len(curve.counts)):
            error = float(curve.errors[more] - curve.errors[at])
            saved = float(curve.counts[more] - curve.counts[at]) * max(curve.saving, 1)
            steps.append((error / saved, group, int(curve.counts[more])))
    return [(group, count) for _, group, count in sorted(steps)]


def only_orders(targets: Sequence[Target], analysis: Analysis) -> Curves:
    """Curves that say in which order units leave, and nothing of what that costs.

    They rise faster and faster, so that no two units of a group tie.
    """
    curves = {
        t.name: Elimination(np.array(t.order), np.arange(t.units, -1, -1, dtype=np.float64) ** 2)
        for t in targets
        if t.order
    }
    missing = {g.name: "it was not swept" for g in analysis.groups if g.name not in curves}
    return Curves(curves, missing)


def exactly(ratios: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """Ratios by name as ratios by glob."""
    return tuple((glob.escape(name), ratio) for name, ratio in ratios.items())


def as_options(config: Options, advice: Recommendation) -> Options:
    """The options that prune by the recommended ratios: what a recipe holds.

    Raises:
        OnnxpruneError: nothing is recommended.
    """
    if not advice.ratios:
        raise OnnxpruneError(
            f"no ratio was found that costs at most {figure(advice.drop)}, so there is no recipe",
            hint="allow more with --drop, sweep smaller --ratios, or try prune --max-drop, which "
            "refits the remaining weights",
            exit_code=1,
        )
    rounding = config.round_to if advice.round_to is None else advice.round_to
    return replace(config, ratios=exactly(advice.ratios), round_to=rounding)


def command(model: object, config: Options, advice: Recommendation) -> str:
    """The command that prunes by the recommended ratios; empty for a model or data in memory.

    Args:
        model: as the user named it.
        config: the options of the sweep.
        advice: the ratios.
    """
    given = (config.calib, config.labels, config.preprocess, config.metric)
    named = [model, *(each for each in given if each is not None)]
    if not advice.ratios or not all(isinstance(each, str | os.PathLike) for each in named):
        return ""
    options = as_mapping(as_options(config, advice))
    words = [word for flag in as_flags(options) for word in flag]
    return shlex.join(["onnxprune", "prune", str(model), *words, "-o", "pruned.onnx"])
