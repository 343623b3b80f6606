"""Unit importance: group OBS with calibration data, a criterion without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from onnxprune.config import Options
from onnxprune.data.activations.groups import input_statistics
from onnxprune.data.dataset import Feeds
from onnxprune.data.memory import budget_of
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.layers.sources import content, use_of
from onnxprune.graph.units import Block, Group
from onnxprune.select import criteria
from onnxprune.select.allocate import Limits
from onnxprune.select.allocate.limits import select as select_groups
from onnxprune.select.criteria.slices import F64
from onnxprune.select.importance.bypass import innermost
from onnxprune.select.importance.curve_cache import cached_curves, known_curves
from onnxprune.select.importance.error_curves import Curves, Measurement
from onnxprune.select.importance.output_errors import JOINT, repairable
from onnxprune.select.importance.remaining import Remaining
from onnxprune.solve.group_obs import Elimination

Progress = Callable[[str], None]

ELIMINATION = "elimination"
"""The default with data: units are scored by the error that refitting the rest leaves."""


@dataclass(frozen=True, eq=False)
class Importance:
    """How important the units of every group are: found once, for every budget.

    Attributes:
        criterion: name of the criterion.
        scores: float64 ``[units]`` by group, higher = keep.
        curves: error curves of groups and blocks, where data could tell.
        declined: why a group has no scores, by group.
    """

    criterion: str
    scores: Mapping[str, F64]
    curves: Curves
    declined: Mapping[str, str]

    @property
    def claims(self) -> set[str]:
        """What the criterion promises of its scores, see `criteria.registry`."""
        if self.criterion == ELIMINATION:
            return {"comparable", "pruning error"}
        return set(criteria.get(self.criterion).claims)


@dataclass(frozen=True, eq=False)
class Problem:
    """What units are chosen from, and by what.

    Attributes:
        analysis: analysis of the dense model.
        config: the options.
        limits: guard rails made from them: groups that stay whole are not looked at.
        fit: the calibration feeds that may be fitted to; empty without data.
        bypassed: blocks that go anyway; their layers cost nothing.
        progress: told what is being done.
        curves: error curves, where they are known already; else they are measured if need be.
        remaining: what earlier steps have left, to measure errors on; what they took is chosen
            again. None at the start.
    """

    analysis: Analysis
    config: Options
    limits: Limits = field(default_factory=Limits)
    fit: Sequence[Feeds] = ()
    bypassed: Sequence[str] = ()
    progress: Progress = lambda _: None
    curves: Curves | None = None
    remaining: Remaining | None = None

    @property
    def criterion(self) -> str:
        """The name of what units are scored by."""
        if self.config.criterion == ELIMINATION and not self.fit:
            raise OnnxpruneError(
                "the criterion 'elimination' needs calibration data",
                hint="give inputs with --calib",
            )
        return self.config.criterion or (ELIMINATION if self.fit else "l2")

    @property
    def state(self) -> Remaining:
        """What remains to choose from; at the start the dense model."""
        return self.remaining or Remaining(self.analysis)

    def measurement(self, groups: Sequence[Group], *, outputs: bool = True) -> Measurement:
        """What error curves of some groups are measured on."""
        provider, seed = self.config.provider, self.config.seed
        return Measurement(
            self.state.analysis,
            groups,
            self.fit,
            outputs=outputs,
            provider=provider,
            seed=seed,
            memory=budget_of(self.config),
        )


def score_groups(problem: Problem) -> Importance:
    """Find out how important the units of every group are.

    Raises:
        OnnxpruneError: the criterion needs data.
    """
    analysis, config, limits = problem.analysis, problem.config, problem.limits
    state, curves = problem.state, problem.curves
    name = ELIMINATION if curves is not None else problem.criterion
    allowed = select_groups(analysis.groups, limits, known=[b.name for b in analysis.blocks])
    groups = [g for g in analysis.groups if g.name not in allowed.declined]
    if config.ratio is None and config.target is None:
        groups = [g for g in groups if g.name in allowed.fixed]
    declined: dict[str, str] = {}
    if name == ELIMINATION:
        weighed = config.target is not None or bool(allowed.fixed) or config.allocation == "global"
        curves = curves or _measured(problem, state.left(groups), weighed=weighed)
        curves = state.in_dense_units(curves, analysis.groups)
        if config.recover == "auto" and config.sensitivity is None:
            curves = curves._replace(groups=_repaired(analysis, groups, curves.groups))
        values = {g: _ranks(e) for g, e in curves.groups.items()}
        spare = [g for g in groups if g.name in curves.declined]
        values |= _scores(problem, spare, "l2", {})
        if config.target is not None:
            declined |= curves.declined
    else:
        curves = Curves({}, {})
        values = _scores(problem, groups, name, declined)
    return Importance(name, state.removed_first(values, analysis.groups), curves, declined)


def error_curves(problem: Problem) -> Curves | None:
    """The error curves that a selection is made by; None where a criterion decides instead."""
    if problem.criterion != ELIMINATION:
        return None
    return _measured(problem, _groups(problem), weighed=True)


def removal_orders(problem: Problem) -> tuple[dict[str, npt.NDArray[np.int64]], str]:
    """By group, its units in the order in which they would leave, and what decides that.

    Raises:
        OnnxpruneError: the criterion needs data.
    """
    name, orders = problem.criterion, {}
    groups, by = _groups(problem), name
    if name == ELIMINATION:
        work = problem.measurement(groups)
        curves = known_curves(work, problem.progress, cache=problem.config.cache)
        orders = {g: e.order for g, e in curves.groups.items()}
        groups, by = [g for g in groups if g.name not in orders], "l2"
    scores = _scores(problem, groups, by, {})
    return orders | {g: np.argsort(s, kind="stable") for g, s in scores.items()}, name


def _groups(problem: Problem) -> list[Group]:
    """The exact groups; inexact ones too if the options allow it."""
    return [g for g in problem.analysis.groups if g.exact or problem.config.allow_inexact]


def _measured(problem: Problem, groups: Sequence[Group], *, weighed: bool) -> Curves:
    """Error curves; ``weighed`` says whether groups are to be weighed against each other."""
    weighed = weighed and problem.config.allocation != "uniform"
    work = problem.measurement(groups, outputs=weighed)
    if problem.config.allocation != "uniform":
        work = replace(work, blocks=_bypassable(problem))
    return cached_curves(work, problem.progress, cache=problem.config.cache)


def _repaired(
    analysis: Analysis, groups: Sequence[Group], eliminations: Mapping[str, Elimination]
) -> dict[str, Elimination]:
    """The errors that the following recovery is expected to leave."""
    joint = repairable(analysis, groups)
    return {
        name: replace(one, error=one.error * JOINT) if name in joint else one
        for name, one in eliminations.items()
    }


def _bypassable(problem: Problem) -> list[Block]:
    """The blocks of the remaining model that a budget may choose to bypass."""
    analysis, config = problem.state.analysis, problem.config
    if (config.target is None and not config.searches) or config.max_blocks == 0:
        return []
    going = {n for b in analysis.blocks if b.name in problem.bypassed for n in b.nodes}
    return [
        block
        for block in innermost(analysis.blocks)
        if not going & {*block.nodes, block.output}
        and not any(fnmatchcase(block.name, glob) for glob in config.skip)
    ]


def _ranks(elimination: Elimination) -> F64:
    """Scores ``[units]``: the rise of the error when a unit is removed, in the order of removal."""
    rises = rises_of(elimination)
    out = np.empty(len(rises))
    # What ties leaves in the order of the elimination too.
    out[elimination.order] = rises + (rises.max() or 1.0) * 1e-12 * np.arange(len(rises))
    return out


def rises_of(elimination: Elimination) -> F64:
    """The same in the order in which units leave, never falling."""
    return np.maximum.accumulate(np.maximum(np.diff(elimination.error[::-1]), 0))


def _scores(
    problem: Problem, groups: Sequence[Group], name: str, declined: dict[str, str]
) -> dict[str, F64]:
    analysis, config, fit = problem.analysis, problem.config, problem.fit
    chosen = criteria.get(name)
    statistics = None
    if chosen.calibrated and fit:
        wide = "covariance" in chosen.needs or name == "output-error"
        statistics = input_statistics(
            analysis, groups, fit, covariance=wide, provider=config.provider
        )
    scores = criteria.score(
        groups,
        name,
        lambda tensor: content(analysis, tensor),
        statistics=statistics,
        use=use_of(analysis),
        seed=config.seed,
    )
    declined.update(scores.declined)
    return dict(scores.values)
