"""Ratios for a drop: every group loses as much as costs it the same, and all are measured together.

One bound on the error of a single group gives every group a ratio, read off its curve. Bisection
finds the largest bound under which the model that loses all of it at once is within the drop.
Source of the idea: sensitivity scans as in Han et al. (2015) and Li et al. (arXiv 1608.08710); that
the ratios are measured together, and not only added up, is what makes the answer one.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxprune.config import Options
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.cost import CostModel
from onnxprune.quantities import figure
from onnxprune.select.importance.error_curves import Curves
from onnxprune.select.importance.measured import interpolate, measured_points
from onnxprune.select.sensitivity import Recommendation, Sensitivity, Target
from onnxprune.solve.group_obs import Elimination

Removed = Mapping[str, tuple[int, ...]]

_MOST = 10
"""Models measured at most: the last steps of the bisection move single units."""


def recommend(
    analysis: Analysis,
    sweep: Sensitivity,
    drop: float,
    most: float,
    plan: Callable[[Mapping[str, float]], Removed],
    measure: Callable[[Removed], float],
) -> Recommendation:
    """Ratios that cost at most ``drop`` together.

    Args:
        analysis: of the dense model.
        sweep: the sweep; only groups count, for only they have ratios.
        drop: of the metric.
        most: the largest ratio of one group.
        plan: from ratios by group to the units that really go, rounding included.
        measure: the drop of the model without some units.
    """
    curves = {}
    for target in sweep.targets:
        if target.order:
            measurements = measured_points(sweep.of(target.name), target.units)
            counts = np.arange(int(min(measurements[0][-1], target.units * most)) + 1)
            curves[target.name] = interpolate(counts, *measurements), target.units
    costs = CostModel(analysis)
    dense = costs()
    best = Recommendation(drop, {})

    def under(bound: float) -> dict[str, float]:
        counts = {n: int((damage <= bound).sum()) - 1 for n, (damage, _) in curves.items()}
        return {n: round(k / curves[n][1], 4) for n, k in counts.items() if k > 0}

    steps = np.unique(np.concatenate([d for d, _ in curves.values()] or [np.zeros(1)]))
    drops: dict[tuple[tuple[str, float], ...], float] = {}
    low, high = -1, len(steps)  # no bound is enough, and one beyond all is too much
    while high - low > 1 and len(drops) < _MOST:
        middle = (low + high) // 2
        ratios = under(float(steps[middle]))
        at = tuple(ratios.items())
        if at not in drops:
            removed = plan(ratios) if ratios else {}
            try:
                drops[at] = measure(removed) if removed else 0.0
            except OnnxpruneError:  # together they leave nothing of some axis
                drops[at] = np.inf
            if drops[at] <= drop and removed:
                cost = costs(removed)
                macs, params = cost.macs / max(dense.macs, 1), cost.params / max(dense.params, 1)
                best = Recommendation(drop, ratios, float(drops[at]), macs, params)
        low, high = (middle, high) if drops[at] <= drop else (low, middle)
    return best


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
    return replace(config, ratios=exactly(advice.ratios))
