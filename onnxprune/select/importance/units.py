"""What units are worth: by group elimination where there are data, else by a criterion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.data.activations.groups import input_statistics
from onnxprune.data.dataset import Feeds
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.layers.sources import use_of
from onnxprune.graph.units import Block, Group
from onnxprune.select import criteria
from onnxprune.select.allocate import Limits
from onnxprune.select.allocate.limits import select as select_groups
from onnxprune.select.criteria.slices import F64
from onnxprune.select.importance.bypass import innermost
from onnxprune.select.importance.curve_cache import damage_curves, known_curves
from onnxprune.select.importance.error_curves import Curves
from onnxprune.select.importance.output_damage import JOINT, repairable
from onnxprune.select.importance.progress import Progress
from onnxprune.solve.group_obs import Elimination

Tell = Callable[[str], None]

ELIMINATION = "elimination"
"""The name of the default with data: units are priced by what is lost after refitting the rest."""


@dataclass(frozen=True, eq=False)
class Worth:
    """What the units of every group are worth: found once, for every budget.

    Attributes:
        criterion: its name.
        scores: by group, one per unit, higher = keep.
        curves: the damage of losing units one by one, and of losing blocks, where data could tell.
        declined: by group, why it has no scores.
    """

    criterion: str
    scores: Mapping[str, F64]
    curves: Curves
    declined: Mapping[str, str]

    @property
    def claims(self) -> set[str]:
        """What the criterion promises of its scores, see `criteria.registry`."""
        if self.criterion == ELIMINATION:
            return {"comparable", "damage"}
        return set(criteria.get(self.criterion).claims)


def worth_of(
    analysis: Analysis,
    asked: Options,
    limits: Limits,
    fit: Sequence[Feeds],
    bypassed: Sequence[str],
    tell: Tell,
    curves: Curves | None = None,
    so_far: Progress | None = None,
) -> Worth:
    """Find out what units are worth.

    Args:
        analysis: of the dense model.
        asked: the options.
        limits: guard rails made from them: groups that stay whole are not looked at.
        fit: the calibration feeds that may be fitted to; empty without data.
        bypassed: blocks that go anyway.
        tell: hears the progress.
        curves: damage curves, where they are known already; else they are measured if need be.
        so_far: what earlier steps have left, to measure damage on.

    Raises:
        OnnxpruneError: the criterion needs data.
    """
    so_far = so_far or Progress(analysis)
    name = ELIMINATION if curves is not None else _criterion(asked, fit)
    allowed = select_groups(analysis.groups, limits, known=[b.name for b in analysis.blocks])
    groups = [g for g in analysis.groups if g.name not in allowed.declined]
    if asked.ratio is None and asked.target is None:
        groups = [g for g in groups if g.name in allowed.fixed]
    declined: dict[str, str] = {}
    if name == ELIMINATION:
        weighed = asked.target is not None or bool(allowed.fixed) or asked.allocation == "global"
        curves = curves or _measured(
            so_far.analysis, so_far.left(groups), asked, fit, bypassed, tell, weighed=weighed
        )
        curves = so_far.in_dense_units(curves, analysis.groups)
        if asked.recover == "auto" and asked.sensitivity is None:
            curves = curves._replace(swept=_repaired(analysis, groups, curves.swept))
        values = {g: _ranks(e) for g, e in curves.swept.items()}
        spare = [g for g in groups if g.name in curves.unpriced]
        values |= _scores(analysis, spare, "l2", asked, fit, {})
        if asked.target is not None:
            declined |= curves.unpriced
    else:
        curves = Curves({}, {})
        values = _scores(analysis, groups, name, asked, fit, declined)
    return Worth(name, so_far.gone_first(values, analysis.groups), curves, declined)


def priced(analysis: Analysis, asked: Options, fit: Sequence[Feeds], tell: Tell) -> Curves | None:
    """The damage curves that a selection is made by; None where a criterion decides instead."""
    if _criterion(asked, fit) != ELIMINATION:
        return None
    groups = _groups(analysis, allow_inexact=asked.allow_inexact)
    return _measured(analysis, groups, asked, fit, (), tell, weighed=True)


def removal_orders(
    analysis: Analysis, asked: Options, fit: Sequence[Feeds], tell: Tell
) -> tuple[dict[str, npt.NDArray[np.int64]], str]:
    """By group, its units in the order in which they would leave, and what decides that.

    Args:
        analysis: of the dense model.
        asked: the criterion, and whether inexact groups count.
        fit: the calibration feeds that may be fitted to; empty without data.
        tell: hears the progress.

    Raises:
        OnnxpruneError: the criterion needs data.
    """
    name, orders = _criterion(asked, fit), {}
    groups = _groups(analysis, allow_inexact=asked.allow_inexact)
    by = name
    if name == ELIMINATION:
        found = known_curves(
            analysis, groups, fit, provider=asked.backend, seed=asked.seed, cache=asked.cache,
            tell=tell,
        )  # fmt: skip
        orders = {g: e.order for g, e in found.swept.items()}
        groups, by = [g for g in groups if g.name not in orders], "l2"
    scores = _scores(analysis, groups, by, asked, fit, {})
    return orders | {g: np.argsort(s, kind="stable") for g, s in scores.items()}, name


def _criterion(asked: Options, fit: Sequence[Feeds]) -> str:
    if asked.criterion == ELIMINATION and not fit:
        raise OnnxpruneError(
            "elimination prices units by what layers read", hint="give inputs with --calib"
        )
    return asked.criterion or (ELIMINATION if fit else "l2")


def _groups(analysis: Analysis, *, allow_inexact: bool) -> list[Group]:
    """The groups that are priced."""
    return [g for g in analysis.groups if g.exact or allow_inexact]


def _measured(
    analysis: Analysis,
    groups: Sequence[Group],
    asked: Options,
    fit: Sequence[Feeds],
    bypassed: Sequence[str],
    tell: Tell,
    *,
    weighed: bool,
) -> Curves:
    """Damage of a model; ``weighed`` says whether groups are to be weighed against each other."""
    uniform = asked.allocation == "uniform"
    return damage_curves(
        analysis,
        groups,
        fit,
        blocks=[] if uniform else _bypassable(analysis, asked, bypassed),
        outputs=weighed and not uniform,
        provider=asked.backend,
        seed=asked.seed,
        cache=asked.cache,
        tell=tell,
    )


def _repaired(
    analysis: Analysis, groups: Sequence[Group], swept: Mapping[str, Elimination]
) -> dict[str, Elimination]:
    """The damage that the recovery to come is expected to leave."""
    joint = repairable(analysis, groups)
    return {
        name: replace(one, damage=one.damage * JOINT) if name in joint else one
        for name, one in swept.items()
    }


def _bypassable(analysis: Analysis, asked: Options, bypassed: Sequence[str]) -> list[Block]:
    """The blocks that a budget may choose to bypass, of what is left of a model."""
    if (asked.target is None and not asked.searches) or asked.max_blocks == 0:
        return []
    going = {n for b in analysis.blocks if b.name in bypassed for n in b.nodes}
    return [
        block
        for block in innermost(analysis.blocks)
        if not going & {*block.nodes, block.output}
        and not any(fnmatchcase(block.name, glob) for glob in asked.skip)
    ]


def _ranks(swept: Elimination) -> F64:
    """Scores ``[units]``: what the damage rises by when the unit goes, in the order of leaving."""
    rises = rises_of(swept)
    out = np.empty(len(rises))
    # What ties leaves in the order of the elimination too.
    out[swept.order] = rises + (rises.max() or 1.0) * 1e-12 * np.arange(len(rises))
    return out


def rises_of(swept: Elimination) -> F64:
    """The same in the order in which units leave, never falling."""
    return np.maximum.accumulate(np.maximum(np.diff(swept.damage[::-1]), 0))


def _scores(
    analysis: Analysis,
    groups: Sequence[Group],
    name: str,
    asked: Options,
    fit: Sequence[Feeds],
    declined: dict[str, str],
) -> dict[str, F64]:
    chosen = criteria.get(name)
    statistics = None
    if chosen.calibrated and fit:
        wide = "covariance" in chosen.needs or name == "output-error"
        statistics = input_statistics(
            analysis, groups, fit, covariance=wide, provider=asked.backend
        )
    found = criteria.score(
        groups,
        name,
        lambda tensor: content(analysis, tensor),
        statistics=statistics,
        use=use_of(analysis),
        seed=asked.seed,
    )
    declined.update(found.declined)
    return dict(found.values)


def content(analysis: Analysis, name: str) -> np.ndarray:
    """What a stored tensor holds, or a ConstantOfShape that stands for one."""
    value = analysis.constants.get(name)
    tensor = models.constant(value) if value is not None else None
    if tensor is not None:
        return tensor.numpy()
    fact = analysis.facts[name]
    return np.ones(fact.sizes or (), fact.dtype.numpy() if fact.dtype else np.float32)
